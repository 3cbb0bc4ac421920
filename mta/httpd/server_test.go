package httpd

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/injectapi"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestClientAndServer runs the client against a listening server, by TCP and by a Unix socket.
func TestClientAndServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	b := setup(t, func(o *Options) { o.Listen = []string{"127.0.0.1:0", "unix:" + socket} })
	if err := b.server.Start(); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"http://" + b.server.Addrs()[0].String(), "unix:" + socket} {
		client, err := injectapi.NewClient(injectapi.ClientOptions{URL: url, Key: keyAcme})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		stored, err := client.StoreContent(ctx, injectapi.Content{From: "a@example.com", Text: strings.Repeat("long ", 1000)}, "")
		if err != nil {
			t.Fatal(err)
		}
		vars, _ := injectapi.Vars(map[string]any{"n": 1})
		null := ""
		answer, err := client.Send(ctx, injectapi.MessagesRequest{ContentID: stored.ID, ReversePath: &null,
			Recipients: []injectapi.Recipient{{Address: "a@example.org", Substitutions: vars}, {Address: "bad"}}}, "")
		if err != nil || len(answer.Messages) != 1 || len(answer.Rejected) != 1 {
			t.Errorf("%+v %v", answer, err)
		}
		if _, err := client.Send(ctx, injectapi.MessagesRequest{ContentID: "x"}, ""); injectapi.Code(err) != injectapi.CodeRequired {
			t.Errorf("got %v", err)
		}
		if _, err := client.Status(ctx, "x"); injectapi.Code(err) != wire.CodeNotFound {
			t.Errorf("got %v", err)
		}
		client.Close()
	}
	for range 2 {
		if err := b.server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func TestStartFailsWhole(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	b := setup(t, func(o *Options) { o.Listen = []string{"127.0.0.1:0", taken.Addr().String()} })
	if err := b.server.Start(); err == nil || !strings.HasPrefix(err.Error(), "listen: ") {
		t.Errorf("got %v", err)
	}
	if len(b.server.Addrs()) != 0 {
		t.Error("one address is served")
	}
}

func TestOptions(t *testing.T) {
	for key, change := range map[string]func(*Options){
		"listen":          func(o *Options) { o.Listen = []string{"nowhere"} },
		"cert_file":       func(o *Options) { o.CertFile = "x" },
		"max_recipients":  func(o *Options) { o.MaxRecipients = 10_001 },
		"memory":          func(o *Options) { o.Memory = 1 },
		"auth_window":     func(o *Options) { o.AuthWindow = 0 },
		"keys.sha256":     func(o *Options) { o.Keys[0].SHA256 = "x" },
		"keys.name":       func(o *Options) { o.Keys[0].Name = o.Keys[1].Name },
		"keys.tenant":     func(o *Options) { o.Keys[0].Tenant = "" },
		"keys.scopes":     func(o *Options) { o.Keys[0].Scopes = []string{"all"} },
		"max_connections": func(o *Options) { o.MaxConnections = -1 },
	} {
		o := options()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: got %v", key, err)
		}
	}
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
	for i := range reflect.TypeFor[Options]().NumField() {
		if f := reflect.TypeFor[Options]().Field(i); f.Tag.Get("toml") == "" || f.Tag.Get("doc") == "" {
			t.Errorf("%s has no toml or doc tag", f.Name)
		}
	}
}

