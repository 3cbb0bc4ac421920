package adminapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
)

// TestDocument holds the document to routes, wire types and the copy in
// docs/api; GODWIT_REWRITE=1 writes that copy.
func TestDocument(t *testing.T) {
	b := setup(t)
	served := b.do("GET", PathOpenAPI, "").Body.Bytes()
	var doc struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(served, &doc); err != nil {
		t.Fatal(err)
	}
	for _, route := range b.server.OpenAPI().Routes() {
		method, path, _ := strings.Cut(route, " ")
		if w := b.do(method, strings.ReplaceAll(path, "{id}", "x"), ""); w.Code == 405 || w.Code == 404 && !strings.Contains(path, "{") {
			t.Errorf("%s is described and not served: %d", route, w.Code)
		}
	}
	types := map[string]reflect.Type{}
	for _, v := range []any{Filter{}, QueueInfo{}, QueuesResponse{}, Message{}, MessagesResponse{}, MessageResponse{}, MessageEvent{}, FilterRequest{},
		ReasonRequest{}, SuspendRequest{}, Suspension{}, SuspensionsResponse{}, CountResponse{}, ImportResponse{}, LogLevel{}, Stats{}, Info{}, wire.Document{}, wire.Error{},
		Scope{}, Order{}, OrderRequest{}, OrdersResponse{}, Throttle{}, ThrottlesResponse{}, Source{}, DailyLimit{}, Pool{}, PoolMember{}, Proxy{}, PoolsResponse{},
		Value{}, Path{}, Explanation{}, Wait{}, MessageExplanation{}, Member{}, ClusterResponse{}, HandoffRequest{}, HandoffTarget{}, HandoffStatus{},
		PipelineStatus{}, PipelineErasure{}, ConsumerStatus{}, ConsumerPartition{}, PipelineAct{}, SQLRequest{}, SQLResponse{}} {
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
	const path = "../../docs/api/admin.json"
	if os.Getenv("GODWIT_REWRITE") != "" {
		if err := os.WriteFile(path, served, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != string(served) {
		t.Errorf("%s is not the document of the code (%v): run this test with GODWIT_REWRITE=1", path, err)
	}
}

// TestStatuses: every listed status can come; do holds every response to the list.
func TestStatuses(t *testing.T) {
	b := setup(t, func(o *Options) { o.AuthFailures = len(o.Tokens) * 40 })
	id := b.engine.waiting[0].Message.ID.String()
	body := map[string]string{PathSuspensions: `{"filter":{"domain":"x"}}`, PathLogLevel: `{"level":"info"}`,
		PathReload: "", PathDrain: "", PathUndrain: "", PathImport: "a", PathHandoff: `{"to":["mta2"]}`,
		PathPipelineAct: `{"consumer":"account","action":"stop"}`, PathPipelineSQL: `{"query":"select 1"}`,
		PathOrders: `{"scope":{"source":"s1"},"action":"suspend"}`}
	for _, e := range b.server.endpoints() {
		path := strings.ReplaceAll(e.Path, "{id}", id)
		if e.Path == PathExplain {
			path += "?address=jo@gmail.com"
		}
		takes := e.Request != nil || e.RequestType != ""
		in, ok := body[e.Path]
		if !ok {
			in = `{"filter":{"domain":"x"}}`
		}
		var header []string
		if e.Path == PathImport {
			header = []string{"Content-Type", typeLines}
		}
		send := func(in string, more ...string) {
			if !takes {
				in = ""
			}
			b.do(e.Method, path, in, append(slices.Clone(header), more...)...)
		}
		send(in)
		send("{")
		send("{}")
		send("bad")
		send(`{"action":"explode"}`)
		send(`{"limit":-1}`)
		send(strings.Repeat(" ", 2<<20))
		send(in, "Content-Type", "text/plain")
		if !takes {
			b.do(e.Method, strings.ReplaceAll(e.Path, "{id}", id)+"?wrong=1", "")
			b.do(e.Method, strings.ReplaceAll(e.Path, "{id}", "x"), "")
		}
		broken := []error{errors.New("broken"), mail.ErrDraining}
		if e.ID == "startHandoff" {
			broken = append(broken, ErrHandoff)
		}
		if e.ID == "actOnConsumer" || e.ID == "askWarehouse" {
			broken = append(broken, ErrPipeline)
		}
		for _, err := range broken {
			b.engine.err = err
			b.engine.suspensions = []Suspension{{ID: id}}
			b.egress.orders = []Order{{ID: id, Action: ActionSuspend}}
			send(in)
			b.engine.err = nil
		}
		if e.Path == PathSuspension {
			b.engine.suspensions = []Suspension{{ID: id}}
			send("")
		}
		if e.Path == PathOrder {
			b.egress.orders = []Order{{ID: id, Action: ActionSuspend}}
			send("")
		}
	}
	bare(t, b)
	never := map[string]bool{ // what no engine error can cause, and what needs a slow peer or a flood
		"getOpenAPI 500": true, "getOpenAPI 503": true, "getLogLevel 500": true, "getLogLevel 503": true,
		"setLogLevel 500": true, "setLogLevel 503": true, "reload 500": true, "reload 503": true,
	}
	for _, e := range b.server.endpoints() {
		for _, r := range e.Responses {
			if slices.Contains([]int{401, 408, 429}, r.Status) || never[fmt.Sprintf("%s %d", e.ID, r.Status)] {
				continue
			}
			if !b.seen[e.Method+" "+e.Path][r.Status] {
				t.Errorf("%s lists %d, which never came", e.ID, r.Status)
			}
		}
	}
}

// bare asks a server without egress and cluster: what is about them answers 501 and says what is missing.
func bare(t *testing.T, b *bundle) {
	t.Helper()
	var err error
	if b.server, err = New(options(), b.deps()); err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Concat(b.server.egressEndpoints(), b.server.clusterEndpoints(), b.server.pipelineEndpoints()) {
		w := b.do(e.Method, strings.ReplaceAll(e.Path, "{id}", "x"), "")
		if got := errorsOf(t, w)[0]; w.Code != 501 || got.Code != CodeNotConfigured || got.Detail == "" {
			t.Errorf("%s: %d %+v", e.ID, w.Code, got)
		}
	}
}
