package keyed

import "bytes"

// Row is a key with its value.
type Row struct{ Key, Value []byte }

// Page returns copies of the first rows of [from, to) in order, or back from the last one: as many as have about so many bytes together, but
// one if there is any. more reports that there are others behind them.
func (s *Store) Page(from, to []byte, back bool, size int) (rows []Row, more bool, err error) {
	have := 0
	err = s.scan(from, to, back, func(key, value []byte) bool {
		if more = have >= size && have > 0; more {
			return false
		}
		both := append(bytes.Clone(key), value...)
		rows = append(rows, Row{both[:len(key):len(key)], both[len(key):]})
		have += len(both)
		return true
	})
	return rows, more, err
}
