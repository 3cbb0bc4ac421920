package keyed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/godwit-mta/godwit/internal/stream"
)

// Tx is what a processor writes: state, which becomes visible together with the offset at the next
// commit, and outputs. It is for one goroutine.
type Tx struct {
	store      *Store
	written    writes
	loose      []op  // what is not in written
	order      order // of the next commit, kept for its memory
	seq        uint32
	size       int // bytes of keys and values
	mem        arena
	seen       []*Seen // have marks to write at the commit
	out        map[stream.Topic][]stream.Message
	emitted    int
	assignment stream.Assignment
	looked     writes           // what Look found since the last commit
	sorted     [][]byte         // for Look, kept for its memory
	files      *pebble.Iterator // for find, over what is in files; nil if not open
	all        *pebble.Iterator // over everything
}

// Begin starts what the next commit writes.
func (s *Store) Begin(a stream.Assignment) *Tx {
	return &Tx{store: s, written: newWrites(s.seed), looked: newWrites(s.seed), out: map[stream.Topic][]stream.Message{}, assignment: a}
}

// Store is the committed state.
func (tx *Tx) Store() *Store { return tx.store }

// Assignment tells the partition and the generation that outputs carry.
func (tx *Tx) Assignment() stream.Assignment { return tx.assignment }

// Len is the number of bytes that the next commit writes.
func (tx *Tx) Len() int { return tx.size }

// Get returns a value, or ErrNotFound; it sees what Set and Delete of this Tx did, not what Put and Merge did. The
// value must not be changed. It stays as it is, but what is kept beyond the commit should be copied: it keeps more alive than itself.
func (tx *Tx) Get(key []byte) ([]byte, error) {
	v, err := tx.get(key)
	if v == nil && err == nil {
		err = ErrNotFound
	}
	return v, err
}

// Has reports whether a key is there, as Get sees it.
func (tx *Tx) Has(key []byte) (bool, error) {
	v, err := tx.get(key)
	return v != nil, err
}

// get returns a value, or nil.
func (tx *Tx) get(key []byte) ([]byte, error) {
	hash := tx.written.hash(key)
	for _, known := range [...]*writes{&tx.written, &tx.looked} {
		if e := known.find(key, hash); e != nil {
			return e.value, nil
		}
	}
	v, err := tx.find(key, hash)
	if v == nil || err != nil {
		return nil, err
	}
	return tx.mem.copy(v), nil
}

// Look finds out at once what Get and Has will be asked for until the next commit. In the order of the keys that costs
// a fraction of what it costs one by one. Keys may be used again.
func (tx *Tx) Look(keys [][]byte) error {
	tx.sorted = append(tx.sorted[:0], keys...)
	slices.SortFunc(tx.sorted, bytes.Compare)
	defer clear(tx.sorted)
	for _, key := range tx.sorted {
		hash := tx.written.hash(key)
		if tx.written.find(key, hash) != nil || tx.looked.find(key, hash) != nil {
			continue
		}
		v, err := tx.find(key, hash)
		if err != nil {
			return err
		}
		tx.looked.set(&tx.mem, key, hash, v, 0)
	}
	return nil
}

// find returns a committed value, or nil. Its iterators stay open until the next commit, for nobody else commits: opening one, or
// DB.Get, costs many times as much as moving it. And DB.Get does not use the filters of the last level, where most
// keys are: each look for a key that is not there would read a block.
func (tx *Tx) find(key []byte, hash uint64) ([]byte, error) {
	it, err := tx.probe(tx.store.fresh.may(hash))
	if err != nil {
		return nil, tx.store.failed(err)
	}
	if !it.SeekPrefixGE(key) || !bytes.Equal(it.Key(), key) {
		if err := it.Error(); err != nil {
			return nil, tx.store.failed(err)
		}
		return nil, nil
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return nil, tx.store.failed(err)
	}
	if v == nil {
		v = []byte{}
	}
	return v, nil
}

// probe returns the iterator over everything, or over what is in files only.
func (tx *Tx) probe(all bool) (*pebble.Iterator, error) {
	at := &tx.files
	if all {
		at = &tx.all
	}
	if *at != nil {
		return *at, nil
	}
	if !all {
		tx.store.fresh.forget()
	}
	it, err := tx.store.openProbe(all)
	if err != nil {
		return nil, err
	}
	*at = it
	return it, nil
}

// still closes the iterators of find.
func (tx *Tx) still() error {
	var errs []error
	for _, at := range [...]**pebble.Iterator{&tx.files, &tx.all} {
		if *at != nil {
			errs = append(errs, tx.store.closeProbe(*at))
			*at = nil
		}
	}
	return errors.Join(errs...)
}

// Scan is Store.Scan: it sees what is committed, not what this Tx did.
func (tx *Tx) Scan(from, to []byte, f func(key, value []byte) bool) error {
	return tx.store.Scan(from, to, f)
}

// Set writes a value. Key and value may be used again.
func (tx *Tx) Set(key, value []byte) error {
	if err := own(key); err != nil {
		return err
	}
	if value == nil {
		value = []byte{}
	}
	tx.written.set(&tx.mem, key, tx.written.hash(key), value, tx.next(key, value))
	return nil
}

// Delete removes a key.
func (tx *Tx) Delete(key []byte) error {
	if err := own(key); err != nil {
		return err
	}
	tx.written.set(&tx.mem, key, tx.written.hash(key), nil, tx.next(key, nil))
	return nil
}

// Merge adds an operand to a key, for the Merger. Get does not see it before the commit.
func (tx *Tx) Merge(key, operand []byte) error {
	if err := own(key); err != nil {
		return err
	}
	tx.add(opMerge, key, operand)
	return nil
}

// Put is Set for keys that this Tx does not Get again before its commit: it remembers nothing.
func (tx *Tx) Put(key, value []byte) error {
	if err := own(key); err != nil {
		return err
	}
	tx.add(opSet, key, value)
	return nil
}

// own refuses keys that are not the processor's.
func own(key []byte) error {
	if len(key) == 0 || key[0] == reserved {
		return fmt.Errorf("keyed: key %q is empty or begins with a zero byte, which is reserved", key)
	}
	return nil
}

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
		s.write(tx)
	}
	tx.seen = tx.seen[:0]
	if err := tx.still(); err != nil {
		return fmt.Errorf("keyed: %w", err)
	}
	tx.add(opSet, offsetKey, binary.BigEndian.AppendUint64(nil, uint64(next)))
	if err := tx.write(); err != nil {
		return fmt.Errorf("keyed: %w", err)
	}
	tx.written.reset()
	tx.looked.reset()
	if tx.loose = tx.loose[:0]; cap(tx.loose) > maxKeptSlots {
		tx.loose, tx.order = nil, nil
	}
	tx.seq, tx.size = 0, 0
	return nil
}

// drop forgets what was written.
func (tx *Tx) drop() error { return tx.still() }

// openProbe opens an iterator that uses all filters; over everything, or over what is in files only.
func (s *Store) openProbe(all bool) (*pebble.Iterator, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{UseL6Filters: true, OnlyReadGuaranteedDurable: !all})
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
