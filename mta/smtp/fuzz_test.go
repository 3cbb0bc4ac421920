package smtp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

// tape is a net.Conn whose peer sends a fixed stream in given pieces and then
// closes. Writes are collected.
type tape struct {
	in     []byte
	pieces []byte // sizes of the reads, in turn; 0 counts as 1
	next   int
	mu     sync.Mutex
	out    bytes.Buffer
}

func (c *tape) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := len(c.in)
	if len(c.pieces) > 0 {
		n = min(n, max(1, int(c.pieces[c.next%len(c.pieces)])))
		c.next++
	}
	n = copy(p, c.in[:n])
	c.in = c.in[n:]
	return n, nil
}

func (c *tape) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(p)
}
func (c *tape) Close() error                     { return nil }
func (c *tape) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *tape) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

func newServer(tb testing.TB, opt Options, deps Deps) *Server {
	tb.Helper()
	if deps.Backend == nil {
		deps.Backend = &recorder{}
	}
	srv, err := New(opt, deps)
	if err != nil {
		tb.Fatal(err)
	}
	return srv
}

// slowData is DATA byte by byte: what the content is, whether it is without
// fault, and what is left behind its end; ended is false if there is no end.
func slowData(in []byte, maxLine int) (content []byte, clean, ended bool, rest []byte) {
	clean = true
	bol, line := true, 0
	at := func(i int) byte {
		if i < len(in) {
			return in[i]
		}
		return 0xff
	}
	for i := 0; i < len(in); {
		switch {
		case bol && in[i] == '.' && at(i+1) == '\r' && at(i+2) == '\n':
			return content, clean, true, in[i+3:]
		case bol && in[i] == '.':
			i++
			bol = false
			continue
		case in[i] == '\r' && at(i+1) == '\n':
			content = append(content, '\r', '\n')
			bol, line = true, 0
			i += 2
			continue
		case in[i] == '\r', in[i] == '\n', in[i] == 0:
			clean = false
		}
		line++
		if line > maxLine {
			clean = false
		}
		content = append(content, in[i])
		bol = false
		i++
	}
	return content, clean, false, nil
}

func FuzzData(f *testing.F) {
	for _, s := range []string{
		".\r\n", "x\r\n.\r\nQUIT\r\n", "..\r\n.\r\n", "a\n.\nb\r\n.\r\n", "a\r\r\n.\r\nx", "a\r.\r\r\n.\r\n",
		"a\r\n.\rb\r\n.\r\n", "\x00\r\n.\r\n", "a\r\n.", "a\r\n.\r", "\r\n\r\n.\r\n", ".\n\r\n.\r\n", "..x\r\n.y\r\n.\r\n",
		strings.Repeat("l", 1000) + "\r\n.\r\n",
	} {
		f.Add([]byte(s), []byte{1}, byte(1))
		f.Add([]byte(s), []byte{2, 3, 1}, byte(0))
		f.Add([]byte(s), []byte{}, byte(7))
	}
	opt := DefaultOptions()
	opt.MaxTextLine = 998
	srv := newServer(f, opt, Deps{})
	f.Fuzz(func(t *testing.T, in, pieces []byte, chunk byte) {
		want, clean, ended, rest := slowData(in, opt.MaxTextLine)
		c := srv.newConn(&tape{in: in, pieces: pieces})
		defer c.cancel()
		c.in.grow()
		defer c.in.release()
		b := newBody(c)
		var got bytes.Buffer
		var err error
		if chunk == 0 {
			_, err = b.WriteTo(&got)
		} else {
			err = readBy(&got, b, int(chunk))
		}
		if whole := b.drain(1<<30, err != nil); !whole {
			t.Fatal("drain gave up")
		}
		switch {
		case ended != (b.cut == nil):
			t.Fatalf("ended %v, but cut %v", ended, b.cut)
		case ended && clean && (err != nil || b.refused != nil):
			t.Fatalf("refused: %v, %v", err, b.refused)
		case ended && clean && !bytes.Equal(got.Bytes(), want):
			t.Fatalf("content %q, want %q", got.Bytes(), want)
		case (!ended || !clean) && err == nil:
			t.Fatal("accepted")
		case ended && !clean && b.refused == nil:
			t.Fatal("not refused")
		}
		if left := append(bytes.Clone(c.in.pending()), c.nc.(*tape).in...); ended && !bytes.Equal(left, rest) {
			t.Fatalf("left %q, want %q", left, rest)
		}
	})
}

