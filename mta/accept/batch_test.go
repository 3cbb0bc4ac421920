package accept

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

type sinkQueue struct{}

func (sinkQueue) Put(context.Context, *mail.Batch) error   { return nil }
func (sinkQueue) Large(context.Context) (LargeFile, error) { return nil, mail.ErrDiskFull }

func request() *Request {
	return &Request{
		Tenant: "acme", AuthID: "key1", ReversePath: "b@s.example",
		Labels:     Labels{Stream: "news", Pool: "p1"},
		Tags:       []mail.Tag{{Name: "all", Value: "1"}},
		Body:       &mail.Body{Kind: mail.BodyContent, Data: []byte(`{"subject":"{{ a }}","templates":true}`)},
		Recipients: []Recipient{{Address: "Ann@D.example", Substitutions: []byte(`{"a":1}`)}, {Address: "ben@d.example"}},
	}
}

func TestBatch(t *testing.T) {
	s := &spool{}
	d := newDoor(t, s, nil)
	urgent := mail.Urgent
	req := request()
	req.Recipients[1].Labels = Labels{Stream: "other", Priority: &urgent, NotBefore: noon.Add(time.Hour), Deadline: noon.Add(2 * time.Hour)}
	req.Recipients[1].Tags = []mail.Tag{{Name: "own", Value: "2"}}
	req.Receipt = &ReceiptRequest{Key: "k", Digest: [32]byte{1}, Answer: func(a Accepted) []byte { return []byte(a.IDs[1].String()) }}
	acc, err := d.Batch(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	b := s.batches[0]
	if len(acc.IDs) != 2 || acc.IDs[0] != acc.Batch || acc.IDs[1] != acc.Batch.Add(1) || b.Messages[1].ID != acc.IDs[1] {
		t.Errorf("ids %v", acc)
	}
	if string(b.Receipt.Answer) != acc.IDs[1].String() || b.Receipt.Tenant != "acme" || !b.Receipt.At.Equal(noon) {
		t.Errorf("receipt %+v", b.Receipt)
	}
	if b.Origin != (mail.Origin{Protocol: "http", AuthID: "key1"}) || string(b.Body.Data) != string(req.Body.Data) {
		t.Errorf("batch %+v", b)
	}
	first, second := b.Messages[0], b.Messages[1]
	if first.Stream != "news" || first.Pool != "p1" || first.Priority != mail.Normal || string(first.Substitutions) != `{"a":1}` ||
		len(first.Tags) != 1 || first.Recipient != "Ann@d.example" || first.Body.Content {
		t.Errorf("first %+v", first)
	}
	if second.Stream != "other" || second.Pool != "p1" || second.Priority != mail.Urgent || len(second.Tags) != 2 ||
		!second.NotBefore.Equal(noon.Add(time.Hour)) || !second.Expires.Equal(noon.Add(73*time.Hour)) {
		t.Errorf("second %+v", second)
	}
}

func TestBatchOfContent(t *testing.T) {
	s := &spool{}
	d := newDoor(t, s, nil)
	id, until, err := d.Content(context.Background(), "acme", &mail.Body{Kind: mail.BodyRaw, Data: []byte("Bcc: x@y\nSubject: s\n\nbödy\n")})
	if err != nil || !until.Equal(noon.AddDate(0, 0, 7)) {
		t.Fatal(err, until)
	}
	b := s.batches[0]
	want := "Received: by mx.example.net (Godwit) with HTTP\r\n\tid ID;\r\n\tSat, 21 Nov 2026 12:00:00 +0000\r\n" + date + msgID + "Subject: s\r\n\r\nbödy\r\n"
	if got := uuid.ReplaceAllString(string(b.Body.Data), "ID"); got != want || b.Body.ID != id || !b.Body.EightBit || b.ContentTenant != "acme" || len(b.Messages) != 0 {
		t.Errorf("stored %q as %+v", got, b.Body)
	}
	req := request()
	ref := refOf(b.Body)
	req.Body, req.Content, req.Recipients[0].Substitutions = nil, &ref, nil
	req.Recipients[1].Address = "bén@d.example"
	if _, err := d.Batch(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	m := s.batches[1].Messages
	if s.batches[1].Body != nil || m[0].Body.ID != id || !m[0].Body.Content || m[0].SMTPUTF8 || !m[1].SMTPUTF8 {
		t.Errorf("messages %+v", m[0])
	}
}

func TestContentOnce(t *testing.T) {
	s := &spool{}
	id, until, err := newDoor(t, s, nil).ContentOnce(context.Background(), "acme", request().Body, "key", [32]byte{7},
		func(id mail.ID, until time.Time) []byte { return []byte(id.String() + until.String()) })
	r := s.batches[0].Receipt
	if err != nil || r == nil || r.Key != "key" || r.Tenant != "acme" || r.Digest[0] != 7 || string(r.Answer) != id.String()+until.String() {
		t.Errorf("%v, receipt %+v", err, r)
	}
}

func TestLargeRequestBody(t *testing.T) {
	s := &spool{}
	d := newDoor(t, s, nil)
	req := request()
	req.Recipients[0].Substitutions = nil
	req.Body = &mail.Body{Kind: mail.BodyRaw, Data: []byte("A: 1\r\n\r\n" + strings.Repeat("x", 2<<20))}
	if _, err := d.Batch(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	if b := s.batches[0].Body; b.Path == "" || b.Data != nil || b.Size != s.files[b.Path].size || b.Size < 2<<20 {
		t.Errorf("body %+v", b)
	}
	s.putErr = mail.ErrQueueFull
	req.Body.Data = []byte("A: 1\r\n\r\n" + strings.Repeat("x", 2<<20))
	if _, err := d.Batch(context.Background(), req); !errors.Is(err, mail.ErrQueueFull) || len(s.files) != 1 {
		t.Errorf("got %v, %d files", err, len(s.files))
	}
}

type badTemplates struct{ err error }

func (b badTemplates) CheckBody(context.Context, *mail.Body) error { return b.err }

func TestBatchRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Request)
		field  string
		want   string
		rows   int
	}{
		{"two bad recipients", func(r *Request) { r.Recipients[0].Address = "x"; r.Recipients[1].Address = "a@b\r\nc" }, "recipients[0].address", "501 5.1.3", 2},
		{"no recipients", func(r *Request) { r.Recipients = nil }, "recipients", "554 5.5.1", 0},
		{"too many", func(r *Request) { r.Recipients = make([]Recipient, 10001) }, "recipients", "552 5.5.3", 0},
		{"reverse path", func(r *Request) { r.ReversePath = "x\r\n@y" }, "reverse_path", "501 5.1.7", 0},
		{"substitutions", func(r *Request) { r.Recipients[1].Substitutions = []byte(`[]`) }, "recipients[1].substitutions", "550 5.6.0", 1},
		{"broken substitutions", func(r *Request) { r.Recipients[1].Substitutions = []byte(`{"a":`) }, "recipients[1].substitutions", "550 5.6.0", 1},
		{"substitutions too large", func(r *Request) {
			r.Recipients[1].Substitutions = []byte(`{"a":"` + strings.Repeat("x", 65<<10) + `"}`)
		}, "recipients[1].substitutions", "550 5.6.0", 1},
		{"raw with substitutions", func(r *Request) { r.Body = &mail.Body{Data: []byte("A: 1\r\n\r\n")} }, "recipients[0].substitutions", "550 5.6.0", 1},
		{"stream", func(r *Request) { r.Stream = "a\nb" }, "stream", "550 5.6.0", 0},
		{"row stream", func(r *Request) { r.Recipients[1].Stream = "a\nb" }, "recipients[1].stream", "550 5.6.0", 1},
		{"tag", func(r *Request) { r.Tags[0].Name = "a b" }, "tags", "550 5.6.0", 0},
		{"deadline", func(r *Request) { r.Deadline = noon }, "deadline", "550 5.6.0", 0},
		{"row deadline against common time", func(r *Request) {
			r.NotBefore = noon.Add(3 * time.Hour)
			r.Recipients[1].Deadline = noon.Add(time.Hour)
		}, "recipients[1].deadline", "550 5.6.0", 1},
		{"no body", func(r *Request) { r.Body = nil }, "body", "550 5.6.0", 0},
		{"both", func(r *Request) { r.Content = &mail.BodyRef{} }, "body", "550 5.6.0", 0},
		{"bad raw body", func(r *Request) { r.Body = &mail.Body{Kind: mail.BodyRawTemplate, Data: []byte("hello\n")} }, "body", "550 5.6.0", 0},
		{"body too large", func(r *Request) { r.Body.Data = make([]byte, 50<<20+1) }, "body", "552 5.3.4", 0},
	} {
		s := &spool{}
		d := newDoor(t, s, nil)
		req := request()
		tt.change(req)
		_, err := d.Batch(context.Background(), req)
		var e *Error
		if !errors.As(err, &e) || e.Field != tt.field || !strings.HasPrefix(err.Error(), tt.field+": "+tt.want) || len(e.Rows) != tt.rows {
			t.Errorf("%s: got %v, want %s at %s with %d rows", tt.name, err, tt.want, tt.field, tt.rows)
		}
		nothingLeft(t, tt.name, d, s)
	}
}

