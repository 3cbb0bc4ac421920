package backoff_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/rules"
	"github.com/prometheus/client_golang/prometheus"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const testRules = `version = 1
[[provider]]
name = "p"
mx_suffix = ["p.test"]
[[provider.rule]]
name = "suspend"
match = "suspend me"
action = "suspend"
threshold = 3
window = "10m"
for = "1h"
matches = ["421 suspend me"]
not = ["x"]
[[provider.rule]]
name = "slow"
match = "slow down"
action = "slow"
message_rate = "10/min"
messages_per_connection = 2
for = "30m"
matches = ["421 slow down"]
not = ["x"]
[[provider.rule]]
name = "one"
match = "too many here"
action = "one_connection"
scope = "site"
for = "30m"
matches = ["421 too many here"]
not = ["x"]
[[provider.rule]]
name = "tenant"
match = "bad customer"
action = "suspend_tenant"
for = "5m"
matches = ["421 bad customer"]
not = ["x"]
[[provider.rule]]
name = "stream"
match = "bad campaign"
action = "suspend_stream"
for = "5m"
matches = ["421 bad campaign"]
not = ["x"]
[[provider.rule]]
name = "bounce"
match = "never again"
action = "bounce"
threshold = 2
window = "1m"
matches = ["421 never again"]
not = ["x"]
[[default.rule]]
name = "any"
match = "go away"
action = "suspend"
for = "10m"
matches = ["421 go away"]
not = ["x"]
`

