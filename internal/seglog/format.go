package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// The sizes of the file format; see docs/formats/seglog.md.
const (
	// HeaderSize is the length of a record's header, which precedes its data.
	HeaderSize = 32
	// FirstOffset is where the first record of a segment begins. The header
	// has the first 4 KiB for itself, so no later write touches its page.
	FirstOffset = 4096

	segmentMagic  = "GODWTLOG"
	formatVersion = 1
	segmentHeader = 44 // bytes of the header in use
	sealDataSize  = 16
	sealSize      = HeaderSize + sealDataSize
)

// typeSeal marks the last record of a segment. Types up to 254 belong to the log's user.
const typeSeal = 255

// maxLength is the longest data that a record header can describe.
const maxLength = 1<<32 - 1

// castagnoli is computed by the CPU's own instruction on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segHeader is the first thing in a segment file.
type segHeader struct {
	seq        uint64
	generation uint64 // drawn at random each time the file is prepared
	created    int64  // Unix nanoseconds
}

func (h segHeader) encode() []byte {
	b := make([]byte, 0, FirstOffset)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, FirstOffset)
	b = binary.LittleEndian.AppendUint64(b, h.seq)
	b = binary.LittleEndian.AppendUint64(b, h.generation)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.created))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return b[:FirstOffset]
}

// errNewerFormat: the file was written by a later version of the program.
var errNewerFormat = errors.New("format version is newer than this program reads")

func parseSegHeader(b []byte) (segHeader, error) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic {
		return segHeader{}, errors.New("not a segment file")
	}
	if crc32.Checksum(b[:segmentHeader-4], castagnoli) != binary.LittleEndian.Uint32(b[segmentHeader-4:]) {
		return segHeader{}, errors.New("segment header checksum is wrong")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return segHeader{}, fmt.Errorf("%w (%d)", errNewerFormat, v)
	}
	if first := binary.LittleEndian.Uint32(b[12:]); first != FirstOffset {
		return segHeader{}, fmt.Errorf("first record at %d, want %d", first, FirstOffset)
	}
	return segHeader{
		seq:        binary.LittleEndian.Uint64(b[16:]),
		generation: binary.LittleEndian.Uint64(b[24:]),
		created:    int64(binary.LittleEndian.Uint64(b[32:])),
	}, nil
}

// recHeader precedes a record's data.
//
// The header's checksum also covers the offset at which it stands, so a header
// is valid at one place of one generation of one file only: stale bytes of a
// recycled file, a misplaced write, or a header forged inside a message body
// are never taken for a record.
type recHeader struct {
	dataCRC    uint32
	length     uint32
	typ        uint8
	generation uint64
	// group is the offset at which the commit group of this record begins.
	// All before it was durable before any byte of the group was written,
	// which tells a torn tail from corruption.
	group int64
}

func (h recHeader) encode(b *[HeaderSize]byte, off int64) {
	binary.LittleEndian.PutUint32(b[4:], h.dataCRC)
	binary.LittleEndian.PutUint32(b[8:], h.length)
	b[12], b[13], b[14], b[15] = h.typ, 0, 0, 0
	binary.LittleEndian.PutUint64(b[16:], h.generation)
	binary.LittleEndian.PutUint64(b[24:], uint64(h.group))
	binary.LittleEndian.PutUint32(b[0:], headerCRC(b[4:], off))
}

// parseRecHeader reads the header that stands at off; ok is false unless it is valid there.
func parseRecHeader(b []byte, off int64, generation uint64) (h recHeader, ok bool) {
	if len(b) < HeaderSize || recordGeneration(b) != generation ||
		binary.LittleEndian.Uint32(b) != headerCRC(b[4:HeaderSize], off) {
		return recHeader{}, false
	}
	return recHeader{
		dataCRC:    binary.LittleEndian.Uint32(b[4:]),
		length:     binary.LittleEndian.Uint32(b[8:]),
		typ:        b[12],
		generation: generation,
		group:      int64(binary.LittleEndian.Uint64(b[24:])),
	}, true
}

// recordGeneration is the generation that a record's header names, valid or not.
func recordGeneration(b []byte) uint64 { return binary.LittleEndian.Uint64(b[16:]) }

// headerCRC is the CRC-32C of the header's fields, mixed with the offset at
// which it stands: different below 4 GiB for any two offsets.
func headerCRC(fields []byte, off int64) uint32 {
	const odd = 0x9e3779b1
	return crc32.Checksum(fields, castagnoli) ^ uint32(off)*odd ^ uint32(off>>32)
}

// sealData is the content of a seal record: the next segment and how many records this one holds.
func sealData(next, records uint64) (b [sealDataSize]byte) {
	binary.LittleEndian.PutUint64(b[:], next)
	binary.LittleEndian.PutUint64(b[8:], records)
	return b
}

const (
	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
	manifestName  = "MANIFEST"
)

func segmentName(seq uint64) string { return fmt.Sprintf("%016x%s", seq, segmentSuffix) }

// parseSegmentName returns the sequence number in a segment's file name.
func parseSegmentName(name string) (seq uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 16, 64)
	return seq, err == nil && seq > 0 && segmentName(seq) == name
}
