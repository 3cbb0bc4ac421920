package account

import (
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/internal/keyed"
)

// Values of dimensions that come often have a number, under which their rows stand: it is shorter than the text, and
// finding a number's row takes less work. A value gets its number when it came a few times within what is remembered here; until
// then its text stands for it, so that a value that comes once costs nothing but its own row. What
// stands under the text stays there: readers add up both.

// ref is a value in memory: its number, or, with the bit cold, its place in values for one that goes by its text. 0 is the
// total's, and nobody's number.
type ref uint32

const (
	cold ref = 1 << 31
	// often is how many times a value comes until it gets a number. That costs about as much as three rows with the text.
	often = 4
	// maxValueText is the text that values remember for each of them, on average.
	maxValueText = 64
)

// values are the ones that came last, in two generations. Places of the young one stay until turn.
type values struct {
	most       int
	young, old valueTable
	known      bloom.Filter // hashes of those that have a number; nil if they are too many
	fresh      []freshValue // those whose number is not committed yet, for readers: only ever appended to
	texts      map[uint32][]byte
}

// freshValue is a number that was just given.
type freshValue struct {
	number uint32
	text   string
}

type valueTable struct {
	slots   []uint32 // place + 1
	entries []valueEntry
	text    []byte
}

type valueEntry struct {
	hash    uint64
	at, len uint32 // in text
	dim     uint32
	number  uint32 // 0: none yet
	seen    uint8
}

func newValues(most int) values {
	return values{most: most, young: newValueTable(), old: newValueTable(), known: bloom.New(2 * most), texts: map[uint32][]byte{}}
}

func newValueTable() valueTable { return valueTable{slots: make([]uint32, 1<<10)} }

func hashValue(dim uint32, text []byte) uint64 {
	return xxhash.Sum64(text) ^ uint64(dim)*0x9e3779b97f4a7c15
}

func (t *valueTable) find(hash uint64, dim uint32, text []byte) (at uint32, ok bool) {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; t.slots[i] != 0; i = (i + 1) & mask {
		at = t.slots[i] - 1
		if e := &t.entries[at]; e.hash == hash && e.dim == dim && string(t.textOf(at)) == string(text) {
			return at, true
		}
	}
	return 0, false
}

func (t *valueTable) textOf(at uint32) []byte {
	e := &t.entries[at]
	return t.text[e.at : e.at+e.len]
}

func (t *valueTable) add(e valueEntry, text []byte) uint32 {
	if 4*(len(t.entries)+1) > 3*len(t.slots) {
		t.slots = make([]uint32, 2*len(t.slots))
		for i := range t.entries {
			t.slots[free(t.slots, t.entries[i].hash)] = uint32(i + 1)
		}
	}
	e.at, e.len = uint32(len(t.text)), uint32(len(text))
	t.text = append(t.text, text...)
	t.entries = append(t.entries, e)
	t.slots[free(t.slots, e.hash)] = uint32(len(t.entries))
	return uint32(len(t.entries) - 1)
}

func (t *valueTable) reset() {
	clear(t.slots)
	t.entries, t.text = t.entries[:0], t.text[:0]
}

// place finds a value among the young ones, and puts it there if it is not.
func (v *values) place(dim uint32, text []byte) uint32 {
	hash := hashValue(dim, text)
	if at, ok := v.young.find(hash, dim, text); ok {
		return at
	}
	e := valueEntry{hash: hash, dim: dim}
	if at, ok := v.old.find(hash, dim, text); ok {
		e.number, e.seen = v.old.entries[at].number, v.old.entries[at].seen
	}
	return v.young.add(e, text)
}

// turn forgets those that were not used for long. No window may have their places.
func (v *values) turn() {
	v.fresh = nil
	if len(v.texts) > v.most/4 {
		clear(v.texts)
	}
	if len(v.young.entries) > v.most/2 || len(v.young.text) > v.most/2*maxValueText {
		v.old, v.young = v.young, v.old
		v.young.reset()
	}
}

// ref counts that a value came, and returns what it goes by from now on.
func (p *Processor) ref(tx *keyed.Tx, dim uint32, text []byte) (ref, error) {
	at := p.values.place(dim, text)
	e := &p.values.young.entries[at]
	if e.number != 0 {
		return ref(e.number), nil
	}
	if e.seen++; e.seen < often {
		return cold | ref(at), nil
	}
	n, err := p.number(tx, e.hash, dim, text)
	e.number = n
	return ref(n), err
}

// load notes which values have a number.
func (v *values) load(s *keyed.Store) error {
	n, most, bad := 0, 2*v.known.Capacity(), false
	err := s.Scan([]byte{prefixValue}, nil, func(k, _ []byte) bool {
		p := parser{b: k[1:]}
		dim := p.number()
		v.known.Add(hashValue(dim, p.b))
		n, bad = n+1, p.bad
		return n <= most && !bad
	})
	if n > most {
		v.known = nil
	}
	if err == nil && bad {
		err = errDamaged
	}
	return err
}

// isNew reports whether a value has no number for sure. It will have one from now on.
func (v *values) isNew(hash uint64) bool {
	if v.known == nil || v.known.Has(hash) {
		return false
	}
	v.known.Add(hash)
	return true
}

// number finds the number of a value in the state, or gives it one.
func (p *Processor) number(tx *keyed.Tx, hash uint64, dim uint32, text []byte) (uint32, error) {
	key := valueKey(dim, text)
	if !p.values.isNew(hash) {
		if b, err := tx.Get(key); err == nil {
			return parseNumber(b)
		} else if !errors.Is(err, keyed.ErrNotFound) {
			return 0, err
		}
	}
	if p.numbers.value == uint32(cold)-1 {
		return 0, errors.New("too many values of dimensions")
	}
	n := p.numbers.value
	p.numbers.value++
	p.values.fresh = append(p.values.fresh, freshValue{n, string(text)})
	return n, errors.Join(tx.Set(key, binary.AppendUvarint(nil, uint64(n))), tx.Set(textKey(n), text))
}

// text finds the text of a number.
func (p *Processor) text(tx *keyed.Tx, number uint32) ([]byte, error) {
	if t, known := p.values.texts[number]; known {
		return t, nil
	}
	b, err := tx.Get(textKey(number))
	if err != nil {
		return nil, err
	}
	t := append([]byte{}, b...)
	p.values.texts[number] = t
	return t, nil
}

// knownValue is what a value goes by in the windows: its number, 0 if it has none, and its place, 0 if it has not come lately. mu is held.
func (p *Processor) knownValue(dim uint32, text []byte) (number uint32, place ref, err error) {
	hash := hashValue(dim, text)
	if at, ok := p.values.young.find(hash, dim, text); ok {
		number, place = p.values.young.entries[at].number, cold|ref(at)
	}
	if number == 0 {
		number, err = storedNumber(p.store, dim, text)
	}
	return number, place, err
}

// storedNumber is the number that a value has in the state, 0 if it has none.
func storedNumber(s *keyed.Store, dim uint32, text []byte) (uint32, error) {
	b, err := s.Get(valueKey(dim, text))
	if errors.Is(err, keyed.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return parseNumber(b)
}

func parseNumber(b []byte) (uint32, error) {
	r := parser{b: b}
	if n := r.number(); !r.bad && n != 0 && n < uint32(cold) {
		return n, nil
	}
	return 0, errDamaged
}

func valueKey(dim uint32, text []byte) []byte {
	return append(binary.AppendUvarint([]byte{prefixValue}, uint64(dim)), text...)
}

func textKey(number uint32) []byte { return binary.BigEndian.AppendUint32([]byte{prefixText}, number) }
