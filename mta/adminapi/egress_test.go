package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/wire"
)

// egress is the optional interfaces of Deps in memory.
type egress struct {
	err     *error
	explain Explanation
	message MessageExplanation
	orders  []Order
	moving  HandoffStatus
	stopped bool // the consumer account
	asked   []string
}

// newEgress has the lists empty, not absent: what a handler must make of that is [].
func newEgress(err *error) *egress {
	return &egress{err: err, moving: HandoffStatus{State: HandoffNone},
		explain: Explanation{Domain: "gmail.com", Pool: "bulk", Paths: []Path{{Source: Source{Name: "s1", State: StateUp}}}},
		message: MessageExplanation{Queue: &QueueInfo{Domain: "gmail.com", Priority: "bulk"}, Path: &Explanation{Domain: "gmail.com"}}}
}

func (e *egress) Explain(_ context.Context, q ExplainQuery) (Explanation, error) {
	e.asked = append(e.asked, fmt.Sprintf("%+v", q))
	x := e.explain
	x.Address = q.Address
	if q.Source == "unknown" {
		return x, fmt.Errorf("%w: there is no source %q", ErrBadQuery, q.Source)
	}
	return x, *e.err
}

func (e *egress) ExplainMessage(_ context.Context, id mail.ID) (MessageExplanation, error) {
	if id[15] == 0xff {
		return MessageExplanation{}, mail.ErrNotFound
	}
	return e.message, *e.err
}

func (e *egress) Pools(context.Context) (PoolsResponse, error) {
	return PoolsResponse{Pools: []Pool{{Name: "b"}, {Name: "a"}}}, *e.err
}

func (e *egress) Throttles(_ context.Context, s Scope) ([]Throttle, error) {
	var out []Throttle
	for i := range 5 {
		t := Throttle{Key: Scope{Source: fmt.Sprintf("s%d", i), Provider: "google"}, Mode: ModeOwner, Counted: "everywhere", WaitSend: i}
		if t.Key.Within(s) {
			out = append(out, t)
		}
	}
	return out, *e.err
}

func (e *egress) Orders(context.Context) ([]Order, error) { return e.orders, *e.err }

func (e *egress) Set(_ context.Context, r OrderRequest, by string) (Order, error) {
	o := Order{ID: fmt.Sprint(len(e.orders)), Scope: r.Scope, Action: r.Action, Connections: r.Connections, MessageRate: r.MessageRate, Reason: r.Reason,
		Created: time.Now().UTC().Add(time.Duration(len(e.orders)) * time.Second), By: by}
	if r.Until != nil {
		o.Until = *r.Until
	}
	e.orders = append(e.orders, o)
	return o, *e.err
}

func (e *egress) Lift(_ context.Context, id, _ string) error {
	n := len(e.orders)
	e.orders = slices.DeleteFunc(slices.Clone(e.orders), func(o Order) bool { return o.ID == id })
	if n == len(e.orders) {
		return mail.ErrNotFound
	}
	return *e.err
}

func (e *egress) Members(context.Context) (ClusterResponse, error) {
	return ClusterResponse{Node: "a", Members: []Member{{Name: "b", Role: "proxy", State: MemberMissing}, {Name: "a", Role: "mta", State: MemberAlive}}}, *e.err
}

func (e *egress) StartHandoff(_ context.Context, r HandoffRequest) (HandoffStatus, error) {
	e.moving = HandoffStatus{State: HandoffRunning, Total: 10, Left: 10}
	for _, name := range r.To {
		e.moving.Targets = append(e.moving.Targets, HandoffTarget{Name: name})
	}
	return e.moving, *e.err
}

func (e *egress) StopHandoff(context.Context) (HandoffStatus, error) {
	e.moving.State = HandoffStopped
	return e.moving, *e.err
}

func (e *egress) HandoffStatus(context.Context) (HandoffStatus, error) { return e.moving, *e.err }

func TestExplain(t *testing.T) {
	b := setup(t)
	x := decode[Explanation](t, b.do("GET", PathExplain+"?address=jo@gmail.com&tenant=acme&source=s1", ""))
	if x.Verdict != "Mail goes to gmail.com by s1 of pool bulk; nothing stops it." || !x.Paths[0].Usable || x.Address != "jo@gmail.com" {
		t.Errorf("%+v", x)
	}
	if want := "[{Address:jo@gmail.com Source:s1 Pool: Tenant:acme Stream:}]"; fmt.Sprint(b.egress.asked) != want {
		t.Errorf("asked %v", b.egress.asked)
	}
	m := decode[MessageExplanation](t, b.do("GET", strings.ReplaceAll(PathExplainMessage, "{id}", b.engine.waiting[0].Message.ID.String()), ""))
	if m.Verdict == "" || m.Queue.State != QueueWaiting {
		t.Errorf("%+v", m)
	}
}

