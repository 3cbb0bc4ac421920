package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/api/quota"
	"github.com/godwit-mta/godwit/pipeline/api/receipts"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

func TestAuthorization(t *testing.T) {
	b := setup(t)
	for _, value := range []string{"Klaviyo-API-Key acme", "klaviyo-api-key  acme", "Bearer acme"} {
		b.do("GET", "/api/lists", "", "Authorization", value).want(200)
	}
	for _, value := range []string{"", "acme", "Klaviyo-API-Key", "Klaviyo-API-Key nobody", "Basic acme"} {
		r := b.do("GET", "/api/lists", "", "Authorization", value)
		b.refuse(r, 401, "Authorization")
		if r.Header().Get("WWW-Authenticate") == "" {
			t.Error("no WWW-Authenticate")
		}
	}
	reader := []string{"Authorization", "Bearer " + keyReadOnly}
	b.do("GET", "/api/lists", "", reader...).want(200)
	b.refuse(b.do("POST", "/api/lists", `{}`, reader...), 403, "Authorization")
	b.refuse(b.do("POST", "/api/events", `{}`, reader...), 403, "Authorization")
}

func TestTooManyWrongKeys(t *testing.T) {
	b := setup(t, func(o *api.Options, _ *api.Deps) { o.AuthFailures = 2 })
	for range 2 {
		b.do("GET", "/api/lists", "", "Authorization", "Bearer x").want(401)
	}
	if r := b.do("GET", "/api/lists", "", "Authorization", "Bearer x").want(429); r.Header().Get("Retry-After") == "" {
		t.Error(r.Header())
	}
	b.do("GET", "/api/lists", "").want(200)
}

func TestRevision(t *testing.T) {
	b := setup(t)
	for _, value := range []string{"2026-07-15", "2024-10-15.pre", "2026-01-01.beta2"} {
		b.do("GET", "/api/lists", "", "Revision", value).want(200)
	}
	for _, value := range []string{"", "latest", "2026-13-01", "2026-07-15."} {
		b.refuse(b.do("GET", "/api/lists", "", "Revision", value), 400, "revision")
	}
	b.do("GET", api.PathOpenAPI, "", "Revision", "", "Authorization", "").want(200)
}

func TestRoutes(t *testing.T) {
	b := setup(t)
	for _, path := range []string{"/", "/api", "/api/nothing", "/api/profiles/", "/api/profiles/x/y"} {
		b.refuse(b.do("GET", path, ""), 404, "")
	}
	for path, allow := range map[string]string{"/api/profiles": "GET, HEAD, POST", "/api/events/x": "GET, HEAD", "/api/profile-merge": "POST",
		"/api/lists/x": "DELETE, GET, HEAD, PATCH", "/api/lists/x/relationships/profiles": "DELETE, GET, HEAD, POST"} {
		r := b.do("PUT", path, "")
		b.refuse(r, 405, "")
		if got := r.Header().Get("Allow"); got != allow {
			t.Errorf("%s: %s, want %s", path, got, allow)
		}
	}
	b.refuse(b.do("GET", "/api/lists?sort=a;b", ""), 400, "")
}

