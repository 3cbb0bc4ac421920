package spool

import (
	"fmt"
	"os"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// Flush is one group of index changes, about once a second.
type Flush struct {
	// Horizon must come from an earlier call of Horizon: every row of a record
	// before it is in the index, in Put, or has ended.
	Horizon Horizon
	// Events: every change logged before it is part of this or an earlier
	// flush, as far as it is about rows of records before Horizon.
	Events seglog.Pos

	Queues  []QueueRecord // names of the queues in Put
	Put     []Entry       // new or moved rows
	Fresh   []uint64      // segments of rows in Put that enter the index for the first time
	Remove  []Key
	Actions map[string][]byte // operator actions to keep; nil forgets one
}

// Horizon is the place below which every record is registered with the queue.
func (s *Spool) Horizon() Horizon { return s.floors.lowest(s.tails) }

// tails are the ends of both logs. The event log's is read first, so that what
// is logged about a record appended after the call stands behind it.
func (s *Spool) tails() Horizon {
	events := s.events.Tail()
	return Horizon{Records: s.log.Tail(), Events: events}
}

// Forget notes that a message that never reached the index has ended.
func (s *Spool) Forget(m *mail.Message, loc Loc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segment(loc.Seg).fresh--
	s.dropShare(m)
}

// Ended notes that a message whose row the index holds has ended; its row goes with the next flush.
func (s *Spool) Ended(m *mail.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropShare(m)
}

func (s *Spool) dropShare(m *mail.Message) {
	if c := s.sharedOf(m); c != nil {
		c.rows--
	}
}

// SharedNumber is the short name of the shared body a message refers to, 0 if none.
func (s *Spool) SharedNumber(m *mail.Message) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.sharedOf(m); c != nil {
		return c.num
	}
	return 0
}

// Flush commits a group of changes and the checkpoint, then frees segments
// that hold nothing alive. After an error the group is kept and tried again
// by Retry; nothing more may be flushed before that succeeds.
func (s *Spool) Flush(f *Flush, now time.Time) error {
	u := s.updateOf(f, now)
	s.pending = &pendingFlush{update: u, fresh: f.Fresh}
	return s.Retry()
}

// pendingFlush is a group on its way to the index.
type pendingFlush struct {
	update *indexUpdate
	fresh  []uint64
}

// Due reports whether the spool itself has something for the next flush to do:
// bodies or receipts to store, bodies to drop.
func (s *Spool) Due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.receipts) > 0 {
		return true
	}
	for _, c := range s.shared {
		if !c.stored || c.dead(now) {
			return true
		}
	}
	return false
}

// Retry commits what an earlier Flush could not. It does nothing if all is well.
func (s *Spool) Retry() error {
	if s.pending == nil {
		return nil
	}
	d, err := s.index.apply(s.pending.update)
	if err != nil {
		return err
	}
	p := s.pending
	s.pending = nil
	return s.committed(p, d)
}

func (s *Spool) updateOf(f *Flush, now time.Time) *indexUpdate {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &indexUpdate{queues: f.Queues, put: f.Put, remove: f.Remove, actions: f.Actions,
		checkpoint: Checkpoint{Records: f.Horizon.Records, Events: f.Events, Injected: f.Horizon.Events}}
	for id, c := range s.shared {
		switch {
		case c.dead(now):
			u.dropShared = append(u.dropShared, id)
		case !c.stored:
			u.shared = append(u.shared, c)
		}
	}
	for _, r := range s.receipts {
		u.receipts = append(u.receipts, r)
	}
	return u
}

// committed brings the memory's counts in line with the index.
func (s *Spool) committed(p *pendingFlush, d deltas) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkpoint = p.update.checkpoint
	for _, seg := range p.fresh {
		s.segment(seg).fresh--
	}
	for seg, n := range d.segments {
		s.segment(seg).indexed += n
	}
	for _, c := range p.update.shared {
		c.stored = true
	}
	for _, r := range p.update.receipts {
		if s.receipts[r.Tenant+"\x00"+r.Key] == r {
			delete(s.receipts, r.Tenant+"\x00"+r.Key)
		}
	}
	for _, id := range p.update.dropShared {
		s.dropShared(id)
	}
	s.events.Hold(minPos(s.checkpoint.Events, s.checkpoint.Injected))
	return s.freeSegments()
}

func minPos(a, b seglog.Pos) seglog.Pos {
	if b.Compare(a) < 0 {
		return b
	}
	return a
}

func (s *Spool) dropShared(id mail.ID) {
	c := s.shared[id]
	if c == nil || c.rows > 0 {
		return
	}
	delete(s.shared, id)
	s.segment(c.pos.Seg).fresh--
	if c.large {
		// A file left behind by a crash here is swept at the next start.
		if err := os.Remove(s.largePath(id)); err != nil {
			s.slog.Warn("large body not removed", "body", id.String(), "error", err)
		}
	}
}

// freeSegments gives back sealed segments before the checkpoint in which nothing is alive.
func (s *Spool) freeSegments() error {
	for _, info := range s.log.Segments() {
		c := s.segments[info.Seq]
		if !info.Sealed || info.Seq >= s.checkpoint.Records.Seg || c != nil && (c.fresh > 0 || c.indexed > 0) {
			continue
		}
		if err := s.log.Free(info.Seq); err != nil {
			return fmt.Errorf("spool: free segment: %w", err)
		}
		delete(s.segments, info.Seq)
		s.forgetHeaders(info.Seq)
	}
	return nil
}

func (s *Spool) forgetHeaders(seg uint64) {
	s.headers.mu.Lock()
	defer s.headers.mu.Unlock()
	for pos := range s.headers.m {
		if pos.Seg == seg {
			delete(s.headers.m, pos)
		}
	}
}

// DropReceipts removes idempotency keys past their life.
func (s *Spool) DropReceipts(now time.Time) error {
	_, err := s.index.dropReceipts(now.Add(-ReceiptLife))
	return err
}