func TestExplainBadQueries(t *testing.T) {
	b := setup(t)
	gone := mail.ID{15: 0xff}.String()
	for _, c := range []struct {
		method, path, body string
		status             int
		code, field        string
	}{
		{"GET", PathExplain, "", 400, wire.CodeInvalidValue, "address"},
		{"GET", PathExplain + "?address=x&source=unknown", "", 400, wire.CodeInvalidValue, ""},
		{"GET", PathExplain + "?address=x&adress=y", "", 400, wire.CodeInvalidValue, "adress"},
		{"GET", PathExplain + "?address=x%0ay", "", 400, wire.CodeInvalidValue, "address"},
		{"GET", strings.ReplaceAll(PathExplainMessage, "{id}", gone), "", 404, wire.CodeNotFound, "id"},
		{"GET", strings.ReplaceAll(PathExplainMessage, "{id}", "x"), "", 404, wire.CodeNotFound, "id"},
		{"GET", PathThrottles + "?limit=1001", "", 400, wire.CodeInvalidValue, "limit"},
		{"GET", PathThrottles + "?stream=x", "", 400, wire.CodeInvalidValue, "stream"},
		{"DELETE", "/admin/v1/orders/x", "", 404, wire.CodeNotFound, "id"},
		{"POST", PathOrders, `{"action":"suspend"}`, 422, CodeScope, "scope"},
		{"POST", PathOrders, `{"scope":{"source":"s*"},"action":"suspend"}`, 422, CodeScope, "scope/source"},
		{"POST", PathOrders, `{"scope":{"stream":"x"},"action":"suspend"}`, 422, CodeScope, "scope/tenant"},
		{"POST", PathOrders, `{"scope":{"source":"s1"},"action":"suspend_tenant"}`, 422, wire.CodeInvalidValue, "action"},
		{"POST", PathOrders, `{"scope":{"source":"s1"},"action":"slow"}`, 422, wire.CodeInvalidValue, "message_rate"},
		{"POST", PathOrders, `{"scope":{"source":"s1"},"action":"slow","message_rate":"fast"}`, 422, wire.CodeInvalidValue, "message_rate"},
		{"POST", PathOrders, `{"scope":{"source":"s1"},"action":"slow","connections":-1}`, 422, wire.CodeInvalidValue, "connections"},
		{"POST", PathOrders, `{"scope":{"source":"s1"},"action":"suspend","message_rate":"1/s"}`, 422, wire.CodeInvalidValue, "action"},
		{"POST", PathOrders, `{"scope":{"source":"s1"},"action":"suspend","until":"2001-01-01T00:00:00Z"}`, 422, wire.CodeInvalidValue, "until"},
		{"POST", PathOrders, `{"scope":{"source":"s1"},"action":"suspend","reason":"a\nb"}`, 422, CodeLineBreak, "reason"},
		{"POST", PathHandoff, `{"to":"mta2"}`, 400, wire.CodeWrongType, "to"},
	} {
		w := b.do(c.method, c.path, c.body)
		if e := errorsOf(t, w)[0]; w.Code != c.status || e.Code != c.code || e.Field != c.field {
			t.Errorf("%s %s %s: %d %+v", c.method, c.path, c.body, w.Code, e)
		}
	}
	if len(b.egress.orders) != 0 {
		t.Errorf("orders were set: %+v", b.egress.orders)
	}
}

func TestThrottles(t *testing.T) {
	b := setup(t)
	got := decode[ThrottlesResponse](t, b.do("GET", PathThrottles+"?provider=google&limit=2", ""))
	if len(got.Throttles) != 2 || got.Total != 5 || got.Throttles[0].WaitSend != 4 {
		t.Errorf("%+v", got)
	}
	if got := decode[ThrottlesResponse](t, b.do("GET", PathThrottles+"?source=s9", "")); got.Throttles == nil || got.Total != 0 {
		t.Errorf("%+v", got)
	}
}

