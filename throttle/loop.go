package throttle

import (
	"fmt"
	"time"
)

// leastFactor keeps the closed loop from stopping a key altogether.
const leastFactor = 0.01

// staleWindows is after how many windows without a sample older ones say nothing any more.
const staleWindows = 4

// loop is the closed loop's state of a key.
type loop struct {
	factor              float64
	seq                 uint64
	since, last         time.Duration // of the samples
	delivered, deferred int
}

// on reports whether the closed loop can do anything.
func (l Loop) on() bool {
	return l.High > 0 && l.Window > 0 && l.Decrease > 0 && l.Decrease < 1
}

// factor is the share of the full message rate that the closed loop leaves.
func (k *key) factor() float64 {
	if k.loop == nil {
		return 1
	}
	return k.loop.factor
}

// Observe tells what became of messages under a key. When a window is over
// and saw enough, the rate falls or rises as Loop says.
func (a *Authority) Observe(name string, id Key, s Sample, now time.Duration) {
	k := a.keys[id]
	if k == nil || !k.limits.Loop.on() || k.limits.MessageRate.IsZero() || s.Delivered < 0 || s.Deferred < 0 {
		return
	}
	k.seen = now
	if m := k.member(a.clients[name]); m != nil {
		m.said = now
	}
	if k.loop == nil {
		k.loop = &loop{factor: 1, since: now, last: now}
	}
	l, o := k.loop, k.limits.Loop
	if now-l.last > staleWindows*o.Window { // what was long ago says nothing of now
		l.restart(now)
	}
	l.last = now
	l.delivered += s.Delivered
	l.deferred += s.Deferred
	n := l.delivered + l.deferred
	if n == 0 || n < o.Least || now-l.since < o.Window {
		return
	}
	share := float64(l.deferred) / float64(n)
	l.restart(now)
	factor := l.factor
	switch {
	case share > o.High:
		factor = max(factor*o.Decrease, o.Floor, leastFactor)
	case share < o.Low:
		factor += max(o.Increase, 0)
		if factor > 1-1e-6 { // a sum of tenths is not quite one
			factor = 1
		}
	}
	a.setFactor(k, factor, fmt.Sprintf("%.3g%% of %d messages deferred", share*100, n), now)
}

func (l *loop) restart(now time.Duration) {
	l.since, l.last, l.delivered, l.deferred = now, now, 0, 0
}

// setFactor puts another factor in force and tells all that have to do with the key.
func (a *Authority) setFactor(k *key, factor float64, reason string, now time.Duration) {
	if factor == k.loop.factor {
		return
	}
	k.loop.factor = factor
	k.loop.seq++
	a.repace(k, now)
	for _, m := range k.members {
		if m.client.joined {
			a.tell(k, m, reason)
		}
	}
	a.wake(k, now)
}

// tell tells a member of the factor in force. A reason is given with a change only:
// a client that comes to a slowed key hears of it with none.
func (a *Authority) tell(k *key, m *member, reason string) {
	a.out = append(a.out, Out{Client: m.client.name, Change: &Change{Key: k.id, Factor: k.loop.factor, Reason: reason, Seq: k.loop.seq}})
}

// adjustLoop fits the factor to new limits, before their pace is set.
func (a *Authority) adjustLoop(k *key, now time.Duration) {
	if k.loop == nil {
		return
	}
	o := k.limits.Loop
	switch {
	case !o.on():
		a.setFactor(k, 1, "the closed loop was switched off", now)
	case k.loop.factor < o.Floor:
		a.setFactor(k, min(o.Floor, 1), "the least rate was raised", now)
	}
}
