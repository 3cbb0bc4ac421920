// Package server is the Godwit proxy: it owns sending addresses, and
// connects from them to providers for the nodes that ask.
//
// One port serves two kinds of connections, told apart by their first byte.
// A grant link carries permits and goes to Deps.Control. A data connection
// begins with a PROXY v2 header (package wire) and then belongs to one
// connection to one provider:
//
//	accept | header | our address? | permits claimed | connect | answer | relay
//
// Permits are claimed before the connect and released when the provider's side
// has ended, so the authority counts every connection that a provider
// may see. A connection that the provider closed is over at once; for one that
// we had to cut, the authority waits a little longer.
//
// Two goroutines serve a connection. Neither holds a buffer while it waits.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/proxy/wire"
	"github.com/godwit-mta/godwit/throttle"
)

// Leases are the permits for connections. throttle.Keeper implements it, with Options.Claims set.
type Leases interface {
	// Claim turns a granted permit into a connection. It is false for one
	// that was not granted, was claimed before or has lapsed.
	Claim(lease uint64) (throttle.Key, bool)
	// Release ends it. clean: the provider knows that it ended.
	Release(lease uint64, clean bool)
	// Drain stops, or resumes, granting.
	Drain(on bool)
}

// Saver are counts that survive a restart. throttle.Keeper implements it.
type Saver interface {
	Save() ([]byte, error)
	Restore([]byte) error
}

// Deps is what a Server needs from others.
type Deps struct {
	// Leases may be nil if no permits are required.
	Leases Leases
	// Control serves a grant link until it ends; ctx ends when the proxy drains. Nil: they are closed.
	Control func(ctx context.Context, conn net.Conn)
	// Saver, if not nil, is kept in Options.StateFile.
	Saver Saver
	// Listen opens a listener; nil for TCP.
	Listen     func(ctx context.Context, address string) (net.Listener, error)
	FS         faultfs.FS            // nil is the system's
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil is none
}

// Server is a proxy. Its methods are safe for concurrent use.
type Server struct {
	d       Deps
	log     *slog.Logger
	conf    atomic.Pointer[config]
	metrics *metrics
	keys    keyCounts
	dialer  net.Dialer
	buffers sync.Pool // of *[]byte, relayBuffer long: a connection that waits holds none

	serving  context.Context // ends when connections are to be cut
	cut      context.CancelFunc
	controls context.Context // ends when grant links are to be closed
	unlink   context.CancelFunc

	draining  atomic.Bool
	wg        sync.WaitGroup // accept loops, connections, sweeper
	listeners []net.Listener

	mu      sync.Mutex
	started bool
	stopped bool
	fresh   map[net.Conn]struct{} // before the header, or grant links
	conns   map[*conn]struct{}
	empty   chan struct{} // closed when draining and the last of conns has gone
}

// config is what a reload replaces. A connection keeps the one it began with.
type config struct {
	Options
	sources   *sources
	ports     map[uint16]bool // nil: any
	listeners []guard         // by index of Options.Listeners
}

// guard says who may come in by a listener.
type guard struct {
	networks []netip.Prefix // none: all who have a certificate
	tls      *tls.Config    // nil: in clear
}

// New checks the options and reads the files they name.
func New(o Options, d Deps) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.RequireLease && d.Leases == nil {
		return nil, errors.New("proxy server: Leases are needed")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.FS == nil {
		d.FS = faultfs.OS{}
	}
	if d.Listen == nil {
		d.Listen = listenTCP
	}
	s := &Server{d: d, log: d.Logger, fresh: map[net.Conn]struct{}{}, conns: map[*conn]struct{}{},
		empty: make(chan struct{}), keys: keyCounts{open: map[throttle.Key]int{}}}
	c, err := newConfig(o, nil)
	if err != nil {
		return nil, err
	}
	s.conf.Store(c)
	s.buffers.New = func() any { b := make([]byte, relayBuffer); return &b }
	s.dialer = net.Dialer{Control: wire.BindNoPort, FallbackDelay: -1}
	s.serving, s.cut = context.WithCancel(context.Background())
	s.controls, s.unlink = context.WithCancel(s.serving)
	if s.metrics, err = newMetrics(s, d.Registerer); err != nil {
		return nil, fmt.Errorf("proxy server: %w", err)
	}
	return s, s.restore()
}

