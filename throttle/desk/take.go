package desk

import (
	"math"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// tap is the bank of a limiter whose permits are taken by Take.
type tap struct {
	waiting []func()
	ahead   int // permits to have in the bank beyond what is waited for
	last    time.Time
	timer   *time.Timer
}

// tapIdle is how long after the last Take permits are still wanted ahead.
const tapIdle = 100 * time.Millisecond

// Take takes permits for n messages from the bank of a limit that is not tied to a
// connection, such as a tenant's. A permit in the bank is good for BankFresh. One is enough
// for n messages: the others are charged, and later ones wait longer. If there is none, Take is
// false and calls ready, once, when there is one. ready must not block; whoever heard it should
// call Take again, or another waits for nothing until the permit lapses.
func (d *Desk) Take(b throttle.Bound, n int, ready func()) bool {
	if b.Limits.MessageRate.IsZero() && b.Limits.Daily == 0 || n <= 0 {
		return true
	}
	d.mu.Lock()
	defer d.unlock()
	if d.closed {
		return false
	}
	now := time.Now()
	lim := d.limiter(&b)
	l := &lim.lanes[throttle.Send-1]
	if l.tap == nil {
		l.tap = &tap{}
	}
	d.lapse(l, now)
	k := min(n, len(l.bank))
	if k == 0 {
		if now.Sub(l.tap.last) < tapIdle {
			l.tap.faster(lim.limits)
		}
		l.tap.waiting = append(l.tap.waiting, ready)
		d.settle(l, now)
		return false
	}
	if from := l.bank[k-1].from; k < n {
		key, link, rest := lim.key, from.link, n-k
		d.post(func() { link.Charge(key, rest) })
	}
	l.bank = append(l.bank[:0], l.bank[k:]...)
	l.tap.last = now
	d.settle(l, now)
	d.watchTap(l)
	return true
}

// faster: the bank was empty though there was demand, so the permits come too late.
func (t *tap) faster(l throttle.Limits) {
	most := 64
	if !l.MessageRate.IsZero() {
		most = int(min(math.Ceil(l.MessageRate.PerSecond()*tapIdle.Seconds()), 1000))
	}
	t.ahead = min(2*t.ahead+1, most)
}

// slower: permits lapsed.
func (t *tap) slower() { t.ahead /= 2 }

// want is how many permits should come.
func (t *tap) want(banked int, now time.Time) int {
	n := len(t.waiting)
	if n > 0 || now.Sub(t.last) < tapIdle {
		n += t.ahead
	}
	return max(n-banked, 0)
}

// live reports whether the limiter must be kept.
func (t *tap) live(now time.Time) bool { return len(t.waiting) > 0 || now.Sub(t.last) < tapIdle }

// pour calls those that wait, one for each permit in the bank.
func (d *Desk) pour(l *lane) {
	n := min(len(l.tap.waiting), len(l.bank))
	for _, ready := range l.tap.waiting[:n] {
		d.post(ready)
	}
	l.tap.waiting = append(l.tap.waiting[:0], l.tap.waiting[n:]...)
	d.watchTap(l)
}

// watchTap looks after permits that nobody takes.
func (d *Desk) watchTap(l *lane) {
	if l.tap.timer != nil {
		return
	}
	l.tap.timer = time.AfterFunc(d.o.BankFresh+time.Millisecond, func() {
		d.mu.Lock()
		defer d.unlock()
		now := time.Now()
		l.tap.timer = nil
		d.settle(l, now)
		if len(l.bank) > 0 || now.Sub(l.tap.last) < tapIdle {
			d.watchTap(l)
			return
		}
		d.release(l.lim, now)
	})
}
