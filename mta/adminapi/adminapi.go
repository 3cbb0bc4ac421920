// Package adminapi is the HTTP API for operators: look into the queue, suspend,
// resume, bounce, retry, move messages between machines, drain, reload. It
// holds the wire types, the handlers and the client that the command line uses.
//
// It also explains: how mail to an address goes, and why a message has not left.
// Whoever implements Explainer gathers facts; the sentences are derived from them here (verdict.go).
//
// The engine is seen through the small interfaces of Deps. Every action takes a
// Filter, and one that names nothing is refused unless it says all. A Unix
// socket is guarded by its file permissions; over TCP every request needs a token.
// The OpenAPI document at /admin/v1/openapi.json is made from the table in routes.go.
package adminapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
)

// Filter chooses messages. Set fields must all match; a text may hold * and ?.
type Filter struct {
	Message   mail.ID `json:"message,omitzero" doc:"Id of one message."`
	Tenant    string  `json:"tenant,omitempty" doc:"Tenant of the messages."`
	Stream    string  `json:"stream,omitempty" doc:"Stream of the messages."`
	Domain    string  `json:"domain,omitempty" doc:"Domain of the recipient."`
	Site      string  `json:"site,omitempty" doc:"Site that the domain belongs to."`
	Recipient string  `json:"recipient,omitempty" doc:"Address of the recipient."`
	All       bool    `json:"all,omitempty" doc:"Really every message; needed when nothing else is set."`
}

// ErrEmptyFilter refuses an action on everything that did not say so.
var ErrEmptyFilter = errors.New("the filter is empty: name a message, tenant, stream, domain, site or recipient, or set all")

// Empty reports whether f names nothing.
func (f Filter) Empty() bool {
	return f.Message.IsZero() && f.Tenant+f.Stream+f.Domain+f.Site+f.Recipient == ""
}

// Validate refuses a filter that names nothing without all, or both at once, and bad patterns.
func (f Filter) Validate() error {
	switch {
	case f.Empty() && !f.All:
		return ErrEmptyFilter
	case f.All && !f.Empty():
		return errors.New("all is set beside other fields")
	}
	return f.patterns()
}

func (f Filter) patterns() error {
	for _, p := range []string{f.Tenant, f.Stream, f.Domain, f.Site, f.Recipient} {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("%q is not a pattern: %w", p, err)
		}
		if strings.ContainsAny(p, "\r\n\x00") {
			return fmt.Errorf("%q has a line break", p)
		}
	}
	return nil
}

// QueueInfo is one scheduled queue.
type QueueInfo struct {
	Tenant    string    `json:"tenant" doc:"Tenant."`
	Stream    string    `json:"stream" doc:"Stream; may be empty."`
	Domain    string    `json:"domain" doc:"Recipient's domain."`
	Site      string    `json:"site,omitempty" doc:"Site of the domain, once it was resolved."`
	Priority  string    `json:"priority" enum:"bulk,normal,urgent" doc:"Order inside a ready queue."`
	State     string    `json:"state" enum:"suspended,held,delivering,ready,waiting" doc:"Suspended by an operator or rule, held since the site cannot be reached, being delivered, ready to be, or waiting for a due time."`
	Messages  int64     `json:"messages" doc:"All its messages."`
	Ready     int       `json:"ready" doc:"Those in memory that wait for a session."`
	InFlight  int       `json:"in_flight" doc:"Those being delivered."`
	Oldest    time.Time `json:"oldest,omitzero" doc:"When its oldest message was accepted, if that is known."`
	NextDue   time.Time `json:"next_due,omitzero" doc:"When the next waiting message is due."`
	HeldUntil time.Time `json:"held_until,omitzero" doc:"No new connection to the site before."`
	Suspended bool      `json:"suspended" doc:"Whether a suspension matches it."`
	LastReply string    `json:"last_reply,omitempty" doc:"Last reply to one of its waiting messages."`
}

// The states of a queue.
const (
	QueueSuspended  = "suspended"
	QueueHeld       = "held"
	QueueDelivering = "delivering"
	QueueReady      = "ready"
	QueueWaiting    = "waiting"
)

// state derives the one word from the facts; whoever lists queues may leave State empty.
func (q *QueueInfo) state(now time.Time) string {
	switch {
	case q.State != "":
		return q.State
	case q.Suspended:
		return QueueSuspended
	case q.HeldUntil.After(now):
		return QueueHeld
	case q.InFlight > 0:
		return QueueDelivering
	case q.Ready > 0:
		return QueueReady
	}
	return QueueWaiting
}

// Waiting is one message in the queue.
type Waiting struct {
	Message *mail.Message
	Due     time.Time
	State   string // queued, delivering, deferred or scheduled
}

