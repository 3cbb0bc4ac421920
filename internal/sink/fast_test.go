package sink

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

func startFast(t testing.TB, b Behaviour) (*Sink, *client) {
	s := start(t, Provider{Name: "a", Mode: ModeFast, Behaviour: b})
	return s, dial(t, s.Addr("a"))
}

func TestFastDialogues(t *testing.T) {
	tests := []struct {
		name   string
		b      Behaviour
		script string
	}{
		{"helo", Behaviour{}, "< 220\n> HELO x\n< 250\n> NOOP\n< 250\n> VRFY x\n< 252\n> quit\n< 221\n< closed"},
		{"unknown", Behaviour{}, hello + "> FOO\n< 500\n> STARTTLS\n< 500\n> EHLO\n< 501"},
		{"order", Behaviour{}, "< 220\n> MAIL FROM:<a@s.test>\n< 503\n> EHLO x\n< 250\n> RCPT TO:<a@s.test>\n< 503\n> DATA\n< 503\n" +
			"> MAIL FROM:<a@s.test>\n< 250\n> DATA\n< 554\n> MAIL FROM:<a@s.test>\n< 503\n> RSET\n< 250\n> MAIL FROM:<b@s.test>\n< 250"},
		{"syntax", Behaviour{}, hello + "> MAIL FROM:a@s.test\n< 501\n> MAIL FROM:<a@s.test\n< 501\n> MAIL FROM:<a@s.test>X\n< 501\n" +
			"> MAIL FROM:<a@s.test> FOO=1\n< 555\n> MAIL FROM:<a@s.test> SIZE=x\n< 501\n> MAIL FROM:<a@s.test> BODY=BINARYMIME\n< 501\n" +
			`> MAIL FROM:<"a> b"@s.test>` + "\n< 250\n> RCPT TO:<>\n< 501\n> RCPT TO:<x@y.test> FOO\n< 555"},
		{"bare LF in a command", Behaviour{}, "< 220\n> EHLO x\\nNOOP\n< 500\n< closed"},
		{"bare LF in data", Behaviour{}, hello + strings.Replace(transaction("u@x.test", "250", "554 5.6.0"), "body", "bo\\ndy", 1)},
		{"bare CR in data", Behaviour{}, hello + strings.Replace(transaction("u@x.test", "250", "554 5.6.0"), "body", "bo\\rdy", 1)},
		{"smuggling", Behaviour{}, hello + strings.Replace(transaction("u@x.test", "250", "554 5.6.0"), "body", "bo\\n.\\r\\nMAIL FROM:<evil@s.test>", 1)},
		{"chunks", Behaviour{}, hello + "> MAIL FROM:<a@s.test>\n< 250\n> RCPT TO:<u@x.test>\n< 250\n" +
			"> BDAT 8\\r\\nA: 1\\r\\n\n< 250\n> BDAT 6 LAST\\r\\n\\r\\nhi\n< 250\n> QUIT\n< 221"},
		{"chunks, no recipient", Behaviour{}, hello + "> MAIL FROM:<a@s.test>\n< 250\n> BDAT 4 LAST\\r\\nhi\n< 554\n> NOOP\n< 250"},
		{"chunks given up", Behaviour{}, hello + "> MAIL FROM:<a@s.test>\n< 250\n> RCPT TO:<u@x.test>\n< 250\n> BDAT 4\\r\\nhi\n< 250\n> RSET\n< 250\n> BDAT x\n< 501\n< closed"},
		{"8-bit refused", Behaviour{Without: []string{"8BITMIME"}}, hello + "> MAIL FROM:<a@s.test> BODY=8BITMIME\n< 555\n" +
			strings.Replace(transaction("u@x.test", "250", "554 5.6.1"), "body", "bödy", 1)},
		{"7-bit taken without 8BITMIME", Behaviour{Without: []string{"8BITMIME"}}, hello + transaction("u@x.test", "250", "250")},
		{"pipelining not offered", Behaviour{Without: []string{"PIPELINING"}}, hello + "> MAIL FROM:<a@s.test>\\r\\nRCPT TO:<u@x.test>\n< 503 5.5.0\n< closed"},
		{"not pipelined", Behaviour{Without: []string{"PIPELINING"}}, hello + transaction("u@x.test", "250", "250")},
		{"no chunking", Behaviour{Without: []string{"CHUNKING"}}, hello + "> BDAT 3 LAST\n< 500"},
		{"no enhanced codes", Behaviour{Without: []string{"ENHANCEDSTATUSCODES"}}, hello + "> NOOP\n< 250 Ok"},
		{"UTF-8 address", Behaviour{}, hello + "> MAIL FROM:<ä@s.test>\n< 553 5.6.7\n> MAIL FROM:<ä@s.test> SMTPUTF8\n< 250\n> RCPT TO:<ö@x.test>\n< 250"},
		{"UTF-8 recipient", Behaviour{}, hello + "> MAIL FROM:<a@s.test>\n< 250\n> RCPT TO:<ö@x.test>\n< 553 5.6.7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, c := startFast(t, tt.b)
			c.script(tt.script)
		})
	}
}

