package egress

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
)

// admissions are the permits of limits that tenants have of their own. Unlike
// those of sources they are waited for without a connection: a flow that waits stands in one line
// at a time, and is called when it has what it needs. It must then send within a few seconds; if it had to
// connect first and was late, it goes to the head of the line.
type admissions struct {
	take func(throttle.Bound, func()) bool // one permit, or be called when there is one
	post func(func())                      // calls without a lock

	mu    sync.Mutex
	flows map[queue.Flow]*admission // that wait, or were called
	taps  map[throttle.Key]*tap
	calls []call // oldest first
	held  map[queue.Flow]func()
}

// admission is one flow that wants to send one message.
type admission struct {
	flow   queue.Flow
	needs  []throttle.Bound // the slowest first: what is had early may lapse while the others are waited for
	have   []time.Time      // when the permit of each was taken; zero: it is missing
	late   bool             // one lapsed: it goes to the head of lines
	line   *tap             // where it stands; nil: nowhere
	place  *list.Element
	ready  func()
	called time.Time // when it last had all
}

// call is that of a flow which has all it needs.
type call struct {
	a  *admission
	at time.Time
}

// tap is one limit with those that wait for it.
type tap struct {
	bound throttle.Bound
	line  list.List // of *admission
	asked int       // calls that the desk owes us
}

const (
	mostAsked   = 32               // of one limit: more than can be used at a time need not be wanted
	callKept    = 10 * time.Second // how long a late flow keeps its claim to the head of the line
	leastGood   = 2 * time.Second  // for which a permit is good: a connection may have to be made
	mostGood    = 15 * time.Second
	manyPermits = 1000 // a second: more cannot be told apart
)

func newAdmissions(take func(throttle.Bound, func()) bool, post func(func())) admissions {
	return admissions{take: take, post: post, flows: map[queue.Flow]*admission{}, taps: map[throttle.Key]*tap{}, held: map[queue.Flow]func(){}}
}

// good is how long a permit may be used: half an interval of a slow limit, which then sends no two at once.
func good(b *throttle.Bound) time.Duration {
	r := b.Limits.MessageRate.PerSecond()
	if r <= 0 || r > manyPermits {
		return leastGood
	}
	return min(max(leastGood, time.Duration(float64(time.Second)/r/2)), mostGood)
}

// limitsOf keeps the bounds that limit messages, the slowest first.
func limitsOf(bounds []throttle.Bound) []throttle.Bound {
	bounds = slices.DeleteFunc(slices.Clone(bounds), func(b throttle.Bound) bool {
		return b.Limits.MessageRate.IsZero() && b.Limits.Daily == 0
	})
	slices.SortStableFunc(bounds, func(a, b throttle.Bound) int {
		x, y := a.Limits.MessageRate, b.Limits.MessageRate
		switch {
		case x.IsZero() != y.IsZero():
			if x.IsZero() {
				return 1
			}
			return -1
		case x.Less(y):
			return -1
		case y.Less(x):
			return 1
		}
		return 0
	})
	return bounds
}

// admit takes what a flow needs for one message. If something is missing it is
// false, and ready is called once it is there.
func (s *admissions) admit(f queue.Flow, needs []throttle.Bound, ready func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.flows[f]
	switch {
	case a == nil:
		a = &admission{flow: f, needs: needs, have: make([]time.Time, len(needs))}
	case a.line != nil: // another ready queue of the site waits for it; both set aside the same flow
		return false
	}
	a.ready = ready
	if s.advance(a, time.Now()) {
		delete(s.flows, f)
		return true
	}
	s.flows[f] = a
	return false
}

// advance takes the permits that are missing, in order. It is false when one is not to
// be had now: then a stands in line for it.
func (s *admissions) advance(a *admission, now time.Time) bool {
	for i := range a.needs {
		if !a.have[i].IsZero() && now.Sub(a.have[i]) > good(&a.needs[i]) {
			a.have[i], a.late = time.Time{}, true
		}
	}
	for i := range a.needs {
		if !a.have[i].IsZero() {
			continue
		}
		t := s.tap(&a.needs[i])
		if t.line.Len() == 0 && s.draw(t) {
			a.have[i] = now
			continue
		}
		a.line = t
		if a.late || i > 0 {
			a.place = t.line.PushFront(a)
		} else {
			a.place = t.line.PushBack(a)
		}
		s.serve(t, now)
		return false
	}
	return true
}

func (s *admissions) tap(b *throttle.Bound) *tap {
	t := s.taps[b.Key]
	if t == nil {
		t = &tap{}
		s.taps[b.Key] = t
	}
	t.bound = *b
	return t
}

// draw takes one permit, or sees to it that we are called when there is one.
func (s *admissions) draw(t *tap) bool {
	if t.asked >= mostAsked {
		return false
	}
	if s.take(t.bound, func() { s.post(func() { s.flowed(t) }) }) {
		return true
	}
	t.asked++
	return false
}

// flowed is called when there is a permit.
func (s *admissions) flowed(t *tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.asked--
	s.serve(t, time.Now())
}

// serve gives the line what there is, and has as much asked for as it can use at a time.
func (s *admissions) serve(t *tap, now time.Time) {
	for t.asked < min(t.line.Len(), mostAsked) {
		if !s.draw(t) {
			continue // one more call is owed
		}
		a := t.line.Remove(t.line.Front()).(*admission)
		a.line, a.place = nil, nil
		a.have[slices.IndexFunc(a.needs, func(b throttle.Bound) bool { return b.Key == t.bound.Key })] = now
		if s.advance(a, now) {
			a.called = now
			s.calls = append(s.calls, call{a, now})
			s.post(a.ready)
		}
	}
	if t.line.Len() == 0 && t.asked == 0 && s.taps[t.bound.Key] == t {
		delete(s.taps, t.bound.Key)
	}
}

// sweep forgets flows that were called and did not come: they have nothing to send any more.
func (s *admissions) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.calls) > 0 && now.Sub(s.calls[0].at) > mostGood+callKept {
		a := s.calls[0].a
		if s.flows[a.flow] == a && a.line == nil && a.called.Equal(s.calls[0].at) {
			delete(s.flows, a.flow)
		}
		s.calls[0] = call{}
		if s.calls = s.calls[1:]; len(s.calls) == 0 {
			s.calls = nil
		}
	}
}

// hold remembers a flow that waits for the end of an order.
func (s *admissions) hold(f queue.Flow, ready func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.held[f]; other != nil { // of another ready queue of the site
		mine := ready
		ready = func() { other(); mine() }
	}
	s.held[f] = ready
}

// release calls those that an order held: they ask again.
func (s *admissions) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ready := range s.held {
		s.post(ready)
	}
	clear(s.held)
}

// restart calls all that wait in a line: their limits may be others now.
func (s *admissions) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, a := range s.flows {
		if a.line != nil {
			a.line.line.Remove(a.place)
			a.line, a.place = nil, nil
			s.post(a.ready)
		}
		delete(s.flows, f)
	}
}
