package adminapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
)

// Deps is what a Server needs.
type Deps struct {
	Inspector Inspector
	Suspender Suspender
	Changer   Changer
	Mover     Mover
	Node      Node
	// What follows may be nil; then its endpoints answer 501.
	Explainer Explainer
	Egress    Egress
	Orders    Orders
	Cluster   Cluster
	Handoff   Handoff
	Pipeline  Pipeline

	// PeerToken is by what other members of the cluster are known; they may import messages. Empty: by nothing.
	PeerToken string

	Level   *slog.LevelVar // of the program's logger
	Version string         // for the OpenAPI document
	Logger  *slog.Logger
}

// Server is the admin API. It is safe for concurrent use.
type Server struct {
	deps     Deps
	log      *slog.Logger
	state    atomic.Pointer[state]
	filters  *wire.Decoder[FilterRequest]
	reasons  *wire.Decoder[ReasonRequest]
	suspends *wire.Decoder[SuspendRequest]
	levels   *wire.Decoder[LogLevel]
	orders   *wire.Decoder[OrderRequest]
	handoffs *wire.Decoder[HandoffRequest]
	acts     *wire.Decoder[PipelineAct]
	queries  *wire.Decoder[SQLRequest]
	doc      *openapi.Document
	handler  http.Handler
	running  *wire.Server
}

// state is what Reload replaces.
type state struct {
	opts   Options
	keys   *wire.Keyring
	bodies *wire.Bodies
}

// New returns a Server that does not listen yet. The error names the option at fault.
func New(o Options, d Deps) (*Server, error) {
	if d.Inspector == nil || d.Suspender == nil || d.Changer == nil || d.Mover == nil || d.Node == nil || d.Level == nil {
		return nil, errors.New("adminapi: a dependency is missing")
	}
	s := &Server{deps: d, log: d.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.Reload(o); err != nil {
		return nil, err
	}
	if err := s.decoders(); err != nil {
		return nil, fmt.Errorf("adminapi: %w", err)
	}
	endpoints := s.endpoints()
	var err error
	if s.doc, err = document(d.Version, endpoints); err != nil {
		return nil, err
	}
	s.handler = wire.Guard(wire.Mux(s.routes(endpoints)), s.log)
	s.running = wire.NewServer(s.handler, s.log)
	return s, nil
}

func (s *Server) decoders() (err error) {
	if s.filters, err = wire.NewDecoder[FilterRequest](); err != nil {
		return err
	}
	if s.reasons, err = wire.NewDecoder[ReasonRequest](); err != nil {
		return err
	}
	if s.suspends, err = wire.NewDecoder[SuspendRequest](); err != nil {
		return err
	}
	if s.orders, err = wire.NewDecoder[OrderRequest](); err != nil {
		return err
	}
	if s.handoffs, err = wire.NewDecoder[HandoffRequest](); err != nil {
		return err
	}
	if s.acts, err = wire.NewDecoder[PipelineAct](); err != nil {
		return err
	}
	if s.queries, err = wire.NewDecoder[SQLRequest](); err != nil {
		return err
	}
	s.levels, err = wire.NewDecoder[LogLevel]()
	return err
}

// How other members of the cluster are called in logs, and what marks their credential.
const (
	peerName  = "cluster"
	scopePeer = "peer"
)

// Reload takes new options without dropping a connection. Changed listen
// addresses and limits of listeners hold for those started later.
func (s *Server) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	credentials, err := o.credentials()
	if err != nil {
		return err
	}
	if t := s.deps.PeerToken; t != "" {
		credentials = append(credentials, wire.Credential{Name: peerName, SHA256: sha256.Sum256([]byte(t)), Scopes: []string{scopePeer}})
	}
	next := &state{opts: o, keys: wire.NewKeyring(credentials, o.AuthFailures, o.AuthWindow.D()),
		bodies: wire.NewBodies(int64(o.MaxRequest), 16*int64(o.MaxRequest), time.Second)}
	if old := s.state.Load(); old != nil && old.opts.AuthFailures == o.AuthFailures && old.opts.AuthWindow == o.AuthWindow {
		next.keys = old.keys.Replace(credentials)
	}
	s.state.Store(next)
	return nil
}

// Handler serves the API, for a listener of one's own.
func (s *Server) Handler() http.Handler { return s.handler }

// OpenAPI is the document that the server offers.
func (s *Server) OpenAPI() *openapi.Document { return s.doc }

// Start listens on Options.Listen and serves in the background. When one
// address cannot be had, none is served.
func (s *Server) Start() error {
	return s.running.Start(s.state.Load().opts.Listen, s.bounds())
}

// Serve serves ln, like those that Start opens.
func (s *Server) Serve(ln net.Listener) { s.running.Serve(ln, s.bounds()) }

// Addrs lists the addresses that are being served.
func (s *Server) Addrs() []net.Addr { return s.running.Addrs() }

// Stop takes no more requests and waits for those under way until ctx ends,
// then breaks them off. A second call does nothing.
func (s *Server) Stop(ctx context.Context) error { return s.running.Stop(ctx) }

// bounds are for requests that no handler has taken yet: exports are long, so
// the handlers give more time as long as the peer goes on.
func (s *Server) bounds() wire.ServerOptions {
	o := s.state.Load().opts
	return wire.ServerOptions{MaxConnections: o.MaxConnections, HeaderTimeout: o.HeaderTimeout.D(),
		ReadTimeout: o.StallTimeout.D(), WriteTimeout: o.StallTimeout.D(), IdleTimeout: o.IdleTimeout.D()}
}
