package smtpd

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/godwit-mta/godwit/internal/mail"
)

func TestRelayControl(t *testing.T) {
	srv, _ := newServer(t, func(o *Options) {
		o.Listeners = append(o.Listeners, Listener{Address: "127.0.0.1:1", Submission: true, InsecureAuth: true})
	})
	const open, submission = 0, 1
	for _, tt := range []struct {
		name     string
		listener int
		from     string
		login    bool
		rcpt     string
		mailWant string
		rcptWant string
	}{
		{"stranger", open, "192.0.2.1", false, "x@elsewhere.example", "250", "550 5.7.1 Relaying denied"},
		{"stranger over IPv6", open, "2001:db9::1", false, "x@elsewhere.example", "250", "550 5.7.1"},
		{"stranger to percent hack", open, "192.0.2.1", false, "x%elsewhere.example@mx.example.net", "250", "550 5.7.1"},
		{"stranger to our name", open, "192.0.2.1", false, "x@mx.example.net", "250", "550 5.7.1"},
		{"stranger to postmaster", open, "192.0.2.1", false, "PostMaster", "250", "250"},
		{"stranger to postmaster at us", open, "192.0.2.1", false, "postmaster@MX.example.net", "250", "250"},
		{"stranger to another's postmaster", open, "192.0.2.1", false, "postmaster@elsewhere.example", "250", "550 5.7.1"},
		{"listed network", open, "10.2.3.4", false, "x@elsewhere.example", "250", "250"},
		{"listed network, mapped", open, "::ffff:10.2.3.4", false, "x@elsewhere.example", "250", "250"},
		{"listed IPv6 network", open, "2001:db8::5", false, "x@elsewhere.example", "250", "250"},
		{"stranger logged in", open, "192.0.2.1", true, "x@elsewhere.example", "250", "250"},
		{"submission without login", submission, "192.0.2.1", false, "postmaster", "530 5.7.0", ""},
		{"submission from listed network", submission, "10.2.3.4", false, "x@elsewhere.example", "530 5.7.0", ""},
		{"submission with login", submission, "192.0.2.1", true, "x@elsewhere.example", "250", "250"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := greeted(t, srv, tt.listener, tt.from)
			if tt.login {
				c.do(authPlain("ann", "secret"), "235")
			}
			c.do("MAIL FROM:<b@s.example>", tt.mailWant)
			if tt.rcptWant != "" {
				c.do("RCPT TO:<"+tt.rcpt+">", tt.rcptWant)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	srv, s := newServer(t, nil)
	c := greeted(t, srv, 0, "10.1.0.9")
	got := c.message("250 2.0.0 Ok: queued as ", "x@d.example")
	b := s.last(t)
	if id := uuidPattern.FindString(got); id != b.Messages[0].ID.String() || strings.Contains(got, "messages") {
		t.Errorf("reply %q for message %v", got, b.Messages[0].ID)
	}
	if m := b.Messages[0]; m.Tenant != "special" || m.ReversePath != "b@s.example" {
		t.Errorf("message %+v", m)
	}
	if b.Origin.Peer != "10.1.0.9" || b.Origin.Protocol != "esmtp" || !strings.Contains(string(b.Body.Data), "from client.example ([10.1.0.9])") {
		t.Errorf("origin %+v in %q", b.Origin, b.Body.Data)
	}
	got = c.message("250 2.0.0 Ok: queued as ", "x@d.example", "y@d.example", "z@e.example")
	b = s.last(t)
	if id := uuidPattern.FindString(got); id != b.Messages[0].ID.String() || !strings.HasSuffix(got, id+" (3 messages)") || b.Messages[2].ID != b.Messages[0].ID.Add(2) {
		t.Errorf("reply %q", got)
	}
}

func TestEnvelope(t *testing.T) {
	srv, s := newServer(t, nil)
	c := greeted(t, srv, 0, "192.0.2.9")
	c.do(authPlain("ann", "secret"), "235")
	c.do("MAIL FROM:<> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=abc+2B1 SMTPUTF8", "250")
	c.do("RCPT TO:<ä@D.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b.example", "250")
	c.do("RCPT TO:<y@d.example> NOTIFY=NEVER", "250")
	c.do("DATA", "354")
	c.send("X-Godwit-Stream: news\r\nX-Godwit-Tag: a=b\r\n\r\nbody\r\n.\r\n")
	c.expect("250")
	b := s.last(t)
	first, second := b.Messages[0], b.Messages[1]
	want := mail.DSN{Notify: mail.NotifySuccess | mail.NotifyDelay, Ret: "HDRS", EnvelopeID: "abc+1", OriginalRecipient: "RFC822;a@b.example"}
	if first.DSN != want || second.DSN.Notify != mail.NotifyNever || second.DSN.OriginalRecipient != "" {
		t.Errorf("DSN %+v and %+v", first.DSN, second.DSN)
	}
	if first.ReversePath != "" || !first.SMTPUTF8 || first.Recipient != "ä@d.example" || first.Tenant != "acme" || first.Stream != "news" || len(first.Tags) != 1 {
		t.Errorf("message %+v", first)
	}
	if b.Origin.AuthID != "ann" || b.Origin.Protocol != "esmtpa" {
		t.Errorf("origin %+v", b.Origin)
	}
}

func TestStrangersFieldsAreNotBelieved(t *testing.T) {
	srv, s := newServer(t, nil)
	c := greeted(t, srv, 0, "192.0.2.9")
	c.do("MAIL FROM:<b@s.example>", "250")
	c.do("RCPT TO:<postmaster>", "250")
	c.do("DATA", "354")
	c.send("X-Godwit-Tenant: acme\r\nX-Godwit-Priority: urgent\r\n\r\nbody\r\n.\r\n")
	c.expect("250")
	m := s.last(t).Messages[0]
	if m.Tenant != "" || m.Priority != mail.Normal || strings.Contains(string(s.last(t).Body.Data), "X-Godwit") {
		t.Errorf("message %+v", m)
	}
}

func TestBadInput(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string // command, reply, command, reply, …
		data  string
		want  string
	}{
		{"unknown command", []string{"FOO", "500 5.5.1"}, "", ""},
		{"data first", []string{"DATA", "503 5.5.1"}, "", ""},
		{"recipient first", []string{"RCPT TO:<a@b>", "503 5.5.1"}, "", ""},
		{"second MAIL", []string{"MAIL FROM:<a@b>", "250", "MAIL FROM:<a@b>", "503 5.5.1"}, "", ""},
		{"no brackets", []string{"MAIL FROM:a@b", "501 5.1.7"}, "", ""},
		{"bad reverse path", []string{"MAIL FROM:<a b@c>", "501 5.1.7"}, "", ""},
		{"bad recipient", []string{"MAIL FROM:<a@b>", "250", "RCPT TO:<a@b..c>", "501 5.1.3"}, "", ""},
		{"UTF-8 without SMTPUTF8", []string{"MAIL FROM:<a@b>", "250", "RCPT TO:<ä@b>", "553 5.6.7"}, "", ""},
		{"declared too large", []string{"MAIL FROM:<a@b> SIZE=99999999999", "552 5.3.4"}, "", ""},
		{"unknown parameter", []string{"MAIL FROM:<a@b> FOO=1", "555 5.5.4"}, "", ""},
		{"header without colon", nil, "nonsense\r\n\r\n.\r\n", "550 5.6.0 Malformed message: header line without a field name, line 1"},
		{"bad directive", nil, "X-Godwit-Priority: top\r\n\r\n.\r\n", "550 5.6.0 Header field X-Godwit-Priority must be bulk, normal or urgent"},
		{"tenant", nil, "X-Godwit-Tenant: other\r\n\r\n.\r\n", "550 5.6.0 Header field X-Godwit-Tenant"},
		{"loop", nil, strings.Repeat("Received: x\r\n", 60) + "\r\n.\r\n", "554 5.4.6"},
		{"bare LF", nil, "A: 1\r\n\r\nx\ny\r\n.\r\n", "550 5.6.0 Message has a bare"},
		{"smuggled end", nil, "A: 1\r\n\r\nx\n.\nMAIL FROM:<evil@x>\r\n.\r\n", "550 5.6.0 Message has a bare"},
		{"header too large", nil, strings.Repeat("A: "+strings.Repeat("x", 900)+"\r\n", 300) + "\r\n.\r\n", "552 5.3.4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, s := newServer(t, nil)
			c := greeted(t, srv, 0, "10.2.0.1")
			for i := 0; i < len(tt.lines); i += 2 {
				c.do(tt.lines[i], tt.lines[i+1])
			}
			if tt.data != "" {
				c.do("MAIL FROM:<b@s.example>", "250")
				c.do("RCPT TO:<x@d.example>", "250")
				c.do("DATA", "354")
				c.send(tt.data)
				c.expect(tt.want)
			}
			if len(s.batches) > 0 {
				t.Error("accepted")
			}
			if tt.data != "" { // the connection is still good
				c.message("250", "x@d.example")
			}
		})
	}
}

func TestStorageFailures(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
		ends bool
	}{
		{mail.ErrQueueFull, "452 4.3.1", false},
		{mail.ErrDiskFull, "452 4.3.1", false},
		{mail.ErrDraining, "421 4.3.2", true},
		{errors.New("/var/spool: secret"), "451 4.3.0", false},
	} {
		srv, s := newServer(t, nil)
		s.err = tt.err
		c := greeted(t, srv, 0, "10.2.0.1")
		if got := c.message(tt.want, "x@d.example"); strings.Contains(got, "secret") {
			t.Errorf("internal text in %q", got)
		}
		if tt.ends {
			c.ended()
		} else {
			c.do("NOOP", "250")
		}
	}
}

