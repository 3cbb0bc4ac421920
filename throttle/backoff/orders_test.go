package backoff_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// covers is the definition: an empty field of a scope does not restrict.
func covers(scope, at throttle.Key) bool {
	ok := func(a, b string) bool { return a == "" || a == b }
	return ok(scope.Source, at.Source) && ok(scope.Tenant, at.Tenant) && ok(scope.Provider, at.Provider) && ok(scope.Site, at.Site)
}

// TestOrdersAgainstModel: random orders put, lifted and ended, against looking through a list.
func TestOrdersAgainstModel(t *testing.T) {
	pick := func(rt *rapid.T, what string, from ...string) string { return rapid.SampledFrom(from).Draw(rt, what) }
	rapid.Check(t, func(rt *rapid.T) {
		s := backoff.NewOrders()
		model := map[string]backoff.Order{}
		now := start
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(rt, "pause")) * time.Second)
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0:
				id := pick(rt, "id", "1", "2", "3", "4")
				_, want := model[id]
				if _, got := s.Lift(id); got != want {
					rt.Fatalf("lift %s: %v", id, got)
				}
				delete(model, id)
			case 1:
				for _, o := range s.Expire(now) {
					if m, ok := model[o.ID]; !ok || m.InForce(now) {
						rt.Fatalf("%s ended", o)
					}
					delete(model, o.ID)
				}
				for _, o := range model {
					if !o.InForce(now) {
						rt.Fatalf("%s did not end", o)
					}
				}
			default:
				o := backoff.Order{ID: pick(rt, "id", "1", "2", "3", "4"), Created: start, Rule: pick(rt, "rule", "", "p/r"),
					Action: rules.Action(pick(rt, "action", "suspend", "slow", "suspend_tenant", "suspend_stream"))}
				if rapid.Bool().Draw(rt, "ends") {
					o.Until = now.Add(time.Duration(rapid.IntRange(0, 5).Draw(rt, "for")) * time.Second)
				}
				o.Scope = throttle.Key{Provider: pick(rt, "provider", "", "p"), Site: pick(rt, "site", "", "x")}
				switch o.Action {
				case rules.Suspend, rules.Slow:
					o.Scope.Source = pick(rt, "source", "", "s")
					if o.Action == rules.Slow {
						o.Limits.Connections = rapid.IntRange(1, 3).Draw(rt, "connections")
					}
				case rules.SuspendTenant:
					o.Scope.Tenant = "t"
				default:
					o.Scope.Tenant, o.Stream = pick(rt, "tenant", "", "t"), pick(rt, "stream", "n", "m")
				}
				if o.Validate() != nil {
					continue
				}
				changed := s.Put(o)
				if old, had := model[o.ID]; changed != (!had || old != o) {
					rt.Fatalf("put %s: changed %v", o, changed)
				}
				model[o.ID] = o
			}
			compare(rt, s, model, now)
		}
	})
}

