package queue

import (
	"context"
	"errors"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// idleSession is how a session waits for its site to have something.
type idleSession struct {
	wake  chan struct{}
	timer *time.Timer
}

func newIdleSession() *idleSession {
	is := &idleSession{wake: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	is.timer.Stop()
	return is
}

// activate brings a scheduled queue with something due to its site, as far as
// it is known: first the route, then rows from disk, then the competition.
func (q *Queue) activate(s *sched) {
	now := time.Now()
	if s.suspended || s.site != nil || q.ctx.Err() != nil || !s.due(now.UnixMilli()) {
		if s.at < 0 && s.site == nil && !s.suspended && s.next != never {
			q.timers.set(s)
		}
		return
	}
	if s.route == nil || now.After(s.route.Expires) {
		q.resolve(s)
		return
	}
	if s.fifo.len() == 0 {
		q.refill(s)
		return
	}
	st := q.siteOf(s.route)
	st.attach(s)
	q.dispatch(st)
}

func (q *Queue) siteOf(r *mail.Route) *site {
	key := r.Source + " " + r.Site
	st := q.sites[key]
	if st == nil {
		st = &site{key: key, provider: r.Provider}
		q.sites[key] = st
	}
	return st
}

// resolve finds the route of a scheduled queue, away from the lock. A queue
// whose rows are all on disk reads one first: the router wants a message.
func (q *Queue) resolve(s *sched) {
	if s.routing {
		return
	}
	if s.fifo.len() == 0 {
		q.refill(s)
		return
	}
	s.routing = true
	msg := s.fifo.at(0).msg
	q.sessions.Go(func() {
		q.routing <- struct{}{}
		route, err := q.d.Router.Route(q.ctx, msg)
		<-q.routing
		q.mu.Lock()
		defer q.mu.Unlock()
		s.routing = false
		if err != nil {
			q.unroutable(s, err)
			return
		}
		s.route = &route
		q.activate(s)
	})
}

// unroutable gives everything ready in s the outcome that routing had.
func (q *Queue) unroutable(s *sched, err error) {
	if q.ctx.Err() != nil {
		return
	}
	out := outcomeOf(err, mail.ClassDNS, mail.Reply{Code: 451, Enhanced: "4.4.3", Text: "route not found for now"})
	q.finishLocked(s.fifo.take(), &out, "")
	if s.next <= time.Now().UnixMilli() {
		q.refill(s)
		return
	}
	q.timers.set(s)
	signal(q.timerSet)
}

// outcomeOf takes the outcome out of an error; any other error is a deferral
// with the reply given.
func outcomeOf(err error, class string, reply mail.Reply) mail.Outcome {
	var oe *mail.OutcomeError
	if errors.As(err, &oe) {
		out := oe.Outcome
		if out.Started.IsZero() { // decided without an attempt at a host
			out.Started = time.Now()
		}
		return out
	}
	return mail.Outcome{Kind: mail.Deferred, Class: class, Reply: reply, Started: time.Now(), Error: err.Error()}
}

// dispatch gives a site with something ready the sessions it may have.
func (q *Queue) dispatch(st *site) {
	if q.ctx.Err() != nil {
		return
	}
	ready := st.ready
	for ready > 0 && len(st.idle) > 0 {
		last := len(st.idle) - 1
		is := st.idle[last]
		st.idle = st.idle[:last]
		is.wake <- struct{}{}
		ready--
	}
	o := q.options()
	if hold := time.Until(st.hold); hold > 0 && ready > 0 {
		q.holdFor(st, hold)
		return
	}
	for ready > st.opening && st.sessions < o.Sessions && q.openCount < o.MaxSessions {
		st.sessions++
		st.opening++
		q.openCount++
		q.sessions.Go(func() { q.session(st) })
	}
	if st.ready > 0 && st.sessions == 0 && !st.starving {
		st.starving = true
		q.starved = append(q.starved, st)
	}
}

// feed gives a connection that became free to the site that waits longest.
func (q *Queue) feed() {
	for len(q.starved) > 0 && q.openCount < q.options().MaxSessions {
		st := q.starved[0]
		q.starved = q.starved[1:]
		st.starving = false
		q.dispatch(st)
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

// session delivers to one site until it has nothing more.
func (q *Queue) session(st *site) {
	defer q.leave(st)
	idle := newIdleSession()
	group, route := q.firstGroup(st, true)
	for group != nil {
		sess, err := q.d.Deliverer.Open(q.ctx, route)
		if err != nil {
			q.openFailed(st, group, err)
			return
		}
		q.opened(st)
		stale, again := false, false
		for group != nil {
			if stale = !q.deliver(st, sess, group); stale {
				break
			}
			group = nil
			if again = !sess.Usable(); !again {
				group = q.nextGroup(st, idle)
			}
		}
		sess.Close()
		switch {
		case stale:
			route = q.routeOf(group)
		case again:
			group, route = q.firstGroup(st, false)
		default:
			return
		}
	}
}

func (q *Queue) routeOf(group []*item) mail.Route {
	q.mu.Lock()
	defer q.mu.Unlock()
	return *group[0].queue.route
}

func (q *Queue) leave(st *site) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st.sessions--
	q.openCount--
	defer q.feed()
	if st.sessions == 0 && st.ready == 0 && st.failures == 0 {
		delete(q.sites, st.key)
		return
	}
	q.dispatch(st)
}

// firstGroup takes what a new connection is opened for.
func (q *Queue) firstGroup(st *site, opening bool) ([]*item, mail.Route) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if opening {
		defer func() { st.opening-- }()
	}
	group := q.take(st)
	if group == nil {
		return nil, mail.Route{}
	}
	return group, *group[0].queue.route
}

// take pops the next group that is still worth delivering.
func (q *Queue) take(st *site) []*item {
	o := q.options()
	for q.ctx.Err() == nil {
		s := st.pick()
		if s == nil {
			return nil
		}
		if time.Now().After(s.route.Expires) {
			st.detach(s)
			q.activate(s)
			continue
		}
		group := st.group(s, o.MaxPerTransaction)
		q.topUp(st, s, o)
		now := time.Now()
		group = q.dropOver(group, st.provider, o, now)
		if len(group) > 0 {
			for _, it := range group {
				it.place = placeFlight
			}
			return group
		}
	}
	return nil
}

// topUp reads more rows when the fifo runs low, and ends s's competition when
// it has nothing left.
func (q *Queue) topUp(st *site, s *sched, o *Options) {
	if s.next <= time.Now().UnixMilli() && s.fifo.len() < o.MaxReady/4 {
		q.refill(s)
	}
	if s.fifo.len() == 0 {
		st.detach(s)
		q.timers.set(s)
		q.forgetIdle(s)
	}
}

// dropOver finishes messages past their life or deadline.
func (q *Queue) dropOver(group []*item, provider string, o *Options, now time.Time) []*item {
	kept := group[:0:len(group)]
	for _, it := range group {
		reason, yes := over(it.msg, o.rule(it.msg, provider).expiry(it.msg), now)
		if !yes {
			kept = append(kept, it)
			continue
		}
		out := expiredOutcome(it.msg, reason, now)
		q.finishLocked([]*item{it}, &out, provider)
	}
	return kept
}

func expiredOutcome(m *mail.Message, reason string, now time.Time) mail.Outcome {
	text := reason
	if m.LastReply != "" {
		text += "; last reply: " + m.LastReply
	}
	return mail.Outcome{Kind: mail.Bounced, Class: mail.ClassExpired, Started: now,
		Reply: mail.Reply{Code: 554, Enhanced: "5.4.7", Text: text}}
}

// nextGroup takes the next group for an open session, waiting a while for one.
func (q *Queue) nextGroup(st *site, is *idleSession) []*item {
	q.mu.Lock()
	group := q.take(st)
	if group != nil || q.ctx.Err() != nil {
		q.mu.Unlock()
		return group
	}
	st.idle = append(st.idle, is)
	q.mu.Unlock()
	defer is.timer.Stop()
	for {
		is.timer.Reset(q.options().SessionIdle.D())
		select {
		case <-is.wake:
		case <-is.timer.C:
			if q.unidle(st, is) {
				return nil
			}
			<-is.wake // it was woken in the same moment
		case <-q.ctx.Done():
			q.unidle(st, is)
			return nil
		}
		q.mu.Lock()
		group := q.take(st)
		if group == nil && q.ctx.Err() == nil {
			st.idle = append(st.idle, is) // another session was faster
			q.mu.Unlock()
			continue
		}
		q.mu.Unlock()
		return group
	}
}

// unidle takes a session off the idle list; false if it was not on it.
func (q *Queue) unidle(st *site, is *idleSession) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, other := range st.idle {
		if other == is {
			st.idle = append(st.idle[:i], st.idle[i+1:]...)
			return true
		}
	}
	return false
}

func (q *Queue) opened(st *site) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st.failures = 0
	st.hold = time.Time{}
}

