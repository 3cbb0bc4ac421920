package queue

import (
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// mostAsked bounds how many connections the gate is asked for at a time: there
// is hardly a provider that allows more.
const mostAsked = 64

// dispatch gives a site with something ready the sessions it may have: idle
// ones first, then new ones as the gate allows.
func (q *Queue) dispatch(st *site) {
	if q.ctx.Err() != nil {
		return
	}
	for st.need() > 0 && len(st.idle) > 0 {
		last := len(st.idle) - 1
		is := st.idle[last]
		st.idle = st.idle[:last]
		st.woken++
		is.wake <- struct{}{}
	}
	q.hurry(st)
	need := st.need()
	if hold := time.Until(st.hold); hold > 0 && need > 0 {
		q.holdFor(st, hold)
		need = 0
	}
	q.seek(st, need)
}

// hurry makes a session that waits for a permit ask again when something more
// urgent has come.
func (q *Queue) hurry(st *site) {
	if len(st.pacing) == 0 {
		return
	}
	top := st.asker().Priority
	for _, p := range st.pacing {
		if p.priority >= top {
			return // somebody asks for it already
		}
	}
	p := st.pacing[0]
	p.again = true
	p.cancel()
}

// seek tells the gate what the site could use, if that has changed enough.
func (q *Queue) seek(st *site, need int) {
	n := 0
	a := st.asker()
	if need > 0 {
		room := q.roomFor(a.Priority)
		n = min(need, mostAsked, st.asked+room) // what was asked for stays so
		if room == 0 && n < need {
			q.starve(st, a.Priority)
		}
	}
	enough := st.asked >= n && st.asked <= 2*n && (st.askedFor == a.Priority || n == 0)
	if enough {
		return
	}
	q.asks.set(st, n)
	st.askedFor = a.Priority
	for _, l := range q.d.Gate.Seek(q.demand(st, n, a)) {
		q.asks.set(st, st.asked-1)
		q.begin(st, l)
	}
	if q.asks.young() > 0 && !q.asks.ticking {
		q.asks.ticking = true
		time.AfterFunc(askAges, q.ageAsks)
	}
}

func (q *Queue) demand(st *site, n int, a Asker) Demand {
	return Demand{Key: st.key, Pool: st.pool, Site: st.name, Provider: st.provider, N: n,
		Priority: a.Priority, Flow: a.Flow, Flows: a.Flows, Take: st.take}
}

// roomFor is how many more connections mail of a priority may have. Those that
// are being opened are bounded apart, so that sites which swallow connects
// cannot use up all; urgent mail has some to itself.
func (q *Queue) roomFor(p mail.Priority) int {
	most := q.options().MaxSessions
	if p == mail.Urgent {
		return max(0, most+max(1, most/10)-q.openCount)
	}
	return max(0, min(most-q.openCount, max(1, most/2)-q.opening)-q.asks.young())
}

// asks counts the connections that the gate was asked for and has not given.
// One that was asked for a moment ago will mostly come and takes up room; one
// that was not given by then waits for a limit, and must not keep others from asking.
type asks struct {
	all     int
	before  int // all, when it was looked at last
	less    int // given or withdrawn since
	old     int
	ticking bool
}

// askAges is how long an ask counts as young.
const askAges = 250 * time.Millisecond

func (a *asks) set(st *site, n int) {
	a.all += n - st.asked
	a.less += max(0, st.asked-n)
	st.asked = n
}

func (a *asks) young() int { return max(0, a.all-a.old) }

// ageAsks takes note of asks that were not answered.
func (q *Queue) ageAsks() {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := &q.asks
	a.old = min(a.all, max(0, a.before-a.less))
	a.before, a.less = a.all, 0
	if a.ticking = a.all > 0 && q.ctx.Err() == nil; a.ticking {
		time.AfterFunc(askAges, q.ageAsks)
		q.feed()
	}
}

// granted takes a lease that the gate gives later.
func (q *Queue) granted(st *site, l Lease) {
	q.mu.Lock()
	q.asks.set(st, max(0, st.asked-1))
	use := q.ctx.Err() == nil && q.sites[st.key] == st && st.need() > 0 && !time.Now().Before(st.hold)
	if use && q.roomFor(st.asker().Priority) == 0 {
		q.starve(st, st.asker().Priority)
		use = false
	}
	switch {
	case use:
		q.begin(st, l)
	case q.ctx.Err() == nil:
		q.tidy(st)
	}
	q.mu.Unlock()
	if !use {
		l.Close(true)
	}
}

// begin starts a session.
func (q *Queue) begin(st *site, l Lease) {
	st.sessions++
	st.opening++
	q.openCount++
	q.opening++
	q.sessions.Go(func() { q.session(st, l) })
}

// The lists of sites that wait for a connection.
const (
	starvedBulk = iota
	starvedUrgent
)

func (q *Queue) starve(st *site, p mail.Priority) {
	list := starvedBulk
	if p == mail.Urgent {
		list = starvedUrgent
	}
	if st.starving > list {
		return
	}
	st.starving = list + 1
	q.starved[list] = append(q.starved[list], st)
}

// feedAgain is when more starved sites are asked for, if those that were could not use what is free.
const feedAgain = 20 * time.Millisecond

// feed gives connections that became free to the sites that wait longest, urgent
// mail first. The gate may make a site wait, so more are asked for than there is room; but not all
// of them for each connection that ends: most would come in vain.
func (q *Queue) feed() {
	for list := starvedUrgent; list >= starvedBulk; list-- {
		priority := mail.Normal
		if list == starvedUrgent {
			priority = mail.Urgent
		}
		for n := 2 * q.roomFor(priority); n > 0 && len(q.starved[list]) > 0 && q.roomFor(priority) > 0; n-- {
			st := q.starved[list][0]
			q.starved[list][0] = nil
			if q.starved[list] = q.starved[list][1:]; len(q.starved[list]) == 0 {
				q.starved[list] = nil
			}
			if st.starving == list+1 {
				st.starving = 0
			}
			q.dispatch(st)
		}
		if len(q.starved[list]) > 0 && q.roomFor(priority) > 0 && !q.feeding && q.ctx.Err() == nil {
			q.feeding = true
			time.AfterFunc(feedAgain, q.feedLater)
		}
	}
}

func (q *Queue) feedLater() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.feeding = false
	if q.ctx.Err() == nil {
		q.feed()
	}
}

