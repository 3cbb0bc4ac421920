package keyed

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Seen knows which records of each source were applied, so that those that come again, after the
// source crashed, are not applied twice. What a source partition sends comes in rising order of (offset, n); a
// record that is not behind the last one came before. It is for the goroutine that uses the Tx.
type Seen struct {
	marks map[source]mark
	dirty map[source]struct{} // marks that are not in the state yet
	asked bool                // the next commit writes them
}

type source struct {
	stage     uint8
	partition int32
}

// mark is the last record of a source that was applied.
type mark struct {
	offset int64
	n      int32
}

const (
	seenKeyLen   = 2 + 1 + 4
	seenValueLen = 8 + 4
)

var seenPrefix = []byte{reserved, 's'}

// OpenSeen reads what the state knows. A processor opens it when it is made, with each state anew.
func OpenSeen(s *Store) (*Seen, error) {
	out := &Seen{marks: map[source]mark{}, dirty: map[source]struct{}{}}
	damaged := false
	err := s.Scan(seenPrefix, nil, func(k, v []byte) bool {
		if len(k) != seenKeyLen || len(v) != seenValueLen {
			damaged = true
			return false
		}
		from := source{stage: k[2], partition: int32(binary.BigEndian.Uint32(k[3:]))}
		out.marks[from] = mark{offset: int64(binary.BigEndian.Uint64(v)), n: int32(binary.BigEndian.Uint32(v[8:]))}
		return true
	})
	if err == nil && damaged {
		err = errors.New("keyed: a mark of applied records is damaged")
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// First reports whether a record was not applied before, and notes it as applied with the next
// commit of tx. Records without an origin (n 0) are always new.
func (s *Seen) First(tx *Tx, stage uint8, partition int32, offset int64, n int32) (bool, error) {
	if n == 0 {
		return true, nil
	}
	if n < 0 || offset < 0 || partition < 0 {
		return false, fmt.Errorf("keyed: origin %d/%d/%d/%d is not one", stage, partition, offset, n)
	}
	from := source{stage, partition}
	if last, known := s.marks[from]; known && (offset < last.offset || offset == last.offset && n <= last.n) {
		return false, nil
	}
	s.marks[from] = mark{offset, n}
	s.dirty[from] = struct{}{}
	if !s.asked {
		s.asked = true
		tx.seen = append(tx.seen, s)
	}
	return true, nil
}

// write puts the marks that changed into a commit.
func (s *Seen) write(tx *Tx) {
	s.asked = false
	var k [seenKeyLen]byte
	var v [seenValueLen]byte
	for from := range s.dirty {
		copy(k[:], seenPrefix)
		k[2] = from.stage
		binary.BigEndian.PutUint32(k[3:], uint32(from.partition))
		m := s.marks[from]
		binary.BigEndian.PutUint64(v[:], uint64(m.offset))
		binary.BigEndian.PutUint32(v[8:], uint32(m.n))
		tx.add(opSet, k[:], v[:])
	}
	clear(s.dirty)
}
