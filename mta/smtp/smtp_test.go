package smtp

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	gosmtp "github.com/emersion/go-smtp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPath(t *testing.T) {
	label := strings.Repeat("d", 63)
	long := label + "." + label + "." + label + "." + label // 255
	for _, tc := range []struct {
		in, addr string
		err      error
	}{
		{"<a@b>", "a@b", nil},
		{"<>", "", nil},
		{"", "", errBracket},
		{"a@b", "", errBracket},
		{"<a@b", "", errSyntax},
		{"<postMASTER>", "postMASTER", nil},
		{"<root>", "", errSyntax},
		{"<@x:a@b>", "a@b", nil},
		{"<@x,@y:a@b>", "a@b", nil},
		{"<@x,y:a@b>", "", errSyntax},
		{"<@x>", "", errSyntax},
		{"<@>", "", errDomain},
		{`<"">`, "", errSyntax},
		{`<""@b>`, `""@b`, nil},
		{`<"a>b"@c>`, `"a>b"@c`, nil},
		{`<"a\"b"@c>`, `"a\"b"@c`, nil},
		{`<"a@c>`, "", errSyntax},
		{"<a.b.c@d>", "a.b.c@d", nil},
		{"<a.@d>", "", errSyntax},
		{"<a@b.>", "", errDomain},
		{"<a@b..c>", "", errDomain},
		{"<a@b-.c>", "", errDomain},
		{"<a@b_c.d>", "", errSyntax},
		{"<a@" + label + "d.x>", "", errDomain},
		{"<a@" + long[:255-5] + ">", "a@" + long[:250], nil},
		{"<a@" + long + ">", "", errPathLen},
		{"<a@[127.0.0.1]>", "a@[127.0.0.1]", nil},
		{"<a@[IPv6:::1]>", "a@[IPv6:::1]", nil},
		{"<a@[ipv6:::ffff:1.2.3.4]>", "a@[ipv6:::ffff:1.2.3.4]", nil},
		{"<a@[IPv6:1.2.3.4]>", "", errDomain},
		{"<a@[IPv6:fe80::1%eth0]>", "", errDomain},
		{"<a@[x:y]>", "", errDomain},
		{"<a@b@c>", "", errSyntax},
		{"<ü@ß.de>", "ü@ß.de", nil},
		{"<\xff@b>", "", errUTF8},
		{"<a\u0085@b>", "", errUTF8},
	} {
		p, _, err := parsePath([]byte(tc.in))
		if p.addr != tc.addr || !errors.Is(err, tc.err) {
			t.Errorf("%q: %q, %v; want %q, %v", tc.in, p.addr, err, tc.addr, tc.err)
		}
	}
}

