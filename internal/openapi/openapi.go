// Package openapi makes the OpenAPI 3.1 document of an HTTP API from the table
// that its handlers are registered from and from the Go types that they read
// and write. So the two cannot drift: a field, a route or a status that is not
// in the code is not in the document, and tests hold recorded requests and
// responses against it with Check.
//
// Wire types speak through struct tags: `json` gives the name (a field without
// omitempty or omitzero is required), `doc` the description, `enum` a comma
// separated list of values, `format`, `min` and `max` the bounds of a number or of an
// array's length. Nothing else of JSON Schema is used.
package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Info heads the document.
type Info struct {
	Title       string
	Version     string
	Description string
	// Error is the type of every response outside 2xx.
	Error any
	// Auth tells how to authenticate; empty leaves it out.
	Auth string
}

// Operation is one method of one path.
type Operation struct {
	Method  string
	Path    string // as net/http patterns write it: /v1/messages/{id}
	ID      string // operationId, unique
	Summary string
	Params  []Param
	Request any // zero value of the request body's type; nil: no body
	// RequestType is the body's media type when it is not JSON; then Request may be nil.
	RequestType string
	Responses   []Response
	// Open operations need no key.
	Open bool
}

// Param is a parameter in the path, query or header.
type Param struct {
	Name, In, Doc string
	Required      bool
	Schema        any // zero value of its type; nil: a string
}

// Response is what one status carries. Outside 2xx the body is Info.Error.
type Response struct {
	Status int
	Doc    string
	Body   any    // zero value of the body's type; nil: none
	Type   string // media type when it is not JSON
	Header []string
}

// Statuses makes error responses that need no words of their own.
func Statuses(codes ...int) []Response {
	out := make([]Response, len(codes))
	for i, c := range codes {
		out[i] = Response{Status: c}
	}
	return out
}

// Document is a finished OpenAPI document.
type Document struct {
	tree    map[string]any
	ops     map[string]Operation // by method and path
	schemas map[string]any
	json    []byte
}

type object = map[string]any

// Build makes the document. The error tells a mistake in ops or in a type, so a test finds it.
func Build(info Info, ops []Operation) (*Document, error) {
	d := &Document{ops: map[string]Operation{}, schemas: object{}}
	paths, ids := object{}, map[string]bool{}
	for _, op := range ops {
		key := op.Method + " " + op.Path
		if _, dup := d.ops[key]; dup || ids[op.ID] {
			return nil, fmt.Errorf("openapi: %s or its id %q occurs twice", key, op.ID)
		}
		d.ops[key], ids[op.ID] = op, true
		item, _ := paths[op.Path].(object)
		if item == nil {
			item = object{}
			paths[op.Path] = item
		}
		built, err := d.operation(info, op)
		if err != nil {
			return nil, fmt.Errorf("openapi: %s: %w", key, err)
		}
		item[strings.ToLower(op.Method)] = built
	}
	d.tree = object{
		"openapi":    "3.1.0",
		"info":       object{"title": info.Title, "version": info.Version, "description": info.Description},
		"paths":      paths,
		"components": d.components(info),
	}
	b, err := json.MarshalIndent(d.tree, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("openapi: %w", err)
	}
	d.json = append(b, '\n')
	return d, nil
}

// JSON is the document. It must not be changed.
func (d *Document) JSON() []byte { return d.json }

// Routes lists method and path of every operation, sorted.
func (d *Document) Routes() []string { return slices.Sorted(maps.Keys(d.ops)) }

func (d *Document) components(info Info) object {
	c := object{"schemas": d.schemas}
	if info.Auth != "" {
		c["securitySchemes"] = object{"key": object{"type": "http", "scheme": "bearer", "description": info.Auth}}
	}
	return c
}

func (d *Document) operation(info Info, op Operation) (object, error) {
	out := object{"operationId": op.ID, "summary": op.Summary}
	if params, err := d.params(op); err != nil {
		return nil, err
	} else if len(params) > 0 {
		out["parameters"] = params
	}
	if op.Request != nil || op.RequestType != "" {
		content, err := d.content(op.Request, op.RequestType)
		if err != nil {
			return nil, err
		}
		out["requestBody"] = object{"required": true, "content": content}
	}
	if info.Auth != "" && !op.Open {
		out["security"] = []any{object{"key": []any{}}}
	}
	responses := object{}
	for _, r := range op.Responses {
		built, err := d.response(info, r)
		if err != nil {
			return nil, err
		}
		responses[strconv.Itoa(r.Status)] = built
	}
	if len(responses) == 0 {
		return nil, fmt.Errorf("has no responses")
	}
	out["responses"] = responses
	return out, nil
}

// params checks that the path's parameters are the described ones.
func (d *Document) params(op Operation) ([]any, error) {
	var out []any
	described := map[string]bool{}
	for _, p := range op.Params {
		schema := object{"type": "string"}
		if p.Schema != nil {
			var err error
			if schema, err = d.schema(reflect.TypeOf(p.Schema)); err != nil {
				return nil, err
			}
		}
		described[p.Name] = described[p.Name] || p.In == "path"
		out = append(out, object{"name": p.Name, "in": p.In, "description": p.Doc,
			"required": p.Required || p.In == "path", "schema": schema})
	}
	for part := range strings.SplitSeq(op.Path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok && !described[strings.TrimRight(name, ".}")] {
			return nil, fmt.Errorf("path parameter %s is not described", part)
		}
	}
	return out, nil
}

func (d *Document) response(info Info, r Response) (object, error) {
	body := r.Body
	if r.Status >= 300 && body == nil && r.Type == "" {
		body = info.Error
	}
	doc := r.Doc
	if doc == "" {
		doc = http.StatusText(r.Status)
	}
	out := object{"description": doc}
	if body != nil || r.Type != "" {
		content, err := d.content(body, r.Type)
		if err != nil {
			return nil, err
		}
		out["content"] = content
	}
	if len(r.Header) > 0 {
		fields := object{}
		for _, name := range r.Header {
			fields[name] = object{"schema": object{"type": "string"}}
		}
		out["headers"] = fields
	}
	return out, nil
}

func (d *Document) content(body any, media string) (object, error) {
	if media == "" {
		media = "application/json"
	}
	if body == nil {
		return object{media: object{}}, nil
	}
	schema, err := d.schema(reflect.TypeOf(body))
	if err != nil {
		return nil, err
	}
	return object{media: object{"schema": schema}}, nil
}
