package adminapi

import (
	"net/http"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/internal/wire"
)

// CodeNotConfigured is the code of 501: the endpoint is about something that this node does not have.
const CodeNotConfigured = "not_configured"

// notConfigured tells what is missing and where it would be set.
func notConfigured(what string) *wire.Problem {
	return wire.NewProblem(http.StatusNotImplemented, CodeNotConfigured, what)
}

// needs guards a handler whose dependency may be missing.
func needs(have bool, what string, handle func(c *call) *wire.Problem) func(c *call) *wire.Problem {
	if have {
		return handle
	}
	return func(*call) *wire.Problem { return notConfigured(what) }
}

// what is missing, in the words of the 501.
const (
	noEgress  = "this server has no egress engine: it sends no mail, or was built without one"
	noOrders  = "this server keeps no orders: it sends no mail, or was built without backoff"
	noCluster = "no cluster is configured here: set cluster.nodes or another way to join in the [cluster] section"
	noHandoff = "no cluster is configured here, so there is no one to hand the queue to: see the [cluster] section"
)

func scopeParams(docs map[string]string, names ...string) []openapi.Param {
	out := make([]openapi.Param, len(names))
	for i, name := range names {
		out[i] = openapi.Param{Name: name, In: "query", Doc: docs[name]}
	}
	return out
}

func (s *Server) egressEndpoints() []endpoint {
	explain := scopeParams(map[string]string{"source": "Only this source.", "pool": "As if this pool were chosen.",
		"tenant": "As for this tenant.", "stream": "As for this stream."}, "source", "pool", "tenant", "stream")
	explain = append([]openapi.Param{{Name: "address", In: "query", Required: true, Doc: "Recipient or domain."}}, explain...)
	listed := scopeParams(map[string]string{"source": "Only of this source.", "pool": "Only of this pool.", "tenant": "Only of this tenant.",
		"provider": "Only of this provider.", "site": "Only of this site.", "domain": "Only of this domain."},
		"source", "pool", "tenant", "provider", "site", "domain")
	listed = append(listed, query("limit")...)
	op := func(method, path, id, summary string, params []openapi.Param, in any, responses []openapi.Response) openapi.Operation {
		return openapi.Operation{Method: method, Path: path, ID: id, Summary: summary, Params: params, Request: in, Responses: responses}
	}
	d := &s.deps
	return []endpoint{
		{op(http.MethodGet, PathExplain, "explain", "Tell how mail to an address goes: site, sources, every limit and what set it, what is stopped.",
			explain, nil, answers(200, Explanation{}, 400, 501)), needs(d.Explainer != nil, noEgress, s.getExplain)},
		{op(http.MethodGet, PathExplainMessage, "explainMessage", "Tell why a message has not left, or what became of it.",
			[]openapi.Param{id()}, nil, answers(200, MessageExplanation{}, 400, 404, 501)), needs(d.Explainer != nil, noEgress, s.getExplainMessage)},
		{op(http.MethodGet, PathPools, "listPools", "List pools, sources and proxies with their health.", nil, nil,
			answers(200, PoolsResponse{}, 501)), needs(d.Egress != nil, noEgress, s.getPools)},
		{op(http.MethodGet, PathThrottles, "listThrottles", "List limited keys with the limits in force and what waits.", listed, nil,
			answers(200, ThrottlesResponse{}, 400, 501)), needs(d.Egress != nil, noEgress, s.getThrottles)},
		{op(http.MethodGet, PathOrders, "listOrders", "List what rules and operators have suspended or slowed.", nil, nil,
			answers(200, OrdersResponse{}, 501)), needs(d.Orders != nil, noOrders, s.getOrders)},
		{op(http.MethodPost, PathOrders, "setOrder", "Suspend or slow sending in the whole cluster; it survives restarts.", nil, OrderRequest{},
			answers(201, Order{}, append([]int{501}, inputErrors...)...)), needs(d.Orders != nil, noOrders, s.postOrder)},
		{op(http.MethodDelete, PathOrder, "liftOrder", "End a suspension or slowdown in the whole cluster.", []openapi.Param{id()}, nil,
			answers(200, CountResponse{}, 404, 501)), needs(d.Orders != nil, noOrders, s.deleteOrder)},
	}
}

func (s *Server) clusterEndpoints() []endpoint {
	op := func(method, path, id, summary string, in any, responses []openapi.Response) openapi.Operation {
		return openapi.Operation{Method: method, Path: path, ID: id, Summary: summary, Request: in, Responses: responses}
	}
	d := &s.deps
	return []endpoint{
		{op(http.MethodGet, PathCluster, "listMembers", "List the members of the cluster as this node sees them.", nil,
			answers(200, ClusterResponse{}, 501)), needs(d.Cluster != nil, noCluster, s.getCluster)},
		{op(http.MethodGet, PathHandoff, "getHandoff", "Tell how far the handoff of the queue is.", nil,
			answers(200, HandoffStatus{}, 501)), needs(d.Handoff != nil, noHandoff, s.getHandoff)},
		{op(http.MethodPost, PathHandoff, "startHandoff", "Hand this node's queue to other members, in the background.", HandoffRequest{},
			answers(200, HandoffStatus{}, 400, 408, 409, 413, 415, 501)), needs(d.Handoff != nil, noHandoff, s.postHandoff)},
		{op(http.MethodDelete, PathHandoff, "stopHandoff", "Stop the handoff; what was not moved stays here.", nil,
			answers(200, HandoffStatus{}, 501)), needs(d.Handoff != nil, noHandoff, s.deleteHandoff)},
	}
}
