package customer

import (
	"bytes"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// State is what is committed of a partition: in this process, or at another node.
type State struct {
	here *keyed.Store // nil: it is elsewhere
	away Away
}

// Away reads a partition's state at another node. Errors that pass wrap keyed.ErrClosed.
type Away interface {
	// Get returns a value, or keyed.ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Page returns the first rows of [from, to) in order, or back from the last one: about so many bytes, but
	// one row if there is any. more: there may be others behind them.
	Page(from, to []byte, back bool, bytes int) (rows []keyed.Row, more bool, err error)
}

// Here is a state in this process.
func Here(s *keyed.Store) State { return State{here: s} }

// Elsewhere is a state at another node.
func Elsewhere(a Away) State { return State{away: a} }

// Get returns a copy of a value, or keyed.ErrNotFound.
func (s State) Get(key []byte) ([]byte, error) {
	if s.here != nil {
		return s.here.Get(key)
	}
	return s.away.Get(key)
}

// Scan is keyed.Store.Scan. Elsewhere it sees what is committed when each page is read.
func (s State) Scan(from, to []byte, f func(key, value []byte) bool) error {
	if s.here != nil {
		return s.here.Scan(from, to, f)
	}
	return s.pages(from, to, false, f)
}

// ScanBack is Scan from the last key to the first.
func (s State) ScanBack(from, to []byte, f func(key, value []byte) bool) error {
	if s.here != nil {
		return s.here.ScanBack(from, to, f)
	}
	return s.pages(from, to, true, f)
}

// Sizes of pages: most questions need little, and who goes on needs much.
const (
	firstPage = 16 << 10
	mostPage  = 512 << 10
)

// pages reads page after page.
func (s State) pages(from, to []byte, back bool, f func(key, value []byte) bool) error {
	if to == nil {
		to = keyed.After(from)
	}
	for size := firstPage; ; size = min(4*size, mostPage) {
		rows, more, err := s.away.Page(from, to, back, size)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if !f(r.Key, r.Value) {
				return nil
			}
		}
		if !more || len(rows) == 0 {
			return nil
		}
		from, to = behind(rows, from, to, back)
	}
}

// behind are the bounds of what follows a page.
func behind(rows []keyed.Row, from, to []byte, back bool) ([]byte, []byte) {
	last := rows[len(rows)-1].Key
	if back {
		return from, last
	}
	return append(bytes.Clone(last), 0), to
}

// each reads all partitions, those elsewhere at once. What each stopped at is left in stops.
func (r *Reader) each(s span, size int, keep keeper, stops [][]byte) (rows []found, err error) {
	var away errgroup.Group
	others := make([][]found, r.partitions)
	for p := range r.partitions {
		store, e := r.store(p)
		if err = e; err != nil {
			break
		}
		if store.here == nil {
			away.Go(func() (err error) {
				others[p], stops[p], err = s.read(store, size, r.looks, keep)
				return err
			})
			continue
		}
		var some []found
		if some, stops[p], err = s.read(store, size, r.looks, keep); err != nil {
			break
		}
		rows = append(rows, some...)
	}
	if e := away.Wait(); err == nil {
		err = e
	}
	for _, some := range others {
		rows = append(rows, some...)
	}
	return rows, err
}

// readAtOnce is how many profiles are read at the same time where they may be elsewhere: each takes some round trips.
const readAtOnce = 16

// readAway is read of a partition elsewhere.
func (s *span) readAway(store State, size, looks int, keep keeper) (rows []found, stopped []byte, err error) {
	from, to := s.bounds()
	for most, looked := firstPage, 0; ; most = min(4*most, mostPage) {
		page, more, err := store.away.Page(from, to, s.back, most)
		if err != nil {
			return nil, nil, err
		}
		for left := page; len(left) > 0; {
			n := min(len(left), size+1-len(rows), looks-looked)
			kept, err := s.keep(store, left[:n], keep)
			if err != nil {
				return nil, nil, err
			}
			rows, looked = append(rows, kept...), looked+n
			if looked >= looks || len(rows) > size {
				return rows, left[n-1].Key[len(s.prefix):], nil
			}
			left = left[n:]
		}
		if !more || len(page) == 0 {
			return rows, nil, nil
		}
		from, to = behind(page, from, to, s.back)
	}
}

// keep looks at rows, and returns those that are kept in their order.
func (s *span) keep(store State, rows []keyed.Row, keep keeper) (out []found, err error) {
	items := make([]any, len(rows))
	kept := make([]bool, len(rows))
	var all errgroup.Group
	all.SetLimit(readAtOnce)
	for i, r := range rows {
		all.Go(func() (err error) {
			items[i], kept[i], err = keep(store, r.Key[len(s.prefix):], r.Value)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	for i, r := range rows {
		if kept[i] {
			out = append(out, found{r.Key[len(s.prefix):], items[i]})
		}
	}
	return out, nil
}
