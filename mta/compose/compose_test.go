package compose

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gomessage "github.com/emersion/go-message"
	gomail "github.com/emersion/go-message/mail"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/render"
	"github.com/godwit-mta/godwit/mta/dkim"
)

var (
	update = flag.Bool("update", false, "rewrite the golden files")

	_ Renderer = (*render.Engine)(nil)
	_ Checker  = (*render.Engine)(nil)
	_ Signer   = (*dkim.Signer)(nil)
	_ Signer   = (*dkim.Live)(nil)
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden compares got with a file that has LF line ends.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	text := strings.ReplaceAll(string(got), "\r\n", "\n")
	if strings.Contains(text, "\r") {
		t.Error("a bare CR")
	}
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("differs from %s (-update rewrites it):\n%s", file, text)
	}
}

var contents = []struct {
	name          string
	content       mail.Content
	substitutions string
}{
	{"text", mail.Content{From: "news@example.com", Subject: "Hello", Text: "Line one\nLine two"}, ""},
	{"empty", mail.Content{From: "news@example.com"}, ""},
	{"alternative", mail.Content{
		From: "Acme, Inc. <news@example.com>", ReplyTo: "Jürgen <help@example.com>", Subject: "Grüße aus Köln – und noch viel mehr, damit die Zeile gefaltet werden muss",
		Text: "Grüße\n", HTML: "<p>Grüße</p>\n" + strings.Repeat("<td>cell</td>", 20), AMP: "<html ⚡4email></html>",
		Headers: []mail.Header{
			{Name: "List-Unsubscribe", Value: "<https://example.com/u/1>, <mailto:u@example.com>"},
			{Name: "List-Unsubscribe-Post", Value: "List-Unsubscribe=One-Click"},
			{Name: "X-Campaign", Value: "Frühling"},
			{Name: "Cc", Value: "Zoë <z@example.org>, plain@example.org"},
			{Name: "Bcc", Value: "secret@example.org"}, {Name: "X-Godwit-Tenant", Value: "t"}, {Name: "Subject", Value: "other"},
		},
	}, ""},
	{"attachments", mail.Content{
		From: "news@example.com", To: "Joe Doe <joe@example.org>", Subject: "Files", Text: "see", HTML: `<img src="cid:logo@x">`,
		Attachments: []mail.Attachment{
			{Name: "logo.png", Type: "image/png", ContentID: "<logo@x>", Data: []byte{0x89, 'P', 'N', 'G', 0, 1, 2}},
			{Name: "Rechnung für \"März\".pdf", Type: "application/pdf", Data: bytes.Repeat([]byte("%PDF"), 40)},
			{Name: "", Type: "no type", Data: []byte("x")},
			{Name: "m.eml", Type: "message/rfc822", Data: []byte("From: a@b.example\n\nhi\n")},
			{Name: "8.eml", Type: "message/rfc822", Data: []byte("From: a@b.example\n\nä\n")},
			{Name: "t.csv", Type: "text/csv; charset=utf-8", Data: []byte("a,ä\n")},
		},
	}, ""},
	{"template", mail.Content{
		From: "{{ brand }} <news@example.com>", To: "{{ name }} <{{ recipient }}>", Subject: "Hi {{ name }}", Templates: true,
		Text: "Dear {{ name }},\nyou have {{ points }} points and {{ rate }}.\n", HTML: "<p>{{ name }}</p>",
		Headers:     []mail.Header{{Name: "X-Id", Value: "{{ id }}"}},
		Attachments: []mail.Attachment{{Name: "a.bin", Type: "application/octet-stream", Data: make([]byte, 100)}},
	}, `{"name":"Zoë <b>","points":12345678901,"rate":1.5,"brand":"Müller & \"Söhne\"","id":7}`},
	{"literal", mail.Content{From: "news@example.com", Subject: "{{ name }}", Text: "{{ name }} is not rendered"}, `{"name":"x"}`},
	{"own-date", mail.Content{From: "news@example.com", Subject: "x", Text: "x", Headers: []mail.Header{
		{Name: "Date", Value: "Fri, 20 Nov 2026 10:00:00 +0000"}, {Name: "Message-Id", Value: "<mine@example.com>"}}}, ""},
}

