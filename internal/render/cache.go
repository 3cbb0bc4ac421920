package render

import (
	"container/list"
	"hash/maphash"
	"strconv"
	"sync"

	"golang.org/x/sync/singleflight"
)

// cache keeps compiled templates, bounded by their estimated bytes, the least
// recently used dropped first. Sources that cannot be compiled are kept too
// (they cost little), so that a bad template is not parsed for every recipient.
//
// Entries are found by a seeded 64-bit hash, because a cryptographic one costs
// as much as rendering; the source is compared as well, so two sources with one
// hash cost a compilation and nothing else.
type cache struct {
	max    int64
	seed   maphash.Seed
	flight singleflight.Group

	mu      sync.Mutex
	size    int64
	entries map[key]*list.Element
	order   *list.List // front: used last
}

type key struct {
	hash uint64
	html bool
}

type entry struct {
	key  key
	src  string
	prog *program
	err  error
	cost int64
}

// errorCost is charged, besides the source, for a template that does not compile.
const errorCost = 512

func newCache(max int64) *cache {
	return &cache{max: max, seed: maphash.MakeSeed(), entries: make(map[key]*list.Element), order: list.New()}
}

// get returns the program of a source, compiling it once however many ask.
func (c *cache) get(src string, html bool, compile func() (*program, error)) (*program, error) {
	k := key{maphash.String(c.seed, src), html}
	if e := c.lookup(k); e != nil && e.src == src {
		return e.prog, e.err
	}
	v, _, _ := c.flight.Do(k.String(), func() (any, error) {
		if e := c.lookup(k); e != nil {
			return e, nil
		}
		e := &entry{key: k, src: src, cost: errorCost + int64(len(src))}
		e.prog, e.err = compile()
		if e.prog != nil {
			e.cost += e.prog.cost
		}
		c.add(e)
		return e, nil
	})
	e := v.(*entry)
	if e.src != src {
		return compile()
	}
	return e.prog, e.err
}

// String is the key for singleflight.
func (k key) String() string {
	return strconv.FormatUint(k.hash, 16) + strconv.FormatBool(k.html)
}

func (c *cache) lookup(k key) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[k]
	if !ok {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*entry)
}

// add keeps an entry that fits. Only one goroutine adds a key at a time, see get.
func (c *cache) add(e *entry) {
	if e.cost > c.max {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[e.key] = c.order.PushFront(e)
	c.size += e.cost
	for c.size > c.max {
		old := c.order.Remove(c.order.Back()).(*entry)
		delete(c.entries, old.key)
		c.size -= old.cost
	}
}
