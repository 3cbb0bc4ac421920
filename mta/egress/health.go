package egress

import (
	"errors"
	"time"

	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle/desk"
)

// failure is a source that could not connect, to a site or at all.
type failure struct {
	n     int
	until time.Time
	err   error
}

// Bounds of the pause after failures of a source at a site.
const (
	firstPause = time.Second
	mostPause  = time.Minute
)

// usable is "" when a source may be used for a demand now, or else why not. g.mu is held.
func (g *Gate) usable(x *demand, source string, now time.Time) (why string) {
	for _, at := range [...]spot{{source, ""}, {source, x.Site}} {
		if f := g.failures[at]; f != nil && now.Before(f.until) {
			g.lookAt(x, f.until)
			return "it failed a moment ago"
		}
	}
	return g.stopped(x, source, now)
}

// stopped is "" unless an order stops a source. Pools call it under their lock, by usable.
func (g *Gate) stopped(x *demand, source string, now time.Time) (why string) {
	if g.orders.Len() == 0 {
		return ""
	}
	site, _ := splitSite(x.Site)
	if o, stopped := g.orders.Blocked(source, x.Provider, site, now); stopped {
		return o.String()
	}
	return ""
}

// fail notes that a source failed. g.mu is held.
func (g *Gate) fail(at spot, now time.Time, err error) {
	f := g.failures[at]
	if f == nil {
		f = &failure{}
		g.failures[at] = f
	}
	f.n++
	f.err = err
	f.until = now.Add(min(firstPause<<min(f.n-1, 10), mostPause))
	if at.place == "" {
		f.until = now.Add(firstPause) // its health decides, this only keeps us from a hot loop
	}
}

// tries are failures of a ready queue by one source after the other.
type tries struct {
	n  int
	at time.Time
}

// mostTries is after how many sources that failed in a row a site counts as out of reach: with
// many sources, and timeouts, there would always be one more.
const mostTries = 3

// failedAt notes that a source could not connect to a site, and reports whether another one may try
// at once. g.mu is held.
func (g *Gate) failedAt(l *lease, now time.Time, err error) (another bool) {
	g.fail(spot{l.source, l.site}, now, err)
	t := g.tries[l.key]
	t.n, t.at = t.n+1, now
	x := &demand{Demand: queue.Demand{Key: l.key, Pool: l.pool, Site: l.site, Provider: l.provider}}
	if t.n < mostTries && g.pools.CanPick(l.pool, func(s string) bool { return g.usable(x, s, now) == "" }) {
		g.tries[l.key] = t
		return true
	}
	delete(g.tries, l.key)
	return false
}

// succeeded forgets failures.
func (g *Gate) succeeded(l *lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.failures, spot{l.source, l.site})
	delete(g.failures, spot{l.source, ""})
	delete(g.tries, l.key)
}

// farOff is how far off permits for messages must be for a connection to be of no use until then.
const farOff = 30 * time.Second

// late reports whether permits for messages are known to be far off; then the source rests. g.mu is held.
func (g *Gate) late(at spot, p *plan, now time.Time) bool {
	if !p.paced {
		return false
	}
	for i := range p.bounds {
		if after, reason := g.desk.After(p.bounds[i : i+1]); after >= farOff {
			g.rest(at, now, &desk.LateError{Key: p.bounds[i].Key, After: after, Reason: reason})
			return true
		}
	}
	return false
}

// rest keeps a source from connecting to a site until permits for messages are near. g.mu is held.
func (g *Gate) rest(at spot, now time.Time, late *desk.LateError) {
	g.failures[at] = &failure{until: now.Add(max(late.After-restBefore, 0)), err: late}
}

// rested lets sources look again that wait for permits: limits may be others now. g.mu is held.
func (g *Gate) rested() {
	for at, f := range g.failures {
		if late := (*desk.LateError)(nil); errors.As(f.err, &late) {
			delete(g.failures, at)
		}
	}
}

// forgetFailures drops old ones, so that sites seen once do not stay. g.mu is held.
func (g *Gate) forgetFailures(now time.Time) {
	for at, f := range g.failures {
		if now.Sub(f.until) > mostPause {
			delete(g.failures, at)
		}
	}
	for key, t := range g.tries {
		if now.Sub(t.at) > triesKept {
			delete(g.tries, key)
		}
	}
}

// triesKept is how long a failure counts towards mostTries: longer than any attempt takes.
const triesKept = 10 * time.Minute

// proxyFailed notes that the way to a source's proxy broke. Contact with a Godwit
// proxy says whether it is up, probes say it of the others; until they do, it is down.
func (g *Gate) proxyFailed(source string, err error) {
	g.mu.Lock()
	g.fail(spot{source, ""}, time.Now(), err)
	g.mu.Unlock()
	s, _ := g.pools.Source(source)
	if s.Proxy != "" && g.pools.Authority(source) == "" {
		g.setProxy(s.Proxy, false, err.Error())
	}
}

// reach hears from the desk that contact with a Godwit proxy was made or lost.
func (g *Gate) reach(name string, up bool) {
	reason := ""
	if !up {
		reason = "no contact with the proxy"
		if !g.links.has(name) {
			return // a reload removed it, or made it one of another kind
		}
	}
	g.setProxy(name, up, reason)
}

// setProxy sets the health of all sources of a proxy.
func (g *Gate) setProxy(name string, up bool, reason string) {
	if g.pools.SetProxyHealth(name, up, reason) {
		g.post(func() { g.refresh(&change{sources: true}) })
	}
}

// unwatched resets the health of proxies that nobody watches: sources behind them are on this host.
func (g *Gate) unwatched(o proxy.Options) {
	for _, p := range o.Proxies {
		if p.Kind == proxy.KindDirect {
			g.setProxy(p.Name, true, "")
		}
	}
}
