package customer

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/setcache"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// standing is whether a profile lives. The numbers are in rows.
type standing uint8

const (
	absent standing = iota
	living
	merged
	deleted
)

// head is the row of a profile that each event needs, and little more.
type head struct {
	standing standing
	has      uint8          // the kinds of identifiers that the profile has, as bits
	last     int64          // time of its latest event, milliseconds, or up to headLag before it; never if there is none
	to       fact.ProfileID // where a merged one went
}

// never is the time of no event.
const never = math.MinInt64

func (h head) append(b []byte) []byte {
	b = append(b, rowVersion, byte(h.standing), h.has)
	if h.standing == merged {
		return append(b, h.to[:]...)
	}
	if h.last == never {
		return b
	}
	return binary.AppendVarint(b, h.last)
}

func (h *head) parse(b []byte) error {
	d := decoder{b: b}
	v := d.byte()
	*h = head{standing: standing(d.byte()), has: d.byte(), last: never}
	switch {
	case h.standing == merged:
		copy(h.to[:], d.take(uint64(len(h.to))))
	case len(d.b) > 0:
		h.last = d.varint()
	}
	if v != rowVersion || h.standing == absent || h.standing > deleted {
		d.bad = true
	}
	return d.end("head of a profile")
}

// loadHead reads a head; an absent one is no error.
func loadHead(get func([]byte) ([]byte, error), w who) (head, error) {
	var key [rowHead]byte
	key[0] = prefixHead
	copy(key[1:], w[:])
	v, err := get(key[:])
	if errors.Is(err, keyed.ErrNotFound) {
		return head{last: never}, nil
	}
	if err != nil {
		return head{}, err
	}
	var h head
	return h, h.parse(v)
}

// head returns the head of a profile, and its place in the cache if it is there.
func (p *processor) head(w who) (head, *slot, error) {
	if s := p.known.find(w); s != nil {
		return s.head, s, nil
	}
	h, changed := p.touched[w]
	if !changed {
		var err error
		if h, err = loadHead(p.st.tx.Get, w); err != nil {
			return h, nil, err
		}
	}
	if h.standing != living {
		return h, nil, nil
	}
	return h, p.known.put(w, h, p.coveredSince(h)), nil
}

// setHead changes a head when the profile changed; the next commit has it.
func (p *processor) setHead(w who, h head) {
	p.touched[w] = h
	if h.standing != living {
		p.known.drop(w)
	} else if s := p.known.find(w); s != nil {
		s.head, s.same = h, 0
	} else {
		p.known.put(w, h, p.coveredSince(h))
	}
}

// coveredSince is the epoch since which all events of a profile are in the filter: now if it has none, else never.
func (p *processor) coveredSince(h head) uint32 {
	if h.last == never {
		return p.filter.Epoch()
	}
	return 0
}

// slot is what is known of a profile.
type slot struct {
	head  head
	due   uint32 // day under which it stands in the index of rows to fold; noDay if not known
	since uint32 // epoch of the filter since which all its events are in there; 0: they are not
	same  uint64 // hash of a change that changed nothing since the profile changed last; 0 is none
}

// known is a cache of living profiles.
type known struct {
	cache setcache.Cache[who, slot]
}

func newKnown(n int) known { return known{setcache.New[who, slot](n)} }

// hash is even in all bits: profile ids are hashes, but some of their bits are fixed.
func (w *who) hash() uint64 {
	h := (binary.BigEndian.Uint64(w[16:]) ^ binary.BigEndian.Uint64(w[:])) * 0x9e3779b97f4a7c15
	return h ^ h>>32
}

// find returns the slot of a profile, or nil. It is valid until the next put.
func (k *known) find(w who) *slot { return k.cache.Find(w.hash(), w) }

// put adds a profile that find did not find.
func (k *known) put(w who, h head, since uint32) *slot {
	return k.cache.Put(w.hash(), w, slot{head: h, due: noDay, since: since})
}

func (k *known) drop(w who) { k.cache.Remove(w.hash(), w) }
