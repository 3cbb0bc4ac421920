package throttle

import (
	"container/heap"
	"slices"
	"time"
)

// leaseState is where a lease is in its life:
//
//	granted --Opened, Claim--> open --Done unclean, dead--> lingering --> gone
//	   |                        ^ |
//	   lapsed, Done clean       | doubted (its client left) --not confirmed by Hold--> lingering
//
// All of them count against the limit of connections.
type leaseState uint8

const (
	granted   leaseState = iota // the client may use it until it lapses
	open                        // a connection
	doubted                     // its client left and may have it open
	lingering                   // it ended, and the provider may not know
)

type lease struct {
	id      uint64
	key     *key
	member  *member // nil once it lingers
	slot    int     // in member.leases
	state   leaseState
	claimed bool          // by Claim: only Release ends it
	until   time.Duration // when the state ends by itself; never
}

// add counts a lease of m. It has no name yet.
func (a *Authority) add(k *key, m *member, l *lease) {
	l.key, l.member, l.slot = k, m, len(m.leases)
	m.leases = append(m.leases, l)
	k.count++
}

// name makes a lease known by its id.
func (a *Authority) name(l *lease, id uint64) {
	l.id = id
	a.leases[id] = l
	a.limitLife(l, l.until)
}

// addOpen counts a connection that was granted elsewhere, or lapsed.
func (a *Authority) addOpen(k *key, m *member, id uint64) {
	l := &lease{state: open, until: never}
	a.add(k, m, l)
	a.name(l, id)
}

// limitLife sets when the lease's state ends by itself.
func (a *Authority) limitLife(l *lease, until time.Duration) {
	l.until = until
	if until != never {
		heap.Push(&a.ends, deadline{until, l})
	}
}

// lapse is when a lease for the instant at stops counting if it was not opened. A client
// that opened it at the last moment tells so up to Expiry later, or contact with it is lost;
// a claim is known at once.
func (a *Authority) lapse(at time.Duration) time.Duration {
	if a.o.Claims {
		return at + a.o.ConnectLapse
	}
	return at + a.o.ConnectLapse + a.o.Expiry
}

// expire ends all leases' states that are over.
func (a *Authority) expire(now time.Duration) {
	for len(a.ends) > 0 && a.ends[0].at <= now {
		d := heap.Pop(&a.ends).(deadline)
		l := d.lease
		if l.until != d.at || a.leases[l.id] != l {
			continue
		}
		if l.state == doubted {
			a.linger(l, now)
			continue
		}
		a.free(l, now)
	}
}

// free stops counting the lease.
func (a *Authority) free(l *lease, now time.Duration) {
	delete(a.leases, l.id)
	l.key.count--
	a.leaveMember(l)
	a.wake(l.key, now)
}

// linger counts a connection that ended without a close for a while longer.
func (a *Authority) linger(l *lease, now time.Duration) {
	if a.o.Linger <= 0 {
		a.free(l, now)
		return
	}
	a.leaveMember(l)
	l.state = lingering
	a.limitLife(l, now+a.o.Linger)
	a.wake(l.key, now)
}

func (a *Authority) leaveMember(l *lease) {
	m := l.member
	if m == nil {
		return
	}
	last := len(m.leases) - 1
	m.leases[l.slot] = m.leases[last]
	m.leases[l.slot].slot = l.slot
	m.leases[last] = nil
	m.leases = m.leases[:last]
	l.member = nil
	a.drop(l.key, m)
}

// Opened says that a lease became a connection. One that is not known (it lapsed, or
// another authority granted it) counts all the same.
func (a *Authority) Opened(name string, id Key, n uint64, now time.Duration) {
	c := a.clients[name]
	if a.o.Claims || c == nil || !c.joined {
		return
	}
	if l := a.leases[n]; l != nil {
		if l.key.id == id && l.member != nil && l.member.client == c && l.state != open {
			l.state, l.until = open, never
		}
		return
	}
	k := a.keys[id]
	if k == nil {
		k = a.newKey(id, now)
	}
	a.addOpen(k, a.memberOf(k, c), n)
	a.wake(k, now)
}

// Done says that a connection ended, or that a lease will not be used. clean: both
// sides closed, so it counts no more; else it counts for Options.Linger.
func (a *Authority) Done(name string, id Key, n uint64, clean bool, now time.Duration) {
	l := a.leases[n]
	switch {
	case l == nil || l.key.id != id || l.member == nil || l.member.client.name != name || !l.member.client.joined || l.claimed:
	case clean, a.o.Claims:
		a.free(l, now)
	default:
		a.linger(l, now)
	}
}

// Hold says that these are all the leases that a client has for the key, after it joined or
// the authority changed. They count even above the limit. Those it had before it
// joined and does not name ended meanwhile.
func (a *Authority) Hold(name string, id Key, leases []uint64, limits Limits, now time.Duration) {
	c := a.clients[name]
	if c == nil || !c.joined || len(leases) == 0 && a.keys[id] == nil {
		return
	}
	k := a.keys[id]
	if k == nil {
		k = a.newKey(id, now)
	}
	m := a.memberOf(k, c)
	a.hear(k, m, limits, now)
	a.wake(k, now)
	if a.o.Claims {
		return
	}
	for _, n := range leases {
		l := a.leases[n]
		switch {
		case l == nil:
			a.addOpen(k, m, n)
		case l.member == m && l.state == doubted:
			l.state, l.until = open, never
		}
	}
	for _, l := range slices.Clone(m.leases) {
		if l.state == doubted {
			a.linger(l, now)
		}
	}
}

// Claim turns a lease into a connection, in the process that connects (Options.Claims). ok
// is false for one that lapsed, is in use or was never granted: then there must be
// no connection. Release ends it.
func (a *Authority) Claim(n uint64, now time.Duration) (Key, bool) {
	a.expire(now)
	l := a.leases[n]
	if l == nil || l.state != granted {
		return Key{}, false
	}
	l.state, l.claimed, l.until = open, true, never
	return l.key.id, true
}

// Release says that a claimed connection ended; clean as for Done.
func (a *Authority) Release(n uint64, clean bool, now time.Duration) {
	l := a.leases[n]
	switch {
	case l == nil || !l.claimed || l.state == lingering:
	case clean:
		a.free(l, now)
	default:
		a.linger(l, now)
	}
}

// doubt makes what a member holds uncertain until then.
func (a *Authority) doubt(m *member, until time.Duration) {
	for _, l := range m.leases {
		if !l.claimed {
			l.state = doubted
			a.limitLife(l, until)
		}
	}
}

// endAll ends what a member holds, whose process is gone.
func (a *Authority) endAll(m *member, now time.Duration) {
	for _, l := range slices.Clone(m.leases) {
		switch {
		case l.claimed:
		case a.o.Claims: // never opened
			a.free(l, now)
		default:
			a.linger(l, now)
		}
	}
}
