package stream

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"
)

// typeBatch is the type that a batch's record has in the segment log.
const typeBatch = 1

// batchHeader is the length of what precedes the runs of a batch.
const batchHeader = 20

var errBadBatch = errors.New("the batch is not well formed")

// header begins a batch: one commit of one or more appends.
type header struct {
	base    int64     // offset of its first entry
	entries int64     // how many offsets it has
	at      time.Time // to the millisecond
}

// end is the offset behind the batch.
func (h header) end() int64 { return h.base + h.entries }

func (h header) appendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(h.base))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.at.UnixMilli()))
	return binary.LittleEndian.AppendUint32(b, uint32(h.entries))
}

// parseBatch splits a batch in header and runs.
func parseBatch(data []byte) (h header, body []byte, err error) {
	if len(data) < batchHeader {
		return h, nil, errBadBatch
	}
	h.base = int64(binary.LittleEndian.Uint64(data))
	h.at = time.UnixMilli(int64(binary.LittleEndian.Uint64(data[8:])))
	h.entries = int64(binary.LittleEndian.Uint32(data[16:]))
	if h.base < 0 || h.entries < 1 || h.end() < h.base {
		return h, nil, errBadBatch
	}
	return h, data[batchHeader:], nil
}

// run is what a batch has in one piece for one partition. An entry is its length plus one and its data;
// a zero instead stands for an entry that was erased: it keeps its offset and is not read.
type run struct {
	partition int32
	entries   int64
	data      []byte
}

// nextRun takes the first run off body.
func nextRun(body []byte) (r run, rest []byte, err error) {
	var v [3]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(body); n <= 0 {
			return r, nil, errBadBatch
		}
		body = body[n:]
	}
	if v[0] >= maxPartitions || v[1] == 0 || v[1] > v[2] || v[2] > uint64(len(body)) {
		return r, nil, errBadBatch
	}
	return run{partition: int32(v[0]), entries: int64(v[1]), data: body[:v[2]:v[2]]}, body[v[2]:], nil
}

// each calls f for every entry of the run whose first one has the offset first; erased ones have nil data.
func (r run) each(first int64, f func(offset int64, data []byte)) error {
	data := r.data
	for i := range r.entries {
		size, n := binary.Uvarint(data)
		if n <= 0 || size > uint64(len(data)-n)+1 {
			return errBadBatch
		}
		data = data[n:]
		if size == 0 {
			f(first+i, nil)
			continue
		}
		f(first+i, data[:size-1:size-1])
		data = data[size-1:]
	}
	if len(data) != 0 {
		return errBadBatch
	}
	return nil
}

// records appends the entries of the run from an offset on.
func (r run) records(recs []Record, first, from int64, at time.Time) ([]Record, error) {
	recs = slices.Grow(recs, int(r.entries))
	err := r.each(first, func(offset int64, data []byte) {
		if data != nil && offset >= from {
			recs = append(recs, Record{Offset: offset, Appended: at, Data: data})
		}
	})
	return recs, err
}

// encoder sorts the messages of one append by partition. It is scratch memory.
type encoder struct {
	at []cursor // by partition
}

// cursor is where the next entry of a partition goes.
type cursor struct {
	entries, bytes int
	index, pos     int
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// encodeRuns returns messages as runs, in fresh memory, and the index of each: what its offset is above that of the
// first entry.
func encodeRuns(msgs []Message, partitions int32) (body []byte, index []int64) {
	if len(msgs) == 1 {
		m := msgs[0]
		size := uvarintLen(len(m.Data)+1) + len(m.Data)
		body = appendRunHeader(make([]byte, 0, size+12), m.Partition, 1, size)
		return append(binary.AppendUvarint(body, uint64(len(m.Data)+1)), m.Data...), []int64{0}
	}
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	body, index = e.layOut(msgs, partitions), make([]int64, len(msgs))
	for i, m := range msgs {
		c := &e.at[m.Partition]
		index[i] = int64(c.index)
		c.index++
		c.pos += binary.PutUvarint(body[c.pos:], uint64(len(m.Data)+1))
		c.pos += copy(body[c.pos:], m.Data)
	}
	return body, index
}

// layOut makes the body with its run headers, and sets each partition's cursor to where its first entry goes.
func (e *encoder) layOut(msgs []Message, partitions int32) []byte {
	e.at = slices.Grow(e.at[:0], int(partitions))[:partitions]
	clear(e.at)
	total := 0
	for _, m := range msgs {
		size := uvarintLen(len(m.Data)+1) + len(m.Data)
		c := &e.at[m.Partition]
		c.entries++
		c.bytes += size
		total += size
	}
	for p, c := range e.at {
		if c.entries > 0 {
			total += uvarintLen(p) + uvarintLen(c.entries) + uvarintLen(c.bytes)
		}
	}
	body, index, pos := make([]byte, total), 0, 0
	for p := range e.at {
		c := &e.at[p]
		if c.entries == 0 {
			continue
		}
		pos = len(appendRunHeader(body[:pos], int32(p), c.entries, c.bytes))
		c.index, c.pos = index, pos
		index += c.entries
		pos += c.bytes
	}
	return body
}

func appendRunHeader(b []byte, partition int32, entries, bytes int) []byte {
	b = binary.AppendUvarint(b, uint64(partition))
	b = binary.AppendUvarint(b, uint64(entries))
	return binary.AppendUvarint(b, uint64(bytes))
}

// uvarintLen is the length of n as a varint.
func uvarintLen(n int) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}
