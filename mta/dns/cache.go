package dns

import (
	"container/list"
	"net/netip"
	"time"
)

// key is what an answer is cached under.
type key struct {
	name  string // lower case, with the trailing dot
	qtype uint16
}

// entry is one typed answer. It is never changed once it is in the cache.
type entry struct {
	key
	mx      []MX // sorted by preference
	ips     []netip.Addr
	texts   []string // TXT or PTR
	err     *Error   // set for negative answers and remembered failures
	expires time.Time
	stale   time.Time // until when a positive answer may serve if no server answers
}

// positive reports whether e is worth serving stale.
func (e *entry) positive() bool { return e.err == nil }

// cache is a least-recently-used map. The resolver's mutex guards it.
type cache struct {
	max   int
	byKey map[key]*list.Element // of *entry
	order *list.List            // front is the most recent
}

func newCache(entries int) *cache {
	return &cache{max: entries, byKey: make(map[key]*list.Element), order: list.New()}
}

// get returns what is there, expired or not; nil if nothing is.
func (c *cache) get(k key) *entry {
	el, ok := c.byKey[k]
	if !ok {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*entry)
}

func (c *cache) put(e *entry) {
	if el, ok := c.byKey[e.key]; ok {
		el.Value = e
		c.order.MoveToFront(el)
		return
	}
	c.byKey[e.key] = c.order.PushFront(e)
	for len(c.byKey) > c.max {
		oldest := c.order.Back()
		delete(c.byKey, oldest.Value.(*entry).key)
		c.order.Remove(oldest)
	}
}

func (c *cache) len() int { return len(c.byKey) }
