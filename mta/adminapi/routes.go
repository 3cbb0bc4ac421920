package adminapi

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
)

// Paths of the API.
const (
	PathQueues      = "/admin/v1/queues"
	PathMessages    = "/admin/v1/messages"
	PathMessage     = "/admin/v1/messages/{id}"
	PathBody        = "/admin/v1/messages/{id}/body"
	PathSuspensions = "/admin/v1/suspensions"
	PathSuspension  = "/admin/v1/suspensions/{id}"
	PathResume      = "/admin/v1/resume"
	PathBounce      = "/admin/v1/bounce"
	PathRetry       = "/admin/v1/retry"
	PathExport      = "/admin/v1/export"
	PathImport      = "/admin/v1/import"
	PathStats       = "/admin/v1/stats"
	PathInfo        = "/admin/v1/info"
	PathReload      = "/admin/v1/reload"
	PathDrain       = "/admin/v1/drain"
	PathUndrain     = "/admin/v1/undrain"
	PathLogLevel    = "/admin/v1/log-level"
	PathOpenAPI     = "/admin/v1/openapi.json"

	PathExplain        = "/admin/v1/explain"
	PathExplainMessage = "/admin/v1/explain/message/{id}"
	PathPools          = "/admin/v1/pools"
	PathThrottles      = "/admin/v1/throttles"
	PathOrders         = "/admin/v1/orders"
	PathOrder          = "/admin/v1/orders/{id}"
	PathCluster        = "/admin/v1/cluster"
	PathHandoff        = "/admin/v1/queue/handoff"
)

// typeLines is the media type of exports: JSON lines.
const typeLines = "application/x-ndjson"

// TrailerExported is the trailer field that ends a complete export: how many messages it holds.
const TrailerExported = "Godwit-Exported"

// endpoint is an operation with what serves it.
type endpoint struct {
	openapi.Operation
	handle func(c *call) *wire.Problem
}

// call is one request on its way through a handler.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	state *state
	who   string // name of the token, or unix
}

func (s *Server) endpoints() []endpoint {
	return slices.Concat(s.lookEndpoints(), s.actEndpoints(), s.egressEndpoints(), s.clusterEndpoints(), s.pipelineEndpoints())
}

func query(names ...string) []openapi.Param {
	docs := map[string]string{
		"tenant": "Only this tenant; * and ? match any.", "stream": "Only this stream; * and ? match any.",
		"domain": "Only this domain; * and ? match any.", "site": "Only this site; * and ? match any.",
		"recipient": "Only this recipient; * and ? match any.", "state": "Only this state.",
		"limit": "How many to list, 1 to 1000. The default is 100.", "cursor": "next of the page before.",
		"header": "true adds the header of the stored body.",
	}
	out := make([]openapi.Param, len(names))
	for i, name := range names {
		out[i] = openapi.Param{Name: name, In: "query", Doc: docs[name]}
	}
	return out
}

func id() openapi.Param { return openapi.Param{Name: "id", In: "path", Doc: "Id of the thing."} }

// answers are the responses of an operation: a good one, the errors that any
// can have, and further ones.
func answers(status int, body any, more ...int) []openapi.Response {
	return append(openapi.Statuses(append([]int{401, 429, 500, 503}, more...)...), openapi.Response{Status: status, Body: body})
}

func (s *Server) lookEndpoints() []endpoint {
	get := func(path, id, summary string, handle func(c *call) *wire.Problem, params []openapi.Param, responses []openapi.Response) endpoint {
		return endpoint{handle: handle, Operation: openapi.Operation{Method: http.MethodGet, Path: path, ID: id,
			Summary: summary, Params: params, Responses: responses}}
	}
	body := openapi.Statuses(400, 401, 404, 429, 500, 503)
	body = append(body, openapi.Response{Status: 200, Doc: "The bytes as stored; the header field Godwit-Body-Kind tells raw, raw_template or content.",
		Type: "application/octet-stream", Header: []string{headerKind}})
	return []endpoint{
		get(PathQueues, "listQueues", "List scheduled queues, the longest first.", s.getQueues,
			query("tenant", "stream", "domain", "site", "state", "limit"), answers(200, QueuesResponse{}, 400)),
		get(PathMessages, "listMessages", "List messages in the queue.", s.getMessages,
			query("tenant", "stream", "domain", "site", "recipient", "state", "limit", "cursor"), answers(200, MessagesResponse{}, 400)),
		get(PathMessage, "showMessage", "Tell all about a message, in the queue or gone.", s.getMessage,
			append(query("header"), id()), answers(200, MessageResponse{}, 400, 404)),
		get(PathBody, "showBody", "Return the stored body of a message in the queue.", s.getBody, []openapi.Param{id()}, body),
		get(PathSuspensions, "listSuspensions", "List the suspensions in force.", s.getSuspensions, nil, answers(200, SuspensionsResponse{})),
		get(PathStats, "getStats", "Tell the queue's totals.", s.getStats, nil, answers(200, Stats{})),
		get(PathInfo, "getInfo", "Tell what is running with which configuration.", s.getInfo, nil, answers(200, Info{})),
		get(PathLogLevel, "getLogLevel", "Tell how much is logged.", s.getLogLevel, nil, answers(200, LogLevel{})),
		get(PathOpenAPI, "getOpenAPI", "This document.", s.getOpenAPI, nil,
			append(openapi.Statuses(401, 429, 500, 503), openapi.Response{Status: 200, Doc: "OpenAPI 3.1.", Type: "application/json"})),
	}
}

