package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// stopGrace is how long Stop waits, after its context has ended, for sessions that were cut off.
const stopGrace = 5 * time.Second

// Server runs the listeners. Its methods are safe for concurrent use.
type Server struct {
	deps     Deps
	log      *slog.Logger
	metrics  *metrics
	policy   atomic.Pointer[policy]
	failures failures

	mu        sync.Mutex
	started   bool
	stopped   bool
	endpoints []*endpoint // as in the options, in order
	retired   []*endpoint // closed, may have connections
	pairs     map[pairName]*keyPair
}

type pairName struct{ cert, key string }

// keyPair is a certificate that a reload can replace under open listeners.
type keyPair struct {
	current atomic.Pointer[tls.Certificate]
}

func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.current.Load(), nil }

// New checks the options, reads the files they name and returns a Server that
// does not listen yet.
func New(o Options, d Deps) (*Server, error) {
	if d.Door == nil || d.Hostname == "" {
		return nil, errors.New("smtpd: door and hostname are needed")
	}
	s := &Server{deps: d.withDefaults(o), pairs: make(map[pairName]*keyPair)}
	s.log = s.deps.Logger
	var err error
	if s.metrics, err = newMetrics(s, d.Registerer); err != nil {
		return nil, fmt.Errorf("smtpd: %w", err)
	}
	if err := s.Reload(o); err != nil {
		return nil, err
	}
	return s, nil
}

// Start opens all listeners, or none.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.stopped {
		return errors.New("smtpd: was started before")
	}
	if err := s.open(ctx, s.endpoints); err != nil {
		return err
	}
	s.started = true
	for _, e := range s.endpoints {
		s.launch(e)
	}
	return nil
}

// open opens the listeners of es, or none of them.
func (s *Server) open(ctx context.Context, es []*endpoint) error {
	for i, e := range es {
		ln, err := s.deps.Listen(ctx, e.state.Address)
		if err != nil {
			for _, opened := range es[:i] {
				_ = opened.ln.Close()
				opened.ln = nil
			}
			return fmt.Errorf("smtpd: %w", err)
		}
		e.ln = ln
	}
	return nil
}

func (s *Server) launch(e *endpoint) {
	ln := e.ln
	s.log.Info("smtp listening", "address", ln.Addr().String(), "tls", e.state.TLS, "submission", e.state.Submission)
	e.wg.Go(func() { e.run(ln) })
}

// Addrs are the addresses listened on, in the order of the options; nil before Start.
func (s *Server) Addrs() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []net.Addr
	for _, e := range s.endpoints {
		if e.ln != nil {
			list = append(list, e.ln.Addr())
		}
	}
	return list
}

// Conns is the number of open connections.
func (s *Server) Conns() int {
	n := 0
	for _, e := range s.all() {
		n += e.gate.count()
	}
	return n
}

func (s *Server) all() []*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(append([]*endpoint(nil), s.endpoints...), s.retired...)
}

// ServeConn serves a connection as if listener i (in the order of the options)
// had accepted it, and returns when it is closed.
func (s *Server) ServeConn(i int, nc net.Conn) {
	s.mu.Lock()
	e := s.endpoints[i]
	s.mu.Unlock()
	if e.admit(nc) {
		e.serve(nc)
	}
}

// Reload puts o in force. If anything in it is wrong, an error says what and
// nothing has changed. PasswordCache counts at New only.
func (s *Server) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	p, err := newPolicy(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("smtpd: is stopped")
	}
	certs, err := s.loadCerts(&o)
	if err != nil {
		return err
	}
	plan, err := s.plan(&o, certs)
	if err != nil {
		return err
	}
	if s.started {
		if err := s.open(context.Background(), plan.added); err != nil {
			return err
		}
	}
	s.policy.Store(p)
	for name, pair := range certs {
		s.pairs[name] = pair.keyPair
		pair.keyPair.current.Store(pair.cert)
	}
	s.carryOut(plan)
	return nil
}

// plan is what a reload will do to the listeners.
type plan struct {
	endpoints []*endpoint
	states    []*state // for the same index of endpoints; nil for one of added
	added     []*endpoint
	removed   []*endpoint
}

