package check

import (
	"cmp"
	"math/big"
	"math/bits"
	"slices"
)

// metric has the events of one metric: by partition of the log while they are gathered, then those that count.
type metric struct {
	calendar *calendar
	parts    []events
	events   events
}

// uid is a unique id hashed.
type uid [16]byte

// event is one event without its labels.
type event struct {
	who    uint32 // the number of its profile
	moment uint32 // its number in the calendar
	labels uint32 // how many it has
	value  int64
}

// events has events, and the labels of each, one event after the other.
type events struct {
	list   []event
	labels []uint32
	uids   []uid // of list; nil once it is known which events count
}

func (l *events) add(e event, labels []uint32) {
	l.list = append(l.list, e)
	l.labels = append(l.labels, labels...)
}

// each calls f for every event with its labels.
func (l *events) each(f func(i int, e event, labels []uint32)) {
	rest := l.labels
	for i, e := range l.list {
		f(i, e, rest[:e.labels])
		rest = rest[e.labels:]
	}
}

// settle leaves of the events of one profile with the same unique id the first one, in the order of the partitions. became
// is what each profile became.
func (m *metric) settle(became []uint32) {
	type identity struct {
		who uint32
		uid uid
	}
	seen := map[identity]struct{}{}
	for p := range m.parts {
		m.parts[p].each(func(i int, e event, labels []uint32) {
			e.who = became[e.who]
			id := identity{e.who, m.parts[p].uids[i]}
			if _, known := seen[id]; !known {
				seen[id] = struct{}{}
				m.events.add(e, labels)
			}
		})
		m.parts[p] = events{}
	}
	m.parts = nil
}

// line is one count.
type line struct {
	label         uint32
	met           bool // the account level has it
	bucket        int64
	count, unique int64
	sum           Sum
}

// addition is what an event adds to one count.
type addition struct {
	label  uint32
	who    uint32
	bucket int64
	value  int64
}

// compare orders by count, then by profile. Most of the time goes here: cmp.Or would compare all three each time.
func (a addition) compare(b addition) int {
	if a.label != b.label {
		return cmp.Compare(a.label, b.label)
	}
	if a.bucket != b.bucket {
		return cmp.Compare(a.bucket, b.bucket)
	}
	return cmp.Compare(a.who, b.who)
}

// lines counts by intervals of one size. They are in the order of label and bucket.
func (m *metric) lines(interval Interval) []line {
	all := make([]addition, 0, len(m.events.list)+len(m.events.labels))
	m.events.each(func(_ int, e event, labels []uint32) {
		bucket := m.calendar.moments[e.moment][interval]
		all = append(all, addition{0, e.who, bucket, e.value}) // the total
		for _, l := range labels {
			all = append(all, addition{l, e.who, bucket, e.value})
		}
	})
	slices.SortFunc(all, addition.compare)
	var out []line
	for i, a := range all {
		fresh := i == 0 || a.label != all[i-1].label || a.bucket != all[i-1].bucket
		if fresh {
			out = append(out, line{label: a.label, bucket: a.bucket})
		}
		l := &out[len(out)-1]
		l.count++
		l.sum.add(a.value)
		if fresh || a.who != all[i-1].who {
			l.unique++
		}
	}
	return out
}

// Sum is an exact sum of values, in millionths: 128 bits, two's complement.
type Sum struct {
	Hi int64
	Lo uint64
}

func (s *Sum) add(v int64) {
	var carry uint64
	s.Lo, carry = bits.Add64(s.Lo, uint64(v), 0)
	s.Hi += v>>63 + int64(carry)
}

// String is the number of millionths.
func (s Sum) String() string {
	n := new(big.Int).Lsh(big.NewInt(s.Hi), 64)
	return n.Add(n, new(big.Int).SetUint64(s.Lo)).String()
}
