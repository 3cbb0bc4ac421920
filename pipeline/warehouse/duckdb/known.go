//go:build cgo

package duckdb

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse/keyset"
)

// hasher makes keys of the set. What is keyed in another way begins with another byte, so that no two are alike; the
// key of a profile is its id.
type hasher struct{ buf []byte }

func (h *hasher) sum() keyset.Key {
	hi := xxhash.Sum64(h.buf)
	h.buf = append(h.buf, 0xa5)
	return keyset.Key{Hi: hi, Lo: xxhash.Sum64(h.buf)}
}

// event is the key by which events are told from their duplicates.
func (h *hasher) event(p fact.ProfileID, m fact.MetricID, uid string) keyset.Key {
	h.buf = append(append(h.buf[:0], 'e'), p[:]...)
	h.buf = binary.BigEndian.AppendUint64(h.buf, uint64(m))
	h.buf = append(h.buf, uid...)
	return h.sum()
}

// who is the key of a profile together with an identifier that it was known by: it took that then, or had one of its kind.
func (h *hasher) who(p fact.ProfileID, who *fact.Identifier) keyset.Key {
	h.write(p, []fact.Identifier{*who})
	return h.sum()
}

// whoShort is a hash of a profile and several.
func (h *hasher) whoShort(p fact.ProfileID, who []fact.Identifier) uint64 {
	h.write(p, who)
	return xxhash.Sum64(h.buf)
}

func (h *hasher) write(p fact.ProfileID, who []fact.Identifier) {
	h.buf = append(append(h.buf[:0], 'w'), p[:]...)
	for _, id := range who {
		h.buf = append(h.buf, byte(id.Kind))
		h.buf = binary.AppendUvarint(h.buf, uint64(len(id.Value)))
		h.buf = append(h.buf, id.Value...)
	}
}

// same is a hash of a change that changes nothing when it is made twice in a row; 0 for others.
func same(c *fact.Change) uint64 {
	if c == nil || len(c.Append)+len(c.Unappend)+len(c.Unset)+len(c.Consent)+len(c.Lists)+len(c.Suppressions) > 0 {
		return 0
	}
	return xxhash.Sum64(c.Attributes) ^ xxhash.Sum64(c.Properties)*31 | 1
}

// known remembers what profiles were told last. Many events carry the same of their profile each time, and
// reading and writing it would cost more than the event.
type known struct {
	entries []knownEntry
}

type knownEntry struct {
	profile fact.ProfileID
	who     uint64 // of the identifiers told last; 0 is none
	same    uint64
}

const knownEntries = 1 << 19 // 16 MiB

// at is the entry of a profile, perhaps of another that has the same place.
func (k *known) at(p fact.ProfileID) *knownEntry {
	if k.entries == nil {
		k.entries = make([]knownEntry, knownEntries)
	}
	return &k.entries[binary.LittleEndian.Uint32(p[12:])%knownEntries]
}

// take is the entry of a profile, empty if another had it.
func (k *known) take(p fact.ProfileID) *knownEntry {
	e := k.at(p)
	if e.profile != p {
		*e = knownEntry{profile: p}
	}
	return e
}

func (k *known) forget(p fact.ProfileID) {
	if e := k.at(p); e.profile == p {
		*e = knownEntry{}
	}
}

func (k *known) clear() { clear(k.entries) }
