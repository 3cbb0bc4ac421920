package customer

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
)

// Every sweepEvery-th offset at most sweepMost profiles are looked at. So it depends on nothing but the records, and keeps up: a
// record makes one profile due at most, but for transfers.
const (
	sweepEvery = 64
	sweepMost  = 64
)

// noDay is a day that never ends.
const noDay = math.MaxUint32

// dueDay is the day in a key of the index of rows to fold.
func dueDay(key []byte) uint32 { return binary.BigEndian.Uint32(key[1:]) }

// sweep folds the rows of profiles whose day has passed.
func (p *processor) sweep() error {
	today := uint32(min(max(dayOf(p.clock), 0), noDay-1))
	var keys []string
	p.due = noDay
	err := p.scan([]byte{prefixDue}, func(k, _ []byte) error {
		if d := dueDay(k); d >= today || len(keys) == sweepMost {
			p.due = d
			return errStop
		}
		keys = append(keys, string(k))
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		var w who
		copy(w[:], k[5:])
		if err := p.fold(w, today); err != nil {
			return err
		}
		if err := p.st.remove([]byte(k)); err != nil {
			return err
		}
	}
	return nil
}

// errStop ends a scan without an error.
var errStop = errors.New("stop")

// scan calls f for all rows with a prefix, those of this commit included, in the order of their keys but for these. What f gets is valid only
// during the call; it may change rows.
func (p *processor) scan(prefix []byte, f func(key, value []byte) error) error {
	fresh := p.st.fresh(prefix)
	all := make([]string, 0, len(fresh))
	for k := range fresh {
		all = append(all, k)
	}
	slices.Sort(all)
	next := func(before []byte) error { // the fresh ones before a key, or all that are left
		for len(all) > 0 && (before == nil || all[0] <= string(before)) {
			k := []byte(all[0])
			all = all[1:]
			v, err := p.st.get(k)
			if err == nil && v != nil {
				err = f(k, v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	var failed error
	err := p.st.tx.Store().Scan(prefix, nil, func(k, v []byte) bool {
		if failed = next(k); failed != nil {
			return false
		}
		if _, mine := fresh[string(k)]; !mine {
			failed = f(k, v)
		}
		return failed == nil
	})
	if err == nil && failed == nil {
		failed = next(nil)
	}
	if failed == errStop { //nolint:errorlint // it is never wrapped
		failed = nil
	}
	return errors.Join(err, failed)
}

// bucket is the events of a profile and metric on one day, folded.
type bucket struct {
	count uint64
	sum   int64 // millionths
	first int64 // milliseconds
	last  int64
}

func (b *bucket) append(to []byte, day int64) []byte {
	to = binary.AppendUvarint(append(to, rowVersion), b.count)
	to = binary.AppendVarint(to, b.sum)
	to = binary.AppendUvarint(to, uint64(b.first-day*dayMillis))
	return binary.AppendUvarint(to, uint64(b.last-b.first))
}

func (b *bucket) parse(from []byte, day int64) error {
	d := decoder{b: from}
	v := d.byte()
	b.count, b.sum = d.uvarint(), d.varint()
	b.first = day*dayMillis + int64(d.uvarint())
	b.last = b.first + int64(d.uvarint())
	if v != rowVersion {
		d.bad = true
	}
	return d.end("count of a day")
}

func (b *bucket) add(o bucket) {
	if b.count == 0 {
		*b = o
		return
	}
	b.count, b.sum = b.count+o.count, b.sum+o.sum
	b.first, b.last = min(b.first, o.first), max(b.last, o.last)
}

// Keys of buckets end with the day, so that they are in its order also before 1970.
func appendDay(b []byte, day int64) []byte { return appendMillis(b, day) }

// fold moves the rows of a profile that are due before today into counts of days.
func (p *processor) fold(w who, today uint32) error {
	sums := map[string]bucket{} // by key
	last := int64(never)
	prefix := append([]byte{prefixEvent}, w[:]...)
	err := p.scan(prefix, func(k, v []byte) error {
		var r row
		if err := r.parse(v); err != nil {
			return err
		}
		if p.dueDay(&r) >= today {
			return nil
		}
		at := append([]byte{prefixBucket}, k[1:rowHead+8]...)
		at = appendDay(at, dayOf(r.time))
		b := sums[string(at)]
		b.add(bucket{count: 1, sum: r.value, first: r.time, last: r.time})
		sums[string(at)] = b
		last = max(last, r.time)
		p.m.folded.Inc()
		return p.st.remove(k)
	})
	if err != nil {
		return err
	}
	for k, b := range sums {
		if err := p.addBucket([]byte(k), b); err != nil {
			return err
		}
	}
	h, s, err := p.head(w)
	if s != nil && last > h.last { // no row tells it any more
		s.head.last = last
		p.touched[w] = s.head
	}
	return err
}

// addBucket adds to the count of a day.
func (p *processor) addBucket(key []byte, b bucket) error {
	day := millisIn(key[len(key)-8:])
	old, err := p.st.get(key)
	if err != nil {
		return err
	}
	var sum bucket
	if old != nil {
		if err := sum.parse(old, day); err != nil {
			return err
		}
	}
	sum.add(b)
	return p.st.set(key, sum.append(nil, day))
}
