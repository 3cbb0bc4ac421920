package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/api/apitest"
	"github.com/godwit-mta/godwit/pipeline/api/receipts"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// Keys of tenant acme, of tenant other, and of acme for one thing only.
const keyAcme, keyOther, keyReadOnly, keyWriteOnly = "acme", "other", "reader", "writer"

func sum(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

// bundle is a server over a world in memory.
type bundle struct {
	t      testing.TB
	world  *apitest.World
	server *api.Server
	deps   api.Deps

	mu   sync.Mutex
	now  time.Time
	step time.Duration // that the clock goes on at each look
	seen map[string]map[int]bool
}

func setup(t testing.TB, change ...func(*api.Options, *api.Deps)) *bundle {
	t.Helper()
	b := &bundle{t: t, now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), step: time.Millisecond, seen: map[string]map[int]bool{}}
	var err error
	if b.world, err = apitest.New(b.clock); err != nil {
		t.Fatal(err)
	}
	store, err := receipts.Open("receipts", receipts.DefaultOptions(), vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b.deps = api.Deps{Door: b.world.Door, Identities: b.world, Profiles: b.world, Counts: apitest.Counts{World: b.world}, Waiter: b.world, Receipts: store,
		Warehouse: apitest.Warehouse{World: b.world}, Now: b.clock, Version: "test"}
	o := options()
	for _, f := range change {
		f(&o, &b.deps)
	}
	if b.server, err = api.New(o, b.deps); err != nil {
		t.Fatal(err)
	}
	return b
}

func options() api.Options {
	o := api.DefaultOptions()
	o.Keys = []api.Key{
		{Name: "acme", Tenant: "acme", SHA256: sum(keyAcme)},
		{Name: "other", Tenant: "other", SHA256: sum(keyOther)},
		{Name: "reader", Tenant: "acme", SHA256: sum(keyReadOnly), Scopes: []string{api.ScopeRead}},
		{Name: "writer", Tenant: "acme", SHA256: sum(keyWriteOnly), Scopes: []string{api.ScopeWrite}},
	}
	o.AuthFailures = 1000
	return o
}

func (b *bundle) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(b.step)
	return b.now
}

// pass lets time go by.
func (b *bundle) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// reply is an answer.
type reply struct {
	*httptest.ResponseRecorder
	t testing.TB
}

// do sends a request and holds the answer to the document. header are names and values; an empty value takes a field away.
func (b *bundle) do(method, target, body string, header ...string) reply {
	b.t.Helper()
	return b.send(httptest.NewRequest(method, target, strings.NewReader(body)), body, header...)
}

func (b *bundle) send(r *http.Request, body string, header ...string) reply {
	b.t.Helper()
	method, target := r.Method, r.URL.String()
	r.Header.Set("Authorization", "Klaviyo-API-Key "+keyAcme)
	r.Header.Set("Revision", "2026-07-15")
	if body != "" {
		r.Header.Set("Content-Type", jsonapi.MediaType)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	b.server.Handler().ServeHTTP(w, r)
	route := b.route(method, r.URL.Path)
	if route == "" {
		return reply{w, b.t}
	}
	if err := b.server.OpenAPI().CheckResponse(method, route, w.Code, w.Header(), w.Body.Bytes()); err != nil {
		b.t.Errorf("%s %s: %v\n%.500s", method, target, err, w.Body)
	}
	if w.Code < 300 && body != "" && b.json(header) {
		if err := b.server.OpenAPI().CheckRequest(method, route, http.Header{"Content-Type": {jsonapi.MediaType}}, []byte(body)); err != nil && !strings.Contains(body, "null") && !strings.Contains(body, `"type":"x"`) {
			b.t.Errorf("%s %s: %v\n%.500s", method, target, err, body)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[method+" "+route] == nil {
		b.seen[method+" "+route] = map[int]bool{}
	}
	b.seen[method+" "+route][w.Code] = true
	return reply{w, b.t}
}

// json reports whether the body was sent as it is.
func (b *bundle) json(header []string) bool {
	return !strings.Contains(strings.Join(header, " "), "Content-Encoding")
}

// route is the path of the operation that serves a request, "" for none.
func (b *bundle) route(method, requested string) string {
	for _, r := range b.server.OpenAPI().Routes() {
		m, p, _ := strings.Cut(r, " ")
		if m == method && p == requested {
			return p
		}
	}
	for _, r := range b.server.OpenAPI().Routes() {
		m, p, _ := strings.Cut(r, " ")
		if ok, _ := path.Match(strings.ReplaceAll(p, "{id}", "*"), requested); ok && m == method {
			return p
		}
	}
	return ""
}

// want checks the status.
func (r reply) want(status int) reply {
	r.t.Helper()
	if r.Code != status {
		r.t.Fatalf("status %d, want %d: %s", r.Code, status, r.Body)
	}
	return r
}

// get is the value at a path such as data.0.attributes.email, as text; "" if there is none.
func (r reply) get(at string) string {
	r.t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(r.Body.Bytes()))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		r.t.Fatalf("%v: %s", err, r.Body)
	}
	for part := range strings.SplitSeq(at, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[part]
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(x) {
				return ""
			}
			v = x[i]
		default:
			return ""
		}
	}
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		return x
	}
	out, _ := json.Marshal(v)
	return string(out)
}