func TestFastPipelined(t *testing.T) {
	s, c := startFast(t, Behaviour{})
	c.expect("220")
	envelope := "MAIL FROM:<a@s.test>\r\nRCPT TO:<u@x.test>\r\nRCPT TO:<permfail@x.test>\r\nDATA\r\n"
	message := "X-Load-Id: k\r\n\r\n" + strings.Repeat("line of text\r\n", 20000) + ".\r\n"
	c.send("EHLO x\r\n" + envelope)
	for _, want := range []string{"250", "250", "250", "550", "354"} {
		c.expect(want)
	}
	c.send(message + envelope) // the next envelope behind the dot
	for _, want := range []string{"250", "250", "250", "550", "354"} {
		c.expect(want)
	}
	c.send(message + "QUIT\r\n")
	c.expect("250")
	c.expect("221")
	got := s.Deliveries()
	if len(got) != 2 || got[0].Sum != sumOf(strings.Repeat("line of text\r\n", 20000)) || got[1].Sum != got[0].Sum {
		t.Errorf("%+v", got)
	}
}

func TestFastCapabilities(t *testing.T) {
	_, c := startFast(t, Behaviour{MaxSize: 4711, TLS: TLSOn})
	c.expect("220")
	c.send("EHLO x\r\n")
	got := c.expect("250")
	for _, want := range []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "SIZE 4711", "STARTTLS"} {
		if !strings.Contains(got, want+"\r\n") {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
}

func TestInputBeforeTLSIsThrownAway(t *testing.T) {
	_, c := startFast(t, Behaviour{TLS: TLSOn})
	c.script(hello + "> STARTTLS\\r\\nMAIL FROM:<evil@s.test>\n< 220\ntls\n> EHLO x\n< 250\n> RCPT TO:<u@x.test>\n< 503")
}

// admitted is a connection that the first provider let in.
func admitted(s *Sink, c net.Conn) *countedConn {
	return (&guard{sink: s, owner: s.providers[0]}).admit(c)
}

// TestFastTimes runs in virtual time: the idle limit, and greylisting until its time is over.
func TestFastTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := DefaultOptions()
		o.Idle = units.Duration(time.Minute)
		o.Providers = []Provider{{Name: "a", Mode: ModeFast, Behaviour: Behaviour{Greylist: units.Duration(time.Hour), DotDelay: units.Duration(10 * time.Second)}}}
		s, err := New(o, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		session := func(script string) time.Duration {
			ours, theirs := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.serveFast(admitted(s, theirs), s.providers[0])
			}()
			began := time.Now()
			(&client{t: t, conn: ours, r: newReader(ours)}).script(script)
			took := time.Since(began)
			ours.Close()
			<-done
			return took
		}
		if took := session(hello + "< 421 4.4.2\n< closed"); took != time.Minute {
			t.Errorf("idle connection closed after %v, want 1m", took)
		}
		session(hello + transaction("u@x.test", "451", ""))
		time.Sleep(59 * time.Minute)
		session(hello + transaction("u@x.test", "451", ""))
		time.Sleep(time.Minute)
		if took := session(hello + transaction("u@x.test", "250", "250")); took != 10*time.Second {
			t.Errorf("final dot answered after %v, want 10s", took)
		}
		if d := s.Deliveries(); len(d) != 1 || time.Since(d[0].At.Time()) != 0 {
			t.Error("the record's time is not that of the reply")
		}
	})
}

