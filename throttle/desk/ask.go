package desk

import (
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// Request is a wait for a connection. A nil Request is one that was granted at once.
type Request struct {
	d     *Desk
	p     *pursuit
	lease *Lease
	tell  func(*Lease)
}

// Ask asks for one connection under all bounds. granted is called once: with the lease,
// which must be closed whatever becomes of it, or with nil when the authority of a source
// is lost, as Status says: then ask for another source. Without a bound that has to be waited for
// it is called before Ask returns. It is called without a lock of the desk and must not block.
func (d *Desk) Ask(bounds []throttle.Bound, who Asker, granted func(*Lease)) *Request {
	if !limited(bounds) {
		granted(&Lease{})
		return nil
	}
	l := &Lease{d: d, revoked: make(chan struct{})}
	r := &Request{d: d, lease: l, tell: granted}
	d.mu.Lock()
	now := time.Now()
	var connect []*limiter
	for i := range bounds {
		if b := &bounds[i]; b.Limits != (throttle.Limits{}) {
			lim := d.limiter(b)
			if slices.Contains(l.lims, lim) {
				continue
			}
			l.add(lim)
			if b.Proxy != "" || b.Limits.Connections > 0 || !b.Limits.ConnectRate.IsZero() {
				connect = append(connect, lim)
			}
		}
	}
	if d.closed || len(connect) == 0 {
		r.p = &pursuit{d: d, state: got, at: -1}
		if d.closed {
			r.p.state, r.p.err, r.lease = failed, errClosed, nil
			l.drop(now)
		}
		d.unlock()
		granted(r.lease)
		return r
	}
	slices.SortFunc(connect, func(a, b *limiter) int { return compare(a.key, b.key) })
	r.p = d.newPursuit(throttle.Connect, who, connect, r.finish)
	r.p.start(now)
	d.unlock()
	return r
}

func limited(bounds []throttle.Bound) bool {
	for i := range bounds {
		if bounds[i].Limits != (throttle.Limits{}) {
			return true
		}
	}
	return false
}

// compare is the canonical order of keys: who asks in it cannot be in a circle of waits.
func compare(a, b throttle.Key) int {
	for _, f := range [...][2]string{{a.Source, b.Source}, {a.Pool, b.Pool}, {a.Tenant, b.Tenant},
		{a.Provider, b.Provider}, {a.Site, b.Site}, {a.Domain, b.Domain}} {
		if c := strings.Compare(f[0], f[1]); c != 0 {
			return c
		}
	}
	return 0
}

// finish is called under the lock.
func (r *Request) finish(p *pursuit) {
	now := time.Now()
	l := r.lease
	if p.state == got {
		for _, s := range p.steps {
			s.p.hold.lease = l
			l.holds = append(l.holds, s.p.hold)
		}
	} else {
		l.drop(now)
		l = nil
	}
	p.free(now)
	r.d.post(func() { r.tell(l) })
}

// Cancel ends the wait. It is false when granted was called or is about to be.
func (r *Request) Cancel() bool {
	if r == nil {
		return false
	}
	r.d.mu.Lock()
	defer r.d.unlock()
	if r.p.state != waiting {
		return false
	}
	now := time.Now()
	r.p.cancel(now)
	r.p.free(now)
	r.lease.drop(now)
	return true
}

// Status tells what a request waits for.
type Status struct {
	Waits     bool
	Err       error // why it failed
	Key       throttle.Key
	For       time.Duration // it waits for this key
	Authority string        // who was told; "" nobody
	Mode      Mode
	After     time.Duration // at the earliest, from now; 0: not known
	Reason    string        // by the authority, or why there is none
}

// Status returns what the request waits for now.
func (r *Request) Status() Status {
	if r == nil {
		return Status{}
	}
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	p := r.p
	s := Status{Waits: p.state == waiting, Err: p.err}
	if p.at < 0 || !s.Waits {
		return s
	}
	now := time.Now()
	l := p.steps[p.at].l
	s.Key, s.For = l.lim.key, now.Sub(p.w.since)
	s.Authority, s.Mode, s.Reason = r.d.authority(l.lim)
	if s.Reason == "" {
		s.After, s.Reason = l.expect(now)
	}
	return s
}

// expect is what the authority said last, as of now.
func (l *lane) expect(now time.Time) (time.Duration, string) {
	if l.hint.Reason == "" || l.n == 0 && now.Sub(l.hintAt) >= l.hint.After {
		return 0, ""
	}
	return max(l.hint.After-now.Sub(l.hintAt), 0), l.hint.Reason
}

// After is how long a message under these bounds has to wait at least, by what the authorities
// said last, and why: before it is over a connection would be of no use.
func (d *Desk) After(bounds []throttle.Bound) (after time.Duration, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for i := range bounds {
		lim := d.limiters[bounds[i].Key]
		if lim == nil || lim.limits != bounds[i].Limits {
			continue
		}
		if a, why := lim.lanes[throttle.Send-1].expect(now); a > after {
			after, reason = a, why
		}
	}
	return after, reason
}
