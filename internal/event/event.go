// Package event is the one schema for what happens to messages, and the
// durable log that holds it. Kinds and field names are a contract with
// whoever reads the log: they are never renamed.
package event

import (
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Kind names what happened.
type Kind string

// The kinds that the delivery engine writes.
const (
	Injected  Kind = "injected"
	Delivered Kind = "delivered"
	Deferred  Kind = "deferred"
	Bounced   Kind = "bounced"
	Expired   Kind = "expired"
	Suspended Kind = "suspended" // an operator's or a rule's stop; Resumed ends it
	Resumed   Kind = "resumed"
	Moved     Kind = "moved"     // to another node of the cluster, which writes all further events
	Throttled Kind = "throttled" // a rule or the closed loop changed how fast mail goes
	Gap       Kind = "gap"       // events were dropped unread for want of space; GapEvents says how many
)

// Final reports whether k ends a message's life.
func (k Kind) Final() bool { return k == Delivered || k == Bounced || k == Expired }

// Event is one timestamped fact about a message (or, for Suspended, Resumed and Gap, about the engine).
type Event struct {
	// ID is derived from the message id, the attempt and the kind, so a repeated write is recognisable.
	ID   string
	Kind Kind
	Time time.Time

	Message mail.ID
	Batch   mail.ID
	Tenant  string
	Stream  string
	Pool    string
	Tags    []mail.Tag

	ReversePath string
	Recipient   string
	Domain      string
	Size        int64
	Protocol    string // smtp or http, of the injection
	Peer        string // injecting client's address
	AuthID      string // who authenticated

	Attempt  int // 1 for the first
	Site     string
	Provider string
	Source   string
	Host     string // MX
	Address  string
	TLS      string
	Session  mail.ID
	Took     time.Duration

	Outcome   string // of the attempt: delivered, deferred, bounced, ambiguous
	Class     string
	Code      int
	Enhanced  string
	Reply     string
	Command   string
	NextTry   time.Time
	Reason    string // for suspended, resumed, expired, gap
	Filter    string // for suspended and resumed: what it matches
	Until     time.Time
	Limit     string // for throttled: what holds now, such as "10/min" or "35 % of 100/s"
	Rule      string // for throttled and suspended: the rule that did it
	GapEvents int64  // for gap
}
