package keyed

import (
	"bytes"
	"hash/maphash"
)

// arena hands out memory piece by piece. Pieces are never used again, so what points to them stays valid;
// it costs one allocation per chunk instead of one per piece.
type arena struct {
	free []byte
}

const chunkSize = 64 << 10

// alloc returns n bytes with nothing behind them.
func (a *arena) alloc(n int) []byte {
	if n > len(a.free) {
		if n > chunkSize/4 {
			return make([]byte, n)
		}
		a.free = make([]byte, chunkSize)
	}
	out := a.free[:n:n]
	a.free = a.free[n:]
	return out
}

func (a *arena) copy(b []byte) []byte {
	out := a.alloc(len(b))
	copy(out, b)
	return out
}

// writes is what a Tx wrote, by key: a hash table with open addressing whose entries are in the order of the first write.
type writes struct {
	seed    maphash.Seed
	slots   []uint32 // number of an entry, counted from 1; 0 is free
	entries []write
}

type write struct {
	hash    uint64
	key     []byte
	value   []byte
	deleted bool
}

const minSlots = 256

func newWrites() writes { return writes{seed: maphash.MakeSeed(), slots: make([]uint32, minSlots)} }

// find returns the entry of a key, or nil, and its hash.
func (w *writes) find(key []byte) (*write, uint64) {
	h := maphash.Bytes(w.seed, key)
	if len(w.entries) == 0 {
		return nil, h
	}
	mask := uint64(len(w.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		at := w.slots[i]
		if at == 0 {
			return nil, h
		}
		if e := &w.entries[at-1]; e.hash == h && bytes.Equal(e.key, key) {
			return e, h
		}
	}
}

// set notes a value. Key and value are copied to a.
func (w *writes) set(a *arena, key, value []byte) {
	e := w.entry(a, key)
	e.value, e.deleted = a.copy(value), false
}

// remove notes that a key is gone.
func (w *writes) remove(a *arena, key []byte) {
	e := w.entry(a, key)
	e.value, e.deleted = nil, true
}

// entry finds or makes the entry of a key.
func (w *writes) entry(a *arena, key []byte) *write {
	e, h := w.find(key)
	if e != nil {
		return e
	}
	if 2*(len(w.entries)+1) > len(w.slots) {
		w.grow()
	}
	w.entries = append(w.entries, write{hash: h, key: a.copy(key)})
	w.link(h, uint32(len(w.entries)))
	return &w.entries[len(w.entries)-1]
}

func (w *writes) link(h uint64, at uint32) {
	mask := uint64(len(w.slots) - 1)
	i := h & mask
	for w.slots[i] != 0 {
		i = (i + 1) & mask
	}
	w.slots[i] = at
}

func (w *writes) grow() {
	w.slots = make([]uint32, 2*len(w.slots))
	for i := range w.entries {
		w.link(w.entries[i].hash, uint32(i+1))
	}
}

// maxKeptSlots bounds what a rare large Tx leaves allocated.
const maxKeptSlots = 1 << 16

func (w *writes) reset() {
	if len(w.slots) > maxKeptSlots {
		w.slots, w.entries = make([]uint32, minSlots), nil
		return
	}
	if len(w.entries) > 0 {
		clear(w.slots)
	}
	clear(w.entries)
	w.entries = w.entries[:0]
}
