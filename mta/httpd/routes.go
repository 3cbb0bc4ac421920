package httpd

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// endpoint is an operation with what serves it.
type endpoint struct {
	openapi.Operation
	scope  string // "" needs no key
	handle func(c *call) *wire.Problem
}

// call is one request on its way through a handler.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	state *state
	key   *wire.Credential // nil for an open operation
}

func (s *Server) endpoints() []endpoint {
	idempotency := openapi.Param{Name: injectapi.HeaderIdempotencyKey, In: "header",
		Doc: "Up to 255 printable ASCII characters. For 24 hours another request with this key and the same body gets the same answer, one with another body 422."}
	post := []int{400, 401, 403, 408, 413, 415, 422, 429, 500, 503}
	return []endpoint{
		{scope: ScopeInject, handle: s.postContents, Operation: openapi.Operation{
			Method: http.MethodPost, Path: injectapi.PathContents, ID: "storeContent",
			Summary: "Store a content that later batches refer to.",
			Params:  []openapi.Param{idempotency}, Request: injectapi.Content{},
			Responses: append(openapi.Statuses(post...), openapi.Response{Status: 201, Doc: "Stored, durably.",
				Body: injectapi.ContentResponse{}, Header: []string{injectapi.HeaderIdempotencyReplayed}}),
		}},
		{scope: ScopeInject, handle: s.postMessages, Operation: openapi.Operation{
			Method: http.MethodPost, Path: injectapi.PathMessages, ID: "injectMessages",
			Summary: "Inject one message or a batch that shares a content.",
			Params:  []openapi.Param{idempotency}, Request: injectapi.MessagesRequest{},
			Responses: append(openapi.Statuses(post...), openapi.Response{Status: 202,
				Doc:  "Accepted, durably: every message listed will be delivered, bounced or expire.",
				Body: injectapi.MessagesResponse{}, Header: []string{injectapi.HeaderIdempotencyReplayed}}),
		}},
		{scope: ScopeRead, handle: s.getMessage, Operation: openapi.Operation{
			Method: http.MethodGet, Path: injectapi.PathMessage, ID: "getMessage",
			Summary: "Tell what became of a message, for at least 7 days after its end.",
			Params:  []openapi.Param{{Name: "id", In: "path", Doc: "Id of the message."}},
			Responses: append(openapi.Statuses(401, 403, 404, 429, 500, 503),
				openapi.Response{Status: 200, Doc: "The message.", Body: injectapi.Status{}}),
		}},
		{handle: s.getOpenAPI, Operation: openapi.Operation{
			Method: http.MethodGet, Path: injectapi.PathOpenAPI, ID: "getOpenAPI", Open: true,
			Summary:   "This document.",
			Responses: []openapi.Response{{Status: 200, Doc: "OpenAPI 3.1.", Type: "application/json"}},
		}},
	}
}

func document(version string, endpoints []endpoint) (*openapi.Document, error) {
	ops := make([]openapi.Operation, len(endpoints))
	for i, e := range endpoints {
		ops[i] = e.Operation
	}
	return openapi.Build(openapi.Info{
		Title: "Godwit injection API", Version: version, Error: wire.Document{},
		Description: "Inject mail and learn what became of it. Bodies are JSON in UTF-8, compressed by gzip if you like. " +
			"Unknown fields are errors. Times are RFC 3339.",
		Auth: "An API key of a tenant.",
	}, ops)
}

func (s *Server) routes(endpoints []endpoint) []wire.Route {
	routes := make([]wire.Route, len(endpoints))
	for i, e := range endpoints {
		routes[i] = wire.Route{Method: e.Method, Path: e.Path, Handle: s.serve(e)}
	}
	return routes
}

// serve wraps the handler of an endpoint with authentication, errors and metrics.
func (s *Server) serve(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := s.now()
		c := &call{w: &statusWriter{ResponseWriter: w, status: http.StatusOK}, r: r, state: s.state.Load()}
		p := s.authorize(c, e.scope)
		if p == nil {
			p = e.handle(c)
		}
		if p != nil {
			p.Write(c.w)
		}
		s.metrics.done(e.ID, c.w.(*statusWriter).status, s.now().Sub(start))
	}
}

func (s *Server) authorize(c *call, scope string) *wire.Problem {
	if scope == "" {
		return nil
	}
	key, p := c.state.keys.Authenticate(c.r)
	if p != nil {
		if p.Status == http.StatusUnauthorized { // beyond the limit, only the metric counts
			s.log.Warn("HTTP injection refused a key", "peer", c.r.RemoteAddr)
		}
		return p
	}
	if !key.Has(scope) && !key.Has(ScopeAdmin) {
		return wire.NewProblem(http.StatusForbidden, wire.CodeForbidden,
			fmt.Sprintf("this key does not have the scope %s", scope)).At("", "Authorization")
	}
	c.key = key
	return nil
}

// peer is the client's address; invalid for a Unix socket.
func (c *call) peer() netip.Addr {
	ap, err := netip.ParseAddrPort(c.r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// tls is version and cipher, "" in clear.
func (c *call) tls() string {
	if c.r.TLS == nil {
		return ""
	}
	return tls.VersionName(c.r.TLS.Version) + " " + tls.CipherSuiteName(c.r.TLS.CipherSuite)
}

func (s *Server) getOpenAPI(c *call) *wire.Problem {
	wire.WriteBytes(c.w, http.StatusOK, s.doc.JSON())
	return nil
}

func (s *Server) getMessage(c *call) *wire.Problem {
	id, err := mail.ParseID(c.r.PathValue("id"))
	if err != nil {
		return noMessage()
	}
	status, err := s.deps.Store.Status(c.r.Context(), c.key.Tenant, id)
	if err != nil {
		return s.storeProblem(c, err, noMessage())
	}
	wire.Write(c.w, http.StatusOK, wireStatus(status))
	return nil
}

func noMessage() *wire.Problem {
	return wire.NewProblem(http.StatusNotFound, wire.CodeNotFound, "no such message").At("", "id")
}

// statusWriter remembers the status for metrics.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
