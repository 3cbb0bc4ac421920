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

// pacing is a session that waits for the permit of a message.
type pacing struct {
	priority mail.Priority // that it asked for
	cancel   context.CancelFunc
	again    bool // it is to ask anew
}

// patience is how long an open session waits for a permit before it closes:
// the gate gives the next connection when a permit is near.
const patience = 30 * time.Second

// session is one connection to a site, from its lease to its end.
func (q *Queue) session(st *site, l Lease) {
	defer q.leave(st)
	route, ok := q.firstRoute(st)
	if !ok {
		q.opened(st, false)
		l.Close(true)
		return
	}
	route = l.Route(route)
	sess, err := q.d.Deliverer.Open(q.ctx, route, l)
	q.opened(st, err == nil)
	if err != nil {
		q.openFailed(st, l, route.Source, err)
		return
	}
	idle := newIdleSession()
	for !revoked(l) {
		group, pass := q.nextGroup(st, l, idle)
		if group == nil || !q.deliver(st, l, sess, route.Source, group, pass) || !sess.Usable() {
			break
		}
	}
	l.Close(sess.Close())
}

func revoked(l Lease) bool {
	select {
	case <-l.Revoked():
		return true
	default:
		return false
	}
}

// opened notes that an open session, or none, came of an attempt.
func (q *Queue) opened(st *site, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st.opening--
	q.opening--
	if ok {
		st.failures = 0
		st.hold = time.Time{}
	}
	q.feed()
}

func (q *Queue) leave(st *site) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st.sessions--
	q.openCount--
	defer q.feed()
	if st.sessions == 0 && st.ready == 0 && st.failures == 0 {
		q.forget(st)
		return
	}
	q.dispatch(st)
}

// firstRoute is the route of what goes next; false if nothing is ready any more.
func (q *Queue) firstRoute(st *site) (mail.Route, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.pick(st)
	if s == nil {
		return mail.Route{}, false
	}
	return *s.route, true
}

// pick chooses the scheduled queue whose turn it is; those whose route is old look for it anew.
func (q *Queue) pick(st *site) *sched {
	for q.ctx.Err() == nil {
		s := st.pick()
		if s == nil || !time.Now().After(s.route.Expires) {
			return s
		}
		st.detach(s)
		q.activate(s)
	}
	return nil
}

// pop takes the next group that is still worth delivering.
func (q *Queue) pop(st *site) []*item {
	o := q.options()
	for {
		s := q.pick(st)
		if s == nil {
			return nil
		}
		most := o.MaxPerTransaction
		if f := st.flow(s); q.d.Gate.Limited(f) {
			if !q.d.Gate.Admit(f, func() { q.flowReady(f) }) {
				q.setAside(st, f)
				continue
			}
			most = 1
		}
		group := st.group(s, most)
		q.topUp(st, s, o)
		group = q.dropOver(group, st.provider, o, time.Now())
		if len(group) > 0 {
			for _, it := range group {
				it.place = placeFlight
			}
			return group
		}
	}
}

// putBack returns a group to the head of its queue: nothing of it reached the provider.
func (q *Queue) putBack(group []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := len(group) - 1; i >= 0; i-- {
		it := group[i]
		it.place = placeReady
		it.queue.fifo.unpop(it)
		if it.queue.site != nil {
			it.queue.site.ready++
		}
	}
	if s := group[0].queue; s.site == nil {
		q.activate(s)
	} else {
		q.dispatch(s.site)
	}
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

// nextGroup takes the next group for an open session, waiting a while for one
// and, where messages are limited, for a permit. Nil when the session should end.
func (q *Queue) nextGroup(st *site, l Lease, is *idleSession) ([]*item, mail.Pass) {
	paced := l.Paced()
	for {
		q.mu.Lock()
		if q.ctx.Err() != nil {
			q.mu.Unlock()
			return nil, nil
		}
		if !paced {
			if group := q.pop(st); group != nil {
				q.mu.Unlock()
				return group, nil
			}
		}
		if !paced || st.ready == 0 {
			q.tidy(st)
			if q.wanted() {
				q.mu.Unlock()
				return nil, nil
			}
			st.idle = append(st.idle, is)
			q.mu.Unlock()
			if !q.awaitReady(st, l, is) {
				return nil, nil
			}
			continue
		}
		pass, ok := q.awaitSlot(st, l) // gives the lock back
		if !ok {
			return nil, nil
		}
		if pass == nil {
			continue // something more urgent came
		}
		q.mu.Lock()
		group := q.pop(st)
		q.mu.Unlock()
		if group == nil {
			l.Drop(pass)
			continue
		}
		if len(group) > 1 {
			pass.Charge(len(group) - 1)
		}
		return group, pass
	}
}

// glance is how often an idle session looks whether its connection is wanted elsewhere.
const glance = 250 * time.Millisecond

// awaitReady waits until the site has something; false when the session should end.
func (q *Queue) awaitReady(st *site, l Lease, is *idleSession) bool {
	defer is.timer.Stop()
	until := time.Now().Add(q.options().SessionIdle.D())
	for {
		wait := time.Until(until)
		if l.Contended() || wait <= 0 {
			return !q.unidle(st, is)
		}
		is.timer.Reset(min(wait, glance))
		select {
		case <-is.wake:
			q.awake(st)
			return true
		case <-is.timer.C:
			if q.wantedNow() {
				return !q.unidle(st, is)
			}
		case <-l.Revoked():
			return !q.unidle(st, is)
		case <-q.ctx.Done():
			q.unidle(st, is)
			return false
		}
	}
}

// wanted reports whether sites wait for a connection while all are in use: then none may idle.
func (q *Queue) wanted() bool {
	return len(q.starved[starvedBulk])+len(q.starved[starvedUrgent]) > 0 && q.openCount >= q.options().MaxSessions
}

func (q *Queue) wantedNow() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wanted()
}

