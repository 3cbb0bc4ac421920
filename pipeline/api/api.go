// Package api is the HTTP API of the pipeline: the JSON:API shapes that clients of the Klaviyo API speak, and what
// those lack. A request passes these steps:
//
//  1. The key in its Authorization field names the tenant (wire.Keyring); both "Klaviyo-API-Key KEY" and "Bearer KEY" are understood.
//  2. The revision field must be there; requests are counted against the tenant's limits (package quota).
//  3. Query parameters are read against what the operation takes (jsonapi.ParseQuery), the body within bounds (wire.Bodies).
//  4. With an Idempotency-Key, a POST is claimed first (package receipts); repeats get the answer of the first.
//  5. Writes go to the Door, which is durable when it returns. What is answered from the profile waits until the stages
//     have applied the write, for wait_visible at most.
//
// Every response outside 2xx is jsonapi.ErrorDocument. The OpenAPI document is made from the tables (routes*.go) that
// the handlers are registered from. The package has more than twelve files because each kind of resource has its own.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/api/quota"
)

// Deps is what a Server needs.
type Deps struct {
	Door       Door
	Identities Identities
	Profiles   Profiles
	Counts     Counts
	Waiter     Waiter
	Receipts   Receipts
	Hooks      http.Handler // serves /hooks/, with authentication of its own; nil: there are none
	Warehouse  Warehouse    // nil: what only it can answer gets 501
	Version    string       // of the program, for the OpenAPI document
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server is the API. It is safe for concurrent use.
type Server struct {
	deps     Deps
	log      *slog.Logger
	metrics  *metrics
	decoders *decoders
	state    atomic.Pointer[state]
	requests wire.Flights // with one idempotency key
	creating wire.Flights // of one identifier
	doc      *openapi.Document
	handler  http.Handler
	running  *wire.Server
}

// state is what Reload replaces.
type state struct {
	opts   Options
	keys   *wire.Keyring
	bodies *wire.Bodies
	limits *quota.Limiter
	cert   *tls.Certificate // nil: plain HTTP
}

// New returns a Server that does not listen yet. The error names the option at fault.
func New(o Options, d Deps) (*Server, error) {
	if d.Door == nil || d.Identities == nil || d.Profiles == nil || d.Counts == nil || d.Waiter == nil || d.Receipts == nil {
		return nil, errors.New("api: a dependency is missing")
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	s := &Server{deps: d, log: d.Logger}
	var err error
	if s.decoders, err = newDecoders(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	endpoints := s.endpoints()
	if err := s.reload(o, endpoints); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(d.Registerer, func() float64 { return float64(s.state.Load().bodies.Held()) }); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	if s.doc, err = document(d.Version, endpoints); err != nil {
		return nil, err
	}
	s.handler = s.mux(endpoints)
	s.running = wire.NewServer(s.handler, s.log)
	return s, nil
}

// Reload takes new options without dropping a connection. Changed listen
// addresses, timeouts and max_connections hold for listeners started later. Counted requests are forgotten.
func (s *Server) Reload(o Options) error { return s.reload(o, s.endpoints()) }

func (s *Server) reload(o Options, endpoints []endpoint) error {
	if err := o.Validate(); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range endpoints {
		known[e.ID] = true
	}
	for i, r := range o.Limits {
		if err := r.Validate(func(id string) bool { return known[id] }); err != nil {
			return fmt.Errorf("limits: rule %d: %w", i+1, err)
		}
	}
	credentials, err := o.credentials()
	if err != nil {
		return err
	}
	next := &state{opts: o, limits: quota.New(o.Limits), bodies: wire.NewBodies(int64(o.MaxRequest), int64(o.Memory), o.RetryAfter.D())}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return fmt.Errorf("cert_file: %w", err)
		}
		next.cert = &cert
	}
	next.keys = wire.NewKeyring(credentials, o.AuthFailures, o.AuthWindow.D())
	if old := s.state.Load(); old != nil && old.opts.AuthFailures == o.AuthFailures && old.opts.AuthWindow == o.AuthWindow {
		next.keys = old.keys.Replace(credentials)
	}
	s.state.Store(next)
	return nil
}

// Handler serves the API, for a listener of one's own.
func (s *Server) Handler() http.Handler { return s.handler }

// OpenAPI is the document that the server offers at PathOpenAPI.
func (s *Server) OpenAPI() *openapi.Document { return s.doc }

// Start listens on Options.Listen and serves in the background, by HTTPS when
// a certificate is configured. When one address cannot be had, none is served.
func (s *Server) Start() error { return s.running.Start(s.state.Load().opts.Listen, s.bounds()) }

// Serve serves ln, like those that Start opens.
func (s *Server) Serve(ln net.Listener) { s.running.Serve(ln, s.bounds()) }

// Addrs lists the addresses that are being served.
func (s *Server) Addrs() []net.Addr { return s.running.Addrs() }

// Stop takes no more requests and waits for those under way until ctx ends,
// then breaks them off. A second call does nothing.
func (s *Server) Stop(ctx context.Context) error { return s.running.Stop(ctx) }

func (s *Server) bounds() wire.ServerOptions {
	st := s.state.Load()
	o := wire.ServerOptions{
		MaxConnections: st.opts.MaxConnections,
		HeaderTimeout:  st.opts.HeaderTimeout.D(),
		ReadTimeout:    st.opts.ReadTimeout.D(),
		WriteTimeout:   st.opts.ReadTimeout.D() + st.opts.WriteTimeout.D(), // counted from the header
		IdleTimeout:    st.opts.IdleTimeout.D(),
	}
	if st.cert != nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate}
	}
	return o
}

// certificate is asked for at each handshake, so that Reload renews it.
func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := s.state.Load().cert; cert != nil {
		return cert, nil
	}
	return nil, errors.New("no certificate is configured")
}
