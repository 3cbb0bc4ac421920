package grant

import (
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// session is one contact of a client.
type session struct {
	c         *Client
	l         *line
	authority string
	clock     offset // of the reading goroutine

	// Under Client.mu.
	keys  *keyTable
	out   []byte   // what must go in order
	queue []*entry // with wants to send, from next on
	next  int
}

func newSession(c *Client, l *line) *session {
	return &session{c: c, l: l, keys: newKeyTable(maxKeys)}
}

// greet says Hello and takes the answer. Both fall under the lease.
func (s *session) greet() error {
	c, l := s.c, s.l
	now := int64(l.now())
	l.begin(now, 0)
	l.guard()
	if _, err := l.conn.Write(appendHello([]byte(Magic), hello{lowest, Version, now, c.o.Node, c.o.Token})); err != nil {
		return err
	}
	if err := l.in.magic(); err != nil {
		return err
	}
	t, p, err := l.in.wait()
	if err != nil {
		return err
	}
	if t == frameBye {
		reason, err := decodeBye(p)
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: %s", ErrRefused, reason)
	}
	a, err := decodeAnswer(p)
	switch {
	case t != frameAnswer || err != nil || a.echo != now:
		return errFrame
	case a.version < lowest || a.version > Version:
		return ErrVersion
	case c.o.Authority != "" && a.name != c.o.Authority:
		return fmt.Errorf("%w: %q", ErrName, a.name)
	case l.stale():
		return ErrLost
	}
	s.authority = a.name
	l.begin(now, a.clock)
	s.clock.sample(time.Duration(a.clock), time.Duration(l.seenAt.Load()))
	return nil
}

// ready ends what is told at the beginning.
func (s *session) ready() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.out = appendReady(s.out)
	s.l.kick()
}

func (s *session) define(e *entry) {
	if !e.told {
		e.told = true
		s.out = appendDefine(s.out, define{e.num, e.key})
	}
}

func (s *session) limit(e *entry, l throttle.Limits) {
	if e.limits != l {
		e.limits = l
		s.out = appendLimits(s.out, limits{e.num, l})
	}
}

func (s *session) forget(e *entry) {
	if e.told {
		s.out = appendForget(s.out, e.num)
	}
}

// want notes a want. It is encoded when it is sent, so a newer one replaces it.
func (s *session) want(e *entry, w throttle.Want) {
	e.wants[w.Kind-1] = pendingWant{w, true}
	if !e.queued {
		e.queued = true
		s.queue = append(s.queue, e)
	}
}

// take gives the writer what waits: first all that has an order, then wants.
func (s *session) take(b []byte) ([]byte, bool) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for ; s.next < len(s.queue) && len(s.out) < writeSize; s.next++ {
		e := s.queue[s.next]
		e.queued = false
		s.encode(e)
	}
	more := s.next < len(s.queue)
	if !more {
		clear(s.queue)
		s.queue, s.next = s.queue[:0], 0
	}
	b = append(b, s.out...)
	if s.out = s.out[:0]; cap(s.out) > 4*writeSize {
		s.out = nil
	}
	return b, more
}

// encode writes the wants of an entry.
func (s *session) encode(e *entry) {
	for i := range e.wants {
		p := &e.wants[i]
		if !p.dirty {
			continue
		}
		p.dirty = false
		s.define(e)
		s.limit(e, p.want.Limits)
		s.out = appendWant(s.out, want{e.num, p.want.Kind, p.want.N, p.want.Priority, p.want.Flows})
	}
}

// sample takes a heartbeat's time.
func (s *session) sample(clock, now time.Duration) {
	falls := s.clock.falls
	s.clock.sample(clock, now)
	s.c.d.Metrics.fell(s.clock.falls - falls)
}

// key is the key of a number; ok is false if we gave it up.
func (s *session) key(num uint64) (throttle.Key, bool) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	e := s.keys.byNum[num]
	if e == nil {
		return throttle.Key{}, false
	}
	return e.key, true
}

// frame deals with one frame of the authority.
func (s *session) frame(t frameType, p []byte) error {
	switch t {
	case frameGrant:
		f, err := decodeGrant(p)
		if err != nil {
			return err
		}
		s.granted(f)
	case frameHint:
		f, err := decodeHint(p)
		if err != nil {
			return err
		}
		if k, ok := s.key(f.num); ok {
			s.c.d.Events.Hinted(throttle.Hint{Key: k, Kind: f.kind, After: f.after, Reason: f.reason, Contended: f.contended})
		}
	case frameChange:
		f, err := decodeChange(p)
		if err != nil {
			return err
		}
		if k, ok := s.key(f.num); ok {
			s.c.d.Events.Changed(throttle.Change{Key: k, Factor: f.factor, Reason: f.reason, Seq: f.seq})
		}
	case frameRefused:
		num, err := decodeNum(p)
		if err != nil {
			return err
		}
		if k, ok := s.key(num); ok {
			s.c.d.Events.Refused(k)
		}
	default:
		return fmt.Errorf("%w: type %d", errFrame, t)
	}
	return nil
}

func (s *session) granted(f grantFrame) {
	k, ok := s.key(f.num)
	if !ok {
		return
	}
	born := s.clock.local(f.at)
	if f.kind == throttle.Send && s.clock.settling(s.l.now()) {
		born -= settleTime // too old to use
	}
	s.c.d.Events.Granted(throttle.Grant{Key: k, Kind: f.kind, N: f.n, Lease: f.lease, At: f.at}, s.c.base.Add(born))
}
