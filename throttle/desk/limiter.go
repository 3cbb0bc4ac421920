package desk

import (
	"math"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// limiter is one key as this node knows it. It exists while something uses it.
type limiter struct {
	key    throttle.Key
	proxy  string
	limits throttle.Limits
	order  []string // nodes, by who should own it; nil with a proxy

	at      *Port // who is told what is wanted; nil: nobody
	mode    Mode
	refused time.Time // until then the node that should be the owner is believed that it is not
	interim *Port     // a node that acts as the owner in place of one that is out of our reach
	probed  time.Time // when last such a node was asked

	lanes  [2]lane // by Kind-1
	held   []*hold
	kept   int // connections that the owner still counts for us while we are cut off
	uses   int // requests, leases and passes that point here
	factor float64
	pace   float64 // of all authorities
	sample throttle.Sample
	late   *time.Timer // ends the memory of a long wait
}

// permit is what a waiter gets.
type permit struct {
	born time.Time
	hold *hold // of Connect
	from *Port // of Send
}

// lane is what waits for one kind of permit of a key.
type lane struct {
	lim  *limiter
	kind throttle.Kind
	fairQueue
	told   throttle.Want // what the authority still owes us, as far as we know
	bank   []permit      // of Send, that nobody waits for, oldest first
	hint   throttle.Hint
	hintAt time.Time
	wait   time.Duration // mean of the latest waits
	last   time.Time     // instant of the latest permit
	needed int           // pursuits that still need a permit of the lane, wherever they wait
	parked int           // of them, those that stay away until it may have one
	tap    *tap          // of Take
}

// interval is the time between two messages at the full rate; 0: not known.
func (l *lane) interval() time.Duration {
	r := l.lim.limits.MessageRate
	if l.kind != throttle.Send || r.IsZero() {
		return 0
	}
	return time.Duration(float64(time.Second) / (r.PerSecond() * l.lim.factor * l.lim.pace))
}

// readyAt is when somebody who comes to the head now gets a permit at the earliest, if nobody
// but this node asks, and n others are to have one before. The zero Time is now.
func (l *lane) readyAt(n int) time.Time {
	if l.last.IsZero() || len(l.bank) > 0 {
		return time.Time{}
	}
	for i := range l.levels {
		n += l.levels[i].heads
	}
	return l.last.Add(time.Duration(1+n) * l.interval())
}

// backlog is how long the lane needs for all that is wanted of it.
func (l *lane) backlog() time.Duration { return max(time.Duration(l.needed)*l.interval(), l.wait) }

// limiter finds or makes the limiter of a bound. The latest limits count.
func (d *Desk) limiter(b *throttle.Bound) *limiter {
	lim := d.limiters[b.Key]
	if lim == nil {
		lim = &limiter{key: b.Key, proxy: b.Proxy, limits: b.Limits, factor: 1, pace: d.o.Throttle.Pace}
		for i := range lim.lanes {
			lim.lanes[i] = lane{lim: lim, kind: throttle.Kind(i + 1)}
		}
		if b.Proxy == "" {
			lim.order = rank(d.o.Nodes, b.Key)
		}
		d.limiters[b.Key] = lim
		d.place(lim, time.Now())
		return lim
	}
	if lim.proxy != b.Proxy {
		lim.proxy, lim.order = b.Proxy, nil
		if b.Proxy == "" {
			lim.order = rank(d.o.Nodes, b.Key)
		}
		d.place(lim, time.Now())
	}
	if lim.limits != b.Limits {
		lim.limits = b.Limits
		lim.lanes[throttle.Send-1].hint = throttle.Hint{}
		d.trim(lim)
		for i := range lim.lanes {
			d.settle(&lim.lanes[i], time.Now())
		}
	}
	return lim
}

// release forgets a limiter that nothing uses.
func (d *Desk) release(lim *limiter, now time.Time) {
	if lim.uses > 0 || len(lim.held) > 0 || d.limiters[lim.key] != lim {
		return
	}
	send := &lim.lanes[throttle.Send-1]
	if send.tap != nil && (send.tap.live(now) || len(send.bank) > 0) {
		return
	}
	d.giveUp(send, len(send.bank))
	if after, _ := send.expect(now); after > 0 && send.hint.After >= d.o.Patience && !d.closed {
		d.remember(lim, after)
		return
	}
	for i := range lim.lanes {
		d.settle(&lim.lanes[i], now)
	}
	if _, ok := d.dirty[lim]; ok {
		d.tellSample(lim)
	}
	if lim.at != nil {
		delete(lim.at.lims, lim)
	}
	delete(d.limiters, lim.key)
}

// remember keeps an unused limiter that is known to grant nothing for long, so
// that After can tell: to find out again would cost a connection.
func (d *Desk) remember(lim *limiter, long time.Duration) {
	if lim.late != nil {
		return
	}
	lim.late = time.AfterFunc(min(long, maxRemember), func() {
		d.mu.Lock()
		defer d.unlock()
		lim.late = nil
		lim.lanes[throttle.Send-1].hint = throttle.Hint{}
		d.release(lim, time.Now())
	})
}

// maxRemember bounds it: what the authority said may be wrong by then.
const maxRemember = 15 * time.Minute

// settle brings what the authority was told in line with what is wanted.
func (d *Desk) settle(l *lane, now time.Time) {
	d.lapse(l, now)
	port := l.lim.at
	if port == nil || !port.up {
		l.told = throttle.Want{}
		return
	}
	w := d.want(l, now)
	if !worthTelling(&l.told, &w) {
		return
	}
	l.told = w
	d.post(func() { port.link.Want(w) })
}

// want is what could be used at once.
func (d *Desk) want(l *lane, now time.Time) throttle.Want {
	w := throttle.Want{Key: l.lim.key, Kind: l.kind, Limits: l.lim.limits, N: l.n, Flows: l.weight, Priority: l.top()}
	if l.tap != nil {
		n := l.tap.want(len(l.bank), now)
		w.N, w.Flows = w.N+n, w.Flows+min(n, len(l.tap.waiting))
	}
	if l.kind == throttle.Connect && l.lim.mode == Share {
		w.Limits.Connections, w.N = d.shareable(l.lim, w.N)
	}
	w.N = min(w.N, atOnce(l))
	if w.N == 0 {
		w.Priority, w.Flows = 0, 0
	}
	return w
}

// shareable is the limit of connections to tell the authority for our share, and how many of the n
// wanted may be. Of our share only what the owner counts as ours is surely free: see DESIGN.md.
func (d *Desk) shareable(lim *limiter, n int) (limit, wanted int) {
	if lim.limits.Connections == 0 {
		return 0, n
	}
	if lim.kept == 0 {
		return lim.limits.Connections, 0
	}
	return min(lim.limits.Connections, lim.kept*len(d.o.Nodes)), n
}

// atOnce bounds a want: more than the authority can grant while a renewed want
// is under way to it need not be told.
func atOnce(l *lane) int {
	const least, most = 16, 4096
	r := l.lim.limits.MessageRate
	if l.kind == throttle.Connect {
		r = l.lim.limits.ConnectRate
	}
	if r.IsZero() {
		return most
	}
	return int(min(max(math.Ceil(r.PerSecond()/2), least), most))
}

// worthTelling reports whether the authority should hear that told has become w. Of
// a growing number it hears when what it knows of is half used up: it cannot grant it
// all at a time anyway, and each waiter would be a call.
func worthTelling(told, w *throttle.Want) bool {
	switch {
	case w.N == 0:
		return told.N > 0
	case told.N > w.N, told.N <= w.N/2:
		return true
	}
	return told.Limits != w.Limits || told.Priority != w.Priority || w.Flows > 2*told.Flows || 2*w.Flows < told.Flows
}

// fresh is how long after its instant a permit of the lane is worth something.
func (d *Desk) fresh(l *lane) time.Duration {
	switch {
	case l.kind == throttle.Connect:
		return d.o.ConnectFresh
	case l.tap != nil:
		return d.o.BankFresh
	}
	return max(d.o.Fresh, slack(l.lim.limits.MessageRate.PerSecond()))
}

// slack is how late a permit of a slow limit may be used: half an interval, if that
// leaves ten seconds with less than 1.02 times what is allowed in them. A second then holds at most one
// message more than the rate.
func slack(rate float64) time.Duration {
	if rate == 0 {
		return 0
	}
	s := min(0.5/rate, (10.2*rate-1)/(0.98*rate)-10)
	return time.Duration(max(s, 0) * float64(time.Second))
}

// lapse gives up what is stale in the bank.
func (d *Desk) lapse(l *lane, now time.Time) {
	n := 0
	for n < len(l.bank) && now.Sub(l.bank[n].born) > d.fresh(l) {
		n++
	}
	if n > 0 && l.tap != nil {
		l.tap.slower()
	}
	d.giveUp(l, n)
}

// giveUp tells that the oldest n permits of the bank will not be used.
func (d *Desk) giveUp(l *lane, n int) {
	for _, p := range l.bank[:n] {
		d.unused(l.lim, p.from, 1)
	}
	l.bank = slices.Delete(l.bank, 0, n)
}

// unused tells that n messages were not sent.
func (d *Desk) unused(lim *limiter, from *Port, n int) {
	if from == nil || !from.up {
		return
	}
	key, link := lim.key, from.link
	d.post(func() { link.Unused(key, throttle.Send, n) })
}

// granted deals with permits that an authority pushed.
func (d *Desk) granted(from *Port, g throttle.Grant, born time.Time) {
	now := time.Now()
	if born.After(now) {
		born = now
	}
	lim := d.limiters[g.Key]
	if lim != nil && lim.at != from {
		d.answered(lim, from, now)
	}
	if lim == nil || lim.at != from || g.Kind != throttle.Connect && g.Kind != throttle.Send {
		d.refuse(from, g)
		return
	}
	l := &lim.lanes[g.Kind-1]
	l.told.N = max(l.told.N-g.N, 0)
	stale := now.Sub(born) > d.fresh(l)
	if stale {
		d.refuse(from, g)
	}
	l.last = born
	for i := 0; i < g.N && !stale; i++ {
		p := permit{born: born, from: from}
		w := l.pop()
		for w != nil && w.owner.parks(now) {
			w = l.pop()
		}
		switch {
		case w != nil:
			if g.Kind == throttle.Connect {
				p.hold = lim.hold(g.Lease+uint64(i), born)
			}
			l.wait += (now.Sub(w.since) - l.wait) / 8
			w.owner.take(p, now)
		case g.Kind == throttle.Connect:
			d.handBack(from, g.Key, g.Lease+uint64(i))
		default:
			l.bank = append(l.bank, p)
		}
	}
	if l.tap != nil {
		d.pour(l)
	}
	d.settle(l, now)
	d.release(lim, now)
}

// refuse gives back permits that are not wanted any more.
func (d *Desk) refuse(from *Port, g throttle.Grant) {
	if g.Kind == throttle.Send {
		key, link := g.Key, from.link
		d.post(func() { link.Unused(key, throttle.Send, g.N) })
		return
	}
	for i := range g.N {
		d.handBack(from, g.Key, g.Lease+uint64(i))
	}
}
