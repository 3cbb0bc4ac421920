package egress

import (
	"container/heap"
	"time"

	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// spread is how long a demand waits for its first choices before other sources are asked too.
const spread = 100 * time.Millisecond

// alarms is a heap of demands by when to look at them again.
type alarms []*demand

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].wake.Before(a[j].wake) }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i]; a[i].at, a[j].at = i, j }

// Push implements heap.Interface.
func (a *alarms) Push(v any) {
	x := v.(*demand)
	x.at = len(*a)
	*a = append(*a, x)
}

// Pop implements heap.Interface.
func (a *alarms) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	x.at = -1
	return x
}

// set puts a demand where its time belongs; a zero time takes it out.
func (a *alarms) set(x *demand, at time.Time) {
	x.wake = at
	switch {
	case at.IsZero() && x.at >= 0:
		heap.Remove(a, x.at)
	case at.IsZero():
	case x.at >= 0:
		heap.Fix(a, x.at)
	default:
		heap.Push(a, x)
	}
}

// lookAt notes when something that a demand cannot use now may be of use. g.mu is held.
func (g *Gate) lookAt(x *demand, at time.Time) {
	if x.wake.IsZero() || at.Before(x.wake) {
		x.wake = at
	}
}

// untilLook is how long the gate's goroutine may sleep.
func (g *Gate) untilLook() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.next = now.Add(every)
	if len(g.alarms) > 0 && g.alarms[0].wake.Before(g.next) {
		g.next = later(g.alarms[0].wake, now.Add(leastSleep))
	}
	return g.next.Sub(now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// leastSleep collects alarms that are close to each other.
const leastSleep = 5 * time.Millisecond

// crowded is when a demand looks for more sources again after too many waited.
const crowded = 10 * time.Second

// mostLooks bounds how many demands are looked at in a row, so that others get the lock.
const mostLooks = 50

// look looks at the demands whose time has come.
func (g *Gate) look(now time.Time) {
	for more := true; more; {
		var given []func()
		g.mu.Lock()
		for range mostLooks {
			if more = len(g.alarms) > 0 && !now.Before(g.alarms[0].wake); !more {
				break
			}
			x := g.alarms[0]
			if leases := g.lookOnce(x, now); len(leases) > 0 {
				take := x.Take
				given = append(given, func() { give(take, leases) })
			}
		}
		g.mu.Unlock()
		for _, f := range given {
			f()
		}
	}
}

// lookOnce asks for what a demand still lacks, or one more source for one that has waited for a while.
func (g *Gate) lookOnce(x *demand, now time.Time) []queue.Lease {
	if x.N > len(x.requests) {
		return g.pursue(x, now)
	}
	x.wake = time.Time{}
	if g.asked >= mostRequests {
		g.alarms.set(x, now.Add(crowded))
		return nil
	}
	source, p, ok := g.choose(x, now, false)
	if !ok {
		g.alarms.set(x, x.wake) // when a failure is over that was in the way, if there was one
		return nil
	}
	l := g.ask(x, source, p, now)
	g.alarms.set(x, now.Add(spread))
	if l == nil {
		return nil
	}
	leases := []queue.Lease{l}
	if x.N <= 0 {
		g.end(x)
	}
	return leases
}

// change is what makes plans anew.
type change struct {
	conf    bool            // rules, sources and pools
	day     bool            // of warm-up
	sources bool            // some went down or came up
	orders  []backoff.Order // that began, ended or became others
}

// touches reports whether the change may mean something to a ready queue.
func (c *change) touches(provider, place string) bool {
	if c.conf || c.day || c.sources {
		return true
	}
	site := ""
	for i := range c.orders {
		s := &c.orders[i].Scope
		if s.Provider != "" && s.Provider != provider {
			continue
		}
		if s.Site == "" {
			return true
		}
		if site == "" {
			site, _ = splitSite(place)
		}
		if s.Site == site {
			return true
		}
	}
	return false
}

// ofSources reports whether an order is about connections; others are about tenants and streams.
func ofSources(o *backoff.Order) bool {
	return o.Action == rules.Suspend || o.Action == rules.Slow || o.Action == rules.OneConnection
}

// refresh puts a change into effect: requests and connections that would not be
// made like this now end, connections after their transaction, and what waits looks for sources anew.
func (g *Gate) refresh(c *change) {
	now := time.Now()
	g.mu.Lock()
	clear(g.plans)
	if c.conf || c.day || len(c.orders) > 0 {
		g.rested()
	}
	var revoke []*lease
	for l := range g.leases {
		if c.touches(l.provider, l.site) && g.touched(l, c, now) {
			revoke = append(revoke, l)
		}
	}
	for _, x := range g.demands {
		if !c.touches(x.Provider, x.Site) {
			continue
		}
		if c.conf {
			g.withdraw(x)
			x.Pool = g.standIn(x.named)
		}
		g.review(x, now)
		g.alarms.set(x, now)
	}
	g.mu.Unlock()
	for _, l := range revoke {
		l.revoke()
	}
	g.look(now)
}

// review withdraws the requests of a demand that would not be made like this now.
func (g *Gate) review(x *demand, now time.Time) {
	for i := len(x.requests) - 1; i >= 0; i-- {
		r := x.requests[i]
		if !g.pools.Up(r.source) || g.stopped(x, r.source, now) != "" || !r.plan.same(g.planFor(r.source, x)) {
			g.cancel(r)
		}
	}
}

// touched reports whether a lease would not be given like this now.
func (g *Gate) touched(l *lease, c *change, now time.Time) bool {
	if c.conf {
		return true
	}
	x := &demand{Demand: queue.Demand{Key: l.key, Pool: l.pool, Site: l.site, Provider: l.provider}}
	if len(c.orders) > 0 && g.stopped(x, l.source, now) != "" {
		return true
	}
	return (c.day || len(c.orders) > 0) && !l.plan.same(g.planFor(l.source, x))
}
