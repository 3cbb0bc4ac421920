package adminapi

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
)

// engine is every interface of Deps in memory.
type engine struct {
	waiting     []Waiting
	queues      []QueueInfo
	suspensions []Suspension
	calls       []string
	err         error
	breakAfter  int // messages of an export, 0 never
	draining    bool
}

func (e *engine) Queues(_ context.Context, f Filter) ([]QueueInfo, error) {
	var out []QueueInfo
	for _, q := range e.queues {
		if f.Tenant == "" || f.Tenant == q.Tenant {
			out = append(out, q)
		}
	}
	return out, e.err
}

func (e *engine) Messages(_ context.Context, f Filter, each func(Waiting) bool) error {
	for _, w := range e.waiting {
		if (f.Domain == "" || f.Domain == w.Message.Domain()) && !each(w) {
			break
		}
	}
	return e.err
}

func (e *engine) find(id mail.ID) *Waiting {
	for i := range e.waiting {
		if e.waiting[i].Message.ID == id {
			return &e.waiting[i]
		}
	}
	return nil
}

func (e *engine) Message(_ context.Context, id mail.ID) (Detail, error) {
	w := e.find(id)
	if e.err != nil {
		return Detail{}, e.err
	}
	if w == nil {
		return Detail{}, mail.ErrNotFound
	}
	return Detail{Waiting: w, Events: []event.Event{{ID: "e", Kind: event.Injected, Time: w.Message.Accepted, Session: id, Took: 1500 * time.Microsecond}}}, nil
}

func (e *engine) Body(_ context.Context, id mail.ID) (mail.BodyKind, []byte, error) {
	w := e.find(id)
	if w == nil {
		return 0, nil, mail.ErrNotFound
	}
	if w.Message.Body.Kind == mail.BodyContent {
		return mail.BodyContent, []byte(`{"from":"a@example.com","subject":"S","text":"secret","headers":[{"name":"X-A","value":"b"}],"attachments":[{"name":"f","type":"a/b","data":"aGk="}]}`), e.err
	}
	return mail.BodyRaw, []byte("From: a@example.com\r\nSubject: S\r\n\r\nsecret"), e.err
}

func (e *engine) Suspend(_ context.Context, f Filter, until time.Time, reason string) (Suspension, error) {
	s := Suspension{ID: fmt.Sprint(len(e.suspensions)), Filter: f, Until: until, Reason: reason, Created: time.Now().UTC()}
	e.suspensions = append(e.suspensions, s)
	return s, e.err
}

func (e *engine) Suspensions(context.Context) ([]Suspension, error) { return e.suspensions, e.err }

func (e *engine) Resume(_ context.Context, id string) error {
	before := len(e.suspensions)
	e.suspensions = slices.DeleteFunc(slices.Clone(e.suspensions), func(s Suspension) bool { return s.ID == id })
	if len(e.suspensions) == before {
		return mail.ErrNotFound
	}
	return e.err
}

func (e *engine) Bounce(_ context.Context, f Filter, reason string) (int, error) {
	e.calls = append(e.calls, fmt.Sprintf("bounce %s %v %q", f.Domain, f.All, reason))
	return len(e.waiting), e.err
}

func (e *engine) Retry(_ context.Context, f Filter) (int, error) {
	e.calls = append(e.calls, fmt.Sprintf("retry %s %v", f.Domain, f.All))
	return len(e.waiting), e.err
}

func (e *engine) Export(_ context.Context, _ Filter, w io.Writer) (int, error) {
	for i, m := range e.waiting {
		if e.err != nil && (i == e.breakAfter) {
			return i, e.err
		}
		if err := json.NewEncoder(w).Encode(m); err != nil {
			return i, err
		}
	}
	return len(e.waiting), nil
}

func (e *engine) Import(_ context.Context, r io.Reader) (stored, known int, err error) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		switch line := lines.Text(); {
		case line == "bad":
			return stored, known, fmt.Errorf("line %d: %w", stored+1, ErrBadImport)
		case line == "known":
			known++
		default:
			stored++
		}
	}
	return stored, known, e.err
}

func (e *engine) Stats(context.Context) (Stats, error) {
	return Stats{Messages: int64(len(e.waiting)), Draining: e.draining}, e.err
}

func (e *engine) Info(context.Context) (Info, error) {
	return Info{Version: "v", Go: "go", Hostname: "mx", ConfigDigest: "abc", Started: time.Now()}, e.err
}

func (e *engine) Reload(context.Context) error { return e.err }

