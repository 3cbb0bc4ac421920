package peer

import (
	"encoding/binary"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// The requests. Consumer and partition are in the query.
const (
	pathTable  = "/peer/v1/table"
	pathGet    = "/peer/v1/get"
	pathPage   = "/peer/v1/page"
	pathWait   = "/peer/v1/wait"
	pathAsk    = "/peer/v1/ask"
	pathAnswer = "/peer/v1/answer"
)

// Limits of bodies, in bytes.
const (
	maxRequest = 8 << 20
	maxReply   = 256 << 20
	maxPage    = 4 << 20 // that may be asked for; one row may be longer
)

// Marks in answers.
const (
	absent  = 0
	present = 1
	lastRow = 2 // nothing follows the rows
	moreRow = 3 // there may be others behind them
)

// value writes an answer to get.
func value(v []byte, there bool) []byte {
	if !there {
		return []byte{absent}
	}
	return append([]byte{present}, v...)
}

// parseValue reads it.
func parseValue(b []byte) ([]byte, error) {
	switch {
	case len(b) == 1 && b[0] == absent:
		return nil, keyed.ErrNotFound
	case len(b) > 0 && b[0] == present:
		return b[1:], nil
	}
	return nil, errFormat
}

// bounds writes what page is asked for.
func bounds(from, to []byte) []byte {
	return append(appendBytes(nil, from), to...)
}

func parseBounds(b []byte) (from, to []byte, err error) {
	from, to, ok := cutBytes(b)
	if !ok {
		return nil, nil, errFormat
	}
	return from, to, nil
}

// page writes rows. The mark at its end tells it from one that was cut off.
func page(rows []keyed.Row, more bool) []byte {
	n := 1
	for _, r := range rows {
		n += 1 + 2*binary.MaxVarintLen32 + len(r.Key) + len(r.Value)
	}
	b := make([]byte, 0, n)
	for _, r := range rows {
		b = appendBytes(append(b, present), r.Key)
		b = appendBytes(b, r.Value)
	}
	if more {
		return append(b, moreRow)
	}
	return append(b, lastRow)
}

// parsePage reads it. The rows share its memory.
func parsePage(b []byte) (rows []keyed.Row, more bool, err error) {
	for len(b) > 0 && b[0] == present {
		var r keyed.Row
		var ok, both bool
		if r.Key, b, ok = cutBytes(b[1:]); ok {
			r.Value, b, both = cutBytes(b)
		}
		if !both {
			return nil, false, errFormat
		}
		rows = append(rows, r)
	}
	if len(b) != 1 || b[0] != lastRow && b[0] != moreRow {
		return nil, false, errFormat
	}
	return rows, b[0] == moreRow, nil
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func cutBytes(b []byte) (v, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	end := size + int(n)
	return b[size:end:end], b[end:], true
}