func TestBodies(t *testing.T) {
	b := setup(t, func(o *api.Options, _ *api.Deps) { o.MaxRequest = 4096 })
	good := event("a@b.co", "M", `{}`, b.now)
	for _, kind := range []string{"application/json", "application/vnd.api+json", "application/json; charset=utf-8", "application/vnd.api+json;charset=UTF-8"} {
		b.do("POST", "/api/events", good, "Content-Type", kind).want(202)
	}
	for _, kind := range []string{"", "text/plain", "application/vnd.api+json; charset=latin1"} {
		b.refuse(b.do("POST", "/api/events", good, "Content-Type", kind), 415, "Content-Type")
	}
	zipped, err := wire.Compress([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	b.do("POST", "/api/events", string(zipped), "Content-Encoding", "gzip").want(202)
	b.refuse(b.do("POST", "/api/events", good, "Content-Encoding", "br"), 415, "Content-Encoding")
	long := event("a@b.co", "M", `{"x":"`+strings.Repeat("x", 4096)+`"}`, b.now)
	for _, path := range []string{"/api/events", "/api/profiles", "/api/event-bulk-create-jobs", "/api/profile-bulk-import-jobs", "/api/metric-aggregates"} {
		b.refuse(b.do("POST", path, long), 413, "")
	}
	if zipped, err = wire.Compress([]byte(long)); err != nil || len(zipped) > 4096 {
		t.Fatal(err)
	}
	b.refuse(b.do("POST", "/api/events", string(zipped), "Content-Encoding", "gzip"), 413, "")
}

func TestLimits(t *testing.T) {
	b := setup(t, func(o *api.Options, _ *api.Deps) {
		o.Limits = []quota.Rule{{Tenant: "*", Operation: "*", Burst: 3, Steady: 5}, {Tenant: "*", Operation: "createEvent", Burst: 1}}
	})
	b.step = 0
	for i, left := range []string{"2", "1", "0"} {
		r := b.do("GET", "/api/lists", "").want(200)
		if h := r.Header(); h.Get("RateLimit-Limit") != "3" || h.Get("RateLimit-Remaining") != left || h.Get("RateLimit-Reset") != "1" {
			t.Error(i, h)
		}
	}
	r := b.do("POST", "/api/lists", `{"data":{"type":"list","attributes":{"name":"L"}}}`)
	b.refuse(r, 429, "")
	if h := r.Header(); h.Get("Retry-After") != "1" || h.Get("RateLimit-Remaining") != "0" || r.get("errors.0.code") != "throttled" {
		t.Error(h, r.Body)
	}
	b.do("GET", "/api/lists", "", "Authorization", "Bearer "+keyOther).want(200) // its own count
	b.do("POST", "/api/events", event("a@b.co", "M", `{}`, b.now)).want(202)     // a rule of its own
	b.do("POST", "/api/events", event("a@b.co", "M", `{}`, b.now)).want(429)
	b.pass(time.Second)
	b.do("GET", "/api/lists", "").want(200)
	b.do("GET", "/api/lists", "").want(200)
	if r := b.do("GET", "/api/lists", "").want(429); r.Header().Get("Retry-After") != "52" { // 05:06:08: the minute ends in 52 s
		t.Error(r.Header())
	}
	b.pass(time.Minute)
	b.do("GET", "/api/lists", "").want(200)
}

func TestIdempotency(t *testing.T) {
	b := setup(t)
	body := `{"data":{"type":"list","attributes":{"name":"L"}}}`
	first := b.do("POST", "/api/lists", body, "Idempotency-Key", "k").want(201)
	again := b.do("POST", "/api/lists", body, "Idempotency-Key", "k").want(201)
	if again.Body.String() != first.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" || first.Header().Get("Idempotency-Replayed") != "" {
		t.Error(again.Header(), again.Body)
	}
	b.refuse(b.do("POST", "/api/lists", strings.Replace(body, "L", "M", 1), "Idempotency-Key", "k"), 422, "Idempotency-Key")
	b.refuse(b.do("POST", "/api/lists?fields[list]=name", body, "Idempotency-Key", "k"), 422, "Idempotency-Key")
	b.refuse(b.do("POST", "/api/events", event("a@b.co", "M", `{}`, b.now), "Idempotency-Key", "k"), 422, "Idempotency-Key")
	person := `{"data":{"type":"profile","attributes":{"email":"a@b.co"}}}`
	b.do("POST", "/api/profile-import", person, "Idempotency-Key", "person").want(201)
	b.refuse(b.do("POST", "/api/profiles", person, "Idempotency-Key", "person"), 422, "Idempotency-Key")
	b.do("POST", "/api/lists", body, "Idempotency-Key", "k", "Authorization", "Bearer "+keyOther).want(201) // its own keys
	for _, key := range []string{"\x01", strings.Repeat("k", 256), "ä"} {
		b.refuse(b.do("POST", "/api/lists", body, "Idempotency-Key", key), 400, "Idempotency-Key")
	}
	if got := len(strings.Fields(b.do("GET", "/api/lists", "").want(200).ids())); got != 1 {
		t.Errorf("%d lists", got)
	}
	b.pass(25 * time.Hour)
	b.do("POST", "/api/lists", body, "Idempotency-Key", "k").want(201)
	if got := len(strings.Fields(b.do("GET", "/api/lists", "").want(200).ids())); got != 2 {
		t.Errorf("%d lists a day later", got)
	}
}

// TestIdempotencyOfAll: each POST answers a repeat like the first, and does nothing more.
func TestIdempotencyOfAll(t *testing.T) {
	b := setup(t)
	p, q, list := b.profile("p@example.com"), b.profile("q@example.com"), b.list("L")
	b.event("p@example.com", "M", `{}`, b.now)
	for path, body := range bodies(b, p, q, list) {
		first := b.do("POST", path, body, "Idempotency-Key", path)
		if first.Code >= 300 {
			t.Errorf("%s: %s", path, first.Body)
		}
		puts := b.world.Puts
		b.pass(time.Minute)
		if again := b.do("POST", path, body, "Idempotency-Key", path); again.Code != first.Code || again.Body.String() != first.Body.String() || b.world.Puts != puts {
			t.Errorf("%s: %d %s after %d %s, %d records more", path, again.Code, again.Body, first.Code, first.Body, b.world.Puts-puts)
		}
	}
}

// bodies has a good request for each POST.
func bodies(b *bundle, p, q, list string) map[string]string {
	return map[string]string{
		"/api/profiles":                                  `{"data":{"type":"profile","attributes":{"email":"new@example.com"}}}`,
		"/api/profile-import":                            `{"data":{"type":"profile","attributes":{"email":"new2@example.com"}}}`,
		"/api/profile-merge":                             `{"data":{"type":"profile-merge","id":"` + p + `","relationships":{"profiles":{"data":[{"type":"profile","id":"` + q + `"}]}}}}`,
		"/api/data-privacy-deletion-jobs":                `{"data":{"type":"data-privacy-deletion-job","attributes":{"profile":{"data":{"type":"profile","attributes":{"email":"gone@example.com"}}}}}}`,
		"/api/profile-bulk-import-jobs":                  imported(`{"type":"profile","attributes":{"email":"new3@example.com"}},{"type":"profile","attributes":{"email":"x"}}`, ""),
		"/api/profile-subscription-bulk-create-jobs":     `{"data":{"type":"profile-subscription-bulk-create-job","attributes":{"profiles":{"data":[{"type":"profile","attributes":{"email":"s@example.com"}}]}}}}`,
		"/api/profile-subscription-bulk-delete-jobs":     `{"data":{"type":"profile-subscription-bulk-delete-job","attributes":{"profiles":{"data":[{"type":"profile","attributes":{"email":"s@example.com"}}]}}}}`,
		"/api/profile-suppression-bulk-create-jobs":      `{"data":{"type":"profile-suppression-bulk-create-job","attributes":{"profiles":{"data":[{"type":"profile","attributes":{"email":"s@example.com"}}]}}}}`,
		"/api/profile-suppression-bulk-delete-jobs":      `{"data":{"type":"profile-suppression-bulk-delete-job","attributes":{"profiles":{"data":[{"type":"profile","attributes":{"email":"s@example.com"}}]}}}}`,
		"/api/events":                                    event("e@example.com", "M", `{}`, b.now),
		"/api/event-bulk-create-jobs":                    bulk(item("e@example.com", "M", ""), item("f@example.com", "M")),
		"/api/lists":                                     `{"data":{"type":"list","attributes":{"name":"L2"}}}`,
		"/api/lists/" + list + "/relationships/profiles": `{"data":[{"type":"profile","id":"` + p + `"}]}`,
		"/api/metric-aggregates":                         aggregate(b.metric("M"), ""),
	}
}

// TestIdempotencyAtOnce: of many requests with one key one does the work, and all get its answer.
func TestIdempotencyAtOnce(t *testing.T) {
	b := setup(t)
	answers := make([]string, 30)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			answers[i] = b.do("POST", "/api/profiles", `{"data":{"type":"profile","attributes":{"email":"a@b.co"}}}`, "Idempotency-Key", "k").want(201).Body.String()
		})
	}
	all.Wait()
	if slices.Sort(answers); answers[0] != answers[len(answers)-1] || b.world.Puts != 1 {
		t.Errorf("%d records, %v", b.world.Puts, slices.Compact(answers))
	}
}

