package egress

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/desk"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// Way is one source on its way to a site, as it is now.
type Way struct {
	Source      proxy.Source
	Pool        string // that it is in: the one asked for, or a fallback
	Weight      int
	Health      proxy.SourceHealth
	Values      []rules.Line // what every block says: of the source, then of the pool; without orders
	Keys        []Key        // what its mail counts under
	Connections int          // of this node, anywhere
	// Paused is until when this node makes no connection by it, since one failed; zero: it does. Failure is how, if that is known.
	Paused  time.Time
	Failure error
}

// Ways lists the sources of a pool and of its fallbacks, in order, on their way along a route.
// A pool that is not configured has none.
func (g *Gate) Ways(pool string, r mail.Route) []Way {
	now := time.Now()
	owned := g.ownKeys()
	using := g.connections()
	health := map[string]proxy.SourceHealth{}
	for _, h := range g.pools.Health() {
		health[h.Source] = h
	}
	var ways []Way
	for _, p := range g.chain(pool) {
		x := &demand{Demand: queue.Demand{Pool: pool, Site: r.Site, Provider: r.Provider}}
		for _, m := range g.pools.Members(p) {
			w := Way{Pool: p, Weight: m.Weight, Health: proxy.SourceHealth{Source: m.Name, Up: true}, Connections: using[m.Name]}
			w.Source, _ = g.pools.Source(m.Name)
			if h, ok := health[m.Name]; ok {
				w.Health = h
			}
			w.Values = g.values(m.Name, x, now)
			for _, b := range g.newPlan(m.Name, x, now).bounds {
				w.Keys = append(w.Keys, g.keyOf(&b, owned))
			}
			g.addPause(&w, r.Site)
			ways = append(ways, w)
		}
	}
	return ways
}

// chain is a pool with its fallbacks.
func (g *Gate) chain(pool string) (chain []string) {
	next := map[string]string{}
	for _, p := range g.pools.List() {
		next[p.Name] = p.Fallback
	}
	for {
		fallback, known := next[pool]
		if !known || slices.Contains(chain, pool) {
			return chain
		}
		chain = append(chain, pool)
		if fallback == "" {
			return chain
		}
		pool = fallback
	}
}

// values are the rules' say, and the warm-up's.
func (g *Gate) values(source string, x *demand, now time.Time) []rules.Line {
	q, set := query(source, x), g.Rules()
	lines := set.Explain(q)
	for _, v := range set.Resolve(q).Values {
		if v.Key.Pool != "" {
			lines = append(lines, rules.Line{Name: v.Name, Value: v.Value, Key: v.Key, Origin: v.Origin, State: rules.InForce})
		}
	}
	warm := rules.Effective{}
	if n := g.pools.Daily(source, q.Provider, now); n > 0 {
		warm.Tighten(sourceKey(q), throttle.Limits{Daily: n}, 0, warmUp)
	}
	for _, v := range warm.Values {
		lines = append(lines, rules.Line{Name: v.Name, Value: v.Value, Key: v.Key, Origin: v.Origin, State: rules.InForce})
	}
	return lines
}

// addPause tells of the failures that keep a source from a site.
func (g *Gate) addPause(w *Way, site string) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range []spot{{w.Source.Name, ""}, {w.Source.Name, site}} {
		f := g.failures[at]
		if f == nil || !now.Before(f.until) {
			continue
		}
		if late := (*desk.LateError)(nil); errors.As(f.err, &late) {
			w.late(f, late)
			continue
		}
		if f.until.After(w.Paused) {
			w.Paused, w.Failure = f.until, f.err
		}
	}
}

// late puts down that permits for messages are far off, which nobody waits for until they are near.
func (w *Way) late(f *failure, late *desk.LateError) {
	for i := range w.Keys {
		if k := &w.Keys[i]; k.Key == late.Key {
			k.Next, k.Reason = f.until.Add(restBefore), late.Reason
			k.DayIsFull = k.DayIsFull || fullDay(late.Reason)
		}
	}
}

