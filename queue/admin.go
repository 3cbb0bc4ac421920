package queue

import (
	"bytes"
	"context"
	"sort"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue/spool"
)

// Info describes one scheduled queue.
type Info struct {
	Priority  mail.Priority
	Tenant    string
	Stream    string
	Domain    string
	Site      string
	Messages  int64 // all of them
	Ready     int   // in memory, waiting for a session
	InFlight  int
	NextDue   time.Time // of those on disk
	Suspended bool
	Held      time.Time // no new connection to the site before
	LastReply string    // of one of its waiting messages
}

// List describes the scheduled queues that match, the longest first.
func (q *Queue) List(f Filter) ([]Info, error) {
	records, err := q.spool.Index().Queues()
	if err != nil {
		return nil, err
	}
	rows := map[uint32]int64{}
	for _, r := range records {
		rows[r.ID] = r.Rows
	}
	q.mu.Lock()
	infos := map[*sched]*Info{}
	for _, s := range q.names {
		if f.queue(s) {
			infos[s] = q.info(s, rows[s.id])
		}
	}
	for _, it := range q.live {
		if in := infos[it.queue]; in != nil {
			in.add(it)
		}
	}
	q.mu.Unlock()
	list := make([]Info, 0, len(infos))
	for _, in := range infos {
		list = append(list, *in)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Messages != list[j].Messages {
			return list[i].Messages > list[j].Messages
		}
		return list[i].Domain < list[j].Domain
	})
	return list, nil
}

func (q *Queue) info(s *sched, rows int64) *Info {
	in := &Info{Priority: s.priority, Tenant: s.tenant, Stream: s.stream, Domain: s.domain,
		Ready: s.fifo.len(), Messages: rows, Suspended: s.suspended}
	if s.route != nil {
		in.Site = s.route.Site
		if st := q.sites[siteKey(s.route)]; st != nil && time.Now().Before(st.hold) {
			in.Held = st.hold
		}
	}
	if s.next != never {
		in.NextDue = time.UnixMilli(s.next)
	}
	return in
}

func (in *Info) add(it *item) {
	if !it.indexed {
		in.Messages++
	}
	if it.place == placeFlight || it.place == placeFinished {
		in.InFlight++
	}
	if it.msg.LastReply != "" {
		in.LastReply = it.msg.LastReply
	}
	if it.place == placeParked && (in.NextDue.IsZero() || it.due < in.NextDue.UnixMilli()) {
		in.NextDue = time.UnixMilli(it.due)
	}
}

// Waiting is one message in the queue.
type Waiting struct {
	Message *mail.Message
	Due     time.Time
	State   string // queued, delivering, deferred or scheduled
}

func waiting(m *mail.Message, due int64, p place) Waiting {
	w := Waiting{Message: m, Due: time.UnixMilli(due), State: "queued"}
	switch {
	case p == placeFlight || p == placeFinished:
		w.State = "delivering"
	case m.Attempts > 0:
		w.State = "deferred"
	case w.Due.After(time.Now()):
		w.State = "scheduled"
	}
	return w
}

// chunk is how many rows an action holds in memory at a time.
const chunk = 1000

// Messages calls f for each message that matches, until f returns false.
func (q *Queue) Messages(ctx context.Context, f Filter, each func(Waiting) bool) error {
	q.mu.Lock()
	var list []Waiting
	for _, it := range q.live {
		if f.queue(it.queue) && f.message(it.msg) {
			list = append(list, waiting(it.msg, it.due, it.place))
		}
	}
	q.mu.Unlock()
	sort.Slice(list, func(i, j int) bool { return list[i].Due.Before(list[j].Due) })
	for _, w := range list {
		if !each(w) {
			return nil
		}
	}
	return q.onDiskRows(ctx, f, func(entries []spool.Entry, msgs []*mail.Message, _ *sched) (bool, error) {
		for i, m := range msgs {
			if m != nil && !each(waiting(m, entries[i].Due, placeReady)) {
				return false, nil
			}
		}
		return true, nil
	})
}