// TestIdempotencyAfterCrash: when the answer was lost, or the first one failed on its way, a repeat has the same effects once.
func TestIdempotencyAfterCrash(t *testing.T) {
	b := setup(t, func(_ *api.Options, d *api.Deps) { d.Receipts = forgetful{d.Receipts} })
	p, q, list := b.profile("p@example.com"), b.profile("q@example.com"), b.list("L")
	b.event("p@example.com", "M", `{}`, b.now)
	for path, body := range bodies(b, p, q, list) {
		first := b.do("POST", path, body, "Idempotency-Key", path)
		events := len(strings.Fields(b.do("GET", "/api/events?page[size]=1000", "").want(200).ids()))
		profiles := len(strings.Fields(b.do("GET", "/api/profiles?page[size]=1000", "").want(200).ids()))
		lists := len(strings.Fields(b.do("GET", "/api/lists", "").want(200).ids()))
		b.pass(time.Minute)
		again := b.do("POST", path, body, "Idempotency-Key", path)
		if again.Code != first.Code || again.Body.String() != first.Body.String() {
			t.Errorf("%s: %d %s after %d %s", path, again.Code, again.Body, first.Code, first.Body)
		}
		if n := len(strings.Fields(b.do("GET", "/api/events?page[size]=1000", "").want(200).ids())); n != events {
			t.Errorf("%s: %d events after %d", path, n, events)
		}
		if n := len(strings.Fields(b.do("GET", "/api/profiles?page[size]=1000", "").want(200).ids())); n != profiles {
			t.Errorf("%s: %d profiles after %d", path, n, profiles)
		}
		if n := len(strings.Fields(b.do("GET", "/api/lists", "").want(200).ids())); n != lists {
			t.Errorf("%s: %d lists after %d", path, n, lists)
		}
	}
	b.world.AppendErr = context.DeadlineExceeded
	one := event("late@example.com", "M", `{}`, b.now)
	b.do("POST", "/api/events", one, "Idempotency-Key", "late").want(503)
	b.world.AppendErr = nil
	b.do("POST", "/api/events", one, "Idempotency-Key", "late").want(202)
}

