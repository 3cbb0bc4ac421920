package sink

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/units"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a sink with the given providers until the test ends.
func start(t testing.TB, providers ...Provider) *Sink {
	t.Helper()
	o := DefaultOptions()
	if len(providers) > 0 {
		o.Providers = providers
	}
	return startWith(t, o)
}

func startWith(t testing.TB, o Options) *Sink {
	t.Helper()
	s, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// client speaks scripts with a server.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t, conn, bufio.NewReader(conn)}
}

// reply reads one reply with all its lines.
func (c *client) reply() (string, error) {
	var all strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return all.String(), err
		}
		all.WriteString(line)
		if len(line) < 4 || line[3] != '-' {
			return all.String(), nil
		}
	}
}

func (c *client) expect(want string) string {
	c.t.Helper()
	got, err := c.reply()
	if want == "closed" {
		if err == nil {
			c.t.Fatalf("got %q, want a closed connection", got)
		}
		return ""
	}
	if err != nil {
		c.t.Fatalf("%v after %q, want %q", err, got, want)
	}
	last := got[strings.LastIndex(strings.TrimSuffix(got, "\n"), "\n")+1:]
	if !strings.HasPrefix(last, want) {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	return got
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// script runs lines: "> text" sends text and CR LF, with \r and \n as escapes
// for more; "< prefix" reads a reply; "< closed" wants the connection closed;
// "tls" goes over to TLS.
func (c *client) script(lines string) {
	c.t.Helper()
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case line == "tls":
			conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
			if err := conn.Handshake(); err != nil {
				c.t.Fatal(err)
			}
			c.conn, c.r = conn, bufio.NewReader(conn)
		case line[0] == '>':
			c.send(strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(strings.TrimPrefix(line[1:], " ")) + "\r\n")
		case line[0] == '<':
			c.expect(strings.TrimSpace(line[1:]))
		default:
			c.t.Fatalf("bad script line %q", line)
		}
	}
}

const hello = "< 220\n> EHLO test\n< 250\n"

// transaction is a script that sends one small message; the replies to RCPT and the dot are given.
func transaction(to, rcpt, dot string) string {
	s := "> MAIL FROM:<a@s.test>\n< 250\n> RCPT TO:<" + to + ">\n< " + rcpt + "\n"
	if !strings.HasPrefix(rcpt, "250") {
		return s
	}
	return s + "> DATA\n< 354\n> Subject: x\\r\\n\\r\\nbody\\r\\n.\n< " + dot + "\n"
}

func bothModes(t *testing.T, f func(t *testing.T, mode string)) {
	for _, mode := range []string{ModeFull, ModeFast} {
		t.Run(mode, func(t *testing.T) { f(t, mode) })
	}
}

func sumOf(body string) (s ledger.Sum) {
	full := sha256.Sum256([]byte(body))
	copy(s[:], full[:])
	return s
}

func TestAcceptAndRecord(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Domains: []string{"a.test"}, Mode: mode}, Provider{Name: "b", Domains: []string{"b.test"}, Mode: mode})
		c := dial(t, s.Addr("a"))
		before := ledger.Now()
		c.script(hello + `
			> MAIL FROM:<rp@s.test> SIZE=100 BODY=8BITMIME
			< 250
			> RCPT TO:<u1@a.test>
			< 250
			> RCPT TO:<u2@B.test> NOTIFY=NEVER
			< 250
			> DATA
			< 354
			> X-Other: 1\r\nX-LOAD-Id:\r\n run-7 \r\nMessage-ID: <m@x>\r\n\r\none\r\n..two\r\n...\r\n\r\nend\r\n.
			< 250 2.0.0 Ok: queued as S
			> MAIL FROM:<>
			< 250
			> RCPT TO:<u3@elsewhere.test>
			< 250
			> DATA
			< 354
			> Message-id: <id-9@host.test>\r\n\r\n.
			< 250
			> QUIT
			< 221`)
		got := s.Deliveries()
		if len(got) != 3 {
			t.Fatalf("%d deliveries, want 3", len(got))
		}
		const body = "one\r\n.two\r\n..\r\n\r\nend\r\n"
		size := int64(len("X-Other: 1\r\nX-LOAD-Id:\r\n run-7 \r\nMessage-ID: <m@x>\r\n\r\n" + body))
		want := []ledger.Delivery{
			{Key: "run-7", Recipient: "u1@a.test", ReversePath: "rp@s.test", Provider: "a", Sum: sumOf(body), Size: size},
			{Key: "run-7", Recipient: "u2@B.test", ReversePath: "rp@s.test", Provider: "b", Sum: sumOf(body), Size: size},
			{Key: "id-9@host.test", Recipient: "u3@elsewhere.test", Provider: "a", Sum: sumOf(""), Size: 32},
		}
		for i, d := range got {
			if d.At < before || d.At > ledger.Now() || d.Peer != c.conn.LocalAddr().String() {
				t.Errorf("time %v or peer %q is wrong", d.At, d.Peer)
			}
			d.At, d.Peer = 0, ""
			if d != want[i] {
				t.Errorf("delivery %d\n got %+v\nwant %+v", i, d, want[i])
			}
		}
		st := s.Stats()
		if st.Total.Accepted != 3 || st.Total.Transactions != 2 || st.Providers[1].Accepted != 1 || st.Records != 3 || st.Total.FirstMail == nil {
			t.Errorf("stats %+v", st)
		}
		if err := s.Reset(); err != nil || len(s.Deliveries()) != 0 || s.Stats().Total.Accepted != 0 {
			t.Error("Reset left something behind")
		}
	})
}

