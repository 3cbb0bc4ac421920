// Package keyed is the state of the pipeline's stages: a Pebble database for each
// (consumer, partition), in which the offset of the input that made it is part of the same write.
//
// The log is the truth. Writes to the state are not synced and have no log of
// their own: after a crash the state is what it was some time before, whole, with its offset, and the consumer
// reads on from there. Snapshots are synced, lie outside of the state's folder, and say how far back the log must be kept.
//
// A Worker is one consumer. For each partition it takes these steps: open the state, or restore it from a snapshot; make the
// stage's Processor; read records, apply them, append what they emit, and commit state and offset, in this order. A
// crash between the last two makes the outputs leave twice; receivers know them by their origin (Seen).
package keyed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/stream"
)

// Store is one partition's state. Its reading methods are safe for concurrent use, and
// see what is committed. After Close they return ErrClosed.
type Store struct {
	db      *pebble.DB
	fs      vfs.FS
	dir     string
	users   atomic.Int64 // reads under way
	closing atomic.Bool
	ending  atomic.Bool   // its readers are gone
	drained chan struct{} // has an element when the last of them ended after closing was set
	damage  atomic.Pointer[error]
	damaged chan struct{}       // closed when damage is set
	sums    map[string]snapFile // checksums of files that never change, for snapshots; guarded by the partition's lock of these

	seed  maphash.Seed // of hashes of keys in memory
	fresh *fresh

	probing sync.Mutex
	probes  map[*pebble.Iterator]struct{} // of Txs; what a Tx that was given up leaves, Close closes
}

// Keys of the program's own begin with this byte; those of processors must not.
const reserved = 0x00

var offsetKey = []byte{reserved, 'o'}

// Errors of a Store.
var (
	// ErrNotFound is returned for a key that is not there.
	ErrNotFound = errors.New("keyed: not found")
	// ErrClosed is returned by a Store whose partition went elsewhere, or is being restored or stopped.
	ErrClosed = errors.New("keyed: state is closed")
)

// Merger combines operands of Tx.Merge. Both functions may keep and change existing, and return it.
type Merger interface {
	// Combine puts two operands, the older one first, into one that means the same.
	Combine(key, older, newer []byte) ([]byte, error)
}

// enter keeps the database open until leave.
func (s *Store) enter() error {
	s.users.Add(1)
	if s.closing.Load() {
		s.leave()
		return ErrClosed
	}
	return nil
}

func (s *Store) leave() {
	if s.users.Add(-1) == 0 && s.closing.Load() {
		select {
		case s.drained <- struct{}{}:
		default:
		}
	}
}

// Get returns a copy of a value, or ErrNotFound.
func (s *Store) Get(key []byte) ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	v, closer, err := s.db.Get(key)
	if err == pebble.ErrNotFound { //nolint:errorlint // as Pebble returns it; a hot path
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, s.failed(err)
	}
	return append([]byte{}, v...), closer.Close()
}

// Has reports whether a key is there.
func (s *Store) Has(key []byte) (bool, error) {
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.leave()
	_, closer, err := s.db.Get(key)
	if err == pebble.ErrNotFound { //nolint:errorlint // as above
		return false, nil
	}
	if err != nil {
		return false, s.failed(err)
	}
	return true, closer.Close()
}

// failed wraps an error of Pebble. What it says of damage is remembered: the state is then restored.
func (s *Store) failed(err error) error {
	err = fmt.Errorf("keyed: %w", err)
	if pebble.IsCorruptionError(err) {
		s.note(err)
	}
	return err
}

// note remembers the first damage that is found.
func (s *Store) note(damage error) {
	if s.damage.CompareAndSwap(nil, &damage) {
		close(s.damaged)
	}
}

// Damage is the first error that said the state is damaged, or nil.
func (s *Store) Damage() error {
	if p := s.damage.Load(); p != nil {
		return *p
	}
	return nil
}

// Scan calls f for each key in [from, to) in order until it returns false; key and value are valid only during the call.
// A nil to is the end of the keys that begin with from.
func (s *Store) Scan(from, to []byte, f func(key, value []byte) bool) error {
	return s.scan(from, to, false, f)
}

// ScanBack is Scan from the last key to the first.
func (s *Store) ScanBack(from, to []byte, f func(key, value []byte) bool) error {
	return s.scan(from, to, true, f)
}

func (s *Store) scan(from, to []byte, back bool, f func(key, value []byte) bool) (err error) {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if to == nil {
		to = After(from)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return s.failed(err)
	}
	defer func() {
		if e := it.Close(); err == nil && e != nil {
			err = s.failed(e)
		}
	}()
	first, next := it.First, it.Next
	if back {
		first, next = it.Last, it.Prev
	}
	for ok := first(); ok; ok = next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return s.failed(err)
		}
		if !f(it.Key(), v) {
			return nil
		}
	}
	return nil
}

// After is the least key behind all that begin with prefix; nil if there is none.
func After(prefix []byte) []byte {
	out := append([]byte(nil), prefix...)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i]++; out[i] != 0 {
			return out[:i+1]
		}
	}
	return nil
}

// Offset is the offset from which the input is still to be applied.
func (s *Store) Offset() (int64, error) {
	v, err := s.Get(offsetKey)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, errors.New("keyed: the offset of the state is damaged")
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

// Processor turns input records into state and outputs. It is used by one goroutine at a time.
// What it does must depend on nothing but the records and the state, or a replay would not end equal.
//
// After an error everything since the last commit is thrown away, the processor with it, and done again by a new one.
type Processor interface {
	// Apply handles records in order.
	Apply(tx *Tx, recs []stream.Record) error
	// Flush writes to tx what the processor holds in memory. A commit follows.
	Flush(tx *Tx) error
}
