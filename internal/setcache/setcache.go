// Package setcache is a table of bounded size that forgets: a hash picks a set of eight places, and what was not used for longest
// (about: a bit for each place, cleared by a hand that goes round) makes room for what is new. It holds no pointers if keys and values
// hold none, so that collecting garbage does not look at it, and a look waits for memory twice at most: for the tags
// of a set, and for the place that has the key.
package setcache

const (
	ways = 8
	free = 0 // as a tag
)

// Cache has values by key. The zero one is not to be used. It is not safe for concurrent use.
type Cache[K comparable, V any] struct {
	sets   []set
	places []place[K, V]
}

type set struct {
	tags [ways]uint8 // of the hash of what is there
	used uint8       // bits of places that were found since the hand was there
	hand uint8
}

type place[K comparable, V any] struct {
	key   K
	value V
}

// New makes a cache for so many keys, rounded up to whole sets. It is as large from the beginning on. While there are half as many, nearly
// one in a hundred is forgotten, because its set is full.
func New[K comparable, V any](size int) Cache[K, V] {
	n := max(1, (size+ways-1)/ways)
	return Cache[K, V]{make([]set, n), make([]place[K, V], n*ways)}
}

// at is the set of a hash, its places, and the tag.
func (c *Cache[K, V]) at(hash uint64) (*set, []place[K, V], uint8) {
	i := int(hash >> 32 * uint64(len(c.sets)) >> 32)
	return &c.sets[i], c.places[i*ways : (i+1)*ways : (i+1)*ways], max(uint8(hash), free+1)
}

// Find returns the value of a key, or nil. It may be changed there, until the next Put. All bits of hash should be even.
func (c *Cache[K, V]) Find(hash uint64, key K) *V {
	s, places, tag := c.at(hash)
	for i, t := range s.tags {
		if t == tag && places[i].key == key {
			s.used |= 1 << i
			return &places[i].value
		}
	}
	return nil
}

// Put adds a key that Find did not find.
func (c *Cache[K, V]) Put(hash uint64, key K, value V) *V {
	s, places, tag := c.at(hash)
	i := s.room()
	s.tags[i] = tag
	s.used &^= 1 << i
	places[i] = place[K, V]{key, value}
	return &places[i].value
}

// room is a place that is free, or the first behind the hand that was not used since it came by.
func (s *set) room() uint8 {
	for i, t := range s.tags {
		if t == free {
			return uint8(i)
		}
	}
	for {
		i := s.hand
		s.hand = (s.hand + 1) % ways
		if s.used&(1<<i) == 0 {
			return i
		}
		s.used &^= 1 << i
	}
}

// Remove forgets a key.
func (c *Cache[K, V]) Remove(hash uint64, key K) {
	s, places, tag := c.at(hash)
	for i, t := range s.tags {
		if t == tag && places[i].key == key {
			s.tags[i] = free
			places[i] = place[K, V]{}
		}
	}
}

// Clear forgets all keys.
func (c *Cache[K, V]) Clear() {
	clear(c.sets)
	clear(c.places)
}
