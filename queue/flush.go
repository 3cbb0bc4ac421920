package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue/spool"
)

// flushLoop writes what is still waiting to the index, about once a second,
// and looks after the volume.
func (q *Queue) flushLoop() {
	ticker := time.NewTicker(q.options().IndexEvery.D())
	defer ticker.Stop()
	var housekeeping time.Time
	for {
		select {
		case <-q.ctx.Done():
			return
		case <-ticker.C:
			q.flushSome(false)
		case <-q.flushNow:
			q.flushSome(true)
		}
		if time.Since(housekeeping) > 10*time.Second {
			housekeeping = time.Now()
			q.housekeep()
		}
		q.resumeExpired()
	}
}

// flushSome flushes until the backlog is written. In a hurry the young rows go too.
func (q *Queue) flushSome(hurry bool) {
	for {
		more, err := q.flushGroup(hurry)
		if errors.Is(err, spool.ErrIndexDamaged) {
			q.fail(err)
			return
		}
		if err != nil {
			q.log.Error("index not written; trying again", "error", err)
			q.m.flushErrors.Inc()
			q.mu.Lock()
			q.wakeInjectors(true)
			q.mu.Unlock()
			return
		}
		if !more || q.ctx.Err() != nil {
			return
		}
	}
}

// wakeInjectors tells those who wait for room how the last flush went. q.mu is held.
func (q *Queue) wakeInjectors(failed bool) {
	q.flushFails = failed
	close(q.settled)
	q.settled = make(chan struct{})
}

// awaitRoom waits while more messages than may be are in memory alone, for the index
// to take some. Rows that were read back for delivery do not count: it has them. It is what slows down injectors that outrun the disk. While the
// index cannot be written, for want of space as a rule, it does not wait.
func (q *Queue) awaitRoom(ctx context.Context) error {
	for {
		q.mu.Lock()
		room, settled, fails := len(q.unindexed) <= 2*q.options().MaxInMemory, q.settled, q.flushFails
		q.mu.Unlock()
		switch {
		case room:
			return nil
		case fails:
			return mail.ErrDiskFull
		}
		signal(q.flushNow)
		select {
		case <-settled:
		case <-ctx.Done():
			return mail.ErrQueueFull
		case <-q.ctx.Done():
			return mail.ErrDraining
		}
	}
}

// housekeep measures free space and drops what has outlived its use.
func (q *Queue) housekeep() {
	q.expireReady()
	free, err := q.spool.CheckFree()
	if err != nil {
		q.log.Error("free space not known", "error", err)
	} else if q.spool.Full() {
		q.log.Error("spool volume is nearly full: new messages are refused", "free_bytes", free)
		q.spool.EventLog().Reclaim(int64(q.options().Spool.MinFree) - free)
	}
	if err := q.spool.DropReceipts(time.Now()); err != nil {
		q.log.Warn("old idempotency keys not dropped", "error", err)
	}
	if err := q.compact(); err != nil {
		q.log.Warn("segment not compacted", "error", err)
	}
}