func TestXtext(t *testing.T) {
	for in, want := range map[string]string{"abc": "abc", "a+2Bb+3D": "a+b=", "": "", "+41": "A"} {
		if got, ok := decodeXtext([]byte(in)); !ok || got != want {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
	for _, in := range []string{"+", "+4", "+4g", "+4a", "a=b", "a b", "\x01", "é"} {
		if got, ok := decodeXtext([]byte(in)); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
	for in, want := range map[string]string{`\x{E9}@x`: "é@x", `a\x{5C}b`: `a\b`, `\x{1F600}`: "😀", `\x{2B}`: "+"} {
		if got, ok := decodeUTF8Xtext([]byte(in), false); !ok || got != want {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
	for _, in := range []string{`\x{41}`, `\x{0A}`, `\x{D800}`, `\x{110000}`, `\x{}`, `\x{9}`, `\`, `\x{E9`, "a+2B", "é"} {
		if got, ok := decodeUTF8Xtext([]byte(in), false); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
	if got, ok := decodeUTF8Xtext([]byte("é@x"), true); !ok || got != "é@x" {
		t.Errorf("raw: %q, %v", got, ok)
	}
}

// TestEnvelopeOptions: what MAIL and RCPT say reaches the session.
func TestEnvelopeOptions(t *testing.T) {
	rec := &recorder{auth: true}
	opt := DefaultOptions()
	opt.AllowInsecureAuth = true
	srv := newServer(t, opt, Deps{Backend: rec})
	nc := &tape{in: []byte("EHLO c\r\n" +
		"MAIL FROM:<a@b> SIZE=42 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=a+2Bb AUTH=x+40y\r\n" +
		"RCPT TO:<c@d> NOTIFY=FAILURE,DELAY ORCPT=utf-8;ü@d\r\n" +
		"RCPT TO:<e@f> ORCPT=x400;foo\r\n" +
		"RCPT TO:<g@h> ORCPT=rfc822;+C3+BC@h\r\n" +
		"BDAT 0 LAST\r\n" + "QUIT\r\n")}
	srv.ServeConn(nc)
	if len(rec.accepted) != 1 {
		t.Fatalf("dialogue:\n%s", nc.out.String())
	}
	m := rec.accepted[0]
	mo := *m.opts
	if mo.Size != 42 || mo.Body != gosmtp.Body8BitMIME || !mo.UTF8 || mo.Return != gosmtp.DSNReturnFull ||
		mo.EnvelopeID != "a+b" || mo.Auth == nil || *mo.Auth != "x@y" {
		t.Errorf("mail options %+v", mo)
	}
	if fmt.Sprint(m.rcpt[0].Notify) != "[FAILURE DELAY]" || m.rcpt[0].OriginalRecipientType != "UTF-8" ||
		m.rcpt[0].OriginalRecipient != "ü@d" || m.rcpt[1].OriginalRecipientType != "X400" ||
		m.rcpt[2].OriginalRecipientType != "UTF-8" || m.rcpt[2].OriginalRecipient != "ü@h" {
		t.Errorf("rcpt options %+v %+v %+v", m.rcpt[0], m.rcpt[1], m.rcpt[2])
	}
}

func TestHooks(t *testing.T) {
	rec := &recorder{auth: true}
	opt := DefaultOptions()
	opt.AllowInsecureAuth = true
	var lines, replies, errs []string
	var sum Summary
	srv := newServer(t, opt, Deps{
		Backend: rec,
		Trace:   func(_ ConnID, dir Direction, line string) { lines = append(lines, string(dir)+" "+line) },
		OnReply: func(verb string, code int) { replies = append(replies, fmt.Sprint(verb, " ", code)) },
		OnError: func(_ ConnID, verb string, err error) { errs = append(errs, verb+" "+err.Error()) },
		OnClose: func(c Conn, s Summary) { sum = s },
	})
	nc := &tape{in: []byte("HELO c\r\nAUTH PLAIN AHUAcA==\r\n"), pieces: []byte{8, 255}}
	srv.ServeConn(nc)
	wantLines := "S 220 localhost ESMTP|C HELO c|S 250 localhost|C AUTH PLAIN ***|S 235 2.7.0 Authenticated"
	if got := strings.Join(lines, "|"); got != wantLines {
		t.Errorf("trace %s", got)
	}
	if got := strings.Join(replies, "|"); got != " 220|HELO 250|AUTH 235" {
		t.Errorf("replies %s", got)
	}
	if sum.Reason != "eof" {
		t.Errorf("summary %+v", sum)
	}
	lines = nil
	nc = &tape{in: []byte("EHLO c\r\nAUTH LOGIN\r\ndQ==\r\ncA==\r\nMAIL FROM:<plain@x>\r\nFOO\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 3 LAST\r\nx\r\nQUIT\r\n"), pieces: []byte{8, 12, 6, 6, 255}}
	srv.ServeConn(nc)
	if text := strings.Join(lines, "|"); strings.Contains(text, "dQ==") || strings.Contains(text, "cA==") || !strings.Contains(text, "C ***") {
		t.Errorf("credentials in the trace: %s", text)
	}
	if len(errs) != 1 || !strings.HasPrefix(errs[0], "MAIL pq:") {
		t.Errorf("errors %q", errs)
	}
	if sum.Reason != "quit" || sum.Messages != 1 || sum.Errors != 1 || sum.Bytes != 3 {
		t.Errorf("summary %+v\n%s", sum, nc.out.String())
	}
}

func TestGreetHook(t *testing.T) {
	srv := newServer(t, DefaultOptions(), Deps{Greet: func(Conn) error {
		return &gosmtp.SMTPError{Code: 554, EnhancedCode: ec(5, 7, 1), Message: "Listed"}
	}})
	nc := &tape{in: []byte("EHLO c\r\n")}
	srv.ServeConn(nc)
	if got := nc.out.String(); got != "554 5.7.1 Listed\r\n" {
		t.Errorf("greeting %q", got)
	}
}

// TestOneWritePerGroup: replies to pipelined commands leave together.
func TestOneWritePerGroup(t *testing.T) {
	srv := newServer(t, DefaultOptions(), Deps{})
	nc := &countingConn{tape: tape{in: []byte("EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"), pieces: []byte{8, 38, 12}}}
	srv.ServeConn(nc)
	if nc.writes != 4 { // greeting, EHLO, MAIL to 354, the rest
		t.Errorf("%d writes:\n%s", nc.writes, nc.out.String())
	}
}

// TestAckDoesNotWait: with two messages in one write, the reply to the first
// is sent before the second is given to the session.
func TestAckDoesNotWait(t *testing.T) {
	const tx = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 3 LAST\r\nx\r\n"
	nc := &tape{in: []byte("EHLO c\r\n" + tx + tx)}
	var sent []int
	srv := newServer(t, DefaultOptions(), Deps{Backend: BackendFunc(func(Conn) (gosmtp.Session, error) {
		return funcSession(func(r io.Reader) error {
			sent = append(sent, strings.Count(nc.out.String(), "2.0.0 OK"))
			_, err := io.Copy(io.Discard, r)
			return err
		}), nil
	})})
	srv.ServeConn(nc)
	if fmt.Sprint(sent) != "[0 1]" {
		t.Errorf("acknowledgements sent before each message: %v", sent)
	}
}

type funcSession func(io.Reader) error

func (funcSession) Reset()                                 {}
func (funcSession) Logout() error                          { return nil }
func (funcSession) Mail(string, *gosmtp.MailOptions) error { return nil }
func (funcSession) Rcpt(string, *gosmtp.RcptOptions) error { return nil }
func (f funcSession) Data(r io.Reader) error               { return f(r) }

type countingConn struct {
	tape
	writes int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes++
	return c.tape.Write(p)
}

func TestOptions(t *testing.T) {
	for key, change := range map[string]func(*Options){
		"hostname":         func(o *Options) { o.Domain = "a b" },
		"max_recipients":   func(o *Options) { o.MaxRecipients = -1 },
		"max_command_line": func(o *Options) { o.MaxLineLength = 100 },
		"max_text_line":    func(o *Options) { o.MaxTextLine = 100 },
		"idle_timeout":     func(o *Options) { o.IdleTimeout = -1 },
		"implicit_tls":     func(o *Options) { o.ImplicitTLS = true },
	} {
		o := DefaultOptions()
		change(&o)
		if _, err := New(o, Deps{Backend: &recorder{}}); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := New(DefaultOptions(), Deps{}); err == nil {
		t.Error("no error without a backend")
	}
}
