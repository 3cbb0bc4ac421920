package account

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// window is what was counted since the last commit, combined by row. It has no pointers in its parts, so that
// collecting garbage does not look at it, and keeps its memory from one use to the next.
type window struct {
	gen uint64 // counts windows of this state; the state has the last one that was committed

	keys    []byte   // of months' rows
	series  []series // one for each of them
	table   []uint32 // finds series: number + 1
	cells   []cell   // one for each hour of a series; the first is none
	members []member // ids that join or leave a cell; the first is none

	events  []eventRow
	byEvent []uint32 // finds events: number + 1
	values  []byte   // of events
}

// series is one row of a month, and the days of it.
type series struct {
	hash   uint64
	key    uint32 // where it stands in keys
	len    uint32
	dayAt  uint32 // where the day stands in the key
	dim    uint32
	metric uint32
	cells  uint32
	events int32
}

// cell is one hour of a series.
type cell struct {
	count   int64
	sum     Sum
	next    uint32
	members uint32
	slot    uint32
	day     uint8
	leaves  bool // some of the members leave
}

type member struct {
	id   uint32
	next uint32 // shifted by one for the bit that says whether it leaves
}

// eventRow is an event that the state does not have yet. Its value is in values.
type eventRow struct {
	eventKey
	at, len uint32
}

// gone as an eventRow's length: it is not to be written.
const gone = ^uint32(0)

func newWindow(gen uint64) *window {
	w := &window{}
	w.reset(gen)
	return w
}

// reset empties the window. Memory that was needed for an unusual load is given back.
func (w *window) reset(gen uint64) {
	const much = 4
	if cap(w.series) > 1<<12 && cap(w.series) > much*len(w.series) || cap(w.events) > 1<<12 && cap(w.events) > much*len(w.events) {
		*w = window{}
	}
	w.gen = gen
	w.keys, w.values = w.keys[:0], w.values[:0]
	w.series, w.events = w.series[:0], w.events[:0]
	w.cells = append(w.cells[:0], cell{})
	w.members = append(w.members[:0], member{})
	if w.table == nil {
		w.table, w.byEvent = make([]uint32, 1<<10), make([]uint32, 1<<10)
	}
	clear(w.table)
	clear(w.byEvent)
}

func (w *window) empty() bool { return len(w.series) == 0 && len(w.events) == 0 }

// size is about how many bytes the window holds.
func (w *window) size() int {
	return len(w.keys) + 40*len(w.series) + 4*len(w.table) + 48*len(w.cells) + 8*len(w.members) +
		36*len(w.events) + 4*len(w.byEvent) + len(w.values)
}

// find returns the series of a key, nil if there is none.
func (w *window) find(key []byte) *series {
	if at := w.lookup(key, xxhash.Sum64(key)); w.table[at] != 0 {
		return &w.series[w.table[at]-1]
	}
	return nil
}

// lookup returns where in the table a key is, or would be.
func (w *window) lookup(key []byte, hash uint64) uint64 {
	mask := uint64(len(w.table) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		n := w.table[i]
		if n == 0 {
			return i
		}
		if s := &w.series[n-1]; s.hash == hash && bytes.Equal(w.keyOf(s), key) {
			return i
		}
	}
}

func (w *window) keyOf(s *series) []byte { return w.keys[s.key : s.key+s.len] }

// add counts an event, or takes it back with sign -1, in one series.
func (w *window) add(key []byte, dayAt int, metric, dim uint32, b bucket, value int64, id uint32, sign int64) {
	hash := xxhash.Sum64(key)
	at := w.lookup(key, hash)
	if w.table[at] == 0 {
		w.series = append(w.series, series{hash: hash, key: uint32(len(w.keys)), len: uint32(len(key)), dayAt: uint32(dayAt), dim: dim, metric: metric})
		w.keys = append(w.keys, key...)
		w.table[at] = uint32(len(w.series))
		if 4*len(w.series) > 3*len(w.table) {
			w.table = make([]uint32, 2*len(w.table))
			for i := range w.series {
				w.table[free(w.table, w.series[i].hash)] = uint32(i + 1)
			}
			at = w.lookup(key, hash)
		}
	}
	s := &w.series[w.table[at]-1]
	s.events++
	c := w.cell(s, b)
	if c.count += sign; sign < 0 {
		c.sum = c.sum.Add(sumOf(value).Neg())
		c.leaves = true
	} else if value != 0 {
		c.sum = c.sum.Add(sumOf(value))
	}
	w.members = append(w.members, member{id, c.members << 1})
	if sign < 0 {
		w.members[len(w.members)-1].next |= 1
	}
	c.members = uint32(len(w.members) - 1)
}

