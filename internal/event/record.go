package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/klauspost/compress/s2"
)

// recordType is the seglog type of the event log's records.
const recordType = 1

// recordVersion is the first byte of a record; docs/formats/event-log.md has the layout.
const recordVersion = 1

// maxLines bounds the uncompressed JSON of one record, against a damaged length.
const maxLines = 1 << 30

var errBadRecord = errors.New("event: record cannot be read")

// entryRef is what a record tells of an event without its JSON.
type entryRef struct {
	message    mail.ID
	kind       byte
	start, end int // of its line in the JSON block, line end included
}

// codec holds the buffers of encoding one record; codecs are pooled.
type codec struct {
	head  []byte // version, lengths and directory
	lines []byte
	block []byte // lines, compressed
}

type codecPool struct{ pool sync.Pool }

func (p *codecPool) get() *codec {
	if c, ok := p.pool.Get().(*codec); ok {
		return c
	}
	return new(codec)
}

// put keeps buffers of ordinary size.
func (p *codecPool) put(c *codec) {
	if cap(c.lines) <= 1<<20 {
		p.pool.Put(c)
	}
}

// encode fills head and block from the events and the length of the changes.
func (c *codec) encode(changes int, events []Event) {
	c.lines = c.lines[:0]
	var newest int64
	for i := range events {
		newest = max(newest, events[i].Time.UnixNano())
	}
	c.head = append(c.head[:0], recordVersion)
	c.head = binary.LittleEndian.AppendUint64(c.head, uint64(newest))
	c.head = binary.AppendUvarint(c.head, uint64(changes))
	c.head = binary.AppendUvarint(c.head, uint64(len(events)))
	for i := range events {
		start := len(c.lines)
		c.lines = append(AppendJSON(c.lines, &events[i]), '\n')
		c.head = append(c.head, events[i].Message[:]...)
		c.head = append(c.head, kindCode(events[i].Kind))
		c.head = binary.AppendUvarint(c.head, uint64(len(c.lines)-start))
	}
	c.block = c.block[:0]
	if len(c.lines) > 0 {
		if need := s2.MaxEncodedLen(len(c.lines)); cap(c.block) < need {
			c.block = make([]byte, need)
		}
		c.block = s2.Encode(c.block[:cap(c.block)], c.lines)
	}
	c.head = binary.AppendUvarint(c.head, uint64(len(c.block)))
}

// record is a decoded record. Its slices lie in the record's data.
type record struct {
	newest  int64 // Unix nanoseconds of the latest event
	events  int
	dir     []byte
	changes []byte
	block   []byte
	size    int // bytes of the JSON block, uncompressed
}

// parseRecord takes a record apart without touching the JSON.
func parseRecord(data []byte) (r record, err error) {
	if len(data) < 9 || data[0] != recordVersion {
		return r, fmt.Errorf("%w: unknown version", errBadRecord)
	}
	r.newest = int64(binary.LittleEndian.Uint64(data[1:]))
	in := reader{b: data[9:]}
	changes, events := in.uvarint(), in.uvarint()
	if in.bad || events > uint64(len(in.b))/18 {
		return r, errBadRecord
	}
	r.events = int(events)
	before := in.b
	for range r.events {
		in.take(17)
		size := in.uvarint()
		if size > maxLines || r.size > maxLines {
			return r, errBadRecord
		}
		r.size += int(size)
	}
	r.dir = before[:len(before)-len(in.b)]
	block := in.uvarint()
	r.changes = in.take(changes)
	r.block = in.take(block)
	if in.bad || len(in.b) != 0 {
		return r, errBadRecord
	}
	return r, nil
}

// each calls f for every event of the record.
func (r *record) each(f func(entryRef)) {
	in, at := reader{b: r.dir}, 0
	for range r.events {
		var e entryRef
		copy(e.message[:], in.take(16))
		e.kind = in.take(1)[0]
		e.start = at
		at += int(in.uvarint())
		e.end = at
		f(e)
	}
}

// lines appends the JSON lines to buf, uncompressed.
func (r *record) lines(buf []byte) ([]byte, error) {
	if r.size == 0 {
		return buf, nil
	}
	n, err := s2.DecodedLen(r.block)
	if err != nil || n != r.size {
		return nil, errBadRecord
	}
	start := len(buf)
	if cap(buf)-start < n {
		buf = append(make([]byte, 0, (start+n)*5/4), buf...)
	}
	out, err := s2.Decode(buf[start:start+n:start+n], r.block)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadRecord, err)
	}
	if len(out) != n {
		return nil, errBadRecord
	}
	return buf[:start+n], nil
}

// reader takes fields off the front of a byte slice and remembers when one was cut off.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad = true
		return make([]byte, min(n, 16))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// kindCode is the byte that stands for a kind in a record's directory; 0 is a kind that has none.
func kindCode(k Kind) byte {
	switch k {
	case Injected:
		return 1
	case Delivered:
		return 2
	case Deferred:
		return 3
	case Bounced:
		return 4
	case Expired:
		return 5
	case Suspended:
		return 6
	case Resumed:
		return 7
	case Gap:
		return 8
	case Moved:
		return 9
	case Throttled:
		return 10
	}
	return 0
}
