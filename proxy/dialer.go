package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/proxy/wire"
)

// answerMargin is how much earlier than we ourselves a proxy gives a connect
// up: its answer must be here before we take it for dead.
const answerMargin = 100 * time.Millisecond

// Request is one connection to make.
type Request struct {
	Source    string
	Addr      netip.AddrPort // the mail exchanger
	RequestID mail.ID        // names it in logs here and at the proxy
	Leases    []uint64       // permits of the proxy's authority
}

// DialerDeps is what a Dialer needs from others.
type DialerDeps struct {
	// Node is our name towards proxies.
	Node string
	// LocalIPv4 and LocalIPv6 are the addresses of the source ""; invalid ones leave it to the system.
	LocalIPv4, LocalIPv6 netip.Addr
	Registerer           prometheus.Registerer // nil is none
}

// Dialer connects from sources. It is safe for concurrent use.
type Dialer struct {
	d     DialerDeps
	ways  atomic.Pointer[ways]
	dials *prometheus.CounterVec // by proxy and result
}

// ways are the ways out by source and by proxy.
type ways struct {
	timeout time.Duration
	sources map[string]*way
	proxies map[string]*endpoint
}

// way is how one source connects.
type way struct {
	Source
	v4, v6 netip.Addr
	via    *endpoint // nil: from here
}

// endpoint is one proxy.
type endpoint struct {
	ProxyOptions
	tls      *tls.Config // nil: in clear
	password string
}

// NewDialer checks the options, reads the files they name and returns a Dialer.
func NewDialer(o Options, d DialerDeps) (*Dialer, error) {
	dialer := &Dialer{d: d, dials: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "godwit_egress_dials_total",
		Help: "Connections opened, by proxy (empty: from this host) and result: connected (behind haproxy: asked for), failed and timed_out are the provider's, down is a proxy that cannot be reached, no_lease a permit that came too late, refused a proxy whose configuration differs from ours, cancelled one that was not needed any more."},
		[]string{"proxy", "result"})}
	if d.Registerer != nil {
		if err := d.Registerer.Register(dialer.dials); err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
	}
	return dialer, dialer.Reload(o)
}

// Reload puts o in force for connections to come. On an error nothing changes.
func (d *Dialer) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	w := &ways{timeout: o.ProxyTimeout.D(), sources: map[string]*way{}, proxies: map[string]*endpoint{}}
	for i, p := range o.Proxies {
		e, err := newEndpoint(p)
		if err != nil {
			return fmt.Errorf("proxies[%d].%w", i, err)
		}
		w.proxies[p.Name] = e
	}
	for _, s := range o.Sources {
		out := &way{Source: s}
		out.v4, out.v6 = s.Addresses()
		if e := w.proxies[s.Proxy]; e != nil && e.kind() != KindDirect {
			out.via = e
		}
		w.sources[s.Name] = out
	}
	if len(o.Sources) == 0 {
		w.sources[""] = &way{v4: d.d.LocalIPv4, v6: d.d.LocalIPv6}
	}
	d.ways.Store(w)
	return nil
}

// Dial opens one connection. It returns a *net.TCPConn unless the proxy is spoken to by TLS.
//
// An error that wraps mail.ErrNotTried says that nothing reached the provider
// and nothing is known about it; of these, ErrProxyDown says that no other connection
// through this proxy will do better. A *ConnectError is a proxy's word
// about the provider; errors of a direct connect are those of package net.
func (d *Dialer) Dial(ctx context.Context, r Request) (net.Conn, error) {
	w := d.ways.Load()
	s := w.sources[r.Source]
	if s == nil {
		return nil, errNoSource(r.Source)
	}
	proxy := ""
	if s.via != nil {
		proxy = s.via.Name
	}
	r.Addr = netip.AddrPortFrom(r.Addr.Addr().Unmap(), r.Addr.Port())
	local, err := s.local(r.Addr.Addr())
	var conn net.Conn
	if err == nil {
		switch {
		case s.via == nil:
			conn, err = direct(ctx, local, r.Addr)
		case s.via.kind() == KindSOCKS5:
			conn, err = w.socks(ctx, s, r)
		default:
			conn, err = d.header(ctx, w, s, local, r)
		}
	}
	d.dials.WithLabelValues(proxy, dialResult(err)).Inc()
	return conn, err
}