// Key is a limited key as this node knows it.
type Key struct {
	throttle.Key
	Limits throttle.Limits // in force, before the closed loop's factor
	Factor float64         // of the closed loop
	Why    string          // the closed loop slowed

	Mode      desk.Mode
	Authority string // who grants; "" not known, or nobody
	// Owned: this node is the authority, so what follows is of all nodes. Otherwise it is of this one.
	Owned       bool
	Connections int
	WaitConnect int
	WaitSend    int
	Today       int64     // messages of this day, if Owned and there is a daily limit
	DayIsFull   bool      // the daily limit is reached
	Next        time.Time // when about the next permit comes that is waited for; zero: not known
	Reason      string    // what the authority said last about the wait, or why there is none
}

// Keys lists the keys that this node uses or is the authority of, in order.
func (g *Gate) Keys() []Key {
	owned := g.ownKeys()
	var keys []Key
	for _, s := range g.desk.Status() {
		keys = append(keys, g.key(&s, owned))
		delete(owned, s.Key)
	}
	for k, s := range owned { // of other nodes only
		keys = append(keys, g.key(&desk.KeyStatus{Key: k, Limits: s.Limits, Authority: g.o.Node, Mode: desk.Owner, Factor: s.Factor}, owned))
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return keys
}

// TenantKeys are the limits of a tenant towards a provider, which may be "", and what goes on under them.
func (g *Gate) TenantKeys(tenant, provider string) (values []rules.Value, keys []Key) {
	owned := g.ownKeys()
	for _, v := range g.Rules().Resolve(rules.Query{Tenant: tenant, Provider: provider}).Values {
		if v.Key.Tenant != "" {
			values = append(values, v)
		}
	}
	for _, b := range g.tenantBounds(tenant, provider) {
		keys = append(keys, g.keyOf(&b, owned))
	}
	return values, keys
}

// ownKeys are those that this node is the authority of.
func (g *Gate) ownKeys() map[throttle.Key]throttle.KeyStatus {
	list := g.desk.Keeper().Status()
	out := make(map[throttle.Key]throttle.KeyStatus, len(list))
	for _, s := range list {
		out[s.Key] = s
	}
	return out
}

// keyOf is the state of a bound's key, in use or not.
func (g *Gate) keyOf(b *throttle.Bound, owned map[throttle.Key]throttle.KeyStatus) Key {
	s, used := g.desk.KeyStatus(b.Key)
	if !used {
		s = desk.KeyStatus{Key: b.Key, Limits: b.Limits, Factor: 1, Mode: desk.Remote, Authority: b.Proxy}
		switch {
		case b.Proxy != "" && !g.desk.Reachable(b.Proxy):
			s.Mode, s.Why = desk.Down, "no contact with proxy "+b.Proxy
		case b.Proxy == "" && g.desk.Owns(b.Key):
			s.Mode, s.Authority = desk.Owner, g.o.Node
		}
	}
	k := g.key(&s, owned)
	if k.Authority == "" {
		k.Authority = b.Proxy
	}
	return k
}

// key joins what the desk and our own authority know.
func (g *Gate) key(s *desk.KeyStatus, owned map[throttle.Key]throttle.KeyStatus) Key {
	now := time.Now()
	k := Key{Key: s.Key, Limits: s.Limits, Factor: s.Factor, Mode: s.Mode, Authority: s.Authority,
		Connections: s.Opened, WaitConnect: s.Connect.Waiting, WaitSend: s.Send.Waiting, Reason: s.Why}
	if k.Limits.Connections >= unlimited {
		k.Limits.Connections = 0
	}
	for _, w := range []desk.WaitStatus{s.Send, s.Connect} {
		if w.After > 0 && k.Next.IsZero() {
			k.Next = now.Add(w.After)
		}
		if k.Reason == "" {
			k.Reason = w.Reason
		}
		k.DayIsFull = k.DayIsFull || fullDay(w.Reason)
	}
	if own, ok := owned[s.Key]; ok && s.Mode == desk.Owner {
		k.Owned, k.Connections, k.Factor, k.Today = true, own.Connections, own.Factor, own.Today
		k.WaitConnect, k.WaitSend = max(k.WaitConnect, own.Waiting[throttle.Connect-1]), max(k.WaitSend, own.Waiting[throttle.Send-1])
		k.DayIsFull = k.DayIsFull || k.Limits.Daily > 0 && own.Today >= k.Limits.Daily
		if k.WaitSend > 0 && own.Next > 0 && k.Next.IsZero() {
			k.Next = now.Add(own.Next)
		}
		if k.Reason == "" {
			k.Reason = own.Why
		}
	}
	if k.Factor < 1 {
		k.Why = g.loops.why(s.Key)
	}
	return k
}

// fullDay reads the reason of an authority (throttle/hint.go): only its words tell which limit it is.
func fullDay(reason string) bool { return strings.HasPrefix(reason, "daily limit ") }

// Stop is something that a ready queue waits for at the gate.
type Stop struct {
	Kind   throttle.Kind // of the permit
	Source string
	Key    throttle.Key
	Since  time.Time // zero: not known
	Next   time.Time // zero: not known
	Reason string    // by the authority; "" none yet
}

// Stops lists what a ready queue, by its key, waits for: permits to connect, and those for messages. What comes soonest,
// as far as that is known, is first of its kind.
func (g *Gate) Stops(ready string) []Stop {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Stop
	site := ""
	if x := g.demands[ready]; x != nil {
		site = x.Site
		for _, r := range x.requests {
			if s := r.ask.Status(); s.Waits {
				list = append(list, stop(throttle.Connect, r.source, s.Key, now.Add(-s.For), now, s.After, s.Reason))
			}
		}
	}
	seen := map[string]bool{}
	for l := range g.leases {
		if l.key != ready || seen[l.source] {
			continue
		}
		seen[l.source], site = true, l.site
		for _, b := range l.plan.bounds {
			if s, ok := g.desk.KeyStatus(b.Key); ok && s.Send.Waiting > 0 {
				list = append(list, stop(throttle.Send, l.source, b.Key, time.Time{}, now, s.Send.After, s.Send.Reason))
			}
		}
	}
	for at, f := range g.failures {
		late := (*desk.LateError)(nil)
		if at.place == site && site != "" && now.Before(f.until) && errors.As(f.err, &late) {
			list = append(list, stop(throttle.Send, at.source, late.Key, time.Time{}, now, f.until.Add(restBefore).Sub(now), late.Reason))
		}
	}
	slices.SortFunc(list, func(a, b Stop) int {
		switch {
		case a.Next.IsZero() != b.Next.IsZero():
			if a.Next.IsZero() {
				return 1
			}
			return -1
		case !a.Next.Equal(b.Next):
			return a.Next.Compare(b.Next)
		}
		return strings.Compare(a.Source, b.Source)
	})
	return list
}

func stop(kind throttle.Kind, source string, k throttle.Key, since, now time.Time, after time.Duration, reason string) Stop {
	s := Stop{Kind: kind, Source: source, Key: k, Since: since, Reason: reason}
	if after > 0 {
		s.Next = now.Add(after)
	}
	return s
}

// Senders are the sources that have connections for a ready queue, by name.
func (g *Gate) Senders(ready string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []string
	for at := range g.open {
		if at.place == ready {
			list = append(list, at.source)
		}
	}
	slices.Sort(list)
	return list
}

// HeldBy is the order that stops a tenant's stream towards a site, if there is one.
func (g *Gate) HeldBy(f queue.Flow) (backoff.Order, bool) {
	site, _ := splitSite(f.Site)
	return g.orders.Held(f.Tenant, f.Stream, f.Provider, site, time.Now())
}

// Own undoes in a key what tells this node's own address from that of other nodes.
func (g *Gate) Own(k throttle.Key) throttle.Key {
	if k.Source == ownSource+g.o.Node {
		k.Source = ""
	}
	return k
}

// SplitSite takes a route's site apart into what limits count over and the domain that has limits of its own, if it names one.
func SplitSite(s string) (site, domain string) { return splitSite(s) }

// connections counts the connections of each source.
func (g *Gate) connections() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]int{}
	for at, n := range g.open {
		out[at.source] += n
	}
	return out
}

// Connections counts this node's connections by each source.
func (g *Gate) Connections() map[string]int { return g.connections() }

// Reachable reports whether there is contact with a Godwit proxy.
func (g *Gate) Reachable(name string) bool { return g.desk.Reachable(name) }

// Egress are the options in force since Start or the latest Reload.
func (g *Gate) Egress() proxy.Options {
	g.links.mu.Lock()
	defer g.links.mu.Unlock()
	return g.links.options
}
