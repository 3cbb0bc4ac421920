package account

import (
	"encoding/binary"
	"slices"
)

// A row is a list of entries in the order of their slots, each the change of one bucket's numbers. A
// row of the state is such a change from nothing. The format is in docs/formats/account.md.

// wholeMonth is the slot of what a month's row has for the month only.
const wholeMonth = 0

// The bits of an entry's head; the five above them are the count, 31 says that it follows.
const (
	entrySum = 1 << iota
	entryAdds
	entryRemoves
	entryCount = 3 // shift
	longCount  = 31
)

// entry is one bucket of a row: what is to be added to its numbers, which ids leave its set, and which join it then.
type entry struct {
	slot    uint32
	count   int64
	sum     Sum
	head    byte
	adds    idSet
	removes idSet
}

// appendEntry appends an entry's numbers; its sets must follow, the joining ids first.
func appendEntry(b []byte, slot uint32, count int64, sum Sum, sets byte) []byte {
	b = appendSlot(b, slot)
	if !sum.IsZero() {
		sets |= entrySum
	}
	if count >= 0 && count < longCount {
		b = append(b, byte(count)<<entryCount|sets)
	} else {
		b = append(b, longCount<<entryCount|sets)
		b = binary.AppendVarint(b, count)
	}
	if !sum.IsZero() {
		b = sum.append(b)
	}
	return b
}

// quarter of an hour: nearly all hours begin at a multiple of it.
const quarter = 900

func appendSlot(b []byte, slot uint32) []byte {
	if slot%quarter == 0 {
		return binary.AppendUvarint(b, uint64(slot/quarter)<<1)
	}
	return binary.AppendUvarint(b, uint64(slot)<<1|1)
}

// row reads entries one after the other.
type row struct {
	rest []byte
	bad  bool
}

// next reads an entry; raw is all of its bytes. At the end, and at what is none, it returns false.
func (r *row) next(e *entry) (raw []byte, ok bool) {
	all := r.rest
	if len(all) == 0 || r.bad {
		return nil, false
	}
	slot, k := binary.Uvarint(all)
	if k <= 0 || slot > 1<<32 || k == len(all) {
		r.bad = true
		return nil, false
	}
	if slot&1 == 0 {
		slot *= quarter
	}
	head := all[k]
	*e = entry{slot: uint32(slot >> 1), count: int64(head >> entryCount), head: head}
	rest, ok := e.numbers(all[k+1:])
	if !ok {
		r.bad = true
		return nil, false
	}
	r.rest = rest
	return all[:len(all)-len(rest)], true
}

// numbers reads what follows the head of an entry.
func (e *entry) numbers(b []byte) (rest []byte, ok bool) {
	if e.count == longCount {
		v, n := binary.Varint(b)
		if n <= 0 {
			return nil, false
		}
		e.count, b = v, b[n:]
	}
	ok = true
	if e.head&entrySum != 0 {
		e.sum, b, ok = parseSum(b)
	}
	if ok && e.head&entryAdds != 0 {
		e.adds, b, ok = parseSet(b)
	}
	if ok && e.head&entryRemoves != 0 {
		e.removes, b, ok = parseSet(b)
	}
	return b, ok
}

// Merger combines rows. It is the one that the account stage's state has to be opened with.
type Merger struct{}

// Combine implements keyed.Merger.
func (Merger) Combine(_, older, newer []byte) ([]byte, error) {
	x, y := row{rest: older}, row{rest: newer}
	out := make([]byte, 0, len(older)+len(newer)+8)
	var a, b entry
	rawA, okA := x.next(&a)
	rawB, okB := y.next(&b)
	for okA || okB {
		switch {
		case !okB || okA && a.slot < b.slot:
			out = append(out, rawA...)
			rawA, okA = x.next(&a)
		case !okA || b.slot < a.slot:
			out = append(out, rawB...)
			rawB, okB = y.next(&b)
		default:
			var err error
			if out, err = appendBoth(out, &a, &b); err != nil {
				return nil, err
			}
			rawA, okA = x.next(&a)
			rawB, okB = y.next(&b)
		}
	}
	if x.bad || y.bad {
		return nil, errFormat
	}
	return out, nil
}

// appendBoth appends the change that an older and a newer one make together.
func appendBoth(b []byte, older, newer *entry) ([]byte, error) {
	count, sum := older.count+newer.count, older.sum.Add(newer.sum)
	if (older.head|newer.head)&entryRemoves != 0 {
		return appendRemoving(b, older, newer, count, sum)
	}
	sets := (older.head | newer.head) & entryAdds
	if count == 0 && sum.IsZero() && sets == 0 {
		return b, nil
	}
	b = appendEntry(b, older.slot, count, sum, sets)
	if sets == 0 {
		return b, nil
	}
	return appendUnion(b, older.adds, newer.adds)
}