// onDiskRows walks the rows that only the disk has, in chunks.
func (q *Queue) onDiskRows(ctx context.Context, f Filter, act func([]spool.Entry, []*mail.Message, *sched) (bool, error)) error {
	q.mu.Lock()
	var queues []*sched
	for _, s := range q.names {
		if f.queue(s) {
			queues = append(queues, s)
		}
	}
	q.mu.Unlock()
	for _, s := range queues {
		for last, more := (&spool.Key{Queue: s.id}), true; last != nil; {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			if last, more, err = q.onDiskChunk(f, s, last, act); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// onDiskChunk acts on the rows of one queue that follow a key. It returns the
// last one's key, nil if there was none, and whether to go on.
func (q *Queue) onDiskChunk(f Filter, s *sched, after *spool.Key, act func([]spool.Entry, []*mail.Message, *sched) (bool, error)) (*spool.Key, bool, error) {
	q.mu.Lock()
	epoch := q.gone.begin() // what ends while we look is remembered
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.gone.end(epoch)
	}()
	entries, _, err := q.spool.Index().Due(s.id, after, never, chunk)
	if err != nil || len(entries) == 0 {
		return nil, true, err
	}
	last := entries[len(entries)-1].Key
	msgs, _ := q.loadAll(entries) // one that is over or elsewhere now is left alone
	for i, m := range msgs {
		if m != nil && (!f.message(m) || q.isGone(entries[i].Key)) {
			msgs[i] = nil
		}
	}
	more, err := act(entries, msgs, s)
	return &last, more, err
}

// Find returns one message of the queue; mail.ErrNotFound if it is not there (any more).
func (q *Queue) Find(ctx context.Context, id mail.ID) (Waiting, error) {
	w, _, err := q.find(ctx, id)
	return w, err
}

// BodyOf returns the stored body of one message of the queue, in memory or
// only on disk; mail.ErrNotFound if the message is not there (any more).
func (q *Queue) BodyOf(ctx context.Context, id mail.ID) (mail.BodyKind, []byte, error) {
	w, loc, err := q.find(ctx, id)
	if err != nil {
		return 0, nil, err
	}
	data, release, err := q.spool.Body(ctx, w.Message, loc)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	return w.Message.Body.Kind, bytes.Clone(data), nil
}

func (q *Queue) find(ctx context.Context, id mail.ID) (w Waiting, loc spool.Loc, err error) {
	q.mu.Lock()
	if it := q.live[id]; it != nil {
		w, loc = waiting(it.msg, it.due, it.place), it.loc
		q.mu.Unlock()
		return w, loc, nil
	}
	q.mu.Unlock()
	err = mail.ErrNotFound
	scanErr := q.spool.Index().Scan(0, func(e spool.Entry) bool {
		if e.ID != id || q.isGone(e.Key) {
			return ctx.Err() == nil
		}
		var m *mail.Message
		if m, err = q.spool.Load(e.Loc); err == nil {
			m.Attempts, m.LastReply = e.Attempts, e.LastReply
			w, loc = waiting(m, e.Due, placeReady), e.Loc
		}
		return false
	})
	if scanErr != nil {
		return w, loc, scanErr
	}
	return w, loc, err
}

// isGone reports whether a row of the index is over, or has moved, though the
// index still shows it.
func (q *Queue) isGone(k spool.Key) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.gone.has(k)
}

// Bounce ends the messages that match, with a report to each reverse path as
// for any bounce. It returns when all that is durable. Messages being
// delivered at this moment are left alone.
func (q *Queue) Bounce(ctx context.Context, f Filter, reason string) (n int, err error) {
	return q.BounceBefore(ctx, f, reason, time.Time{})
}

// BounceBefore is Bounce for messages that were accepted before an instant; zero: all.
func (q *Queue) BounceBefore(ctx context.Context, f Filter, reason string, before time.Time) (n int, err error) {
	f.before = before
	if err := f.Validate(); err != nil {
		return 0, err
	}
	if reason == "" {
		reason = "removed by the operator"
	}
	out := mail.Outcome{Kind: mail.Bounced, Class: mail.ClassAdmin, Started: time.Now(),
		Reply: mail.Reply{Code: 554, Enhanced: "5.3.0", Text: reason}}
	q.mu.Lock()
	items := q.takeMatching(f)
	q.mu.Unlock()
	q.finishAndWait(items, &out)
	n = len(items)
	err = q.onDiskRows(ctx, f, func(entries []spool.Entry, msgs []*mail.Message, s *sched) (bool, error) {
		items := q.adopt(entries, msgs, s, placeFinished)
		q.finishAndWait(items, &out)
		n += len(items)
		return true, nil
	})
	return n, err
}

// takeMatching takes matching items out of the fifos and from among the parked.
func (q *Queue) takeMatching(f Filter) []*item {
	var items []*item
	for _, s := range q.names {
		if !f.queue(s) || s.fifo.len() == 0 {
			continue
		}
		st := s.site
		if st != nil {
			st.detach(s)
		}
		for _, it := range s.fifo.take() {
			if f.message(it.msg) {
				items = append(items, it)
			} else {
				s.fifo.push(it)
			}
		}
		q.activate(s)
		if st != nil {
			q.tidy(st)
		}
	}
	for _, it := range q.live {
		if it.place == placeParked && f.queue(it.queue) && f.message(it.msg) {
			items = append(items, it)
		}
	}
	for _, it := range items {
		it.place = placeFinished
	}
	return items
}

// adopt makes items of rows that were read from disk.
func (q *Queue) adopt(entries []spool.Entry, msgs []*mail.Message, s *sched, p place) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	var items []*item
	for i, m := range msgs {
		if m == nil || q.live[m.ID] != nil || q.gone.has(entries[i].Key) {
			continue
		}
		it := adopted(m, &entries[i], s, p)
		q.live[m.ID] = it
		s.items++
		items = append(items, it)
	}
	return items
}

