package route

import (
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// cache keeps routes by domain in two generations: what is used moves to the
// new one; when that is half the limit, the old one is dropped whole. So it is
// bounded, near to least-recently-used, and a hit takes one read lock and no allocation.
type cache struct {
	half int
	mu   sync.RWMutex
	young,
	old map[string]*mail.Route
}

func newCache(entries int) *cache {
	return &cache{half: max(entries/2, 1), young: make(map[string]*mail.Route)}
}

// get returns a route that has not expired, or nil.
func (c *cache) get(domain string, now time.Time) *mail.Route {
	c.mu.RLock()
	r, isYoung := c.young[domain]
	if !isYoung {
		r = c.old[domain]
	}
	c.mu.RUnlock()
	if r == nil || !now.Before(r.Expires) {
		return nil
	}
	if !isYoung {
		c.put(domain, r)
	}
	return r
}

func (c *cache) put(domain string, r *mail.Route) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young[domain] = r
	if len(c.young) > c.half {
		c.old, c.young = c.young, make(map[string]*mail.Route)
	}
}

// len is the number of entries kept, for tests.
func (c *cache) len() int { return len(c.young) + len(c.old) }