// inputErrors are what reading a JSON request can lead to.
var inputErrors = []int{400, 408, 413, 415, 422}

func (s *Server) actEndpoints() []endpoint {
	post := func(path, id, summary string, handle func(c *call) *wire.Problem, in any, responses []openapi.Response) endpoint {
		return endpoint{handle: handle, Operation: openapi.Operation{Method: http.MethodPost, Path: path, ID: id,
			Summary: summary, Request: in, Responses: responses}}
	}
	export := openapi.Statuses(400, 401, 408, 413, 415, 422, 429, 500, 503)
	export = append(export, openapi.Response{Status: 200, Type: typeLines, Header: []string{TrailerExported},
		Doc: "JSON lines. It is complete when the trailer field tells the number of messages."})
	imported := post(PathImport, "importMessages", "Store messages that an export wrote; those already there are skipped.", s.postImport, nil,
		answers(200, ImportResponse{}, 408, 415, 422))
	imported.RequestType = typeLines
	level := post(PathLogLevel, "setLogLevel", "Change how much is logged, until the next start.", s.putLogLevel, LogLevel{}, answers(200, LogLevel{}, inputErrors...))
	level.Method = http.MethodPut
	resume := endpoint{handle: s.deleteSuspension, Operation: openapi.Operation{Method: http.MethodDelete, Path: PathSuspension, ID: "resumeOne",
		Summary: "End a suspension.", Params: []openapi.Param{id()}, Responses: answers(200, CountResponse{}, 404)}}
	return []endpoint{
		post(PathSuspensions, "suspend", "Stop delivery of what matches; it survives a restart.", s.postSuspension, SuspendRequest{}, answers(201, Suspension{}, inputErrors...)),
		resume,
		post(PathResume, "resume", "End the suspensions whose filter has what this one sets.", s.postResume, FilterRequest{}, answers(200, CountResponse{}, inputErrors...)),
		post(PathBounce, "bounce", "End messages, with a report to each reverse path.", s.postBounce, ReasonRequest{}, answers(200, CountResponse{}, inputErrors...)),
		post(PathRetry, "retry", "Make messages due now.", s.postRetry, FilterRequest{}, answers(200, CountResponse{}, inputErrors...)),
		post(PathExport, "exportMessages", "Write messages out; they stay in the queue.", s.postExport, FilterRequest{}, export),
		imported,
		post(PathReload, "reload", "Read the configuration again; a bad one is refused and the old stays in force.", s.postReload, nil, answers(200, Info{}, 422)),
		post(PathDrain, "drain", "Accept no more mail; deliver what is there.", s.postDrain(true), nil, answers(200, Stats{})),
		post(PathUndrain, "undrain", "Accept mail again.", s.postDrain(false), nil, answers(200, Stats{})),
		level,
	}
}

func document(version string, endpoints []endpoint) (*openapi.Document, error) {
	ops := make([]openapi.Operation, len(endpoints))
	for i, e := range endpoints {
		ops[i] = e.Operation
	}
	return openapi.Build(openapi.Info{
		Title: "Godwit admin API", Version: version, Error: wire.Document{},
		Description: "For operators. An action whose filter names nothing is refused unless it sets all.",
		Auth:        "A token of the configuration; not needed over a Unix socket.",
	}, ops)
}

func (s *Server) routes(endpoints []endpoint) []wire.Route {
	routes := make([]wire.Route, len(endpoints))
	for i, e := range endpoints {
		routes[i] = wire.Route{Method: e.Method, Path: e.Path, Handle: s.serve(e)}
	}
	return routes
}

func (s *Server) serve(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, r: r, state: s.state.Load(), who: "unix"}
		c.extend()
		if !wire.OverUnix(r) {
			key, p := c.state.keys.Authenticate(r)
			if p != nil {
				if p.Status == http.StatusUnauthorized { // beyond the limit, silence
					s.log.Warn("admin API refused a token", "peer", r.RemoteAddr)
				}
				p.Write(w)
				return
			}
			if key.Has(scopePeer) && e.Path != PathImport {
				peerOnly().Write(w)
				return
			}
			c.who = key.Name
		}
		if r.Method != http.MethodGet {
			s.log.Info("admin action", "action", e.ID, "by", c.who, "peer", r.RemoteAddr)
		}
		if p := e.handle(c); p != nil {
			p.Write(w)
		}
	}
}

// peerOnly tells a member of the cluster that its token is for handing messages over.
func peerOnly() *wire.Problem {
	return wire.NewProblem(http.StatusUnauthorized, wire.CodeUnauthorized, "the cluster's token is for "+PathImport+" only").
		At("", "Authorization").With("WWW-Authenticate", `Bearer realm="godwit"`)
}

// extend gives the peer StallTimeout more, for reading and writing. A
// recorder in a test has no deadlines, which is as well.
func (c *call) extend() {
	control := http.NewResponseController(c.w)
	until := time.Now().Add(c.state.opts.StallTimeout.D())
	if err := control.SetReadDeadline(until); errors.Is(err, http.ErrNotSupported) {
		return
	}
	_ = control.SetWriteDeadline(until)
}
