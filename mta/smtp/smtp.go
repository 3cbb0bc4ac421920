// Package smtp is the server side of SMTP (RFC 5321): a connection loop that
// drives the Session interface of github.com/emersion/go-smtp.
//
// The loop knows the protocol and nothing else. Who may relay, what a message
// is and where it goes are decided by the Session; numbers and logs leave
// through the hooks of Deps.
//
// # What one connection goes through
//
//	connect ─> [TLS] ─> Greet hook ─> 220
//	   │
//	   ├─ EHLO ─> Backend.NewSession ─> 250 with what works now
//	   │    ├─ STARTTLS ─> TLS, Logout, back to "220 sent"
//	   │    ├─ AUTH     ─> sasl.Server ─> 235
//	   │    ├─ XCLIENT  ─> Session.XClient ─> 220, wait for EHLO
//	   │    └─ MAIL ─> RCPT… ─> DATA or BDAT… ─> Session.Data ─> reply
//	   │         └─ RSET, EHLO or the reply to the data end the transaction
//	   └─ QUIT, error limit, timeout, drain ─> Logout, close
//
// # Where it is strict, and why
//
// Line ends. Only CR LF ends a line (RFC 5321 section 2.3.8). A bare CR or LF
// in a command closes the connection. In a message it never counts as a line
// end, so that two servers cannot disagree on where a message ends ("SMTP
// smuggling"); the message is read to its true end and refused.
//
// Broken reads. When reading fails inside a message the connection is closed
// without a reply. Nothing that follows is taken for a command, and the
// Session's reader ends in an error other than io.EOF: a Session that treats
// only io.EOF as the end can never accept half a message.
//
// Pipelining (RFC 2920). Replies are kept back while the next command is
// already here and leave in one write. DATA, AUTH and STARTTLS must be the
// last command of a group; bytes behind them close the connection, which is
// also what keeps commands from being injected across STARTTLS.
//
// Errors. A reply's text comes from a *gosmtp.SMTPError found with errors.As.
// Any other error becomes "451 4.3.0" without its text, which goes to the log.
package smtp

import (
	"context"
	"crypto/tls"
	"net"

	gosmtp "github.com/emersion/go-smtp"
)

// Conn is what a Session may know of, and do to, its connection. Its methods
// may be called at any time, also after the connection is closed.
type Conn interface {
	// ID is the connection's number, unique within the Server; the same as in
	// the log and the hooks.
	ID() ConnID
	// RemoteAddr is the peer's address, or what SetRemote put in its place.
	RemoteAddr() net.Addr
	// LocalAddr is the address the peer connected to.
	LocalAddr() net.Addr
	// Hostname is the argument of the last EHLO or HELO (or of XCLIENT HELO=);
	// empty before. It is printable ASCII without spaces, and nothing more is known of it.
	Hostname() string
	// ESMTP reports whether the peer said EHLO rather than HELO.
	ESMTP() bool
	// TLSConnectionState returns false when the connection is not encrypted.
	TLSConnectionState() (tls.ConnectionState, bool)
	// Context is cancelled when the connection is closed, for whatever reason.
	Context() context.Context
	// SetRemote replaces RemoteAddr; for XCLIENT ADDR= and PORT=.
	SetRemote(net.Addr)
	// Close closes the connection at once, without a reply.
	Close() error
}

// ConnID numbers the connections of one Server, from 1.
type ConnID uint64

// Backend makes one Session per EHLO or HELO that is the first, or the first
// after STARTTLS. An error is sent as the reply (see package comment), the
// peer may then try EHLO again.
//
// The methods of a Session are called one after the other, never at once. As
// under go-smtp's own server, Reset is called when a transaction ends for
// whatever reason and Logout exactly once. Data must read r to io.EOF before
// it accepts a message; r is dead after it returns.
//
// A Session that also implements gosmtp.AuthSession offers AUTH, one that
// implements XClientSession offers XCLIENT.
type Backend interface {
	NewSession(Conn) (gosmtp.Session, error)
}

// BackendFunc is a function as a Backend.
type BackendFunc func(Conn) (gosmtp.Session, error)

// NewSession calls f.
func (f BackendFunc) NewSession(c Conn) (gosmtp.Session, error) { return f(c) }

// XClientSession is a Session that believes a proxy about its client: Postfix's
// XCLIENT extension.
type XClientSession interface {
	gosmtp.Session
	// XClientAttributes returns the attribute names that EHLO offers now,
	// such as "NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN". Empty: XCLIENT is not
	// offered and is refused.
	XClientAttributes() []string
	// XClient takes the attributes, names in upper case, values decoded from
	// xtext. "[UNAVAILABLE]" and "[TEMPUNAVAIL]" are passed as they are. The loop itself
	// takes over HELO; the Session calls Conn.SetRemote for ADDR and PORT.
	XClient(attrs map[string]string) error
}

// Adapt lets go-smtp's own server drive the Sessions of b. XCLIENT does not
// exist there, and Conn.Context is never cancelled.
func Adapt(b Backend) gosmtp.Backend {
	return gosmtp.BackendFunc(func(c *gosmtp.Conn) (gosmtp.Session, error) {
		return b.NewSession(&foreignConn{c: c})
	})
}

// foreignConn is a connection of go-smtp's server.
type foreignConn struct {
	c      *gosmtp.Conn
	remote net.Addr
}

func (f *foreignConn) ID() ConnID { return 0 }
func (f *foreignConn) RemoteAddr() net.Addr {
	if f.remote != nil {
		return f.remote
	}
	return f.c.Conn().RemoteAddr()
}
func (f *foreignConn) LocalAddr() net.Addr { return f.c.Conn().LocalAddr() }
func (f *foreignConn) Hostname() string    { return f.c.Hostname() }
func (f *foreignConn) ESMTP() bool         { return true }
func (f *foreignConn) TLSConnectionState() (tls.ConnectionState, bool) {
	return f.c.TLSConnectionState()
}
func (f *foreignConn) Context() context.Context { return context.Background() }
func (f *foreignConn) SetRemote(addr net.Addr)  { f.remote = addr }
func (f *foreignConn) Close() error             { return f.c.Conn().Close() }
