package account

import (
	"cmp"
	"slices"
)

// window is what was counted since the last commit, combined by row. It has no pointers in its parts, so that
// collecting garbage does not look at it, and keeps its memory from one use to the next.
type window struct {
	gen uint64 // counts windows of this state; the state has the last one that was committed

	series  []series
	table   []uint64 // finds series: number + 1, and above it 32 bits of the hash
	cells   []cell   // the hours of series but the first of each; the first is none
	members []member // ids that join or leave a cell; the first is none

	events  []eventRow
	byEvent []uint32 // finds events: number + 1
	values  []byte   // of events
	owners  owners
}

// seriesID names a series: the month of a value. Values of two dimensions are never the same.
type seriesID struct {
	metric uint32
	value  ref
	month  uint16
}

func (id seriesID) hash() uint64 {
	h := (uint64(id.metric)<<32 | uint64(id.value)) * 0x9e3779b97f4a7c15
	h = (h ^ h>>32 ^ uint64(id.month)<<48) * 0xc2b2ae3d27d4eb4f
	return h ^ h>>29
}

// series is one row of a month, and the days of it.
type series struct {
	seriesID
	dim    uint32
	events int32
	first  cell
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
	w.values = w.values[:0]
	w.series, w.events = w.series[:0], w.events[:0]
	w.cells = append(w.cells[:0], cell{})
	w.members = append(w.members[:0], member{})
	w.owners.reset()
	if w.table == nil {
		w.table, w.byEvent = make([]uint64, 1<<10), make([]uint32, 1<<10)
	}
	clear(w.table)
	clear(w.byEvent)
}

func (w *window) empty() bool { return len(w.series) == 0 && len(w.events) == 0 }

// size is about how many bytes the window holds.
func (w *window) size() int {
	return 64*len(w.series) + 8*len(w.table) + 40*len(w.cells) + 8*len(w.members) +
		24*len(w.events) + 4*len(w.byEvent) + len(w.values)
}

// find returns a series, nil if there is none.
func (w *window) find(id seriesID) *series {
	if at := w.lookup(id, id.hash()); w.table[at] != 0 {
		return &w.series[uint32(w.table[at])-1]
	}
	return nil
}

// lookup returns where in the table a series is, or would be.
func (w *window) lookup(id seriesID, hash uint64) uint64 {
	mask := uint64(len(w.table) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		n := w.table[i]
		if n == 0 || n>>32 == hash>>32 && w.series[uint32(n)-1].seriesID == id {
			return i
		}
	}
}

// open returns a series, making it if there is none.
func (w *window) open(id seriesID, dim uint32, b bucket) *series {
	hash := id.hash()
	at := w.lookup(id, hash)
	if n := w.table[at]; n != 0 {
		return &w.series[uint32(n)-1]
	}
	w.series = append(w.series, series{seriesID: id, dim: dim, first: cell{slot: b.slot, day: b.day}})
	w.table[at] = hash>>32<<32 | uint64(len(w.series))
	if 4*len(w.series) > 3*len(w.table) {
		w.grow()
	}
	return &w.series[len(w.series)-1]
}

func (w *window) grow() {
	w.table = make([]uint64, 4*len(w.table))
	mask := uint64(len(w.table) - 1)
	for i := range w.series {
		hash := w.series[i].hash()
		at := hash & mask
		for w.table[at] != 0 {
			at = (at + 1) & mask
		}
		w.table[at] = hash>>32<<32 | uint64(i+1)
	}
}