func TestTooManyRecipients(t *testing.T) {
	srv, s := newServer(t, func(o *Options) { o.MaxRecipients = 2 })
	c := greeted(t, srv, 0, "10.2.0.1")
	c.do("MAIL FROM:<a@b>", "250")
	c.do("RCPT TO:<1@d.example>", "250")
	c.do("RCPT TO:<2@d.example>", "250")
	c.do("RCPT TO:<3@d.example>", "452 4.5.3")
	c.do("DATA", "354")
	c.send("\r\n.\r\n")
	c.expect("250")
	if n := len(s.last(t).Messages); n != 2 {
		t.Errorf("%d messages", n)
	}
	c.do("MAIL FROM:<a@b>", "250")
	c.do("RCPT TO:<4@d.example>", "250")
	c.do("RSET", "250")
	c.message("250", "5@d.example")
	if m := s.last(t).Messages; len(m) != 1 || m[0].Recipient != "5@d.example" {
		t.Errorf("recipients of an earlier transaction: %v", m)
	}
}

func TestCutOffMessageIsNotAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s := newServer(t, nil)
		c := greeted(t, srv, 0, "10.2.0.1")
		c.do("MAIL FROM:<a@b>", "250")
		c.do("RCPT TO:<1@d.example>", "250")
		c.do("DATA", "354")
		c.send("Subject: x\r\n\r\nhalf a mess")
		c.nc.Close()
		<-c.done
		if len(s.batches) > 0 {
			t.Error("accepted half a message")
		}
	})
}