// appendRemoving is appendBoth for entries from which ids leave: (S − R1 ∪ A1) − R2 ∪ A2 = S − (R1 ∪ R2) ∪ (A1 − R2 ∪ A2).
func appendRemoving(b []byte, older, newer *entry, count int64, sum Sum) ([]byte, error) {
	if !older.adds.bitmap && !older.removes.bitmap && !newer.adds.bitmap && !newer.removes.bitmap {
		return appendRemovingLists(b, older, newer, count, sum)
	}
	adds, err := older.adds.load()
	if err != nil {
		return nil, err
	}
	removes, err := newer.removes.load()
	if err != nil {
		return nil, err
	}
	adds.AndNot(removes)
	if err := newer.adds.addTo(adds); err != nil {
		return nil, err
	}
	if err := older.removes.addTo(removes); err != nil {
		return nil, err
	}
	removes.AndNot(adds) // what joins afterwards need not leave before
	var sets byte
	if !adds.IsEmpty() {
		sets |= entryAdds
	}
	if !removes.IsEmpty() {
		sets |= entryRemoves
	}
	if count == 0 && sum.IsZero() && sets == 0 {
		return b, nil
	}
	b = appendEntry(b, older.slot, count, sum, sets)
	if sets&entryAdds != 0 {
		if b, err = appendBitmap(b, adds); err != nil {
			return nil, err
		}
	}
	if sets&entryRemoves != 0 {
		return appendBitmap(b, removes)
	}
	return b, nil
}

// appendRemovingLists is appendRemoving for short sets, of which most are.
func appendRemovingLists(b []byte, older, newer *entry, count int64, sum Sum) ([]byte, error) {
	var buf [4][maxList]uint32
	var lists [4][]uint32
	for i, s := range [...]idSet{older.adds, older.removes, newer.adds, newer.removes} {
		var err error
		if lists[i], err = s.list(buf[i][:0]); err != nil {
			return nil, err
		}
	}
	var add, remove [2 * maxList]uint32
	adds := mergeLists(add[:0], without(lists[0], lists[3]), lists[2])
	removes := without(mergeLists(remove[:0], lists[1], lists[3]), adds)
	var sets byte
	if len(adds) > 0 {
		sets |= entryAdds
	}
	if len(removes) > 0 {
		sets |= entryRemoves
	}
	if count == 0 && sum.IsZero() && sets == 0 {
		return b, nil
	}
	b = appendEntry(b, older.slot, count, sum, sets)
	var err error
	if len(adds) > 0 {
		if b, err = appendList(b, adds); err != nil {
			return nil, err
		}
	}
	if len(removes) > 0 {
		return appendList(b, removes)
	}
	return b, nil
}

// without takes the ids of y out of x, in its memory. Both rise.
func without(x, y []uint32) []uint32 {
	out := x[:0]
	for _, id := range x {
		for len(y) > 0 && y[0] < id {
			y = y[1:]
		}
		if len(y) == 0 || y[0] != id {
			out = append(out, id)
		}
	}
	return out
}

// Keys of rows: prefix, number of the metric, number of the dimension, month, day (0 for the month's row), number of the value, or 0 and
// its text; of the total nothing. So all values of a range of days lie together.

// appendPlace appends what all values of a dimension have in common.
func appendPlace(b []byte, metric, dim uint32, month uint16, day uint8) []byte {
	b = append(b, prefixRow)
	b = binary.AppendUvarint(b, uint64(metric))
	b = binary.AppendUvarint(b, uint64(dim))
	return append(b, byte(month>>8), byte(month), day)
}

// appendTextRow appends the key of a row of a value that has no number.
func appendTextRow(b []byte, metric, dim uint32, month uint16, day uint8, text []byte) []byte {
	if b = appendPlace(b, metric, dim, month, day); dim == 0 {
		return b
	}
	return append(append(b, 0), text...)
}

// appendNumberRow appends the key of a row of a value's number.
func appendNumberRow(b []byte, metric, dim uint32, month uint16, day uint8, value uint32) []byte {
	return binary.AppendUvarint(appendPlace(b, metric, dim, month, day), uint64(value))
}

// rowKey is a row's key, taken apart.
type rowKey struct {
	metric, dim uint32
	month       uint16
	day         uint8
	number      uint32 // of the value; 0: text has it
	text        []byte
}

func parseRowKey(k []byte) (out rowKey, ok bool) {
	p := parser{b: k[1:]}
	out.metric, out.dim = p.number(), p.number()
	if at := p.take(3); at != nil {
		out.month, out.day = binary.BigEndian.Uint16(at), at[2]
	}
	if out.dim != 0 {
		if out.number = p.number(); out.number == 0 {
			out.text = p.b
		}
	}
	return out, !p.bad && (out.dim != 0 && out.number == 0 || len(p.b) == 0)
}

// sortUnique is for slots.
func sortUnique(s []uint32) []uint32 {
	slices.Sort(s)
	return slices.Compact(s)
}
