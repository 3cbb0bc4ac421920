package queue

import (
	"time"

	"github.com/godwit-mta/godwit/internal/seglog"
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
		}
		if err := q.flush(false); err != nil {
			q.log.Error("index not written; trying again", "error", err)
			q.m.flushErrors.Inc()
		}
		if time.Since(housekeeping) > 10*time.Second {
			housekeeping = time.Now()
			q.housekeep()
		}
		q.resumeExpired()
	}
}

// housekeep measures free space and drops what has outlived its use.
func (q *Queue) housekeep() {
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
}

// plan is one flush and what memory does after it.
type plan struct {
	spool.Flush
	parked []*item
	keys   []spool.Key // of parked items, as written
}

func (p *plan) empty() bool { return len(p.Put)+len(p.Remove)+len(p.Actions) == 0 }

// flush writes one group to the index. With all, everything in memory goes
// there, for a quick restart; nothing may be put meanwhile.
func (q *Queue) flush(all bool) error {
	q.flushMu.Lock()
	defer q.flushMu.Unlock()
	if err := q.spool.Retry(); err != nil {
		return err
	}
	if q.unsettled != nil {
		q.settle(q.unsettled)
		q.unsettled = nil
	}
	horizon := q.spool.Horizon()
	p := q.plan(horizon, all)
	if !all && p.empty() && p.Horizon == q.flushed.Horizon && p.Events == q.flushed.Events && !q.spool.Due(time.Now()) {
		return nil // nothing happened since the last flush
	}
	q.flushed = p.Flush
	q.unsettled = p
	if err := q.spool.Flush(&p.Flush, time.Now()); err != nil {
		return err
	}
	q.settle(p)
	q.unsettled = nil
	return nil
}

// plan collects the group. Rows of records before the horizon of the previous
// flush go to the index: those after it are young and most will be gone soon.
func (q *Queue) plan(horizon seglog.Pos, all bool) *plan {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := &plan{}
	p.Horizon, p.Events = q.horizon, q.applied
	if all {
		p.Horizon = horizon
	}
	p.Injected = q.eventTails[0]
	copy(q.eventTails[:], q.eventTails[1:])
	q.eventTails[eventTailMemory-1] = q.applied
	q.horizon = horizon
	queues := map[uint32]bool{}
	kept := q.unindexed[:0]
	for _, it := range q.unindexed {
		switch {
		case it.place == placeEnded:
		case it.loc.Pos().Compare(p.Horizon) >= 0:
			kept = append(kept, it)
		default:
			p.Fresh = append(p.Fresh, it.loc.Seg)
			it.indexed = true
			q.planPut(p, it, queues)
		}
	}
	clear(q.unindexed[len(kept):])
	q.unindexed = kept
	for _, it := range q.moved {
		if it.place == placeParked {
			q.planPut(p, it, queues)
		}
	}
	q.moved = nil
	p.Remove, q.removes = q.removes, nil
	p.Actions, q.actions = q.actions, map[string][]byte{}
	return p
}

func (q *Queue) planPut(p *plan, it *item, queues map[uint32]bool) {
	s := it.queue
	if it.place == placeParked {
		// Rows that only the disk knows must lie after what was read already.
		if now := time.Now().UnixMilli(); it.due <= now {
			it.due = now + 1
		}
		p.parked = append(p.parked, it)
		p.keys = append(p.keys, it.key())
	}
	if !queues[s.id] {
		queues[s.id] = true
		p.Queues = append(p.Queues, s.record())
	}
	p.Put = append(p.Put, it.entry(q.spool.SharedNumber(it.msg)))
}

// settle lets memory forget what is only on disk from now on.
func (q *Queue) settle(p *plan) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gone.settle(p.Remove)
	for i, it := range p.parked {
		if it.place != placeParked || it.key() != p.keys[i] {
			continue // an operator's action took it up again
		}
		delete(q.live, it.msg.ID)
		it.queue.items--
		q.onDisk(it.queue, it.due)
	}
}

// flushAll writes everything that memory holds, at the end.
func (q *Queue) flushAll() error { return q.flush(true) }
