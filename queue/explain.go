package queue

import (
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// WaitFor is what a message that is due waits for.
type WaitFor string

// The things to wait for.
const (
	WaitResume  WaitFor = "resume"  // the end of a suspension
	WaitRoute   WaitFor = "route"   // its route: name servers
	WaitOwn     WaitFor = "own"     // a limit, or the end of a stop, of its tenant or stream
	WaitHold    WaitFor = "hold"    // the site could not be reached: nobody connects before Until
	WaitRoom    WaitFor = "room"    // one of the connections that this node may have in all
	WaitConnect WaitFor = "connect" // a connection, which the gate was asked for
	WaitOpening WaitFor = "opening" // a connection that is being made
	WaitSend    WaitFor = "send"    // the permit of a message, on an open connection
	WaitTurn    WaitFor = "turn"    // others go first
)

// Wait is why a message that is due is not being delivered.
type Wait struct {
	For WaitFor
	// Ready is the key of its ready queue, as Demand has it; "" while the message is in none. Site and Provider are that queue's.
	Ready, Site, Provider string
	Since                 time.Time // when it fell due
	Until                 time.Time // for WaitHold
	Reason                string    // for WaitHold: what happened at the last connection
	Ahead                 int       // messages before it in its scheduled queue, at least
}

// Why tells what a message of the queue, as Find and History return it, waits for. It is
// false for one that is being delivered, is not due, or has gone meanwhile.
func (q *Queue) Why(m Waiting) (w Wait, ok bool) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.live[m.Message.ID]
	s := q.names[name{m.Message.Priority, m.Message.Tenant, m.Message.Stream, m.Message.Domain(), m.Message.Pool}]
	w.Since = m.Due
	if it != nil {
		s, w.Since = it.queue, time.UnixMilli(it.due)
	}
	switch {
	case s == nil, w.Since.After(now):
		return w, false
	case it != nil && it.place != placeReady && it.place != placeParked:
		return w, false
	}
	w.Ahead = s.ahead(it)
	q.why(s, &w, now)
	return w, true
}

// ahead counts what goes before an item; nil, or one that is not in the fifo, comes after all of it.
func (s *sched) ahead(it *item) int {
	for i := range s.fifo.len() {
		if s.fifo.at(i) == it {
			return i
		}
	}
	return s.fifo.len()
}

// why finds what keeps a scheduled queue with something due. q.mu is held.
func (q *Queue) why(s *sched, w *Wait, now time.Time) {
	var st *site
	if s.route != nil {
		w.Ready, w.Site, w.Provider = siteKey(s.route), s.route.Site, s.route.Provider
		st = q.sites[w.Ready]
	}
	switch {
	case s.suspended:
		w.For = WaitResume
	case s.waits:
		w.For = WaitOwn
	case s.routing:
		w.For = WaitRoute
	case st == nil:
		w.For = WaitTurn
	case now.Before(st.hold):
		w.For, w.Until, w.Reason = WaitHold, st.hold, st.holdWhy
	case len(st.pacing) > 0:
		w.For = WaitSend
	case st.starving > 0:
		w.For = WaitRoom
	case st.asked > 0:
		w.For = WaitConnect
	case st.opening > 0:
		w.For = WaitOpening
	default:
		w.For = WaitTurn
	}
}

// Hold tells until when no connection is made for the ready queue of a pool and
// a site because its hosts could not be reached, and what happened then; zero: it is not held.
func (q *Queue) Hold(pool, site string) (until time.Time, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	st := q.sites[siteKey(&mail.Route{Pool: pool, Site: site})]
	if st == nil || !time.Now().Before(st.hold) {
		return time.Time{}, ""
	}
	return st.hold, st.holdWhy
}

// InFlight is how many messages are being delivered.
func (q *Queue) InFlight() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range q.live {
		if it.place == placeFlight {
			n++
		}
	}
	return n
}

// holdReason is an outcome in the words of Wait.Reason.
func holdReason(o *mail.Outcome) string {
	if o.Error != "" {
		return o.Error
	}
	return o.Reply.String()
}
