package adminapi

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// atGoogle is a site of google with two sources that are up.
func atGoogle(change ...func(*Explanation)) *Explanation {
	key := func(s string) Scope { return Scope{Source: s, Provider: "google"} }
	path := func(s string) Path {
		return Path{Source: Source{Name: s, State: StateUp},
			Values: []Value{{Name: "message_rate", Value: "5/s", Key: key(s), Origin: "google.toml:7 [[provider]] google"},
				{Name: "connections", Value: "4", Key: key(s), Origin: "google.toml:5 [[provider]] google"}},
			Throttles: []Throttle{{Key: key(s), Mode: ModeRemote, Authority: "proxy p1", Connections: 3}}}
	}
	x := &Explanation{Domain: "gmail.com", Site: "gmail-mx", Provider: "google", Pool: "bulk", Paths: []Path{path("s1"), path("s2")}}
	for _, f := range change {
		f(x)
	}
	return x
}

func order(scope Scope, action, rule string, until time.Time) func(*Explanation) {
	return func(x *Explanation) {
		o := Order{ID: "o1", Scope: scope, Action: action, Rule: rule, Until: until, Reason: "421 4.7.28", Created: noon}
		if action == ActionSlow {
			o.MessageRate = "10/min"
		}
		x.Orders = append(x.Orders, o)
	}
}

var until = noon.Add(2*time.Hour + 5*time.Minute)

func TestVerdict(t *testing.T) {
	google := func(source string) Scope { return Scope{Source: source, Provider: "google"} }
	down := func(i int) func(*Explanation) {
		return func(x *Explanation) {
			x.Paths[i].Source.State, x.Paths[i].Source.Reason = StateDown, "proxy p1 is unreachable"
		}
	}
	for name, c := range map[string]struct {
		change []func(*Explanation)
		want   string
	}{
		"free": {nil, "Mail goes to google by s1 and s2 of pool bulk; nothing stops it."},
		"slowed": {[]func(*Explanation){order(google("s1"), ActionSlow, "unusual-rate", until)},
			"Mail goes to google by s1 and s2 of pool bulk; nothing stops it, but message_rate of s1 is 10/min by rule unusual-rate until 14:05 UTC."},
		"one suspended": {[]func(*Explanation){order(google("s2"), ActionSuspend, "block-list", until)},
			"Mail goes to google by s1 of pool bulk; nothing stops it, but s2 is suspended by rule block-list until 14:05 UTC."},
		"ended": {[]func(*Explanation){order(google("s2"), ActionSuspend, "block-list", noon)},
			"Mail goes to google by s1 and s2 of pool bulk; nothing stops it."},
		"elsewhere": {[]func(*Explanation){order(Scope{Source: "s2", Provider: "yahoo"}, ActionSuspend, "x", until)},
			"Mail goes to google by s1 and s2 of pool bulk; nothing stops it."},
		"all suspended at once": {[]func(*Explanation){order(Scope{Provider: "google"}, ActionSuspend, "block-list", until)},
			"Nothing goes to google: suspended by rule block-list until 14:05 UTC (421 4.7.28); godwit throttles lift o1."},
		"each suspended": {[]func(*Explanation){order(google("s1"), ActionSuspend, "a", until), order(google("s2"), ActionSuspend, "b", noon.Add(time.Hour))},
			"No source of pool bulk can be used at google before 13:00 UTC: s1 is suspended by rule a until 14:05 UTC; s2 is suspended by rule b until 13:00 UTC."},
		"down": {[]func(*Explanation){down(0), down(1)},
			"No source of pool bulk can be used at google: s1 is down: proxy p1 is unreachable; s2 is down: proxy p1 is unreachable."},
		"down, and its limits too": {[]func(*Explanation){down(0), down(1), func(x *Explanation) { x.Paths[0].Throttles[0].Mode = ModeDown }},
			"No source of pool bulk can be used at google: s1 is down: proxy p1 is unreachable; s2 is down: proxy p1 is unreachable."},
		"paused": {[]func(*Explanation){down(1), func(x *Explanation) {
			x.Paths[0].PausedUntil, x.Paths[0].PausedReason = noon.Add(time.Minute), "connection refused"
		}},
			"No source of pool bulk can be used at google before 12:01 UTC: s1 is not tried until 12:01 UTC after a connection failed: connection refused; s2 is down: proxy p1 is unreachable."},
		"a rule's day": {[]func(*Explanation){down(1), func(x *Explanation) {
			p := &x.Paths[0]
			p.Throttles[0].Daily, p.Throttles[0].Today = 500, 500
			p.Values = append(p.Values, Value{Name: "daily", Value: "500", Key: p.Throttles[0].Key, Origin: "own.toml:4"})
		}},
			"No source of pool bulk can be used at google before 00:00 UTC: s1 is at its limit of 500 messages a day; s2 is down: proxy p1 is unreachable."},
		"no sources": {[]func(*Explanation){func(x *Explanation) { x.Paths = nil }}, `No source: pool "bulk" has none.`},
		"suspended by hand": {[]func(*Explanation){func(x *Explanation) { x.Suspensions = []Suspension{{ID: "7", Reason: "complaints"}} }},
			"Suspended by an operator until resumed: complaints; godwit queue resume 7."},
		"another tenant's": {[]func(*Explanation){func(x *Explanation) { x.Suspensions = []Suspension{{ID: "7", Filter: Filter{Tenant: "acme"}}} }},
			"Mail goes to google by s1 and s2 of pool bulk; nothing stops it."},
		"its tenant's": {[]func(*Explanation){func(x *Explanation) {
			x.Tenant, x.Suspensions = "acme", []Suspension{{ID: "7", Filter: Filter{Tenant: "ac*", Domain: "gmail.com"}}}
		}},
			"Suspended by an operator until resumed; godwit queue resume 7."},
		"held": {[]func(*Explanation){func(x *Explanation) { x.HeldUntil, x.HeldReason = noon.Add(time.Minute), "connection refused" }},
			"Held until 12:01 UTC: no host of gmail-mx could be reached: connection refused."},
		"route":                 {[]func(*Explanation){func(x *Explanation) { x.RouteError = "timeout" }}, "The mail exchangers of gmail.com cannot be found: timeout."},
		"route, and nothing up": {[]func(*Explanation){down(0), down(1), func(x *Explanation) { x.RouteError = "timeout" }}, "The mail exchangers of gmail.com cannot be found: timeout."},
		"what lasts longest": {[]func(*Explanation){order(Scope{Provider: "google"}, ActionSuspend, "block-list", until),
			func(x *Explanation) { x.HeldUntil = noon.Add(time.Minute) }},
			"Nothing goes to google: suspended by rule block-list until 14:05 UTC (421 4.7.28); godwit throttles lift o1."},
		"warm-up": {[]func(*Explanation){down(1), func(x *Explanation) { x.Paths[0].Throttles[0].Daily, x.Paths[0].Throttles[0].Today = 500, 500 }},
			"No source of pool bulk can be used at google before 00:00 UTC: s1 is at its warm-up limit of 500 messages a day; s2 is down: proxy p1 is unreachable."},
		"loop": {[]func(*Explanation){func(x *Explanation) {
			x.Paths[0].Throttles[0].Factor, x.Paths[0].Throttles[0].FactorReason = 0.5, "30 % deferred"
		}},
			"Mail goes to google by s1 and s2 of pool bulk; nothing stops it, but message_rate of s1 is 2.5/s by the closed loop (30 % deferred)."},
		"fallback": {[]func(*Explanation){down(0), func(x *Explanation) { x.Paths[1].Fallback = "spare" }},
			"Mail goes to google by the sources of a fallback pool of pool bulk; nothing stops it, but s1 is down: proxy p1 is unreachable."},
	} {
		x := atGoogle(c.change...)
		if x.derive(noon); x.Verdict != c.want || x.Stopped == strings.HasPrefix(c.want, "Mail goes") {
			t.Errorf("%s: stopped %v\n got %s\nwant %s", name, x.Stopped, x.Verdict, c.want)
		}
	}
}