func testSet(t testing.TB, text string) *rules.Set {
	t.Helper()
	s, err := rules.Parse(rules.Text{Name: "r.toml", Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newEngine(t testing.TB, o backoff.Options, reg prometheus.Registerer) (*backoff.Engine, *backoff.Orders) {
	t.Helper()
	orders := backoff.NewOrders()
	e, err := backoff.New(o, backoff.Deps{Rules: testSet(t, testRules), Orders: orders, Node: "n1", Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	return e, orders
}

func attempt(reply string) backoff.Attempt {
	return backoff.Attempt{Source: "s1", Provider: "p", Site: "mx.p.test", Tenant: "acme", Stream: "news",
		Class: mail.ClassSMTP, Reply: mail.Reply{Code: 421, Enhanced: "4.7.0", Text: reply}}
}

func TestThresholdAndWindow(t *testing.T) {
	e, orders := newEngine(t, backoff.DefaultOptions(), nil)
	feed := func(after time.Duration, want int) []backoff.Order {
		t.Helper()
		got := e.Feed(start.Add(after), attempt("please SUSPEND me now"))
		if len(got) != want {
			t.Fatalf("after %s: %v, want %d", after, got, want)
		}
		return got
	}
	feed(0, 0)
	feed(4*time.Minute, 0)
	feed(10*time.Minute, 0) // the first is as old as the window
	o := feed(13*time.Minute, 1)[0]
	want := "suspend source=s1 provider=p, until 2026-03-01T13:13:00Z, by rule p/suspend: 3 replies within 10m, the last: 421 4.7.0 please SUSPEND me now"
	if o.String() != want || o.Node != "n1" || !o.Created.Equal(start.Add(13*time.Minute)) {
		t.Errorf("order\n%s\nwant\n%s", o, want)
	}
	if _, ok := orders.Blocked("s1", "p", "mx2.p.test", start.Add(14*time.Minute)); !ok {
		t.Error("the engine's own orders do not have it")
	}
	for _, c := range [][3]string{{"s2", "p", "mx.p.test"}, {"s1", "q", "mx.p.test"}, {"s1", "", "mx.p.test"}} {
		if _, ok := orders.Blocked(c[0], c[1], c[2], start.Add(14*time.Minute)); ok {
			t.Errorf("%v is blocked too", c)
		}
	}
	if _, ok := orders.Blocked("s1", "p", "mx.p.test", start.Add(73*time.Minute)); ok {
		t.Error("blocked beyond its end")
	}

	// What triggered does not count again; three more extend the same order.
	feed(15*time.Minute, 0)
	feed(16*time.Minute, 0)
	if o2 := feed(30*time.Minute, 0); len(o2) != 0 {
		t.Fatal(o2)
	}
	feed(31*time.Minute, 0)
	o3 := feed(32*time.Minute, 1)[0]
	if o3.ID != o.ID || !o3.Created.Equal(o.Created) || !o3.Until.Equal(start.Add(92*time.Minute)) || orders.Len() != 1 {
		t.Errorf("extended to %s (%d orders), want the same order until 13:32", o3, orders.Len())
	}
	// After its end, it is another one.
	for i := range 2 {
		feed(3*time.Hour+time.Duration(i)*time.Second, 0)
	}
	if o4 := feed(3*time.Hour+5*time.Second, 1)[0]; o4.ID == o.ID {
		t.Error("an ended order was taken up again")
	}
}

// TestOnlyReplies: what is not a refusal by the peer never counts.
func TestOnlyReplies(t *testing.T) {
	e, _ := newEngine(t, backoff.DefaultOptions(), nil)
	for _, class := range []string{mail.ClassConnect, mail.ClassDNS, mail.ClassTLS, mail.ClassPolicy, ""} {
		a := attempt("slow down")
		a.Class = class
		if got := e.Feed(start, a); got != nil {
			t.Errorf("class %q: %v", class, got)
		}
	}
	for _, code := range []int{0, 250, 354} {
		a := attempt("slow down")
		a.Reply.Code = code
		if got := e.Feed(start, a); got != nil {
			t.Errorf("code %d: %v", code, got)
		}
	}
	if got := e.Feed(start, attempt("slow down")); len(got) != 1 {
		t.Errorf("the reply itself: %v", got)
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		reply  string
		change func(*backoff.Attempt)
		want   string
	}{
		{"slow down", nil, "slow source=s1 provider=p, message rate 10/min, messages per connection 2, until 2026-03-01T12:30:00Z, by rule p/slow: 421 4.7.0 slow down"},
		{"too many here", nil, "one_connection source=s1 site=mx.p.test, connections 1, until"},
		{"bad customer", nil, "suspend_tenant tenant=acme provider=p, until 2026-03-01T12:05:00Z"},
		{"bad campaign", nil, "suspend_stream tenant=acme provider=p stream=news, until"},
		{"go away", nil, "suspend source=s1 provider=p, until 2026-03-01T12:10:00Z, by rule default/any"},
		{"go away", func(a *backoff.Attempt) { a.Provider = "" }, "suspend source=s1 site=mx.p.test, until"},
		{"go away", func(a *backoff.Attempt) { a.Provider, a.Site = "", "" }, ""},
		{"bad customer", func(a *backoff.Attempt) { a.Tenant = "" }, ""},
		{"bad campaign", func(a *backoff.Attempt) { a.Tenant, a.Stream = "", "" }, ""},
		{"bad campaign", func(a *backoff.Attempt) { a.Tenant = "" }, "suspend_stream provider=p stream=news"},
		{"go away", func(a *backoff.Attempt) { a.Source = "" }, "suspend provider=p, until"},
		{"nothing known", nil, ""},
	} {
		e, _ := newEngine(t, backoff.DefaultOptions(), nil)
		a := attempt(c.reply)
		if c.change != nil {
			c.change(&a)
		}
		got := ""
		for _, o := range e.Feed(start, a) {
			got += o.String()
			if err := o.Validate(); err != nil {
				t.Errorf("%s: %v", o, err)
			}
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", c.reply, got, c.want)
		}
	}
}

// TestBounce: a bounce is about one reply, is not kept, and goes on while the rate does.
func TestBounce(t *testing.T) {
	e, orders := newEngine(t, backoff.DefaultOptions(), nil)
	for i, c := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {10 * time.Second, 1}, {20 * time.Second, 1}, {2 * time.Minute, 0}, {2*time.Minute + time.Second, 1}} {
		got := e.Feed(start.Add(c.after), attempt("never again"))
		if len(got) != c.want || c.want > 0 && got[0].Action != rules.Bounce {
			t.Errorf("%d: %v, want %d", i, got, c.want)
		}
	}
	a := attempt("never again")
	a.Reply.Code = 550
	if got := e.Feed(start.Add(2*time.Minute+2*time.Second), a); len(got) != 0 {
		t.Errorf("a permanent reply was bounced: %v", got)
	}
	if orders.Len() != 0 {
		t.Errorf("%v are kept", orders.List())
	}
}

// TestBurst: a hundred replies at once make one order, not a hundred writes.
func TestBurst(t *testing.T) {
	e, orders := newEngine(t, backoff.DefaultOptions(), nil)
	given := 0
	for i := range 100 {
		given += len(e.Feed(start.Add(time.Duration(i)*time.Second), attempt("slow down")))
	}
	if given != 1 || orders.Len() != 1 {
		t.Errorf("%d given, %d kept; want 1", given, orders.Len())
	}
	got := e.Feed(start.Add(10*time.Minute), attempt("slow down"))
	if len(got) != 1 || !got[0].Until.Equal(start.Add(40*time.Minute)) || orders.Len() != 1 {
		t.Errorf("later: %v, want an extension to 12:40", got)
	}
}

// TestTwoNodes: each gives an order of its own; the same trigger names the same order.
func TestTwoNodes(t *testing.T) {
	a, _ := newEngine(t, backoff.DefaultOptions(), nil)
	b, _ := newEngine(t, backoff.DefaultOptions(), nil)
	c, orders := newEngine(t, backoff.DefaultOptions(), nil)
	oa := a.Feed(start, attempt("slow down"))[0]
	ob := b.Feed(start.Add(time.Nanosecond), attempt("slow down"))[0]
	if again := c.Feed(start, attempt("slow down"))[0]; again.ID != oa.ID || ob.ID == oa.ID {
		t.Errorf("ids %s %s %s", oa.ID, ob.ID, again.ID)
	}
	// An order of another node is extended, not doubled.
	orders.Put(ob)
	got := c.Feed(start.Add(20*time.Minute), attempt("slow down"))
	if len(got) != 1 || got[0].ID != ob.ID {
		t.Errorf("extended %v, want %s", got, ob.ID)
	}
}

// TestLifted: an order that was lifted does not come back by what was counted before.
func TestLifted(t *testing.T) {
	e, orders := newEngine(t, backoff.DefaultOptions(), nil)
	var o backoff.Order
	for range 3 {
		for _, o = range e.Feed(start, attempt("suspend me")) {
		}
	}
	for range 2 {
		e.Feed(start.Add(time.Second), attempt("suspend me"))
	}
	lifted, ok := orders.Lift(o.ID)
	if !ok || lifted.ID != o.ID {
		t.Fatalf("not lifted: %v", o)
	}
	e.Forget(lifted)
	for i := range 2 {
		if got := e.Feed(start.Add(2*time.Second), attempt("suspend me")); len(got) != 0 {
			t.Fatalf("reply %d after lifting: %v", i, got)
		}
	}
	if got := e.Feed(start.Add(2*time.Second), attempt("suspend me")); len(got) != 1 || got[0].ID == o.ID {
		t.Errorf("the third reply: %v, want a new order", got)
	}
}

func TestBoundedMemory(t *testing.T) {
	o := backoff.Options{MaxHits: 1000, MaxOrders: 5}
	reg := prometheus.NewRegistry()
	e, orders := newEngine(t, o, reg)
	for i := range 5000 {
		a := attempt("suspend me")
		a.Source = fmt.Sprint("s", i)
		e.Feed(start.Add(time.Duration(i)*time.Millisecond), a)
	}
	if hits, windows := e.Kept(); hits > 1000 || windows > 1000 || hits < 900 {
		t.Errorf("%d hits in %d windows are kept, want up to 1000", hits, windows)
	}
	e.Feed(start.Add(time.Hour), attempt("suspend me"))
	e.Feed(start.Add(time.Hour), attempt("suspend me"))
	if hits, _ := e.Kept(); hits > 999 {
		t.Errorf("%d hits: the old ones are not given up", hits)
	}
	for i := range 10 {
		a := attempt("slow down")
		a.Source = fmt.Sprint("s", i)
		e.Feed(start, a)
	}
	if orders.Len() != 5 {
		t.Errorf("%d orders, want 5", orders.Len())
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got += f.GetName()
			for _, l := range m.GetLabel() {
				got += " " + l.GetValue()
			}
			got += fmt.Sprintln("", m.GetCounter().GetValue()+m.GetGauge().GetValue())
		}
	}
	want := "godwit_backoff_orders 5\ngodwit_backoff_orders_total slow new 5\ngodwit_backoff_orders_total slow refused 5\n" +
		"godwit_backoff_replies_total slow p/slow 10\ngodwit_backoff_replies_total suspend p/suspend 5002\n"
	if got != want {
		t.Errorf("metrics\n%swant\n%s", got, want)
	}
}

// TestReload: counts go on under new rules of the same name; a lower threshold holds at once.
func TestReload(t *testing.T) {
	e, _ := newEngine(t, backoff.DefaultOptions(), nil)
	e.Feed(start, attempt("suspend me"))
	e.Reload(testSet(t, strings.Replace(testRules, "threshold = 3", "threshold = 2", 1)))
	if got := e.Feed(start, attempt("suspend me")); len(got) != 1 {
		t.Errorf("%v, want an order at the second", got)
	}
}

func TestConcurrentFeed(t *testing.T) {
	e, orders := newEngine(t, backoff.DefaultOptions(), nil)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				a := attempt("suspend me")
				a.Source = fmt.Sprint("s", (g+i)%7)
				e.Feed(start.Add(time.Duration(i)*time.Second), a)
				orders.Blocked("s1", "p", "mx", start)
				orders.Expire(start)
			}
		})
	}
	wg.Wait()
	if orders.Len() != 7 {
		t.Errorf("%d orders, want one for each source", orders.Len())
	}
}