// listenTCP leaves multipath TCP out: nodes do not use it, and it is a layer more for each byte.
func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

// Start opens all listeners, or none.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.stopped {
		return errors.New("proxy server: was started before")
	}
	for _, l := range s.conf.Load().Listeners {
		ln, err := s.d.Listen(ctx, l.Address)
		if err != nil {
			for _, opened := range s.listeners {
				_ = opened.Close()
			}
			s.listeners = nil
			return fmt.Errorf("proxy server: %w", err)
		}
		s.listeners = append(s.listeners, ln)
	}
	s.started = true
	for i, ln := range s.listeners {
		s.log.Info("proxy listening", "address", ln.Addr().String(), "tls", s.conf.Load().listeners[i].tls != nil)
		s.wg.Go(func() { s.accept(i, ln) })
	}
	s.wg.Go(s.sweep)
	s.wg.Go(s.saveOften)
	return nil
}

// Addrs are the addresses listened on, in the order of the options; nil before Start.
func (s *Server) Addrs() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []net.Addr
	for _, ln := range s.listeners {
		list = append(list, ln.Addr())
	}
	return list
}

// accept takes connections until the listener is closed.
func (s *Server) accept(i int, ln net.Listener) {
	delay := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 5 * time.Millisecond
			s.admit(i, nc)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			s.log.Error("proxy accept failed", "address", ln.Addr().String(), "error", err, "retry_in", delay)
			select {
			case <-time.After(delay): // out of file descriptors or the like
			case <-s.serving.Done():
				return
			}
			delay = min(2*delay, time.Second)
		}
	}
}

// admit lets a connection in, if it comes from where nodes are and there is room.
func (s *Server) admit(i int, nc net.Conn) {
	conf := s.conf.Load()
	g := conf.listeners[i]
	reason := ""
	s.mu.Lock()
	switch {
	case !g.allows(nc.RemoteAddr()):
		reason = "network"
	case s.stopped:
		reason = "stopped"
	case len(s.fresh)+len(s.conns) >= conf.MaxConnections:
		reason = "busy"
	default:
		s.fresh[nc] = struct{}{}
		s.wg.Go(func() { s.serve(conf, g, nc) })
	}
	s.mu.Unlock()
	if reason != "" {
		s.refused(nc, reason, nil)
		_ = nc.Close()
	}
}

func (g guard) allows(a net.Addr) bool {
	if len(g.networks) == 0 {
		return true
	}
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(g.networks, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// refused notes a connection that got no further than its first bytes.
func (s *Server) refused(nc net.Conn, reason string, err error) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	s.log.Warn("proxy connection refused", "peer", nc.RemoteAddr().String(), "reason", reason, "error", err)
}

// Drain ends politely: no permits are granted and grant links close, new data
// connections are answered that we are draining, and sessions go on until they
// end, DrainTimeout is over or ctx ends. Then Drain stops the server.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	if !s.draining.Swap(true) {
		s.log.Info("proxy draining", "connections", len(s.conns))
		if s.d.Leases != nil {
			s.d.Leases.Drain(true)
		}
		s.unlink()
		if len(s.conns) == 0 {
			close(s.empty)
		}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.conf.Load().DrainTimeout.D())
	defer cancel()
	select {
	case <-s.empty:
	case <-ctx.Done():
		s.log.Warn("proxy drain ran out of time", "connections", s.Conns())
	}
	return s.Stop()
}

// Stop cuts every connection, waits for their goroutines and saves the counts.
func (s *Server) Stop() error {
	s.mu.Lock()
	first := !s.stopped
	s.stopped = true
	if first && s.started {
		for _, ln := range s.listeners {
			_ = ln.Close()
		}
	}
	s.cut()
	for nc := range s.fresh {
		_ = nc.Close()
	}
	for c := range s.conns {
		c.abort()
	}
	s.mu.Unlock()
	s.wg.Wait()
	if !first {
		return nil
	}
	return s.save()
}

// Conns is the number of data connections whose header was accepted.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