func TestMessageVerdict(t *testing.T) {
	wait := func(w Wait) func(*MessageExplanation) { return func(m *MessageExplanation) { m.Wait = &w } }
	on := func(f func(*Explanation)) func(*MessageExplanation) { return func(m *MessageExplanation) { f(m.Path) } }
	key := Scope{Source: "s1", Provider: "google"}
	for name, c := range map[string]struct {
		change []func(*MessageExplanation)
		want   string
	}{
		"slot under a rule": {[]func(*MessageExplanation){on(order(key, ActionSlow, "unusual-rate", until)), wait(Wait{For: WaitSend, Source: "s1", Key: key, Next: noon.Add(12 * time.Second)})},
			"Waiting for a message slot of source s1 at google (10/min by rule unusual-rate until 14:05 UTC), next in about 12 s."},
		"slot": {[]func(*MessageExplanation){wait(Wait{For: WaitSend, Source: "s1", Key: key, Hint: "daily limit 500 reached"})},
			"Waiting for a message slot of source s1 at google (5/s set in google.toml:7 [[provider]] google): daily limit 500 reached."},
		"connection": {[]func(*MessageExplanation){wait(Wait{For: WaitConnect, Source: "s1", Key: key})},
			"Waiting for a connection of source s1 at google (3 of 4 in use, set in google.toml:5 [[provider]] google)."},
		"connect rate": {[]func(*MessageExplanation){on(func(x *Explanation) {
			x.Paths[0].Values = append(x.Paths[0].Values, Value{Name: "connect_rate", Value: "1/s", Key: key, Origin: "own.toml:9"})
		}), wait(Wait{For: WaitConnect, Source: "s1", Key: key, Hint: "connect rate 1/s", Ahead: 7})},
			"Waiting for a connection of source s1 at google (1/s set in own.toml:9): connect rate 1/s; 7 of its queue before it."},
		"any connection": {[]func(*MessageExplanation){wait(Wait{For: WaitConnect, Hint: "all 100 connections of this node are in use"})},
			"Waiting for a connection to google: all 100 connections of this node are in use."},
		"own address": {[]func(*MessageExplanation){wait(Wait{For: WaitSend, Key: Scope{Provider: "google"}})},
			"Waiting for a message slot of the host's own address at google."},
		"turn": {[]func(*MessageExplanation){wait(Wait{For: WaitTurn, Ahead: 41})}, "Ready: waits its turn behind 41 messages."},
		"tenant": {[]func(*MessageExplanation){wait(Wait{For: WaitTenant, Key: Scope{Tenant: "acme"}}),
			on(func(x *Explanation) {
				x.Limits = []Value{{Name: "message_rate", Value: "100/s", Key: Scope{Tenant: "acme"}, Origin: "own.toml:3 [[tenant]] acme"}}
			})},
			"Waiting for tenant acme's limit (100/s set in own.toml:3 [[tenant]] acme)."},
		"pool": {[]func(*MessageExplanation){wait(Wait{For: WaitConnect, Source: "s1", Key: Scope{Pool: "bulk", Provider: "google"}})},
			"Waiting for a connection of pool bulk at google."},
		"route": {[]func(*MessageExplanation){wait(Wait{For: WaitRoute})}, "Waiting for the name servers of its domain."},
		"now":   {nil, "Due now: it is taken up as soon as its queue comes to it."},
		"due": {[]func(*MessageExplanation){func(m *MessageExplanation) {
			m.Message.Due, m.Message.Attempts, m.Message.LastReply = noon.Add(25*time.Minute), 3, "451 4.7.1 later."
		}}, "Waiting for its next attempt in about 25 min (12:25 UTC), after attempt 3: 451 4.7.1 later."},
		"due, and stopped for longer": {[]func(*MessageExplanation){on(order(Scope{Tenant: "acme", Provider: "google"}, ActionSuspendTenant, "bad-list", until)),
			on(func(x *Explanation) { x.Tenant = "acme" }), func(m *MessageExplanation) { m.Message.Due = noon.Add(time.Minute) }},
			"Nothing goes of tenant acme to google: suspended by rule bad-list until 14:05 UTC (421 4.7.28); godwit throttles lift o1."},
		"delivering": {[]func(*MessageExplanation){func(m *MessageExplanation) { m.Message.State, m.Source = "delivering", "s1" }},
			"Being delivered now by source s1 to google."},
		"gone": {[]func(*MessageExplanation){func(m *MessageExplanation) {
			m.Message, m.Events = nil, []MessageEvent{{Kind: "injected"}, {Kind: "delivered", Time: noon, Host: "mx1.example.com", Source: "s1", Code: 250, Enhanced: "2.0.0", Reply: "OK."}}
		}}, "No longer in the queue: delivered to mx1.example.com by source s1 at 2026-05-04 12:00:00 UTC, reply 250 2.0.0 OK."},
		"forgotten": {[]func(*MessageExplanation){func(m *MessageExplanation) { m.Message = nil }}, "No longer in the queue; the event log does not tell why."},
	} {
		m := &MessageExplanation{Message: &Message{Tenant: "acme", State: "queued", Due: noon}, Path: atGoogle()}
		for _, f := range c.change {
			f(m)
		}
		if m.derive(noon); m.Verdict != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, m.Verdict, c.want)
		}
	}
}

