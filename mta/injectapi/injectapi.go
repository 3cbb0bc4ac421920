// Package injectapi is the HTTP injection API as programs see it: the wire
// types of its requests and responses, the error codes, and a client.
//
// A campaign stores its content once and refers to it from each batch:
//
//	stored, err := client.StoreContent(ctx, injectapi.Content{From: "shop@example.com", Subject: "Hello {{ name }}", Text: "…"}, "")
//	answer, err := client.Send(ctx, injectapi.MessagesRequest{ContentID: stored.ID, Recipients: rows}, "")
//
// The OpenAPI document that a server offers at /openapi.json is made from
// these types; their tags carry its descriptions. A field without omitempty
// is required.
package injectapi

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/wire"
)

// Paths of the API.
const (
	PathContents = "/v1/contents"
	PathMessages = "/v1/messages"
	PathMessage  = "/v1/messages/{id}"
	PathOpenAPI  = "/openapi.json"
)

// Names of header fields.
const (
	HeaderIdempotencyKey      = "Idempotency-Key"
	HeaderIdempotencyReplayed = "Idempotency-Replayed"
)

// MaxRecipients is the most recipients that one request takes; a server may be configured to take fewer.
const MaxRecipients = 10_000

// The codes of errors, beside those of package wire.
const (
	CodeRequired            = "required"             // a field is missing or empty
	CodeConflictingFields   = "conflicting_fields"   // fields that exclude each other are both there
	CodeInvalidAddress      = "invalid_address"      // not an address that mail can be sent to
	CodeInvalidHeader       = "invalid_header"       // a header name or value that cannot stand in a message
	CodeLineBreak           = "line_break"           // CR, LF or NUL where a header field could be injected
	CodeTooLong             = "too_long"             // longer than the limit that the detail tells
	CodeTooManyRecipients   = "too_many_recipients"  // more than the limit that the detail tells
	CodeTemplate            = "template"             // a template that cannot be rendered; line and column are in the template
	CodeUnknownContent      = "unknown_content"      // no such content, or it has expired
	CodeIdempotencyConflict = "idempotency_conflict" // the key was used with another body
	CodeRejected            = "rejected"             // refused by the policy of this server
	CodeQueueFull           = "queue_full"
	CodeDiskFull            = "disk_full"
	CodeDraining            = "draining"
)

// Object is a JSON object kept as its bytes.
type Object = wire.Object

// Vars makes an Object of variables for substitution.
func Vars(v map[string]any) (Object, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("injectapi: substitutions: %w", err)
	}
	return b, nil
}

// Content is a message to be, either in parts or raw.
type Content struct {
	From        string       `json:"from,omitempty" doc:"From header field: address or Name <address>. Required unless raw."`
	ReplyTo     string       `json:"reply_to,omitempty" doc:"Reply-To header field."`
	Subject     string       `json:"subject,omitempty" doc:"Subject header field. May hold template tags."`
	Text        string       `json:"text,omitempty" doc:"Plain text part. May hold template tags."`
	HTML        string       `json:"html,omitempty" doc:"HTML part. May hold template tags; values are escaped."`
	AMP         string       `json:"amp,omitempty" doc:"AMP for Email part. May hold template tags; values are escaped."`
	Headers     []Header     `json:"headers,omitempty" doc:"Further header fields, in order."`
	Attachments []Attachment `json:"attachments,omitempty" doc:"Files."`
	Raw         string       `json:"raw,omitempty" doc:"A complete RFC 5322 message, instead of the parts."`
	RawBase64   []byte       `json:"raw_base64,omitempty" doc:"The same as base64, for bytes that are not UTF-8."`
	Templates   *bool        `json:"templates,omitempty" doc:"Whether the texts hold Django template tags. The default is true for parts and false for raw."`
}

// Header is one header field of the message.
type Header struct {
	Name  string `json:"name" doc:"Field name, such as List-Unsubscribe."`
	Value string `json:"value" doc:"Field value in UTF-8, without line breaks. May hold template tags."`
}

// Attachment is a file.
type Attachment struct {
	Name      string `json:"name" doc:"File name."`
	Type      string `json:"type" doc:"Media type, such as application/pdf."`
	ContentID string `json:"content_id,omitempty" doc:"Makes it an inline part that HTML refers to as cid:ID."`
	Data      []byte `json:"data" doc:"The file as base64."`
}

// ContentResponse answers a stored content.
type ContentResponse struct {
	ID        string    `json:"id" format:"uuid" doc:"What content_id of a messages request refers to."`
	ExpiresAt time.Time `json:"expires_at" doc:"Until when it can be referred to. Messages accepted before are delivered in any case."`
}

