package queue

import (
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// site is a ready queue: everything that is due for one site (the domains that
// share a set of mail exchangers) by one pool of sources, and the sessions to
// it. Which source a session has is the gate's choice; messages take the first that is free.
type site struct {
	key      string
	pool     string
	name     string
	provider string
	classes  [mail.Urgent + 1]class
	ready    int // items in the fifos of its scheduled queues

	asked    int           // connections that the gate was asked for and has not given
	askedFor mail.Priority // and for whom
	take     func(Lease)

	sessions int
	opening  int            // those of them that are not established
	idle     []*idleSession // the last one used is the first one taken
	woken    int            // idle ones that were woken and have not looked yet
	pacing   []*pacing      // sessions that wait for a message permit
	failures int            // failed opens in a row
	hold     time.Time      // no new session before
	holdWhy  string         // what happened at the last one
	held     bool           // a timer will look again at hold
	starving int            // on the queue's lists for a connection, up to this one; 0: on none
}

// need is how many more sessions could take a message each.
func (st *site) need() int { return st.ready - st.woken - st.opening - len(st.pacing) }

// asker says on whose behalf the next permit is asked for.
func (st *site) asker() (a Asker) {
	for p := len(st.classes) - 1; p >= 0; p-- {
		c := &st.classes[p]
		if len(c.active) > 0 && a.Flows == 0 {
			key := c.active[min(c.turn, len(c.active)-1)].key
			a.Priority, a.Flow = mail.Priority(p), key.tenant+"\x00"+key.stream
		}
		a.Flows += len(c.active)
	}
	return a
}

// class is the deficit round robin over (tenant, stream) of one priority:
// bulk of one stream cannot keep another waiting.
type class struct {
	flows  map[flowKey]*flow
	active []*flow
	turn   int
}

type flowKey struct{ tenant, stream string }

// flow is one (tenant, stream) at a site; its scheduled queues (one a domain) take turns.
type flow struct {
	key     flowKey
	deficit int
	queues  []*sched
	turn    int
}

const quantum = 1 // messages a flow may send a turn

// attach makes s compete for the site's sessions. It has something in its fifo.
func (st *site) attach(s *sched) {
	c := &st.classes[s.priority]
	key := flowKey{s.tenant, s.stream}
	f := c.flows[key]
	if f == nil {
		if c.flows == nil {
			c.flows = map[flowKey]*flow{}
		}
		f = &flow{key: key}
		c.flows[key] = f
		c.active = append(c.active, f)
	}
	f.queues = append(f.queues, s)
	s.site, s.flow = st, f
	st.ready += s.fifo.len()
}

// detach takes s out of the competition.
func (st *site) detach(s *sched) {
	f := s.flow
	c := &st.classes[s.priority]
	for i, other := range f.queues {
		if other == s {
			f.queues = append(f.queues[:i], f.queues[i+1:]...)
			if f.turn > i {
				f.turn--
			}
			break
		}
	}
	if len(f.queues) == 0 {
		delete(c.flows, f.key)
		for i, other := range c.active {
			if other == f {
				c.active = append(c.active[:i], c.active[i+1:]...)
				if c.turn > i {
					c.turn--
				}
				break
			}
		}
	}
	st.ready -= s.fifo.len()
	s.site, s.flow = nil, nil
}

// pick chooses the next scheduled queue to serve: the highest priority, and
// within it the flow whose turn it is.
func (st *site) pick() *sched {
	for p := len(st.classes) - 1; p >= 0; p-- {
		if s := st.classes[p].pick(); s != nil {
			return s
		}
	}
	return nil
}

func (c *class) pick() *sched {
	for len(c.active) > 0 {
		if c.turn >= len(c.active) {
			c.turn = 0
		}
		f := c.active[c.turn]
		if f.deficit <= 0 {
			f.deficit += quantum
			if f.deficit <= 0 {
				c.turn++
				continue
			}
		}
		if f.turn >= len(f.queues) {
			f.turn = 0
		}
		s := f.queues[f.turn]
		f.turn++
		return s
	}
	return nil
}

// served charges a flow for n messages and passes the turn on when its share is used up.
func (c *class) served(f *flow, n int) {
	f.deficit -= n
	if f.deficit <= 0 {
		c.turn++
	}
}

// group pops the next messages that may go in one transaction from s.
func (st *site) group(s *sched, most int) []*item {
	first := s.fifo.pop()
	items := []*item{first}
	for s.fifo.len() > 0 && len(items) < most && mail.SameCopy(first.msg, s.fifo.at(0).msg) {
		items = append(items, s.fifo.pop())
	}
	st.ready -= len(items)
	st.classes[s.priority].served(s.flow, len(items))
	return items
}

// takeAll empties the fifos of all scheduled queues of the site.
func (st *site) takeAll() []*item {
	var items []*item
	for p := range st.classes {
		for len(st.classes[p].active) > 0 {
			s := st.classes[p].active[0].queues[0]
			st.detachWith(s, &items)
		}
	}
	return items
}

func (st *site) detachWith(s *sched, items *[]*item) {
	st.detach(s)
	*items = append(*items, s.fifo.take()...)
}
