package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// endpoint is an operation with what serves it.
type endpoint struct {
	openapi.Operation
	scope  string // "" needs neither key nor revision
	query  jsonapi.Spec
	handle func(c *call) (answer, error)
}

// call is one request on its way through a handler.
type call struct {
	ctx    context.Context
	w      http.ResponseWriter
	r      *http.Request
	state  *state
	tenant string
	key    string // name of the API key
	body   []byte
	query  jsonapi.Query
	at     time.Time // accepted, to the millisecond
	// With an idempotency key: what ids are derived from, and whether the work was begun before. Without one seed is "".
	seed  string
	again bool
}

// answer is a success.
type answer struct {
	status int
	body   any    // encoded as JSON; nil: none
	raw    []byte // or what is encoded already
}

func (a answer) encode() []byte {
	if a.body == nil {
		return a.raw
	}
	b, err := json.Marshal(a.body)
	if err != nil { // the types of this package can all be encoded
		return nil
	}
	return b
}

// mux serves the endpoints and nothing else: an unknown path is a 404, another method of a known one a 405.
func (s *Server) mux(endpoints []endpoint) http.Handler {
	mux := http.NewServeMux()
	allow := map[string][]string{}
	for _, e := range endpoints {
		mux.HandleFunc(e.Method+" "+e.Path, s.serve(e))
		allow[e.Path] = append(allow[e.Path], e.Method)
		if e.Method == http.MethodGet {
			allow[e.Path] = append(allow[e.Path], http.MethodHead)
		}
	}
	for path, methods := range allow {
		slices.Sort(methods)
		list := strings.Join(methods, ", ")
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", list)
			jsonapi.WriteErrors(w, jsonapi.Errors{{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Title: "Method not allowed.", Detail: "this path takes " + list}})
		})
	}
	if s.deps.Hooks != nil {
		mux.Handle("/hooks/", s.deps.Hooks)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		jsonapi.WriteErrors(w, jsonapi.Errors{jsonapi.NotFound("no such path")})
	})
	return mux
}

// serve wraps the handler of an endpoint with all that they have in common.
func (s *Server) serve(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := s.deps.Now()
		c := &call{ctx: r.Context(), w: &statusWriter{ResponseWriter: w}, r: r, state: s.state.Load(), at: start.Truncate(time.Millisecond).UTC()}
		a, err := s.guarded(e, c)
		if err != nil {
			s.fail(c, err)
		} else {
			jsonapi.Write(c.w, a.status, a.encode())
		}
		s.metrics.done(e.ID, c.w.(*statusWriter).status, s.deps.Now().Sub(start))
	}
}

// guarded turns a panic of a handler into an error. Handlers do not write, so nothing was sent yet.
func (s *Server) guarded(e endpoint, c *call) (a answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("API handler panicked", "operation", e.ID, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	return s.pass(e, c)
}

var errPanic = errors.New("api: a handler panicked")

func (s *Server) pass(e endpoint, c *call) (answer, error) {
	if e.scope == "" {
		return e.handle(c)
	}
	if err := s.authorize(c, e); err != nil {
		return answer{}, err
	}
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return answer{}, jsonapi.Invalid("", "the query cannot be read: it has a %% or ; that is not escaped")
	}
	if c.query, err = jsonapi.ParseQuery(values, e.query); err != nil {
		return answer{}, err
	}
	if e.Request == nil {
		return e.handle(c)
	}
	body, p := c.read()
	if p != nil {
		return answer{}, s.problem(c, p)
	}
	defer body.Release()
	c.body = body.Bytes
	if e.Method == http.MethodPost {
		return s.once(c, e.handle)
	}
	return e.handle(c)
}

// read takes the body. wire.Bodies knows JSON by one name only.
func (c *call) read() (*wire.Body, *wire.Problem) {
	kind, params, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	if strings.EqualFold(strings.TrimSpace(kind), jsonapi.MediaType) {
		c.r.Header.Set("Content-Type", strings.TrimSuffix("application/json;"+params, ";"))
	}
	return c.state.bodies.Read(c.w, c.r)
}

// authorize finds the tenant, wants a revision and counts the request.
func (s *Server) authorize(c *call, e endpoint) error {
	if scheme, key, ok := strings.Cut(c.r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Klaviyo-API-Key") {
		c.r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(key))
	}
	key, p := c.state.keys.Authenticate(c.r)
	if p != nil {
		if p.Status == http.StatusUnauthorized { // beyond the limit, only the metric counts
			s.log.Warn("API refused a key", "peer", c.r.RemoteAddr)
			p.Errors[0].Detail = "send a valid key as Authorization: Klaviyo-API-Key KEY, or Bearer KEY"
		}
		return s.problem(c, p)
	}
	c.tenant, c.key = key.Tenant, key.Name
	if !key.Has(e.scope) {
		return &jsonapi.Error{Status: http.StatusForbidden, Code: "permission_denied", Title: "The key does not allow this.",
			Parameter: "Authorization", Detail: fmt.Sprintf("this key does not have the scope %s", e.scope)}
	}
	if err := s.limit(c, e.ID); err != nil {
		return err
	}
	return revision(c.r.Header.Get("Revision"))
}

