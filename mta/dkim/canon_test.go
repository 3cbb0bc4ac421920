package dkim

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"
)

// slowBody is the definition of RFC 6376 §3.4.3 and §3.4.4 as it reads.
func slowBody(mode canonicalization, body string) string {
	if mode == relaxed {
		body = regexp.MustCompile(`[ \t]+\r\n`).ReplaceAllString(body, "\r\n")
		if strings.HasSuffix(body, " ") || strings.HasSuffix(body, "\t") {
			body = strings.TrimRight(body, " \t")
		}
		body = regexp.MustCompile(`[ \t]+`).ReplaceAllString(body, " ")
	}
	for strings.HasSuffix(body, "\r\n") {
		body = strings.TrimSuffix(body, "\r\n")
	}
	if body == "" && mode == relaxed {
		return ""
	}
	return body + "\r\n"
}

func TestBodyExamples(t *testing.T) {
	for _, c := range []struct{ name, in, relaxed, simple string }{
		{"RFC 6376 3.4.5", " C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n", " C \r\nD \t E\r\n"},
		{"empty", "", "", "\r\n"},
		{"only line ends", "\r\n\r\n", "", "\r\n"},
		{"only white space", " \t \r\n \r\n", "", " \t \r\n \r\n"},
		{"no line end", "a", "a\r\n", "a\r\n"},
		{"white space and no line end", "a \t", "a\r\n", "a \t\r\n"},
		{"single tab", "a\tb\r\n", "a b\r\n", "a\tb\r\n"},
		{"empty lines inside", "a\r\n\r\n \r\nb\r\n", "a\r\n\r\n\r\nb\r\n", "a\r\n\r\n \r\nb\r\n"},
		{"indented", "  <p>\r\n\t\t<b>x  y</b>  \r\n", " <p>\r\n <b>x y</b>\r\n", "  <p>\r\n\t\t<b>x  y</b>  \r\n"},
		{"high bytes", "\xc3\xa4 \xc3\xb6  \xff\r\n", "\xc3\xa4 \xc3\xb6 \xff\r\n", "\xc3\xa4 \xc3\xb6  \xff\r\n"},
		{"exclamation after space", "a !b !!  !\r\n", "a !b !! !\r\n", "a !b !!  !\r\n"},
		{"bare CR and LF", "a \rb \nc\r\n", "a \rb \nc\r\n", "a \rb \nc\r\n"},
		{"trailing bare CR", "a\r\n\r", "a\r\n\r\r\n", "a\r\n\r\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := canonicalBody(relaxed, []byte(c.in)); got != c.relaxed {
				t.Errorf("relaxed: got %q, want %q", got, c.relaxed)
			}
			if got := canonicalBody(simple, []byte(c.in)); got != c.simple {
				t.Errorf("simple: got %q, want %q", got, c.simple)
			}
		})
	}
}

// Every cut of a body into three slices gives what the whole gives.
func TestBodyChunks(t *testing.T) {
	body := []byte("  a \t b\tc  \r\n\r\n \t\r\nline of text with words\tand  gaps \r\nx\r\r\n\r\n \r\n\t\r\n")
	for _, mode := range []canonicalization{relaxed, simple} {
		want := slowBody(mode, string(body))
		for i := range len(body) + 1 {
			for j := i; j <= len(body); j++ {
				if got := canonicalBody(mode, body[:i], body[i:j], body[j:]); got != want {
					t.Fatalf("%s cut at %d and %d: got %q, want %q", mode, i, j, got, want)
				}
			}
		}
	}
}

func TestHeaderExample(t *testing.T) {
	// RFC 6376 §3.4.5.
	fields := splitFields(nil, []byte("A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\n"))
	var got []byte
	for _, f := range fields {
		got = appendField(got, f, relaxed)
	}
	if want := "a:X\r\nb:Y Z\r\n"; string(got) != want {
		t.Errorf("relaxed: got %q, want %q", got, want)
	}
	got = nil
	for _, f := range fields {
		got = appendField(got, f, simple)
	}
	if want := "A: X\r\nB : Y\t\r\n\tZ  \r\n"; string(got) != want {
		t.Errorf("simple: got %q, want %q", got, want)
	}
}

func FuzzBody(f *testing.F) {
	for _, s := range []string{
		"", "\r\n", " C \r\nD \t E\r\n\r\n\r\n", "a  b   c\td \t\r\n", "12345678 \r\n1234567 \t8\r\n", "\t", "  x",
		strings.Repeat("word ", 40) + "\r\n \r\n",
	} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, body string, cut int) {
		// Only CR LF occurs in the engine; a bare CR or LF is tested by example.
		body = strings.ReplaceAll(strings.ReplaceAll(body, "\r", ""), "\n", "\r\n")
		if cut < 0 || cut > len(body) {
			cut = len(body) / 2
		}
		for _, mode := range []canonicalization{relaxed, simple} {
			want := slowBody(mode, body)
			if got := canonicalBody(mode, []byte(body[:cut]), []byte(body[cut:])); got != want {
				t.Fatalf("%s of %q cut at %d: got %q, want %q", mode, body, cut, got, want)
			}
		}
	})
}

func benchBodies() map[string][]byte {
	return map[string][]byte{
		"dense": bytes.Repeat([]byte(strings.Repeat("x", 74)+"\r\n"), 135),
		"words": bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog and the next one is not so lazy.\r\n"), 131),
		"html":  bytes.Repeat([]byte("        <td class=\"a\">\r\n            <a href=\"https://example.com/\">x</a>\r\n        </td>\r\n"), 120),
	}
}

func BenchmarkBody(b *testing.B) {
	for name, body := range benchBodies() {
		b.Run(name+"/sha256", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				sha256.Sum256(body)
			}
		})
		b.Run(name+"/relaxed", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			h := sha256.New()
			var hasher bodyHasher
			var sum [32]byte
			for b.Loop() {
				hasher.reset(h, relaxed)
				hasher.write(body)
				hasher.sum(&sum)
			}
		})
	}
}
