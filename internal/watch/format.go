package watch

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Magic opens every file; its last digit is the version.
const Magic = "GWWATC1\n"

const (
	blockHead = 8       // length and checksum, 4 bytes each
	maxBlock  = 1 << 30 // a longer one is damage
	maxText   = 1024    // longer texts are cut
)

// The kinds of entries.
const (
	kindStart    = 1
	kindSource   = 2
	kindProvider = 3
	kindOpen     = 4
	kindClose    = 5
	kindMail     = 6
	kindBeat     = 7
	kindMark     = 8
	kindEnd      = 9
)

var (
	// ErrTorn: the file ends inside a block. What stands before it is good.
	ErrTorn = errors.New("watch: the last block is incomplete")
	// ErrCorrupt: the file is no watch record of this version, or bytes in it were changed.
	ErrCorrupt = errors.New("watch: corrupt record")
)

func checksum(payload []byte) uint32 {
	return crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))
}

// frame returns the head of a block.
func frame(payload []byte) (head [blockHead]byte) {
	binary.LittleEndian.PutUint32(head[:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(head[4:], checksum(payload))
	return head
}

func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), maxText)]
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
