package identity

import (
	"encoding/binary"
	"slices"

	"github.com/godwit-mta/godwit/internal/setcache"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// cache has what the stage knows of the identifiers that it met lately. What it says is what the state,
// with the writes of this Tx, would say: each write of a binding goes to both, and gone has each redirect since the cache was empty.
type cache struct {
	setcache.Cache[key, known]
	most int // redirects that are remembered before it begins anew
	gone map[place]struct{}
}

// known is an identifier whose profile lives.
type known struct {
	root   fact.ProfileID
	recent [4]uint64 // latest claimed, zero: none
}

func (c *known) claims(h uint64) bool { return slices.Contains(c.recent[:], h) }

// maxGone bounds the redirects that are remembered.
const maxGone = 1 << 16

// newCache makes one for about size identifiers.
func newCache(size int) *cache {
	return &cache{Cache: setcache.New[key, known](size), most: maxGone, gone: map[place]struct{}{}}
}

// even is a hash of the key, which has one.
func (k *key) even() uint64 { return binary.BigEndian.Uint64(k.hash[:]) }

func (c *cache) get(k key) (known, bool) {
	e := c.Find(k.even(), k)
	if e == nil {
		return known{}, false
	}
	if len(c.gone) > 0 {
		if _, gone := c.gone[place{k.tenant, e.root}]; gone {
			return known{}, false
		}
	}
	return *e, true
}

func (c *cache) put(k key, e known) {
	if at := c.Find(k.even(), k); at != nil {
		*at = e
		return
	}
	c.Put(k.even(), k, e)
}

func (c *cache) remove(k key) { c.Remove(k.even(), k) }

// redirect notes that a profile is part of another one, or deleted.
func (c *cache) redirect(p place) {
	if len(c.gone) >= c.most {
		c.Clear()
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
