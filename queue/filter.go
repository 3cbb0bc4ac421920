package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
)

// Filter chooses messages. Set fields must all match; a field may hold * and ?.
type Filter struct {
	Message   mail.ID `json:"message,omitzero"`
	Tenant    string  `json:"tenant,omitempty"`
	Stream    string  `json:"stream,omitempty"`
	Domain    string  `json:"domain,omitempty"`
	Site      string  `json:"site,omitempty"`
	Recipient string  `json:"recipient,omitempty"`
	All       bool    `json:"all,omitempty"` // really everything

	before time.Time // only messages accepted earlier; zero: all
}

// ErrEmptyFilter refuses an action on everything that did not say so.
var ErrEmptyFilter = errors.New("filter is empty: name a message, tenant, stream, domain, site or recipient, or set all")

// Validate refuses an empty filter and bad patterns.
func (f Filter) Validate() error {
	fields := []string{f.Tenant, f.Stream, f.Domain, f.Site, f.Recipient}
	if !f.All && f.Message.IsZero() && strings.Join(fields, "") == "" {
		return ErrEmptyFilter
	}
	for _, p := range fields {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("filter: %q is not a pattern: %w", p, err)
		}
	}
	return nil
}

// String lists the fields that are set.
func (f Filter) String() string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"tenant", f.Tenant}, {"stream", f.Stream},
		{"domain", f.Domain}, {"site", f.Site}, {"recipient", f.Recipient}} {
		if p.value != "" {
			parts = append(parts, p.name+"="+p.value)
		}
	}
	if !f.Message.IsZero() {
		parts = append(parts, "message="+f.Message.String())
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, " ")
}

func like(pattern, s string) bool {
	if pattern == "" || pattern == s {
		return true
	}
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}

// queue reports whether messages of a scheduled queue can match at all.
func (f *Filter) queue(s *sched) bool {
	if f.Site != "" && (s.route == nil || !like(f.Site, s.route.Site)) {
		return false
	}
	return like(f.Tenant, s.tenant) && like(f.Stream, s.stream) && like(strings.ToLower(f.Domain), s.domain)
}

// whole reports whether every message of a matching queue matches.
func (f *Filter) whole() bool { return f.Message.IsZero() && f.Recipient == "" && f.before.IsZero() }

// message reports whether a message of a matching queue matches.
func (f *Filter) message(m *mail.Message) bool {
	return (f.Message.IsZero() || f.Message == m.ID) && like(f.Recipient, m.Recipient) &&
		(f.before.IsZero() || m.Accepted.Before(f.before))
}

// Suspension stops delivery of scheduled queues until a time. It survives restarts.
type Suspension struct {
	ID      string    `json:"id"`
	Filter  Filter    `json:"filter"`
	Until   time.Time `json:"until,omitzero"` // zero: until resumed
	Reason  string    `json:"reason,omitempty"`
	Created time.Time `json:"created"`
}

func (q *Queue) restoreSuspensions(actions map[string][]byte) error {
	for id, b := range actions {
		var s Suspension
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("stored action %s: %w", id, err)
		}
		q.suspended[id] = &s
	}
	for _, s := range q.names {
		s.suspended = q.isSuspended(s)
	}
	return nil
}

func (q *Queue) isSuspended(s *sched) bool {
	for _, x := range q.suspended {
		if x.Filter.queue(s) {
			return true
		}
	}
	return false
}

// Suspend stops delivery of what matches; messages under way are finished. It
// is durable when it returns. Filters on single messages are refused.
func (q *Queue) Suspend(f Filter, until time.Time, reason string) (Suspension, error) {
	now := time.Now()
	x := Suspension{ID: q.ids.New(now).String(), Filter: f, Until: until, Reason: reason, Created: now}
	return x, q.Follow(x)
}

// Follow brings a suspension into force that was made elsewhere; one of that id
// which is there already stays. It is durable when Follow returns.
func (q *Queue) Follow(x Suspension) error {
	if err := x.Filter.Validate(); err != nil {
		return err
	}
	if !x.Filter.whole() {
		return errors.New("filter: suspend stops whole queues: a tenant, stream, domain or site, not single messages")
	}
	b, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("suspend: %w", err)
	}
	q.mu.Lock()
	_, known := q.suspended[x.ID]
	if !known {
		q.suspended[x.ID] = &x
		q.actions[x.ID] = b
		q.applySuspensions()
	}
	q.mu.Unlock()
	if known {
		return nil
	}
	q.tell(event.Suspended, &x, x.Created)
	return q.flush(false)
}

// Resume ends a suspension. mail.ErrNotFound if there is none of that id.
func (q *Queue) Resume(id string) error {
	q.mu.Lock()
	x := q.suspended[id]
	if x == nil {
		q.mu.Unlock()
		return mail.ErrNotFound
	}
	q.resume(x)
	q.mu.Unlock()
	q.tell(event.Resumed, x, time.Now())
	return q.flush(false)
}

func (q *Queue) resume(x *Suspension) {
	delete(q.suspended, x.ID)
	q.actions[x.ID] = nil
	q.applySuspensions()
}

func (q *Queue) resumeExpired() {
	now := time.Now()
	var over []*Suspension
	q.mu.Lock()
	for _, x := range q.suspended {
		if !x.Until.IsZero() && now.After(x.Until) {
			over = append(over, x)
			q.resume(x)
		}
	}
	q.mu.Unlock()
	for _, x := range over {
		q.tell(event.Resumed, x, now)
	}
}

// applySuspensions brings every scheduled queue in line with the list.
func (q *Queue) applySuspensions() {
	for _, s := range q.names {
		was := s.suspended
		s.suspended = q.isSuspended(s)
		switch {
		case s.suspended && s.site != nil:
			st := s.site
			st.detach(s)
			q.tidy(st)
		case was && !s.suspended:
			q.activate(s)
		}
	}
}

func (q *Queue) tell(kind event.Kind, x *Suspension, at time.Time) {
	e := event.Event{ID: x.ID + "-" + string(kind), Kind: kind, Time: at, Reason: x.Reason, Filter: x.Filter.String(), Until: x.Until}
	q.Tell(e)
}

// Tell writes an event about the engine to the event log, with the next group.
func (q *Queue) Tell(e event.Event) { q.fin.add(finished{engine: &e}) }

// Suspensions lists those in force.
func (q *Queue) Suspensions() []Suspension {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]Suspension, 0, len(q.suspended))
	for _, x := range q.suspended {
		list = append(list, *x)
	}
	return list
}
