package queue

import (
	"errors"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/queue/spool"
)

// maxRefills is how many scheduled queues are read at a time.
const maxRefills = 4

// refill reads rows of s that are due from disk into memory, away from the lock.
func (q *Queue) refill(s *sched) {
	if s.refilling || q.ctx.Err() != nil {
		return
	}
	s.refilling = true
	s.next = never  // what is noted while we read is noted anew
	q.timers.set(s) // the heap must never hold a queue under a time that it no longer has
	q.toRefill[s.priority] = append(q.toRefill[s.priority], s)
	if q.refillers < maxRefills {
		q.refillers++
		q.sessions.Go(q.refillAll)
	}
}

// refillAll reads until no scheduled queue waits for it, for urgent mail first.
func (q *Queue) refillAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		s := q.nextRefill()
		if s == nil || q.ctx.Err() != nil {
			q.refillers--
			return
		}
		room, cursor, epoch := q.room(s), s.cursor, q.gone.begin()
		q.mu.Unlock()
		entries, next, err := q.spool.Index().Due(s.id, cursor, time.Now().UnixMilli(), room)
		var msgs []*mail.Message
		stale := false
		if err == nil {
			msgs, stale = q.loadAll(entries)
		} else {
			q.fail(err)
		}
		q.mu.Lock()
		if err == nil {
			q.loaded(s, entries, msgs, next, stale)
		}
		q.gone.end(epoch)
	}
}

func (q *Queue) nextRefill() *sched {
	for p := len(q.toRefill) - 1; p >= 0; p-- {
		if list := q.toRefill[p]; len(list) > 0 {
			q.toRefill[p] = list[1:]
			if len(list) == 1 {
				q.toRefill[p] = nil
			}
			return list[0]
		}
	}
	return nil
}

// staleAgain is when rows are read again that had moved while they were read, in milliseconds.
const staleAgain = 1000

// room is how many rows may be read into s.
func (q *Queue) room(s *sched) int {
	o := q.options()
	if len(q.live) >= o.MaxInMemory {
		return 1 // still some, or a small queue would starve behind a large one
	}
	return max(1, min(o.MaxReady-s.fifo.len(), o.MaxInMemory-len(q.live)))
}

// loadAll reads rows; nil stands for one that memory has already, or that
// cannot be read. Stale tells that a segment was given back after the index was
// read: its rows are over, or elsewhere now.
func (q *Queue) loadAll(entries []spool.Entry) (msgs []*mail.Message, stale bool) {
	msgs = make([]*mail.Message, len(entries))
	for i := range entries {
		q.mu.Lock()
		known := q.live[entries[i].ID] != nil
		q.mu.Unlock()
		if known {
			continue
		}
		m, err := q.spool.Load(entries[i].Loc)
		if errors.Is(err, seglog.ErrFreed) {
			stale = true
			continue
		}
		if err != nil {
			q.log.Error("message cannot be read back; it stays in the index", "message", entries[i].ID.String(), "error", err)
			q.m.unreadable.Inc()
			continue
		}
		m.Attempts, m.LastReply = entries[i].Attempts, entries[i].LastReply
		msgs[i] = m
	}
	return msgs, stale
}

// loaded puts rows that were read into the queue; q.mu is held.
func (q *Queue) loaded(s *sched, entries []spool.Entry, msgs []*mail.Message, next int64, stale bool) {
	s.refilling = false
	for i, m := range msgs {
		if m == nil || q.live[m.ID] != nil || q.gone.has(entries[i].Key) {
			continue
		}
		it := adopted(m, &entries[i], s, placeReady)
		q.live[m.ID] = it
		s.items++
		s.fifo.push(it)
		if s.site != nil {
			s.site.ready++
		}
	}
	q.advance(s, entries)
	s.next = min(s.next, next)
	if stale {
		s.cursor = nil
		s.next = min(s.next, time.Now().UnixMilli()+staleAgain)
	}
	q.timers.set(s)
	signal(q.timerSet)
	if s.site != nil {
		q.dispatch(s.site)
		return
	}
	q.activate(s)
	q.forgetIdle(s)
}

// advance notes how far rows have been read. Rows that were written while we
// read may lie before that place unseen: then the next reading begins anew, and
// skips what memory has.
func (q *Queue) advance(s *sched, entries []spool.Entry) {
	if len(entries) == 0 {
		return
	}
	last := entries[len(entries)-1].Key
	switch {
	case s.next <= last.Due:
		s.cursor = nil
	case s.cursor == nil || last.Compare(*s.cursor) > 0:
		s.cursor = &last
	}
}