// forgetful loses answers, as a crash may.
type forgetful struct{ api.Receipts }

func (forgetful) Answer(string, string, receipts.Receipt) error { return nil }

// TestClaimFails: without a durable claim nothing is done.
func TestClaimFails(t *testing.T) {
	b := setup(t, func(_ *api.Options, d *api.Deps) { d.Receipts = broken{} })
	b.do("POST", "/api/lists", `{"data":{"type":"list","attributes":{"name":"L"}}}`, "Idempotency-Key", "k").want(500)
	if b.world.Puts != 0 {
		t.Error("it was done")
	}
}

type broken struct{}

func (broken) Claim(string, string, [32]byte, time.Time) (receipts.Receipt, bool, error) {
	return receipts.Receipt{}, false, io.ErrUnexpectedEOF
}
func (broken) Answer(string, string, receipts.Receipt) error { return io.ErrUnexpectedEOF }

// TestReadersFail: what goes wrong inside is not told, and what is elsewhere is not said to be missing.
func TestReadersFail(t *testing.T) {
	b := setup(t)
	p, list := b.profile("p@example.com"), b.list("L")
	b.event("p@example.com", "M", `{}`, b.now)
	metric := b.metric("M")
	ev := b.do("GET", "/api/events", "").want(200).ids()
	var paths []string
	for _, r := range b.server.OpenAPI().Routes() {
		if path, ok := strings.CutPrefix(r, "GET "); ok && path != api.PathOpenAPI {
			path = strings.Replace(path, "/events/{id}", "/events/"+ev, 1)
			path = strings.Replace(path, "/lists/{id}", "/lists/"+list, 1)
			path = strings.Replace(path, "{id}", p, 1)
			paths = append(paths, strings.Replace(path, "metric-summary", "metric-summary?metric_id="+metric+"&windows=1d", 1))
		}
	}
	for err, status := range map[error]int{fmt.Errorf("secret"): 500, fmt.Errorf("no: %w", api.ErrBusy): 503, fmt.Errorf("late: %w", context.DeadlineExceeded): 503} {
		b.world.ReadErr = err
		for _, path := range paths {
			r := b.do("GET", path, "")
			if r.Code != status && !strings.Contains(path, "metrics/") || strings.Contains(r.Body.String(), "secret") {
				t.Errorf("%s: %d %s", path, r.Code, r.Body)
			}
		}
	}
}

