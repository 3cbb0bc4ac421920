// Package accept is the one door for SMTP and HTTP: whatever comes in is
// checked here, gets its ids and trace fields, and is handed to the queue as
// one durable batch.
//
// The order of steps for a raw message (Door.Message):
//
//  1. The header block is read into memory, at most Options.MaxHeader bytes.
//  2. One pass over it finds the fields: Bcc and X-Godwit-* fields are cut out
//     (and the latter believed, from trusted injectors only), Received fields
//     are counted, missing Date and Message-ID noted. The bytes of the other
//     fields and of the body are never changed.
//  3. The rest of the message is read. A body up to Options.Inline stays in
//     memory, within the budget of Options.Memory that all injections share; a
//     larger one streams to a file on the spool volume and needs no memory.
//  4. Ids are reserved. A batch is named by its first message, so that the id in the
//     Received field, in the reply to DATA and in the event log is the same
//     for a message to one recipient; message i has the id Batch.Add(i).
//  5. Enqueuer.Put returns when the batch would survive a power cut; only
//     then is the injector told yes.
//
// Whatever fails before that leaves nothing behind: no file, no memory.
//
// Memory ownership: a body given to Put belongs to the queue from then on, as
// does mail.Body.Data given to Batch or Content from the moment of the call.
package accept

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/prometheus/client_golang/prometheus"
)

// Enqueuer stores batches; the queue implements it.
type Enqueuer interface {
	// Put returns nil once b is durable. An error means that b is not stored and
	// never will be: the file of a large body is removed then. Errors wrap mail.ErrQueueFull,
	// ErrDiskFull, ErrDraining, ErrTooLarge or ErrReceiptConflict where one applies.
	Put(ctx context.Context, b *mail.Batch) error
	// Large opens a file on the spool's volume for a body above Options.Inline.
	Large(ctx context.Context) (LargeFile, error)
}

// LargeFile takes a large body. It ends with Commit and then either Put of a
// batch that has its Path, or Abort; Abort after Commit removes the file too.
type LargeFile interface {
	io.Writer
	Path() string
	Commit() error // makes it durable
	Abort()        // removes it
}

// Templates checks template syntax at accept, so that a mistake is refused
// instead of bounced. An *Error is shown to the peer, any other error is not.
type Templates interface {
	// CheckBody reports whether body, of kind BodyRawTemplate or BodyContent, can be parsed.
	CheckBody(ctx context.Context, body *mail.Body) error
}

// Deps is what a Door needs.
type Deps struct {
	Queue      Enqueuer
	IDs        *mail.IDs
	Hostname   string    // our name in Received and Message-ID fields
	Templates  Templates // nil: templates are not checked at accept
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil: time.Now
}

// Injection is one SMTP transaction (or the same thing over HTTP): who sends
// what to whom. The message itself comes as a stream beside it.
type Injection struct {
	Protocol string // with clause of Received, RFC 3848: esmtp, esmtps, esmtpa, esmtpsa or http
	Tenant   string
	AuthID   string // who authenticated; ""
	// Trusted injectors' X-Godwit-* fields are believed; others' are removed unread.
	Trusted bool
	// AnyTenant allows X-Godwit-Tenant to name another tenant than Tenant.
	AnyTenant bool

	Peer     netip.Addr // the client, as a trusted proxy told it
	PeerName string     // its HELO name
	TLS      string     // version and cipher; "" in clear

	ReversePath string // without angle brackets; empty is the null reverse path
	Recipients  []Recipient
	SMTPUTF8    bool
	EightBit    bool  // BODY=8BITMIME was given; the bytes decide in the end
	SizeHint    int64 // SIZE parameter, 0 when not known
}

// Recipient is one recipient of an injection with what is its own.
type Recipient struct {
	Address string
	DSN     mail.DSN
	// Substitutions is a JSON object for rendering; only for bodies with templates.
	Substitutions []byte
	Tags          []mail.Tag // in addition to the injection's
	// Overrides of the injection's labels; zero fields keep those.
	Labels
}

// Labels say how a message is queued.
type Labels struct {
	Stream    string
	Pool      string
	Priority  *mail.Priority // nil: not given, mail.Normal in the end
	NotBefore time.Time      // not delivered before it
	Deadline  time.Time      // dropped when not delivered by then
}

// Request is one HTTP injection: a new body or stored content, and recipients.
type Request struct {
	Tenant      string
	AuthID      string // name of the API key
	Peer        netip.Addr
	TLS         string
	ReversePath string
	Labels      // of every recipient, unless it has its own
	Tags        []mail.Tag

	// Exactly one of Body and Content is set. Of Body only Kind and Data (or, for a
	// raw message, also EightBit) are read. A raw body gets the same header
	// processing as over SMTP, its X-Godwit-* fields removed unread; LF line ends become CR LF.
	Body    *mail.Body
	Content *mail.BodyRef

	Recipients []Recipient
	// Receipt, when set, is stored with the batch.
	Receipt *ReceiptRequest
}

// ReceiptRequest asks for a receipt in the same durable write as the batch.
type ReceiptRequest struct {
	Key    string
	Digest [32]byte
	// Answer makes what the receipt remembers from the ids given out.
	Answer func(Accepted) []byte
}

// Accepted is what the injector is told: the promise to deliver.
type Accepted struct {
	Batch mail.ID   // equal to IDs[0]
	IDs   []mail.ID // one per recipient, in order; IDs[i] is Batch.Add(i)
}
