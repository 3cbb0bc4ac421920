package accept

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

const (
	received = "Received: from client.example ([192.0.2.7])\r\n\tby mx.example.net (Godwit) with ESMTP\r\n\tid ID\r\n\tfor <Ann@d.example>;\r\n\tSat, 21 Nov 2026 12:00:00 +0000\r\n"
	date     = "Date: Sat, 21 Nov 2026 12:00:00 +0000\r\n"
	msgID    = "Message-ID: <ID@mx.example.net>\r\n"
)

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

func TestHeaderProcessing(t *testing.T) {
	const own = "Date: x\r\nMessage-Id: <1@x>\r\n"
	for _, tt := range []struct{ name, in, want string }{
		{"complete", own + "Subject: s\r\n\r\nbody\r\n", received + own + "Subject: s\r\n\r\nbody\r\n"},
		{"adds date", "Message-ID: <1@x>\r\n\r\nb", received + date + "Message-ID: <1@x>\r\n\r\nb"},
		{"adds message id", "dAtE: x\r\n\r\nb", received + msgID + "dAtE: x\r\n\r\nb"},
		{"no header", "\r\nbody\r\n", received + date + msgID + "\r\nbody\r\n"},
		{"empty", "", received + date + msgID + "\r\n"},
		{"header only", "Subject: s\r\n", received + date + msgID + "Subject: s\r\n\r\n"},
		{"cut short", "Subject: s", received + date + msgID + "Subject: s\r\n\r\n"},
		{"bcc", "Bcc: a@x\r\nA: 1\r\nbcc : b@x,\r\n c@x\r\nResent-Bcc: d@x\r\nB: 2\r\n\r\nBcc: stays\r\n",
			received + date + msgID + "A: 1\r\nB: 2\r\n\r\nBcc: stays\r\n"},
		{"bcc at the end", "A: 1\r\nBcc: a@x\r\n\tb@x", received + date + msgID + "A: 1\r\n\r\n"},
		{"bcc alone", "Bcc: a@x\r\n\r\nb", received + date + msgID + "\r\nb"},
		{"ours, not trusted", "X-Godwit-Tenant: other\r\n folded\r\nX-Godwit-Nonsense: 1\r\nX-Other: 1\r\n\r\nb", received + date + msgID + "X-Other: 1\r\n\r\nb"},
		{"folded and blank", "A: 1\r\n \r\n\t2\r\n\r\nb", received + date + msgID + "A: 1\r\n \r\n\t2\r\n\r\nb"},
		{"binary body", "A: 1\r\n\r\n\x00\xff\n\r.\r\n", received + date + msgID + "A: 1\r\n\r\n\x00\xff\n\r.\r\n"},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			s := &spool{}
			inj := injection()
			acc, err := newDoor(t, s, nil).Message(context.Background(), inj, slow{strings.NewReader(tt.in), size})
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if got := uuid.ReplaceAllString(s.body(0), "ID"); got != tt.want {
				t.Errorf("%s, %d bytes a time:\ngot  %q\nwant %q", tt.name, size, got, tt.want)
			}
			if !strings.Contains(s.body(0), "id "+acc.Batch.String()) || acc.IDs[0] != acc.Batch {
				t.Errorf("%s: Received does not carry the id %v", tt.name, acc)
			}
			if b := s.batches[0].Body; b.Size != int64(len(b.Data)) || b.EightBit != strings.Contains(tt.in, "\xff") {
				t.Errorf("%s: body %d bytes, eight bit %v", tt.name, b.Size, b.EightBit)
			}
		}
	}
}

func TestReceivedSaysHow(t *testing.T) {
	s := &spool{}
	inj := injection()
	inj.Protocol, inj.TLS, inj.SMTPUTF8 = "esmtpsa", "TLS1.3 TLS_AES_128_GCM_SHA256", true
	inj.PeerName = "evil\r\nX: {{1}}"
	inj.Recipients = append(inj.Recipients, Recipient{Address: "bob@d.example"})
	if _, err := newDoor(t, s, nil).Message(context.Background(), inj, strings.NewReader("\r\n")); err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(s.body(0), "\r\nDate:")
	want := "Received: from evil??X: ??1?? ([192.0.2.7])\r\n\tby mx.example.net (Godwit) with UTF8SMTPSA (TLS1.3 TLS_AES_128_GCM_SHA256)\r\n\tid ID;\r\n\tSat, 21 Nov 2026 12:00:00 +0000"
	if got := uuid.ReplaceAllString(head, "ID"); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if m := s.batches[0].Messages; len(m) != 2 || m[1].ID != m[0].ID.Add(1) || m[1].Batch != m[0].ID || m[1].Body.ID.IsZero() || m[1].Body.ID != s.batches[0].Body.ID {
		t.Errorf("ids are not a run: %v", m)
	}
}

