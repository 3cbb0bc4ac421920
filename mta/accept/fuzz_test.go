package accept

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

// FuzzMessage: whatever comes in, the header that goes out is well formed,
// has the fields that must be there and none that must not, and the body is untouched.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{
		"", "\r\n", "\r\nbody", "Subject: x\r\n\r\nbody\r\n", "Bcc: a\r\n b\r\n\r\n", "A: 1\r\n\tx\r\nBcc: y", "A\r\n\r\n",
		"X-Godwit-Stream: a\r\nX-Godwit-Tag: a=b\r\n\r\nx", "X-Godwit-Template: true\r\nX-Godwit-Substitutions: {}\r\n\r\n{{ a }}",
		"Date : x\r\nMessage-ID: y\r\n\r\n\x00\xff", "A: 1\n\n", "A: 1\r\r\n\r\n", "\r", "A: \r", strings.Repeat("Received: x\r\n", 60),
		"Resent-Bcc: x\r\n \r\n\r\n", "X-Godwit-: x\r\n\r\n", "X-Godwit-Deadline: 1h\r\nX-Godwit-Send-At: 7d\r\n\r\n",
	} {
		f.Add([]byte(s), false, 3)
		f.Add([]byte(s), true, 1000)
	}
	f.Fuzz(func(t *testing.T, in []byte, trusted bool, step int) {
		s := &spool{}
		d := newDoor(t, s, nil)
		inj := injection()
		inj.Trusted, inj.AnyTenant = trusted, trusted
		_, err := d.Message(context.Background(), inj, slow{bytes.NewReader(in), 1 + step&0xfff})
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Code/100 != e.Enhanced[0] || e.Message == "" || strings.ContainsAny(e.Message, "\r\n") {
				t.Fatalf("not a good refusal: %v", err)
			}
			nothingLeft(t, "refused", d, s)
			return
		}
		checkOutput(t, in, []byte(s.body(0)))
	})
}

func checkOutput(t *testing.T, in, out []byte) {
	t.Helper()
	head, body, ok := bytes.Cut(out, []byte("\r\n\r\n"))
	if !ok {
		t.Fatalf("no end of header in %q", out)
	}
	var want []byte
	if bytes.HasPrefix(in, []byte("\r\n")) {
		want = in[2:]
	} else if _, after, ok := bytes.Cut(in, []byte("\r\n\r\n")); ok {
		want = after
	}
	if !bytes.Equal(body, want) {
		t.Fatalf("body %q became %q", want, body)
	}
	count := map[string]int{}
	for i, line := range strings.Split(string(head), "\r\n") {
		if strings.ContainsAny(line, "\r\n\x00") || line == "" {
			t.Fatalf("bad header line %q", line)
		}
		if line[0] == ' ' || line[0] == '\t' {
			if i == 0 {
				t.Fatal("header begins with a continuation")
			}
			continue
		}
		name, _, ok := strings.Cut(line, ":")
		name = strings.ToLower(strings.TrimRight(name, " \t"))
		if !ok || name == "" || strings.HasPrefix(name, prefixOurs) && name != prefixOurs || name == "bcc" || name == "resent-bcc" {
			t.Fatalf("header line %q went through", line)
		}
		count[name]++
	}
	if count["received"] == 0 || count["date"] == 0 || count["message-id"] == 0 {
		t.Fatalf("missing fields: %v in %q", count, head)
	}
}

// FuzzAddress: what passes can stand in an SMTP command and a header.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a@b", `"a b"@c`, "a@[192.0.2.1]", "ä@ö", "a@b>\r\nRCPT", "postmaster", `"\`, "@", "a@[IPv6:::1]"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, in string, utf8 bool) {
		got, err := CheckAddress(in, utf8)
		if err != nil {
			return
		}
		if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r == 0x7f }) || !utf8 && !isASCII(got) {
			t.Fatalf("%q passed as %q", in, got)
		}
		if again, err := CheckAddress(got, utf8); err != nil || again != got {
			t.Fatalf("%q became %q, then %q, %v", in, got, again, err)
		}
	})
}
