package records

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The sizes of the file format; see docs/formats/records.md.
const (
	fileMagic     = "GODWTREC"
	formatVersion = 1
	headerSize    = 44
	frameHeader   = 16
	minPayload    = fixedPart + 1 + 1 + 1 + 1 + 1 // node and key have a byte at least
	maxPayload    = fixedPart + 3*binary.MaxVarintLen32 + MaxNode + MaxKey + MaxValue
)

// castagnoli is computed by the CPU's own instruction on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fileHeader is the first thing in the file.
type fileHeader struct {
	generation uint64 // drawn at random for each file; part of every frame's checksum
	clock      uint64 // the store's clock when the file was written
	whole      int64  // size of the file when it got its name: all of that was durable
}

func (h fileHeader) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, fileMagic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, headerSize)
	b = binary.LittleEndian.AppendUint64(b, h.generation)
	b = binary.LittleEndian.AppendUint64(b, h.clock)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.whole))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errNewerFormat = errors.New("its format version is newer than this program reads")

func parseFileHeader(b []byte) (fileHeader, error) {
	if len(b) < headerSize || string(b[:8]) != fileMagic {
		return fileHeader{}, errors.New("it does not begin as a records file")
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return fileHeader{}, errors.New("the checksum of its header is wrong")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return fileHeader{}, fmt.Errorf("%w (%d)", errNewerFormat, v)
	}
	if n := binary.LittleEndian.Uint32(b[12:]); n != headerSize {
		return fileHeader{}, fmt.Errorf("its header has %d bytes, want %d", n, headerSize)
	}
	return fileHeader{
		generation: binary.LittleEndian.Uint64(b[16:]),
		clock:      binary.LittleEndian.Uint64(b[24:]),
		whole:      int64(binary.LittleEndian.Uint64(b[32:])),
	}, nil
}

// appendFrame adds the frame of r to b, to stand at file offset off. The frames of one write form a group, which begins at group.
func appendFrame(b []byte, r *Record, generation uint64, off, group int64) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHeader)...)
	b = r.Append(b)
	frame := b[start:]
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(frame)-frameHeader))
	binary.LittleEndian.PutUint64(frame[8:], uint64(group))
	binary.LittleEndian.PutUint32(frame[0:], frameCRC(frame[4:], generation, off))
	return b
}

// frameCRC covers a frame behind its checksum, its place, and the file's generation:
// stale bytes and misplaced writes are never taken for a frame.
func frameCRC(rest []byte, generation uint64, off int64) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:8], generation)
	binary.LittleEndian.PutUint64(place[8:], uint64(off))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, rest)
}

// parseFrame reads the frame at offset off of the file's content; ok is false unless a valid one stands there.
func parseFrame(data []byte, generation uint64, off int64) (r Record, size, group int64, ok bool) {
	b := data[off:]
	if len(b) < frameHeader+minPayload {
		return r, 0, 0, false
	}
	length := int64(binary.LittleEndian.Uint32(b[4:]))
	group = int64(binary.LittleEndian.Uint64(b[8:]))
	if length < minPayload || length > maxPayload || length > int64(len(b)-frameHeader) || group < headerSize || group > off {
		return r, 0, 0, false
	}
	size = frameHeader + length
	if frameCRC(b[4:size], generation, off) != binary.LittleEndian.Uint32(b) {
		return r, 0, 0, false
	}
	r, rest, err := Decode(b[frameHeader:size])
	return r, size, group, err == nil && len(rest) == 0
}

// gap is a damaged part of a file, from (included) to (excluded).
type gap struct{ from, to int64 }

// scan passes every record of the content to take and returns the damaged parts.
//
// What was acknowledged was durable before the next group was written. So a
// place that cannot be read is damage if it lies in the part that was durable from the start, or if
// a frame of a later group follows; else it is the tail of a write that was never acknowledged.
func scan(data []byte, h fileHeader, take func(Record)) []gap {
	var gaps []gap
	off, end := int64(headerSize), int64(len(data))
	for off < end {
		r, size, _, ok := parseFrame(data, h.generation, off)
		if ok {
			take(r)
			off += size
			continue
		}
		next := resume(data, h.generation, off)
		if next < 0 {
			break
		}
		gaps = append(gaps, gap{off, next})
		off = next
	}
	if off < h.whole {
		gaps = append(gaps, gap{off, max(end, h.whole)})
	}
	return gaps
}

// resume finds the next frame behind off whose group begins after off; -1: there is none.
func resume(data []byte, generation uint64, off int64) int64 {
	for at := off + 1; at < int64(len(data)); at++ {
		if _, _, group, ok := parseFrame(data, generation, at); ok && group > off {
			return at
		}
	}
	return -1
}