func TestMessageFields(t *testing.T) {
	s := &spool{}
	inj := injection()
	inj.AuthID = "app1"
	inj.Recipients[0].DSN = mail.DSN{Notify: mail.NotifyNever, Ret: "HDRS"}
	if _, err := newDoor(t, s, nil).Message(context.Background(), inj, strings.NewReader("\r\n")); err != nil {
		t.Fatal(err)
	}
	m := s.batches[0].Messages[0]
	if m.Tenant != "acme" || m.ReversePath != "b@s.example" || m.Recipient != "Ann@d.example" || m.Priority != mail.Normal ||
		!m.Accepted.Equal(noon) || !m.Expires.Equal(noon.Add(72*time.Hour)) || m.DSN.Notify != mail.NotifyNever {
		t.Errorf("message %+v", m)
	}
	if o := s.batches[0].Origin; o.Protocol != "esmtp" || o.AuthID != "app1" || o.Peer != "192.0.2.7" {
		t.Errorf("origin %+v", o)
	}
}

func TestDirectives(t *testing.T) {
	s := &spool{}
	inj := injection()
	inj.Trusted, inj.AnyTenant = true, true
	in := "X-Godwit-Tenant: other\r\nx-godwit-stream: spring sale\r\nX-Godwit-Pool: p1\r\nX-GODWIT-Priority: Urgent\r\n" +
		"X-Godwit-Send-At: 2026-11-25T12:00:00+01:00\r\nX-Godwit-Deadline: 7d\r\nX-Godwit-Tag: a=1\r\nX-Godwit-Tag: b = 2=3\r\n" +
		"X-Godwit-Template: true\r\nX-Godwit-Substitutions: {\"a\":\r\n  \"b\"}\r\n\r\nhello {{ a }}\r\n"
	if _, err := newDoor(t, s, nil).Message(context.Background(), inj, strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	m, b := s.batches[0].Messages[0], s.batches[0].Body
	sendAt := time.Date(2026, 11, 25, 11, 0, 0, 0, time.UTC)
	if m.Tenant != "other" || m.Stream != "spring sale" || m.Pool != "p1" || m.Priority != mail.Urgent ||
		!m.NotBefore.Equal(sendAt) || !m.Deadline.Equal(noon.AddDate(0, 0, 7)) || !m.Expires.Equal(sendAt.Add(72*time.Hour)) ||
		len(m.Tags) != 2 || m.Tags[1] != (mail.Tag{Name: "b", Value: "2=3"}) || string(m.Substitutions) != `{"a":  "b"}` {
		t.Errorf("message %+v", m)
	}
	if b.Kind != mail.BodyRawTemplate || m.Body.Kind != mail.BodyRawTemplate || strings.Contains(strings.ToLower(string(b.Data)), "x-godwit") || strings.Contains(string(b.Data), "for <") {
		t.Errorf("body %q", b.Data)
	}
}

func TestRefusals(t *testing.T) {
	trusted := func(i *Injection) { i.Trusted = true }
	for _, tt := range []struct {
		name, in, want string // want: code, enhanced code and a part of the text
		change         func(*Injection)
	}{
		{"line without colon", "A: 1\r\nnonsense\r\n\r\n", "550 5.6.0 Malformed message: header line without a field name, line 2", nil},
		{"text without header", "Hello there\r\n", "550 5.6.0 Malformed message: header line without a field name, line 1", nil},
		{"mbox line", "From ann Sat Nov 21 12:00:00 2026\r\n\r\n", "550 5.6.0 Malformed message: bad field name, line 1", nil},
		{"no name", ": x\r\n\r\n", "550 5.6.0 Malformed message: header line without a field name, line 1", nil},
		{"NUL", "A: 1\r\nB: \x00\r\n\r\n", "550 5.6.0 Malformed message: NUL in header, line 2", nil},
		{"bare LF", "A: 1\nB: 2\r\n\r\n", "550 5.6.0 Malformed message: bare LF in header, line 1", nil},
		{"bare CR", "A: 1\rB: 2\r\n\r\n", "550 5.6.0 Malformed message: bare CR in header, line 1", nil},
		{"continuation first", " x\r\n\r\n", "550 5.6.0 Malformed message: header begins with a continuation line, line 1", nil},
		{"huge header", strings.Repeat("A: "+strings.Repeat("x", 500)+"\r\n", 21000), "552 5.3.4 Message header too large", nil},
		{"huge line", "A: " + strings.Repeat("x", 10<<20), "552 5.3.4 Message header too large", nil},
		{"header over the limit in one read", "A: " + strings.Repeat("x", 257<<10) + "\r\n\r\n", "552 5.3.4 Message header too large", nil},
		{"loop", strings.Repeat("Received: x\r\n", 51) + "\r\n", "554 5.4.6 Mail loop", nil},
		{"too large", "A: 1\r\n\r\n" + strings.Repeat("x", 50<<20), "552 5.3.4 Message too large, at most 50MiB", nil},
		{"declared too large", "", "552 5.3.4 Message too large", func(i *Injection) { i.SizeHint = 50<<20 + 1 }},
		{"no recipients", "\r\n", "554 5.5.1 No valid recipients", func(i *Injection) { i.Recipients = nil }},
		{"bad recipient", "\r\n", "501 5.1.3 Bad address: no domain", func(i *Injection) { i.Recipients[0].Address = "ann" }},
		{"bad reverse path", "\r\n", "501 5.1.7 Bad address: empty label", func(i *Injection) { i.ReversePath = "a@b..c" }},
		{"utf8 address", "\r\n", "553 5.6.7 ", func(i *Injection) { i.Recipients[0].Address = "änn@x.example" }},
		{"tenant of another", "X-Godwit-Tenant: other\r\n\r\n", "550 5.6.0 Header field X-Godwit-Tenant may not be set", trusted},
		{"priority", "X-Godwit-Priority: high\r\n\r\n", "550 5.6.0 Header field X-Godwit-Priority must be bulk", trusted},
		{"deadline", "X-Godwit-Deadline: tomorrow\r\n\r\n", "550 5.6.0 Header field X-Godwit-Deadline must be an RFC 3339", trusted},
		{"deadline over", "X-Godwit-Deadline: 2026-11-20T12:00:00Z\r\n\r\n", "550 5.6.0 Header field X-Godwit-Deadline is over", trusted},
		{"deadline before send-at", "X-Godwit-Deadline: 1h\r\nX-Godwit-Send-At: 2h\r\n\r\n", "550 5.6.0 Header field X-Godwit-Deadline is not after", trusted},
		{"too far ahead", "X-Godwit-Send-At: 2036-11-20T12:00:00Z\r\n\r\n", "550 5.6.0 Header field X-Godwit-Send-At is too far", trusted},
		{"tag", "X-Godwit-Tag: novalue\r\n\r\n", "550 5.6.0 Header field X-Godwit-Tag must be name=value", trusted},
		{"tags", strings.Repeat("X-Godwit-Tag: a=b\r\n", 33) + "\r\n", "550 5.6.0 Header field X-Godwit-Tag is given too often", trusted},
		{"stream", "X-Godwit-Stream: a\x01b\r\n\r\n", "550 5.6.0 Header field X-Godwit-Stream must be 1 to 128", trusted},
		{"pool", "X-Godwit-Pool: \xff\r\n\r\n", "550 5.6.0 Header field X-Godwit-Pool must be 1 to 128", trusted},
		{"template", "X-Godwit-Template: yes\r\n\r\n", "550 5.6.0 Header field X-Godwit-Template must be true or false", trusted},
		{"substitutions", "X-Godwit-Template: true\r\nX-Godwit-Substitutions: [1]\r\n\r\n", "550 5.6.0 Header field X-Godwit-Substitutions must be a JSON object", trusted},
		{"substitutions alone", "X-Godwit-Substitutions: {}\r\n\r\n", "550 5.6.0 Header field X-Godwit-Substitutions needs", trusted},
		{"unknown", "X-Godwit-Poll: a\r\n\r\n", "550 5.6.0 Header field X-Godwit-Poll is not a known field", trusted},
		{"twice", "X-Godwit-Pool: a\r\nX-Godwit-Pool: a\r\n\r\n", "550 5.6.0 Header field X-Godwit-Pool is given twice", trusted},
		{"large template", "X-Godwit-Template: true\r\n\r\n" + strings.Repeat("x", 600<<10), "552 5.3.4 Message with template tags too large", trusted},
	} {
		s := &spool{}
		inj := injection()
		if tt.change != nil {
			tt.change(inj)
		}
		d := newDoor(t, s, nil)
		_, err := d.Message(context.Background(), inj, strings.NewReader(tt.in))
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(e.Error()[strings.Index(e.Error(), e.Status())-4:], tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
		nothingLeft(t, tt.name, d, s)
	}
}

// nothingLeft checks that no batch, file or memory remains of a refused injection.
func nothingLeft(t *testing.T, name string, d *Door, s *spool) {
	t.Helper()
	if len(s.batches) != 0 || len(s.files) != 0 {
		t.Errorf("%s: left %d batches and %d files", name, len(s.batches), len(s.files))
	}
	if !d.memory.budget.TryAcquire(d.memory.size) {
		t.Errorf("%s: memory budget was not given back", name)
	} else {
		d.memory.budget.Release(d.memory.size)
	}
}

func TestFailures(t *testing.T) {
	secret := errors.New("/var/spool/secret: boom")
	for _, tt := range []struct {
		name   string
		change func(*spool)
		read   io.Reader
		want   string
		is     error
	}{
		{"queue full", func(s *spool) { s.putErr = mail.ErrQueueFull }, nil, "452 4.3.1", mail.ErrQueueFull},
		{"disk full", func(s *spool) { s.putErr = mail.ErrDiskFull }, nil, "452 4.3.1", mail.ErrDiskFull},
		{"draining", func(s *spool) { s.putErr = mail.ErrDraining }, nil, "421 4.3.2", mail.ErrDraining},
		{"no room for a file", func(s *spool) { s.openErr = mail.ErrDiskFull }, nil, "452 4.3.1", mail.ErrDiskFull},
		{"disk full on the way", func(s *spool) { s.room = 2 << 20 }, nil, "452 4.3.1", mail.ErrDiskFull},
		{"unknown", func(s *spool) { s.putErr = secret }, nil, "451 4.3.0", secret},
		{"read error in the header", nil, iotest.ErrReader(io.ErrUnexpectedEOF), "451 4.4.2", io.ErrUnexpectedEOF},
		{"read error in a large body", nil, io.MultiReader(strings.NewReader("A: 1\r\n\r\n"), &endless{left: 3 << 20}, iotest.ErrReader(secret)), "451 4.4.2", secret},
		{"reader stands still", nil, idle{}, "451 4.4.2", io.ErrNoProgress},
	} {
		s := &spool{}
		if tt.change != nil {
			tt.change(s)
		}
		if tt.read == nil {
			tt.read = io.MultiReader(strings.NewReader("A: 1\r\n\r\n"), &endless{left: 3 << 20})
		}
		d := newDoor(t, s, nil)
		_, err := d.Message(context.Background(), injection(), tt.read)
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(e.Error(), tt.want) || !errors.Is(err, tt.is) || !e.Temporary() {
			t.Errorf("%s: got %v", tt.name, err)
			continue
		}
		if strings.Contains(e.Message, "secret") {
			t.Errorf("%s: internal text for the peer: %s", tt.name, e.Message)
		}
		nothingLeft(t, tt.name, d, s)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestPostmaster(t *testing.T) {
	d := newDoor(t, &spool{}, nil)
	other := newDoor(t, &spool{}, func(o *Options, _ *Deps) { o.Postmaster = "ops@corp.example" })
	for _, tt := range []struct {
		door     *Door
		in, want string
	}{
		{d, "PostMaster", "postmaster@mx.example.net"},
		{d, "postmaster@MX.example.net", "postmaster@mx.example.net"},
		{other, "postmaster", "ops@corp.example"},
		{other, "postmaster@mx.example.net", "ops@corp.example"},
		{other, "postmaster@elsewhere.example", "postmaster@elsewhere.example"},
	} {
		if got, err := tt.door.Recipient(tt.in, false); err != nil || got != tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.in, got, err, tt.want)
		}
	}
	if d.IsPostmaster("postmaster@") || d.IsPostmaster("ann@mx.example.net") {
		t.Error("not the postmaster")
	}
}

func TestCheckAddress(t *testing.T) {
	for _, tt := range []struct {
		in, want string // want "" is a refusal
		utf8     bool
	}{
		{"a@b", "a@b", false},
		{"A.b+c@D.Example", "A.b+c@d.example", false},
		{"a..b@d.example", "a..b@d.example", false},
		{`"a b@c\""@d.example`, `"a b@c\""@d.example`, false},
		{"a@[192.0.2.1]", "a@[192.0.2.1]", false},
		{"a@[IPv6:2001:DB8::1]", "a@[ipv6:2001:db8::1]", false},
		{"ä@ö.example", "ä@ö.example", true},
		{"ä@ö.example", "", false},
		{"a@xn--nda.example", "a@xn--nda.example", false},
		{"\xff@x.example", "", true},
		{"", "", false}, {"a", "", false}, {"@b", "", false}, {"a@", "", false}, {"a@b.", "", false}, {"a@.b", "", false},
		{"a b@c", "", false}, {"a\r\nb@c", "", false}, {"a@b\n", "", false}, {"a@b c", "", false}, {"a\x00@b", "", false},
		{"<a@b>", "", false}, {`"a@b`, "", false}, {`"a"b"@c`, "", false}, {`"a\"@c`, "", false},
		{"a@[1.2.3]", "", false}, {"a@[2001:db8::1]", "", false}, {"a@[IPv6:192.0.2.1]", "", false}, {"a@[192.0.2.1", "", false},
		{"a@" + strings.Repeat("x", 64) + ".example", "", false}, {strings.Repeat("x", 320) + "@b", "", false},
	} {
		got, err := CheckAddress(tt.in, tt.utf8)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q: got %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}
