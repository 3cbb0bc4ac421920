// Package route decides where a message goes: which hosts, in which order, on
// which port, with how much TLS, and under which site and provider its limits
// are counted.
//
// For the recipient's domain the first of these that applies decides:
//
//  1. A static route of the configuration: the exact domain, else the longest
//     ".suffix", else "*".
//  2. An address literal, user@[192.0.2.1], if allowed (RFC 5321 §4.1.3).
//  3. The MX records in order of preference (RFC 5321 §5.1). A null MX (RFC
//  7505. bounces. Hosts that are ourselves are dropped with all of equal or
//     worse preference; none left is a loop and bounces.
//  4. The domain's own address as implicit MX.
//
// Domains with the same MX set share a *site*; a *provider* is a configured
// group of sites, by suffix of their MX hosts.
//
// Decisions are cached per domain until the records expire. A decision
// against delivery is returned as a *mail.OutcomeError and not cached here: the resolver
// remembers the facts behind it.
package route

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dns"
)

// Resolver is what a Router asks DNS. dns.Resolver implements it.
type Resolver interface {
	MX(ctx context.Context, domain string) (dns.Exchangers, error)
	Addresses(ctx context.Context, host string) (dns.Addresses, error)
}

// Deps is what a Router needs from others.
type Deps struct {
	Resolver Resolver
	// Hostname is our own name: an MX of this name is ourselves. May be "".
	Hostname string
	// Listeners are the addresses we take SMTP on: an MX that leads to one of
	// them is ourselves. An unspecified address stands for all of this machine.
	Listeners []netip.AddrPort
	// Apart reports whether a domain has limits of its own: its mail then shares no
	// ready queue with other domains of the site. Nil: none has.
	Apart      func(domain string) bool
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil is none
}

// Router finds routes. It is safe for concurrent use.
type Router struct {
	d     Deps
	table atomic.Pointer[table]
	m     *metrics
}

// New returns a router.
func New(o Options, d Deps) (*Router, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(d.Registerer)
	if err != nil {
		return nil, err
	}
	r := &Router{d: d, m: m}
	return r, r.Reload(o)
}

// Reload replaces the options and forgets cached routes. On an error nothing changes.
func (r *Router) Reload(o Options) error {
	t, err := newTable(o, r.d)
	if err != nil {
		return err
	}
	r.table.Store(t)
	return nil
}

// Own reports whether we listen for SMTP on addr: delivering there would be a loop.
func (r *Router) Own(addr netip.AddrPort) bool { return r.table.Load().own.has(addr) }

// Route returns the route of m. Its Hosts are shared: do not change them. An
// error is a *mail.OutcomeError: there is no route for any message to this domain.
func (r *Router) Route(ctx context.Context, m *mail.Message) (mail.Route, error) {
	t := r.table.Load()
	domain := m.Domain()
	now := time.Now()
	if e := t.cache.get(domain, now); e != nil {
		r.m.cached.Inc()
		route := *e
		route.Pool = m.Pool
		return route, nil
	}
	route, err := t.find(ctx, domain, now)
	if err != nil {
		r.m.failed(err)
		r.d.Logger.Debug("no route", slog.String("domain", domain), slog.String("error", err.Error()))
		return mail.Route{}, err
	}
	r.m.found.Inc()
	t.cache.put(domain, route)
	out := *route
	out.Pool = m.Pool
	return out, nil
}

// decide makes the error that decides messages.
func decide(kind mail.OutcomeKind, class string, reply mail.Reply, cause error) *mail.OutcomeError {
	o := mail.Outcome{Kind: kind, Class: class, Reply: reply}
	if cause != nil {
		o.Error = cause.Error()
	}
	return &mail.OutcomeError{Outcome: o}
}
