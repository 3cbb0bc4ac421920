package queue

import (
	"context"
	"errors"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/queue/spool"
)

// Put makes a batch durable: when it returns nil, every message of it
// survives a power cut. The batch and its body belong to the queue from then
// on. Errors are mail.ErrQueueFull, ErrDiskFull, ErrDraining, ErrTooLarge, or
// the disk's failure; nothing of the batch is kept then.
func (q *Queue) Put(ctx context.Context, b *mail.Batch) error {
	if q.draining.Load() {
		return mail.ErrDraining
	}
	if err := q.awaitRoom(ctx); err != nil {
		return err
	}
	return q.put(ctx, b)
}

func (q *Queue) put(ctx context.Context, b *mail.Batch) error {
	if err := q.Failed(); err != nil {
		return err
	}
	if q.Queued()+int64(len(b.Messages)) > q.options().MaxMessages {
		return mail.ErrQueueFull
	}
	err := q.spool.Put(ctx, b, func(locs []spool.Loc, told func()) { q.register(b, locs, told) })
	if errors.Is(err, seglog.ErrFailed) {
		q.fail(err) // it stays so: a restart finds out what the disk has
	}
	return err
}

// Large starts a body too large for memory; see spool.LargeFile.
func (q *Queue) Large(ctx context.Context) (*spool.LargeFile, error) {
	if q.draining.Load() {
		return nil, mail.ErrDraining
	}
	return q.spool.Large(ctx)
}

// register puts a durable batch into the queue. Its injected events go first,
// so that they stand before any outcome in the log.
func (q *Queue) register(b *mail.Batch, locs []spool.Loc, told func()) {
	if len(b.Messages) == 0 {
		told()
		return
	}
	q.fin.add(finished{batch: b, told: told})
	q.m.injected.Add(float64(len(b.Messages)))
	now := time.Now().UnixMilli()
	o := q.options()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queued += int64(len(b.Messages))
	for i, m := range b.Messages {
		it := &item{msg: m, loc: locs[i], queue: q.sched(m), due: spool.DueOf(m), listed: true}
		q.unindexed = append(q.unindexed, it)
		q.live[m.ID] = it
		it.queue.items++
		if it.due > now || !q.fits(it, o) {
			it.place = placeParked
			continue
		}
		q.keepBody(it, b, o)
		q.ready(it)
	}
}

// fits reports whether a new message that is due stays in memory. Else it waits on disk, and is
// read back only after the index has it, a second or two later. Urgent mail would notice that: a little
// of it for each domain stays however much else there is, as refill reads at least one of each.
func (q *Queue) fits(it *item, o *Options) bool {
	most := o.MaxReady
	if len(q.live) > o.MaxInMemory {
		if it.msg.Priority != mail.Urgent {
			return false
		}
		most /= 10
	}
	return it.queue.fifo.len() < most
}

// keepBody keeps a just accepted body in memory for its first attempt, while the budget lasts.
func (q *Queue) keepBody(it *item, b *mail.Batch, o *Options) {
	if b.Body == nil || b.Body.Data == nil || !b.ContentUntil.IsZero() {
		return
	}
	charge := int64(len(b.Body.Data))/int64(len(b.Messages)) + 1
	if q.bodyBytes+charge > int64(o.BodyMemory) {
		return
	}
	it.body, it.charge = b.Body.Data, charge
	q.bodyBytes += charge
}

func (q *Queue) dropBody(it *item) {
	q.bodyBytes -= it.charge
	it.body, it.charge = nil, 0
}

// ready appends an item to its scheduled queue and wakes the site.
func (q *Queue) ready(it *item) {
	it.place = placeReady
	s := it.queue
	s.fifo.push(it)
	if s.site != nil {
		s.site.ready++
		q.dispatch(s.site)
		return
	}
	q.activate(s)
}

// Body loads a message's body for composing.
func (q *Queue) Body(ctx context.Context, m *mail.Message) (data []byte, release func(), err error) {
	q.mu.Lock()
	it := q.live[m.ID]
	var loc spool.Loc
	if it != nil {
		data, loc = it.body, it.loc
	}
	q.mu.Unlock()
	if it == nil {
		return nil, nil, mail.ErrNotFound
	}
	if data != nil {
		return data, func() {}, nil
	}
	return q.spool.Body(ctx, m, loc)
}

// Content finds stored content of a tenant; mail.ErrNotFound otherwise.
func (q *Queue) Content(_ context.Context, tenant string, id mail.ID) (mail.BodyRef, error) {
	return q.spool.Content(tenant, id, time.Now())
}

// Receipt finds what an idempotent request was answered, nil if unknown.
func (q *Queue) Receipt(_ context.Context, tenant, key string) (*mail.Receipt, error) {
	return q.spool.Receipt(tenant, key, time.Now())
}

// injectedEvent tells that a message was accepted.
func injectedEvent(m *mail.Message, origin *mail.Origin) event.Event {
	e := about(m, event.Injected, 0, m.Accepted)
	e.Size = m.Body.Size
	if origin != nil {
		e.Protocol, e.Peer, e.AuthID = origin.Protocol, origin.Peer, origin.AuthID
	}
	if m.NotBefore.After(m.Accepted) {
		e.NextTry = m.NotBefore
	}
	return e
}

func recoveredEvent(m *mail.Message) event.Event { return injectedEvent(m, nil) }

// about fills in what every event about a message says.
func about(m *mail.Message, kind event.Kind, attempt int, at time.Time) event.Event {
	return event.Event{ID: event.DeriveID(m.ID, attempt, kind), Kind: kind, Time: at,
		Message: m.ID, Batch: m.Batch, Tenant: m.Tenant, Stream: m.Stream, Pool: m.Pool, Tags: m.Tags,
		ReversePath: m.ReversePath, Recipient: m.Recipient, Domain: m.Domain(), Attempt: attempt}
}
