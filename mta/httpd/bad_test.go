package httpd

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// message is a request with one field of content, or of the request, replaced.
func message(content, request string) string {
	if content != "" {
		content = "," + content
	}
	if request != "" {
		request = "," + request
	}
	return `{"content":{"from":"a@example.com","text":"x"` + content + `},"recipients":[{"address":"r@example.org"}]` + request + `}`
}

// badRequests is what must be refused: body, status, code, pointer.
var badRequests = []struct {
	name, body    string
	status        int
	code, pointer string
}{
	{"empty object", `{}`, 422, injectapi.CodeRequired, "/recipients"},
	{"no JSON", `hello`, 400, wire.CodeInvalidJSON, ""},
	{"cut", `{"content":`, 400, wire.CodeInvalidJSON, "/content"},
	{"array", `[]`, 400, wire.CodeWrongType, ""},
	{"two values", message("", "") + "{}", 400, wire.CodeInvalidJSON, ""},
	{"unknown field", message("", `"recipient":"x"`), 400, wire.CodeUnknownField, "/recipient"},
	{"unknown in content", message(`"bcc":"x"`, ""), 400, wire.CodeUnknownField, "/content/bcc"},
	{"duplicate", message("", `"stream":"a","stream":"b"`), 400, wire.CodeDuplicateField, "/stream"},
	{"number for string", message("", `"stream":1`), 400, wire.CodeWrongType, "/stream"},
	{"substitutions array", message("", `"substitutions":[]`), 400, wire.CodeWrongType, "/substitutions"},
	{"deep substitutions", message("", `"substitutions":{"a":`+strings.Repeat("[", 99)+strings.Repeat("]", 99)+`}`), 400, wire.CodeTooDeep, ""},
	{"bad time", message("", `"send_at":"soon"`), 400, wire.CodeInvalidValue, "/send_at"},
	{"bad UTF-8", message(`"subject":"`+"\xff"+`"`, ""), 400, wire.CodeInvalidUTF8, "/content/subject"},
	{"lone surrogate", message(`"subject":"\udc00"`, ""), 400, wire.CodeInvalidUTF8, "/content/subject"},
	{"bad base64", message(`"attachments":[{"name":"a","type":"a/b","data":"!"}]`, ""), 400, wire.CodeInvalidValue, "/content/attachments/0/data"},
	{"no recipients", `{"content":{"from":"a@example.com","text":"x"},"recipients":[]}`, 422, injectapi.CodeRequired, "/recipients"},
	{"too many", `{"content":{"from":"a@example.com","text":"x"},"recipients":[` + strings.TrimSuffix(strings.Repeat(`{"address":"a@b.example"},`, 10_001), ",") + `]}`, 422, injectapi.CodeTooManyRecipients, "/recipients"},
	{"no content", `{"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeRequired, "/content"},
	{"both contents", message("", `"content_id":"01890a5d-ac96-774b-bcce-b302099a8057"`), 422, injectapi.CodeConflictingFields, "/content"},
	{"unknown content", `{"content_id":"01890a5d-ac96-774b-bcce-b302099a8057","reverse_path":"","recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeUnknownContent, "/content_id"},
	{"nonsense content id", `{"content_id":"x","reverse_path":"","recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeUnknownContent, "/content_id"},
	{"bad priority", message("", `"priority":"high"`), 422, wire.CodeInvalidValue, "/priority"},
	{"priority in capitals", message("", `"priority":"BULK"`), 422, wire.CodeInvalidValue, "/priority"},
	{"deadline over", message("", `"deadline":"2001-01-01T00:00:00Z"`), 422, wire.CodeInvalidValue, "/deadline"},
	{"far send_at", message("", `"send_at":"2999-01-01T00:00:00Z"`), 422, wire.CodeInvalidValue, "/send_at"},
	{"bad reverse path", message("", `"reverse_path":"x"`), 422, injectapi.CodeInvalidAddress, "/reverse_path"},
	{"reverse path line break", message("", `"reverse_path":"a@example.com>\r\nRCPT TO:<x@example.org"`), 422, injectapi.CodeLineBreak, "/reverse_path"},
	{"stream line break", message("", `"stream":"a\nb"`), 422, injectapi.CodeLineBreak, "/stream"},
	{"pool line break", message("", `"pool":"a\rb"`), 422, injectapi.CodeLineBreak, "/pool"},
	{"tag value line break", message("", `"tags":{"a":"x\ny"}`), 422, injectapi.CodeLineBreak, "/tags/a"},
	{"tag name control", message("", `"tags":{"a\u0007":"x"}`), 422, wire.CodeInvalidValue, "/tags/a\a"},
	{"subject line break", message(`"subject":"a\r\nBcc: x@example.org"`, ""), 422, injectapi.CodeLineBreak, "/content/subject"},
	{"subject NUL", message(`"subject":"a\u0000"`, ""), 422, injectapi.CodeLineBreak, "/content/subject"},
	{"subject too long", message(`"subject":"`+strings.Repeat("a", 9000)+`"`, ""), 422, injectapi.CodeTooLong, "/content/subject"},
	{"reply_to line break", message(`"reply_to":"a@example.com\nX: y"`, ""), 422, injectapi.CodeLineBreak, "/content/reply_to"},
	{"bad reply_to", message(`"reply_to":"nobody"`, ""), 422, injectapi.CodeInvalidAddress, "/content/reply_to"},
	{"header name line break", message(`"headers":[{"name":"A\r\nB","value":"x"}]`, ""), 422, injectapi.CodeLineBreak, "/content/headers/0/name"},
	{"header name colon", message(`"headers":[{"name":"A:","value":"x"}]`, ""), 422, injectapi.CodeInvalidHeader, "/content/headers/0/name"},
	{"header of ours", message(`"headers":[{"name":"X-A","value":""},{"name":"dkim-signature","value":"x"}]`, ""), 422, injectapi.CodeInvalidHeader, "/content/headers/1/name"},
	{"X-Godwit header", message(`"headers":[{"name":"X-Godwit-Tenant","value":"x"}]`, ""), 422, injectapi.CodeInvalidHeader, "/content/headers/0/name"},
	{"header value line break", message(`"headers":[{"name":"A","value":"x\ny"}]`, ""), 422, injectapi.CodeLineBreak, "/content/headers/0/value"},
	{"attachment name line break", message(`"attachments":[{"name":"a\nb","type":"a/b","data":""}]`, ""), 422, injectapi.CodeLineBreak, "/content/attachments/0/name"},
	{"attachment without name", message(`"attachments":[{"name":"","type":"a/b","data":""}]`, ""), 422, injectapi.CodeRequired, "/content/attachments/0/name"},
	{"attachment type", message(`"attachments":[{"name":"a","type":"multipart/mixed","data":""}]`, ""), 422, wire.CodeInvalidValue, "/content/attachments/0/type"},
	{"attachment content id", message(`"attachments":[{"name":"a","type":"a/b","content_id":"<x>","data":""}]`, ""), 422, wire.CodeInvalidValue, "/content/attachments/0/content_id"},
	{"bad template", message(`"html":"{% bad %}"`, ""), 422, injectapi.CodeTemplate, "/content/html"},
	{"bad template in header", message(`"headers":[{"name":"A","value":"{% bad %}"}]`, ""), 422, injectapi.CodeTemplate, "/content/headers/0/value"},
	{"reserved variable", message("", `"substitutions":{"_to":"x"}`), 422, wire.CodeInvalidValue, "/substitutions/_to"},
	{"from missing", `{"content":{"text":"x"},"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeRequired, "/content/from"},
	{"from twice", `{"content":{"from":"a@example.com, b@example.com","text":"x"},"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeInvalidAddress, "/content/from"},
	{"from address is a tag", `{"content":{"from":"A <{{ x }}>","text":"x"},"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeInvalidAddress, "/content/from"},
	{"nothing to read", `{"content":{"from":"a@example.com"},"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeRequired, "/content/text"},
	{"raw and parts", message(`"raw":"From: a@example.com\n\n"`, ""), 422, injectapi.CodeConflictingFields, "/content/raw"},
	{"raw twice", message(`"raw":"x","raw_base64":"aGk="`, ""), 422, injectapi.CodeConflictingFields, "/content/raw"},
	{"raw without From", `{"content":{"raw":"Subject: x\n\n"},"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeInvalidHeader, "/content/raw"},
	{"raw no header", `{"content":{"raw":"just text"},"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeInvalidHeader, "/content/raw"},
	{"raw with substitutions", `{"content":{"raw":"From: a@example.com\n\n"},"substitutions":{"a":1},"recipients":[{"address":"r@example.org"}]}`, 422, injectapi.CodeConflictingFields, "/substitutions"},
	{"raw row substitutions", `{"content":{"raw":"From: a@example.com\n\n"},"recipients":[{"address":"r@example.org","substitutions":{"a":1}}]}`, 422, injectapi.CodeConflictingFields, "/recipients/0/substitutions"},
	{"too large", `{"content":{"from":"a@example.com","text":"` + strings.Repeat("x", 2<<20) + `"},"recipients":[{"address":"r@example.org"}]}`, 413, wire.CodeTooLarge, ""},
}

func TestBadRequests(t *testing.T) {
	b := setup(t)
	for _, c := range badRequests {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			w := b.do("POST", "/v1/messages", c.body)
			errs := errorsOf(t, w)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %.300s", w.Code, c.status, w.Body)
			}
			for _, e := range errs {
				if e.Title == "" || e.Detail == "" {
					t.Errorf("an error without words: %+v", e)
				}
				if e.Code == c.code && (e.Pointer == c.pointer || c.code == wire.CodeTooDeep) {
					return
				}
			}
			t.Errorf("got %+v, want %s at %q", errs, c.code, c.pointer)
		})
	}
	if len(b.queue.batches) != 0 {
		t.Errorf("%d batches were stored", len(b.queue.batches))
	}
}

func TestBadContent(t *testing.T) {
	b := setup(t)
	for _, c := range []struct{ body, code, pointer string }{
		{`{"from":"a@example.com"}`, injectapi.CodeRequired, "/text"},
		{`{"raw":"x"}`, injectapi.CodeInvalidHeader, "/raw"},
		{`{"from":"a@example.com","text":"x","subject":"a\nb"}`, injectapi.CodeLineBreak, "/subject"},
		{`{"raw":"From: a@example.com\n\nx\u0000"}`, "", ""},
		{`{"raw":"From: a@example.com\nX: \u0000\n\nx"}`, injectapi.CodeRejected, ""},
	} {
		w := b.do("POST", "/v1/contents", c.body)
		if c.code == "" {
			if w.Code != 201 {
				t.Errorf("%s: %d %s", c.body, w.Code, w.Body)
			}
			continue
		}
		errs := errorsOf(t, w)
		if w.Code != 422 || errs[0].Code != c.code || errs[0].Pointer != c.pointer {
			t.Errorf("%s: %d %+v", c.body, w.Code, errs)
		}
	}
}

func TestTemplateErrorHasItsPlace(t *testing.T) {
	b := setup(t)
	e := errorsOf(t, b.do("POST", "/v1/contents", `{"from":"a@example.com","text":"{% bad %}"}`))[0]
	if e.Line != 3 || e.Column != 7 || e.Field != "text" {
		t.Errorf("%+v", e)
	}
}

func TestAllFaultsAreTold(t *testing.T) {
	b := setup(t)
	errs := errorsOf(t, b.do("POST", "/v1/messages", `{"content":{"from":"x","subject":"a\nb"},"priority":"no","recipients":[{"address":"r@example.org"}]}`))
	if len(errs) != 4 {
		t.Errorf("%+v", errs)
	}
}

func TestGzip(t *testing.T) {
	b := setup(t)
	send := func(body []byte) *httptest.ResponseRecorder {
		return b.do("POST", "/v1/messages", string(body), "Content-Encoding", "gzip")
	}
	small, _ := wire.Compress([]byte(simple))
	if w := send(small); w.Code != 202 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	bomb, _ := wire.Compress(bytes.Repeat([]byte(" "), 40<<20))
	if w := send(bomb); w.Code != 413 {
		t.Errorf("bomb: %d %s", w.Code, w.Body)
	}
	if w := send([]byte("no gzip")); w.Code != 400 || errorsOf(t, w)[0].Field != "Content-Encoding" {
		t.Errorf("no gzip: %d %s", w.Code, w.Body)
	}
	if w := b.do("POST", "/v1/messages", simple, "Content-Encoding", "br"); w.Code != 415 || w.Header().Get("Accept-Encoding") != "gzip" {
		t.Errorf("br: %d", w.Code)
	}
	if w := b.do("POST", "/v1/messages", simple, "Content-Type", "text/plain"); w.Code != 415 {
		t.Errorf("text/plain: %d", w.Code)
	}
	if held := b.server.state.Load().bodies.Held(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
}

// FuzzMessages: whatever comes in, there is no panic and no 5xx, and what is
// not accepted has an error document with code and words.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(simple))
	f.Add([]byte(message(`"headers":[{"name":"X-A","value":"{{ a }}"}],"reply_to":"R <r@example.com>"`, `"substitutions":{"a":{"b":[1]}},"tags":{"t":"v"},"strict":true`)))
	f.Add([]byte(`{"content":{"raw":"From: =?x?q?y?= <a@example.com>\r\nX: y\r\n z\r\n\r\nbody","templates":true},"recipients":[{"address":"\"q q\"@[192.0.2.1]","name":"é","substitutions":{"\u0061":1}}]}`))
	for _, c := range badRequests {
		if len(c.body) < 4096 {
			f.Add([]byte(c.body))
		}
	}
	b := setup(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		b.queue.batches = nil
		r := httptest.NewRequest("POST", "/v1/messages", bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+keyAcme)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		b.server.Handler().ServeHTTP(w, r)
		if err := b.server.OpenAPI().CheckResponse("POST", "/v1/messages", w.Code, w.Header(), w.Body.Bytes()); err != nil {
			t.Fatal(err)
		}
		if w.Code >= 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code != 202 {
			for _, e := range errorsOf(t, w) {
				if e.Code == "" || e.Title == "" {
					t.Fatalf("%s", w.Body)
				}
			}
			return
		}
		var answer injectapi.MessagesResponse
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(b.queue.batches) != 1 || len(answer.Messages) != len(b.queue.batches[0].Messages) {
			t.Fatalf("%v: %s", err, w.Body)
		}
		for _, m := range b.queue.batches[0].Messages {
			if strings.ContainsAny(m.Recipient+m.ReversePath+m.Stream+m.Pool, "\r\n\x00") {
				t.Fatalf("line break in %+v", m)
			}
			if m.Substitutions != nil && !json.Valid(m.Substitutions) {
				t.Fatalf("substitutions %s", m.Substitutions)
			}
		}
	})
}
