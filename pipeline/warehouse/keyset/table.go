package keyset

import "math/bits"

// Table is a set of keys in memory: open addressing, half full at most. The zero value is empty.
type Table struct {
	slots []Key // the zero Key is a free slot
	n     int
	zero  bool // whether the zero Key is in it
}

// Len is how many keys it has.
func (t *Table) Len() int {
	if t.zero {
		return t.n + 1
	}
	return t.n
}

// Has reports whether k is in it.
func (t *Table) Has(k Key) bool {
	if k == (Key{}) {
		return t.zero
	}
	if len(t.slots) == 0 {
		return false
	}
	return t.slots[t.slot(k)] == k
}

// slot is where k is, or the free slot where it would be.
func (t *Table) slot(k Key) uint64 {
	mask := uint64(len(t.slots) - 1)
	i := k.Lo & mask
	for t.slots[i] != k && t.slots[i] != (Key{}) {
		i = (i + 1) & mask
	}
	return i
}

// Add adds k. It is false if k was there.
func (t *Table) Add(k Key) bool {
	if k == (Key{}) {
		was := t.zero
		t.zero = true
		return !was
	}
	if 2*t.n >= len(t.slots) {
		t.grow()
	}
	i := t.slot(k)
	if t.slots[i] == k {
		return false
	}
	t.slots[i] = k
	t.n++
	return true
}

// Reserve makes room for so many keys at once, in place of little by little.
func (t *Table) Reserve(n int) {
	if size := 1 << bits.Len(uint(2*n)); n > 0 && size > len(t.slots) {
		t.resize(size)
	}
}

func (t *Table) grow() { t.resize(max(1024, 2*len(t.slots))) }

// resize gives the table so many slots, a power of two.
func (t *Table) resize(size int) {
	old := t.slots
	t.slots = make([]Key, size)
	for _, k := range old {
		if k != (Key{}) {
			t.slots[t.slot(k)] = k
		}
	}
}

// Clear removes all keys and keeps the memory.
func (t *Table) Clear() {
	clear(t.slots)
	t.n, t.zero = 0, false
}

func (t *Table) each(f func(Key)) {
	if t.zero {
		f(Key{})
	}
	for _, k := range t.slots {
		if k != (Key{}) {
			f(k)
		}
	}
}
