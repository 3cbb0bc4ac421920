package desk

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/throttle"
)

// LateError tells that a message would have to wait too long for a connection to stay open.
type LateError struct {
	Key    throttle.Key
	After  time.Duration // at the earliest
	Reason string
}

// Error implements error.
func (e *LateError) Error() string {
	return fmt.Sprintf("desk: %s: %s, next message in %v", e.Key, e.Reason, e.After.Round(time.Second))
}

// pass is the permission for one message.
type pass struct {
	l    *Lease
	p    *pursuit
	wake chan struct{} // holds one
	used []step        // what it was used with
}

// Slot waits for a permit of each bound that limits messages. It returns nil if there is none such.
// Its error is that of ctx, ErrDown when an authority is lost, ErrRevoked, or a *LateError:
// the message goes back, and with all but the first the connection should end.
func (l *Lease) Slot(ctx context.Context, who Asker) (mail.Pass, error) {
	if len(l.sends) == 0 {
		return nil, nil
	}
	s := &pass{l: l, wake: make(chan struct{}, 1)}
	d := l.d
	d.mu.Lock()
	if err := l.err(); err != nil {
		d.mu.Unlock()
		return nil, err
	}
	lims := l.sends
	if len(lims) > 1 {
		// The one that takes longest first: what is had early lapses while it is waited for.
		lims = slices.Clone(lims)
		slices.SortStableFunc(lims, func(a, b *limiter) int {
			return int(b.lanes[throttle.Send-1].backlog() - a.lanes[throttle.Send-1].backlog())
		})
	}
	s.p = d.newPursuit(throttle.Send, who, lims, s.stopped)
	s.start(time.Now())
	d.unlock()
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// err is why the lease is of no use any more.
func (l *Lease) err() error {
	switch {
	case l.closed || l.d.closed:
		return errClosed
	case l.over:
		return ErrRevoked
	}
	return nil
}

// start begins to wait.
func (s *pass) start(now time.Time) {
	s.l.waits = append(s.l.waits, s.p)
	s.p.start(now)
}

// stopped is called under the lock when the pursuit is over.
func (s *pass) stopped(p *pursuit) {
	s.l.waits = slices.DeleteFunc(s.l.waits, func(other *pursuit) bool { return other == p })
	s.wake <- struct{}{}
}

// Drop gives back a pass that was not used.
func (l *Lease) Drop(p mail.Pass) {
	if s, ok := p.(*pass); ok {
		s.end()
	}
}

// await waits for the pursuit.
func (s *pass) await(ctx context.Context) error {
	select {
	case <-s.wake:
	case <-ctx.Done():
		s.end()
		return context.Cause(ctx)
	}
	if s.p.state == failed { // nobody changes it any more
		err := s.p.err
		s.end()
		return err
	}
	return nil
}

// end gives everything back that is left.
func (s *pass) end() {
	d := s.p.d
	d.mu.Lock()
	defer d.unlock()
	now := time.Now()
	s.l.waits = slices.DeleteFunc(s.l.waits, func(other *pursuit) bool { return other == s.p })
	s.p.cancel(now)
	s.p.free(now)
	s.p.state = cancelled
}

// Use implements mail.Pass.
func (s *pass) Use(ctx context.Context) error {
	d := s.p.d
	for {
		d.mu.Lock()
		if s.p.state != got {
			d.mu.Unlock()
			return errClosed
		}
		now := time.Now()
		if s.p.drop(now); s.p.missing() < 0 {
			s.used = s.p.steps
			s.p.free(now) // the lease keeps the limiters
			s.p.state = cancelled
			d.unlock()
			return nil
		}
		if err := s.l.err(); err != nil {
			d.unlock()
			s.end()
			return err
		}
		s.start(now)
		d.unlock()
		if err := s.await(ctx); err != nil {
			return err
		}
	}
}

// Charge implements mail.Pass.
func (s *pass) Charge(n int) {
	d := s.p.d
	d.mu.Lock()
	defer d.unlock()
	for i := range s.used {
		key, link := s.used[i].l.lim.key, s.used[i].p.from.link
		d.post(func() { link.Charge(key, n) })
	}
}
