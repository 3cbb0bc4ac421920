package mta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/records"
	"github.com/godwit-mta/godwit/queue"
)

// Keys of the shared records.
const (
	suspendPrefix = "suspend/" // queue.Suspension
	actionPrefix  = "action/"  // action
	donePrefix    = "done/"    // node/id of an action that the node has carried out
)

// actionLife is how long a node that is away may be late to carry an action out.
const actionLife = 7 * 24 * time.Hour

// action is done once by every node, on messages accepted before it was ordered.
type action struct {
	Kind    string       `json:"kind"` // bounce or retry
	Filter  queue.Filter `json:"filter"`
	Reason  string       `json:"reason,omitempty"`
	Ordered time.Time    `json:"ordered"`
	Node    string       `json:"node"`
}

// The kinds of actions.
const (
	actBounce = "bounce"
	actRetry  = "retry"
)

// Shared carries what operators do from the node where they do it to every
// other one, also to those that are away at the time.
type Shared struct {
	store *records.Store
	queue *queue.Queue
	node  string
	log   *slog.Logger
	ids   mail.IDs

	cancel []func()
	work   sync.WaitGroup
	ctx    context.Context
	stop   context.CancelFunc
}

func newShared(s *records.Store, q *queue.Queue, node string, log *slog.Logger) *Shared {
	sh := &Shared{store: s, queue: q, node: node, log: log}
	sh.ctx, sh.stop = context.WithCancel(context.Background())
	return sh
}

// start brings the queue in line with the records and keeps it so.
func (s *Shared) start() {
	known := map[string]bool{}
	for _, r := range s.store.List(suspendPrefix) {
		known[r.Key[len(suspendPrefix):]] = true
	}
	for _, x := range s.queue.Suspensions() {
		if !known[x.ID] { // resumed while we were away
			s.logged("resume", s.queue.Resume(x.ID))
		}
	}
	s.cancel = []func(){s.store.Subscribe(suspendPrefix, s.suspension), s.store.Subscribe(actionPrefix, s.action)}
}

func (s *Shared) close() {
	for _, c := range s.cancel {
		c()
	}
	s.stop()
	s.work.Wait()
}

func (s *Shared) logged(what string, err error) {
	if err != nil && !errors.Is(err, mail.ErrNotFound) {
		s.log.Error("shared action failed here", "action", what, "error", err)
	}
}

// suspension follows one record.
func (s *Shared) suspension(r records.Record) {
	id := r.Key[len(suspendPrefix):]
	if r.Deleted {
		s.logged("resume", s.queue.Resume(id))
		return
	}
	var x queue.Suspension
	if err := json.Unmarshal(r.Value, &x); err != nil {
		s.log.Error("shared suspension cannot be read", "id", id, "error", err)
		return
	}
	s.logged("suspend", s.queue.Follow(x))
}

// action carries one out, if this node has not yet.
func (s *Shared) action(r records.Record) {
	id := r.Key[len(actionPrefix):]
	done := donePrefix + s.node + "/" + id
	if _, over := s.store.Get(done); over || r.Deleted {
		return
	}
	var a action
	if err := json.Unmarshal(r.Value, &a); err != nil {
		s.log.Error("shared action cannot be read", "id", id, "error", err)
		return
	}
	if a.Node == s.node {
		return // done when it was ordered
	}
	s.work.Go(func() {
		n, err := s.carryOut(s.ctx, &a)
		if err != nil {
			s.logged(a.Kind, err)
			return // tried again at the next start
		}
		s.log.Info("shared action carried out", "action", a.Kind, "filter", a.Filter.String(), "ordered_by", a.Node, "messages", n)
		_, err = s.store.Put(done, nil, actionLife)
		s.logged(a.Kind, err)
	})
}

func (s *Shared) carryOut(ctx context.Context, a *action) (int, error) {
	if a.Kind == actRetry {
		return s.queue.Retry(ctx, a.Filter)
	}
	return s.queue.BounceBefore(ctx, a.Filter, a.Reason, a.Ordered)
}

// Suspend stops what matches on every node.
func (s *Shared) Suspend(f queue.Filter, until time.Time, reason string) (queue.Suspension, error) {
	now := time.Now()
	x := queue.Suspension{ID: s.ids.New(now).String(), Filter: f, Until: until, Reason: reason, Created: now}
	if err := s.queue.Follow(x); err != nil {
		return x, err
	}
	var ttl time.Duration
	if !until.IsZero() {
		ttl = max(time.Until(until), time.Millisecond)
	}
	b, err := json.Marshal(x)
	if err == nil {
		_, err = s.store.Put(suspendPrefix+x.ID, b, ttl)
	}
	return x, err
}

// Resume ends a suspension on every node; mail.ErrNotFound if there is none of that id.
func (s *Shared) Resume(id string) error {
	existed, err := s.store.Delete(suspendPrefix + id)
	if err != nil {
		return err
	}
	if err := s.queue.Resume(id); !existed || !errors.Is(err, mail.ErrNotFound) {
		return err
	}
	return nil
}

// Bounce ends what matches and was accepted until now, on every node. It
// returns how many messages of this node that were.
func (s *Shared) Bounce(ctx context.Context, f queue.Filter, reason string) (int, error) {
	return s.act(ctx, &action{Kind: actBounce, Filter: f, Reason: reason})
}

// Retry makes what matches due now, on every node. It returns how many messages of this node that were.
func (s *Shared) Retry(ctx context.Context, f queue.Filter) (int, error) {
	return s.act(ctx, &action{Kind: actRetry, Filter: f})
}

func (s *Shared) act(ctx context.Context, a *action) (int, error) {
	if err := a.Filter.Validate(); err != nil {
		return 0, err
	}
	a.Ordered, a.Node = time.Now(), s.node
	n, err := s.carryOut(ctx, a)
	if err != nil || !a.Filter.Message.IsZero() && n > 0 {
		return n, err // a single message is on one node only
	}
	b, err := json.Marshal(a)
	if err == nil {
		_, err = s.store.Put(actionPrefix+s.ids.New(a.Ordered).String(), b, actionLife)
	}
	if err != nil {
		return n, fmt.Errorf("done here; other nodes were not told: %w", err)
	}
	return n, nil
}
