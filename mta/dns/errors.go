package dns

import (
	"errors"
	"fmt"
	"net"
)

// What a lookup can end in besides an answer. Decide with errors.Is.
var (
	// ErrNotFound: the name does not exist (NXDOMAIN, RFC 1035 §4.1.1), or can be no domain name.
	ErrNotFound = errors.New("no such domain")
	// ErrNoData: the name exists without records of this type (RFC 2308 §2.2).
	ErrNoData = errors.New("no such record")
	// ErrTemporary: no server gave a usable answer. Nothing is known about the name.
	ErrTemporary = errors.New("no answer from DNS")
)

// errClosed is the cause of failures after Close.
var errClosed = errors.New("resolver is closed")

// Error is the error type of all lookups.
type Error struct {
	Kind   error  // ErrNotFound, ErrNoData or ErrTemporary
	Name   string // as it was asked
	Type   string // MX, A, …
	Server string // ip:port of the last server asked; "" if none was
	Cause  error  // for the log; may be nil
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Type, e.Name, e.Kind)
	if e.Server != "" {
		s += " from " + e.Server
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives errors.Is both the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// As makes errors.As find a *net.DNSError too, for code written against net.Resolver.
func (e *Error) As(target any) bool {
	t, ok := target.(**net.DNSError)
	if !ok {
		return false
	}
	*t = &net.DNSError{Err: e.Kind.Error(), Name: e.Name, Server: e.Server, UnwrapErr: e.Cause,
		IsNotFound: e.Kind == ErrNotFound || e.Kind == ErrNoData, IsTemporary: e.Kind == ErrTemporary}
	return true
}
