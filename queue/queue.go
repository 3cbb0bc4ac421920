// Package queue owes delivery: from the moment Put returns until a message is
// delivered, bounced or expired, it is here.
//
// A message goes Put → scheduled queue → ready queue → session → finish:
//
//   - Put makes a batch durable in the spool and puts each message into its
//     scheduled queue, keyed (priority, tenant, stream, domain).
//   - A scheduled queue with something due gets a route and competes at its
//     site: the ready queue, where flows (tenant, stream) take turns within a
//     priority. Rows that are not due, or too many, wait in the index on disk.
//   - A session takes the next group of equal copies, delivers it, and reports
//     one outcome a message.
//   - finish collects outcomes for a few milliseconds and makes them durable,
//     as events and state changes in one write; then memory follows.
//
// One mutex guards all of it; no I/O happens under it. Memory holds what is
// near due, never the depth of the queue.
package queue

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/queue/spool"
)

// Router finds where a message goes. An error that is a *mail.OutcomeError
// decides the message; any other is a temporary failure.
type Router interface {
	Route(ctx context.Context, m *mail.Message) (mail.Route, error)
}

// Deliverer opens sessions under a lease. An error is a *mail.OutcomeError for
// what waited, or wraps mail.ErrNotTried.
type Deliverer interface {
	Open(ctx context.Context, r mail.Route, l Lease) (Session, error)
}

// Session is one connection to a site.
type Session interface {
	// Deliver attempts one transaction for equal copies; outcome i is of msgs[i].
	// Pass may be nil: nothing limits messages.
	Deliver(ctx context.Context, msgs []*mail.Message, pass mail.Pass) []mail.Outcome
	// Usable reports whether another transaction may follow.
	Usable() bool
	// Close ends the session politely. It reports whether the peer took leave
	// and closed, so that it no longer counts the connection.
	Close() (clean bool)
}

// Reporter writes a delivery report (RFC 3464) about a message. A nil batch means none is due.
type Reporter interface {
	Report(m *mail.Message, o *mail.Outcome, body func() ([]byte, error)) (*mail.Batch, error)
}

// Deps are what a queue works with.
type Deps struct {
	Router     Router
	Gate       Gate // nil: any number of connections, no limits
	Deliverer  Deliverer
	Reporter   Reporter // nil: no reports
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Fatal is called once when the queue can no longer record what it does
	// (the disk failed): the process must end and recover.
	Fatal func(error)
}

// Queue is a running queue on one volume.
type Queue struct {
	o     atomic.Pointer[Options]
	d     Deps
	log   *slog.Logger
	spool *spool.Spool
	m     *metrics
	ids   mail.IDs

	recovery spool.Recovery
	draining atomic.Bool
	failed   atomic.Pointer[error]

	ctx      context.Context // ends when sessions must stop taking messages
	stop     context.CancelFunc
	sessions sync.WaitGroup
	workers  sync.WaitGroup

	mu         sync.Mutex
	live       map[mail.ID]*item
	names      map[name]*sched
	nextID     uint32
	sites      map[string]*site
	toRoute    [mail.Urgent + 1][]lookup // scheduled queues that wait for a route
	routers    int                       // lookups under way
	toRefill   [mail.Urgent + 1][]*sched // scheduled queues whose rows are to be read
	refillers  int                       // readers at work
	opening    int                       // connections that are not established yet
	asks       asks
	aside      map[Flow][]*sched // wait for a limit of their flow's own
	timers     timers
	timerSet   chan struct{}
	flushNow   chan struct{} // asks for a flush before its time
	settled    chan struct{} // closed and renewed at each flush
	flushFails bool          // the last flush did not succeed
	unindexed  []*item       // in order of registration
	gone       goneRows      // over, but the index may still show them
	unsettled  *plan         // a flush whose index transaction has not succeeded yet; guarded by flushMu
	starved    [2][]*site    // wait for one of the connections that others have; the second list is of urgent mail
	feeding    bool          // a timer will look again at starved
	moved      []*item       // parked, and the index has them under another key
	removes    []spool.Key   // rows of the index that ended or moved
	queued     int64         // live messages, in memory and on disk
	bodyBytes  int64
	openCount  int // sessions in all
	applied    seglog.Pos
	suspended  map[string]*Suspension
	recent     recentImports
	actions    map[string][]byte // to be stored with the next flush
	horizon    spool.Horizon     // what Horizon said at the last flush
	flushed    spool.Flush       // the last one; guarded by flushMu
	flushMu    sync.Mutex        // one flush at a time; taken before mu

	fin finisher
}

// Open takes the volume into use, recovers it and returns a queue that takes
// messages; Start begins delivery.
func Open(ctx context.Context, o Options, d Deps) (*Queue, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	q := &Queue{d: d, log: d.Logger,
		aside: map[Flow][]*sched{},
		live:  map[mail.ID]*item{}, gone: newGoneRows(), names: map[name]*sched{}, sites: map[string]*site{},
		timerSet: make(chan struct{}, 1), flushNow: make(chan struct{}, 1), settled: make(chan struct{}), suspended: map[string]*Suspension{}, actions: map[string][]byte{}}
	q.o.Store(&o)
	q.ctx, q.stop = context.WithCancel(context.WithoutCancel(ctx))
	sp, r, err := spool.Open(ctx, o.Path, o.Spool, spool.Deps{Events: o.Events, Logger: d.Logger,
		Registerer: d.Registerer, InjectedEvent: recoveredEvent})
	if err != nil {
		return nil, err
	}
	q.spool, q.recovery = sp, *r
	q.m = newMetrics(d.Registerer, q)
	q.fin.wake = make(chan struct{}, 1)
	if err := q.restore(r); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return q, nil
}