// free returns the first free place for a hash.
func free(table []uint32, hash uint64) uint64 {
	mask := uint64(len(table) - 1)
	i := hash & mask
	for table[i] != 0 {
		i = (i + 1) & mask
	}
	return i
}

// cell returns the cell of an hour, making it if there is none.
func (w *window) cell(s *series, b bucket) *cell {
	for at := s.cells; at != 0; at = w.cells[at].next {
		if c := &w.cells[at]; c.slot == b.slot {
			return c
		}
	}
	w.cells = append(w.cells, cell{next: s.cells, slot: b.slot, day: b.day})
	s.cells = uint32(len(w.cells) - 1)
	return &w.cells[s.cells]
}

// leaving reports whether ids leave a series.
func (w *window) leaving(s *series) bool {
	for at := s.cells; at != 0; at = w.cells[at].next {
		if w.cells[at].leaves {
			return true
		}
	}
	return false
}

// event returns an event that was counted in this window, nil if it was not.
func (w *window) event(k *eventKey) *eventRow {
	mask := uint64(len(w.byEvent) - 1)
	for i := k.hash() & mask; w.byEvent[i] != 0; i = (i + 1) & mask {
		if e := &w.events[w.byEvent[i]-1]; e.eventKey == *k {
			return e
		}
	}
	return nil
}

// note remembers an event that was counted. Its value is what was appended to w.values from at on.
func (w *window) note(k *eventKey, at int) {
	w.events = append(w.events, eventRow{*k, uint32(at), uint32(len(w.values) - at)})
	if 4*len(w.events) > 3*len(w.byEvent) {
		w.byEvent = make([]uint32, 2*len(w.byEvent))
		for i := range w.events[:len(w.events)-1] {
			w.byEvent[free(w.byEvent, w.events[i].hash())] = uint32(i + 1)
		}
	}
	w.byEvent[free(w.byEvent, k.hash())] = uint32(len(w.events))
}

// scratch is memory for making rows of a window.
type scratch struct {
	cells  []uint32
	joins  []uint32
	leaves []uint32
	left   map[uint32]bool
	out    []byte
	key    []byte
}

// place says where the numbers of a window go. What a series has little of is a part of its month's row, by the hour: one write, and
// hours, days and month are all made of it. What it has much of goes to the row of the day, by the hour, and once more to
// the month as a whole, so that neither becomes long. Ids leave wherever they may be.

// month makes the operand for the month's row, empty if it has none.
func (w *window) month(s *series, much bool, x *scratch) ([]byte, error) {
	w.collect(s, x, false)
	x.out = x.out[:0]
	var err error
	if x.out, err = w.whole(x.out, x.cells, much, x); err != nil {
		return nil, err
	}
	for _, at := range x.cells {
		if c := &w.cells[at]; !much || c.leaves {
			if x.out, err = w.entry(x.out, c, !much, x); err != nil {
				return nil, err
			}
		}
	}
	return x.out, nil
}

// whole appends what the month has as a whole.
func (w *window) whole(b []byte, cells []uint32, much bool, x *scratch) ([]byte, error) {
	var count int64
	var sum Sum
	leaves := false
	for _, at := range cells {
		c := &w.cells[at]
		count, sum, leaves = count+c.count, sum.Add(c.sum), leaves || c.leaves
	}
	if !much && !leaves {
		return b, nil
	}
	if !much {
		count, sum = 0, Sum{}
	}
	x.joins, x.leaves = x.joins[:0], x.leaves[:0]
	for _, at := range cells {
		w.ids(&w.cells[at], x)
	}
	return appendMembers(b, wholeMonth, count, sum, much, x)
}

