package customer

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Sizes of pages.
const (
	defaultSize = 20
	maxSize     = 1000
	// defaultLooks bounds the rows of a partition that one page looks at: where a filter passes few of them, pages are
	// shorter than asked for, but have a cursor.
	defaultLooks = 10_000
)

// pageSize is the size that is used for one that was asked for: 20 unless given, 1,000 at most.
func pageSize(n int) int {
	if n <= 0 {
		return defaultSize
	}
	return min(n, maxSize)
}

// question is what a cursor belongs to: the tenant, and what decides the order of the answers.
type question struct {
	tenant fact.TenantID
	kind   byte   // prefix of the rows
	detail string // what else was asked for
	back   bool
}

const cursorVersion = 1

// cursor is the text form of a place in the answers to a question.
func (q question) cursor(place []byte) string {
	if place == nil {
		return ""
	}
	b := binary.BigEndian.AppendUint64([]byte{cursorVersion}, q.sum(place))
	return base64.RawURLEncoding.EncodeToString(append(b, place...))
}

// place reads a cursor; an empty one is the beginning, nil.
func (q question) place(cursor string) ([]byte, error) {
	if cursor == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) < 9 || b[0] != cursorVersion || binary.BigEndian.Uint64(b[1:]) != q.sum(b[9:]) {
		return nil, ErrCursor
	}
	return b[9:], nil
}

func (q question) sum(place []byte) uint64 {
	b := binary.BigEndian.AppendUint64(nil, uint64(q.tenant))
	b = append(b, q.kind, flag(q.back))
	b = appendString(b, q.detail)
	return xxhash.Sum64(append(b, place...))
}

// span is a part of rows that all partitions have: those with a prefix, whose keys behind it are in [from, to). Empty bounds are open.
type span struct {
	prefix   []byte
	from, to []byte
	after    []byte // where the page before this one ended, nil for the first one
	back     bool
}

// bounds are those of a scan.
func (s *span) bounds() (from, to []byte) {
	from = append(slices.Clone(s.prefix), s.from...)
	if to = keyed.After(s.prefix); len(s.to) > 0 {
		to = append(slices.Clone(s.prefix), s.to...)
	}
	switch {
	case s.after == nil:
	case s.back:
		if end := append(slices.Clone(s.prefix), s.after...); bytes.Compare(end, to) < 0 {
			to = end
		}
	default:
		if begin := append(append(slices.Clone(s.prefix), s.after...), 0); bytes.Compare(begin, from) > 0 {
			from = begin
		}
	}
	return from, to
}

// found is a row of an answer.
type found struct {
	at   []byte // its key behind the prefix
	item any    // what keep made of it
}

// keeper makes a row part of an answer, or leaves it out. The key behind the prefix and the value are valid only during the call.
type keeper func(s State, at, value []byte) (item any, ok bool, err error)

// read returns what a partition has, one row more than asked for if there are so many, and the last key looked at if
// there may be more.
func (s *span) read(store State, size, looks int, keep keeper) (rows []found, stopped []byte, err error) {
	from, to := s.bounds()
	if bytes.Compare(from, to) >= 0 {
		return nil, nil, nil
	}
	if store.here == nil {
		return s.readAway(store, size, looks, keep)
	}
	scan := store.Scan
	if s.back {
		scan = store.ScanBack
	}
	looked := 0
	var failed error
	err = scan(from, to, func(k, v []byte) bool {
		at := k[len(s.prefix):]
		item, ok, err := keep(store, at, v)
		if failed = err; err != nil {
			return false
		}
		if ok {
			rows = append(rows, found{bytes.Clone(at), item})
		}
		if looked++; looked >= looks || len(rows) > size {
			stopped = bytes.Clone(at)
			return false
		}
		return true
	})
	return rows, stopped, errors.Join(err, failed)
}

// page puts together what all partitions have, in order, and where the next page begins; nil behind the last.
func (r *Reader) page(s span, size int, keep keeper) (rows []found, next []byte, err error) {
	compare := bytes.Compare
	if s.back {
		compare = func(a, b []byte) int { return bytes.Compare(b, a) }
	}
	stops := make([][]byte, r.partitions)
	if rows, err = r.each(s, size, keep, stops); err != nil {
		return nil, nil, err
	}
	var known []byte // up to here all partitions are known; nil is the end
	for _, stopped := range stops {
		if stopped != nil && (known == nil || compare(stopped, known) < 0) {
			known = stopped
		}
	}
	slices.SortFunc(rows, func(a, b found) int { return compare(a.at, b.at) })
	if known != nil {
		rows = slices.DeleteFunc(rows, func(f found) bool { return compare(f.at, known) > 0 })
	}
	if len(rows) > size {
		return rows[:size], rows[size-1].at, nil
	}
	return rows, known, nil
}
