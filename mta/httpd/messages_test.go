package httpd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
	"github.com/google/go-cmp/cmp"
)

const simple = `{"content":{"from":"Shop <shop@example.com>","subject":"Hi {{ name }}","text":"Hello"},
	"recipients":[{"address":"Ann@Example.ORG"}]}`

func TestOneMessage(t *testing.T) {
	b := setup(t)
	got := decode[injectapi.MessagesResponse](t, b.do("POST", "/v1/messages", simple), 202)
	batch := b.queue.batches[0]
	m := batch.Messages[0]
	want := injectapi.MessagesResponse{Batch: m.Batch.String(), Rejected: []injectapi.Rejected{},
		Messages: []injectapi.Accepted{{ID: m.ID.String(), Recipient: "Ann@example.org"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if m.ReversePath != "shop@example.com" || m.Tenant != "acme" || m.Priority != mail.Normal || batch.Origin.AuthID != "acme" {
		t.Errorf("message %+v, origin %+v", m, batch.Origin)
	}
	var content mail.Content
	if err := json.Unmarshal(batch.Body.Data, &content); err != nil || batch.Body.Kind != mail.BodyContent {
		t.Fatal(err, batch.Body.Kind)
	}
	if !content.Templates || content.Subject != "Hi {{ name }}" {
		t.Errorf("content %+v", content)
	}
}

func TestBatchRows(t *testing.T) {
	b := setup(t)
	body := `{"content":{"from":"shop@example.com","html":"<b>{{ name }}</b>"},"substitutions":{"name":"you","shop":"S"},
		"reverse_path":"bounce+1@example.com","stream":"camp-1","pool":"p1","priority":"bulk","tags":{"c":"1","b":"2"},
		"deadline":"2999-01-01T00:00:00Z",
		"recipients":[{"address":"a@example.org","substitutions":{"name":"A"},"tags":{"c":"9"}},
			{"address":"b@example.org","name":"Bé \"B\"","send_at":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"},
			{"address":"no at sign"}, {"address":"c@example.org"}, {"address":"d@example.org","name":"x\r\nBcc: y"},
			{"address":"e@example.org","substitutions":{"_to":"x"}}, {"address":"f@example.org","tags":{"n":"a\nb"}},
			{"address":"g@example.org","send_at":"2999-01-01T00:00:00Z"}]}`
	body = strings.Replace(body, `\"B\"`, `\"B\"`, 1)
	got := decode[injectapi.MessagesResponse](t, b.do("POST", "/v1/messages", body), 202)
	var rejected []string
	for _, r := range got.Rejected {
		rejected = append(rejected, fmt.Sprintf("%d %s %s %s", r.Index, r.Recipient, r.Field, r.Code))
	}
	want := []string{"2 no at sign address invalid_address", "4 d@example.org name line_break",
		"5 e@example.org substitutions invalid_value", "6 f@example.org tags line_break", "7 g@example.org send_at invalid_value"}
	if diff := cmp.Diff(want, rejected); diff != "" {
		t.Error(diff)
	}
	messages := b.queue.batches[0].Messages
	if len(messages) != 3 || len(got.Messages) != 3 {
		t.Fatalf("%d messages", len(messages))
	}
	for i, m := range messages {
		if got.Messages[i].ID != m.ID.String() || m.ID != messages[0].ID.Add(i) {
			t.Errorf("id %d", i)
		}
		if m.Stream != "camp-1" || m.Pool != "p1" || m.Priority != mail.Bulk || m.ReversePath != "bounce+1@example.com" || m.Deadline.Year() != 2999 {
			t.Errorf("message %d: %+v", i, m)
		}
	}
	for i, want := range []string{`{"shop":"S","name":"A"}`, `{"name":"you","shop":"S","_to":"\"Bé \\\"B\\\"\" <b@example.org>"}`, `{"name":"you","shop":"S"}`} {
		if got := string(messages[i].Substitutions); got != want {
			t.Errorf("substitutions %d: %s, want %s", i, got, want)
		}
	}
	if diff := cmp.Diff([]mail.Tag{{Name: "b", Value: "2"}, {Name: "c", Value: "9"}}, messages[0].Tags); diff != "" {
		t.Error(diff)
	}
	if messages[1].NotBefore.IsZero() || !messages[0].NotBefore.IsZero() {
		t.Error("send_at is not on its row")
	}
}

func TestStrictFailsWhole(t *testing.T) {
	b := setup(t)
	w := b.do("POST", "/v1/messages", `{"strict":true,"content":{"from":"a@example.com","text":"x"},
		"recipients":[{"address":"a@example.org"},{"address":"b@"},{"address":"c"}]}`)
	errs := errorsOf(t, w)
	if w.Code != 422 || len(errs) != 2 || errs[0].Pointer != "/recipients/1/address" || errs[1].Pointer != "/recipients/2/address" {
		t.Errorf("%d %+v", w.Code, errs)
	}
	if len(b.queue.batches) != 0 {
		t.Error("something was stored")
	}
}

func TestNobodyLeftFails(t *testing.T) {
	b := setup(t)
	w := b.do("POST", "/v1/messages", `{"content":{"from":"a@example.com","text":"x"},"recipients":[{"address":"b@"}]}`)
	if w.Code != 422 || errorsOf(t, w)[0].Code != injectapi.CodeInvalidAddress {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestStoredContent(t *testing.T) {
	b := setup(t)
	stored := decode[injectapi.ContentResponse](t, b.do("POST", "/v1/contents",
		`{"from":"a@example.com","subject":"s","text":"{{ x }}","attachments":[{"name":"f.pdf","type":"application/pdf","data":"aGk="}],"headers":[{"name":"X-A","value":"é"}]}`), 201)
	if !stored.ExpiresAt.After(time.Now()) {
		t.Error("it has expired")
	}
	body := `{"content_id":"` + stored.ID + `","reverse_path":"","recipients":[{"address":"a@example.org","name":"Ann","substitutions":{"x":1}}]}`
	decode[injectapi.MessagesResponse](t, b.do("POST", "/v1/messages", body), 202)
	m := b.queue.batches[1].Messages[0]
	if m.Body.ID.String() != stored.ID || !m.Body.Content || b.queue.batches[1].Body != nil || m.ReversePath != "" {
		t.Errorf("%+v", m)
	}
	if want := `{"x":1,"_to":"\"Ann\" <a@example.org>"}`; string(m.Substitutions) != want {
		t.Errorf("substitutions %s, want %s", m.Substitutions, want)
	}
	w := b.do("POST", "/v1/messages", body, "Authorization", "Bearer "+keyOther)
	if w.Code != 422 || errorsOf(t, w)[0].Code != injectapi.CodeUnknownContent {
		t.Errorf("another tenant's content: %d %s", w.Code, w.Body)
	}
	w = b.do("POST", "/v1/messages", strings.Replace(body, `"reverse_path":"",`, "", 1))
	if w.Code != 422 || errorsOf(t, w)[0].Field != "reverse_path" {
		t.Errorf("no reverse path: %d %s", w.Code, w.Body)
	}
}

func TestRawContent(t *testing.T) {
	b := setup(t)
	for _, c := range []struct {
		content string
		kind    mail.BodyKind
		subs    string
	}{
		{`"raw":"From: =?windows-1251?q?=C0?= <a@example.com>\nSubject: x\n\nbody {{ no tag }}"`, mail.BodyRaw, ""},
		{`"raw":"From: {{ n }} <a@example.com>\r\nSubject: {{ x }}\r\n\r\nbody","templates":true`, mail.BodyRawTemplate, `{"x":1}`},
		{`"raw_base64":"RnJvbTogYUBleGFtcGxlLmNvbQ0KDQr/"`, mail.BodyRaw, ""},
	} {
		subs := ""
		if c.subs != "" {
			subs = `,"substitutions":` + c.subs
		}
		b.queue.batches = nil
		decode[injectapi.MessagesResponse](t, b.do("POST", "/v1/messages", `{"content":{`+c.content+`},"recipients":[{"address":"r@example.org","name":"R"`+subs+`}]}`), 202)
		batch := b.queue.batches[0]
		if batch.Body.Kind != c.kind || batch.Messages[0].ReversePath != "a@example.com" || string(batch.Messages[0].Substitutions) != c.subs {
			t.Errorf("%s: kind %d, %+v", c.content, batch.Body.Kind, batch.Messages[0])
		}
		if !strings.Contains(string(batch.Body.Data), "Received: ") {
			t.Errorf("%s: no trace field", c.content)
		}
	}
}

func TestTemplatesAreDetected(t *testing.T) {
	b := setup(t)
	for text, want := range map[string]bool{`plain`: false, `{{ x }}`: true} {
		b.queue.batches = nil
		b.do("POST", "/v1/messages", `{"content":{"from":"a@example.com","text":"`+text+`"},"recipients":[{"address":"r@example.org","substitutions":{"x":1}}]}`)
		var content mail.Content
		_ = json.Unmarshal(b.queue.batches[0].Body.Data, &content)
		if content.Templates != want || (b.queue.batches[0].Messages[0].Substitutions != nil) != want {
			t.Errorf("%s: templates %v, substitutions %s", text, content.Templates, b.queue.batches[0].Messages[0].Substitutions)
		}
	}
}

func TestQueueRefuses(t *testing.T) {
	b := setup(t)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{mail.ErrQueueFull, 503, injectapi.CodeQueueFull},
		{fmt.Errorf("put: %w", mail.ErrDiskFull), 503, injectapi.CodeDiskFull},
		{mail.ErrDraining, 503, injectapi.CodeDraining},
		{mail.ErrTooLarge, 413, wire.CodeTooLarge},
		{mail.ErrReceiptConflict, 422, injectapi.CodeIdempotencyConflict},
		{errors.New("secret path /var/x"), 500, wire.CodeInternal},
	} {
		b.queue.putErr = c.err
		for path, body := range map[string]string{"/v1/messages": simple, "/v1/contents": `{"from":"a@example.com","text":"x"}`} {
			w := b.do("POST", path, body)
			if w.Code != c.status || errorsOf(t, w)[0].Code != c.code || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%v: %d %s", c.err, w.Code, w.Body)
			}
			if (w.Header().Get("Retry-After") == "5") != (c.status == 503) {
				t.Errorf("%v: Retry-After %q", c.err, w.Header().Get("Retry-After"))
			}
		}
	}
}

func TestStatus(t *testing.T) {
	b := setup(t)
	id := (&mail.IDs{}).New(time.Now())
	b.queue.status[id] = Status{ID: id, Batch: id, State: StateDeferred, Recipient: "a@example.org", Accepted: at("2026-01-02T03:04:05Z"),
		Attempts: 1, NextAttempt: at("2026-01-02T03:14:05Z"), LastReply: "451 4.7.1 later",
		Events: []event.Event{{ID: "x", Kind: event.Injected, Time: at("2026-01-02T03:04:05Z"), Peer: "192.0.2.1"},
			{ID: "y", Kind: event.Deferred, Time: at("2026-01-02T03:04:06Z"), Attempt: 1, Outcome: "deferred", Class: "smtp", Code: 451, Enhanced: "4.7.1",
				Reply: "later", Host: "mx.example.org", NextTry: at("2026-01-02T03:14:05Z")}}}
	got := decode[injectapi.Status](t, b.do("GET", "/v1/messages/"+id.String(), ""), 200)
	if got.State != "deferred" || got.Attempts != 1 || len(got.Events) != 2 || got.Events[1].Code != 451 || got.NextAttempt == nil {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct{ id, key string }{{id.String(), keyOther}, {"nonsense", keyAcme}, {(&mail.IDs{}).New(time.Now()).String(), keyAcme}} {
		if w := b.do("GET", "/v1/messages/"+c.id, "", "Authorization", "Bearer "+c.key); c.key == keyAcme && w.Code != 404 {
			t.Errorf("%s: %d", c.id, w.Code)
		} else if c.key == keyOther && (w.Code != 404 || errorsOf(t, w)[0].Code != wire.CodeNotFound) {
			t.Errorf("another tenant's message: %d", w.Code)
		}
	}
	b.queue.storeErr = errors.New("secret")
	if w := b.do("GET", "/v1/messages/"+id.String(), ""); w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	b.queue.storeErr = mail.ErrDraining
	if w := b.do("GET", "/v1/messages/"+id.String(), ""); w.Code != 503 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestAnswer holds the answer that is written by hand to its type.
func TestAnswer(t *testing.T) {
	ids := &mail.IDs{}
	first := ids.Reserve(time.Now(), 3)
	done := accept.Accepted{Batch: first, IDs: []mail.ID{first, first.Add(1), first.Add(2)}}
	addresses := []string{"a@example.org", "\"q\\\"<&>\t\"@example.org", "ü@example.org"}
	rejected := []injectapi.Rejected{{Index: 1, Recipient: "x", Field: "address", Code: "c", Message: "m"}}
	want := injectapi.MessagesResponse{Batch: first.String(), Rejected: rejected}
	for i, a := range addresses {
		want.Messages = append(want.Messages, injectapi.Accepted{ID: done.IDs[i].String(), Recipient: a})
	}
	var got injectapi.MessagesResponse
	dec := json.NewDecoder(bytes.NewReader(appendAnswer(nil, done, addresses, rejected)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	b := setup(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/v1/messages", 405, "POST"},
		{"DELETE", "/v1/messages/x", 405, "GET, HEAD"},
		{"PUT", "/v1/contents", 405, "POST"},
		{"POST", "/openapi.json", 405, "GET, HEAD"},
		{"GET", "/v2/messages", 404, ""},
		{"GET", "/", 404, ""},
	} {
		w := b.do(c.method, c.path, "")
		if w.Code != c.status || w.Header().Get("Allow") != c.allow || len(errorsOf(t, w)) != 1 {
			t.Errorf("%s %s: %d %q", c.method, c.path, w.Code, w.Header().Get("Allow"))
		}
	}
}

func TestAuthorization(t *testing.T) {
	b := setup(t, func(o *Options) { o.AuthFailures = 3 })
	id := (&mail.IDs{}).New(time.Now())
	b.queue.status[id] = Status{ID: id, State: StateQueued, Recipient: "a@example.org"}
	for _, c := range []struct {
		key, method, path string
		status            int
	}{
		{keyRead, "POST", "/v1/messages", 403},
		{keyRead, "POST", "/v1/contents", 403},
		{keyRead, "GET", "/v1/messages/" + id.String(), 200},
		{keyAdmin, "POST", "/v1/messages", 202},
		{keyAdmin, "GET", "/v1/messages/" + id.String(), 200},
		{"", "GET", "/openapi.json", 200},
		{"", "POST", "/v1/messages", 401},
		{"wrong", "POST", "/v1/contents", 401},
		{"wrong", "GET", "/v1/messages/" + id.String(), 401},
		{"wrong", "GET", "/v1/messages/" + id.String(), 429},
		{"wrong", "POST", "/v1/contents", 429},
		{keyAdmin, "POST", "/v1/messages", 202},
	} {
		body, key := "", c.key
		if c.method == "POST" {
			body = simple
		}
		if key != "" {
			key = "Bearer " + key
		}
		w := b.do(c.method, c.path, body, "Authorization", key)
		if w.Code != c.status {
			t.Errorf("%q %s %s: %d, want %d", c.key, c.method, c.path, w.Code, c.status)
		}
		if c.status == 401 && w.Header().Get("WWW-Authenticate") == "" || c.status == 429 && w.Header().Get("Retry-After") == "" {
			t.Errorf("%d without its header field", c.status)
		}
	}
}

func TestReload(t *testing.T) {
	b := setup(t)
	o := options()
	o.Keys = o.Keys[1:]
	if err := b.server.Reload(o); err != nil {
		t.Fatal(err)
	}
	if w := b.do("POST", "/v1/messages", simple); w.Code != http.StatusUnauthorized {
		t.Errorf("a removed key got %d", w.Code)
	}
	o.MaxRequest = 0
	if err := b.server.Reload(o); err == nil || !strings.HasPrefix(err.Error(), "max_request: ") {
		t.Errorf("got %v", err)
	}
}