// days calls f with the operand for each day's row.
func (w *window) days(s *series, much bool, x *scratch, f func(day uint8, operand []byte) error) error {
	w.collect(s, x, true)
	for i := 0; i < len(x.cells); {
		day := w.cells[x.cells[i]].day
		x.out = x.out[:0]
		for ; i < len(x.cells) && w.cells[x.cells[i]].day == day; i++ {
			c := &w.cells[x.cells[i]]
			if !much && !c.leaves {
				continue
			}
			var err error
			if x.out, err = w.entry(x.out, c, much, x); err != nil {
				return err
			}
		}
		if len(x.out) > 0 {
			if err := f(day, x.out); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect lists the cells of a series by slot, or by day and slot.
func (w *window) collect(s *series, x *scratch, byDay bool) {
	x.cells = x.cells[:0]
	for at := s.cells; at != 0; at = w.cells[at].next {
		x.cells = append(x.cells, at)
	}
	if len(x.cells) < 2 {
		return
	}
	slices.SortFunc(x.cells, func(a, b uint32) int {
		p, q := &w.cells[a], &w.cells[b]
		if byDay && p.day != q.day {
			return cmp.Compare(p.day, q.day)
		}
		return cmp.Compare(p.slot, q.slot)
	})
}

// entry appends one hour: all of it, or only who leaves.
func (w *window) entry(b []byte, c *cell, all bool, x *scratch) ([]byte, error) {
	x.joins, x.leaves = x.joins[:0], x.leaves[:0]
	w.ids(c, x)
	if all {
		return appendMembers(b, c.slot, c.count, c.sum, true, x)
	}
	return appendMembers(b, c.slot, 0, Sum{}, false, x)
}

// ids adds the members of a cell to x.joins and x.leaves. The last word on each counts, which comes first.
func (w *window) ids(c *cell, x *scratch) {
	if !c.leaves {
		for at := c.members; at != 0; at = w.members[at].next >> 1 {
			x.joins = append(x.joins, w.members[at].id)
		}
		return
	}
	if x.left == nil {
		x.left = map[uint32]bool{}
	}
	clear(x.left)
	for at := c.members; at != 0; at = w.members[at].next >> 1 {
		m := w.members[at]
		if _, known := x.left[m.id]; known {
			continue
		}
		leaves := m.next&1 != 0
		x.left[m.id] = leaves
		if leaves {
			x.leaves = append(x.leaves, m.id)
		} else {
			x.joins = append(x.joins, m.id)
		}
	}
}

func appendMembers(b []byte, slot uint32, count int64, sum Sum, joins bool, x *scratch) ([]byte, error) {
	var sets byte
	if joins = joins && len(x.joins) > 0; joins {
		x.joins = sortUnique(x.joins)
		sets |= entryAdds
	}
	if len(x.leaves) > 0 {
		x.leaves = sortUnique(x.leaves)
		sets |= entryRemoves
	}
	if count == 0 && sum.IsZero() && sets == 0 {
		return b, nil
	}
	b = appendEntry(b, slot, count, sum, sets)
	var err error
	if joins {
		if b, err = appendList(b, x.joins); err != nil {
			return nil, err
		}
	}
	if len(x.leaves) > 0 {
		return appendList(b, x.leaves)
	}
	return b, nil
}

// item is a row in the order of its key, of which it has the beginning as numbers.
type item struct {
	head, tail uint64
	at         uint32
}

func (a item) compare(b item) int {
	if a.head != b.head {
		return cmp.Compare(a.head, b.head)
	}
	return cmp.Compare(a.tail, b.tail)
}

// bySeries lists the series in the order of their keys. The state takes rows that come in order with much less work.
func (w *window) bySeries(items []item) []item {
	var buf [16]byte
	for i := range w.series {
		buf = [16]byte{}
		copy(buf[:], w.keyOf(&w.series[i])[1:]) // all have the same prefix
		items = append(items, item{binary.BigEndian.Uint64(buf[:]), binary.BigEndian.Uint64(buf[8:]), uint32(i)})
	}
	slices.SortFunc(items, func(a, b item) int {
		if c := a.compare(b); c != 0 {
			return c
		}
		return bytes.Compare(w.keyOf(&w.series[a.at]), w.keyOf(&w.series[b.at]))
	})
	return items
}

// byProfile lists the events, nearly in the order of their keys.
func (w *window) byProfile(items []item) []item {
	for i := range w.events {
		e := &w.events[i]
		items = append(items, item{uint64(e.profile)<<32 | uint64(e.metric), binary.BigEndian.Uint64(e.uid[:]), uint32(i)})
	}
	slices.SortFunc(items, item.compare)
	return items
}

// sketch estimates how much each series has, to tell those that have much. It may err, in either
// direction: the numbers are the same wherever they are.
type sketch struct {
	many   uint8 // events that are much
	counts []uint8
	added  int
}

const (
	sketchSize  = 1 << 20
	sketchFade  = 16 * sketchSize // events after which all counts are halved
	muchEvents  = 64
	sketchLimit = 255
)

// much counts events of a series and reports whether there were many lately.
func (k *sketch) much(s *series) bool {
	if k.counts == nil {
		k.counts = make([]uint8, sketchSize)
	}
	n := min(int(s.events), sketchLimit)
	if k.added += n; k.added >= sketchFade {
		for i := range k.counts {
			k.counts[i] /= 2
		}
		k.added = 0
	}
	c := &k.counts[(s.hash>>32)%sketchSize]
	*c = uint8(min(int(*c)+n, sketchLimit))
	return *c >= k.many
}
