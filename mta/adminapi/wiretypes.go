package adminapi

import (
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
)

// QueuesResponse lists scheduled queues.
type QueuesResponse struct {
	Queues   []QueueInfo `json:"queues" doc:"The longest first."`
	Total    int         `json:"total" doc:"How many match, listed or not."`
	Messages int64       `json:"messages" doc:"How many messages all that match hold."`
}

// Message is a message in the queue.
type Message struct {
	ID          string            `json:"id" format:"uuid" doc:"Id."`
	Batch       string            `json:"batch" format:"uuid" doc:"Transaction or request it came in with."`
	State       string            `json:"state" doc:"queued, delivering, deferred or scheduled."`
	Tenant      string            `json:"tenant" doc:"Tenant."`
	Stream      string            `json:"stream,omitempty" doc:"Stream."`
	Pool        string            `json:"pool,omitempty" doc:"Pool of sources."`
	Priority    string            `json:"priority" enum:"bulk,normal,urgent" doc:"Order inside a ready queue."`
	Tags        map[string]string `json:"tags,omitempty" doc:"Labels."`
	ReversePath string            `json:"reverse_path" doc:"Envelope return address; empty is the null reverse path."`
	Recipient   string            `json:"recipient" doc:"Recipient."`
	Accepted    time.Time         `json:"accepted" doc:"When it was accepted."`
	Due         time.Time         `json:"due,omitzero" doc:"When it is tried next."`
	Deadline    time.Time         `json:"deadline,omitzero" doc:"Dropped undelivered after it."`
	Expires     time.Time         `json:"expires,omitzero" doc:"End of its retry life."`
	Attempts    int               `json:"attempts" doc:"Attempts so far."`
	LastReply   string            `json:"last_reply,omitempty" doc:"Reply to the last attempt."`
	Body        string            `json:"body" format:"uuid" doc:"Id of its body."`
	Size        int64             `json:"size" doc:"Size of its body in bytes."`
}

// MessagesResponse lists messages.
type MessagesResponse struct {
	Messages []Message `json:"messages" doc:"Those in memory first, then by due time of each queue."`
	Next     string    `json:"next,omitempty" doc:"Cursor of the next page. The queue moves on meanwhile, so a page may miss or repeat a message."`
}

// MessageResponse is all that is known about a message.
type MessageResponse struct {
	Message       *Message       `json:"message,omitempty" doc:"Absent when it is no longer in the queue."`
	Substitutions string         `json:"substitutions,omitempty" doc:"Its variables, as JSON text."`
	Events        []MessageEvent `json:"events" doc:"What happened, oldest first."`
	Header        string         `json:"header,omitempty" doc:"Header of its stored body, when asked for."`
}

// MessageEvent is one fact about a message, with what only operators see.
type MessageEvent struct {
	ID          string    `json:"id,omitempty" doc:"Same for the same fact."`
	Kind        string    `json:"kind" doc:"What happened."`
	Time        time.Time `json:"time" doc:"When."`
	Recipient   string    `json:"recipient,omitempty" doc:"Recipient."`
	ReversePath string    `json:"reverse_path,omitempty" doc:"Envelope return address."`
	Protocol    string    `json:"protocol,omitempty" doc:"Of the injection: smtp or http."`
	Peer        string    `json:"peer,omitempty" doc:"Injecting client's address."`
	AuthID      string    `json:"auth_id,omitempty" doc:"Who authenticated."`
	Attempt     int       `json:"attempt,omitempty" doc:"1 for the first."`
	Outcome     string    `json:"outcome,omitempty" doc:"Of the attempt."`
	Class       string    `json:"class,omitempty" doc:"What decided the outcome."`
	Code        int       `json:"code,omitempty" doc:"SMTP reply code."`
	Enhanced    string    `json:"enhanced,omitempty" doc:"Enhanced status code."`
	Reply       string    `json:"reply,omitempty" doc:"Text of the reply."`
	Command     string    `json:"command,omitempty" doc:"What the reply answered."`
	Source      string    `json:"source,omitempty" doc:"Sending source."`
	Site        string    `json:"site,omitempty" doc:"Site."`
	Provider    string    `json:"provider,omitempty" doc:"Provider."`
	Host        string    `json:"host,omitempty" doc:"Mail exchanger."`
	Address     string    `json:"address,omitempty" doc:"Its IP address and port."`
	TLS         string    `json:"tls,omitempty" doc:"TLS version and cipher."`
	Session     string    `json:"session,omitempty" doc:"Id of the session."`
	TookMS      float64   `json:"took_ms,omitempty" doc:"How long the attempt took, in milliseconds."`
	NextTry     time.Time `json:"next_try,omitzero" doc:"When the next attempt is due."`
	Reason      string    `json:"reason,omitempty" doc:"Why, where no reply tells it."`
}

