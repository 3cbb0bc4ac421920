package desk

import (
	"slices"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// pursuit collects one permit of a kind from each of several limiters. It waits in
// one fair queue at a time. What it already has may lapse meanwhile: then it goes on
// waiting where it stands, asks for the lapsed one afterwards, and keeps that order,
// so two paced limits fall into step. Its fields are under the desk's lock.
//
// Before it takes a permit it looks whether the others can come soon. If not, the next one in the
// queue gets the permit, and the pursuit stays away from the queues until then (parked).
//
//	waiting --all there--> got        --Use too late--> waiting
//	   |----authority lost--> failed
//	   |----cancelled-------> cancelled
type pursuit struct {
	d     *Desk
	kind  throttle.Kind
	state pursuitState
	err   error
	done  func(*pursuit) // called under the lock, when got or failed
	steps []step         // in the order of asking
	at    int            // the step that it waits at; -1
	moved bool           // the order was changed by a lapse
	fails int            // lapses since then
	park  *lane          // whose next permit it stays away for
	w     waiter
	timer *time.Timer
}

type step struct {
	l    *lane
	p    permit
	have bool
	had  bool // and lost: it returns to the head of the queue
}

type pursuitState uint8

const (
	waiting pursuitState = iota
	got
	failed
	cancelled
)

// swapAfter is how many lapses in a row change the order again.
const swapAfter = 3

func (d *Desk) newPursuit(kind throttle.Kind, who Asker, lims []*limiter, done func(*pursuit)) *pursuit {
	p := &pursuit{d: d, kind: kind, done: done, at: -1, steps: make([]step, len(lims))}
	p.w = waiter{who: who, owner: p}
	for i, lim := range lims {
		p.steps[i].l = &lim.lanes[kind-1]
		p.steps[i].l.needed++
		lim.uses++
	}
	return p
}

// start begins to collect.
func (p *pursuit) start(now time.Time) {
	p.state = waiting
	p.w.since = now
	for i := range p.steps {
		if err := p.d.unreachable(p.steps[i].l); err != nil {
			p.fail(err, now)
			return
		}
	}
	p.advance(now)
}

// parks is called when it was taken out of a queue and could have a permit. It
// stays away if that would lapse before another one that is missing can come.
func (p *pursuit) parks(now time.Time) bool {
	here := &p.steps[p.at]
	for i := range p.steps {
		l := p.steps[i].l
		if i == p.at || p.steps[i].have || l.readyAt(0).Sub(now) <= p.d.fresh(here.l)*3/4 {
			continue
		}
		here.had = true
		p.at, p.park = -1, l
		p.alarm(l.readyAt(l.parked).Sub(now))
		l.parked++
		return true
	}
	return false
}

func (p *pursuit) unpark() {
	if p.park != nil {
		p.park.parked--
		p.park = nil
	}
}

func (p *pursuit) alarm(after time.Duration) {
	if p.timer == nil {
		p.timer = time.AfterFunc(after, p.lapsed)
		return
	}
	p.timer.Reset(after)
}

// advance asks for the next permit that is missing.
func (p *pursuit) advance(now time.Time) {
	for p.state == waiting && p.at < 0 && p.park == nil {
		p.drop(now)
		i := p.missing()
		if i < 0 {
			p.stop()
			p.state = got
			p.done(p)
			return
		}
		s := &p.steps[i]
		if err := p.d.unreachable(s.l); err != nil {
			p.fail(err, now)
			return
		}
		if p.d.lapse(s.l, now); s.l.n == 0 && len(s.l.bank) > 0 && s.l.tap == nil {
			s.p, s.have = s.l.bank[0], true
			s.l.bank = slices.Delete(s.l.bank, 0, 1)
			continue
		}
		p.at = i
		p.w.since = now
		s.l.push(&p.w, s.had || p.count() > 0)
		p.d.settle(s.l, now)
		p.watch(now)
	}
}

func (p *pursuit) missing() int {
	for i := range p.steps {
		if !p.steps[i].have {
			return i
		}
	}
	return -1
}

// take gets a permit of the lane it waits at.
func (p *pursuit) take(have permit, now time.Time) {
	s := &p.steps[p.at]
	s.p, s.have, p.at = have, true, -1
	p.advance(now)
}

// drop gives up what has lapsed.
func (p *pursuit) drop(now time.Time) {
	for i := range p.steps {
		if s := &p.steps[i]; s.have && now.Sub(s.p.born) > p.d.fresh(s.l) {
			p.giveBack(s)
			s.had = true
		}
	}
}

func (p *pursuit) giveBack(s *step) {
	s.have = false
	if p.kind == throttle.Connect {
		p.d.end(s.p.hold, true)
		return
	}
	p.d.unused(s.l.lim, s.p.from, 1)
}

// watch sets the timer for the first lapse of what it has while it waits.
func (p *pursuit) watch(now time.Time) {
	first := time.Duration(-1)
	for i := range p.steps {
		s := &p.steps[i]
		if !s.have {
			continue
		}
		if left := p.d.fresh(s.l) - now.Sub(s.p.born); first < 0 || left < first {
			first = left
		}
	}
	if first < 0 {
		p.stop()
		return
	}
	p.alarm(first + time.Microsecond)
}

func (p *pursuit) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// lapsed is called by the timer.
func (p *pursuit) lapsed() {
	p.d.mu.Lock()
	defer p.d.unlock()
	now := time.Now()
	if p.state == waiting && p.park != nil {
		p.unpark()
		p.advance(now)
		return
	}
	if p.state != waiting || p.at < 0 {
		return
	}
	before := p.count()
	p.drop(now)
	if p.count() == before {
		p.watch(now)
		return
	}
	if !p.moved {
		// Here is where it takes long: ask here first from now on.
		p.moved = true
		p.front(p.at)
		p.at = 0
		p.watch(now)
		return
	}
	// The slow one was had, and lapsed while a quick one did not come. To wait on would let
	// that one lapse in turn, for ever if both are paced alike.
	p.leave(now)
	p.fails++
	if i := p.missing(); p.fails%swapAfter == 0 && i >= 0 {
		p.front(len(p.steps) - 1)
	}
	p.advance(now)
}

func (p *pursuit) count() int {
	n := 0
	for i := range p.steps {
		if p.steps[i].have {
			n++
		}
	}
	return n
}

// front moves a step to the front.
func (p *pursuit) front(i int) {
	s := p.steps[i]
	copy(p.steps[1:i+1], p.steps[:i])
	p.steps[0] = s
}

// leave leaves the queue it waits in.
func (p *pursuit) leave(now time.Time) {
	if p.at < 0 {
		return
	}
	s := &p.steps[p.at]
	p.at = -1
	s.l.remove(&p.w)
	p.d.settle(s.l, now)
}

// cancel gives all up. It does nothing but when waiting or got.
func (p *pursuit) cancel(now time.Time) {
	if p.state != waiting && p.state != got {
		return
	}
	p.quit(cancelled, now)
}

func (p *pursuit) fail(err error, now time.Time) {
	if p.state != waiting {
		return
	}
	p.err = err
	p.quit(failed, now)
	p.done(p)
}

func (p *pursuit) quit(state pursuitState, now time.Time) {
	p.stop()
	p.unpark()
	p.leave(now)
	for i := range p.steps {
		if s := &p.steps[i]; s.have {
			p.giveBack(s)
		}
	}
	p.state = state
}

// free lets go of the limiters.
func (p *pursuit) free(now time.Time) {
	for i := range p.steps {
		lim := p.steps[i].l.lim
		p.steps[i].l.needed--
		lim.uses--
		p.d.release(lim, now)
	}
	p.steps = nil
}
