package httpd

import (
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// wireStatus is the wire form of a status. What concerns the operator and not
// the tenant, such as peer and session, is left out.
func wireStatus(s Status) injectapi.Status {
	out := injectapi.Status{
		ID: s.ID.String(), State: s.State, Recipient: s.Recipient, Attempts: s.Attempts,
		Accepted: wireTime(s.Accepted), NextAttempt: wireTime(s.NextAttempt), LastReply: s.LastReply,
		Events: make([]injectapi.Event, len(s.Events)),
	}
	if !s.Batch.IsZero() {
		out.Batch = s.Batch.String()
	}
	for i := range s.Events {
		out.Events[i] = wireEvent(&s.Events[i])
	}
	return out
}

func wireEvent(e *event.Event) injectapi.Event {
	return injectapi.Event{
		ID: e.ID, Kind: string(e.Kind), Time: e.Time.UTC(), Attempt: e.Attempt,
		Outcome: e.Outcome, Class: e.Class, Code: e.Code, Enhanced: e.Enhanced, Reply: e.Reply,
		Host: e.Host, Address: e.Address, Source: e.Source, TLS: e.TLS,
		NextTry: wireTime(e.NextTry), Reason: e.Reason,
	}
}

func wireTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