func compare(rt *rapid.T, s *backoff.Orders, model map[string]backoff.Order, now time.Time) {
	if s.Len() != len(model) || len(s.List()) != len(model) {
		rt.Fatalf("%d orders, want %d", s.Len(), len(model))
	}
	// longest is what must be found: whether there is one, and when the last ends.
	longest := func(match func(o backoff.Order) bool) (until time.Time, found bool) {
		for _, o := range model {
			if !o.InForce(now) || !match(o) {
				continue
			}
			if !found || !until.IsZero() && (o.Until.IsZero() || o.Until.After(until)) {
				until, found = o.Until, true
			}
		}
		return until, found
	}
	for _, who := range []string{"", "s", "z"} {
		for _, provider := range []string{"", "p", "q"} {
			for _, site := range []string{"x", "y"} {
				at := throttle.Key{Source: who, Provider: provider, Site: site}
				until, want := longest(func(o backoff.Order) bool { return o.Action == rules.Suspend && covers(o.Scope, at) })
				if o, got := s.Blocked(who, provider, site, now); got != want || !o.Until.Equal(until) {
					rt.Fatalf("%v blocked: %v %s, want %v until %s", at, got, o, want, until)
				}
				want3 := 0
				for _, o := range model {
					if o.Action == rules.Slow && o.InForce(now) && covers(o.Scope, at) && (want3 == 0 || o.Limits.Connections < want3) {
						want3 = o.Limits.Connections
					}
				}
				var e rules.Effective
				s.Tighten(&e, rules.Query{Source: who, Provider: provider, Site: site}, now)
				if e.Connections != want3 {
					rt.Fatalf("%v slowed to %d, want %d", at, e.Connections, want3)
				}
			}
		}
	}
	for _, tenant := range []string{"", "t", "u"} {
		for _, stream := range []string{"", "n"} {
			at := throttle.Key{Tenant: tenant, Provider: "p", Site: "x"}
			until, want := longest(func(o backoff.Order) bool {
				switch o.Action {
				case rules.SuspendTenant:
					return covers(o.Scope, at)
				case rules.SuspendStream:
					return covers(o.Scope, at) && o.Scope.Tenant == tenant && o.Stream == stream
				}
				return false
			})
			if o, got := s.Held(tenant, stream, "p", "x", now); got != want || !o.Until.Equal(until) {
				rt.Fatalf("%v %s held: %v %s, want %v until %s", at, stream, got, o, want, until)
			}
		}
	}
}

// TestTighten: orders lower the limits, the table and the bounds, and never raise anything.
func TestTighten(t *testing.T) {
	set := testSet(t, `version = 1
[default]
connections = 10
message_rate = "5/min"
[[provider]]
name = "p"
mx_suffix = ["p.test"]
connections = 1
`)
	q := rules.Query{Source: "s1", Provider: "p", Site: "mx.p.test"}
	s := backoff.NewOrders()
	e := set.Resolve(q)
	before := e.String()
	s.Tighten(&e, q, start)
	if e.String() != before {
		t.Error("no orders change something")
	}
	s.Put(backoff.Order{ID: "1", Action: rules.Slow, Scope: throttle.Key{Source: "s1", Provider: "p"}, Created: start, Until: start.Add(time.Hour), Rule: "p/slow",
		Limits: throttle.Limits{Connections: 3, MessageRate: units.Rate{Count: 1, Per: time.Minute}}, MessagesPerConnection: 2})
	s.Put(backoff.Order{ID: "2", Action: rules.Slow, Scope: throttle.Key{Source: "s2", Provider: "p"}, Created: start, Limits: throttle.Limits{Connections: 7}})
	s.Tighten(&e, q, start)
	want := `connections              1      source=s1 provider=p      r.toml:8 (provider p)
message_rate             5/min  source=s1 site=mx.p.test  r.toml:4 (default)
connections              3      source=s1 provider=p      order 1 by rule p/slow until 2026-03-01T13:00:00Z
message_rate             1/min  source=s1 provider=p      order 1 by rule p/slow until 2026-03-01T13:00:00Z
messages_per_connection  2                                order 1 by rule p/slow until 2026-03-01T13:00:00Z
`
	if e.String() != want {
		t.Errorf("table\n%s\nwant\n%s", e, want)
	}
	if e.Connections != 1 || e.MessageRate.Count != 1 || e.MessagesPerConnection != 2 {
		t.Errorf("%+v", e)
	}
	for _, b := range e.Bounds {
		if b.Key == (throttle.Key{Source: "s1", Provider: "p"}) && (b.Limits.Connections != 1 || b.Limits.MessageRate.Count != 1) {
			t.Errorf("bound %+v", b)
		}
	}
	if len(e.Bounds) != 2 {
		t.Errorf("%d bounds", len(e.Bounds))
	}
}

func BenchmarkBlocked(b *testing.B) {
	s := backoff.NewOrders()
	run := func(name string) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := s.Blocked("s1", "google", "mx.google.com", start); ok {
					b.Fatal("blocked")
				}
			}
		})
	}
	run("none")
	for i := range 10_000 {
		s.Put(backoff.Order{ID: fmt.Sprint(i), Action: rules.Suspend, Created: start, Scope: throttle.Key{Source: fmt.Sprint("x", i), Provider: "google"}})
	}
	run("10k")
}
