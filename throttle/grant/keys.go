package grant

import (
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// entry is a key with a number at the client.
type entry struct {
	key    throttle.Key
	num    uint64
	limits throttle.Limits // as last told
	wants  [2]pendingWant  // by kind
	told   bool            // Define was sent
	queued bool            // in the list of those with something to send

	used       time.Duration
	prev, next *entry
}

// pendingWant is the newest want of a kind.
type pendingWant struct {
	want  throttle.Want
	dirty bool // not sent yet
}

// idle reports whether nothing is asked for under the key.
func (e *entry) idle() bool { return !e.queued && e.wants[0].want.N == 0 && e.wants[1].want.N == 0 }

// keyTable numbers the keys of one contact, most at a time. Numbers are not used twice, so a
// frame under way never means another key. Keys are in a ring by the time of their last use.
type keyTable struct {
	byKey map[throttle.Key]*entry
	byNum map[uint64]*entry
	last  uint64
	most  int
	ring  entry // prev is the newest, next the oldest
}

func newKeyTable(most int) *keyTable {
	t := &keyTable{most: most, byKey: map[throttle.Key]*entry{}, byNum: map[uint64]*entry{}}
	t.ring.prev, t.ring.next = &t.ring, &t.ring
	return t
}

func (e *entry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (t *keyTable) touch(e *entry, now time.Duration) {
	e.used = now
	if e.next != nil {
		e.unlink()
	}
	e.prev, e.next = t.ring.prev, &t.ring
	e.prev.next, e.next.prev = e, e
}

// get finds the entry of a key, or makes one; nil if there is no room.
// forget is called for a number given up.
func (t *keyTable) get(k *throttle.Key, now time.Duration, forget func(e *entry)) *entry {
	if e := t.byKey[*k]; e != nil {
		t.touch(e, now)
		return e
	}
	t.trim(now, forget)
	if len(t.byKey) >= t.most {
		return nil
	}
	t.last++
	e := &entry{key: *k, num: t.last}
	t.byKey[*k], t.byNum[e.num] = e, e
	t.touch(e, now)
	return e
}

// trim gives up the oldest keys if they are idle for long or there is no room. A
// few for each new one are enough, so no call takes long.
func (t *keyTable) trim(now time.Duration, forget func(e *entry)) {
	for range 4 {
		e := t.ring.next
		full := len(t.byKey) >= t.most
		if e == &t.ring || !full && now-e.used < keyIdle {
			return
		}
		if !e.idle() {
			t.touch(e, now)
			continue
		}
		e.unlink()
		delete(t.byKey, e.key)
		delete(t.byNum, e.num)
		forget(e)
	}
}
