package deliver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/internal/mail"
)

// chunks is a connection that yields its input in pieces and keeps what is written.
type chunks struct {
	net.Conn
	in      []byte
	size    int
	written []byte
}

func (c *chunks) Read(b []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), c.size)], c.in)
	c.in = c.in[n:]
	return n, nil
}
func (c *chunks) Write(b []byte) (int, error) {
	c.written = append(c.written, b...)
	return len(b), nil
}
func (c *chunks) SetDeadline(time.Time) error { return nil }

func readAll(in []byte, size int) (replies []mail.Reply, err error) {
	w := newWire(&chunks{in: in, size: size}, &pools{})
	for {
		if err := w.readReply(time.Minute); err != nil {
			if errors.Is(err, errMalformed) {
				replies = append(replies, w.parser.mailReply())
			}
			return replies, err
		}
		replies = append(replies, w.parser.mailReply())
	}
}

func TestReplies(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for in, want := range map[string]mail.Reply{
		"250 ok\r\n":                    {Code: 250, Text: "ok"},
		"250\r\n":                       {Code: 250},
		"250 \r\n":                      {Code: 250},
		"250 bare lf\n":                 {Code: 250, Text: "bare lf"},
		"250 2.0.0 Ok: queued as 1\r\n": {Code: 250, Enhanced: "2.0.0", Text: "Ok: queued as 1"},
		"250 2.0.0\r\n":                 {Code: 250, Enhanced: "2.0.0"},
		"550-5.1.1 first\r\n550-5.1.1 second\r\n550 5.1.1 third\r\n": {Code: 550, Enhanced: "5.1.1", Text: "first second third"},
		"550-first\r\n550 5.1.1 third\r\n":                           {Code: 550, Text: "first third"},
		"550 5.7.509 x\r\n":                                          {Code: 550, Enhanced: "5.7.509", Text: "x"},
		"550 4.7.1 wrong class\r\n":                                  {Code: 550, Text: "4.7.1 wrong class"},
		"550 5.7.1234 no\r\n":                                        {Code: 550, Text: "5.7.1234 no"},
		"550 5.7.1: colon\r\n":                                       {Code: 550, Text: "5.7.1: colon"},
		"550 5.7 short\r\n":                                          {Code: 550, Text: "5.7 short"},
		"250-a\r\n450 b\r\n":                                         {Code: 450, Text: "a b"},
		"550 bad \xff\xfe\tutf8 \xc3\xa4\r\n":                        {Code: 550, Text: "bad ? utf8 \u00e4"},
		"hello\r\n":                                                  {Text: "hello"},
		"199 x\r\n":                                                  {Text: "199 x"},
		"600 x\r\n":                                                  {Text: "600 x"},
		"250_x\r\n":                                                  {Text: "250_x"},
		"25\r\n":                                                     {Text: "25"},
		"550 " + long[:3000] + "\r\n":                                {Code: 550, Text: long[:1024]},
		"550 " + long + "\r\n":                                       {Text: "550 " + long[:1020]},
		"550 " + long[:1023] + "\u00e4\u00e4\r\n":                    {Code: 550, Text: long[:1023]},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			got, _ := readAll([]byte(in), size)
			if len(got) != 1 || got[0] != want {
				t.Errorf("%.60q in pieces of %d: %+v, want %+v", in, size, got, want)
			}
		}
	}
	if _, err := readAll([]byte(strings.Repeat("250-"+long[:500]+"\r\n", 200)), 4096); !errors.Is(err, errMalformed) {
		t.Errorf("an endless reply: %v", err)
	}
	if got, err := readAll([]byte("250 a\r\n354 b\r\n250 c"), 1<<20); len(got) != 2 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzReplies(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "x", "250-", "421 4.4.2\n\n", "250 \xff\r\n", "250-a\r\n\r\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size < 1 {
			size = 1
		}
		pieces, err1 := readAll(in, size)
		whole, err2 := readAll(in, 1<<20)
		if len(pieces) != len(whole) || (err1 == nil) != (err2 == nil) {
			t.Fatalf("%d replies in pieces, %d at once; %v, %v", len(pieces), len(whole), err1, err2)
		}
		for i, r := range whole {
			if pieces[i] != r {
				t.Fatalf("%+v in pieces, %+v at once", pieces[i], r)
			}
			if !utf8.ValidString(r.Text) || len(r.Text) > maxReplyText || strings.ContainsAny(r.Text, "\r\n\x00") {
				t.Fatalf("text %q", r.Text)
			}
			if r.Enhanced != "" && r.Enhanced[0] != byte('0'+r.Code/100) {
				t.Fatalf("%+v", r)
			}
		}
	})
}

// stuffed is the plain way to do what writeData does fast.
func stuffed(message []byte) []byte {
	var out []byte
	lineStart := true
	for _, c := range message {
		if lineStart && c == '.' {
			out = append(out, '.')
		}
		out = append(out, c)
		lineStart = c == '\n'
	}
	if len(message) > 0 && !bytes.HasSuffix(message, crlf) {
		out = append(out, crlf...)
	}
	return append(out, endOfData...)
}

// split cuts message into parts, also empty ones, at places that seed decides.
func split(message []byte, seed uint64) (parts net.Buffers) {
	for range 3 {
		at := int(seed % uint64(len(message)+1))
		seed /= 7
		parts = append(parts, message[:at])
		message = message[at:]
	}
	return append(parts, message)
}

func FuzzStuffing(f *testing.F) {
	for i, s := range []string{"", ".", "..", "a\r\n.\r\n", "a\n.\nb", "\r\n.", ".\r\n.\r\n.\r\n", "no end", "\n", "\r", strings.Repeat("\n.", 20000), strings.Repeat("x", 40000)} {
		f.Add([]byte(s), uint64(i)*123457)
	}
	f.Fuzz(func(t *testing.T, message []byte, seed uint64) {
		parts := split(message, seed)
		c := &chunks{}
		w := newWire(c, &pools{})
		if err := w.writeData(parts, int64(len(message)), time.Minute); err != nil {
			t.Fatal(err)
		}
		if want := stuffed(message); !bytes.Equal(c.written, want) {
			t.Fatalf("got %q, want %q", c.written, want)
		}
		if !bytes.Equal(bytes.Join(parts, nil), message) {
			t.Fatal("the parts were changed")
		}
	})
}

func TestHeaderASCII(t *testing.T) {
	for in, want := range map[string]bool{
		"A: b\r\n\r\n\xc3": true, "A: \xc3\r\n\r\n": false, "A: b\r\n|\r\n\xc3": true, "A: b\r\n\r\n|\xc3": true, "A: b\r\n|B: \xc3": false, "": true,
	} {
		var parts net.Buffers
		for _, p := range strings.Split(in, "|") {
			parts = append(parts, []byte(p))
		}
		if got := headerASCII(parts); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func FuzzCapabilities(f *testing.F) {
	f.Add("SIZE 1000")
	f.Add("LIMITS RCPTMAX=5 MAILMAX=x MAILMAX=-1")
	f.Add("size 99999999999999999999")
	f.Fuzz(func(t *testing.T, line string) {
		var c caps
		c.line([]byte(line))
		if c.maxSize < 0 || c.maxRcpt < 0 || c.maxMail < 0 {
			t.Fatalf("%+v", c)
		}
	})
}
