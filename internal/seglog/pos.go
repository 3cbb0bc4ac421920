package seglog

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
)

// Pos is a place in a log: a byte offset inside a segment. Later records have
// greater positions. The zero Pos lies before everything.
type Pos struct {
	Seg uint64
	Off int64
}

// PosSize is the length of a Pos in binary form.
const PosSize = 16

// ErrBadPos is returned by ParsePos for anything but PosSize bytes of a possible position.
var ErrBadPos = errors.New("seglog: not a log position")

// Compare returns -1, 0 or +1 as p lies before, at or after q.
func (p Pos) Compare(q Pos) int {
	return cmp.Or(cmp.Compare(p.Seg, q.Seg), cmp.Compare(p.Off, q.Off))
}

// IsZero reports whether p is the place before everything.
func (p Pos) IsZero() bool { return p == Pos{} }

// String prints segment and offset, such as 12:4096.
func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Seg, p.Off) }

// Append appends the binary form of p to b: 16 bytes, big endian, so that it sorts as Compare does.
func (p Pos) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, p.Seg)
	return binary.BigEndian.AppendUint64(b, uint64(p.Off))
}

// ParsePos reads what Append wrote.
func ParsePos(b []byte) (Pos, error) {
	if len(b) != PosSize {
		return Pos{}, ErrBadPos
	}
	p := Pos{Seg: binary.BigEndian.Uint64(b), Off: int64(binary.BigEndian.Uint64(b[8:]))}
	if p.Off < 0 {
		return Pos{}, ErrBadPos
	}
	return p, nil
}

// DataOffset is where the data of the record at p begins in its segment, for ReadAt.
func DataOffset(p Pos) int64 { return p.Off + HeaderSize }
