package mail

import (
	"strconv"
	"time"
)

// Host is one mail exchanger of a route.
type Host struct {
	Name       string // without trailing dot; also the name to verify by TLS. An address literal for a static route by IP
	Preference uint16
	Port       uint16 // 0: the route's
}

// TLSMode says what a session must do about STARTTLS.
type TLSMode uint8

const (
	// TLSOpportunistic uses STARTTLS when offered and does not verify names.
	TLSOpportunistic TLSMode = iota
	// TLSRequired fails the attempt when STARTTLS is not offered or fails; the certificate is not verified.
	TLSRequired
	// TLSVerify is TLSRequired with a certificate valid for the host's name.
	TLSVerify
	// TLSNone never tries.
	TLSNone
)

// Route is where a message goes and from where.
type Route struct {
	Source   string // sending source; "" is the host's own address
	Pool     string
	Site     string // key shared by all domains with the same MX set
	Provider string // configured group of sites; may be ""
	Domain   string
	Hosts    []Host // in order of preference, never empty
	Port     uint16
	TLS      TLSMode
	EHLO     string    // our name in EHLO, the source's; "": the engine's
	Messages int       // transactions on one connection; 0: no limit but the deliverer's
	Expires  time.Time // resolve again after it
}

// Reply is one SMTP reply.
type Reply struct {
	Code     int    // 0: there was none
	Enhanced string // RFC 3463, such as 4.7.1; "" if the peer gave none
	Text     string // lines joined by a space, without codes, cut at 1 KiB
}

// String is the reply as it stood on the wire, on one line.
func (r Reply) String() string {
	if r.Code == 0 {
		return r.Text
	}
	s := strconv.Itoa(r.Code)
	if r.Enhanced != "" {
		s += " " + r.Enhanced
	}
	if r.Text != "" {
		s += " " + r.Text
	}
	return s
}

// OutcomeKind is the result of an attempt.
type OutcomeKind uint8

// The outcome kinds.
const (
	Delivered OutcomeKind = iota + 1 // the provider's 2xx to end-of-data
	Deferred                         // transient, will be tried again
	Bounced                          // permanent
	// Ambiguous: the connection was lost between the final dot and its reply;
	// the provider may have the message. Retried by policy, always in the log.
	Ambiguous
	// Moved: another node of the cluster has it durably and goes on with it.
	Moved
)

// String returns delivered, deferred, bounced or ambiguous.
func (k OutcomeKind) String() string {
	switch k {
	case Delivered:
		return "delivered"
	case Deferred:
		return "deferred"
	case Bounced:
		return "bounced"
	case Ambiguous:
		return "ambiguous"
	case Moved:
		return "moved"
	}
	return "none"
}

// The classes say which part of an attempt decided its outcome.
const (
	ClassSMTP    = "smtp"    // a reply of the peer
	ClassConnect = "connect" // no connection, or it broke
	ClassDNS     = "dns"
	ClassTLS     = "tls"
	ClassRender  = "render"  // a template failed; Line and Column are in the text
	ClassPolicy  = "policy"  // our own decision: loop, missing SMTPUTF8, suspension by bounce
	ClassExpired = "expired" // life or deadline over
	ClassAdmin   = "admin"   // an operator's bounce
)

// Outcome is the result of one attempt for one recipient.
type Outcome struct {
	Kind    OutcomeKind
	Class   string
	Reply   Reply
	Command string // the command the reply answered: connect, banner, EHLO, STARTTLS, MAIL, RCPT, DATA, end-of-data
	Source  string // sending source; "" is the host's own address
	Host    string // MX name
	Address string // its IP and port
	TLS     string // version and cipher, "" in clear
	Session ID
	Started time.Time
	Took    time.Duration
	// PeerReports: the peer took over the duty to report (it offers DSN, RFC 3461 §5.2.1).
	PeerReports bool
	// Error is the internal cause for the log; never sent to a peer.
	Error string
}

// OutcomeError carries an outcome where an error is expected: no route, no session.
// It applies to every message that waited for it.
type OutcomeError struct{ Outcome Outcome }

// Error implements error.
func (e *OutcomeError) Error() string {
	return e.Outcome.Class + ": " + e.Outcome.Kind.String() + ": " + e.Outcome.Reply.String() + errorSuffix(e.Outcome.Error)
}

func errorSuffix(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