// finishAndWait hands in one outcome for many items and waits until it is durable.
func (q *Queue) finishAndWait(items []*item, out *mail.Outcome) {
	if len(items) == 0 {
		return
	}
	done := make(chan struct{}, 1)
	q.fin.mu.Lock()
	for i, it := range items {
		f := finished{item: it, outcome: *out}
		if i == len(items)-1 {
			f.done = done
		}
		q.fin.list = append(q.fin.list, f)
	}
	q.fin.mu.Unlock()
	signal(q.fin.wake)
	select {
	case <-done:
	case <-q.ctx.Done():
	}
}

// Retry makes the messages that match due now.
func (q *Queue) Retry(ctx context.Context, f Filter) (n int, err error) {
	if err := f.Validate(); err != nil {
		return 0, err
	}
	now := time.Now().UnixMilli()
	q.mu.Lock()
	for _, it := range q.live {
		if it.place == placeParked && it.due > now && f.queue(it.queue) && f.message(it.msg) {
			q.move(it, now)
			n++
		}
	}
	q.mu.Unlock()
	err = q.onDiskRows(ctx, f, func(entries []spool.Entry, msgs []*mail.Message, s *sched) (bool, error) {
		for i := range entries {
			if entries[i].Due <= now {
				msgs[i] = nil
			}
		}
		items := q.adopt(entries, msgs, s, placeParked)
		q.mu.Lock()
		for _, it := range items {
			q.move(it, now)
		}
		q.mu.Unlock()
		n += len(items)
		return true, q.flush(false)
	})
	q.mu.Lock()
	q.releaseHolds()
	q.mu.Unlock()
	if err == nil {
		err = q.flush(false)
	}
	return n, err
}

// releaseHolds lets sites that failed be tried at once.
func (q *Queue) releaseHolds() {
	for _, st := range q.sites {
		st.hold = time.Time{}
		q.dispatch(st)
	}
}

// Stats are the queue's totals.
type Stats struct {
	Messages      int64
	InMemory      int
	Queues        int
	Sites         int
	Connections   int
	BodyBytes     int64
	IndexBytes    int64
	SegmentBytes  int64
	Records       int64
	Syncs         int64
	Suspended     int
	Draining      bool
	VolumeID      string
	FreeSpaceLow  bool
	RecoveredRows int
}

// Stats reads the totals.
func (q *Queue) Stats() Stats {
	log := q.spool.LogStats()
	q.mu.Lock()
	defer q.mu.Unlock()
	return Stats{Messages: q.queued, InMemory: len(q.live), Queues: len(q.names), Sites: len(q.sites),
		Connections: q.openCount, BodyBytes: q.bodyBytes, IndexBytes: q.spool.Index().Size(), SegmentBytes: q.spool.SegmentBytes(),
		Records: int64(log.Records), Syncs: int64(log.Syncs), Suspended: len(q.suspended), Draining: q.draining.Load(),
		VolumeID: q.spool.Volume().ID.String(), FreeSpaceLow: q.spool.Full(), RecoveredRows: q.recovery.Replayed}
}