// plan finds for each listener of o the endpoint that has its address.
func (s *Server) plan(o *Options, certs map[pairName]loadedPair) (*plan, error) {
	have := map[string]*endpoint{}
	for _, e := range s.endpoints {
		have[e.key] = e
	}
	p := &plan{}
	count := map[string]int{}
	for i, l := range o.Listeners {
		st, err := s.newState(o, l, certs[l.pair(o)].keyPair)
		if err != nil {
			return nil, fmt.Errorf("listeners[%d]: %w", i, err)
		}
		key := l.Address
		if count[l.Address]++; count[l.Address] > 1 { // several with port 0
			key += "#" + strconv.Itoa(count[l.Address])
		}
		e := have[key]
		if e != nil {
			delete(have, key)
			p.states = append(p.states, st)
		} else {
			e = &endpoint{srv: s, key: key, state: st, pending: make(map[net.Conn]struct{})}
			p.added = append(p.added, e)
			p.states = append(p.states, nil)
		}
		p.endpoints = append(p.endpoints, e)
	}
	for _, e := range have {
		p.removed = append(p.removed, e)
	}
	return p, nil
}

func (s *Server) carryOut(p *plan) {
	for i, e := range p.endpoints {
		if p.states[i] != nil {
			e.change(p.states[i])
		} else if s.started {
			s.launch(e)
		}
	}
	s.endpoints = p.endpoints
	kept := s.retired[:0]
	for _, e := range append(s.retired, p.removed...) {
		if err := e.close(); err != nil {
			s.log.Warn("listener did not close", "error", err)
		}
		if e.gate.count() > 0 {
			kept = append(kept, e)
		}
	}
	s.retired = kept
}

// pair names the certificate of l; empty for none.
func (l Listener) pair(o *Options) pairName {
	switch {
	case l.TLS == TLSNone:
		return pairName{}
	case l.CertFile != "":
		return pairName{l.CertFile, l.KeyFile}
	}
	return pairName{o.CertFile, o.KeyFile}
}

type loadedPair struct {
	*keyPair
	cert *tls.Certificate
}

// loadCerts reads every certificate that o uses. Nothing is in force yet,
// except that a new keyPair has its first certificate.
func (s *Server) loadCerts(o *Options) (map[pairName]loadedPair, error) {
	out := map[pairName]loadedPair{}
	for i, l := range o.Listeners {
		name := l.pair(o)
		if _, done := out[name]; done || name.cert == "" {
			continue
		}
		cert, err := tls.LoadX509KeyPair(name.cert, name.key)
		if err != nil {
			return nil, fmt.Errorf("listeners[%d].cert_file: %w", i, err)
		}
		if now := s.deps.Now(); cert.Leaf != nil && now.After(cert.Leaf.NotAfter) {
			s.log.Warn("certificate has expired", "file", name.cert, "not_after", cert.Leaf.NotAfter)
		}
		pair := s.pairs[name]
		if pair == nil {
			pair = &keyPair{}
			pair.current.Store(&cert)
		}
		out[name] = loadedPair{pair, &cert}
	}
	return out, nil
}

// blocked reports whether addr has used up its failed logins.
func (s *Server) blocked(addr netip.Addr) bool {
	o := &s.policy.Load().opts
	return s.failures.count(clientKey(addr), s.deps.Now(), o.AuthWindow.D()) >= o.AuthFailures
}

// Stop closes the listeners, lets transactions end, tells idle connections 421, and
// returns when all are gone. When ctx ends before, the rest is cut off and its
// error returned. A second call does the same again.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	var group sync.WaitGroup
	for _, e := range s.all() {
		if err := e.close(); err != nil {
			s.log.Warn("listener did not close", "error", err)
		}
		e.abandon()
		for _, p := range e.protos() {
			group.Go(func() { _ = p.Shutdown(ctx) }) // its error is ctx's
		}
	}
	group.Wait()
	done := make(chan struct{})
	go func() {
		for _, e := range s.all() {
			e.wg.Wait()
		}
		close(done)
	}()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
		return errors.Join(ctx.Err(), errors.New("smtpd: sessions did not end"))
	}
	return ctx.Err()
}
