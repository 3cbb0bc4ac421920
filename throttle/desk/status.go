package desk

import (
	"maps"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// KeyStatus is the state of one key on this node.
type KeyStatus struct {
	Key       throttle.Key
	Limits    throttle.Limits
	Authority string // who grants; "" nobody
	Mode      Mode
	Why       string  // why nobody grants, or less than could be
	Factor    float64 // share of the full message rate, by the closed loop
	Leases    int     // held by this node
	Opened    int     // of them: connections
	Contended bool    // others wait for connections
	Connect   WaitStatus
	Send      WaitStatus
}

// WaitStatus is the state of one kind of permits of a key.
type WaitStatus struct {
	Waiting int
	Wanted  int           // of them: told to the authority, not granted
	Banked  int           // permits that nobody waited for
	Recent  time.Duration // mean of the latest waits
	After   time.Duration // the next at the earliest, from now; 0: not known
	Reason  string        // by the authority
}

// Status is the state of all keys in use, in order.
func (d *Desk) Status() []KeyStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	all := make([]KeyStatus, 0, len(d.limiters))
	for _, lim := range slices.SortedFunc(maps.Values(d.limiters), func(a, b *limiter) int { return compare(a.key, b.key) }) {
		all = append(all, d.statusOf(lim, now))
	}
	return all
}

// KeyStatus is the state of one key; ok is false when it is not in use.
func (d *Desk) KeyStatus(k throttle.Key) (s KeyStatus, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lim := d.limiters[k]
	if lim == nil {
		return KeyStatus{Key: k}, false
	}
	return d.statusOf(lim, time.Now()), true
}

func (d *Desk) statusOf(lim *limiter, now time.Time) KeyStatus {
	s := KeyStatus{Key: lim.key, Limits: lim.limits, Factor: lim.factor, Leases: len(lim.held),
		Connect: lim.lanes[throttle.Connect-1].status(now), Send: lim.lanes[throttle.Send-1].status(now),
		Contended: lim.lanes[throttle.Connect-1].hint.Contended}
	s.Authority, s.Mode, s.Why = d.authority(lim)
	for _, h := range lim.held {
		if h.opened {
			s.Opened++
		}
	}
	return s
}

func (l *lane) status(now time.Time) WaitStatus {
	s := WaitStatus{Waiting: l.n, Wanted: l.told.N, Banked: len(l.bank), Recent: l.wait}
	if l.tap != nil {
		s.Waiting += len(l.tap.waiting)
	}
	s.After, s.Reason = l.expect(now)
	return s
}
