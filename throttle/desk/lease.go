package desk

import (
	"slices"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// Lease is the permission for one connection, and for as long as it is open the
// way to permits for messages.
type Lease struct {
	d       *Desk // nil: nothing limits it
	lims    []*limiter
	sends   []*limiter // of them, those that limit messages
	loops   []*limiter // of them, those with a closed loop
	holds   []*hold
	revoked chan struct{}
	over    bool       // revoked
	waits   []*pursuit // of its slots
	closed  bool
}

// LeaseID names one lease to the proxy that must let the connection through.
type LeaseID struct {
	Key   throttle.Key
	ID    uint64
	Proxy string
}

// add makes a limiter part of the lease.
func (l *Lease) add(lim *limiter) {
	lim.uses++
	l.lims = append(l.lims, lim)
	if !lim.limits.MessageRate.IsZero() || lim.limits.Daily > 0 {
		l.sends = append(l.sends, lim)
	}
	if lim.limits.Loop.High > 0 {
		l.loops = append(l.loops, lim)
	}
}

// drop lets go of the limiters.
func (l *Lease) drop(now time.Time) {
	for _, lim := range l.lims {
		lim.uses--
		l.d.release(lim, now)
	}
	l.lims = nil
}

// IDs are the leases, one for each bound that limits connections.
func (l *Lease) IDs() []LeaseID {
	ids := make([]LeaseID, len(l.holds))
	for i, h := range l.holds {
		ids[i] = LeaseID{Key: h.lim.key, ID: h.id, Proxy: h.lim.proxy}
	}
	return ids
}

// Opened tells the authorities that the connection comes about; call it right before dialling.
// It is false when that is too late, as the permits are no longer fresh: then do not dial, close
// the lease and ask again.
func (l *Lease) Opened() bool {
	if l.d == nil || len(l.holds) == 0 {
		return true
	}
	l.d.mu.Lock()
	defer l.d.unlock()
	now := time.Now()
	if l.closed || l.over {
		return false
	}
	for _, h := range l.holds {
		if !h.opened && now.Sub(h.born) > l.d.o.ConnectFresh {
			return false
		}
	}
	for _, h := range l.holds {
		if h.opened {
			continue
		}
		h.opened = true
		if at := h.lim.at; at != nil && at.up {
			key, id := h.lim.key, h.id
			l.d.post(func() { at.link.Opened(key, id) })
		}
	}
	return true
}

// Paced reports whether messages need a permit each.
func (l *Lease) Paced() bool { return len(l.sends) > 0 }

// Contended reports whether others wait for a connection like this one: an idle one should end.
func (l *Lease) Contended() bool {
	if len(l.holds) == 0 {
		return false
	}
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	return slices.ContainsFunc(l.holds, func(h *hold) bool {
		lane := &h.lim.lanes[throttle.Connect-1]
		return lane.n > 0 || lane.hint.Contended
	})
}

// Revoked is closed when the connection must end as soon as its transaction has: the
// limit became lower, or this node is cut off and the connection is more than its share. Who waits in
// Slot gets ErrRevoked.
func (l *Lease) Revoked() <-chan struct{} { return l.revoked }

func (l *Lease) revoke() {
	if l.over {
		return
	}
	l.over = true
	close(l.revoked)
	now := time.Now()
	for _, p := range slices.Clone(l.waits) {
		p.fail(ErrRevoked, now)
	}
}

// Close gives the lease back: the connection has ended, or there was none. clean: the
// other side knows that it ended. It may be called twice.
func (l *Lease) Close(clean bool) {
	if l.d == nil {
		return
	}
	l.d.mu.Lock()
	defer l.d.unlock()
	if l.closed {
		return
	}
	l.closed = true
	now := time.Now()
	for _, p := range slices.Clone(l.waits) {
		p.fail(errClosed, now)
	}
	for _, h := range l.holds {
		l.d.end(h, clean || !h.opened)
	}
	l.drop(now)
}

// Observe tells what became of messages, for the closed loops.
func (l *Lease) Observe(s throttle.Sample) {
	if len(l.loops) == 0 {
		return
	}
	d := l.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.closed || d.closed {
		return
	}
	for _, lim := range l.loops {
		lim.sample.Delivered += s.Delivered
		lim.sample.Deferred += s.Deferred
		d.dirty[lim] = struct{}{}
	}
	if d.samples == nil {
		d.samples = time.AfterFunc(tellSamples, d.flushSamples)
	}
}

// tellSamples is how long samples are collected.
const tellSamples = time.Second

func (d *Desk) flushSamples() {
	d.mu.Lock()
	defer d.unlock()
	d.samples = nil
	for lim := range d.dirty {
		d.tellSample(lim)
	}
}

// tellSample tells what was collected. Without an authority it is of no use to anyone.
func (d *Desk) tellSample(lim *limiter) {
	delete(d.dirty, lim)
	s := lim.sample
	lim.sample = throttle.Sample{}
	if lim.at == nil || !lim.at.up {
		return
	}
	key, link := lim.key, lim.at.link
	d.post(func() { link.Observe(key, s) })
}

// hold is one lease, as one authority granted it.
type hold struct {
	lim    *limiter
	id     uint64
	born   time.Time
	index  int     // in lim.held
	opened bool    // said so
	lease  *Lease  // nil until all that a request needs is there
	also   []*Port // other authorities that count it, because they once limited the key
}

// handBack gives back a lease that was not opened.
func (d *Desk) handBack(to *Port, key throttle.Key, id uint64) {
	link := to.link
	d.post(func() { link.Done(key, id, true) })
}

// hold counts a lease.
func (lim *limiter) hold(id uint64, born time.Time) *hold {
	h := &hold{lim: lim, id: id, born: born, index: len(lim.held)}
	lim.held = append(lim.held, h)
	return h
}

// end tells that a lease is over. A port without contact need not hear it: with
// the next contact we tell all that we still have.
func (d *Desk) end(h *hold, clean bool) {
	lim := h.lim
	last := len(lim.held) - 1
	lim.held[h.index] = lim.held[last]
	lim.held[h.index].index = h.index
	lim.held[last] = nil
	lim.held = lim.held[:last]
	if lim.at != nil && !slices.Contains(h.also, lim.at) {
		h.also = append(h.also, lim.at)
	}
	for _, p := range h.also {
		if p.up {
			key, id := lim.key, h.id
			d.post(func() { p.link.Done(key, id, clean) })
		}
	}
}

// leases lists the ids of what is held.
func (lim *limiter) leases() []uint64 {
	ids := make([]uint64, len(lim.held))
	for i, h := range lim.held {
		ids[i] = h.id
	}
	return ids
}

// trim revokes the newest connections above what this node may have by itself.
func (d *Desk) trim(lim *limiter) {
	most := lim.limits.Connections
	switch {
	case lim.mode == Cut:
		most = 0
	case most == 0:
		return
	case lim.mode == Share || lim.mode == Lost:
		most = min(most/len(d.o.Nodes), lim.kept)
	}
	if len(lim.held) <= most {
		return
	}
	newest := slices.Clone(lim.held)
	slices.SortFunc(newest, func(a, b *hold) int { return b.born.Compare(a.born) })
	for _, h := range newest[:len(newest)-most] {
		if h.lease != nil {
			h.lease.revoke()
		}
	}
}