// ids are those of data.
func (r reply) ids() string {
	r.t.Helper()
	var doc struct{ Data []struct{ ID string } }
	if err := json.Unmarshal(r.Body.Bytes(), &doc); err != nil {
		r.t.Fatal(err)
	}
	out := make([]string, len(doc.Data))
	for i := range doc.Data {
		out[i] = doc.Data[i].ID
	}
	return strings.Join(out, " ")
}

// refuse checks that a request is refused for the part of it that is named: a pointer, or else a parameter.
func (b *bundle) refuse(r reply, status int, source string) {
	b.t.Helper()
	var doc jsonapi.ErrorDocument
	if err := json.Unmarshal(r.Body.Bytes(), &doc); err != nil || len(doc.Errors) == 0 {
		b.t.Fatalf("%d %s: %v", r.Code, r.Body, err)
	}
	for _, e := range doc.Errors {
		if r.Code == status && e.Source.Pointer+e.Source.Parameter == source && e.Detail != "" && e.Code != "" && e.Title != "" && e.ID != "" && e.Status == status {
			return
		}
	}
	b.t.Errorf("got %d %s, want %d at %s", r.Code, r.Body, status, source)
}

// profile makes one with an email and returns its id.
func (b *bundle) profile(email string, header ...string) string {
	b.t.Helper()
	return b.do("POST", "/api/profiles", `{"data":{"type":"profile","attributes":{"email":"`+email+`"}}}`, header...).want(201).get("data.id")
}

// event sends one and returns the id of its metric.
func (b *bundle) event(email, metric, properties string, at time.Time, header ...string) {
	b.t.Helper()
	b.do("POST", "/api/events", event(email, metric, properties, at), header...).want(202)
}

func event(email, metric, properties string, at time.Time) string {
	return fmt.Sprintf(`{"data":{"type":"event","attributes":{"time":%q,"properties":%s,"metric":{"data":{"type":"metric","attributes":{"name":%q}}},
		"profile":{"data":{"type":"profile","attributes":{"email":%q}}}}}}`, at.Format(time.RFC3339Nano), properties, metric, email)
}

// metric is the id of the metric of a name.
func (b *bundle) metric(name string) string {
	b.t.Helper()
	return b.do("GET", `/api/metrics?filter=equals(name,"`+strings.ReplaceAll(name, " ", "%20")+`")`, "").want(200).get("data.0.id")
}

// list makes one and returns its id.
func (b *bundle) list(name string) string {
	b.t.Helper()
	return b.do("POST", "/api/lists", `{"data":{"type":"list","attributes":{"name":"`+name+`"}}}`).want(201).get("data.id")
}
