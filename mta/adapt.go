package mta

import (
	"context"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/trace"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/deliver"
	"github.com/godwit-mta/godwit/mta/egress"
	"github.com/godwit-mta/godwit/mta/httpd"
	"github.com/godwit-mta/godwit/queue"
)

// The consumers declare interfaces in their own words; these few methods
// translate where Go wants the exact type.

// sessions lets the queue open sessions of the deliverer.
type sessions struct {
	d     *deliver.Deliverer
	trace *trace.Recorder
}

func (a sessions) Open(ctx context.Context, r mail.Route, l queue.Lease) (queue.Session, error) {
	var dialer deliver.Dialer
	if own, ok := l.(deliver.Dialer); ok { // a lease of the gate dials from its source
		dialer = tracingDialer{own, a.trace}
	}
	s, err := a.d.Open(ctx, r, dialer)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// spoolDoor lets accept put batches and large bodies into the queue.
type spoolDoor struct {
	*queue.Queue
	gate *egress.Gate
}

// Put chooses the pool of each message before it is stored.
func (a spoolDoor) Put(ctx context.Context, b *mail.Batch) error {
	for _, m := range b.Messages {
		m.Pool = a.gate.Pool(m)
	}
	return a.Queue.Put(ctx, b)
}

func (a spoolDoor) Large(ctx context.Context) (accept.LargeFile, error) {
	f, err := a.Queue.Large(ctx)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// store answers the HTTP API's questions from the queue.
type store struct{ q *queue.Queue }

func (a store) Content(ctx context.Context, tenant string, id mail.ID) (mail.BodyRef, error) {
	return a.q.Content(ctx, tenant, id)
}

func (a store) Receipt(ctx context.Context, tenant, key string) (*mail.Receipt, error) {
	return a.q.Receipt(ctx, tenant, key)
}

func (a store) Status(ctx context.Context, tenant string, id mail.ID) (httpd.Status, error) {
	h, err := a.q.History(ctx, tenant, id)
	if err != nil {
		return httpd.Status{}, err
	}
	return statusOf(id, &h), nil
}

// statusOf reads a message's state out of its history.
func statusOf(id mail.ID, h *queue.History) httpd.Status {
	s := httpd.Status{ID: id, Events: h.Events, Accepted: id.Time()}
	for i := range h.Events {
		e := &h.Events[i]
		s.Batch, s.Recipient = e.Batch, e.Recipient
		if e.Attempt > 0 {
			s.Attempts = e.Attempt
			s.LastReply = mail.Reply{Code: e.Code, Enhanced: e.Enhanced, Text: e.Reply}.String()
		}
		switch {
		case e.Kind.Final():
			s.State = string(e.Kind)
		case e.Kind == "deferred":
			s.State = httpd.StateDeferred
		default:
			s.State = httpd.StateQueued
		}
		s.NextAttempt = e.NextTry
	}
	if w := h.Waiting; w != nil {
		m := w.Message
		s.State, s.NextAttempt = w.State, w.Due
		s.Batch, s.Recipient, s.Accepted, s.Attempts = m.Batch, m.Recipient, m.Accepted, m.Attempts
		if m.LastReply != "" {
			s.LastReply = m.LastReply
		}
	}
	return s
}
