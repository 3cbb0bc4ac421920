// Package jsonapi has what the pipeline's HTTP API says in the form of JSON:API
// (jsonapi.org/format/1.0): documents, errors, and the words of its queries.
package jsonapi

import (
	"fmt"
	"net/http"
	"strings"
)

// Error is one error object. It says which part of the request is wrong.
type Error struct {
	Status    int    // of HTTP
	Code      string // such as invalid, duplicate_profile, not_found
	Title     string
	Detail    string
	Pointer   string // JSON pointer into the body (RFC 6901), such as /data/attributes/profile
	Parameter string // of the query
	// Meta has further facts for programs, such as duplicate_profile_id; may be nil.
	Meta map[string]string
}

// Error implements error.
func (e *Error) Error() string {
	at := e.Pointer + e.Parameter
	if at == "" {
		return e.Detail
	}
	return fmt.Sprintf("%s: %s", at, e.Detail)
}

// Invalid is the error of a value that cannot be used.
func Invalid(pointer, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid", Title: "Invalid input.", Pointer: pointer, Detail: fmt.Sprintf(format, args...)}
}

// BadParameter is the error of a query parameter that cannot be used.
func BadParameter(name, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid", Title: "Invalid input.", Parameter: name, Detail: fmt.Sprintf(format, args...)}
}

// NotFound is the error of something that the tenant does not have.
func NotFound(format string, args ...any) *Error {
	return &Error{Status: http.StatusNotFound, Code: "not_found", Title: "Not found.", Detail: fmt.Sprintf(format, args...)}
}

// At sets the pointer into the body and returns e.
func (e *Error) At(pointer string) *Error {
	e.Pointer = pointer
	return e
}

// Errors are several at once.
type Errors []*Error

// Error implements error.
func (e Errors) Error() string {
	out := make([]string, len(e))
	for i := range e {
		out[i] = e[i].Error()
	}
	return strings.Join(out, "; ")
}