// TestPanic: a handler's panic is a 500 and not the end.
func TestPanic(t *testing.T) {
	b := setup(t, func(_ *api.Options, d *api.Deps) { d.Counts = panicking{} })
	b.refuse(b.do("GET", "/api/metrics", ""), 500, "")
	b.do("GET", "/api/lists", "").want(200)
}

// panicking has no counts behind it.
type panicking struct{ api.Counts }

// TestDocument holds the document to routes, wire types and the copy in docs/api; GODWIT_REWRITE=1 writes that copy.
func TestDocument(t *testing.T) {
	b := setup(t)
	served := b.do("GET", api.PathOpenAPI, "").want(200).Body.Bytes()
	var doc struct {
		OpenAPI    string
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				GoType     string `json:"x-go-type"`
			}
		}
	}
	if err := json.Unmarshal(served, &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatal(err)
	}
	for _, route := range b.server.OpenAPI().Routes() {
		method, path, _ := strings.Cut(route, " ")
		if w := b.do(method, strings.ReplaceAll(path, "{id}", "x"), ""); w.Code == 405 || w.Code == 404 && !strings.Contains(path, "{") {
			t.Errorf("%s is described and not served: %d", route, w.Code)
		}
	}
	var attributes []string
	typ := reflect.TypeFor[api.ProfileAttributes]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		attributes = append(attributes, name)
	}
	slices.Sort(attributes)
	if got := slices.Sorted(maps.Keys(doc.Components.Schemas["ProfileAttributes"].Properties)); !slices.Equal(got, attributes) {
		t.Errorf("schema %v, type %v", got, attributes)
	}
	// The attributes are read by package ingest: each one that is described must be one it knows.
	for _, name := range attributes {
		value := map[string]string{"email": `"a@b.co"`, "phone_number": `"+15005550006"`, "location": `{}`, "properties": `{}`, "locale": `"en"`, "image": `"https://x.org/y"`}[name]
		if value == "" {
			value = `"x"`
		}
		b.do("POST", "/api/profile-import", `{"data":{"type":"profile","attributes":{"external_id":"1","`+name+`":`+value+`}}}`)
	}
	const path = "../../docs/api/pipeline.json"
	if os.Getenv("GODWIT_REWRITE") != "" {
		if err := os.WriteFile(path, served, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != string(served) {
		t.Errorf("%s is not the document of the code (%v): run this test with GODWIT_REWRITE=1", path, err)
	}
}

func TestOptions(t *testing.T) {
	for key, change := range map[string]func(*api.Options){
		"listen":          func(o *api.Options) { o.Listen = []string{"nowhere"} },
		"cert_file":       func(o *api.Options) { o.CertFile = "x" },
		"public_url":      func(o *api.Options) { o.PublicURL = "example.com" },
		"memory":          func(o *api.Options) { o.Memory = 1 },
		"auth_window":     func(o *api.Options) { o.AuthWindow = 0 },
		"wait_visible":    func(o *api.Options) { o.WaitVisible = o.WriteTimeout },
		"keys.sha256":     func(o *api.Options) { o.Keys[0].SHA256 = "x" },
		"keys.name":       func(o *api.Options) { o.Keys[0].Name = o.Keys[1].Name },
		"keys.tenant":     func(o *api.Options) { o.Keys[0].Tenant = "" },
		"keys.scopes":     func(o *api.Options) { o.Keys[0].Scopes = []string{"all"} },
		"max_connections": func(o *api.Options) { o.MaxConnections = -1 },
	} {
		o := options()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: got %v", key, err)
		}
	}
	if err := api.DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[api.Options](), reflect.TypeFor[api.Key](), reflect.TypeFor[quota.Rule](), reflect.TypeFor[receipts.Options]()} {
		for i := range typ.NumField() {
			if f := typ.Field(i); f.Tag.Get("toml") == "" || f.Tag.Get("doc") == "" {
				t.Errorf("%s has no toml or doc tag", f.Name)
			}
		}
	}
	b := setup(t)
	o := options()
	o.Limits = []quota.Rule{{Tenant: "*", Operation: "nothing"}}
	if err := b.server.Reload(o); err == nil || !strings.HasPrefix(err.Error(), "limits: rule 1: operation: ") {
		t.Error(err)
	}
	if _, err := api.New(options(), api.Deps{}); err == nil {
		t.Error("a server without dependencies")
	}
	o = options()
	o.CertFile, o.KeyFile = "/nowhere", "/nowhere"
	if err := b.server.Reload(o); err == nil || !strings.HasPrefix(err.Error(), "cert_file: ") {
		t.Error(err)
	}
}