func TestMetrics(t *testing.T) {
	b := setup(t)
	registry := prometheus.NewRegistry()
	s, err := New(options(), Deps{Injector: b.server.deps.Injector, Store: b.queue, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	b.server = s
	b.do("POST", "/v1/messages", mixed, "Idempotency-Key", "k")
	b.do("POST", "/v1/messages", mixed, "Idempotency-Key", "k")
	b.do("POST", "/v1/messages", "{}")
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
			name := strings.TrimPrefix(family.GetName(), "godwit_httpd_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{"requests_total injectMessages 202": 2, "requests_total injectMessages 422": 1,
		"recipients_total accepted": 2, "recipients_total rejected": 2, "replayed_total": 1} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
}

// TestDocument holds the served document to the routes and the wire types, both
// ways, and to the copy in docs/api. GODWIT_REWRITE=1 writes that copy.
func TestDocument(t *testing.T) {
	b := setup(t)
	w := b.do("GET", "/openapi.json", "", "Authorization", "")
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatal(err, doc.OpenAPI)
	}
	var routes []string
	for path, methods := range doc.Paths {
		for method := range methods {
			routes = append(routes, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(routes)
	want := []string{"GET /openapi.json", "GET /v1/messages/{id}", "POST /v1/contents", "POST /v1/messages"}
	if !slices.Equal(routes, want) {
		t.Errorf("routes %v", routes)
	}
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		if w := b.do(method, strings.ReplaceAll(path, "{id}", "x"), "", "Authorization", "Bearer "+keyRead); w.Code == 405 ||
			w.Code == 404 && !strings.Contains(path, "{") {
			t.Errorf("%s is described and not served", route)
		}
	}
	types := map[string]reflect.Type{}
	for _, v := range []any{injectapi.Content{}, injectapi.Header{}, injectapi.Attachment{}, injectapi.ContentResponse{}, injectapi.MessagesRequest{},
		injectapi.Recipient{}, injectapi.MessagesResponse{}, injectapi.Accepted{}, injectapi.Rejected{}, injectapi.Status{}, injectapi.Event{},
		wire.Document{}, wire.Error{}} {
		types[reflect.TypeOf(v).Name()] = reflect.TypeOf(v)
	}
	if a, b := slices.Sorted(maps.Keys(types)), slices.Sorted(maps.Keys(doc.Components.Schemas)); !slices.Equal(a, b) {
		t.Errorf("types %v, schemas %v", a, b)
	}
	for name, typ := range types {
		var fields []string
		for i := range typ.NumField() {
			field, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			fields = append(fields, field)
		}
		slices.Sort(fields)
		if got := slices.Sorted(maps.Keys(doc.Components.Schemas[name].Properties)); !slices.Equal(got, fields) {
			t.Errorf("%s: schema %v, type %v", name, got, fields)
		}
	}
	golden(t, "../../docs/api/inject.json", w.Body.Bytes())
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if os.Getenv("GODWIT_REWRITE") != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != string(got) {
		t.Errorf("%s is not the document of the code (%v): run this test with GODWIT_REWRITE=1", path, err)
	}
}

// TestStatusesAreReached: every status that the document lists for an
// operation can really come, so that the list says neither too little (do
// checks that for every response) nor too much.
func TestStatusesAreReached(t *testing.T) {
	b := setup(t)
	small := setup(t, func(o *Options) { o.AuthFailures = 1 })
	post := func(path, good string) map[int]func() int {
		return map[int]func() int{
			201: func() int { return b.do("POST", path, good).Code },
			202: func() int { return b.do("POST", path, good).Code },
			400: func() int { return b.do("POST", path, "{").Code },
			401: func() int { return b.do("POST", path, good, "Authorization", "").Code },
			403: func() int { return b.do("POST", path, good, "Authorization", "Bearer "+keyRead).Code },
			408: func() int { return b.slow(path) },
			413: func() int { return b.do("POST", path, strings.Repeat(" ", 3<<20)).Code },
			415: func() int { return b.do("POST", path, good, "Content-Type", "text/html").Code },
			422: func() int { return b.do("POST", path, "{}").Code },
			429: func() int { return small.wrong("POST", path) },
			500: func() int { return b.failing(fmt.Errorf("broken"), "POST", path, good) },
			503: func() int { return b.failing(context.DeadlineExceeded, "POST", path, good) },
		}
	}
	cases := map[string]map[int]func() int{
		"POST /v1/contents": post("/v1/contents", `{"from":"a@example.com","text":"x"}`),
		"POST /v1/messages": post("/v1/messages", simple),
	}
	for _, e := range b.server.endpoints() {
		try := cases[e.Method+" "+e.Path]
		if try == nil {
			continue // the two GET operations: TestStatus, TestAuthorization
		}
		for _, r := range e.Responses {
			if got := try[r.Status](); got != r.Status {
				t.Errorf("%s %s: %d is listed, got %d", e.Method, e.Path, r.Status, got)
			}
		}
	}
}

// slow sends a body whose reading runs into the deadline.
func (b *bundle) slow(path string) int {
	r, _ := http.NewRequest("POST", path, nil)
	r.Header = http.Header{"Authorization": {"Bearer " + keyAcme}, "Content-Type": {"application/json"}}
	r.Body = stalled{}
	w := newRecorder()
	b.server.Handler().ServeHTTP(w, r)
	return w.Code
}

func (b *bundle) wrong(method, path string) int {
	code := 0
	for range 2 {
		code = b.do(method, path, "", "Authorization", "Bearer wrong").Code
	}
	return code
}

func (b *bundle) failing(err error, method, path, body string) int {
	b.queue.putErr = err
	defer func() { b.queue.putErr = nil }()
	return b.do(method, path, body).Code
}
