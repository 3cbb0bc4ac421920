package jsonapi

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// MediaType is what documents are sent as. Clients may send it or application/json.
const MediaType = "application/vnd.api+json"

// ErrorDocument is the body of every response that is not a success.
type ErrorDocument struct {
	Errors []ErrorObject `json:"errors" min:"1"`
}

// ErrorObject is the form of an Error.
type ErrorObject struct {
	ID     string            `json:"id" doc:"Of this very error; the server's log has it when the fault is the server's."`
	Status int               `json:"status" doc:"Of HTTP."`
	Code   string            `json:"code" doc:"For programs: it never changes."`
	Title  string            `json:"title" doc:"The same for all errors of a code."`
	Detail string            `json:"detail" doc:"For people: this very case."`
	Source ErrorSource       `json:"source" doc:"The part of the request that is wrong; empty if it is no part of it."`
	Meta   map[string]string `json:"meta,omitempty" doc:"Further facts, such as duplicate_profile_id."`
}

// ErrorSource tells which part of a request is wrong.
type ErrorSource struct {
	Pointer   string `json:"pointer,omitempty" doc:"JSON pointer (RFC 6901) into the body."`
	Parameter string `json:"parameter,omitempty" doc:"Name of a query parameter or header field."`
}

// Object is the form of e under an id of its own.
func (e *Error) Object(id string) ErrorObject {
	return ErrorObject{ID: id, Status: e.Status, Code: e.Code, Title: e.Title, Detail: e.Detail,
		Source: ErrorSource{Pointer: e.Pointer, Parameter: e.Parameter}, Meta: e.Meta}
}

// WriteErrors sends errs, of which there must be one at least; the first one's status is that of the response.
func WriteErrors(w http.ResponseWriter, errs Errors) {
	doc := ErrorDocument{Errors: make([]ErrorObject, len(errs))}
	for i, e := range errs {
		doc.Errors[i] = e.Object(strings.ToLower(rand.Text()))
	}
	b, err := json.Marshal(doc)
	if err != nil { // strings and numbers only
		b = nil
	}
	Write(w, errs[0].Status, b)
}

// Write sends a document that is encoded already; an empty one is no body.
func Write(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	if len(body) > 0 {
		h.Set("Content-Type", MediaType)
	}
	if status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is not our error
}

// Of returns the errors in err, nil if it holds none of this package.
func Of(err error) Errors {
	var many Errors
	if errors.As(err, &many) && len(many) > 0 {
		return many
	}
	var one *Error
	if errors.As(err, &one) {
		return Errors{one}
	}
	return nil
}

// Links of a document.
type Links struct {
	Self string `json:"self,omitempty"`
	Next string `json:"next,omitempty" doc:"The next page; absent on the last one."`
	Prev string `json:"prev,omitempty" doc:"Never there: cursors go forward only."`
}

// Ref names a resource.
type Ref struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// Escape makes a token part of a JSON pointer (RFC 6901 section 3).
func Escape(token string) string {
	if !strings.ContainsAny(token, "~/") {
		return token
	}
	return strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1")
}
