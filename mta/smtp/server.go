package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// killGrace is how long a Shutdown whose context has ended still waits for
// connections that are saying 421.
const killGrace = time.Second

// Server serves connections. Make it with New; it is safe for concurrent use.
type Server struct {
	opt      Options
	deps     Deps
	log      *slog.Logger
	buffers  sync.Pool
	ids      atomic.Uint64
	draining atomic.Bool

	// Lock order: mu before a conn's mu.
	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	stop      chan struct{} // closed when draining begins
	gone      chan struct{} // closed when draining and no connection is left
}

// New checks opt and returns a Server that serves nothing yet.
func New(opt Options, deps Deps) (*Server, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	if deps.Backend == nil {
		return nil, errors.New("smtp: no backend")
	}
	if opt.ImplicitTLS && deps.TLS == nil {
		return nil, errors.New("implicit_tls: needs a certificate")
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		opt: opt, deps: deps, log: log,
		buffers:   sync.Pool{New: func() any { return new([bigBuffer]byte) }},
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		stop:      make(chan struct{}),
		gone:      make(chan struct{}),
	}, nil
}

// Serve accepts connections from l until Shutdown or Close, which close l;
// then it returns nil. It waits and tries again when accepting fails for
// want of file descriptors or the like.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		return errors.Join(l.Close())
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	delay := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		if err == nil {
			delay = 5 * time.Millisecond
			go s.ServeConn(nc)
			continue
		}
		if s.draining.Load() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("smtp: %w", err)
		}
		s.log.Error("smtp accept failed", "listener", l.Addr().String(), "error", err, "retry_in", delay)
		select {
		case <-time.After(delay):
			delay = min(2*delay, time.Second)
		case <-s.stop:
			return nil
		}
	}
}

// ServeConn serves one connection and returns when it is closed. nc may be a *tls.Conn,
// whose handshake is then done first.
func (s *Server) ServeConn(nc net.Conn) {
	c := s.newConn(nc)
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		c.cancel()
		_ = closeBelow(nc)
		return
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	c.serve()
}

func (s *Server) newConn(nc net.Conn) *conn {
	c := &conn{srv: s, opt: &s.opt, id: ConnID(s.ids.Add(1)), start: time.Now(), nc: nc}
	c.in.pool, c.in.buf = &s.buffers, c.in.small[:]
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if t, ok := nc.(*tls.Conn); ok {
		c.tls = t
	}
	return c
}

// Conns returns the number of open connections.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.draining.Load() && len(s.conns) == 0 {
		close(s.gone)
	}
}

// drain closes the listeners and returns the open connections. Only the first
// call does anything.
func (s *Server) drain() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining.Swap(true) {
		close(s.stop)
		for l := range s.listeners {
			_ = l.Close()
		}
		if len(s.conns) == 0 {
			close(s.gone)
		}
	}
	return s.all()
}

func (s *Server) all() []*conn {
	list := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		list = append(list, c)
	}
	return list
}

// Shutdown stops accepting. Connections that are idle get "421 4.3.2" at once,
// busy ones when their transaction has ended. It returns nil when all are
// gone. When ctx ends before, the rest is cut off: those waiting for a command still
// get the 421; Shutdown waits a second for that and returns ctx.Err().
func (s *Server) Shutdown(ctx context.Context) error {
	for _, c := range s.drain() {
		c.wake()
	}
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	left := s.all()
	s.mu.Unlock()
	for _, c := range left {
		c.kill()
	}
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case <-s.gone:
	case <-grace.C:
		_ = s.Close()
	}
	return ctx.Err()
}

// Close stops accepting and closes all connections without a reply. It does
// not wait for Sessions that are still at work.
func (s *Server) Close() error {
	for _, c := range s.drain() {
		c.cut()
	}
	return nil
}
