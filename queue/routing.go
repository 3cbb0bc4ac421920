package queue

import (
	"errors"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// lookup is a scheduled queue that waits for a route; the router wants a message.
type lookup struct {
	s   *sched
	msg *mail.Message
}

// How many routes are looked up at a time, and how many more for urgent mail
// when slow name servers hold all of these.
const (
	maxLookups    = 256
	urgentLookups = 64
)

// activate brings a scheduled queue with something due to its site, as far as
// it is known: first the route, then rows from disk, then the competition.
func (q *Queue) activate(s *sched) {
	now := time.Now()
	switch {
	case s.suspended || s.waits || s.site != nil || q.ctx.Err() != nil:
		return // whoever ends this activates it: a timer that is due would not let wakeDue go
	case !s.due(now.UnixMilli()):
		if s.at < 0 {
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
	if f := st.flow(s); len(q.aside[f]) > 0 { // its flow waits for a permit already: one is asked for at a time
		s.waits = true
		q.aside[f] = append(q.aside[f], s)
		q.tidy(st)
		return
	}
	st.attach(s)
	q.dispatch(st)
}

func (q *Queue) siteOf(r *mail.Route) *site {
	key := siteKey(r)
	st := q.sites[key]
	if st == nil {
		st = &site{key: key, pool: r.Pool, name: r.Site, provider: r.Provider}
		st.take = func(l Lease) { q.granted(st, l) }
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
	q.toRoute[s.priority] = append(q.toRoute[s.priority], lookup{s, s.fifo.at(0).msg})
	if q.routers < maxLookups || s.priority == mail.Urgent && q.routers < maxLookups+urgentLookups {
		q.routers++
		q.sessions.Go(q.route)
	}
}

// route looks up routes until none is waited for, for urgent mail first.
func (q *Queue) route() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		l, ok := q.nextLookup()
		if !ok || q.ctx.Err() != nil {
			q.routers--
			return
		}
		q.mu.Unlock()
		route, err := q.d.Router.Route(q.ctx, l.msg)
		q.mu.Lock()
		l.s.routing = false
		if err != nil {
			q.unroutable(l.s, err)
			continue
		}
		l.s.route = &route
		q.activate(l.s)
	}
}

func (q *Queue) nextLookup() (lookup, bool) {
	for p := len(q.toRoute) - 1; p >= 0; p-- {
		if list := q.toRoute[p]; len(list) > 0 {
			q.toRoute[p] = list[1:]
			if len(list) == 1 {
				q.toRoute[p] = nil
			}
			return list[0], true
		}
	}
	return lookup{}, false
}

// siteKey names a ready queue.
func siteKey(r *mail.Route) string { return r.Pool + " " + r.Site }

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
