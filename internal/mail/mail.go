// Package mail holds the nouns of the delivery engine: Message, Body, Route,
// Reply, Outcome. It has no behaviour beyond reading and printing them and
// imports nothing of the project, so every package means the same thing.
//
// A Message is one recipient's copy with an id of its own. Copies share a Body.
package mail

import (
	"strings"
	"time"
)

// Priority orders messages inside a ready queue; a higher one goes first.
type Priority uint8

// The priorities. Bulk is what campaigns use, Urgent is for password resets.
const (
	Bulk Priority = iota
	Normal
	Urgent
)

// String returns bulk, normal or urgent.
func (p Priority) String() string {
	switch p {
	case Bulk:
		return "bulk"
	case Urgent:
		return "urgent"
	}
	return "normal"
}

// ParsePriority is the inverse of String; ok is false for any other text.
func ParsePriority(s string) (p Priority, ok bool) {
	switch strings.ToLower(s) {
	case "bulk":
		return Bulk, true
	case "normal":
		return Normal, true
	case "urgent":
		return Urgent, true
	}
	return Normal, false
}

// Tag is one free label of a message, echoed in every event about it.
type Tag struct{ Name, Value string }

// Notify is the RFC 3461 §4.1 NOTIFY set. Zero means not given: report failures and delays.
type Notify uint8

// The NOTIFY values.
const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// DSN is what the injecting client asked about delivery reports (RFC 3461).
type DSN struct {
	Notify            Notify
	Ret               string // FULL, HDRS or ""
	EnvelopeID        string // ENVID, decoded from xtext
	OriginalRecipient string // ORCPT as given: type;address, decoded from xtext
}

// BodyKind tells compose what a body's bytes are.
type BodyKind uint8

const (
	// BodyRaw is a complete RFC 5322 message with CR LF line ends, ready but for signing.
	BodyRaw BodyKind = iota
	// BodyRawTemplate is the same with template tags to render per message.
	BodyRawTemplate
	// BodyContent is the JSON form of Content; its texts may hold template tags.
	BodyContent
)

// Body is the bytes that copies share. Exactly one of Data and Path is set:
// a large body lives in a file of its own on the spool's volume.
type Body struct {
	ID   ID
	Kind BodyKind
	Size int64
	Data []byte
	Path string
	// EightBit tells that bytes above 127 occur (8BITMIME, RFC 6152).
	EightBit bool
}

// BodyRef is what a message knows of its body.
type BodyRef struct {
	ID       ID
	Kind     BodyKind
	Size     int64
	EightBit bool
	// Content is true for a body stored by POST /v1/contents: found by id and
	// shared between batches. Otherwise the body lies beside the message.
	Content bool
}

// Message is one recipient's copy. It is not changed after accept, except
// for Attempts, NextAttempt and LastReply, which belong to the queue.
type Message struct {
	ID       ID
	Batch    ID        // the transaction or request it came in with
	Accepted time.Time // also the DKIM t= value, so that a retry composes the same bytes

	Tenant   string
	Stream   string
	Pool     string
	Priority Priority
	Tags     []Tag

	NotBefore time.Time // zero: at once
	Deadline  time.Time // zero: none. After it the message is dropped undelivered
	Expires   time.Time // end of the retry life

	ReversePath string // without angle brackets; empty is the null reverse path
	Recipient   string // local@domain, domain in lower case
	DSN         DSN
	SMTPUTF8    bool

	Body BodyRef
	// Substitutions is a JSON object for rendering; nil when Body is BodyRaw.
	Substitutions []byte

	Attempts    int
	NextAttempt time.Time
	LastReply   string
}

// Domain is the recipient's domain in lower case, "" if there is none.
func (m *Message) Domain() string { return DomainOf(m.Recipient) }

// DomainOf cuts the domain out of an address.
func DomainOf(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return ""
	}
	return strings.ToLower(address[at+1:])
}

// SameCopy reports whether a and b may share one SMTP transaction: their
// composed bytes, reverse path and parameters are equal. Rendered bodies never are.
func SameCopy(a, b *Message) bool {
	return a.Body.ID == b.Body.ID && a.Body.Kind == BodyRaw && b.Body.Kind == BodyRaw &&
		a.Batch == b.Batch && a.Accepted.Equal(b.Accepted) && a.ReversePath == b.ReversePath &&
		a.DSN.Ret == b.DSN.Ret && a.DSN.EnvelopeID == b.DSN.EnvelopeID && a.SMTPUTF8 == b.SMTPUTF8
}

// Origin tells how a batch came in, for its injected events.
type Origin struct {
	Protocol string // esmtp, esmtps, esmtpa, esmtpsa, http, local
	Peer     string // client address
	AuthID   string // who authenticated, "" if nobody
}

// Batch is what one transaction or API request asks the queue to store: all of it or nothing.
type Batch struct {
	// Body is stored with the messages; nil when they refer to stored content.
	Body *Body
	// Content keeps Body for later batches under its id until this time; zero: not kept.
	ContentUntil  time.Time
	ContentTenant string
	Messages      []*Message
	Origin        Origin
	// Receipt, when set, is kept 24 h under its key in the same durable write.
	Receipt *Receipt
}

// Receipt remembers the answer to an idempotent request.
type Receipt struct {
	Tenant string
	Key    string
	Digest [32]byte // of the request body: another body under the same key is an error
	Answer []byte   // opaque to the queue
	At     time.Time
}
