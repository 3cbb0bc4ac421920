package keyed

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// op is one write of a Tx as Pebble gets it.
type op struct {
	key   []byte
	value []byte
	hash  uint64
	seq   uint32 // order of the writes of one key
	kind  opKind
}

type opKind uint8

const (
	opSet opKind = iota
	opDelete
	opMerge
)

// next counts a write and its bytes.
func (tx *Tx) next(key, value []byte) uint32 {
	tx.size += len(key) + len(value)
	tx.seq++
	return tx.seq
}

// add notes a write that Get does not see.
func (tx *Tx) add(kind opKind, key, value []byte) {
	tx.loose = append(tx.loose, op{key: tx.mem.copy(key), value: tx.mem.copy(value), hash: tx.written.hash(key), seq: tx.next(key, value), kind: kind})
}

// write hands everything to Pebble in the order of the keys: what is inserted next to its
// predecessor finds its place in the memtable without waiting for memory. Of several values that Set gave one key only the last is written.
func (tx *Tx) write() error {
	all := tx.gather()
	tx.order.sort(all)
	batch := tx.store.db.NewBatchWithSize(tx.size + (4+8)*len(all) + 64)
	for _, next := range tx.order {
		o := &all[next.at]
		if err := o.put(batch); err != nil {
			return err
		}
		tx.store.fresh.add(o.hash, len(o.key)+len(o.value))
	}
	clear(all)
	if err := batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	return errors.Join(batch.Close(), tx.store.fresh.committed())
}

// gather returns all writes, as part of loose.
func (tx *Tx) gather() []op {
	for i := range tx.written.entries {
		e := &tx.written.entries[i]
		o := op{key: e.key, value: e.value, hash: e.hash, seq: e.seq}
		if e.value == nil {
			o.kind = opDelete
		}
		tx.loose = append(tx.loose, o)
	}
	return tx.loose
}

// order is writes by key. Most comparisons need only the beginnings of two keys, which lie in it.
type order []place

type place struct {
	first, second uint64 // the key's first 16 bytes
	at            int    // of the write
}

func (o *order) sort(all []op) {
	out := (*o)[:0]
	for i := range all {
		p := place{at: i}
		var begin [16]byte
		copy(begin[:], all[i].key)
		p.first, p.second = binary.BigEndian.Uint64(begin[:]), binary.BigEndian.Uint64(begin[8:])
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b place) int {
		switch {
		case a.first != b.first:
			return cmp.Compare(a.first, b.first)
		case a.second != b.second:
			return cmp.Compare(a.second, b.second)
		}
		return cmp.Or(bytes.Compare(all[a.at].key, all[b.at].key), cmp.Compare(all[a.at].seq, all[b.at].seq))
	})
	*o = out
}

func (o *op) put(b *pebble.Batch) error {
	switch o.kind {
	case opSet:
		return b.Set(o.key, o.value, nil)
	case opDelete:
		return b.Delete(o.key, nil)
	case opMerge:
		return b.Merge(o.key, o.value, nil)
	}
	return nil
}
