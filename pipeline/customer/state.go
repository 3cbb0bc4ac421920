package customer

import (
	"encoding/binary"
	"errors"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// First bytes of keys. docs/formats/customer.md has the rows.
const (
	prefixClock    = 'C'
	prefixBucket   = 'd'
	prefixCreated  = 'c'
	prefixDue      = 'x'
	prefixEmail    = 'm'
	prefixEvent    = 'e'
	prefixHead     = 'h'
	prefixMember   = 'l'
	prefixMerge    = 'k'
	prefixObject   = 'o'
	prefixDocument = 'p'
	prefixUpdated  = 'u'
)

// rowVersion is the first byte of values, of all but events.
const rowVersion = 1

// who is a profile of a tenant, as in keys.
type who [8 + 16]byte

func whoOf(t fact.TenantID, p fact.ProfileID) (w who) {
	binary.BigEndian.PutUint64(w[:], uint64(t))
	copy(w[8:], p[:])
	return w
}

func (w who) profile() (p fact.ProfileID) {
	copy(p[:], w[8:])
	return p
}

const (
	hashSize = 16
	// rowHead is the part of an event's or bucket's key before what tells it from others of its profile.
	rowHead = 1 + len(who{})
)

func appendTenant(b []byte, prefix byte, t fact.TenantID) []byte {
	return binary.BigEndian.AppendUint64(append(b, prefix), uint64(t))
}

// appendName appends a name so that no other one begins like it.
func appendName(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendMillis appends a time so that keys are in its order.
func appendMillis(b []byte, ms int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(ms)^1<<63)
}

func millisIn(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

// state is a Tx, and the keys written in it that have to be found again by their beginning, for Tx.Scan does not see them.
type state struct {
	tx   *keyed.Tx
	keys []byte
	ends []int
}

// set writes a row that scan finds at once.
func (s *state) set(key, value []byte) error {
	s.note(key)
	return s.tx.Set(key, value)
}

// remove deletes a row that set may have written.
func (s *state) remove(key []byte) error {
	s.note(key)
	return s.tx.Delete(key)
}

func (s *state) note(key []byte) {
	s.keys = append(s.keys, key...)
	s.ends = append(s.ends, len(s.keys))
}

// forget is called before a commit: then Tx.Scan sees all.
func (s *state) forget() {
	if cap(s.keys) > 4<<20 {
		s.keys, s.ends = nil, nil
	}
	s.keys, s.ends = s.keys[:0], s.ends[:0]
}

// fresh returns the keys with a prefix that were written or deleted since the last commit.
func (s *state) fresh(prefix []byte) map[string]struct{} {
	out := map[string]struct{}{}
	begin := 0
	for _, end := range s.ends {
		if k := s.keys[begin:end]; len(k) >= len(prefix) && string(k[:len(prefix)]) == string(prefix) {
			out[string(k)] = struct{}{}
		}
		begin = end
	}
	return out
}

// get returns a row, or nil if there is none.
func (s *state) get(key []byte) ([]byte, error) {
	v, err := s.tx.Get(key)
	if errors.Is(err, keyed.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

func loadClock(s *keyed.Store) (int64, error) {
	v, err := s.Get([]byte{prefixClock})
	if errors.Is(err, keyed.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 9 || v[0] != rowVersion {
		return 0, errDamaged("clock")
	}
	return millisIn(v[1:]), nil
}

func saveClock(tx *keyed.Tx, ms int64) error {
	return tx.Put([]byte{prefixClock}, appendMillis([]byte{rowVersion}, ms))
}