// compact moves what is alive out of a mostly dead segment.
func (q *Queue) compact() error {
	q.flushMu.Lock()
	defer q.flushMu.Unlock()
	moved, err := q.spool.Compact(q.ctx)
	if err != nil || len(moved) == 0 {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, loc := range moved {
		if it := q.live[id]; it != nil && it.indexed {
			it.loc = loc
		}
	}
	return nil
}

// plan is one flush and what memory does after it.
type plan struct {
	spool.Flush
	parked []*item
	more   bool // rows were left for the next group
}

// groupRows bounds one index transaction, whose dirty pages are in memory.
const groupRows = 10_000

func (p *plan) empty() bool { return len(p.Put)+len(p.Remove)+len(p.Actions) == 0 }

// flush writes what is to be written now. With all, everything in memory goes
// there, for a quick restart; nothing may be put meanwhile.
func (q *Queue) flush(all bool) error {
	for {
		more, err := q.flushGroup(all)
		if err != nil || !more {
			return err
		}
	}
}

// flushGroup writes one group to the index, in one transaction, and reports
// whether there is another.
func (q *Queue) flushGroup(young bool) (more bool, err error) {
	q.flushMu.Lock()
	defer q.flushMu.Unlock()
	if err := q.spool.Retry(); err != nil {
		return false, err
	}
	if q.unsettled != nil {
		q.settle(q.unsettled)
		q.unsettled = nil
	}
	p := q.plan(q.spool.Horizon(), young)
	if p.empty() && p.Horizon == q.flushed.Horizon && p.Events == q.flushed.Events && !q.spool.Due(time.Now()) {
		return false, nil // nothing happened since the last flush
	}
	q.flushed, q.unsettled = p.Flush, p
	if err := q.spool.Flush(&p.Flush, time.Now()); err != nil {
		return false, err
	}
	q.settle(p)
	q.unsettled = nil
	return p.more, nil
}

// plan collects the group. Rows of records before the horizon of the previous
// flush go to the index: those after it are young and most will be gone soon.
func (q *Queue) plan(horizon spool.Horizon, young bool) *plan {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := &plan{}
	p.Horizon, p.Events = q.horizon, q.applied
	if young {
		p.Horizon = horizon
	}
	q.horizon = horizon
	queues := map[uint32]bool{}
	q.planFresh(p, queues)
	for _, it := range q.moved {
		it.listed = false
		if it.place == placeParked {
			q.planPut(p, it, queues)
		}
	}
	q.moved = nil
	p.Remove, q.removes = q.removes, nil
	p.Actions, q.actions = q.actions, map[string][]byte{}
	return p
}

// planFresh takes the rows before the plan's horizon that the index has not
// seen. If they are too many for one group the horizon is lowered: a
// checkpoint must have every row before it.
func (q *Queue) planFresh(p *plan, queues map[uint32]bool) {
	var due []*item
	kept := q.unindexed[:0]
	for _, it := range q.unindexed {
		switch {
		case it.place == placeEnded:
		case it.loc.Pos().Compare(p.Horizon.Records) < 0:
			due = append(due, it)
		default:
			kept = append(kept, it)
		}
	}
	if len(due) > groupRows {
		slices.SortFunc(due, func(a, b *item) int { return a.loc.Pos().Compare(b.loc.Pos()) })
		n := groupRows
		for n < len(due) && due[n].loc.Pos() == due[n-1].loc.Pos() {
			n++ // a record's rows go together
		}
		if n < len(due) {
			// Records behind it are no older than the last checkpoint, nor are their events.
			p.Horizon.Records, p.Horizon.Events, p.more = due[n].loc.Pos(), q.flushed.Horizon.Events, true
			kept = append(kept, due[n:]...)
			due = due[:n]
		}
	}
	clear(q.unindexed[min(len(kept), len(q.unindexed)):])
	q.unindexed = kept
	for _, it := range due {
		p.Fresh = append(p.Fresh, it.loc.Seg)
		it.listed = false
		q.planPut(p, it, queues)
	}
}

func (q *Queue) planPut(p *plan, it *item, queues map[uint32]bool) {
	s := it.queue
	if it.place == placeParked {
		// Rows that only the disk knows must lie after what was read already,
		// and not where one is remembered as gone.
		it.due = max(it.due, time.Now().UnixMilli()+1)
		for q.gone.has(it.key()) {
			it.due++
		}
		p.parked = append(p.parked, it)
	}
	if !queues[s.id] {
		queues[s.id] = true
		p.Queues = append(p.Queues, s.record())
	}
	if it.indexed && it.row != it.key() {
		q.removes = append(q.removes, it.row)
	}
	it.indexed, it.row = true, it.key()
	p.Put = append(p.Put, it.entry(q.spool.SharedNumber(it.msg)))
}

// settle lets memory forget what is only on disk from now on.
func (q *Queue) settle(p *plan) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gone.settle(p.Remove)
	q.wakeInjectors(false)
	for _, it := range p.parked {
		if it.place != placeParked || it.listed {
			continue // taken up again meanwhile, or to be written once more
		}
		delete(q.live, it.msg.ID)
		it.queue.items--
		q.onDisk(it.queue, it.due)
	}
}

// flushAll writes everything that memory holds, at the end.
func (q *Queue) flushAll() error { return q.flush(true) }