// add counts an event, or takes it back with sign -1, in one series.
func (w *window) add(id seriesID, dim uint32, b bucket, value int64, profile uint32, sign int64) {
	s := w.open(id, dim, b)
	s.events++
	c := &s.first
	if c.slot != b.slot {
		c = w.cell(s, b)
	}
	leaves := uint32(0)
	if c.count += sign; sign < 0 {
		c.sum = c.sum.Add(SumOf(value).Neg())
		c.leaves, leaves = true, 1
	} else if value != 0 {
		c.sum = c.sum.Add(SumOf(value))
	}
	w.members = append(w.members, member{profile, c.members<<1 | leaves})
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

// cell returns the cell of another hour than the first, making it if there is none.
func (w *window) cell(s *series, b bucket) *cell {
	for at := s.first.next; at != 0; at = w.cells[at].next {
		if c := &w.cells[at]; c.slot == b.slot {
			return c
		}
	}
	w.cells = append(w.cells, cell{next: s.first.next, slot: b.slot, day: b.day})
	s.first.next = uint32(len(w.cells) - 1)
	return &w.cells[s.first.next]
}

// leaving reports whether ids leave a series.
func (w *window) leaving(s *series) bool {
	for c := &s.first; ; c = &w.cells[c.next] {
		if c.leaves {
			return true
		}
		if c.next == 0 {
			return false
		}
	}
}

// event returns an event that was counted in this window, nil if it was not.
func (w *window) event(k *eventKey, hash uint64) *eventRow {
	mask := uint64(len(w.byEvent) - 1)
	for i := hash & mask; w.byEvent[i] != 0; i = (i + 1) & mask {
		if e := &w.events[w.byEvent[i]-1]; e.eventKey == *k {
			return e
		}
	}
	return nil
}

// note remembers an event that was counted. Its value is what was appended to w.values from at on.
func (w *window) note(k *eventKey, hash uint64, at int) {
	w.events = append(w.events, eventRow{*k, uint32(at), uint32(len(w.values) - at)})
	if 4*len(w.events) > 3*len(w.byEvent) {
		w.byEvent = make([]uint32, 2*len(w.byEvent))
		for i := range w.events[:len(w.events)-1] {
			w.byEvent[free(w.byEvent, w.events[i].hash())] = uint32(i + 1)
		}
	}
	w.byEvent[free(w.byEvent, hash)] = uint32(len(w.events))
}

// scratch is memory for making rows of a window.
type scratch struct {
	cells  []*cell
	joins  []uint32
	leaves []uint32
	left   map[uint32]bool
	out    []byte
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
	for _, c := range x.cells {
		if !much || c.leaves {
			if x.out, err = w.entry(x.out, c, !much, x); err != nil {
				return nil, err
			}
		}
	}
	return x.out, nil
}

// whole appends what the month has as a whole.
func (w *window) whole(b []byte, cells []*cell, much bool, x *scratch) ([]byte, error) {
	var count int64
	var sum Sum
	leaves := false
	for _, c := range cells {
		count, sum, leaves = count+c.count, sum.Add(c.sum), leaves || c.leaves
	}
	if !much && !leaves {
		return b, nil
	}
	if !much {
		count, sum = 0, Sum{}
	}
	x.joins, x.leaves = x.joins[:0], x.leaves[:0]
	for _, c := range cells {
		w.ids(c, x)
	}
	return appendMembers(b, wholeMonth, count, sum, much, x)
}

// days calls f with the operand for each day's row.
func (w *window) days(s *series, much bool, x *scratch, f func(day uint8, operand []byte) error) error {
	w.collect(s, x, true)
	for i := 0; i < len(x.cells); {
		day := x.cells[i].day
		x.out = x.out[:0]
		for ; i < len(x.cells) && x.cells[i].day == day; i++ {
			c := x.cells[i]
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
	x.cells = append(x.cells[:0], &s.first)
	for at := s.first.next; at != 0; at = w.cells[at].next {
		x.cells = append(x.cells, &w.cells[at])
	}
	if len(x.cells) < 2 {
		return
	}
	slices.SortFunc(x.cells, func(p, q *cell) int {
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

// owners finds the events of a profile in a window. They are listed when somebody asks, which is seldom.
type owners struct {
	last   map[uint32]uint32 // by profile: number of its last event + 1
	before []uint32          // likewise, of the one before
}

func (o *owners) reset() {
	clear(o.last)
	o.before = o.before[:0]
}

// eventsOf calls f for the events of a profile that are to be written.
func (w *window) eventsOf(profile uint32, f func(e *eventRow)) {
	o := &w.owners
	if o.last == nil {
		o.last = map[uint32]uint32{}
	}
	for i := len(o.before); i < len(w.events); i++ {
		o.before = append(o.before, o.last[w.events[i].profile])
		o.last[w.events[i].profile] = uint32(i + 1)
	}
	for n := o.last[profile]; n != 0; n = o.before[n-1] {
		if e := &w.events[n-1]; e.len != gone {
			f(e)
		}
	}
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
	muchEvents  = 250             // more rows, or longer ones: two for each write, or up to as many ids in one
	sketchLimit = 255
)

// much counts events of a series and reports whether there were many lately.
func (k *sketch) much(s *series) bool {
	if s.value&cold != 0 {
		return false
	}
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
	c := &k.counts[(s.hash()>>32)%sketchSize]
	*c = uint8(min(int(*c)+n, sketchLimit))
	return *c >= k.many
}
