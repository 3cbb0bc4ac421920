// Package smtpd is SMTP injection: the listeners, and who may do what there.
// The protocol itself is in mta/smtp, what happens to a message in mta/accept.
//
// A connection goes through these steps:
//
//  1. The listener counts it against max_connections. From a load balancer in
//     proxy_from a PROXY protocol header is read, which must come.
//  2. The client's address is checked: failed logins, connections per address.
//     Who is over a limit reads one 421 4.7.0 and is closed.
//  3. mta/smtp runs the dialogue and asks a session of this package at each
//     AUTH, MAIL, RCPT, DATA and XCLIENT.
//  4. MAIL decides what the client may do: by its login, else by its network in
//     relay_from. On a submission listener only a login counts.
//  5. RCPT refuses whoever may not relay, with 550 5.7.1. Our own postmaster
//     can always be written to (RFC 5321 §4.5.1).
//  6. DATA hands the stream to the Door of mta/accept and answers when the
//     message is durable.
//
// The reply to DATA names what was accepted:
//
//	250 2.0.0 Ok: queued as 01890a5d-ac96-774b-bcce-b302099a8057
//	250 2.0.0 Ok: queued as 01890a5d-ac96-774b-bcce-b302099a8057 (3 messages)
//
// With one recipient it is the id of the message, with several the id of the first one:
// message i, counted from 0 in the order of the accepted RCPT commands, has the
// id FIRST.Add(i).
//
// Reload puts new users, networks, limits and certificates in force. Rights
// count from the next MAIL on every open connection; limits of the protocol and TLS
// settings from the next connection. No connection is dropped; those of a
// listener that is gone go on until they end.
package smtpd

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/passwd"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/smtp"
)

// Door takes messages; *accept.Door is one. Its errors are *accept.Error.
type Door interface {
	// Message stores one message for all recipients; durable when it returns without error.
	Message(ctx context.Context, inj *accept.Injection, r io.Reader) (accept.Accepted, error)
	// Recipient checks an address and returns it as it is stored.
	Recipient(address string, smtputf8 bool) (string, error)
	// IsPostmaster reports whether address is our own postmaster.
	IsPostmaster(address string) bool
}

// Passwords verifies logins; *passwd.Verifier does. An empty hash stands for an unknown user.
type Passwords interface {
	Verify(ctx context.Context, user, hash, password string) (bool, error)
}

// Deps is what a Server needs. Door and Hostname must be set.
type Deps struct {
	Door       Door
	Hostname   string    // our name in the greeting and the reply to EHLO
	Passwords  Passwords // nil: a passwd.Verifier of its own
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Listen opens a listener; nil is the TCP of the host.
	Listen func(ctx context.Context, address string) (net.Listener, error)
	// Trace gets each line of every dialogue, without message content and credentials; nil for none.
	Trace func(id smtp.ConnID, direction smtp.Direction, line string)
	// Tracing reports whether Trace is to be called now; nil means always.
	Tracing func() bool
	Now     func() time.Time // nil: time.Now
}

func (d Deps) withDefaults(o Options) Deps {
	if d.Passwords == nil {
		d.Passwords = passwd.NewVerifier(passwd.VerifierOptions{TTL: o.PasswordCache.D()})
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Listen == nil {
		d.Listen = func(ctx context.Context, address string) (net.Listener, error) {
			var lc net.ListenConfig
			return lc.Listen(ctx, "tcp", address)
		}
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return d
}
