package keyed

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/godwit-mta/godwit/internal/stream"
)

// Tx is what a processor writes: state, which becomes visible together with the offset at the next
// commit, and outputs. It is for one goroutine.
type Tx struct {
	store      *Store
	batch      *pebble.Batch
	written    writes
	mem        arena
	seen       []*Seen // have marks to write at the commit
	out        map[stream.Topic][]stream.Message
	emitted    int
	assignment stream.Assignment
	probe      *pebble.Iterator // for find; nil if not open
}

// Begin starts what the next commit writes.
func (s *Store) Begin(a stream.Assignment) *Tx {
	return &Tx{store: s, batch: s.db.NewBatch(), written: newWrites(), out: map[stream.Topic][]stream.Message{}, assignment: a}
}

// Store is the committed state.
func (tx *Tx) Store() *Store { return tx.store }

// Assignment tells the partition and the generation that outputs carry.
func (tx *Tx) Assignment() stream.Assignment { return tx.assignment }

// Len is the number of bytes that the next commit writes.
func (tx *Tx) Len() int { return tx.batch.Len() }

// Get returns a value, or ErrNotFound; it sees what Set and Delete of this Tx did, not what Put and Merge did. The
// value must not be changed. It stays as it is, but what is kept beyond the commit should be copied: it keeps more alive than itself.
func (tx *Tx) Get(key []byte) ([]byte, error) {
	if e, _ := tx.written.find(key); e != nil {
		if e.deleted {
			return nil, ErrNotFound
		}
		return e.value, nil
	}
	v, err := tx.find(key)
	if v == nil || err != nil {
		return nil, cmp.Or(err, ErrNotFound)
	}
	return tx.mem.copy(v), nil
}

// find returns a committed value, or nil. Its iterator stays open until the next commit, for nobody else commits: opening one, or
// DB.Get, costs many times as much as moving it. And DB.Get does not use the filters of the last level, where most
// keys are: each look for a key that is not there would read a block.
func (tx *Tx) find(key []byte) ([]byte, error) {
	if tx.probe == nil {
		var err error
		if tx.probe, err = tx.store.openProbe(); err != nil {
			return nil, tx.store.failed(err)
		}
	}
	if !tx.probe.SeekPrefixGE(key) || !bytes.Equal(tx.probe.Key(), key) {
		if err := tx.probe.Error(); err != nil {
			return nil, tx.store.failed(err)
		}
		return nil, nil
	}
	v, err := tx.probe.ValueAndErr()
	if err != nil {
		return nil, tx.store.failed(err)
	}
	if v == nil {
		v = []byte{}
	}
	return v, nil
}

// still closes the iterator of find.
func (tx *Tx) still() error {
	if tx.probe == nil {
		return nil
	}
	err := tx.store.closeProbe(tx.probe)
	tx.probe = nil
	return err
}

// Has reports whether a key is there, as Get sees it.
func (tx *Tx) Has(key []byte) (bool, error) {
	if e, _ := tx.written.find(key); e != nil {
		return !e.deleted, nil
	}
	v, err := tx.find(key)
	return v != nil, err
}

// Scan is Store.Scan: it sees what is committed, not what this Tx did.
func (tx *Tx) Scan(from, to []byte, f func(key, value []byte) bool) error {
	return tx.store.Scan(from, to, f)
}

// Set writes a value. Key and value may be used again.
func (tx *Tx) Set(key, value []byte) error {
	tx.written.set(&tx.mem, key, value)
	return tx.batch.Set(key, value, nil)
}

// Delete removes a key.
func (tx *Tx) Delete(key []byte) error {
	tx.written.remove(&tx.mem, key)
	return tx.batch.Delete(key, nil)
}

// Merge adds an operand to a key, for the Merger. Get does not see it before the commit.
func (tx *Tx) Merge(key, operand []byte) error { return tx.batch.Merge(key, operand, nil) }

// Put is Set for keys that this Tx does not Get again before its commit: it remembers nothing.
func (tx *Tx) Put(key, value []byte) error { return tx.batch.Set(key, value, nil) }

// Emit appends a message to a topic. It leaves when Apply has returned, before the state is committed: so it must
// carry its origin, by which the receiver knows it when it comes a second time after a crash. The message's data must not be changed any more.
func (tx *Tx) Emit(t stream.Topic, m stream.Message) {
	tx.out[t] = append(tx.out[t], m)
	tx.emitted++
}

// Outputs takes what was emitted.
func (tx *Tx) Outputs() map[stream.Topic][]stream.Message {
	out := tx.out
	tx.out = map[stream.Topic][]stream.Message{}
	tx.emitted = 0
	return out
}

// Commit makes the writes visible together with the offset from which the input is still to be
// applied. The Tx is empty afterwards and may be used on. After an error the Tx must not be used any more: what it wrote is lost.
func (tx *Tx) Commit(next int64) error {
	for _, s := range tx.seen {
		if err := s.write(tx); err != nil {
			return fmt.Errorf("keyed: %w", err)
		}
	}
	tx.seen = tx.seen[:0]
	if err := tx.still(); err != nil {
		return fmt.Errorf("keyed: %w", err)
	}
	if err := tx.batch.Set(offsetKey, binary.BigEndian.AppendUint64(nil, uint64(next)), nil); err != nil {
		return fmt.Errorf("keyed: %w", err)
	}
	if err := tx.batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("keyed: %w", err)
	}
	if err := tx.batch.Close(); err != nil {
		return fmt.Errorf("keyed: %w", err)
	}
	tx.batch = tx.store.db.NewBatch()
	tx.written.reset()
	return nil
}

// drop forgets what was written.
func (tx *Tx) drop() error { return errors.Join(tx.still(), tx.batch.Close()) }

// openProbe opens an iterator that uses all filters.
func (s *Store) openProbe() (*pebble.Iterator, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	if err != nil {
		return nil, err
	}
	s.probing.Lock()
	defer s.probing.Unlock()
	if s.probes == nil {
		s.probes = map[*pebble.Iterator]struct{}{}
	}
	s.probes[it] = struct{}{}
	return it, nil
}

func (s *Store) closeProbe(it *pebble.Iterator) error {
	s.probing.Lock()
	_, open := s.probes[it]
	delete(s.probes, it)
	s.probing.Unlock()
	if !open {
		return nil // Close has
	}
	return it.Close()
}

// closeProbes closes what Txs that were given up have left.
func (s *Store) closeProbes() error {
	s.probing.Lock()
	defer s.probing.Unlock()
	var errs []error
	for it := range s.probes {
		errs = append(errs, it.Close())
	}
	clear(s.probes)
	return errors.Join(errs...)
}
