package event

import (
	"fmt"
	"strings"
)

// KindDoc tells what a kind means.
type KindDoc struct {
	Kind Kind
	Doc  string
}

// FieldDoc tells what a field of the JSON form means.
type FieldDoc struct {
	Name string
	Type string // JSON type, and its text form where there is one
	Doc  string
}

// Kinds lists every kind with its meaning.
func Kinds() []KindDoc {
	return []KindDoc{
		{Injected, "A message was accepted: it is durable and we owe its delivery."},
		{Delivered, "The recipient's mail exchanger answered 2xx to the end of the data. Ends the message's life."},
		{Deferred, "An attempt failed for a reason that may pass; `next_try` says when the next one is due. With `outcome` ambiguous the connection was lost between the final dot and its reply, and the recipient may have the message."},
		{Bounced, "Delivery failed for good: a permanent reply, our own decision (`class`), or an operator's. Ends the message's life."},
		{Expired, "The message's retry life or deadline passed before it could be delivered. Ends the message's life."},
		{Suspended, "An operator or a rule stopped the messages that `filter` matches, until `until`."},
		{Resumed, "The suspension that `filter` names has ended."},
		{Moved, "Another node of the cluster took the message over durably; further events about it are in that node's log."},
		{Throttled, "A rule or the closed loop changed how fast mail goes from `source` to `provider` or `site`: `limit` holds from now on, for `reason`."},
		{Gap, "Events were dropped before this reader had them, because the volume ran short or the log reached its largest size; `gap_events` says how many."},
	}
}

// Fields lists the fields of the JSON form in the order in which they are written.
func Fields() []FieldDoc {
	const text, id, instant, number = "string", "string, UUID", "string, RFC 3339", "number"
	return []FieldDoc{
		{"id", text, "Names the event. Derived from message, attempt and kind: an event that a crash made us write twice has the same id twice."},
		{"kind", text, "What happened; see above."},
		{"time", instant, "When, in UTC with nine decimals, so that lines sort as text."},
		{"message", id, "The message: one recipient's copy. Its first 48 bits are the Unix milliseconds of its acceptance."},
		{"batch", id, "The SMTP transaction or API request that the message came in with."},
		{"tenant", text, "The customer account it belongs to."},
		{"stream", text, "The label that isolates queues and limits: a campaign, a flow message."},
		{"pool", text, "The pool of sending sources."},
		{"tags", "object of strings", "The free labels that the injector gave the message, in its order."},
		{"reverse_path", text, "The envelope's MAIL FROM address as injected; absent when it is null."},
		{"recipient", text, "The envelope's RCPT TO address."},
		{"domain", text, "The recipient's domain, in lower case."},
		{"size", number, "Bytes of the message's body as stored."},
		{"protocol", text, "How it was injected: `smtp` or `http`."},
		{"peer", text, "Address of the injecting client."},
		{"auth", text, "Who authenticated for the injection: user name or API key name."},
		{"attempt", number, "Which attempt this is, from 1."},
		{"site", text, "All domains with the same set of mail exchangers."},
		{"provider", text, "The configured group of sites."},
		{"source", text, "The sending source: one address with its EHLO name."},
		{"host", text, "Name of the mail exchanger that was talked to."},
		{"address", text, "Its IP address and port."},
		{"tls", text, "TLS version and cipher of the session; absent in clear."},
		{"session", id, "The SMTP session to the mail exchanger; messages that shared a connection have it in common."},
		{"took_ms", number, "Milliseconds that the attempt took, to the microsecond."},
		{"outcome", text, "Result of the attempt: `delivered`, `deferred`, `bounced` or `ambiguous`."},
		{"class", text, "What decided it: `smtp`, `connect`, `dns`, `tls`, `render`, `policy`, `expired` or `admin`."},
		{"code", number, "SMTP reply code; absent when there was no reply."},
		{"enhanced", text, "Enhanced status code (RFC 3463) of the reply."},
		{"reply", text, "Text of the reply, its lines joined by a space."},
		{"command", text, "The SMTP command that the reply answered."},
		{"next_try", instant, "When the next attempt is due."},
		{"reason", text, "Why, in words: of a suspension, an expiry, a gap."},
		{"filter", text, "What a suspension matches."},
		{"until", instant, "When a suspension ends by itself."},
		{"limit", text, "What limits mail from now on, such as `10/min` or `35 % of 100/s`."},
		{"rule", text, "The automation rule that acted, as provider/name."},
		{"gap_events", number, "How many events the gap stands for."},
	}
}

// Doc returns docs/formats/events.md, the reference page of the event schema.
func Doc() string {
	var b strings.Builder
	b.WriteString(`# Events

<!-- Generated from internal/event/fields.go by: go test ./internal/event -run TestDoc -update -->

One event is one JSON object on one line (UTF-8, ended by LF). Kinds and field names are stable: none is ever
renamed or given another meaning. New ones may come, so a reader ignores what it does not know. A field that is
empty, zero or false is left out. Bytes that are not UTF-8 are written as U+FFFD.

Events of one message come in the order in which they happened. After a crash up to some ten milliseconds of
them may be written a second time, with the same ` + "`id`" + `: a reader that counts keeps the ids it has seen.

## Kinds

| kind | meaning |
|---|---|
`)
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", k.Kind, k.Doc)
	}
	b.WriteString("\n## Fields\n\nIn the order in which they are written.\n\n| field | type | meaning |\n|---|---|---|\n")
	for _, f := range Fields() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Name, f.Type, f.Doc)
	}
	return b.String()
}
