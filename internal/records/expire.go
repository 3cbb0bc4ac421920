package records

import (
	"container/heap"
	"time"
)

const (
	// collectEvery is how often tombstones are looked through for old ones.
	collectEvery = time.Hour
	// repairEvery is how soon a file that could not be written is tried again.
	repairEvery = 30 * time.Second
)

// expiryHeap orders the entries that will expire.
type expiryHeap []*entry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].Expires.Before(h[j].Expires) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *expiryHeap) Push(x any) {
	e := x.(*entry)
	e.at = len(*h)
	*h = append(*h, e)
}

func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.at = -1
	return e
}

func (h *expiryHeap) add(e *entry) { heap.Push(h, e) }

// remove takes e out if it is in.
func (h *expiryHeap) remove(e *entry) {
	if e.at >= 0 {
		heap.Remove(h, e.at)
	}
}

// poke makes the sweeper look at the time again.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sweeper ends records whose time has come, forgets old tombstones, and repairs the file.
func (s *Store) sweeper() {
	defer close(s.done)
	collected := s.now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-timer.C:
		}
		now := s.now()
		next := s.expire(now)
		if now.Sub(collected) >= collectEvery {
			collected = now
			s.wmu.Lock()
			s.collect(now)
			s.wmu.Unlock()
		}
		if s.repair() {
			next = min(next, repairEvery)
		}
		timer.Reset(next)
	}
}

// expire tells the subscribers of what has expired and returns when to look again.
func (s *Store) expire(now time.Time) (next time.Duration) {
	s.wmu.Lock()
	s.mu.Lock()
	next = collectEvery
	for len(s.expiry) > 0 {
		if wait := s.expiry[0].Expires.Sub(now); wait > 0 {
			next = min(next, wait)
			break
		}
		e := heap.Pop(&s.expiry).(*entry)
		e.shown = false
		gone := e.Record
		gone.Deleted = true
		s.tell(gone, false)
	}
	s.mu.Unlock()
	s.wmu.Unlock()
	s.pump()
	return next
}

// collect forgets what has been out of force for long. wmu is held, or the store is not yet shared.
func (s *Store) collect(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, e := range s.byKey {
		if !e.shown && e.collectable(now, KeepDeleted) {
			s.digest.toggle(&e.Record)
			delete(s.byKey, key)
		}
	}
}

// repair writes the file anew if a write had failed, and reports whether it must be tried again.
//
// Not at once: a disk that is full is not written to at each turn.
func (s *Store) repair() (again bool) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if !s.disk.broken || s.closed {
		return false
	}
	now := s.now()
	if now.Sub(s.tried) < repairEvery {
		return true
	}
	s.tried = now
	if err := s.rewrite(nil); err != nil {
		s.metrics.failures.Inc()
		s.log.Warn("records cannot be written to disk; those of other nodes are in force nevertheless", "error", err)
		return true
	}
	return false
}
