package records

import (
	"slices"
	"strings"
	"sync"
)

// subscription is one function that is told of changes.
type subscription struct {
	prefix string
	local  bool // wants what is written here, as it travels, rather than what comes in force
	f      func(Record)

	mu     sync.Mutex
	queue  []Record
	busy   bool // somebody is calling f
	closed bool
}

// Subscribe calls f for every record in force whose key begins with prefix, by key, before it returns,
// and then for every change of one, local or remote, in order and one call at a time. A
// record that was deleted or has expired comes with Deleted set.
//
// No lock is held during a call: f may use the store, though what it writes it is told of only
// after it returns. Calls are made by whoever made the change, so f should be quick;
// a Put or Merge returns after f has been told, unless another goroutine is calling it at that
// time, which then goes on with this change. After cancel no call begins.
func (s *Store) Subscribe(prefix string, f func(Record)) (cancel func()) {
	sub := &subscription{prefix: prefix, f: f}
	s.mu.Lock()
	sub.queue = s.list(prefix, func(e *entry) bool { return e.shown })
	return s.subscribe(sub)
}

// SubscribeLocal calls f for every write made by this node from now on, tombstones included,
// in the form that Merge of another store takes. Otherwise it is as Subscribe.
func (s *Store) SubscribeLocal(f func(Record)) (cancel func()) {
	s.mu.Lock()
	return s.subscribe(&subscription{local: true, f: f})
}

// subscribe adds sub and tells it what is queued. It is called with mu held and releases it.
func (s *Store) subscribe(sub *subscription) (cancel func()) {
	sub.busy = true // nobody else may make the first calls: they are to be over on return
	s.subs = append(slices.Clip(s.subs), sub)
	s.mu.Unlock()
	sub.drain()
	return func() {
		s.mu.Lock()
		s.subs = slices.DeleteFunc(slices.Clone(s.subs), func(have *subscription) bool { return have == sub })
		s.mu.Unlock()
		sub.mu.Lock()
		sub.closed, sub.queue = true, nil
		sub.mu.Unlock()
	}
}

// tell queues a change. Store.mu is held, which gives all subscribers the same order.
func (s *Store) tell(r Record, local bool) {
	for _, sub := range s.subs {
		if sub.local != local || !strings.HasPrefix(r.Key, sub.prefix) {
			continue
		}
		sub.mu.Lock()
		if !sub.closed {
			sub.queue = append(sub.queue, r)
		}
		sub.mu.Unlock()
	}
}

// pump calls the subscribers for which something is queued. No lock is held.
func (s *Store) pump() {
	s.mu.RLock()
	subs := s.subs // changed only by replacing it
	s.mu.RUnlock()
	for _, sub := range subs {
		sub.mu.Lock()
		mine := !sub.busy && len(sub.queue) > 0
		sub.busy = sub.busy || mine
		sub.mu.Unlock()
		if mine {
			sub.drain()
		}
	}
}

// drain calls f until nothing is queued. The caller has set busy.
func (sub *subscription) drain() {
	for {
		sub.mu.Lock()
		if len(sub.queue) == 0 {
			sub.busy, sub.queue = false, nil
			sub.mu.Unlock()
			return
		}
		r := sub.queue[0]
		sub.queue = sub.queue[1:]
		sub.mu.Unlock()
		sub.f(r)
	}
}