// FilterRequest is an action on messages.
type FilterRequest struct {
	Filter Filter `json:"filter" doc:"What it concerns."`
}

// ReasonRequest is an action with a reason.
type ReasonRequest struct {
	Filter Filter `json:"filter" doc:"What it concerns."`
	Reason string `json:"reason,omitempty" doc:"Why, on one line; a bounce tells it the sender."`
}

// SuspendRequest stops delivery.
type SuspendRequest struct {
	Filter Filter     `json:"filter" doc:"What to stop; not single messages or recipients."`
	Until  *time.Time `json:"until,omitempty" doc:"When to go on by itself; absent: never."`
	Reason string     `json:"reason,omitempty" doc:"Why, on one line."`
}

// SuspensionsResponse lists suspensions.
type SuspensionsResponse struct {
	Suspensions []Suspension `json:"suspensions" doc:"The oldest first."`
}

// CountResponse tells how much an action did.
type CountResponse struct {
	Count int `json:"count" doc:"Messages, or suspensions, that it concerned."`
}

// ImportResponse tells what an import did.
type ImportResponse struct {
	Stored int `json:"stored" doc:"Messages that are durable now."`
	Known  int `json:"known" doc:"Messages that were in the queue before and were skipped."`
}

// LogLevel is how much is logged.
type LogLevel struct {
	Level string `json:"level" enum:"debug,info,warn,error" doc:"Least severity that is logged."`
}

func wireMessage(w *Waiting) Message {
	m := w.Message
	return Message{
		ID: m.ID.String(), Batch: m.Batch.String(), State: w.State, Tenant: m.Tenant, Stream: m.Stream, Pool: m.Pool,
		Priority: m.Priority.String(), Tags: tagMap(m.Tags), ReversePath: m.ReversePath, Recipient: m.Recipient,
		Accepted: m.Accepted.UTC(), Due: utc(w.Due), Deadline: utc(m.Deadline), Expires: utc(m.Expires),
		Attempts: m.Attempts, LastReply: m.LastReply, Body: m.Body.ID.String(), Size: m.Body.Size,
	}
}

// utc keeps the zero time zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func tagMap(tags []mail.Tag) map[string]string {
	if len(tags) == 0 {
		return nil
	}
	out := make(map[string]string, len(tags))
	for _, t := range tags {
		out[t.Name] = t.Value
	}
	return out
}

// WireDetail says what is known about a message in the words of the API.
func WireDetail(d *Detail) MessageResponse {
	out := MessageResponse{Events: make([]MessageEvent, len(d.Events))}
	if d.Waiting != nil {
		m := wireMessage(d.Waiting)
		out.Message = &m
		out.Substitutions = string(d.Waiting.Message.Substitutions)
	}
	for i := range d.Events {
		out.Events[i] = wireEvent(&d.Events[i])
	}
	return out
}

func wireEvent(e *event.Event) MessageEvent {
	out := MessageEvent{
		ID: e.ID, Kind: string(e.Kind), Time: e.Time.UTC(), Recipient: e.Recipient, ReversePath: e.ReversePath,
		Protocol: e.Protocol, Peer: e.Peer, AuthID: e.AuthID, Attempt: e.Attempt, Outcome: e.Outcome, Class: e.Class,
		Code: e.Code, Enhanced: e.Enhanced, Reply: e.Reply, Command: e.Command, Source: e.Source, Site: e.Site,
		Provider: e.Provider, Host: e.Host, Address: e.Address, TLS: e.TLS,
		TookMS: float64(e.Took.Microseconds()) / 1000, NextTry: utc(e.NextTry), Reason: e.Reason,
	}
	if !e.Session.IsZero() {
		out.Session = e.Session.String()
	}
	return out
}

// covers reports whether a suspension's filter has every field that want sets; all covers each.
func covers(have, want Filter) bool {
	if want.All {
		return true
	}
	for _, p := range [][2]string{{have.Tenant, want.Tenant}, {have.Stream, want.Stream}, {have.Domain, want.Domain},
		{have.Site, want.Site}, {have.Recipient, want.Recipient}} {
		if p[1] != "" && p[0] != p[1] {
			return false
		}
	}
	return want.Message.IsZero() || have.Message == want.Message
}
