package compose

import (
	"container/list"
	"sync"

	"github.com/godwit-mta/godwit/internal/mail"
)

// cache keeps prepared bodies by body id, least recently used first out, bounded
// by bytes. A body that several messages want at once is prepared once.
type cache struct {
	max   int64
	mu    sync.Mutex
	used  int64
	items map[mail.ID]*entry
	order *list.List // of *entry, most recently used first
}

type entry struct {
	id   mail.ID
	at   *list.Element
	once sync.Once
	plan *plan
	err  error
	size int64 // 0 until loaded
}

func newCache(limit int64) *cache {
	return &cache{max: limit, items: map[mail.ID]*entry{}, order: list.New()}
}

// get returns the plan of a body, by load if it is not there. hit tells which.
func (c *cache) get(id mail.ID, load func() (*plan, error)) (p *plan, hit bool, err error) {
	e, hit := c.entry(id)
	loaded := false
	e.once.Do(func() {
		loaded = true
		e.plan, e.err = load()
		c.settle(e)
	})
	if e.err != nil && !loaded {
		// Another one's load failed, perhaps because its context ended: try ours.
		p, err = load()
		return p, false, err
	}
	return e.plan, hit, e.err
}

// entry finds or makes the entry of a body.
func (c *cache) entry(id mail.ID) (e *entry, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, known = c.items[id]; known {
		c.order.MoveToFront(e.at)
		return e, true
	}
	e = &entry{id: id}
	e.at = c.order.PushFront(e)
	c.items[id] = e
	return e, false
}

// settle accounts for a loaded entry and makes room. A plan larger than the
// whole cache is not kept, rather than push out all others.
func (c *cache) settle(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items[e.id] != e {
		return // evicted while it was loading
	}
	if e.err != nil || e.plan.size > c.max {
		c.remove(e)
		return
	}
	e.size = e.plan.size
	c.used += e.size
	for c.used > c.max {
		c.remove(c.order.Back().Value.(*entry))
	}
}

func (c *cache) remove(e *entry) {
	c.order.Remove(e.at)
	delete(c.items, e.id)
	c.used -= e.size
}
