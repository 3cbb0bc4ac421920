package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/proxy/wire"
)

// Errors of Dial. Both wrap mail.ErrNotTried.
var (
	// ErrProxyDown: the proxy cannot be reached, does not answer or is going away.
	ErrProxyDown = fmt.Errorf("proxy is down (%w)", mail.ErrNotTried)
	// ErrNoLease: the proxy does not take the permits, since they lapsed or its authority is another one by now.
	ErrNoLease = fmt.Errorf("permit has lapsed (%w)", mail.ErrNotTried)
)

// ConnectError is what a proxy says about a provider that it could not connect to.
type ConnectError struct {
	Proxy    string
	TimedOut bool
	Errno    syscall.Errno // 0: not told
	Text     string
}

// Error says who could not connect, and why.
func (e *ConnectError) Error() string { return "proxy " + e.Proxy + " cannot connect: " + e.Text }

// Unwrap gives errors.Is the number.
func (e *ConnectError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Timeout implements net.Error.
func (e *ConnectError) Timeout() bool { return e.TimedOut }

// Temporary implements net.Error.
func (e *ConnectError) Temporary() bool { return true }

// RefusedError is a proxy that will not, or cannot, do what it was asked for. The
// provider has no part in it: the configurations differ, or the proxy's machine lacks something.
type RefusedError struct {
	Proxy  string
	Reason string // such as bad_source, busy, local
	Errno  syscall.Errno
	Text   string
	v6     bool
}

// Error says who refused, and why.
func (e *RefusedError) Error() string {
	return "proxy " + e.Proxy + " refused (" + e.Reason + "): " + e.Text
}

// Unwrap gives mail.ErrNotTried, but not for IPv6: the caller goes on with the other family.
func (e *RefusedError) Unwrap() []error {
	var list []error
	if !e.v6 {
		list = append(list, mail.ErrNotTried)
	}
	if e.Errno != 0 {
		list = append(list, e.Errno)
	}
	return list
}

// verdict makes an error of an answer; nil for a connection.
func (e *endpoint) verdict(a wire.Answer, to netip.AddrPort) error {
	switch a.Status {
	case wire.Connected:
		return nil
	case wire.Failed, wire.TimedOut:
		return &ConnectError{Proxy: e.Name, TimedOut: a.Status == wire.TimedOut, Errno: a.Errno, Text: a.Text}
	case wire.NoLease:
		return fmt.Errorf("%w: %s: %s", ErrNoLease, e.Name, a.Text)
	case wire.Draining:
		return fmt.Errorf("%w: %s: %s", ErrProxyDown, e.Name, a.Text)
	default:
		return &RefusedError{Proxy: e.Name, Reason: a.Status.String(), Errno: a.Errno, Text: a.Text, v6: to.Addr().Is6() && a.Status == wire.Local}
	}
}

// dialResult is the label of an error in metrics.
func dialResult(err error) string {
	var c *ConnectError
	timeout, ok := err.(interface{ Timeout() bool })
	switch {
	case err == nil:
		return "connected"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, ErrProxyDown):
		return "down"
	case errors.Is(err, ErrNoLease):
		return "no_lease"
	case errors.Is(err, mail.ErrNotTried):
		return "refused"
	case errors.As(err, &c) && c.TimedOut, ok && timeout.Timeout():
		return "timed_out"
	default:
		return "failed"
	}
}
