package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/queue/spool"
)

// finished is one thing to make durable: a batch's injected events, an
// outcome, or an engine event.
type finished struct {
	batch    *mail.Batch
	told     func() // the injected events of the batch are logged
	item     *item
	outcome  mail.Outcome
	provider string
	newDue   int64 // of a deferral, set when the change is encoded
	engine   *event.Event
	done     chan<- struct{}
}

// finisher collects what is finished for the next group.
type finisher struct {
	mu     sync.Mutex
	list   []finished
	closed bool
	wake   chan struct{}
}

func (f *finisher) add(x finished) {
	f.mu.Lock()
	f.list = append(f.list, x)
	f.mu.Unlock()
	signal(f.wake)
}

func (f *finisher) take() (list []finished, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list, f.list = f.list, nil
	return list, f.closed
}

func (f *finisher) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	signal(f.wake)
}

// finish hands in the outcomes of a group.
func (q *Queue) finish(group []*item, outcomes []mail.Outcome, provider string) {
	q.fin.mu.Lock()
	for i, it := range group {
		q.fin.list = append(q.fin.list, finished{item: it, outcome: outcomes[i], provider: provider})
	}
	q.fin.mu.Unlock()
	signal(q.fin.wake)
}

// finishLocked hands in one outcome for several items; q.mu is held.
func (q *Queue) finishLocked(items []*item, out *mail.Outcome, provider string) {
	if len(items) == 0 {
		return
	}
	outcomes := make([]mail.Outcome, len(items))
	for i := range outcomes {
		items[i].place = placeFinished
		outcomes[i] = *out
	}
	q.finish(items, outcomes, provider)
}

// finishLoop makes groups of outcomes durable, one write every GroupDelay.
func (q *Queue) finishLoop() {
	for {
		<-q.fin.wake
		if d := q.options().GroupDelay.D(); d > 0 && q.ctx.Err() == nil {
			time.Sleep(d)
		}
		list, closed := q.fin.take()
		for len(list) > 0 {
			if err := q.record(list); err != nil {
				q.fail(err)
				return
			}
			if !closed {
				break // what came meanwhile makes the next group
			}
			list, closed = q.fin.take()
		}
		if closed {
			return
		}
	}
}

// record writes a group's changes and events, then lets memory follow.
func (q *Queue) record(list []finished) error {
	q.report(list)
	var changes []byte
	events := make([]event.Event, 0, len(list))
	now := time.Now()
	o := q.options()
	for i := range list {
		changes, events = q.encode(&list[i], o, now, changes, events)
	}
	next, err := q.append(changes, events)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range list {
		q.applyFinished(&list[i])
	}
	q.applied = next
	return nil
}

// append writes one record to the event log. A full disk is waited out: old
// events make room, and mail waits meanwhile.
func (q *Queue) append(changes []byte, events []event.Event) (seglog.Pos, error) {
	log := q.spool.EventLog()
	for {
		_, err := log.Append(context.Background(), changes, events)
		if err == nil {
			return log.Tail(), nil
		}
		if !errors.Is(err, mail.ErrDiskFull) {
			return seglog.Pos{}, err
		}
		q.log.Error("no space for the event log; delivery waits", "error", err)
		log.Reclaim(int64(q.options().Events.SegmentSize))
		time.Sleep(time.Second)
		if q.ctx.Err() != nil {
			return seglog.Pos{}, err
		}
	}
}

// encode turns one finished thing into changes and events.
func (q *Queue) encode(f *finished, o *Options, now time.Time, changes []byte, events []event.Event) ([]byte, []event.Event) {
	switch {
	case f.engine != nil:
		return changes, append(events, *f.engine)
	case f.batch != nil:
		c := spool.Change{Kind: spool.ChangeInjected, ID: f.batch.Messages[0].ID}
		for _, m := range f.batch.Messages {
			events = append(events, injectedEvent(m, &f.batch.Origin))
		}
		return spool.AppendChange(changes, &c), events
	}
	it, out := f.item, &f.outcome
	attempts := it.msg.Attempts + 1
	q.mu.Lock()
	key, route := it.changeKey(), it.queue.route
	q.mu.Unlock()
	c := spool.Change{Kind: spool.ChangeEnded, ID: key.ID, Queue: key.Queue, Due: key.Due}
	switch out.Kind {
	case mail.Delivered, mail.Bounced, mail.Moved:
	default: // an outcome that nobody filled in must not end a message either
		rule := o.rule(it.msg, f.provider)
		next := now.Add(rule.wait(attempts, rand.Float64()))
		f.newDue = next.UnixMilli()
		c.Kind, c.NewDue, c.Attempts, c.Reply = spool.ChangeDeferred, f.newDue, attempts, out.Reply.String()
	}
	changes = spool.AppendChange(changes, &c)
	return changes, append(events, outcomeEvent(it.msg, out, attempts, f, route))
}

