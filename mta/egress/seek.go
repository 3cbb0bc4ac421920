package egress

import (
	"slices"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle/desk"
)

// demand is what one ready queue could use. It is kept until it has that, or is withdrawn.
type demand struct {
	queue.Demand            // N counts down as leases are given; Pool is the one that serves it
	named        string     // the pool as the queue names it
	requests     []*request // that wait for permits
	wake         time.Time  // when to look at it again; zero: when something changes
	at           int        // place among the alarms; -1: none
}

// request waits for one connection from one source.
type request struct {
	gate   *Gate
	d      *demand
	source string
	plan   *plan
	ask    *desk.Request
	dead   bool // withdrawn; guarded by Gate.mu

	mu    sync.Mutex
	over  bool // Ask has returned: what comes now comes by the inbox
	came  bool
	lease *desk.Lease
}

// granted is called by the desk, from any goroutine and perhaps below our own
// calls: it must take no lock but its own.
func (r *request) granted(l *desk.Lease) {
	r.mu.Lock()
	r.came, r.lease = true, l
	over := r.over
	r.mu.Unlock()
	if over {
		r.gate.post(func() { r.gate.arrived(r) })
	}
}

// inline returns the lease if it came at once.
func (r *request) inline() (l *desk.Lease, came bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.lease, r.came
}

