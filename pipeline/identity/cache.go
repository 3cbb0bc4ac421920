package identity

import (
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// cache has what the stage knows of the identifiers that it met lately. What it says is what the state,
// with the writes of this Tx, would say: each write of a binding goes to both, and gone has each redirect since the cache was empty.
//
// It is two maps: what is met moves to the young one; when that is full the old one is forgotten. There are no
// pointers in them, so the garbage collector need not look at them.
type cache struct {
	size       int // of a map
	most       int // redirects that are remembered before it begins anew
	young, old map[key]known
	gone       map[place]struct{}
}

// known is an identifier whose profile lives.
type known struct {
	root   fact.ProfileID
	recent [4]uint64 // latest claimed, zero: none
}

func (c *known) claims(h uint64) bool { return slices.Contains(c.recent[:], h) }

const maxGone = 1 << 16

func newCache(size int) *cache {
	return &cache{size: max(size/2, 1), most: maxGone, young: map[key]known{}, old: map[key]known{}, gone: map[place]struct{}{}}
}

func (c *cache) get(k key) (known, bool) {
	e, ok := c.young[k]
	if !ok {
		if e, ok = c.old[k]; !ok {
			return e, false
		}
		c.put(k, e)
	}
	if len(c.gone) > 0 {
		if _, gone := c.gone[place{k.tenant, e.root}]; gone {
			return known{}, false
		}
	}
	return e, true
}

func (c *cache) put(k key, e known) {
	if len(c.young) >= c.size {
		c.young, c.old = c.old, c.young
		clear(c.young)
	}
	c.young[k] = e
}

func (c *cache) remove(k key) {
	delete(c.young, k)
	delete(c.old, k)
}

// redirect notes that a profile is part of another one, or deleted.
func (c *cache) redirect(p place) {
	if len(c.gone) >= c.most {
		clear(c.young)
		clear(c.old)
		clear(c.gone)
	}
	c.gone[p] = struct{}{}
}

// summary is what the cache keeps of a binding.
func summary(root fact.ProfileID, claimed []uint64) known {
	e := known{root: root}
	copy(e.recent[:], claimed[max(0, len(claimed)-len(e.recent)):])
	return e
}