// TestLower: orders only ever lower, and one that has no value of its key to lower stands beside the others.
func TestLower(t *testing.T) {
	x := atGoogle(order(Scope{Source: "s1", Site: "gmail-mx"}, ActionSlow, "r", time.Time{}), func(x *Explanation) {
		x.Paths[0].Values[0].Value = "1/min"
		x.Orders = append(x.Orders, Order{ID: "o2", Scope: Scope{Source: "s1", Provider: "google"}, Action: ActionSlow, MessageRate: "10/min", Connections: 9},
			Order{ID: "o3", Scope: Scope{Source: "s1", Provider: "google"}, Action: ActionOneConnection, By: "jo"})
	})
	x.derive(noon)
	p := x.Paths[0]
	if v := p.Values[0]; v.InForce != "" {
		t.Errorf("10/min replaced 1/min: %+v", v)
	}
	if v := p.Values[1]; v.InForce != "1" || v.Order != "o3" || v.By != "hand of jo until lifted" {
		t.Errorf("connections: %+v", v)
	}
	if v := p.Values[2]; v.Key != (Scope{Source: "s1", Site: "gmail-mx"}) || v.Value != "" || v.InForce != "10/min" {
		t.Errorf("the site's: %+v", v)
	}
	if len(x.Paths[1].Values) != 2 {
		t.Errorf("s2 was touched: %+v", x.Paths[1].Values)
	}
	if !strings.Contains(x.Verdict, "connections of s1 is 1") {
		t.Error(x.Verdict)
	}
}