// Seek implements queue.Gate.
func (g *Gate) Seek(d queue.Demand) []queue.Lease {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.demands[d.Key]
	if d.N == 0 || g.ctx.Err() != nil {
		if x != nil {
			g.end(x)
		}
		return nil
	}
	if x == nil {
		x = &demand{named: d.Pool, at: -1}
		x.Pool = g.standIn(d.Pool)
		g.demands[d.Key] = x
	}
	pool, urgency := x.Pool, x.Priority
	x.Demand = d
	x.Pool = pool
	if urgency != d.Priority { // they stand in line with what they asked for
		g.withdraw(x)
	}
	for len(x.requests) > max(d.N, mostWaiting) {
		g.cancel(x.requests[len(x.requests)-1])
	}
	leases := g.pursue(x, time.Now())
	if x.at == 0 && x.wake.Before(g.next) {
		signal(g.inbox.wake) // the goroutine would sleep too long
	}
	return leases
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// standIn is the pool that serves what waits for one: itself, or if it is not
// configured any more the one of messages that name none.
func (g *Gate) standIn(pool string) string { return g.pools.For(&mail.Message{Pool: pool}) }

// end forgets a demand.
func (g *Gate) end(x *demand) {
	g.withdraw(x)
	g.alarms.set(x, time.Time{})
	delete(g.demands, x.Key)
}

// Bounds of the requests that wait at the desk. Each costs memory, and waits with equal
// right: a ready queue with much mail must not stand in the way of others.
const (
	mostWaiting  = 8      // of a ready queue for one source; more are made as these are granted
	mostRequests = 50_000 // of all, beyond which a ready queue waits for one source only
)

// pursue asks for as many connections as the demand wants, and returns those
// that came at once. The demand is over when it has all.
func (g *Gate) pursue(x *demand, now time.Time) (leases []queue.Lease) {
	x.wake = time.Time{}
	for x.N > len(x.requests) && g.ctx.Err() == nil && (g.asked < mostRequests || len(x.requests) == 0) {
		source, p, ok := g.choose(x, now, true)
		if !ok {
			break
		}
		if l := g.ask(x, source, p, now); l != nil {
			leases = append(leases, l)
		}
	}
	if x.N <= 0 {
		g.end(x)
		return leases
	}
	if len(x.requests) > 0 {
		g.lookAt(x, now.Add(spread))
	}
	g.alarms.set(x, x.wake)
	return leases
}

// choose picks a source for one more connection: first one that this demand
// does not wait for yet, so that a source at its limit does not keep others idle; with
// again, then any. One whose permits for messages are known to be far off rests.
func (g *Gate) choose(x *demand, now time.Time, again bool) (string, *plan, bool) {
	usable := func(s string) bool { return g.usable(x, s, now) == "" && g.fits(x, s) }
	for {
		source, ok := g.pools.Pick(x.Pool, account(x), now, func(s string) bool { return !x.waitsFor(s) && usable(s) })
		if !ok && again && len(x.requests) > 0 {
			source, ok = g.pools.Pick(x.Pool, account(x), now, usable)
		}
		if !ok {
			return "", nil, false
		}
		p := g.planFor(source, x)
		if !g.late(spot{source, x.Site}, p, now) {
			return source, p, true
		}
		g.pools.Unpick(x.Pool, account(x), source)
	}
}

// account is what shares of a pool are counted by.
func account(x *demand) string { return accountOf(x.Provider, x.Site) }

func accountOf(provider, site string) string {
	if provider != "" {
		return provider
	}
	return site
}

func (x *demand) waitsFor(source string) bool {
	return slices.ContainsFunc(x.requests, func(r *request) bool { return r.source == source })
}

// fits reports whether the message rate can keep one more connection busy, and
// the line of those who wait is not long enough.
func (g *Gate) fits(x *demand, source string) bool {
	waiting := 0
	for _, r := range x.requests {
		if r.source == source {
			waiting++
		}
	}
	open := g.open[spot{source, x.Key}]
	if waiting+open == 0 {
		return true
	}
	if waiting >= mostWaiting {
		return false
	}
	p := g.planFor(source, x)
	return p.useful == 0 || waiting+open < p.useful
}

// ask asks the desk; the lease if it came at once.
func (g *Gate) ask(x *demand, source string, p *plan, now time.Time) queue.Lease {
	r := &request{gate: g, d: x, source: source, plan: p}
	r.ask = g.desk.Ask(p.bounds, desk.Asker{Priority: x.Priority, Flow: x.Flow, Flows: x.Flows}, r.granted)
	l, came := r.inline()
	switch {
	case !came:
		x.requests = append(x.requests, r)
		g.asked++
		return nil
	case l == nil:
		g.unreached(r, now)
		return nil
	}
	x.N--
	return g.newLease(x, r, l)
}

// unreached notes that the authority of a source cannot be reached.
func (g *Gate) unreached(r *request, now time.Time) {
	g.pools.Unpick(r.d.Pool, account(r.d), r.source)
	g.fail(spot{r.source, ""}, now, nil)
}

// arrived takes what the desk gave later. It runs on the gate's goroutine.
func (g *Gate) arrived(r *request) {
	g.mu.Lock()
	x, now := r.d, time.Now()
	if r.dead || g.demands[x.Key] != x {
		g.mu.Unlock()
		if r.lease != nil {
			r.lease.Close(true)
		}
		return
	}
	g.drop(r)
	var leases []queue.Lease
	useless := false
	switch {
	case r.lease == nil:
		g.unreached(r, now)
	case g.late(spot{r.source, x.Site}, r.plan, now): // others learned while it stood in line that the next message is far off
		g.pools.Unpick(x.Pool, account(x), r.source)
		useless = true
	default:
		x.N--
		leases = append(leases, g.newLease(x, r, r.lease))
	}
	leases = append(leases, g.pursue(x, now)...)
	take := x.Take
	g.mu.Unlock()
	if useless {
		r.lease.Close(true)
	}
	give(take, leases)
}

// give hands leases over. No lock may be held.
func give(take func(queue.Lease), leases []queue.Lease) {
	for _, l := range leases {
		take(l)
	}
}

// again pursues what a demand still lacks.
func (g *Gate) again(x *demand) {
	g.mu.Lock()
	var leases []queue.Lease
	if g.demands[x.Key] == x {
		leases = g.pursue(x, time.Now())
	}
	take := x.Take
	g.mu.Unlock()
	give(take, leases)
}

// drop takes a request off its demand. It was granted, or is cancelled.
func (g *Gate) drop(r *request) {
	if i := slices.Index(r.d.requests, r); i >= 0 {
		r.d.requests = slices.Delete(r.d.requests, i, i+1)
		g.asked--
	}
}

func (g *Gate) withdraw(x *demand) {
	for len(x.requests) > 0 {
		g.cancel(x.requests[len(x.requests)-1])
	}
}

// cancel withdraws a request. What is granted all the same is given back when it arrives.
func (g *Gate) cancel(r *request) {
	g.drop(r)
	r.dead = true
	g.pools.Unpick(r.d.Pool, account(r.d), r.source)
	r.ask.Cancel()
}