func (e *engine) Drain(_ context.Context, on bool) error {
	e.draining = on
	return e.err
}

const token = "the-token"

func options() Options {
	o := DefaultOptions()
	h := sha256.Sum256([]byte(token))
	o.Tokens = []Token{{Name: "op", SHA256: hex.EncodeToString(h[:])}}
	return o
}

type bundle struct {
	t      testing.TB
	engine *engine
	egress *egress
	server *Server
	level  *slog.LevelVar
	seen   map[string]map[int]bool // statuses by operation
}

func setup(t testing.TB, change ...func(*Options)) *bundle {
	t.Helper()
	b := &bundle{t: t, engine: &engine{}, level: &slog.LevelVar{}, seen: map[string]map[int]bool{}}
	ids := &mail.IDs{}
	for i := range 5 {
		now := time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC)
		m := &mail.Message{ID: ids.New(now), Batch: ids.New(now), Accepted: now, Tenant: "acme", Recipient: fmt.Sprintf("r%d@d%d.example", i, i%2),
			Tags: []mail.Tag{{Name: "a", Value: "b"}}, Substitutions: []byte(`{"x":1}`), Body: mail.BodyRef{Kind: mail.BodyKind(i % 3)}}
		b.engine.waiting = append(b.engine.waiting, Waiting{Message: m, Due: now, State: []string{"queued", "deferred"}[i%2]})
	}
	soon := time.Now().Add(time.Hour)
	b.engine.queues = []QueueInfo{{Tenant: "acme", Domain: "a", Priority: "normal", Messages: 9, Suspended: true, HeldUntil: soon},
		{Tenant: "acme", Domain: "b", Priority: "bulk", Messages: 5, HeldUntil: soon}, {Tenant: "acme", Domain: "c", Priority: "urgent", Messages: 3, InFlight: 1, Ready: 2},
		{Tenant: "acme", Domain: "d", Priority: "bulk", Messages: 2, Ready: 2}, {Tenant: "other", Domain: "e", Priority: "bulk", Messages: 1, NextDue: soon}}
	o := options()
	for _, f := range change {
		f(&o)
	}
	var err error
	b.egress = newEgress(&b.engine.err)
	d := b.deps()
	d.Explainer, d.Egress, d.Orders, d.Cluster, d.Handoff, d.Pipeline = b.egress, b.egress, b.egress, b.egress, b.egress, b.egress
	if b.server, err = New(o, d); err != nil {
		t.Fatal(err)
	}
	return b
}

// deps are those that no server can do without.
func (b *bundle) deps() Deps {
	return Deps{Inspector: b.engine, Suspender: b.engine, Changer: b.engine, Mover: b.engine, Node: b.engine, Level: b.level, Version: "test"}
}

// do makes a request with the token and holds the response to the OpenAPI document.
func (b *bundle) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if r.Header.Del(header[i]); header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	b.server.Handler().ServeHTTP(w, r)
	b.hold(r, w, body)
	return w
}

func (b *bundle) hold(r *http.Request, w *httptest.ResponseRecorder, body string) {
	b.t.Helper()
	path, doc := r.URL.Path, b.server.OpenAPI()
	for _, known := range []string{PathMessage, PathBody, PathSuspension, PathOrder, PathExplainMessage} {
		prefix, suffix, _ := strings.Cut(known, "{id}")
		id, ok := strings.CutPrefix(path, prefix)
		if id, ok2 := strings.CutSuffix(id, suffix); ok && ok2 && id != "" && !strings.Contains(id, "/") {
			path = known
		}
	}
	route := r.Method + " " + path
	if !slices.Contains(doc.Routes(), route) {
		return
	}
	if b.seen[route] == nil {
		b.seen[route] = map[int]bool{}
	}
	b.seen[route][w.Code] = true
	if err := doc.CheckResponse(r.Method, path, w.Code, w.Header(), w.Body.Bytes()); err != nil {
		b.t.Errorf("response: %v: %s", err, w.Body)
	}
	if w.Code < 300 && body != "" {
		if err := doc.CheckRequest(r.Method, path, r.Header, []byte(body)); err != nil {
			b.t.Errorf("accepted request: %v", err)
		}
	}
}

func errorsOf(t testing.TB, w *httptest.ResponseRecorder) []wire.Error {
	t.Helper()
	var doc wire.Document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || len(doc.Errors) == 0 {
		t.Fatalf("not an error document: %v: %d %s", err, w.Code, w.Body)
	}
	return doc.Errors
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder) T {
	t.Helper()
	var out T
	if w.Code >= 300 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}