func TestLocalParts(t *testing.T) {
	tests := []struct{ local, rcpt, dot string }{
		{"user1", "250", "250"},
		{"tempfail", "451 4.3.0", ""},
		{"tempfail17", "451 4.3.0", ""},
		{"permfail+tag", "550 5.1.1", ""},
		{"full", "452 4.2.2", ""},
		{"tempfail-data", "250", "451 4.3.0"},
		{"permfail-data3", "250", "550 5.1.1"},
		{"reply-553-5.1.3", "553 5.1.3", ""},
		{"reply-450", "450", ""},
		{"data-554-5.7.1+x", "250", "554 5.7.1"},
		{"data-250", "250", "250"}, // no error code: an ordinary user
		{"greylist-1h", "451 4.7.1", ""},
		{"ratelimited", "451 4.7.1", ""},
		{"tls-required", "530 5.7.0", ""},
		{"tls-fail", "454 4.7.0", ""},
		{"slow-1ms", "250", "250"},
		{"drop", "250", "closed"},
		{"421", "421 4.7.0", ""},
		{"data-421-4.3.2", "250", "421 4.3.2"},
	}
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Domains: []string{"a.test"}, Mode: mode})
		for _, tt := range tests {
			c := dial(t, s.Addr("a"))
			c.script(hello + transaction(tt.local+"@a.test", tt.rcpt, tt.dot))
			if strings.HasPrefix(tt.rcpt, "421") || strings.HasPrefix(tt.dot, "421") {
				c.expect("closed")
			}
		}
		st := s.Stats().Total
		if st.Accepted != 3 || st.Dropped != 1 || st.Bounced != 5 || st.Deferred != 10 {
			t.Errorf("accepted %d deferred %d bounced %d dropped %d", st.Accepted, st.Deferred, st.Bounced, st.Dropped)
		}
		if len(s.Deliveries()) != 3 {
			t.Errorf("%d records: only what was answered 250 may be recorded", len(s.Deliveries()))
		}
	})
}

func TestGreylistByLocalPart(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Mode: mode})
		c := dial(t, s.Addr("a"))
		c.script(hello + transaction("greylist-0s@x.test", "451 4.7.1", "") + "> RSET\n< 250\n" +
			transaction("greylist-0s@x.test", "250", "250"))
	})
}

