package smtpd

import (
	"net/netip"
	"sync"
	"time"
)

// maxTracked bounds how many addresses the failure table holds; beyond it the
// oldest knowledge is given up, not memory.
const maxTracked = 1 << 16

// clientKey is what limits count by: an IPv4 address, or the /64 that one IPv6 client commands.
func clientKey(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // fails for the invalid address only, which is one key of its own
	return p
}

// gate counts the connections of one listener.
type gate struct {
	mu    sync.Mutex
	total int
	per   map[netip.Prefix]int
}

// enter counts a connection unless there are limit already.
func (g *gate) enter(limit int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= limit {
		return false
	}
	g.total++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// hold counts a connection for its client unless that has limit already.
func (g *gate) hold(key netip.Prefix, limit int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.per[key] >= limit {
		return false
	}
	if g.per == nil {
		g.per = make(map[netip.Prefix]int)
	}
	g.per[key]++
	return true
}

func (g *gate) release(key netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.per[key]--; g.per[key] <= 0 {
		delete(g.per, key)
	}
}

// failures remembers failed logins by client address.
type failures struct {
	mu sync.Mutex
	by map[netip.Prefix][]time.Time
}

// add notes a failed login and returns how many there are within window.
func (f *failures) add(key netip.Prefix, now time.Time, window time.Duration, limit int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = make(map[netip.Prefix][]time.Time)
	}
	if _, known := f.by[key]; !known && len(f.by) >= maxTracked {
		f.makeRoom(now, window)
	}
	times := append(recent(f.by[key], now, window), now)
	if len(times) > limit { // the newest are enough to tell
		times = times[len(times)-limit:]
	}
	f.by[key] = times
	return len(times)
}

// count returns how many failed logins there were within window.
func (f *failures) count(key netip.Prefix, now time.Time, window time.Duration) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(recent(f.by[key], now, window))
}

// makeRoom drops what is out of date, or else any eighth of the entries, so that
// a flood from ever new addresses does not pay for a sweep each time.
func (f *failures) makeRoom(now time.Time, window time.Duration) {
	for key, times := range f.by {
		if len(recent(times, now, window)) == 0 {
			delete(f.by, key)
		}
	}
	for key := range f.by {
		if len(f.by) < maxTracked-maxTracked/8 {
			return
		}
		delete(f.by, key)
	}
}

// recent is the part of times, which are in order, within window.
func recent(times []time.Time, now time.Time, window time.Duration) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) >= window {
		times = times[1:]
	}
	return times
}
