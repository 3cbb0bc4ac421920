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

// Keys of rows: prefix, number of the metric, number of the dimension, month, day (0 for the month's row), value. So
// all values of a range of days lie together.

// appendSeries appends the key of a month's row without its value.
func appendSeries(b []byte, metric, dim uint32, month uint16) []byte {
	b = append(b, prefixRow)
	b = binary.AppendUvarint(b, uint64(metric))
	b = binary.AppendUvarint(b, uint64(dim))
	b = binary.BigEndian.AppendUint16(b, month)
	return append(b, 0)
}

// rowKey is a row's key, taken apart.
type rowKey struct {
	metric, dim uint32
	month       uint16
	day         uint8
	value       []byte
}

func parseRowKey(k []byte) (out rowKey, ok bool) {
	metric, n := binary.Uvarint(k[1:])
	if n <= 0 {
		return out, false
	}
	dim, m := binary.Uvarint(k[1+n:])
	if rest := 1 + n + m; m > 0 && len(k) >= rest+3 {
		return rowKey{uint32(metric), uint32(dim), binary.BigEndian.Uint16(k[rest:]), k[rest+2], k[rest+3:]}, true
	}
	return out, false
}

// dayKey is the key of the row of a day of the month whose key is given. at is where its day stands.
func dayKey(b, month []byte, at int, day uint8) []byte {
	b = append(b, month...)
	b[len(b)-len(month)+at] = day
	return b
}

// sortUnique is for slots.
func sortUnique(s []uint32) []uint32 {
	slices.Sort(s)
	return slices.Compact(s)
}
