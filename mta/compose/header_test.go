package compose

import (
	"mime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/internal/mail"
)

func TestFromDomain(t *testing.T) {
	for from, want := range map[string]string{
		"a@Example.COM":                               "example.com",
		"A <a@example.com>":                           "example.com",
		"\"x@evil.example\" <a@example.com>":          "example.com",
		"x@evil.example <a@example.com>":              "example.com",
		"\"a \\\" <b@evil.example>\" <a@example.com>": "example.com",
		"(x@evil.example) a@example.com":              "example.com",
		"a@example.com (x@evil.example)":              "example.com",
		"a@example.com, b@evil.example":               "example.com",
		"A <a@example.com>, b@evil.example":           "example.com",
		"\"a@b\"@example.com":                         "example.com",
		"<\"a>b\"@example.com>":                       "example.com",
		"\r\n A\r\n <a@example.com>":                  "example.com",
		"<@relay.example:a@example.com>":              "example.com",
		"team: a@example.com;":                        "example.com",
		"a@example.com.":                              "example.com",
		"Acme, Inc. <a@example.com>":                  "example.com",
		"<a@example.com":                              "example.com",
		"A <> <a@example.com>":                        "example.com",
		"a@[192.0.2.1]":                               "",
		"":                                            "",
		"nobody":                                      "",
		"undisclosed:;":                               "",
		"jürgen@bücher.example":                       "bücher.example",
	} {
		header := "Subject: x\r\nfrom: " + from + "\r\nFrom: second@evil.example\r\n\r\n"
		if got := fromDomain([]byte(header)); got != want {
			t.Errorf("%q: got %q, want %q", from, got, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, s := range []string{"x", "Grüße", "Acme, Inc. <a@example.com>", "=?utf-8?q?x?=", strings.Repeat("ä ", 100), strings.Repeat("y", 1200), "a\tb  c "} {
		f.Add("Subject", s)
		f.Add("To", s)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		out, err := appendHeader(nil, name, value)
		if err != nil {
			return
		}
		text, found := strings.CutSuffix(string(out), "\r\n")
		if !found {
			t.Fatalf("no line end: %q", out)
		}
		for i, line := range strings.Split(text, "\r\n") {
			if i > 0 && (line == "" || line[0] != ' ' && line[0] != '\t' || strings.Trim(line, " \t") == "") || strings.ContainsAny(line, "\r\n") || len(line) > maxLine {
				t.Fatalf("bad line %q in %q", line, out)
			}
		}
		lower := strings.ToLower(name)
		if isAddressField(lower) {
			return // net/mail has read it and written it again
		}
		if !ascii(out) {
			t.Fatalf("8-bit byte in %q", out)
		}
		if strings.Contains(value, "=?") || !utf8.ValidString(value) {
			return
		}
		back, err := new(mime.WordDecoder).DecodeHeader(unfold(out))
		if err != nil || back != strings.Trim(value, " \t") && strings.Join(strings.Fields(back), " ") != strings.Join(strings.Fields(value), " ") {
			t.Fatalf("%q came back as %q, %v", value, back, err)
		}
	})
}

func TestParseAddresses(t *testing.T) {
	for list, want := range map[string]string{
		"a@example.com":                                 "To: a@example.com\r\n",
		"A B <a@example.com>":                           "To: A B <a@example.com>\r\n",
		"\"A, B\" <a@example.com>":                      "To: \"A, B\" <a@example.com>\r\n",
		"A \"q\", B <a@example.com>":                    "To: \"A \\\"q\\\", B\" <a@example.com>\r\n",
		"=?utf-8?q?Zo=C3=AB?= <a@example.com>, b@x.org": "To: =?utf-8?q?Zo=C3=AB?= <a@example.com>, b@x.org\r\n",
		"\"a b\"@example.com":                           "To: \"a b\"@example.com\r\n",
		"undisclosed-recipients:;":                      "To: undisclosed-recipients:;\r\n",
	} {
		got, err := appendHeader(nil, "To", list)
		if err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v", list, got, err)
		}
	}
	for _, list := range []string{"a@x.org, <b@x.org> c <d@x.org>", "ä", "evil@x.org <a@x.org", "a@x.org ä <b@x.org>, ü"} {
		if got, err := appendHeader(nil, "From", list); err == nil {
			t.Errorf("%q was taken: %q", list, got)
		}
	}
}

func TestCache(t *testing.T) {
	c := newCache(100)
	load := func(size int64) func() (*plan, error) {
		return func() (*plan, error) { return &plan{size: size}, nil }
	}
	id := func(n byte) mail.ID { return mail.ID{n} }
	for n := range byte(3) {
		if _, hit, err := c.get(id(n), load(40)); hit || err != nil {
			t.Fatal(hit, err)
		}
	}
	if c.used != 80 || len(c.items) != 2 {
		t.Errorf("used %d by %d", c.used, len(c.items))
	}
	if _, hit, _ := c.get(id(1), load(40)); !hit {
		t.Error("1 is gone")
	}
	if _, hit, _ := c.get(id(0), load(40)); hit {
		t.Error("0 is still there")
	}
	if _, hit, _ := c.get(id(2), load(40)); hit {
		t.Error("2 was used least recently and is still there")
	}
	if p, _, _ := c.get(id(9), load(1000)); p == nil || c.items[id(9)] != nil || c.used != 80 {
		t.Errorf("an oversized plan: %v, used %d", p, c.used)
	}
	_, _, err := c.get(id(20), func() (*plan, error) { return nil, errFieldLong })
	if err == nil || c.items[id(20)] != nil {
		t.Error("a failed load was kept")
	}
}
