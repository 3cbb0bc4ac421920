package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
)

// Scan yields the records from a position on, in order, up to what is durable
// when it gets there. The zero Pos is the oldest record. Data is valid only
// until the next iteration. A position inside a freed segment goes on with the
// first live record after it.
//
// What cannot be read yields a *CorruptError; a loop that goes on after it gets
// the records from its Resume position. Any other error ends the sequence:
// ErrFreed when the segment was freed during the scan, ErrClosed, a read error.
func (l *Log) Scan(from Pos) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		buf := l.buffers.Get().(*[]byte)
		s := scanner{log: l, pos: from, r: segReader{buf: *buf}}
		defer func() {
			if cap(s.r.buf) <= 16*scanBuffer {
				*buf = s.r.buf
				l.buffers.Put(buf)
			}
		}()
		for {
			rec, err := s.next()
			if err == io.EOF || !yield(rec, err) {
				return
			}
			var corrupt *CorruptError
			if err != nil && (!errors.As(err, &corrupt) || corrupt.Resume.IsZero()) {
				return
			} else if err != nil {
				s.pos = corrupt.Resume
			}
		}
	}
}

// scanner is the state of one Scan.
type scanner struct {
	log *Log
	pos Pos
	seg *segment // the one r reads; nil before the first
	r   segReader
}

// next returns the record at pos, or behind it in a later segment; io.EOF when there is none yet.
func (s *scanner) next() (Record, error) {
	for {
		if s.pos.IsZero() {
			s.pos.Seg = s.log.firstSegment()
		}
		seg, next, freed, tail := s.log.find(s.pos.Seg)
		switch {
		case seg == nil && s.pos.Seg > tail.Seg, seg != nil && s.pos.Seg == tail.Seg && s.pos.Off > tail.Off:
			return Record{}, &CorruptError{
				Segment: s.pos.Seg, Offset: s.pos.Off, Path: s.log.path(segmentName(s.pos.Seg)),
				Reason: fmt.Sprintf("the position lies beyond the end of the log, %v", tail),
			}
		case seg == nil && freed && next != nil:
			s.pos = Pos{Seg: s.pos.Seg + 1}
			if s.pos.Seg < s.log.firstSegment() {
				s.pos.Seg = s.log.firstSegment()
			}
			continue
		case seg == nil:
			return Record{}, s.log.lost(s.pos.Seg)
		}
		s.pos.Off = max(s.pos.Off, FirstOffset)
		sealed := s.pos.Seg < tail.Seg
		if !sealed && s.pos.Off >= tail.Off {
			return Record{}, io.EOF
		}
		rec, done, err := s.read(seg, tail, sealed)
		if !done {
			return rec, err
		}
		s.pos = Pos{Seg: s.pos.Seg + 1}
	}
}

// lost is the error for a segment that was neither freed nor found.
func (l *Log) lost(seq uint64) error {
	return &CorruptError{
		Segment: seq, Path: l.path(segmentName(seq)), Reason: "the segment file is missing", Resume: Pos{Seg: seq + 1},
	}
}

// read returns the record at pos in seg; done tells that the segment ends here.
func (s *scanner) read(seg *segment, tail Pos, sealed bool) (rec Record, done bool, err error) {
	f, err := s.log.acquire(seg)
	if err != nil {
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			corrupt.Resume = s.log.after(seg.seq)
		}
		return rec, false, err
	}
	defer seg.release()
	if s.seg != seg {
		s.seg, s.r.base, s.r.n = seg, 0, 0
	}
	s.r.file, s.r.generation, s.r.end = f, seg.generation, tail.Off
	if sealed {
		if s.r.end, err = f.Size(); err != nil {
			return rec, false, err
		}
	}
	h, data, v, err := s.r.next(s.pos.Off)
	switch {
	case err != nil:
		return rec, false, fmt.Errorf("seglog: segment %d at %d: %w", seg.seq, s.pos.Off, err)
	case v == isSeal:
		return rec, true, nil
	case v != isRecord:
		return rec, false, s.damage(seg, v)
	}
	rec = Record{Pos: s.pos, Type: h.typ, Data: data, Next: Pos{Seg: seg.seq, Off: s.pos.Off + HeaderSize + int64(len(data))}}
	s.pos = rec.Next
	return rec, false, nil
}

