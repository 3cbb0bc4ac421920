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

// alloc returns n bytes with nothing behind them. It is never nil.
func (a *arena) alloc(n int) []byte {
	if n > len(a.free) || a.free == nil {
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

// writes is what a Tx wrote, or knows, by key: a hash table with open addressing whose entries are in the order of the first write.
type writes struct {
	seed    maphash.Seed
	slots   []uint32 // number of an entry, counted from 1; 0 is free
	entries []write
}

type write struct {
	hash  uint64
	key   []byte
	value []byte // nil: there is none
	seq   uint32
}

const minSlots = 256

func newWrites(seed maphash.Seed) writes { return writes{seed: seed, slots: make([]uint32, minSlots)} }

func (w *writes) hash(key []byte) uint64 { return maphash.Bytes(w.seed, key) }

// find returns the entry of a key, or nil.
func (w *writes) find(key []byte, hash uint64) *write {
	if len(w.entries) == 0 {
		return nil
	}
	mask := uint64(len(w.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		at := w.slots[i]
		if at == 0 {
			return nil
		}
		if e := &w.entries[at-1]; e.hash == hash && bytes.Equal(e.key, key) {
			return e
		}
	}
}

// set notes a value as write number seq of the Tx; nil says that there is none. Key and value are copied to a.
func (w *writes) set(a *arena, key []byte, hash uint64, value []byte, seq uint32) {
	e := w.entry(a, key, hash)
	if e.seq = seq; value == nil {
		e.value = nil
		return
	}
	e.value = a.copy(value)
}

// entry finds or makes the entry of a key.
func (w *writes) entry(a *arena, key []byte, hash uint64) *write {
	if e := w.find(key, hash); e != nil {
		return e
	}
	if 2*(len(w.entries)+1) > len(w.slots) {
		w.grow()
	}
	w.entries = append(w.entries, write{hash: hash, key: a.copy(key)})
	w.link(hash, uint32(len(w.entries)))
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