func (q *Queue) awake(st *site) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st.woken--
}

// unidle takes a session off the idle list; false if it was woken in the same moment.
func (q *Queue) unidle(st *site, is *idleSession) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, other := range st.idle {
		if other == is {
			st.idle = append(st.idle[:i], st.idle[i+1:]...)
			return true
		}
	}
	<-is.wake
	st.woken--
	return false
}

// awaitSlot waits for the permit of a message. It is called with the lock and
// returns without it. No pass and true: ask again; false: the session should end.
func (q *Queue) awaitSlot(st *site, l Lease) (mail.Pass, bool) {
	a := st.asker()
	ctx, cancel := context.WithTimeout(q.ctx, patience)
	defer cancel()
	p := &pacing{priority: a.Priority, cancel: cancel}
	st.pacing = append(st.pacing, p)
	q.mu.Unlock()
	pass, err := l.Slot(ctx, a)
	q.mu.Lock()
	for i, other := range st.pacing {
		if other == p {
			st.pacing = append(st.pacing[:i], st.pacing[i+1:]...)
			break
		}
	}
	again := p.again
	q.mu.Unlock()
	if err != nil {
		return nil, again && q.ctx.Err() == nil
	}
	return pass, true
}

// stale is what a session may say after Deliver: nothing of it reached the
// peer, which had closed the idle connection before, or the permit was not to be had.
type stale interface{ Stale() bool }

// deliver hands a group to the session and its outcomes to finish. It is false
// if the session is of no use any more.
func (q *Queue) deliver(st *site, l Lease, sess Session, source string, group []*item, pass mail.Pass) bool {
	msgs := make([]*mail.Message, len(group))
	for i, it := range group {
		msgs[i] = it.msg
	}
	// A transaction under way is finished even when the queue stops.
	outcomes := sess.Deliver(context.WithoutCancel(q.ctx), msgs, pass)
	if pass != nil {
		l.Drop(pass) // unless it was used: an attempt may end before MAIL
	}
	if s, ok := sess.(stale); ok && s.Stale() {
		q.putBack(group)
		return false
	}
	for i := range outcomes {
		outcomes[i].Source = source
	}
	l.Judge(msgs, outcomes)
	q.finish(group, outcomes, st.provider)
	return true
}

// openFailed deals with an attempt from which no session came. When another
// source may try, or nothing was tried at all, messages wait on; else all
// that is ready for the site has the outcome, and the site a pause.
func (q *Queue) openFailed(st *site, l Lease, source string, err error) {
	another := l.Failed(err) || errors.Is(err, mail.ErrNotTried)
	defer l.Close(false)
	q.mu.Lock()
	if q.ctx.Err() != nil || another {
		q.mu.Unlock()
		return
	}
	group := q.pop(st)
	q.mu.Unlock()
	out := outcomeOf(err, mail.ClassConnect, mail.Reply{Code: 421, Enhanced: "4.4.1", Text: "no connection to the site"})
	out.Source = source
	if len(group) > 0 {
		judged := []mail.Outcome{out}
		l.Judge([]*mail.Message{group[0].msg}, judged)
		out = judged[0]
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.finishLocked(group, &out, st.provider)
	if st.sessions > st.opening+1 {
		return // others are at work: the site takes mail
	}
	q.pause(st, &out)
}

// pause gives all that is ready an outcome and holds the site for a time that grows with each failure.
func (q *Queue) pause(st *site, out *mail.Outcome) {
	st.failures++
	d := min(time.Second<<min(st.failures-1, 10), q.options().HoldMax.D())
	st.hold, st.holdWhy = time.Now().Add(d), holdReason(out)
	left := st.takeAll()
	for _, it := range left {
		q.timers.set(it.queue) // it competes no more; what it has on disk must wake it
	}
	signal(q.timerSet)
	q.finishLocked(left, out, st.provider)
	q.forgetAfter(st, d)
}

// forgetAfter drops a failed site's memory when nothing came for it for a while.
func (q *Queue) forgetAfter(st *site, pause time.Duration) {
	time.AfterFunc(pause+time.Minute, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if st.sessions == 0 && st.ready == 0 && time.Now().After(st.hold) {
			q.forget(st)
		}
	})
}