// Detail is all that is known about a message.
type Detail struct {
	Waiting *Waiting      // nil: no longer in the queue
	Events  []event.Event // oldest first
}

// Suspension stops delivery of what matches until a time.
type Suspension struct {
	ID      string    `json:"id" doc:"What to resume it by."`
	Filter  Filter    `json:"filter" doc:"What it stops."`
	Until   time.Time `json:"until,omitzero" doc:"When it ends by itself; absent: never."`
	Reason  string    `json:"reason,omitempty" doc:"Why."`
	Created time.Time `json:"created" doc:"Since when."`
}

// Stats are totals of the queue.
type Stats struct {
	Messages     int64  `json:"messages" doc:"Messages in the queue."`
	InMemory     int    `json:"in_memory" doc:"Those of them in memory."`
	Queues       int    `json:"queues" doc:"Scheduled queues."`
	Sites        int    `json:"sites" doc:"Sites known."`
	Connections  int    `json:"connections" doc:"Open connections to providers."`
	BodyBytes    int64  `json:"body_bytes" doc:"Bodies in memory, in bytes."`
	IndexBytes   int64  `json:"index_bytes" doc:"Size of the index on disk."`
	SegmentBytes int64  `json:"segment_bytes" doc:"Size of the segments on disk."`
	Records      int64  `json:"records" doc:"Records written to the log since start."`
	Syncs        int64  `json:"syncs" doc:"Durable writes since start."`
	Suspended    int    `json:"suspended" doc:"Suspensions in force."`
	Draining     bool   `json:"draining" doc:"Whether nothing is accepted."`
	VolumeID     string `json:"volume_id" doc:"Id of the spool's volume."`
	DiskLow      bool   `json:"disk_low" doc:"Whether mail is refused for want of disk space."`
}

// Info tells what is running.
type Info struct {
	Version      string    `json:"version" doc:"Version of the program."`
	Go           string    `json:"go" doc:"Version of Go it was built with."`
	Hostname     string    `json:"hostname" doc:"Name it announces."`
	PID          int       `json:"pid" doc:"Process id."`
	Started      time.Time `json:"started" doc:"When it started."`
	ConfigFile   string    `json:"config_file,omitempty" doc:"File of the configuration."`
	ConfigDigest string    `json:"config_digest" doc:"SHA-256 of the configuration in force."`
	ConfigLoaded time.Time `json:"config_loaded" doc:"When that was loaded."`
}

// Inspector looks into the queue.
type Inspector interface {
	// Queues lists the scheduled queues that match, the longest first.
	Queues(ctx context.Context, f Filter) ([]QueueInfo, error)
	// Messages calls each for every message that matches until it returns false.
	Messages(ctx context.Context, f Filter, each func(Waiting) bool) error
	// Message tells all about one; mail.ErrNotFound when neither queue nor event log knows it.
	Message(ctx context.Context, id mail.ID) (Detail, error)
	// Body returns a waiting message's body as it is stored; mail.ErrNotFound when it waits no more.
	Body(ctx context.Context, id mail.ID) (mail.BodyKind, []byte, error)
}

// Suspender stops delivery and lets it go on; both are durable when they return.
type Suspender interface {
	// Suspend stops what matches; a zero until means until resumed.
	Suspend(ctx context.Context, f Filter, until time.Time, reason string) (Suspension, error)
	// Suspensions lists those in force.
	Suspensions(ctx context.Context) ([]Suspension, error)
	// Resume ends one; mail.ErrNotFound when there is none of that id.
	Resume(ctx context.Context, id string) error
}

// Changer acts on waiting messages and returns how many.
type Changer interface {
	// Bounce ends messages with a report to each reverse path.
	Bounce(ctx context.Context, f Filter, reason string) (int, error)
	// Retry makes messages due now.
	Retry(ctx context.Context, f Filter) (int, error)
}

// Mover writes messages out and reads them in.
type Mover interface {
	// Export writes what matches as JSON lines, envelopes and bodies, and leaves it in the queue.
	Export(ctx context.Context, f Filter, w io.Writer) (int, error)
	// Import reads what Export wrote and tells how many it stored and how many it had already.
	// An error about the lines wraps ErrBadImport; those before it are stored.
	Import(ctx context.Context, r io.Reader) (stored, known int, err error)
}

// ErrBadImport is wrapped by what Import returns for lines that are not an export.
var ErrBadImport = errors.New("not an export")

// Node is the process itself.
type Node interface {
	Stats(ctx context.Context) (Stats, error)
	Info(ctx context.Context) (Info, error)
	// Reload reads the configuration again. The error is one of the configuration; then the old one stays in force.
	Reload(ctx context.Context) error
	// Drain stops accepting mail, or starts it again.
	Drain(ctx context.Context, on bool) error
}
