package queue

import (
	"context"
	"errors"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
)

// History is what is known about one message: where it waits, if it does, and
// every event about it, oldest first.
type History struct {
	Waiting *Waiting
	Events  []event.Event
}

// History tells what became of a message, from the queue and the event log,
// which keeps events for at least its configured time. mail.ErrNotFound when
// neither knows the id or it belongs to another tenant ("" asks for any).
func (q *Queue) History(ctx context.Context, tenant string, id mail.ID) (h History, err error) {
	if h.Events, err = q.spool.EventLog().Find(ctx, id); err != nil {
		return h, err
	}
	ended := false
	for i := range h.Events {
		ended = ended || h.Events[i].Kind.Final()
	}
	if !ended {
		w, err := q.Find(ctx, id)
		if err == nil {
			h.Waiting = &w
		} else if !errors.Is(err, mail.ErrNotFound) {
			return h, err
		}
	}
	switch {
	case h.Waiting == nil && len(h.Events) == 0:
		return h, mail.ErrNotFound
	case tenant != "" && h.tenant() != tenant:
		return History{}, mail.ErrNotFound
	}
	return h, nil
}

func (h *History) tenant() string {
	if h.Waiting != nil {
		return h.Waiting.Message.Tenant
	}
	return h.Events[0].Tenant
}