// exerciseEgress runs the client's calls of this file against a listening server.
func exerciseEgress(t *testing.T, b *bundle, c *Client) {
	t.Helper()
	ctx, until := context.Background(), time.Now().Add(time.Hour).UTC()
	fail := func(what string, got any, err error) {
		t.Helper()
		t.Errorf("%s: %+v, %v", what, got, err)
	}
	if x, err := c.Explain(ctx, ExplainQuery{Address: "a b@gmail.com", Pool: "p", Stream: "s"}); err != nil || x.Address != "a b@gmail.com" {
		fail("explain", x, err)
	}
	if m, err := c.ExplainMessage(ctx, b.engine.waiting[0].Message.ID); err != nil || m.Verdict == "" {
		fail("explain message", m, err)
	}
	if p, err := c.Pools(ctx); err != nil || len(p.Pools) != 2 || p.Pools[0].Name != "a" {
		fail("pools", p, err)
	}
	if x, err := c.Throttles(ctx, Scope{Source: "s3"}, 10); err != nil || x.Total != 1 {
		fail("throttles", x, err)
	}
	first, err := c.SetOrder(ctx, OrderRequest{Scope: Scope{Source: "s1", Provider: "google"}, Action: ActionSuspend, Until: &until, Reason: "r"})
	if err != nil || !first.Until.Equal(until) || first.By == "" {
		fail("set order", first, err)
	}
	second, err := c.SetOrder(ctx, OrderRequest{Scope: Scope{Source: "s1"}, Action: ActionSlow, MessageRate: "10/min"})
	if err != nil {
		fail("set order", second, err)
	}
	if list, err := c.Orders(ctx); err != nil || len(list) != 2 || list[0].ID != second.ID {
		fail("orders", list, err)
	}
	for _, id := range []string{first.ID, second.ID} {
		if err := c.LiftOrder(ctx, id); err != nil {
			fail("lift", id, err)
		}
	}
	var p *wire.Problem
	if err := c.LiftOrder(ctx, first.ID); !errors.As(err, &p) || p.Status != http.StatusNotFound {
		fail("lift twice", nil, err)
	}
	if m, err := c.Cluster(ctx); err != nil || len(m.Members) != 2 || m.Members[0].Name != "a" {
		fail("cluster", m, err)
	}
	if h, err := c.StartHandoff(ctx, HandoffRequest{To: []string{"mta2"}}); err != nil || h.Targets[0].Name != "mta2" {
		fail("handoff", h, err)
	}
	if h, err := c.HandoffStatus(ctx); err != nil || h.State != HandoffRunning {
		fail("handoff status", h, err)
	}
	if h, err := c.StopHandoff(ctx); err != nil || h.State != HandoffStopped {
		fail("stop handoff", h, err)
	}
}

func TestScope(t *testing.T) {
	s := Scope{Source: "s1", Provider: "google", Stream: "x"}
	if got := s.String(); got != "source=s1 stream=x provider=google" {
		t.Error(got)
	}
	for wider, want := range map[Scope]bool{{}: true, {Source: "s1"}: true, s: true, {Source: "s2"}: false, {Source: "s1", Site: "mx"}: false} {
		if s.Within(wider) != want {
			t.Errorf("within %v: %v", wider, !want)
		}
	}
}

func (e *egress) PipelineStatus(context.Context) (PipelineStatus, error) {
	return PipelineStatus{Path: "/var/lib/godwit/pipeline", Consumers: []ConsumerStatus{{Name: "account", Running: !e.stopped,
		Partitions: []ConsumerPartition{{Partition: 1, Applied: 7, Committed: 5, End: 9, Lag: 2, Seconds: 0.5}}}}}, *e.err
}

func (e *egress) PipelineAct(_ context.Context, r PipelineAct) error {
	if err := *e.err; err != nil {
		return err
	}
	if r.Consumer != "account" {
		return fmt.Errorf("%w: there is no consumer %q", ErrPipeline, r.Consumer)
	}
	e.stopped = r.Action == "stop"
	return nil
}

func (e *egress) PipelineSQL(_ context.Context, r SQLRequest) (SQLResponse, error) {
	if r.Query == "" {
		return SQLResponse{}, fmt.Errorf("%w: the query is empty", ErrPipeline)
	}
	return SQLResponse{Columns: []string{"n"}, Types: []string{"INTEGER"}, Rows: []Values{{1}}}, *e.err
}

// exercisePipeline runs the client's calls about the pipeline.
func exercisePipeline(t *testing.T, c *Client) {
	t.Helper()
	ctx := t.Context()
	if st, err := c.ActOnConsumer(ctx, PipelineAct{Consumer: "account", Action: "stop"}); err != nil || st.Consumers[0].Running {
		t.Errorf("stop: %+v, %v", st, err)
	}
	if _, err := c.ActOnConsumer(ctx, PipelineAct{Consumer: "nobody", Action: "stop"}); err == nil || !strings.Contains(err.Error(), `no consumer "nobody"`) {
		t.Errorf("unknown consumer: %v", err)
	}
	one, at := 1, int64(7)
	for _, bad := range []PipelineAct{{Action: "skip", Partition: &one}, {Action: "skip", Offset: &at}, {Action: "start", Offset: &at}} {
		bad.Consumer = "account"
		if _, err := c.ActOnConsumer(ctx, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, err := c.ActOnConsumer(ctx, PipelineAct{Consumer: "account", Action: "skip", Partition: &one, Offset: &at}); err != nil {
		t.Error(err)
	}
	if _, err := c.ActOnConsumer(ctx, PipelineAct{Consumer: "account", Action: "explode"}); err == nil {
		t.Error("an unknown action is taken")
	}
	if st, err := c.Pipeline(ctx); err != nil || st.Consumers[0].Partitions[0].Lag != 2 {
		t.Errorf("status: %+v, %v", st, err)
	}
	if out, err := c.SQL(ctx, SQLRequest{Query: "select 1"}); err != nil || len(out.Rows) != 1 {
		t.Errorf("SQL: %+v, %v", out, err)
	}
}
