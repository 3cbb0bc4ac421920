// Package deliver speaks SMTP to a provider: one session over one connection,
// one transaction after the other. It returns outcomes and never retries a
// message; when and where to try again is the queue's business.
//
// Open goes through the hosts of a route in order of preference, equal ones in
// random order. For each host it races connections over the addresses (RFC
// 8305), waits for the banner, says EHLO and starts TLS as the route demands.
// The first host that gets so far carries the session; if none does, the most
// telling failure is the outcome of all who waited.
//
// Deliver sends one message to its recipients in one transaction:
//
//	PIPELINING and CHUNKING   MAIL RCPT… BDAT+message        | replies
//	PIPELINING                MAIL RCPT… DATA | replies      | message | reply
//	neither                   MAIL | reply | RCPT | reply …  | message | reply
//
// where each "|" is a wait for the peer. So a message costs one or two writes
// and as many reads. Each recipient has its own outcome. If the connection
// breaks after the last byte of the message was written and before the reply,
// the outcome is Ambiguous; before that, the message was certainly not taken.
//
// A session is used by one goroutine at a time.
package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dns"
)

// Dialer makes the connections. Direct implements it. An error that wraps
// mail.ErrNotTried ends the attempt: it is not the provider's.
type Dialer interface {
	Dial(ctx context.Context, route mail.Route, addr netip.AddrPort) (net.Conn, error)
}

// Serial marks a Dialer that can make one connection at a time, since each is
// counted: addresses are then tried one after the other.
type Serial interface{ Serial() bool }

// Resolver finds the addresses of hosts. dns.Resolver implements it.
type Resolver interface {
	Addresses(ctx context.Context, host string) (dns.Addresses, error)
}

// Composer makes the bytes that go out.
type Composer interface {
	// Compose returns the message with CR LF line ends, not dot-stuffed. An
	// error that is a *mail.OutcomeError decides the message; any other defers it.
	Compose(ctx context.Context, m *mail.Message) (*mail.Composed, error)
}

// Deps is what a Deliverer needs from others.
type Deps struct {
	// Dialer is for sessions that are opened without one of their own.
	Dialer   Dialer
	Resolver Resolver
	Composer Composer
	// Hostname is our name in EHLO (RFC 5321 §4.1.1.1).
	Hostname string
	// TLS is the base of all client configurations (roots, versions); nil for defaults.
	TLS *tls.Config
	// Own reports whether we take SMTP on an address ourselves: it is never connected to. Nil: none.
	Own func(netip.AddrPort) bool
	// Shuffle orders hosts of equal preference; nil for math/rand/v2's Shuffle.
	Shuffle    func(n int, swap func(i, j int))
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil is none
}

// Deliverer opens sessions. It is safe for concurrent use.
type Deliverer struct {
	d     Deps
	o     atomic.Pointer[Options]
	tls   *tls.Config
	ids   mail.IDs
	m     *metrics
	pools pools
	ipv6  unreachable
}

// New returns a deliverer.
func New(o Options, d Deps) (*Deliverer, error) {
	switch {
	case d.Dialer == nil || d.Resolver == nil || d.Composer == nil:
		return nil, errors.New("deliver: Dialer, Resolver and Composer are needed")
	case d.Hostname == "":
		return nil, errors.New("deliver: Hostname is needed")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Shuffle == nil {
		d.Shuffle = rand.Shuffle
	}
	m, err := newMetrics(d.Registerer)
	if err != nil {
		return nil, err
	}
	del := &Deliverer{d: d, m: m, tls: baseTLS(d.TLS)}
	return del, del.Reload(o)
}

// Reload replaces the options for sessions opened from now on. On an error nothing changes.
func (d *Deliverer) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	d.o.Store(&o)
	return nil
}

// Open returns a session with one of the route's hosts, connected by dialer or,
// if that is nil, by Deps.Dialer. An error is a *mail.OutcomeError with the most
// telling failure of all hosts tried, or wraps mail.ErrNotTried.
func (d *Deliverer) Open(ctx context.Context, route mail.Route, dialer Dialer) (*Session, error) {
	started := time.Now()
	if dialer == nil {
		dialer = d.d.Dialer
	}
	op := &opening{d: d, o: d.o.Load(), dialer: dialer, route: route, id: d.ids.New(started), started: started}
	if s, ok := dialer.(Serial); ok {
		op.serial = s.Serial()
	}
	op.left = op.o.MaxAddresses
	s := op.run(ctx)
	d.m.openSeconds.Observe(time.Since(started).Seconds())
	if s == nil {
		d.m.failed.Inc()
		if op.notTried != nil {
			return nil, op.notTried
		}
		err := op.failure(ctx)
		d.d.Logger.Debug("no session", slog.String("site", route.Site), slog.String("error", err.Error()))
		return nil, err
	}
	d.m.opened.Inc()
	d.m.sessions.Inc()
	d.d.Logger.Debug("session opened", slog.String("site", route.Site), slog.String("session", s.id.String()),
		slog.String("host", s.host), slog.String("address", s.address), slog.String("tls", s.tls))
	return s, nil
}