// local is the address to connect from. An invalid one leaves it to the
// system, which is right only for a source that names none at all.
func (s *way) local(to netip.Addr) (netip.Addr, error) {
	local := s.v4
	if to.Is6() {
		local = s.v6
	}
	if !local.IsValid() && s.Name != "" && (s.v4.IsValid() || s.v6.IsValid()) {
		family := "IPv4"
		if to.Is6() {
			family = "IPv6"
		}
		return local, fmt.Errorf("source %s has no %s address: %w", s.Name, family, syscall.EAFNOSUPPORT)
	}
	return local, nil
}

// direct connects from this host.
func direct(ctx context.Context, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{FallbackDelay: -1}
	if local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		dialer.Control = wire.BindNoPort
	}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if errors.Is(err, syscall.EADDRNOTAVAIL) && local.Is4() {
		// For IPv6 the caller tries IPv4 instead.
		return nil, fmt.Errorf("%w: %w", mail.ErrNotTried, err)
	}
	return conn, err
}

// reach connects to a proxy. What goes wrong is the proxy's fault, unless the caller gave up.
func (w *ways) reach(ctx context.Context, e *endpoint) (net.Conn, error) {
	within, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	dialer := net.Dialer{FallbackDelay: -1}
	conn, err := dialer.DialContext(within, "tcp", e.Address)
	if err == nil && e.tls != nil {
		t := tls.Client(conn, e.tls)
		if err = t.HandshakeContext(within); err != nil {
			_ = conn.Close()
		}
		conn = t
	}
	if err != nil {
		return nil, e.down(ctx, err)
	}
	return conn, nil
}

// down is the error for a proxy that failed.
func (e *endpoint) down(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %s at %s: %w", ErrProxyDown, e.Name, e.Address, err)
}

// header asks a godwit or haproxy proxy by a PROXY v2 header.
func (d *Dialer) header(ctx context.Context, w *ways, s *way, local netip.Addr, r Request) (net.Conn, error) {
	h := wire.Header{Source: local, Destination: r.Addr}
	conn, err := w.reach(ctx, s.via)
	if err != nil {
		return nil, err
	}
	godwit := s.via.kind() == KindGodwit
	if godwit {
		h.Version, h.Request, h.Leases, h.Node, h.Name = wire.Version, r.RequestID, r.Leases, d.d.Node, s.Name
		if deadline, ok := ctx.Deadline(); ok {
			h.Timeout = max(time.Until(deadline)-answerMargin, time.Millisecond)
		}
	}
	b, err := h.Bytes()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	stop := interrupt(ctx, conn)
	var a wire.Answer
	if _, err = conn.Write(b); err == nil && godwit {
		a, err = wire.ReadAnswer(conn)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		err = s.via.down(ctx, err)
	} else {
		err = s.via.verdict(a, r.Addr)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// interrupt makes conn fail when ctx ends. stop returns false if that happened.
func interrupt(ctx context.Context, conn net.Conn) (stop func() bool) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// Link opens a connection for the grant link to a proxy of kind godwit.
func (d *Dialer) Link(ctx context.Context, proxy string) (net.Conn, error) {
	w := d.ways.Load()
	e := w.proxies[proxy]
	if e == nil || e.kind() != KindGodwit {
		return nil, fmt.Errorf("proxy: %q is not a proxy of kind godwit", proxy)
	}
	return w.reach(ctx, e)
}

// expand fills the user name of a SOCKS5 proxy in.
func (s *way) expand(name string) string {
	bind := s.Bind
	if bind == "" {
		bind = s.Bind6
	}
	return strings.NewReplacer("{source}", s.Name, "{bind}", bind).Replace(name)
}
