// Package httpd takes mail by HTTP. A request passes these steps:
//
//  1. The key in its Authorization field names the tenant (wire.Keyring).
//  2. Its body is read within bounds, decompressed, and decoded once, strictly
//     (wire.Bodies, wire.Decoder). Substitutions stay the JSON that they are.
//  3. With an Idempotency-Key, a receipt of the same key is looked for; requests
//     with one key pass one after the other, so that two at the same time make one batch.
//  4. What can be checked without the queue is checked (check.go, content.go,
//     rows.go): a refused recipient is left out and reported, the others go on.
//  5. Injector.Batch returns when the batch is durable; only then comes the 202.
//
// The wire types are in mta/injectapi. Every response outside 2xx is the error
// document of package wire. The OpenAPI document is made from the table in
// routes.go that the handlers are registered from.
package httpd

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
	"github.com/prometheus/client_golang/prometheus"
)

// Injector stores messages and contents; *accept.Door is one. Errors are *accept.Error.
type Injector interface {
	// Batch is durable when it returns without error.
	Batch(ctx context.Context, req *accept.Request) (accept.Accepted, error)
	// Content stores a body to refer to and tells until when it can be.
	Content(ctx context.Context, tenant string, body *mail.Body) (mail.ID, time.Time, error)

	// ContentOnce is Content with a receipt under key in the same durable
	// write; answer makes what it remembers.
	ContentOnce(ctx context.Context, tenant string, body *mail.Body, key string, digest [32]byte,
		answer func(id mail.ID, until time.Time) []byte) (mail.ID, time.Time, error)
}

// Store finds what was stored before; the queue implements it.
type Store interface {
	// Content returns the reference to a tenant's stored content; mail.ErrNotFound when there is none.
	Content(ctx context.Context, tenant string, id mail.ID) (mail.BodyRef, error)
	// Receipt returns what is remembered under an idempotency key; nil when nothing is.
	Receipt(ctx context.Context, tenant, key string) (*mail.Receipt, error)
	// Status tells what became of a tenant's message; mail.ErrNotFound when there is none.
	Status(ctx context.Context, tenant string, id mail.ID) (Status, error)
}

// Checker finds mistakes in a template before mail is made of it; a
// *render.Engine is one. The place of a mistake is taken from an error with the
// method Position() (line, column int).
type Checker interface {
	Check(src string, html bool) error
}

// The states of a message.
const (
	StateScheduled  = "scheduled"  // accepted for a later time
	StateQueued     = "queued"     // waiting for its first attempt
	StateDelivering = "delivering" // an attempt is under way
	StateDeferred   = "deferred"   // waiting for its next attempt
	StateDelivered  = "delivered"
	StateBounced    = "bounced"
	StateExpired    = "expired"
)

// Status is what a Store knows of a message.
type Status struct {
	ID          mail.ID
	Batch       mail.ID
	State       string // one of the State constants
	Recipient   string
	Accepted    time.Time
	Attempts    int
	NextAttempt time.Time // zero: none is due
	LastReply   string
	Events      []event.Event // oldest first
}

// Deps is what a Server needs.
type Deps struct {
	Injector   Injector
	Store      Store
	Checker    Checker // nil: template syntax is not checked here
	Version    string  // of the program, for the OpenAPI document
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server is HTTP injection. It is safe for concurrent use.
type Server struct {
	deps     Deps
	log      *slog.Logger
	metrics  *metrics
	now      func() time.Time
	state    atomic.Pointer[state]
	flights  wire.Flights
	contents *wire.Decoder[injectapi.Content]
	messages *wire.Decoder[injectapi.MessagesRequest]
	doc      *openapi.Document
	handler  http.Handler
	running  *wire.Server
}

// state is what Reload replaces.
type state struct {
	opts   Options
	keys   *wire.Keyring
	bodies *wire.Bodies
	cert   *tls.Certificate // nil: plain HTTP
}

// New returns a Server that does not listen yet. The error names the option at fault.
func New(o Options, d Deps) (*Server, error) {
	s := &Server{deps: d, log: d.Logger, now: time.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.Reload(o); err != nil {
		return nil, err
	}
	var err error
	if s.contents, err = wire.NewDecoder[injectapi.Content](); err != nil {
		return nil, fmt.Errorf("httpd: %w", err)
	}
	if s.messages, err = wire.NewDecoder[injectapi.MessagesRequest](); err != nil {
		return nil, fmt.Errorf("httpd: %w", err)
	}
	if s.metrics, err = newMetrics(d.Registerer, func() float64 { return float64(s.state.Load().bodies.Held()) }); err != nil {
		return nil, fmt.Errorf("httpd: %w", err)
	}
	endpoints := s.endpoints()
	if s.doc, err = document(d.Version, endpoints); err != nil {
		return nil, err
	}
	s.handler = wire.Guard(wire.Mux(s.routes(endpoints)), s.log)
	s.running = wire.NewServer(s.handler, s.log)
	return s, nil
}

// Reload takes new options without dropping a connection. Changed listen
// addresses, timeouts and max_connections hold for listeners started later.
func (s *Server) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	credentials, err := o.credentials()
	if err != nil {
		return err
	}
	next := &state{opts: o, bodies: wire.NewBodies(int64(o.MaxRequest), int64(o.Memory), o.RetryAfter.D())}
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

// OpenAPI is the document that the server offers at /openapi.json.
func (s *Server) OpenAPI() *openapi.Document { return s.doc }
