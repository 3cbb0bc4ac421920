package grant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// ClientOptions are what a Client is told.
type ClientOptions struct {
	Node      string // our name
	Authority string // the name that the other side must have; "" takes any
	Token     string // shown to the authority
}

// ClientDeps is what a Client needs from others.
type ClientDeps struct {
	// Dial connects to the authority, TLS included.
	Dial    func(context.Context) (net.Conn, error)
	Events  Events
	Logger  *slog.Logger // nil discards
	Metrics *Metrics     // may be nil
}

// Client is the node's end of the link to one authority. It is safe for concurrent use.
type Client struct {
	o    ClientOptions
	d    ClientDeps
	base time.Time // our clock counts from here

	// Of the goroutine of Run.
	up, dead, told bool

	mu sync.Mutex
	s  *session // nil without contact
}

// NewClient returns a client; Run does the work.
func NewClient(o ClientOptions, d ClientDeps) (*Client, error) {
	switch {
	case o.Node == "":
		return nil, errors.New("node: must not be empty")
	case len(o.Node) > maxText:
		return nil, fmt.Errorf("node: more than %d bytes", maxText)
	case len(o.Token) > maxText:
		return nil, fmt.Errorf("token: more than %d bytes", maxText)
	case d.Dial == nil || d.Events == nil:
		return nil, errors.New("grant: a client needs Dial and Events")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	d.Logger = d.Logger.With(slog.String("authority", o.Authority))
	return &Client{o: o, d: d, base: time.Now()}, nil
}

// now is our clock.
func (c *Client) now() time.Duration { return time.Since(c.base) }

// Run keeps contact until ctx ends. After a loss it dials at once, then at least
// Redial passes between the starts of two attempts, or misfitRedial if the two do not fit together.
func (c *Client) Run(ctx context.Context) {
	defer c.tell(false, false)
	for ctx.Err() == nil {
		next := c.now() + Redial
		err := c.contact(ctx)
		if ctx.Err() != nil {
			return
		}
		c.lost(err)
		if misfit(err) {
			next += misfitRedial - Redial
		}
		if wait := next - c.now(); wait > 0 {
			pause(ctx, wait)
		}
	}
}

// misfit tells that only a change of configuration will help.
func misfit(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrVersion) || errors.Is(err, ErrName) || errors.Is(err, ErrMagic)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// lost tells of a contact that ended or did not come about.
func (c *Client) lost(err error) {
	dead := errors.Is(err, syscall.ECONNREFUSED)
	switch {
	case c.up:
		c.d.Metrics.lost(sideClient, err)
		c.d.Logger.Warn("contact with authority lost", slog.Any("error", err))
	case !c.told, c.dead != dead:
		c.d.Logger.Warn("no contact with authority", slog.Bool("dead", dead), slog.Any("error", err))
	default:
		c.d.Logger.Debug("no contact with authority", slog.Any("error", err))
	}
	c.tell(false, dead)
}

// tell tells the owner if something changed.
func (c *Client) tell(up, dead bool) {
	if c.told && c.up == up && c.dead == dead {
		return
	}
	switch {
	case up && !c.up:
		c.d.Metrics.contact(sideClient, 1)
	case c.up && !up:
		c.d.Metrics.contact(sideClient, -1)
	}
	c.told, c.up, c.dead = true, up, dead
	c.d.Events.Contact(up, dead)
}

// contact is one contact, from dialling to its end. The error is never nil.
func (c *Client) contact(ctx context.Context) error {
	dialling, cancel := context.WithTimeout(ctx, DialTimeout)
	conn, err := c.d.Dial(dialling)
	cancel()
	if err != nil {
		return err
	}
	l := newLine(conn, c.now)
	stop := context.AfterFunc(ctx, func() { l.end(context.Cause(ctx)) })
	defer stop()
	s := newSession(c, l)
	if err := s.greet(); err != nil {
		l.end(err)
		return l.err()
	}
	c.set(s)
	written := make(chan struct{})
	go func() {
		defer close(written)
		l.write(s.take)
	}()
	l.kick() // the authority waits for the echo of its answer
	c.d.Logger.Info("contact with authority", slog.String("name", s.authority))
	c.tell(true, false)
	s.ready()
	l.read(s.sample, func() error { return nil }, s.frame)
	c.set(nil)
	<-written
	return l.err()
}

func (c *Client) set(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s = s
}

// do runs f on the session, if there is contact, with the entry of the key.
func (c *Client) do(k *throttle.Key, f func(s *session, e *entry)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.s
	if s == nil {
		return
	}
	if !fits(k) {
		c.d.Metrics.full()
		return
	}
	e := s.keys.get(k, c.now(), s.forget)
	if e == nil {
		c.d.Metrics.full()
		return
	}
	f(s, e)
	if len(s.out) > maxBacklog {
		c.s = nil
		s.l.end(ErrBacklog)
		return
	}
	s.l.kick()
}

// Want says how many permits of a kind we could use. Of several that wait to be sent, the last counts.
func (c *Client) Want(w throttle.Want) {
	if w.Kind != throttle.Connect && w.Kind != throttle.Send {
		return
	}
	c.do(&w.Key, func(s *session, e *entry) { s.want(e, w) })
}

// Opened says that a lease became a connection.
func (c *Client) Opened(k throttle.Key, lease uint64) {
	c.do(&k, func(s *session, e *entry) {
		s.define(e)
		s.out = appendLease(s.out, frameOpened, leaseFrame{num: e.num, lease: lease})
	})
}

// Done says that a connection ended, or that a lease will not be used.
func (c *Client) Done(k throttle.Key, lease uint64, clean bool) {
	c.do(&k, func(s *session, e *entry) {
		s.define(e)
		s.out = appendLease(s.out, frameDone, leaseFrame{e.num, lease, clean})
	})
}

// Charge says that n more messages went with the latest permit.
func (c *Client) Charge(k throttle.Key, n int) {
	c.do(&k, func(s *session, e *entry) {
		s.define(e)
		s.out = appendCharge(s.out, count{num: e.num, n: n})
	})
}

// Unused says that n permits lapsed here.
func (c *Client) Unused(k throttle.Key, kind throttle.Kind, n int) {
	if kind != throttle.Connect && kind != throttle.Send {
		return
	}
	c.do(&k, func(s *session, e *entry) {
		s.define(e)
		s.out = appendUnused(s.out, count{e.num, kind, n})
	})
}

// Observe says what became of messages.
func (c *Client) Observe(k throttle.Key, sample throttle.Sample) {
	c.do(&k, func(s *session, e *entry) {
		s.define(e)
		s.out = appendObserve(s.out, observe{e.num, sample})
	})
}

// Hold says that these are all the leases we have for the key.
func (c *Client) Hold(k throttle.Key, leases []uint64, l throttle.Limits) {
	c.do(&k, func(s *session, e *entry) {
		s.define(e)
		s.limit(e, l)
		for len(leases) > maxLeases {
			s.out = appendHold(s.out, e.num, leases[:maxLeases], true)
			leases = leases[maxLeases:]
		}
		s.out = appendHold(s.out, e.num, leases, false)
	})
}

// Status is the state of a client.
type Status struct {
	Up        bool
	Age       time.Duration // of the newest echo
	RoundTrip time.Duration // as of the newest heartbeat
}

// Status returns the state.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		return Status{}
	}
	return Status{true, c.s.l.age(), time.Duration(c.s.l.trip.Load())}
}
