package records

import (
	"fmt"
	"time"
)

// Digest sums up what the store holds, to be compared with another's.
func (s *Store) Digest() Digest {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.digest
}

// Delta returns every record, tombstones included, that a store with the digest other may
// lack: those of the buckets in which the digests differ, by key.
func (s *Store) Delta(other Digest) []Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.digest == other {
		return nil
	}
	return s.list("", func(e *entry) bool {
		b := bucketOf(e.Key)
		return s.digest[b] != other[b]
	})
}

// Merge takes records that other stores hold and returns those that were news, in force now
// whatever the disk does. The error is of the disk: the news are then written again
// with the next write. After Close nothing is taken.
//
// Records that are not well-formed, and ones from a clock more than MaxAhead in the future, are passed over.
func (s *Store) Merge(recs []Record) (news []Record, err error) {
	news, err = s.take(recs)
	if len(news) > 0 {
		s.pump()
	}
	if err != nil {
		return news, fmt.Errorf("records: merge: %w", err)
	}
	return news, nil
}

// take is Merge without the subscribers.
func (s *Store) take(recs []Record) (news []Record, err error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	now := s.now()
	news = s.sift(recs, now)
	if len(news) > 0 {
		err = s.persist(news)
		s.apply(news, now, false)
	}
	return news, err
}

// sift returns what of recs supersedes what the store has, one record a key. wmu is held.
func (s *Store) sift(recs []Record, now time.Time) []Record {
	latest := uint64(now.Add(MaxAhead).UnixMilli()) << counterBits
	var news []Record
	place := map[string]int{}
	for i := range recs {
		r := &recs[i]
		if r.check() != nil {
			continue
		}
		if r.Version.Time > latest {
			s.refuse(r)
			continue
		}
		if at, ok := place[r.Key]; ok {
			if r.supersedes(&news[at]) {
				news[at] = *r
			}
			continue
		}
		// Only holders of wmu change byKey, so reading it needs no mu.
		have := s.byKey[r.Key]
		if have != nil && !r.supersedes(&have.Record) || have == nil && r.collectable(now, KeepDeleted) {
			continue
		}
		place[r.Key] = len(news)
		news = append(news, *r)
	}
	for i := range news {
		s.clock = max(s.clock, news[i].Version.Time)
	}
	return news
}

// refuse counts a record from too far ahead and complains once about each node. wmu is held.
func (s *Store) refuse(r *Record) {
	s.metrics.refused.Inc()
	if node := r.Version.Node; !s.warned[node] && len(s.warned) < 1000 {
		s.warned[node] = true
		s.log.Warn("records of a node are refused: its clock is, or was, far ahead", "node", node, "wrote_at", r.Version.Wall(), "key", r.Key)
	}
}

// apply puts recs in force and queues them for the subscribers. wmu is held; pump is to follow without it.
func (s *Store) apply(recs []Record, now time.Time, local bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range recs {
		before := s.put(r, now)
		e := s.byKey[r.Key]
		if e.shown || before != nil && before.shown {
			told := r
			told.Deleted = !e.shown
			s.tell(told, false)
		}
		if local {
			s.tell(r, true)
		}
	}
	s.poke()
}
