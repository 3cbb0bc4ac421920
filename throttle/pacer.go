package throttle

import (
	"math"
	"time"
)

// longAgo is before every instant, far enough from the least number to add to.
const longAgo = time.Duration(math.MinInt64 / 4)

// farthest bounds how far ahead a pacer can be pushed (three years), so that nothing overflows.
const farthest = 1e17

// pacer spaces permits by the generic cell rate algorithm: next is the theoretical
// arrival time. What differs from the textbook is that it has no burst at all:
// a permit is for one instant, and instants older than catchUp are lost.
type pacer struct {
	interval time.Duration // between instants; 0: no limit
	next     time.Duration // instant of the next permit
	last     time.Duration // instant of the latest one; longAgo at first
}

func newPacer(now time.Duration) pacer { return pacer{next: now, last: longAgo} }

// intervalOf is the time between permits at perSecond; 0 for no limit.
// It rounds up: a rate is never exceeded by rounding.
func intervalOf(perSecond float64) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	return time.Duration(math.Ceil(min(float64(time.Second)/perSecond, farthest)))
}

// set changes the interval at now. What is owed until the next permit, counted in permits, stays what it
// was: so between any two lies one whole permit of the rates that were in force, however often they change.
// The same goes for instants that passed and may still be granted, but they never move back.
func (p *pacer) set(interval, now, catchUp time.Duration) {
	old := p.interval
	switch {
	case interval == old:
		return
	case interval == 0:
	case old == 0: // what went without a limit counts as one
		p.next = max(now, p.last+interval)
	default:
		owed := float64(max(p.next, now-catchUp)-now) / float64(old)
		next := now + time.Duration(math.Ceil(min(owed*float64(interval), farthest)))
		p.next = max(next, min(p.next, now))
	}
	p.interval = interval
}

// slot is the instant of a permit that may be granted now; ok is false when none may.
func (p *pacer) slot(now, catchUp time.Duration) (at time.Duration, ok bool) {
	switch {
	case p.interval == 0:
		return now, true
	case p.next > now:
		return 0, false
	case now-p.next > catchUp:
		p.next = now
	}
	return p.next, true
}

// take uses up the slot at.
func (p *pacer) take(at time.Duration) {
	p.last = at
	if p.interval > 0 {
		p.next = at + p.interval
	}
}

// charge pushes the next instant by n permits.
func (p *pacer) charge(n int, now, catchUp time.Duration) {
	if p.interval == 0 {
		return
	}
	push := min(float64(n)*float64(p.interval), farthest)
	p.next = min(max(p.next, now-catchUp)+time.Duration(push), now+time.Duration(farthest))
}

// resume starts demand after a time without any: an instant that passed a while ago would reach
// the client half lapsed, and nobody lost it, so the next one is now.
func (p *pacer) resume(now, catchUp time.Duration) {
	if now-p.next > catchUp/3 {
		p.next = now
	}
}