func TestTemplatesAreChecked(t *testing.T) {
	s := &spool{}
	d := newDoor(t, s, func(_ *Options, d *Deps) {
		d.Templates = badTemplates{&Error{Code: 550, Enhanced: [3]int{5, 6, 0}, Message: "line 1, column 3: unknown tag", Field: "content.html"}}
	})
	var e *Error
	if _, err := d.Batch(context.Background(), request()); !errors.As(err, &e) || e.Field != "content.html" {
		t.Errorf("batch: %v", err)
	}
	if _, _, err := d.Content(context.Background(), "acme", request().Body); !errors.As(err, &e) || e.Code != 550 {
		t.Errorf("content: %v", err)
	}
	inj := injection()
	inj.Trusted = true
	if _, err := d.Message(context.Background(), inj, strings.NewReader("X-Godwit-Template: true\r\n\r\n{% x %}")); !errors.As(err, &e) || e.Code != 550 {
		t.Errorf("message: %v", err)
	}
	if _, err := d.Message(context.Background(), inj, strings.NewReader("A: 1\r\n\r\n{% x %}")); err != nil {
		t.Errorf("a raw message is no template: %v", err)
	}
	nothing := len(s.batches)
	if nothing != 1 {
		t.Errorf("%d batches", nothing)
	}
}

func TestOptions(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Options){
		"max_size":     func(o *Options) { o.MaxSize = 0 },
		"inline":       func(o *Options) { o.Inline = 64 << 20 },
		"memory":       func(o *Options) { o.Memory = 1 << 20 },
		"life":         func(o *Options) { o.Life = 0 },
		"postmaster":   func(o *Options) { o.Postmaster = "me" },
		"max_header":   func(o *Options) { o.MaxHeader = -1 },
		"max_delay":    func(o *Options) { o.MaxDelay = -1 },
		"max_received": func(o *Options) { o.MaxReceived = 0 },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := New(DefaultOptions(), Deps{Queue: &spool{}, IDs: &mail.IDs{}, Hostname: "a b"}); err == nil {
		t.Error("bad hostname taken")
	}
}