func readBy(dst *bytes.Buffer, r io.Reader, size int) error {
	buf := make([]byte, size)
	for {
		n, err := r.Read(buf)
		dst.Write(buf[:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"<a@b.example>", "<>", "<Postmaster>", `<"a\"b c"@x>`, "<@a,@b:c@d> SIZE=1", "<a@[IPv6:::1]>", "<a@[1.2.3.4]>",
		"<ä@ö> SMTPUTF8", "<a@b> NOTIFY=NEVER ORCPT=rfc822;a+40b", "<a@b> ENVID=x RET=FULL BODY=8BITMIME AUTH=<>", "<a@b> ORCPT=utf-8;\\x{10FFFF}@x",
	} {
		f.Add([]byte(s))
	}
	srv := newServer(f, DefaultOptions(), Deps{})
	f.Fuzz(func(t *testing.T, arg []byte) {
		if p, _, err := parsePath(arg); err == nil && p.addr != "" {
			again, rest, err := parsePath([]byte("<" + p.addr + ">"))
			if err != nil || len(rest) > 0 || again != p {
				t.Fatalf("%q does not parse as itself: %+v %v", p.addr, again, err)
			}
			if len(p.addr) > maxPath-2 || !printable([]byte(p.addr)) {
				t.Fatalf("bad address accepted: %q", p.addr)
			}
		}
		if s, ok := decodeXtext(arg); ok && len(s) > len(arg) {
			t.Fatalf("xtext grew: %q", s)
		}
		c := srv.newConn(&tape{})
		defer c.cancel()
		c.esmtp, c.utf8 = true, true
		mo, ro := &gosmtp.MailOptions{}, &gosmtp.RcptOptions{}
		if _, err := c.parseMail(append([]byte("FROM:"), arg...), mo); err == nil && !printableASCII(mo.EnvelopeID) {
			t.Fatalf("ENVID %q", mo.EnvelopeID)
		}
		if _, err := c.parseRcpt(append([]byte("TO:"), arg...), ro); err == nil && !printable([]byte(ro.OriginalRecipient)) {
			t.Fatalf("ORCPT %q", ro.OriginalRecipient)
		}
		for _, verb := range []string{"", "AUTH ", "XCLIENT ", "BDAT ", "EHLO ", "MAIL FROM:"} {
			splitVerb(append([]byte(verb), arg...))
			_ = maskAuth(append([]byte(verb), arg...))
		}
		_, _, _ = parseChunk(arg)
		_, _ = xclientAttrs(arg, []string{"NAME", "HELO"})
	})
}

var replyLine = regexp.MustCompile(`^[2-5]\d\d[ -][ -~\t]*$`)

func FuzzSession(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.dlg")
	for _, file := range files {
		d, err := loadDialogue(file)
		if err != nil {
			f.Fatal(err)
		}
		var stream []byte
		for _, s := range d.steps {
			switch s.op {
			case "C":
				stream = append(append(stream, s.arg...), "\r\n"...)
			case `C\`:
				raw, _ := unquote(s.arg)
				stream = append(stream, raw[:min(len(raw), 5000)]...)
			}
		}
		f.Add(stream, []byte{})
		f.Add(stream, []byte{40, 7, 1, 100})
	}
	f.Fuzz(func(t *testing.T, stream, pieces []byte) {
		rec := &recorder{auth: true, xclient: true}
		opt := DefaultOptions()
		opt.AllowInsecureAuth, opt.MaxErrors = true, 0
		opt.MaxMessageBytes, opt.DrainBytes = 4000, 8000
		var reason string
		srv := newServer(t, opt, Deps{
			Backend: rec,
			OnError: func(_ ConnID, _ string, err error) {
				if strings.HasPrefix(err.Error(), "panic") && !strings.Contains(err.Error(), "session bug") {
					t.Errorf("%v", err)
				}
			},
			OnClose: func(_ Conn, s Summary) { reason = s.Reason },
		})
		if bytes.Contains(stream, []byte("slow@")) {
			t.Skip("its session sleeps")
		}
		nc := &tape{in: stream, pieces: pieces}
		srv.ServeConn(nc)
		if reason == "" || srv.Conns() != 0 || rec.sessions != rec.logouts {
			t.Fatalf("ended %q, %d connections, %d sessions, %d logouts", reason, srv.Conns(), rec.sessions, rec.logouts)
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(nc.out.String(), "\r\n"), "\r\n") {
			if !replyLine.MatchString(line) {
				t.Fatalf("bad reply line %q", line)
			}
		}
		for _, m := range rec.accepted {
			text := strings.ReplaceAll(m.data, "\r\n", "")
			if strings.ContainsAny(text, "\r\n\x00") || m.data != "" && !strings.HasSuffix(m.data, "\r\n") || len(m.to) == 0 || len(m.data) > 4000 {
				t.Fatalf("accepted %+v", m)
			}
		}
		for _, err := range rec.readErrs {
			if errors.Is(err, io.EOF) {
				t.Fatalf("reader ended in %v", err)
			}
		}
	})
}
