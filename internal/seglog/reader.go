package seglog

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// Record is one entry of the log.
type Record struct {
	Pos  Pos
	Next Pos // where the following record begins
	Type uint8
	Data []byte
}

// verdict is what a segReader finds at a place.
type verdict uint8

const (
	isRecord verdict = iota
	isSeal
	noRecord // no valid header here
	badData  // a valid header, but its data is cut off or damaged
)

const scanBuffer = 64 << 10

// segReader walks through the records of one segment. It knows no log, so that
// any bytes can be fed to it.
type segReader struct {
	file       io.ReaderAt
	generation uint64
	end        int64 // reads nothing at or beyond it

	buf  []byte
	base int64 // offset of buf[0]
	n    int   // valid bytes in buf
}

// bytes returns up to want bytes at off: fewer at the end only. They are valid until the next call.
func (r *segReader) bytes(off int64, want int) ([]byte, error) {
	if rest := r.end - off; int64(want) > rest {
		want = int(max(rest, 0))
	}
	if off >= r.base && off+int64(want) <= r.base+int64(r.n) {
		return r.buf[off-r.base:][:want], nil
	}
	old := r.buf
	if cap(r.buf) < want {
		r.buf = make([]byte, want+want/4)
	}
	r.buf = r.buf[:cap(r.buf)]
	kept := 0
	if off >= r.base && off < r.base+int64(r.n) {
		kept = copy(r.buf, old[off-r.base:r.n])
	}
	r.base, r.n = off, kept
	for r.n < want {
		room := min(int64(len(r.buf)-r.n), r.end-off-int64(r.n))
		n, err := r.file.ReadAt(r.buf[r.n:][:room], off+int64(r.n))
		r.n += n
		if err == io.EOF {
			r.end = min(r.end, off+int64(r.n)) // the file is shorter than promised
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return r.buf[:min(want, r.n)], nil
}

// next reads the record at off. Data is valid until the next call. The error is for failed reads only.
func (r *segReader) next(off int64) (h recHeader, data []byte, v verdict, err error) {
	b, err := r.bytes(off, HeaderSize)
	if err != nil {
		return h, nil, noRecord, err
	}
	h, ok := parseRecHeader(b, off, r.generation)
	if !ok {
		return h, nil, noRecord, nil
	}
	if int64(h.length) > r.end-off-HeaderSize {
		return h, nil, badData, nil
	}
	b, err = r.bytes(off, HeaderSize+int(h.length))
	if err != nil {
		return h, nil, noRecord, err
	}
	if len(b) < HeaderSize+int(h.length) {
		return h, nil, badData, nil
	}
	data = b[HeaderSize:]
	if crc32.Checksum(data, castagnoli) != h.dataCRC {
		return h, nil, badData, nil
	}
	if h.typ == typeSeal {
		return h, data, isSeal, nil
	}
	return h, data, isRecord, nil
}

// resync looks behind off for the next place with a valid header whose group
// began after group. dirty tells that something of this generation was seen at
// all, valid or not: then bytes of a torn group follow.
func (r *segReader) resync(off, group int64) (found int64, ok, dirty bool, err error) {
	var want [8]byte
	binary.LittleEndian.PutUint64(want[:], r.generation)
	const inHeader = 16 // where a header holds its generation
	for {
		b, err := r.bytes(off, scanBuffer)
		if err != nil || len(b) < HeaderSize {
			return 0, false, dirty, err
		}
		i := bytes.Index(b[inHeader:], want[:])
		switch {
		case i < 0:
			if len(b) < scanBuffer {
				return 0, false, dirty, nil
			}
			off += int64(len(b) - HeaderSize + 1)
			continue
		case i+HeaderSize > len(b):
			dirty = true
			if len(b) < scanBuffer {
				return 0, false, dirty, nil // cut off by the end
			}
			off += int64(i) // read on from there
			continue
		}
		dirty = true
		if h, valid := parseRecHeader(b[i:], off+int64(i), r.generation); valid && h.group > group {
			return off + int64(i), true, dirty, nil
		}
		off += int64(i) + 1
	}
}