// restore fills memory from what recovery found: names of queues, no rows.
func (q *Queue) restore(r *spool.Recovery) error {
	for _, rec := range r.Queues {
		s := &sched{name: name{rec.Priority, rec.Tenant, rec.Stream, rec.Domain, rec.Pool}, id: rec.ID, at: -1}
		next, err := q.spool.Index().FirstDue(rec.ID)
		if err != nil {
			return err
		}
		s.next = next
		q.names[s.name] = s
		q.nextID = max(q.nextID, rec.ID)
		q.queued += rec.Rows
		q.timers.set(s)
	}
	q.applied = q.spool.EventLog().Tail()
	q.horizon = q.spool.Horizon()
	q.flushed.Horizon, q.flushed.Events = q.horizon, q.applied
	return q.restoreSuspensions(r.Actions)
}

// Recovered tells what Open found on the volume.
func (q *Queue) Recovered() spool.Recovery { return q.recovery }

// EventLog is where the queue's events go.
func (q *Queue) EventLog() *event.Log { return q.spool.EventLog() }

// Volume tells which volume the queue runs on.
func (q *Queue) Volume() spool.Volume { return q.spool.Volume() }

// Reload takes new options for everything but the volume's path and file sizes.
func (q *Queue) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	old := q.options()
	o.Path, o.Spool, o.Events = old.Path, old.Spool, old.Events
	q.o.Store(&o)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, st := range q.sites {
		q.dispatch(st)
	}
	return nil
}

func (q *Queue) options() *Options { return q.o.Load() }

// SetDeliverer wires the two ends that are built after the queue because they
// need it: bodies come from here. Call it before Start.
func (q *Queue) SetDeliverer(r Router, g Gate, d Deliverer, rep Reporter) {
	q.d.Router, q.d.Gate, q.d.Deliverer, q.d.Reporter = r, g, d, rep
}

// Start begins delivery.
func (q *Queue) Start() {
	if q.d.Gate == nil {
		q.d.Gate = open{}
	}
	for _, f := range []func(){q.finishLoop, q.timerLoop, q.flushLoop} {
		q.workers.Go(f)
	}
}

// Drain refuses new messages from now on (or takes them again).
func (q *Queue) Drain(on bool) { q.draining.Store(on) }

// Draining reports whether new messages are refused.
func (q *Queue) Draining() bool { return q.draining.Load() }

// Failed is the reason why the queue stopped recording, nil while all is well.
func (q *Queue) Failed() error {
	if p := q.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (q *Queue) fail(err error) {
	if !q.failed.CompareAndSwap(nil, &err) {
		return
	}
	q.log.Error("queue cannot record what it does; ending so that a restart recovers", "error", err)
	q.stop()
	if q.d.Fatal != nil {
		q.d.Fatal(err)
	}
}

// Stop refuses new messages, lets sessions finish their transactions until ctx
// ends, writes everything down and closes the volume. A message in flight
// when ctx ends is delivered again after the next start. The functions given
// run after the last outcome is recorded, before the volume closes.
func (q *Queue) Stop(ctx context.Context, before ...func()) error {
	q.draining.Store(true)
	q.stop()
	done := make(chan struct{})
	go func() { q.sessions.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		q.log.Warn("sessions did not end in time; their messages will be tried again", "error", ctx.Err())
	}
	q.fin.close()
	q.workers.Wait()
	var err error
	if q.Failed() == nil {
		err = q.flushAll()
	}
	for _, f := range before {
		f()
	}
	if cerr := q.spool.Close(); err == nil {
		err = cerr
	}
	return err
}

// timerLoop wakes scheduled queues when what they have on disk falls due.
func (q *Queue) timerLoop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(q.wakeDue())
		select {
		case <-q.ctx.Done():
			return
		case <-timer.C:
		case <-q.timerSet:
		}
	}
}

// wakeDue wakes what is due and returns how long to sleep.
func (q *Queue) wakeDue() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now().UnixMilli()
	for len(q.timers) > 0 && q.timers[0].next <= now {
		s := q.timers[0]
		heap.Pop(&q.timers)
		q.activate(s)
	}
	if len(q.timers) == 0 {
		return time.Hour
	}
	return time.Duration(min(q.timers[0].next-now, int64(time.Hour/time.Millisecond))) * time.Millisecond
}

// onDisk notes that a row of s is only on disk from now on.
func (q *Queue) onDisk(s *sched, due int64) {
	if s.cursor != nil && due <= s.cursor.Due {
		s.cursor = nil
	}
	s.next = min(s.next, due)
	q.timers.set(s)
	if s.at == 0 {
		signal(q.timerSet)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sched returns the scheduled queue of a message, made if need be.
func (q *Queue) sched(m *mail.Message) *sched {
	n := name{m.Priority, m.Tenant, m.Stream, m.Domain(), m.Pool}
	s := q.names[n]
	if s == nil {
		q.nextID++
		s = &sched{name: n, id: q.nextID, next: never, at: -1}
		q.names[n] = s
		s.suspended = q.isSuspended(s)
	}
	return s
}

// forgetIdle drops a scheduled queue that has nothing left anywhere.
func (q *Queue) forgetIdle(s *sched) {
	if s.items == 0 && s.next == never && s.site == nil && !s.refilling && !s.routing && !s.waits && q.names[s.name] == s {
		delete(q.names, s.name)
	}
}

// Queued is the number of messages the queue owes delivery.
func (q *Queue) Queued() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queued
}