func TestReload(t *testing.T) {
	b := setup(t)
	o := options()
	o.Keys, o.PublicURL = o.Keys[1:], "https://api.example.org/"
	if err := b.server.Reload(o); err != nil {
		t.Fatal(err)
	}
	b.do("GET", "/api/lists", "").want(401)
	if got := b.do("GET", "/api/lists", "", "Authorization", "Bearer "+keyOther).want(200).get("links.self"); got != "https://api.example.org/api/lists" {
		t.Error(got)
	}
}

func TestListen(t *testing.T) {
	b := setup(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.server.Serve(ln)
	r, err := http.NewRequest("GET", "http://"+b.server.Addrs()[0].String()+"/api/lists", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+keyAcme)
	r.Header.Set("revision", "2026-07-15")
	w, err := http.DefaultClient.Do(r)
	if err != nil || w.StatusCode != 200 || w.Header.Get("Content-Type") != jsonapi.MediaType {
		t.Fatal(w, err)
	}
	_ = w.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.server.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestMetricsOfServer(t *testing.T) {
	registry := prometheus.NewRegistry()
	b := setup(t, func(_ *api.Options, d *api.Deps) { d.Registerer = registry })
	for range 2 {
		b.do("POST", "/api/lists", `{"data":{"type":"list","attributes":{"name":"L"}}}`, "Idempotency-Key", "k")
	}
	b.do("GET", "/api/lists/x", "")
	got := map[string]float64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", family.GetName())
		}
		for _, m := range family.GetMetric() {
			name := strings.TrimPrefix(family.GetName(), "godwit_api_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{"requests_total createList 201": 2, "requests_total getList 404": 1, "replayed_total": 1, "unseen_total": 0} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
}

// BenchmarkEvent tells what a single event costs here, the log apart.
func BenchmarkEvent(b *testing.B) {
	s := setup(b)
	body := event("a@b.co", "M", `{"Item":"x","$value":1}`, s.now)
	b.ReportAllocs()
	for b.Loop() {
		r := newRequest(body)
		w := &discard{h: http.Header{}}
		if s.server.Handler().ServeHTTP(w, r); w.code != 202 {
			b.Fatal(w.code)
		}
	}
}

func newRequest(body string) *http.Request {
	r, _ := http.NewRequest("POST", "/api/events", strings.NewReader(body))
	r.Header = http.Header{"Authorization": {"Klaviyo-API-Key " + keyAcme}, "Revision": {"2026-07-15"}, "Content-Type": {jsonapi.MediaType}}
	return r
}

type discard struct {
	h    http.Header
	code int
}

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(code int)        { d.code = code }

// TestReceiptsOfDisk: the real store on a disk serves as well.
func TestReceiptsOfDisk(t *testing.T) {
	store, err := receipts.Open(t.TempDir(), receipts.DefaultOptions(), vfs.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	b := setup(t, func(_ *api.Options, d *api.Deps) { d.Receipts = store })
	id := b.do("POST", "/api/lists", `{"data":{"type":"list","attributes":{"name":"L"}}}`, "Idempotency-Key", "k").want(201).get("data.id")
	if again := b.do("POST", "/api/lists", `{"data":{"type":"list","attributes":{"name":"L"}}}`, "Idempotency-Key", "k").want(201).get("data.id"); again != id {
		t.Error(id, again)
	}
}
