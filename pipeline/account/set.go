package account

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// maxList is how many ids are kept as a list; more are a bitmap.
const maxList = 256

var errFormat = errors.New("account: not a row")

// The form of a set of ids is its length in bytes, shifted by one for a bit that says whether a bitmap
// follows or the differences of a sorted list.

// appendList appends a set: ids rise.
func appendList(b []byte, ids []uint32) ([]byte, error) {
	if len(ids) > maxList {
		m := roaring.New()
		m.AddMany(ids)
		return appendBitmap(b, m)
	}
	at := len(b)
	b = append(b, 0)
	last := uint32(0)
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id-last))
		last = id
	}
	return prefixed(b, at), nil
}

// prefixed writes the length of the list behind b[at], for which one byte was left.
func prefixed(b []byte, at int) []byte {
	n := uint64(len(b)-at-1) << 1
	if n < 0x80 {
		b[at] = byte(n)
		return b
	}
	var head [binary.MaxVarintLen64]byte
	k := binary.PutUvarint(head[:], n)
	b = append(b, head[1:k]...)
	copy(b[at+k:], b[at+1:])
	copy(b[at:], head[:k])
	return b
}

func appendBitmap(b []byte, m *roaring.Bitmap) ([]byte, error) {
	if n := m.GetCardinality(); n <= maxList {
		var buf [maxList]uint32
		ids := buf[:n]
		m.ManyIterator().NextMany(ids)
		return appendList(b, ids)
	}
	b = binary.AppendUvarint(b, m.GetSerializedSizeInBytes()<<1|1)
	w := sliceWriter{b}
	_, err := m.WriteTo(&w)
	return w.b, err
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// idSet is a set in its form. The zero value is empty.
type idSet struct {
	body   []byte
	bitmap bool
}

// parseSet reads a set and returns what is behind it.
func parseSet(b []byte) (s idSet, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n>>1 > uint64(len(b)-k) {
		return idSet{}, nil, false
	}
	end := k + int(n>>1)
	return idSet{b[k:end:end], n&1 != 0}, b[end:], true
}

// list appends the ids of a list.
func (s idSet) list(ids []uint32) ([]uint32, error) {
	last, first := uint32(0), true
	for b := s.body; len(b) > 0; {
		d, k := binary.Uvarint(b)
		if k <= 0 || d > uint64(^uint32(0)-last) || d == 0 && !first || len(ids) > 4*maxList {
			return nil, errFormat
		}
		last, first = last+uint32(d), false
		ids = append(ids, last)
		b = b[k:]
	}
	return ids, nil
}

// load makes a bitmap that may be changed. It may share the memory of the set.
func (s idSet) load() (*roaring.Bitmap, error) {
	m := roaring.New()
	if s.bitmap {
		if _, err := m.FromBuffer(s.body); err != nil {
			return nil, fmt.Errorf("%w: %w", errFormat, err)
		}
		return m, nil
	}
	var buf [maxList]uint32
	ids, err := s.list(buf[:0])
	m.AddMany(ids)
	return m, err
}

// addTo adds the ids to a bitmap.
func (s idSet) addTo(m *roaring.Bitmap) error {
	if s.bitmap {
		o, err := s.load()
		if err != nil {
			return err
		}
		m.Or(o)
		return nil
	}
	var buf [maxList]uint32
	ids, err := s.list(buf[:0])
	m.AddMany(ids)
	return err
}

// appendUnion appends the union of two sets.
func appendUnion(b []byte, x, y idSet) ([]byte, error) {
	if x.bitmap || y.bitmap {
		if !x.bitmap {
			x, y = y, x
		}
		m, err := x.load()
		if err == nil {
			err = y.addTo(m)
		}
		if err != nil {
			return nil, err
		}
		return appendBitmap(b, m)
	}
	if len(x.body)+len(y.body) <= maxList { // so there are no more ids than a list may have
		return appendShort(b, x.body, y.body)
	}
	var bufX, bufY [maxList]uint32
	xs, err := x.list(bufX[:0])
	if err != nil {
		return nil, err
	}
	ys, err := y.list(bufY[:0])
	if err != nil {
		return nil, err
	}
	if len(xs) == 0 || len(ys) == 0 || xs[len(xs)-1] < ys[0] {
		return appendList(b, append(xs, ys...))
	}
	var both [2 * maxList]uint32
	return appendList(b, mergeLists(both[:0], xs, ys))
}

// appendShort appends the union of two lists as it reads them.
func appendShort(b, x, y []byte) ([]byte, error) {
	at := len(b)
	b = append(b, 0)
	p, q := cursor{rest: x}, cursor{rest: y}
	p.next()
	q.next()
	for last := uint32(0); p.more || q.more; {
		id := p.id
		if !p.more || q.more && q.id < id {
			id = q.id
		}
		b = binary.AppendUvarint(b, uint64(id-last))
		last = id
		if p.more && p.id == id {
			p.next()
		}
		if q.more && q.id == id {
			q.next()
		}
	}
	if p.bad || q.bad {
		return nil, errFormat
	}
	return prefixed(b, at), nil
}

// cursor reads a list one by one.
type cursor struct {
	rest      []byte
	id        uint32
	more, bad bool
	begun     bool
}

func (c *cursor) next() {
	if c.more = len(c.rest) > 0; !c.more {
		return
	}
	d, k := binary.Uvarint(c.rest)
	if k <= 0 || d > uint64(^uint32(0)-c.id) || d == 0 && c.begun {
		c.more, c.bad = false, true
		return
	}
	c.id, c.rest, c.begun = c.id+uint32(d), c.rest[k:], true
}

// mergeLists appends the union of two lists that rise.
func mergeLists(out, x, y []uint32) []uint32 {
	for len(x) > 0 && len(y) > 0 {
		switch {
		case x[0] < y[0]:
			out, x = append(out, x[0]), x[1:]
		case x[0] > y[0]:
			out, y = append(out, y[0]), y[1:]
		default:
			out, x, y = append(out, x[0]), x[1:], y[1:]
		}
	}
	return append(append(out, x...), y...)
}

// union collects ids to count them.
type union struct {
	few  []uint32
	many *roaring.Bitmap
}

func (u *union) add(s idSet) (err error) {
	if s.bitmap && u.many == nil {
		u.many = roaring.New()
	}
	if u.many != nil {
		return s.addTo(u.many)
	}
	if u.few, err = s.list(u.few); err != nil {
		return err
	}
	if len(u.few) > 2*maxList {
		u.few = distinct(u.few)
		if len(u.few) > maxList {
			u.many = roaring.New()
			u.many.AddMany(u.few)
			u.few = nil
		}
	}
	return nil
}

func (u *union) size() int64 {
	u.few = distinct(u.few)
	if u.many == nil {
		return int64(len(u.few))
	}
	u.many.AddMany(u.few)
	u.few = nil
	return int64(u.many.GetCardinality())
}

// distinct sorts ids and drops those that are there twice.
func distinct(ids []uint32) []uint32 {
	if len(ids) > 1 {
		slices.Sort(ids)
		ids = slices.Compact(ids)
	}
	return ids
}