// MessagesRequest is one message or an atomic batch that shares a content.
type MessagesRequest struct {
	ContentID     string            `json:"content_id,omitempty" format:"uuid" doc:"A content stored before. Exactly one of content_id and content is required."`
	Content       *Content          `json:"content,omitempty" doc:"The content of this request alone."`
	Recipients    []Recipient       `json:"recipients" min:"1" max:"10000" doc:"One message is made for each."`
	Substitutions Object            `json:"substitutions,omitempty" doc:"Variables for every recipient; a recipient's own win."`
	ReversePath   *string           `json:"reverse_path,omitempty" doc:"Envelope return address. The default is the address in From; an empty string is the null reverse path."`
	Stream        string            `json:"stream,omitempty" doc:"Label that isolates queues and limits, such as a campaign id."`
	Pool          string            `json:"pool,omitempty" doc:"Pool of sources to send from."`
	Priority      string            `json:"priority,omitempty" enum:"bulk,normal,urgent" doc:"Order inside a ready queue. The default is normal."`
	SendAt        *time.Time        `json:"send_at,omitempty" doc:"Not before this time. The default is at once."`
	Deadline      *time.Time        `json:"deadline,omitempty" doc:"After this time an undelivered message expires."`
	Tags          map[string]string `json:"tags,omitempty" doc:"Labels that every event about the messages echoes."`
	Strict        bool              `json:"strict,omitempty" doc:"Refuse the whole request when one recipient is refused."`
}

// Recipient is one row of a batch.
type Recipient struct {
	Address       string            `json:"address" doc:"local@domain."`
	Name          string            `json:"name,omitempty" doc:"Display name for the To header field."`
	Substitutions Object            `json:"substitutions,omitempty" doc:"Variables for this recipient."`
	Tags          map[string]string `json:"tags,omitempty" doc:"Labels for this recipient, added to those of the request."`
	SendAt        *time.Time        `json:"send_at,omitempty" doc:"Not before this time, instead of the request's."`
}

// MessagesResponse is sent after the messages are durable.
type MessagesResponse struct {
	Batch    string     `json:"batch" format:"uuid" doc:"Id of the batch, echoed in events."`
	Messages []Accepted `json:"messages" doc:"The accepted ones, in order of the request."`
	Rejected []Rejected `json:"rejected" doc:"The refused ones; empty when all were accepted."`
}

// Accepted is one accepted message.
type Accepted struct {
	ID        string `json:"id" format:"uuid" doc:"Id of the message."`
	Recipient string `json:"recipient" doc:"Its recipient, domain in lower case."`
}

// Rejected is one refused recipient.
type Rejected struct {
	Index     int    `json:"index" doc:"Position in recipients, from 0."`
	Recipient string `json:"recipient" doc:"The address as given."`
	Field     string `json:"field,omitempty" doc:"Field of the recipient at fault."`
	Code      string `json:"code" doc:"For programs."`
	Message   string `json:"message" doc:"For people."`
}

// Status tells what became of a message.
type Status struct {
	ID          string     `json:"id" format:"uuid" doc:"Id of the message."`
	Batch       string     `json:"batch,omitempty" format:"uuid" doc:"Id of the batch it came in with."`
	State       string     `json:"state" enum:"scheduled,queued,delivering,deferred,delivered,bounced,expired" doc:"Where it is now."`
	Recipient   string     `json:"recipient" doc:"local@domain."`
	Accepted    *time.Time `json:"accepted,omitempty" doc:"When it was accepted."`
	Attempts    int        `json:"attempts" doc:"Attempts so far."`
	NextAttempt *time.Time `json:"next_attempt,omitempty" doc:"When it is tried next; absent when that is at once or never."`
	LastReply   string     `json:"last_reply,omitempty" doc:"The last reply of the provider, or our own words when there was none."`
	Events      []Event    `json:"events" doc:"What happened, oldest first."`
}

// Event is one fact about a message.
type Event struct {
	ID       string     `json:"id,omitempty" doc:"Same for the same fact."`
	Kind     string     `json:"kind" doc:"injected, delivered, deferred, bounced, expired; more may come."`
	Time     time.Time  `json:"time" doc:"When it happened."`
	Attempt  int        `json:"attempt,omitempty" doc:"1 for the first attempt."`
	Outcome  string     `json:"outcome,omitempty" doc:"Of the attempt: delivered, deferred, bounced or ambiguous."`
	Class    string     `json:"class,omitempty" doc:"What decided the outcome: smtp, connect, dns, tls, render, policy, expired, admin."`
	Code     int        `json:"code,omitempty" doc:"SMTP reply code."`
	Enhanced string     `json:"enhanced,omitempty" doc:"Enhanced status code (RFC 3463)."`
	Reply    string     `json:"reply,omitempty" doc:"Text of the reply."`
	Host     string     `json:"host,omitempty" doc:"Mail exchanger."`
	Address  string     `json:"address,omitempty" doc:"Its IP address and port."`
	Source   string     `json:"source,omitempty" doc:"Sending source."`
	TLS      string     `json:"tls,omitempty" doc:"TLS version and cipher, absent in clear."`
	NextTry  *time.Time `json:"next_try,omitempty" doc:"When the next attempt is due."`
	Reason   string     `json:"reason,omitempty" doc:"Why, where no reply tells it."`
}
