package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/internal/openapi"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// PathOpenAPI is where the document is.
const PathOpenAPI = "/api/openapi.json"

func (s *Server) endpoints() []endpoint {
	return slices.Concat(s.profileEndpoints(), s.jobEndpoints(), s.eventEndpoints(), s.metricEndpoints(), s.listEndpoints(), []endpoint{{
		handle: s.getOpenAPI, Operation: openapi.Operation{Method: http.MethodGet, Path: PathOpenAPI, ID: "getOpenAPI", Open: true,
			Summary: "This document.", Responses: []openapi.Response{{Status: 200, Doc: "OpenAPI 3.1.", Type: jsonapi.MediaType}}},
	}})
}

func (s *Server) getOpenAPI(*call) (answer, error) {
	return answer{status: http.StatusOK, raw: s.doc.JSON()}, nil
}

func document(version string, endpoints []endpoint) (*openapi.Document, error) {
	ops := make([]openapi.Operation, len(endpoints))
	for i, e := range endpoints {
		ops[i] = e.Operation
	}
	return openapi.Build(openapi.Info{
		Title: "Godwit pipeline API", Version: version, Error: jsonapi.ErrorDocument{},
		Description: "Profiles, events and counts of a tenant, in the JSON:API shapes of the Klaviyo API. Bodies are JSON in UTF-8, as " +
			jsonapi.MediaType + " or application/json, compressed by gzip if you like. Unknown members are errors.",
		Auth: "An API key of a tenant; Authorization: Klaviyo-API-Key KEY does as well.",
	}, ops)
}

// failures are error responses, all of one form.
func failures(codes ...int) []openapi.Response {
	out := openapi.Statuses(codes...)
	for i := range out {
		out[i].Body, out[i].Type = jsonapi.ErrorDocument{}, jsonapi.MediaType
	}
	return out
}

// success is the good answer; without a body it has none.
func success(status int, doc string, body any) openapi.Response {
	r := openapi.Response{Status: status, Doc: doc, Body: body}
	if body != nil {
		r.Type = jsonapi.MediaType
	}
	return r
}

// look makes an endpoint that reads.
func look(path, id, summary string, spec jsonapi.Spec, body any, handle func(*call) (answer, error)) endpoint {
	codes := []int{400, 401, 403, 429, 500, 503}
	if len(pathParams(path)) > 0 {
		codes = append(codes, 404)
	}
	return endpoint{scope: ScopeRead, query: spec, handle: handle, Operation: openapi.Operation{
		Method: http.MethodGet, Path: path, ID: id, Summary: summary, Params: params(path, spec, false),
		Responses: append(failures(codes...), success(http.StatusOK, "", body))}}
}

// act makes an endpoint that writes, or that asks with a body. more are further errors that it can answer.
func act(method, path, id, summary string, spec jsonapi.Spec, request any, good openapi.Response, handle func(*call) (answer, error), more ...int) endpoint {
	codes := append([]int{400, 401, 403, 429, 500, 503}, more...)
	if request != nil {
		codes = append(codes, 408, 413, 415)
	}
	if method == http.MethodPost {
		codes = append(codes, 422)
		good.Header = append(good.Header, HeaderIdempotencyReplayed)
	}
	op := openapi.Operation{Method: method, Path: path, ID: id, Summary: summary, Params: params(path, spec, method == http.MethodPost),
		Request: request, Responses: append(failures(codes...), good)}
	if request != nil {
		op.RequestType = jsonapi.MediaType
	}
	return endpoint{scope: ScopeWrite, query: spec, handle: handle, Operation: op}
}

// reading makes an endpoint one that does not write.
func (e endpoint) reading() endpoint {
	e.scope = ScopeRead
	return e
}

// also adds another good answer.
func (e endpoint) also(r openapi.Response) endpoint {
	e.Responses = append(e.Responses, r)
	return e
}

func pathParams(path string) []openapi.Param {
	var out []openapi.Param
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			out = append(out, openapi.Param{Name: strings.TrimSuffix(name, "}"), In: "path", Doc: "Id of the resource."})
		}
	}
	return out
}

// params describes what an operation takes beside its body.
func params(path string, spec jsonapi.Spec, post bool) []openapi.Param {
	out := append(pathParams(path), openapi.Param{Name: "revision", In: "header", Required: true, Doc: "Date of the revision of the API that the client is written for."})
	add := func(name, doc string) { out = append(out, openapi.Param{Name: name, In: "query", Doc: doc}) }
	if spec.Filters != nil {
		add("filter", "Terms op(field,value), joined by commas: all hold. and(…), or(…) and not(…) may be nested. "+describe(spec.Filters))
	}
	if len(spec.Sorts) > 0 {
		add("sort", "One of "+strings.Join(spec.Sorts, ", ")+"; with - before it descending.")
	}
	if spec.MaxSize > 0 {
		add("page[cursor]", "Of links.next of the page before.")
		add("page[size]", fmt.Sprintf("1 to %d. The default is %d.", spec.MaxSize, spec.Size))
	}
	if len(spec.Include) > 0 {
		add("include", "Resources to send along: "+strings.Join(spec.Include, ", ")+".")
	}
	for _, kind := range slices.Sorted(maps.Keys(spec.Fields)) {
		add("fields["+kind+"]", "Attributes to send, no others: "+strings.Join(slices.Concat(spec.Fields[kind], spec.Additional[kind]), ", ")+".")
	}
	for _, kind := range slices.Sorted(maps.Keys(spec.Additional)) {
		add("additional-fields["+kind+"]", "Attributes that are sent only when asked for: "+strings.Join(spec.Additional[kind], ", ")+".")
	}
	for _, name := range spec.Extra {
		add(name, extras(name))
	}
	if post {
		out = append(out, openapi.Param{Name: HeaderIdempotencyKey, In: "header",
			Doc: "Up to 255 printable ASCII characters. While it is remembered (24 hours by default), a request with this key and the same body gets the same answer, one with another body 422."})
	}
	return out
}

func extras(name string) string {
	switch name {
	case "metric_id":
		return "Id of the metric."
	case "windows":
		return "Up to 16 lengths of time before now, such as 1h,7d,30d: a number with s, m, h, d or w."
	}
	return ""
}

func describe(allow jsonapi.Allow) string {
	var b strings.Builder
	b.WriteString("Fields:")
	for i, field := range slices.Sorted(maps.Keys(allow)) {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, " %s:", field)
		for j, op := range allow[field] {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(" " + string(op))
		}
	}
	b.WriteByte('.')
	return b.String()
}