// outcomeEvent tells of one attempt.
func outcomeEvent(m *mail.Message, out *mail.Outcome, attempt int, f *finished, route *mail.Route) event.Event {
	kind := event.Deferred
	switch {
	case out.Class == mail.ClassExpired:
		kind = event.Expired
	case out.Kind == mail.Delivered:
		kind = event.Delivered
	case out.Kind == mail.Bounced:
		kind = event.Bounced
	case out.Kind == mail.Moved:
		kind = event.Moved
	}
	e := about(m, kind, attempt, out.Started.Add(out.Took))
	e.Provider, e.Source = f.provider, out.Source
	e.Host, e.Address, e.TLS, e.Session, e.Took = out.Host, out.Address, out.TLS, out.Session, out.Took
	e.Outcome, e.Class, e.Command = out.Kind.String(), out.Class, out.Command
	e.Code, e.Enhanced, e.Reply = out.Reply.Code, out.Reply.Enhanced, out.Reply.Text
	e.Reason = out.Error
	if route != nil {
		e.Site = route.Site
	}
	if f.newDue != 0 {
		e.NextTry = time.UnixMilli(f.newDue)
	}
	return e
}

// applyFinished lets memory follow what is durable now; q.mu is held.
func (q *Queue) applyFinished(f *finished) {
	if f.done != nil {
		defer func() { f.done <- struct{}{} }()
	}
	if f.told != nil {
		f.told()
	}
	it := f.item
	if it == nil {
		return
	}
	q.m.outcome(&f.outcome)
	q.dropBody(it)
	if f.newDue == 0 {
		q.ended(it)
		return
	}
	it.msg.Attempts++
	it.msg.LastReply = f.outcome.Reply.String()
	q.move(it, f.newDue)
}

// move gives an item another due time. It stays in memory until the index has it there.
func (q *Queue) move(it *item, due int64) {
	if it.indexed {
		q.gone.add(it.row) // planPut removes it
	}
	if !it.listed {
		it.listed = true
		q.moved = append(q.moved, it)
	}
	it.due = due
	it.place = placeParked
}

// forgetRow removes a row of the index with the next flush. Until no refill
// can have read it before that, it is remembered as gone.
func (q *Queue) forgetRow(k spool.Key) {
	q.removes = append(q.removes, k)
	q.gone.add(k)
}

// ended forgets a message whose end is durable.
func (q *Queue) ended(it *item) {
	it.place = placeEnded
	delete(q.live, it.msg.ID)
	q.queued--
	it.queue.items--
	if it.indexed {
		q.forgetRow(it.row)
		q.spool.Ended(it.msg)
	} else {
		q.spool.Forget(it.msg, it.loc)
	}
	q.forgetIdle(it.queue)
}

// report writes the delivery reports that outcomes call for, before the
// outcomes are recorded: a crash in between repeats a report, never loses one.
func (q *Queue) report(list []finished) {
	if q.d.Reporter == nil {
		return
	}
	o := q.options()
	for i := range list {
		f := &list[i]
		if f.item == nil || !reportDue(f.item.msg, &f.outcome, o.DSN) {
			continue
		}
		m := f.item.msg
		b, err := q.d.Reporter.Report(m, &f.outcome, func() ([]byte, error) {
			data, release, err := q.Body(q.ctx, m)
			if err != nil {
				return nil, err
			}
			defer release()
			return append([]byte(nil), data...), nil
		})
		if err == nil && b != nil {
			err = q.put(context.Background(), b)
		}
		if err != nil {
			q.log.Error("delivery report not sent", "message", m.ID.String(), "error", err)
			q.m.reportsLost.Inc()
		}
	}
}

// reportDue decides by RFC 3461 §5: never for a null reverse path.
func reportDue(m *mail.Message, out *mail.Outcome, o DSNOptions) bool {
	if m.ReversePath == "" || m.DSN.Notify&mail.NotifyNever != 0 {
		return false
	}
	switch out.Kind {
	case mail.Bounced:
		return o.Failures && (m.DSN.Notify == 0 || m.DSN.Notify&mail.NotifyFailure != 0)
	case mail.Delivered:
		return o.Success && m.DSN.Notify&mail.NotifySuccess != 0 && !out.PeerReports
	}
	return false
}