func (q *Queue) holdFor(st *site, d time.Duration) {
	if st.held {
		return
	}
	st.held = true
	time.AfterFunc(d, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		st.held = false
		q.dispatch(st)
	})
}

// tidy withdraws what a site asked the gate for and has no use for any more,
// and drops one that has nothing left.
func (q *Queue) tidy(st *site) {
	if st.sessions == 0 && st.ready == 0 && st.failures == 0 {
		q.forget(st)
		return
	}
	if st.asked > 0 && st.need() <= 0 {
		q.seek(st, 0)
	}
}

// forget drops a site that has nothing left.
func (q *Queue) forget(st *site) {
	if q.sites[st.key] != st {
		return
	}
	if st.asked > 0 {
		q.asks.set(st, 0)
		q.d.Gate.Seek(q.demand(st, 0, Asker{}))
	}
	delete(q.sites, st.key)
}

// flow names the flow of a scheduled queue at a site.
func (st *site) flow(s *sched) Flow {
	return Flow{Tenant: s.tenant, Stream: s.stream, Provider: st.provider, Site: st.name}
}

// setAside takes what a flow has at a site out of the competition until its
// own limit allows more.
func (q *Queue) setAside(st *site, f Flow) {
	for p := range st.classes {
		at := st.classes[p].flows[flowKey{f.Tenant, f.Stream}]
		if at == nil {
			continue
		}
		for _, s := range append([]*sched(nil), at.queues...) {
			st.detach(s)
			s.waits = true
			q.aside[f] = append(q.aside[f], s)
		}
	}
	q.tidy(st)
}

// flowReady brings back what waited for a flow's own limit.
func (q *Queue) flowReady(f Flow) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.aside[f]
	delete(q.aside, f)
	for _, s := range list {
		s.waits = false
		q.activate(s)
		q.forgetIdle(s)
	}
}
