package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/mail"
)

func TestRawIsNotCopied(t *testing.T) {
	s, records := signer(t)
	raw := []byte("Received: x\r\nFrom: \"a@evil.example\" <a@example.com>\r\nSubject: x\r\n\r\nbody  text\r\n.\r\n")
	b := &memory{data: raw}
	composed, err := newComposer(t, b, s).Compose(context.Background(), message(mail.BodyRaw, ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(composed.Parts) != 3 || &composed.Parts[1][0] != &raw[0] || &composed.Parts[2][0] != &raw[len(raw)-len(composed.Parts[2])] {
		t.Errorf("%d parts, not those of the body", len(composed.Parts))
	}
	var out bytes.Buffer
	if _, err := composed.Parts.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if n := verify(t, records, out.Bytes()); n != 2 {
		t.Errorf("%d signatures", n)
	}
	if b.held.Load() != 1 {
		t.Error("released too early")
	}
	composed.Release()
	composed.Release()
	if b.held.Load() != 0 {
		t.Errorf("held %d after Release", b.held.Load())
	}
}

func TestRaw(t *testing.T) {
	s, records := signer(t)
	const head = "From: a@example.com\r\nSubject: x\r\n"
	for _, c := range []struct {
		name, raw  string
		change     func(*Options)
		signatures int
		want       string // the part behind the signatures; "" is raw itself
	}{
		{"plain", head + "\r\nbody\r\n", nil, 2, ""},
		{"no body", head, nil, 2, ""},
		{"no header", "\r\nbody\r\n", nil, 0, ""},
		{"null reverse path report", "From: MAILER-DAEMON@example.com\r\nAuto-Submitted: auto-replied\r\n\r\nfailed\r\n", nil, 2, ""},
		{"other domain", "From: a@example.org\r\n\r\nbody\r\n", nil, 0, ""},
		{"extra domain", "From: a@example.org\r\n\r\nbody\r\n", func(o *Options) { o.SigningDomains = []string{"example.com"} }, 2, ""},
		{"extra domain is the same", head + "\r\nbody\r\n", func(o *Options) { o.SigningDomains = []string{"Example.com"} }, 2, ""},
		{"8 bits converted", head + "\r\nä\r\n", nil, 2, head + "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A4\r\n"},
		{"8 bits passed", head + "\r\nä\r\n", func(o *Options) { o.EightBit = "pass" }, 2, ""},
		{"8 bits malformed", head + "Content-Type: multipart/mixed\r\n\r\nä\r\n", nil, 2, ""},
		{"SMTPUTF8", "From: Jürgen <jürgen@example.com>\r\n\r\nä\r\n", nil, 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := DefaultOptions()
			if c.change != nil {
				c.change(&o)
			}
			b := &memory{data: []byte(c.raw)}
			composer, err := New(o, Deps{Bodies: b, Signer: s})
			if err != nil {
				t.Fatal(err)
			}
			out := compose(t, composer, message(mail.BodyRaw, ""))
			if c.want == "" {
				c.want = c.raw
			}
			if !bytes.HasSuffix(out, []byte(c.want)) || c.signatures == 0 && string(out) != c.want {
				t.Errorf("got %q", out)
			}
			if strings.Contains(c.raw, "\r\n\r\n") && verify(t, records, out) != c.signatures {
				t.Errorf("not %d signatures", c.signatures)
			}
			if b.held.Load() != 0 {
				t.Error("not released")
			}
		})
	}
	signed := "DKIM-Signature: v=1; d=example.org\r\n" + head + "\r\nä\r\n"
	out := compose(t, newComposer(t, &memory{data: []byte(signed)}, nil), message(mail.BodyRaw, ""))
	if string(out) != signed {
		t.Errorf("a signed message was changed: %q", out)
	}
}

func TestRawTemplate(t *testing.T) {
	s, records := signer(t)
	raw := "Received: by mx\n\tfor x\nFrom: {{ brand }} <news@example.com>\nTo: {{ name }}\n <{{ recipient }}>\nSubject: Hi\n {{ name }}\n{{ nothing }}\nBcc: x@example.org\nX-Godwit-Tenant: t\nX-Empty:\n\nDear {{ name }},\n{{ lines }}\n.\n"
	b := &memory{data: []byte(raw)}
	c := newComposer(t, b, nil)
	m := message(mail.BodyRawTemplate, `{"name":"Zoë","brand":"Acme, Inc.","nothing":"","lines":"a\nb\r\nc"}`)
	out := compose(t, c, m)
	golden(t, "testdata/compose/raw-template.eml", out)
	if !ascii(out) {
		t.Error("not converted")
	}
	if n := verify(t, records, compose(t, newComposer(t, b, s), m)); n != 2 {
		t.Errorf("%d signatures", n)
	}
	if b.held.Load() != 0 || b.loads.Load() != 2 {
		t.Errorf("held %d, loaded %d times", b.held.Load(), b.loads.Load())
	}
}

func TestHeaderInjection(t *testing.T) {
	raw := &memory{data: []byte("From: a@example.com\r\nSubject: Hi {{ name }}\r\n\r\n{{ name }}\r\n")}
	for _, value := range []string{"x\r\nBcc: eve@example.org", "x\ny", "x\ry", "x\r\n y", "x\x00y", "x" + lineMark + "Bcc: y"} {
		substitutions, err := json.Marshal(map[string]string{"name": value})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []func() mail.Outcome{
			func() mail.Outcome {
				return failure(t, newComposer(t, raw, nil), message(mail.BodyRawTemplate, string(substitutions)))
			},
			func() mail.Outcome {
				b := &memory{data: contentJSON(t, mail.Content{From: "a@example.com", Subject: "Hi {{ name }}", Text: "x", Templates: true})}
				if strings.Contains(value, lineMark) {
					return mail.Outcome{Kind: mail.Bounced, Class: mail.ClassRender}
				}
				return failure(t, newComposer(t, b, nil), message(mail.BodyContent, string(substitutions)))
			},
			func() mail.Outcome {
				b := &memory{data: contentJSON(t, mail.Content{From: "{{ name }} <a@example.com>", Text: "x", Templates: true})}
				if strings.Contains(value, lineMark) {
					return mail.Outcome{Kind: mail.Bounced, Class: mail.ClassRender}
				}
				return failure(t, newComposer(t, b, nil), message(mail.BodyContent, string(substitutions)))
			},
		} {
			if o := f(); o.Kind != mail.Bounced || o.Class != mail.ClassRender {
				t.Errorf("%q: %+v", value, o)
			}
		}
	}
	// The same line ends are welcome in a body.
	raw.data = []byte("From: a@example.com\r\n\r\n{{ name }}\r\n")
	out := compose(t, newComposer(t, raw, nil), message(mail.BodyRawTemplate, `{"name":"a\nb"}`))
	if !bytes.HasSuffix(out, []byte("\r\n\r\na\r\nb\r\n")) {
		t.Errorf("got %q", out)
	}
}
