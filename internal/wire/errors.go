// Package wire is what the HTTP APIs share: strict JSON reading with the
// place of an error, the one error document, bounded request bodies, bearer
// keys, and a client that retries.
//
// A handler returns a *Problem, never a status by itself:
//
//	body, problem := reader.Read(r)       // 413, 415, 503
//	req, err := decoder.Decode(body)      // unknown field, wrong type, … with JSON pointer
//	wire.BadJSON(err).Write(w)            // {"errors":[{code,title,detail,pointer,…}]}
package wire

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The codes of errors that come from reading a request. Codes are a contract
// with clients and are never renamed; titles and details may change.
const (
	CodeInvalidJSON    = "invalid_json"
	CodeInvalidUTF8    = "invalid_utf8"
	CodeUnknownField   = "unknown_field"
	CodeDuplicateField = "duplicate_field"
	CodeWrongType      = "wrong_type"
	CodeInvalidValue   = "invalid_value"
	CodeTooDeep        = "too_deep"

	CodeUnauthorized     = "unauthorized"
	CodeForbidden        = "forbidden"
	CodeNotFound         = "not_found"
	CodeMethodNotAllowed = "method_not_allowed"
	CodeConflict         = "conflict"
	CodeTooLarge         = "too_large"
	CodeMediaType        = "unsupported_media_type"
	CodeEncoding         = "unsupported_encoding"
	CodeTooMany          = "too_many_requests"
	CodeOverloaded       = "overloaded"
	CodeTimeout          = "timeout"
	CodeInvalidBody      = "invalid_body"
	CodeInternal         = "internal"
)

// Error is one entry of the error document.
type Error struct {
	// Code is for programs; see the Code constants of this package and of the API.
	Code string `json:"code"`
	// Title is the same for every error of a code.
	Title string `json:"title"`
	// Detail is for people and tells this case.
	Detail string `json:"detail,omitempty"`
	// Pointer is the JSON pointer (RFC 6901) into the request body.
	Pointer string `json:"pointer,omitempty"`
	// Field is the name of the field at fault, or of the HTTP header field.
	Field string `json:"field,omitempty"`
	// Line and Column are in the request body for a JSON error, in the template for a template error.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
}

// Document is the body of every response that is not a success.
type Document struct {
	Errors []Error `json:"errors"`
}

// Problem is a response that is not a success. It is also an error, so that
// a client gets what a handler returned.
type Problem struct {
	Status     int
	Errors     []Error
	RetryAfter time.Duration // zero: no Retry-After field
	Header     http.Header   // further fields such as Allow; may be nil
}

// NewProblem is a problem of one error.
func NewProblem(status int, code, detail string) *Problem {
	return &Problem{Status: status, Errors: []Error{{Code: code, Title: Title(code), Detail: detail}}}
}

// At sets where in the request the fault is and returns p.
func (p *Problem) At(pointer, field string) *Problem {
	p.Errors[0].Pointer, p.Errors[0].Field = pointer, field
	return p
}

// After sets Retry-After and returns p.
func (p *Problem) After(d time.Duration) *Problem {
	p.RetryAfter = d
	return p
}

// With sets a header field and returns p.
func (p *Problem) With(name, value string) *Problem {
	if p.Header == nil {
		p.Header = http.Header{}
	}
	p.Header.Set(name, value)
	return p
}

// Error implements error.
func (p *Problem) Error() string {
	s := strconv.Itoa(p.Status) + " " + http.StatusText(p.Status)
	for _, e := range p.Errors {
		s += ": " + e.Code
		for _, part := range []string{e.Pointer, e.Detail} {
			if part != "" {
				s += " " + part
			}
		}
	}
	return s
}

// Write sends p.
func (p *Problem) Write(w http.ResponseWriter) {
	for name, values := range p.Header {
		w.Header()[name] = values
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	Write(w, p.Status, Document{Errors: p.Errors})
}

// Write sends v as JSON.
func Write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"errors":[{"code":"internal","title":"Internal error"}]}`)
	}
	WriteBytes(w, status, append(b, '\n'))
}

// WriteBytes sends JSON that is encoded already.
func WriteBytes(w http.ResponseWriter, status int, b []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that went away is not our error
}

// BadJSON turns an error of Decode into a 400 problem.
func BadJSON(err error) *Problem {
	p := NewProblem(http.StatusBadRequest, CodeInvalidJSON, err.Error())
	var d *DecodeError
	if errors.As(err, &d) {
		p = NewProblem(http.StatusBadRequest, d.Code, d.Detail).At(d.Pointer, d.Field)
		p.Errors[0].Line, p.Errors[0].Column = d.Line, d.Column
	}
	return p
}

// Title is the code in words: "unknown_field" is "Unknown field".
func Title(code string) string {
	s := strings.ReplaceAll(code, "_", " ")
	switch code {
	case CodeInvalidJSON:
		return "Invalid JSON"
	case CodeInvalidUTF8:
		return "Invalid UTF-8"
	case CodeInternal:
		return "Internal error"
	case "":
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