// openFailed gives everything that is ready for the site the outcome of the
// failed open, and pauses before the next.
func (q *Queue) openFailed(st *site, group []*item, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ctx.Err() != nil {
		for _, it := range group {
			it.place = placeParked // delivery goes on after the next start
		}
		return
	}
	out := outcomeOf(err, mail.ClassConnect, mail.Reply{Code: 421, Enhanced: "4.4.1", Text: "no connection to the site"})
	st.failures++
	pause := min(time.Second<<min(st.failures-1, 10), q.options().HoldMax.D())
	st.hold = time.Now().Add(pause)
	provider := st.provider
	q.finishLocked(group, &out, provider)
	left := st.takeAll()
	for _, it := range left {
		q.timers.set(it.queue) // it competes no more; what it has on disk must wake it
	}
	signal(q.timerSet)
	q.finishLocked(left, &out, provider)
	if st.failures > 0 && st.sessions == 1 {
		q.forgetAfter(st, pause)
	}
}

// forgetAfter drops a failed site's memory when nothing came for it for a while.
func (q *Queue) forgetAfter(st *site, pause time.Duration) {
	time.AfterFunc(pause+time.Minute, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.sites[st.key] == st && st.sessions == 0 && st.ready == 0 && time.Now().After(st.hold) {
			delete(q.sites, st.key)
		}
	})
}

// stale is what a session may say after Deliver: nothing of it reached the
// peer, which had closed the idle connection before.
type stale interface{ Stale() bool }

// deliver hands a group to the session and its outcomes to finish. It is
// false if the session was stale: the same messages may go at once on another.
func (q *Queue) deliver(st *site, sess Session, group []*item) bool {
	msgs := make([]*mail.Message, len(group))
	for i, it := range group {
		msgs[i] = it.msg
	}
	// A transaction under way is finished even when the queue stops.
	outcomes := sess.Deliver(context.WithoutCancel(q.ctx), msgs)
	if s, ok := sess.(stale); ok && s.Stale() && q.ctx.Err() == nil {
		return false
	}
	q.finish(group, outcomes, st.provider)
	return true
}