func TestBehaviours(t *testing.T) {
	tests := []struct {
		name   string
		b      Behaviour
		script string
	}{
		{"bounce all", Behaviour{Bounce: 1}, hello + transaction("u@x.test", "550 5.1.1", "")},
		{"bounce at data", Behaviour{Bounce: 1, AtData: true}, hello + transaction("u@x.test", "250", "550 5.1.1")},
		{"own words", Behaviour{Defer: 1, DeferReplies: []string{`450 4.2.0 one\ntwo`}}, hello + transaction("u@x.test", "450", "")},
		{"a 421 closes", Behaviour{Defer: 1, Texts: "yahoo"}, hello + transaction("u@x.test", "421", "") + "< closed"},
		{"drop all", Behaviour{Drop: 1}, hello + transaction("u@x.test", "250", "closed")},
		{"greylist", Behaviour{Greylist: units.Duration(time.Hour)}, hello + transaction("u@x.test", "451 4.7.1", "")},
		{"messages per connection", Behaviour{MaxMessages: 1}, hello + transaction("u@x.test", "250", "250") +
			"> MAIL FROM:<a@s.test>\n< 421 4.7.0\n< closed"},
		{"messages per connection, open", Behaviour{MaxMessages: 1, LimitCode: 451}, hello + transaction("u@x.test", "250", "250") +
			"> MAIL FROM:<a@s.test>\n< 451 4.7.0\n> QUIT\n< 221"},
		{"rate", Behaviour{Rate: 0.001}, hello + transaction("u@x.test", "250", "250") + transaction("v@x.test", "451 4.7.1", "")},
		{"size by parameter", Behaviour{MaxSize: 10}, hello + "> MAIL FROM:<a@s.test> SIZE=11\n< 552 5.3.4"},
		{"size by data", Behaviour{MaxSize: 10}, hello + transaction("u@x.test", "250", "552 5.3.4") + "> QUIT\n< 221"},
		{"recipients", Behaviour{MaxRecipients: 1}, hello + "> MAIL FROM:<a@s.test>\n< 250\n> RCPT TO:<u@x.test>\n< 250\n> RCPT TO:<v@x.test>\n< 452 4.5.3"},
		{"TLS required", Behaviour{TLS: TLSOn, RequireTLS: true}, hello + "> MAIL FROM:<a@s.test>\n< 530 5.7.0\n> STARTTLS\n< 220\ntls\n> EHLO x\n< 250\n" +
			transaction("tls-required@x.test", "250", "250")},
		{"no SMTPUTF8", Behaviour{Without: []string{"SMTPUTF8"}}, hello + "> MAIL FROM:<a@s.test> SMTPUTF8\n< 5"},
		{"no DSN", Behaviour{Without: []string{"dsn"}}, hello + "> MAIL FROM:<a@s.test> RET=HDRS\n< 5"},
		{"delays", Behaviour{BannerDelay: 1, ReplyDelay: 1, DotDelay: 1}, hello + transaction("u@x.test", "250", "250")},
	}
	bothModes(t, func(t *testing.T, mode string) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				s := start(t, Provider{Name: "a", Mode: mode, Behaviour: tt.b})
				dial(t, s.Addr("a")).script(tt.script)
			})
		}
	})
}

func TestConnectionLimit(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Mode: mode, Behaviour: Behaviour{MaxConnections: 1, Texts: "outlook"}})
		first := dial(t, s.Addr("a"))
		first.script(hello)
		dial(t, s.Addr("a")).script("< 421 4.4.5\n< closed")
		first.script("> QUIT\n< 221\n< closed")
		again := dial(t, s.Addr("a"))
		for range 100 { // the first connection is counted out a moment after it closed
			if got, _ := again.reply(); strings.HasPrefix(got, "220") {
				break
			}
			again = dial(t, s.Addr("a"))
		}
		again.script("> EHLO x\n< 250")
		if st := s.Stats().Total; st.OpenMax != 1 || st.Refused < 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestTLSFailure(t *testing.T) {
	bothModes(t, func(t *testing.T, mode string) {
		s := start(t, Provider{Name: "a", Mode: mode, Behaviour: Behaviour{TLS: TLSFail}})
		c := dial(t, s.Addr("a"))
		c.script(hello + "> STARTTLS\n< 220")
		if err := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
			t.Error("the handshake went through")
		}
	})
}

func TestCertificateIsForTheHosts(t *testing.T) {
	s := start(t, Provider{Name: "a", Domains: []string{"a%d.test"}, Count: 2, OwnMX: true, Mode: ModeFast, Behaviour: Behaviour{TLS: TLSOn}})
	c := dial(t, s.Addr("a"))
	c.script(hello + "> STARTTLS\n< 220")
	conn := tls.Client(c.conn, &tls.Config{ServerName: "mx1.a1.test", RootCAs: s.CertPool()})
	if err := conn.Handshake(); err != nil {
		t.Error(err)
	}
}

func TestSharesDependOnSeedOnly(t *testing.T) {
	decide := func(seed uint64, b Behaviour) (got string) {
		p := newPolicy(b, seed)
		for i := range 200 {
			for range 2 {
				v := p.rcpt("a@s.test", fmt.Sprintf("u%d@x.test", i), false)
				got += fmt.Sprint(v.reply.code / 100)
			}
		}
		return got
	}
	b := Behaviour{Bounce: 0.1, Defer: 0.3}
	if first, second := decide(1, b), decide(1, b); first != second {
		t.Error("same seed, other decisions")
	}
	if decide(1, b) == decide(2, b) {
		t.Error("other seed, same decisions")
	}
	got := decide(3, b)
	if n := strings.Count(got, "5"); n%2 != 0 || n < 20 || n > 60 {
		t.Errorf("%d of 400 attempts bounced, want about 40, and a bounced recipient bounces again", n)
	}
	if n := strings.Count(got, "4"); n < 70 || n > 150 {
		t.Errorf("%d of 400 attempts deferred, want about 108", n)
	}
}

func newReader(c net.Conn) *bufio.Reader { return bufio.NewReader(c) }