func TestContentGolden(t *testing.T) {
	s, records := signer(t)
	for _, test := range contents {
		t.Run(test.name, func(t *testing.T) {
			b := &memory{data: contentJSON(t, test.content)}
			m := message(mail.BodyContent, test.substitutions)
			out := compose(t, newComposer(t, b, nil), m)
			golden(t, filepath.Join("testdata/compose", test.name+".eml"), out)
			if !ascii(out) {
				t.Error("not 7-bit safe")
			}
			for line := range bytes.SplitSeq(out, []byte("\r\n")) {
				if len(line) > 78 {
					t.Errorf("line of %d: %s", len(line), line)
				}
			}
			checkParts(t, test.content, test.substitutions, out)
			signed := compose(t, newComposer(t, b, s), m)
			if n := verify(t, records, signed); n != 2 {
				t.Errorf("%d signatures", n)
			}
			if !bytes.HasSuffix(signed, out) || !bytes.HasPrefix(signed, []byte("DKIM-Signature:")) {
				t.Error("a signed message is not the signatures and the message")
			}
			if b.held.Load() != 0 {
				t.Errorf("%d bodies were not released", b.held.Load())
			}
		})
	}
}

// checkParts reads the message by go-message and compares what a reader would see.
func checkParts(t *testing.T, content mail.Content, substitutions string, out []byte) {
	t.Helper()
	vars, err := parseSubstitutions([]byte(substitutions))
	if err != nil {
		t.Fatal(err)
	}
	vars["recipient"] = "joe@example.org"
	want := func(src string, html bool) string {
		if content.Templates {
			src, _ = fakeRenderer{}.Render(context.Background(), src, vars, html)
		}
		return strings.TrimSuffix(strings.ReplaceAll(src, "\n", "\r\n"), "\r\n")
	}
	entity, err := gomessage.Read(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	header := gomail.Header{Header: entity.Header}
	if subject, err := header.Subject(); err != nil || subject != want(content.Subject, false) {
		t.Errorf("subject %q, %v", subject, err)
	}
	from, err := header.AddressList("From")
	if err != nil || len(from) != 1 || from[0].Address != "news@example.com" {
		t.Errorf("from %v, %v", from, err)
	}
	to, err := header.AddressList("To")
	if err != nil || len(to) != 1 || to[0].Address != "joe@example.org" {
		t.Errorf("to %v, %v", to, err)
	}
	seen := map[string]string{}
	var files [][]byte
	err = entity.Walk(func(_ []int, e *gomessage.Entity, err error) error {
		if err != nil {
			return err
		}
		media, _, _ := e.Header.ContentType()
		if strings.HasPrefix(media, "multipart/") {
			return nil
		}
		data, err := io.ReadAll(e.Body)
		if disposition, _, _ := e.Header.ContentDisposition(); disposition != "" {
			files = append(files, data)
		} else {
			seen[media] = strings.TrimSuffix(string(data), "\r\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for media, text := range map[string]string{
		"text/plain": want(content.Text, false), "text/html": want(content.HTML, true), "text/x-amp-html": want(content.AMP, true),
	} {
		if seen[media] != text {
			t.Errorf("%s: got %q, want %q", media, seen[media], text)
		}
	}
	if len(files) != len(content.Attachments) {
		t.Fatalf("%d attachments", len(files))
	}
	for i, a := range content.Attachments {
		data := bytes.ReplaceAll(files[i], []byte("\r\n"), []byte("\n"))
		if !bytes.Equal(data, a.Data) {
			t.Errorf("attachment %d: %q", i, data)
		}
	}
}

// The engine's own renderer fits: escaping, numbers, places.
func TestDjangoTemplates(t *testing.T) {
	engine, err := render.New(render.DefaultOptions(), render.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	compose1 := func(kind mail.BodyKind, data []byte, substitutions string) (string, error) {
		c, err := New(DefaultOptions(), Deps{Bodies: &memory{data: data}, Renderer: engine})
		if err != nil {
			t.Fatal(err)
		}
		composed, err := c.Compose(context.Background(), message(kind, substitutions))
		if err != nil {
			return "", err
		}
		defer composed.Release()
		return string(bytes.Join(composed.Parts, nil)), nil
	}
	content := mail.Content{From: "a@example.com", Subject: "{% if n > 2 %}{{ n }} & more{% endif %}", HTML: "<p>{{ name }} {{ n }} {{ recipient }}</p>", Templates: true}
	out, err := compose1(mail.BodyContent, contentJSON(t, content), `{"n":3,"name":"<b>"}`)
	if err != nil || !strings.Contains(out, "Subject: 3 & more\r\n") || !strings.Contains(out, "<p>&lt;b&gt; 3 joe@example.org</p>") {
		t.Errorf("%v\n%s", err, out)
	}
	raw := "From: a@example.com\nX-A: {% if x %}1{% endif %}\n{% if y %}X-B: 2\n{% endif %}Subject: s\n\n{% for i in list %}{{ i }}\n{% endfor %}"
	out, err = compose1(mail.BodyRawTemplate, []byte(raw), `{"x":1,"list":["a","b"]}`)
	if err != nil || !strings.HasPrefix(out, "From: a@example.com\r\nX-A: 1\r\nSubject: s\r\n") || !strings.HasSuffix(out, "\r\n\r\na\r\nb\r\n") {
		t.Errorf("%v\n%s", err, out)
	}
	_, err = compose1(mail.BodyRawTemplate, []byte("From: a@example.com\nSubject: s\n {{ x|nofilter }}\n\nx\n"), "")
	if err == nil || !strings.Contains(err.Error(), "template error in the message header, line 3, column ") {
		t.Errorf("got %v", err)
	}
}

func TestFailures(t *testing.T) {
	content := func(c mail.Content) *memory { return &memory{data: contentJSON(t, c)} }
	from := "a@example.com"
	for _, c := range []struct {
		name string
		body *memory
		m    *mail.Message
		kind mail.OutcomeKind
		text string
	}{
		{"html", content(mail.Content{From: from, HTML: "<p>\n  {{ bad }}", Templates: true}), message(mail.BodyContent, ""), mail.Bounced, "template error in html, line 2, column 3: unknown filter"},
		{"subject", content(mail.Content{From: from, Subject: "{{ bad }}", Templates: true}), message(mail.BodyContent, ""), mail.Bounced, "template error in subject, line 1, column 1"},
		{"header", content(mail.Content{From: from, Templates: true, Headers: []mail.Header{{Name: "X-A", Value: "a{{ bad }}"}}}), message(mail.BodyContent, ""), mail.Bounced, "template error in header X-A, line 1, column 2"},
		{"raw header", &memory{data: []byte("From: a@example.com\nSubject: ä\n {{ bad }}\n\nx\n")}, message(mail.BodyRawTemplate, ""), mail.Bounced, "template error in the message header, line 3, column 2"},
		{"raw body", &memory{data: []byte("From: a@example.com\nSubject: {{ a }}\n\nx\ny{{ bad }}\n")}, message(mail.BodyRawTemplate, ""), mail.Bounced, "template error in the message body, line 5, column 2"},
		{"substitutions", content(mail.Content{From: from, Text: "{{ a }}", Templates: true}), message(mail.BodyContent, `[1]`), mail.Bounced, "substitutions: not a JSON object"},
		{"from", content(mail.Content{From: "nobody", Text: "x"}), message(mail.BodyContent, ""), mail.Bounced, "from: not an address"},
		{"header name", content(mail.Content{From: from, Headers: []mail.Header{{Name: "A B", Value: "x"}}}), message(mail.BodyContent, ""), mail.Bounced, "not a header field name"},
		{"long header", content(mail.Content{From: from, Headers: []mail.Header{{Name: "List-Unsubscribe", Value: "<https://x/" + strings.Repeat("y", 1000) + ">"}}}), message(mail.BodyContent, ""), mail.Bounced, "longer than 998"},
		{"content id", content(mail.Content{From: from, Attachments: []mail.Attachment{{ContentID: "a\r\nb"}}}), message(mail.BodyContent, ""), mail.Bounced, "attachments[0]: content_id"},
		{"no field", &memory{data: []byte("From: a@example.com\n{{ x }}\n\nx\n")}, message(mail.BodyRawTemplate, `{"x":"nonsense"}`), mail.Bounced, "is not a header field"},
		{"stored content", &memory{data: []byte("{")}, message(mail.BodyContent, ""), mail.Deferred, "cannot be read"},
		{"body", &memory{err: errors.New("disk")}, message(mail.BodyRaw, ""), mail.Deferred, "cannot be read now"},
		{"body of a content", &memory{err: errors.New("disk")}, message(mail.BodyContent, ""), mail.Deferred, "cannot be read now"},
		{"kind", &memory{}, message(99, ""), mail.Deferred, "unknown kind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := failure(t, newComposer(t, c.body, nil), c.m)
			class := mail.ClassRender
			if c.kind == mail.Deferred {
				class = mail.ClassPolicy
			}
			if o.Kind != c.kind || o.Class != class || !strings.Contains(o.Reply.Text, c.text) {
				t.Errorf("got %+v", o)
			}
			if c.kind == mail.Deferred && o.Error == "" {
				t.Error("no internal cause")
			}
			if c.body.held.Load() != 0 {
				t.Error("body not released")
			}
		})
	}
	b := content(mail.Content{From: from, Text: "{{ a }}", Templates: true})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := newComposer(t, b, nil).Compose(ctx, message(mail.BodyContent, ""))
	if e, ok := errors.AsType[*mail.OutcomeError](err); !ok || e.Outcome.Kind != mail.Deferred {
		t.Errorf("a cancelled rendering ends as %v", err)
	}
	if c, err := New(DefaultOptions(), Deps{Bodies: b}); err != nil {
		t.Error(err)
	} else if o := failure(t, c, message(mail.BodyContent, "")); o.Kind != mail.Deferred {
		t.Errorf("no renderer: %+v", o)
	}
}

// brokenSigner fails, or records what it was given.
type brokenSigner struct{ err error }

func (s brokenSigner) Sign(string, time.Time, []byte, ...[]byte) ([]byte, error) { return nil, s.err }
func (s brokenSigner) SignDigest(string, time.Time, []byte, *[2][32]byte, ...[]byte) ([]byte, error) {
	return nil, s.err
}

func TestSignerFails(t *testing.T) {
	for _, c := range []struct {
		kind mail.BodyKind
		data []byte
	}{
		{mail.BodyRaw, []byte("From: a@example.com\r\n\r\nx\r\n")},
		{mail.BodyRawTemplate, []byte("From: a@example.com\r\n\r\nx\r\n")},
		{mail.BodyContent, contentJSON(t, mail.Content{From: "a@example.com", Text: "x"})},
	} {
		b := &memory{data: c.data}
		o := failure(t, newComposer(t, b, brokenSigner{errors.New("no key")}), message(c.kind, ""))
		if o.Kind != mail.Deferred || o.Class != mail.ClassPolicy || o.Error != "no key" || strings.Contains(o.Reply.Text, "no key") {
			t.Errorf("%+v", o)
		}
		if b.held.Load() != 0 {
			t.Error("body not released")
		}
	}
}

// Many messages of one content at once: one load, and each its own header.
func TestSharedContent(t *testing.T) {
	s, records := signer(t)
	for _, templates := range []bool{false, true} {
		b := &memory{data: contentJSON(t, mail.Content{
			From: "a@example.com", Subject: "x", Text: "Hello {{ name }}", Templates: templates,
			Attachments: []mail.Attachment{{Name: "big", Data: bytes.Repeat([]byte("x"), 20_000)}},
		})}
		r := prometheus.NewRegistry()
		c, err := New(DefaultOptions(), Deps{Bodies: b, Renderer: fakeRenderer{}, Signer: s, Registerer: r})
		if err != nil {
			t.Fatal(err)
		}
		var ids mail.IDs
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5 {
					m := message(mail.BodyContent, `{"name":"Zoë"}`)
					m.ID = ids.New(acceptedAt)
					out := compose(t, c, m)
					if !bytes.Contains(out, []byte("Message-ID: <"+m.ID.String()+"@example.com>")) {
						t.Errorf("no own Message-ID")
					}
					if n := verify(t, records, out); n != 2 {
						t.Errorf("%d signatures", n)
					}
				}
			})
		}
		wg.Wait()
		if b.loads.Load() != 1 || b.held.Load() != 0 {
			t.Errorf("loaded %d times, held %d", b.loads.Load(), b.held.Load())
		}
	}
}

func TestSMTPUTF8(t *testing.T) {
	b := &memory{data: contentJSON(t, mail.Content{From: "Jürgen <jürgen@example.com>", Subject: "x", Text: "x"})}
	m := message(mail.BodyContent, "")
	m.Recipient, m.SMTPUTF8 = "пример@bücher.example", true
	out := string(compose(t, newComposer(t, b, nil), m))
	for _, want := range []string{"To: пример@bücher.example\r\n", "<jürgen@example.com>\r\n", "From: =?utf-8?"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	m.Recipient = "joe@bücher.example"
	if out := string(compose(t, newComposer(t, b, nil), m)); !strings.Contains(out, "To: joe@xn--bcher-kva.example\r\n") {
		t.Errorf("domain is not in A-labels\n%s", out)
	}
	m.Recipient = "joe@[192.0.2.1]"
	if out := string(compose(t, newComposer(t, b, nil), m)); !strings.Contains(out, "To: ") {
		t.Errorf("no To\n%s", out)
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"eightbit:":        func(o *Options) { o.EightBit = "" },
		"signing_domains,": func(o *Options) { o.SigningDomains = []string{"a b"} },
		"cache_size:":      func(o *Options) { o.CacheSize = -1 },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestCheckBody(t *testing.T) {
	for _, c := range []struct {
		kind mail.BodyKind
		data []byte
		want string
	}{
		{mail.BodyRaw, []byte("{{ bad }}"), ""},
		{mail.BodyRawTemplate, []byte("From: a@example.com\r\nSubject: {{ x }}\r\n\r\nx\r\n"), ""},
		{mail.BodyRawTemplate, []byte("From: a@example.com\r\nSubject: {{ bad }}\r\n\r\nx\r\n"), "template error in the message header, line 2, column 10: unknown filter"},
		{mail.BodyRawTemplate, []byte("From: a@example.com\r\n\r\n{{ bad }}\r\n"), "template error in the message body, line 3, column 1: unknown filter"},
		{mail.BodyContent, contentJSON(t, mail.Content{HTML: "{{ bad }}"}), ""},
		{mail.BodyContent, contentJSON(t, mail.Content{HTML: "{{ bad }}", Templates: true}), "template error in html, line 1, column 1: unknown filter"},
		{mail.BodyContent, contentJSON(t, mail.Content{Templates: true, Headers: []mail.Header{{Name: "X", Value: "{{ bad }}"}}}), "template error in header X, line 1, column 1: unknown filter"},
		{mail.BodyContent, []byte("{"), "compose: read content: unexpected end of JSON input"},
	} {
		err := CheckBody(fakeRenderer{}, &mail.Body{Kind: c.kind, Data: c.data})
		if got := ""; c.want != "" && (err == nil || err.Error() != c.want) || c.want == "" && err != nil {
			t.Errorf("got %v%s, want %q", err, got, c.want)
		}
	}
}

func BenchmarkCompose(b *testing.B) {
	body := strings.Repeat("The quick brown fox jumps over the lazy dog and the next one is not so lazy.\r\n", 131)
	for _, c := range []struct {
		name string
		kind mail.BodyKind
		data []byte
	}{
		{"raw", mail.BodyRaw, []byte("Received: x\r\nFrom: a@example.com\r\nTo: b@example.org\r\nSubject: x\r\n\r\n" + body)},
		{"content", mail.BodyContent, contentJSON(b, mail.Content{From: "a@example.com", Subject: "x", Text: body})},
		{"rendered", mail.BodyContent, contentJSON(b, mail.Content{From: "a@example.com", Subject: "x", Text: "{{ name }}" + body, Templates: true})},
	} {
		b.Run(c.name, func(b *testing.B) {
			composer := newComposer(b, &memory{data: c.data}, nil)
			m := message(c.kind, `{"name":"x"}`)
			b.ReportAllocs()
			for b.Loop() {
				composed, err := composer.Compose(context.Background(), m)
				if err != nil {
					b.Fatal(err)
				}
				composed.Release()
			}
		})
	}
}
