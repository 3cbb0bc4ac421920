package sink

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/internal/watch"
)

// The times of the block list where the configuration names none.
const (
	defaultBlockWindow = time.Minute
	defaultBlockFor    = time.Minute
)

// source is what a provider knows about one sending address.
type source struct {
	ip string

	mu      sync.Mutex
	open    int
	opens   recent    // accepted connections
	mails   recent    // accepted MAILs
	hits    recent    // what went above a limit
	blocked time.Time // until then; zero: not

	counts sourceCounts
}

type sourceCounts struct {
	connections, refused, openMax  atomic.Int64
	mails, limited, denied, blocks atomic.Int64
	accepted, deferred, bounced    atomic.Int64
	firstMail, lastMail            atomic.Int64 // Unix nanoseconds
}

// sources are those that came to a provider.
type sources struct {
	mu sync.Mutex
	m  map[netip.Addr]*source
}

// of finds the source of a peer address, or makes it.
func (l *sources) of(addr netip.Addr) *source {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.m[addr]
	if s == nil {
		if l.m == nil {
			l.m = map[netip.Addr]*source{}
		}
		s = &source{ip: addr.String()}
		l.m[addr] = s
	}
	return s
}

// all returns every source, in the order of addresses.
func (l *sources) all() []*source {
	l.mu.Lock()
	defer l.mu.Unlock()
	addrs := make([]netip.Addr, 0, len(l.m))
	for a := range l.m {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	out := make([]*source, len(addrs))
	for i, a := range addrs {
		out[i] = l.m[a]
	}
	return out
}

// peerOf is the address of whoever is at the other end; the zero one for what is no TCP connection.
func peerOf(c net.Conn) netip.AddrPort {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// enter decides about a new connection and counts it, if it is accepted.
func (s *source) enter(b *Behaviour, now time.Time) watch.Verdict {
	s.counts.connections.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case b.BlockAt == BlockAtConnect && s.isBlocked(now):
		s.counts.denied.Add(1)
		return watch.Blocked
	case b.SourceConnections > 0 && s.open >= b.SourceConnections, !s.opens.room(now, b.SourceConnectRate):
		s.counts.limited.Add(1)
		s.hit(b, now)
		return watch.Limited
	}
	s.opens.add(now, b.SourceConnectRate)
	s.open++
	raise(&s.counts.openMax, int64(s.open))
	return watch.Accepted
}

func (s *source) leave() {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
}

// mail decides about a MAIL command, which uses up a place only if it is accepted.
func (s *source) mail(b *Behaviour, now time.Time) watch.Verdict {
	s.counts.mails.Add(1)
	s.counts.firstMail.CompareAndSwap(0, now.UnixNano())
	s.counts.lastMail.Store(now.UnixNano())
	if b.SourceRate.IsZero() && b.BlockAfter == 0 && s.counts.blocks.Load() == 0 {
		return watch.Accepted
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isBlocked(now):
		s.counts.denied.Add(1)
		return watch.Blocked
	case !s.mails.room(now, b.SourceRate):
		s.counts.limited.Add(1)
		s.hit(b, now)
		return watch.Limited
	}
	s.mails.add(now, b.SourceRate)
	return watch.Accepted
}

// isBlocked also takes a source whose time is over from the block list. The caller holds mu.
func (s *source) isBlocked(now time.Time) bool {
	if !s.blocked.IsZero() && !now.Before(s.blocked) {
		s.blocked, s.hits = time.Time{}, recent{}
	}
	return !s.blocked.IsZero()
}

// hit notes that a limit was passed; the last of block_after puts the source on the block list. The caller holds mu.
func (s *source) hit(b *Behaviour, now time.Time) {
	if b.BlockAfter <= 0 || s.isBlocked(now) {
		return
	}
	window := units.Rate{Count: int64(b.BlockAfter), Per: cmp.Or(b.BlockWindow.D(), defaultBlockWindow)}
	s.hits.add(now, window)
	if !s.hits.room(now, window) {
		s.blockUntil(now.Add(cmp.Or(b.BlockFor.D(), defaultBlockFor)))
	}
}

// blockUntil puts the source on the block list. The caller holds mu.
func (s *source) blockUntil(until time.Time) {
	s.blocked = until
	s.counts.blocks.Add(1)
}

// block is blockUntil by hand; zero takes it from the list.
func (s *source) block(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.IsZero() {
		s.blocked, s.hits = time.Time{}, recent{}
		return
	}
	s.blockUntil(until)
}

// reset forgets all but the open connections.
func (s *source) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opens, s.mails, s.hits, s.blocked = recent{}, recent{}, recent{}, time.Time{}
	c := &s.counts
	for _, n := range []*atomic.Int64{&c.connections, &c.refused, &c.mails, &c.limited, &c.denied, &c.blocks, &c.accepted, &c.deferred,
		&c.bounced, &c.firstMail, &c.lastMail} {
		n.Store(0)
	}
	c.openMax.Store(int64(s.open))
}

func (s *source) stats(provider string) SourceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counts
	st := SourceStats{
		Provider: provider, Source: s.ip,
		Connections: c.connections.Load(), Refused: c.refused.Load(), Open: int64(s.open), OpenMax: c.openMax.Load(),
		Mails: c.mails.Load(), Limited: c.limited.Load(), Denied: c.denied.Load(), Blocks: c.blocks.Load(),
		Accepted: c.accepted.Load(), Deferred: c.deferred.Load(), Bounced: c.bounced.Load(),
		FirstMail: instant(c.firstMail.Load()), LastMail: instant(c.lastMail.Load()),
	}
	if s.isBlocked(time.Now()) {
		until := s.blocked
		st.BlockedUntil = &until
	}
	return st
}

// recent remembers the last instants of something, as many as its rate counts:
// then at most that many lie in any window of the rate's length, exactly.
type recent struct {
	at   []time.Time // a ring when it is full
	next int         // the oldest when it is full
}

// room tells whether one more may happen. A window holds its first instant and not its last.
func (r *recent) room(now time.Time, rate units.Rate) bool {
	if rate.IsZero() {
		return true
	}
	r.fit(int(rate.Count))
	return len(r.at) < int(rate.Count) || now.Sub(r.at[r.next]) >= rate.Per
}

func (r *recent) add(now time.Time, rate units.Rate) {
	if rate.IsZero() {
		return
	}
	n := int(rate.Count)
	r.fit(n)
	if len(r.at) < n {
		r.at = append(r.at, now)
		return
	}
	r.at[r.next] = now
	r.next = (r.next + 1) % n
}

// fit makes the ring hold at most n, the latest of what it holds, after the rate was changed.
func (r *recent) fit(n int) {
	if len(r.at) < n && r.next == 0 || len(r.at) == n {
		return
	}
	ordered := slices.Concat(r.at[r.next:], r.at[:r.next])
	r.at, r.next = ordered[max(0, len(ordered)-n):], 0
}