// damage describes why there is no record at pos where one must be.
func (s *scanner) damage(seg *segment, v verdict) error {
	e := &CorruptError{Segment: seg.seq, Offset: s.pos.Off, Path: seg.path, Resume: s.log.after(seg.seq)}
	switch {
	case v == badData:
		e.Reason = "the record's data is damaged or cut off"
	case s.pos.Off >= s.r.end:
		e.Reason = "the segment was truncated: it ends without its seal"
	default:
		e.Reason = "no valid record header"
	}
	found, ok, _, err := s.r.resync(s.pos.Off+1, -1)
	if err != nil {
		return fmt.Errorf("%w; searching behind it: %w", e, err)
	}
	if ok {
		e.Resume = Pos{Seg: seg.seq, Off: found}
	}
	return e
}

// after is the start of the segment that follows seq; zero when seq is active.
func (l *Log) after(seq uint64) Pos {
	if seq >= l.Tail().Seg {
		return Pos{}
	}
	return Pos{Seg: seq + 1}
}

func (l *Log) firstSegment() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.oldest
}

// Read returns the record at pos, its checksums verified. Data lies in buf
// where it is large enough, else in new memory.
func (l *Log) Read(pos Pos, buf []byte) (Record, error) {
	seg, end, err := l.locate(pos.Seg)
	if err != nil {
		return Record{}, err
	}
	f, err := l.acquire(seg)
	if err != nil {
		return Record{}, err
	}
	defer seg.release()
	corrupt := func(reason string) (Record, error) {
		return Record{}, &CorruptError{Segment: pos.Seg, Offset: pos.Off, Path: seg.path, Reason: reason}
	}
	if pos.Off < FirstOffset || pos.Off+HeaderSize > end {
		return corrupt("no record can be here")
	}
	if cap(buf) < HeaderSize {
		buf = make([]byte, 4<<10)
	}
	buf = buf[:cap(buf)]
	n, err := readUpTo(f, buf[:min(int64(len(buf)), end-pos.Off)], pos.Off)
	if err != nil {
		return Record{}, fmt.Errorf("seglog: segment %d at %d: %w", pos.Seg, pos.Off, err)
	}
	h, ok := parseRecHeader(buf[:n], pos.Off, seg.generation)
	size := HeaderSize + int(h.length)
	switch {
	case !ok:
		return corrupt("no valid record header")
	case h.typ == typeSeal:
		return corrupt("not a record but the segment's seal")
	case pos.Off+int64(size) > end:
		return corrupt("the record's data is cut off")
	case size > len(buf):
		buf = append(make([]byte, 0, size), buf[:n]...)[:size]
	}
	if size > n {
		m, err := readUpTo(f, buf[n:size], pos.Off+int64(n))
		if err != nil {
			return Record{}, fmt.Errorf("seglog: segment %d at %d: %w", pos.Seg, pos.Off, err)
		}
		n += m
	}
	if n < size || crc32.Checksum(buf[HeaderSize:size], castagnoli) != h.dataCRC {
		return corrupt("the record's data is damaged or cut off")
	}
	return Record{Pos: pos, Next: Pos{Seg: pos.Seg, Off: pos.Off + int64(size)}, Type: h.typ, Data: buf[HeaderSize:size]}, nil
}

// ReadAt reads len(p) raw bytes of a segment, without verification: parts of a
// record's data, from DataOffset on. At the durable end of the segment it
// returns what there is, with io.EOF.
func (l *Log) ReadAt(p []byte, seg uint64, off int64) (int, error) {
	s, end, err := l.locate(seg)
	if err != nil {
		return 0, err
	}
	f, err := l.acquire(s)
	if err != nil {
		return 0, err
	}
	defer s.release()
	if off < 0 || off >= end {
		return 0, io.EOF
	}
	short := int64(len(p)) > end-off
	if short {
		p = p[:end-off]
	}
	n, err := f.ReadAt(p, off)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// locate returns a live segment and the end of what may be read of it.
func (l *Log) locate(seq uint64) (*segment, int64, error) {
	s, _, freed, _ := l.find(seq)
	if s == nil && freed {
		return nil, 0, fmt.Errorf("seglog: segment %d: %w", seq, ErrFreed)
	}
	if s == nil {
		return nil, 0, l.lost(seq)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if seq == l.tail.Seg {
		return s, l.tail.Off, nil
	}
	return s, s.used, nil
}

// readUpTo is ReadAt to which the end of the file is no error.
func readUpTo(f io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}
