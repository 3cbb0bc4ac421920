package identity

import (
	"encoding/binary"
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// cache has what the stage knows of the identifiers that it met lately. What it says is what the state,
// with the writes of this Tx, would say: each write of a binding goes to both, and gone has each redirect since the cache was empty.
//
// It is a table of sets of four, the least recently used one of which makes room: one wait for memory where a map has several. There are no
// pointers in it, so the garbage collector need not look at it.
type cache struct {
	slots []cached
	mask  uint64 // of the number of a set
	most  int    // redirects that are remembered before it begins anew
	gone  map[place]struct{}
}

// cached is a slot. A zero root says that it is free.
type cached struct {
	key   key
	known known
}

// known is an identifier whose profile lives.
type known struct {
	root   fact.ProfileID
	recent [4]uint64 // latest claimed, zero: none
}

func (c *known) claims(h uint64) bool { return slices.Contains(c.recent[:], h) }

const (
	ways    = 4
	maxGone = 1 << 16
)

// newCache makes one for at most size identifiers, but at least four.
func newCache(size int) *cache {
	sets := 1
	for 2*sets*ways <= size {
		sets *= 2
	}
	return &cache{slots: make([]cached, sets*ways), mask: uint64(sets - 1), most: maxGone, gone: map[place]struct{}{}}
}

// set is where a key may be. Keys have hashes.
func (c *cache) set(k key) []cached {
	i := binary.BigEndian.Uint64(k.hash[:]) & c.mask * ways
	return c.slots[i : i+ways : i+ways]
}

// find returns the slot of a key after making it the first of its set, or nil.
func (c *cache) find(k key) *cached {
	set := c.set(k)
	for i := range set {
		if set[i].key == k && !set[i].known.root.IsZero() {
			if i > 0 {
				e := set[i]
				copy(set[1:i+1], set[:i])
				set[0] = e
			}
			return &set[0]
		}
	}
	return nil
}

func (c *cache) get(k key) (known, bool) {
	e := c.find(k)
	if e == nil {
		return known{}, false
	}
	if len(c.gone) > 0 {
		if _, gone := c.gone[place{k.tenant, e.known.root}]; gone {
			return known{}, false
		}
	}
	return e.known, true
}

func (c *cache) put(k key, e known) {
	if at := c.find(k); at != nil {
		at.known = e
		return
	}
	set := c.set(k)
	copy(set[1:], set)
	set[0] = cached{k, e}
}

func (c *cache) remove(k key) {
	if e := c.find(k); e != nil {
		*e = cached{}
	}
}

// redirect notes that a profile is part of another one, or deleted.
func (c *cache) redirect(p place) {
	if len(c.gone) >= c.most {
		clear(c.slots)
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