// reference does slowly what dotReader and digest do in pieces.
func reference(data []byte) (message []byte, rest int, done bool) {
	end := bytes.Index(append([]byte("\r\n"), data...), []byte("\r\n.\r\n"))
	if end < 0 {
		return nil, 0, false
	}
	raw := append([]byte("\r\n"), data[:end]...)
	return bytes.ReplaceAll(raw, []byte("\r\n."), []byte("\r\n"))[2:], end + 3, true
}

func FuzzData(f *testing.F) {
	for _, s := range []string{".\r\n", "a: b\r\n\r\nx\r\n.\r\n", "..\r\n.\r\n", "\r\n..\r\n...\r\n.\r\n.\r\n", "x\r\r\n.\r\n", "\n.\n\r\n.\r\n", "a\r\n.b\r\n.\r", ".\r", "\r\n\r\n\r\n.\r\nQUIT"} {
		f.Add([]byte(s), uint8(1))
		f.Add([]byte(s), uint8(100))
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		m := &digest{sums: true, strict: true}
		var d dotReader
		r, used, done := 0, 0, false
		for w := 0; w < len(data) && !done; {
			w = min(len(data), w+int(step)+1)
			used, done = d.next(data[r:w], m)
			r += used
		}
		message, rest, complete := reference(data)
		if done != complete {
			t.Fatalf("done %v, want %v", done, complete)
		}
		if !done {
			return
		}
		body := []byte(nil)
		if end := blankLine(message, 0); end >= 0 {
			body = message[end:]
		}
		if r != rest || m.size != int64(len(message)) || m.bodySum() != sumOf(string(body)) {
			t.Errorf("used %d of %d, size %d of %d, or another sum", r, rest, m.size, len(message))
		}
		if bare := hasBare(message); m.bare != bare {
			t.Errorf("bare %v, want %v", m.bare, bare)
		}
	})
}

func hasBare(m []byte) bool {
	for i, c := range m {
		if c == '\n' && (i == 0 || m[i-1] != '\r') || c == '\r' && i+1 < len(m) && m[i+1] != '\n' {
			return true
		}
	}
	return false
}

func FuzzSession(f *testing.F) {
	f.Add([]byte("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nA: b\r\n\r\nx\r\n.\r\nQUIT\r\n"))
	f.Add([]byte("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nabcBDAT 2 LAST\r\nxyNOOP\r\n"))
	f.Add([]byte("STARTTLS\r\nDATA\r\nRSET\r\n\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		s, err := New(DefaultOptions(), Deps{})
		if err != nil {
			t.Fatal(err)
		}
		s.Stop() // no pause waits
		c := &scriptConn{in: bytes.NewReader(input)}
		s.serveFast(admitted(s, c), s.providers[0])
		for line := range bytes.Lines(c.out.Bytes()) {
			if len(line) < 6 || line[0] < '2' || line[0] > '5' || !bytes.HasSuffix(line, []byte("\r\n")) {
				t.Fatalf("bad reply line %q", line)
			}
		}
	})
}

// scriptConn is a connection whose peer has already said everything.
type scriptConn struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *scriptConn) Read(p []byte) (int, error)      { return c.in.Read(p) }
func (c *scriptConn) Write(p []byte) (int, error)     { return c.out.Write(p) }
func (c *scriptConn) Close() error                    { return nil }
func (c *scriptConn) RemoteAddr() net.Addr            { return &net.TCPAddr{} }
func (c *scriptConn) SetReadDeadline(time.Time) error { return nil }