// revisions are dates, perhaps with a suffix such as .pre.
var revisions = regexp.MustCompile(`^20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9](\.[a-z0-9]{1,16})?$`)

// revision checks that the client says which revision of the API it was written for. All are answered alike.
func revision(value string) error {
	if revisions.MatchString(value) {
		return nil
	}
	detail := fmt.Sprintf("%q is not the date of a revision, such as 2026-07-15", value)
	if value == "" {
		detail = "the header field revision is required: the date of the revision that you are written for, such as 2026-07-15"
	}
	return jsonapi.BadParameter("revision", "%s", detail)
}

// limit counts the request and tells the client where it stands.
func (s *Server) limit(c *call, operation string) error {
	v := c.state.limits.Take(c.tenant, operation, s.deps.Now())
	if !v.Limited {
		return nil
	}
	wait := strconv.Itoa(int(math.Ceil(v.Reset.Seconds())))
	h := c.w.Header()
	h.Set("RateLimit-Limit", strconv.Itoa(v.Limit))
	h.Set("RateLimit-Remaining", strconv.Itoa(v.Remaining))
	h.Set("RateLimit-Reset", wait)
	if v.OK {
		return nil
	}
	h.Set("Retry-After", wait)
	return &jsonapi.Error{Status: http.StatusTooManyRequests, Code: "throttled", Title: "Too many requests.",
		Detail: fmt.Sprintf("expected to be available again in %s s", wait)}
}

// problem puts a refusal of package wire into this API's form, header fields included.
func (s *Server) problem(c *call, p *wire.Problem) error {
	for name, values := range p.Header {
		c.w.Header()[name] = values
	}
	if p.RetryAfter > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	out := make(jsonapi.Errors, len(p.Errors))
	for i, e := range p.Errors {
		out[i] = &jsonapi.Error{Status: p.Status, Code: e.Code, Title: e.Title + ".", Detail: e.Detail, Parameter: e.Field}
	}
	return out
}

// fail answers an error. One that is not about the request is logged, and the client learns no more than that.
func (s *Server) fail(c *call, err error) {
	errs := jsonapi.Of(err)
	switch {
	case errs != nil:
	case errors.Is(err, customer.ErrNotFound):
		errs = jsonapi.Errors{jsonapi.NotFound("there is no such thing")}
	case errors.Is(err, ErrNoWarehouse):
		errs = jsonapi.Of(noWarehouse("", "", "there is no warehouse here, nor at another node that can be reached"))
	case errors.Is(err, customer.ErrCursor):
		errs = jsonapi.Errors{jsonapi.BadParameter("page[cursor]", "is not a cursor of a page before of the same question")}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrBusy), errors.Is(err, customer.ErrElsewhere), errors.Is(err, identity.ErrElsewhere),
		errors.Is(err, account.ErrUnavailable), errors.Is(err, keyed.ErrClosed):
		c.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(c.state.opts.RetryAfter.D().Seconds()))))
		errs = jsonapi.Errors{{Status: http.StatusServiceUnavailable, Code: "overloaded", Title: "Not now.", Detail: "the request could not be served in time, try again later"}}
	default:
		s.log.Error("API request failed", "method", c.r.Method, "path", c.r.URL.Path, "key", c.key, "error", err)
		errs = jsonapi.Errors{{Status: http.StatusInternalServerError, Code: "internal", Title: "Internal error.", Detail: "the server failed; its log says why"}}
	}
	jsonapi.WriteErrors(c.w, errs)
}

// ErrBusy says that something cannot be done now and can later: a dependency may wrap it.
var ErrBusy = errors.New("api: try again later")

// ErrNoWarehouse says that a question takes the warehouse, and that there is none at the moment: a Warehouse may wrap it.
var ErrNoWarehouse = errors.New("api: there is no warehouse")

// decode reads a body into a T. The errors name the place by pointer.
func decode[T any](d *wire.Decoder[T], body []byte) (*T, error) {
	v, err := d.Decode(body)
	var bad *wire.DecodeError
	switch {
	case err == nil:
		return v, nil
	case !errors.As(err, &bad):
		return nil, err
	case bad.Code == wire.CodeInvalidJSON:
		return nil, &jsonapi.Error{Status: http.StatusBadRequest, Code: "malformed", Title: "The body cannot be read.", Pointer: bad.Pointer,
			Detail: fmt.Sprintf("line %d column %d: %s", bad.Line, bad.Column, bad.Detail)}
	}
	return nil, jsonapi.Invalid(bad.Pointer, "%s", bad.Detail)
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
