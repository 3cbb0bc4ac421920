package records

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Bounds of a record. Records are orders and notes, not data.
const (
	MaxKey   = 512       // bytes
	MaxNode  = 128       // bytes
	MaxValue = 64 * 1024 // bytes
)

// Version orders the writes of a key over all nodes: by time, then by node.
type Version struct {
	// Time is a hybrid logical clock: Unix milliseconds in the upper 48 bits and a
	// counter below. It is never behind a version that the writer had seen, whatever the
	// clocks of the machines say.
	Time uint64
	Node string // that wrote it
}

// Compare returns -1, 0 or 1.
func (v Version) Compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Time, o.Time), cmp.Compare(v.Node, o.Node))
}

// Wall is when the write was made by the clock of its node, to the millisecond; later
// where a clock had been ahead.
func (v Version) Wall() time.Time { return time.UnixMilli(int64(v.Time >> counterBits)) }

const counterBits = 16

// Record is one key's last write. Value must not be changed.
type Record struct {
	Key     string
	Value   []byte
	Version Version
	// Expires is when the record ends by itself, to the millisecond; zero: never.
	Expires time.Time
	// Deleted marks a tombstone: the record of a deletion. Subscribers also get it of a record that expired.
	Deleted bool
}

// live reports whether the record is in force.
func (r *Record) live(now time.Time) bool {
	return !r.Deleted && (r.Expires.IsZero() || now.Before(r.Expires))
}

// collectable reports whether the record is out of force, and was written so long ago that
// no node need remember it: every node that was not away for longer than keep has seen it.
// Until then it hides older records of its key, be it a tombstone or expired.
func (r *Record) collectable(now time.Time, keep time.Duration) bool {
	return !r.live(now) && now.Sub(r.Version.Wall()) > keep
}

// supersedes reports whether r wins over o. Beyond the version the order is arbitrary but
// total: a node that lost its disk and its clock may have used a version twice,
// and even then all nodes choose alike.
func (r *Record) supersedes(o *Record) bool {
	c := r.Version.Compare(o.Version)
	if c == 0 && r.Deleted != o.Deleted {
		return r.Deleted
	}
	if c == 0 {
		c = cmp.Compare(milli(r.Expires), milli(o.Expires))
	}
	if c == 0 {
		c = bytes.Compare(r.Value, o.Value)
	}
	return c > 0
}

// milli is the encoded form of an expiry.
func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// check returns what is wrong with a record that came from outside.
func (r *Record) check() error {
	switch {
	case r.Key == "" || len(r.Key) > MaxKey:
		return fmt.Errorf("key has %d bytes, want 1 to %d", len(r.Key), MaxKey)
	case r.Version.Node == "" || len(r.Version.Node) > MaxNode:
		return fmt.Errorf("node name has %d bytes, want 1 to %d", len(r.Version.Node), MaxNode)
	case len(r.Value) > MaxValue:
		return fmt.Errorf("value has %d bytes, at most %d are allowed", len(r.Value), MaxValue)
	}
	return nil
}

// flagDeleted is the only flag of format 1; others are not valid.
const flagDeleted = 1

// ErrBadRecord wraps every error of Decode.
var ErrBadRecord = errors.New("records: not a record")

// Append adds the binary form of r to b; see docs/formats/records.md.
func (r *Record) Append(b []byte) []byte {
	flags := byte(0)
	if r.Deleted {
		flags = flagDeleted
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint64(b, r.Version.Time)
	b = binary.LittleEndian.AppendUint64(b, uint64(milli(r.Expires)))
	b = appendText(b, r.Version.Node)
	b = appendText(b, r.Key)
	return appendText(b, r.Value)
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

const fixedPart = 1 + 8 + 8

// Decode reads one record from the front of b and returns the rest. The record shares no memory with b.
func Decode(b []byte) (r Record, rest []byte, err error) {
	if len(b) < fixedPart || b[0]&^flagDeleted != 0 {
		return r, nil, ErrBadRecord
	}
	r.Deleted = b[0] == flagDeleted
	r.Version.Time = binary.LittleEndian.Uint64(b[1:])
	expires := int64(binary.LittleEndian.Uint64(b[9:]))
	if expires < 0 || expires > maxMilli {
		return r, nil, ErrBadRecord
	}
	if expires != 0 {
		r.Expires = time.UnixMilli(expires)
	}
	rest = b[fixedPart:]
	var node, key, value []byte
	for _, field := range []struct {
		to  *[]byte
		max uint64
	}{{&node, MaxNode}, {&key, MaxKey}, {&value, MaxValue}} {
		n, used := binary.Uvarint(rest)
		if used <= 0 || n > field.max || n > uint64(len(rest)-used) {
			return r, nil, ErrBadRecord
		}
		*field.to, rest = rest[used:used+int(n)], rest[used+int(n):]
	}
	r.Version.Node, r.Key, r.Value = string(node), string(key), bytes.Clone(value)
	if err := r.check(); err != nil {
		return r, nil, fmt.Errorf("%w: %w", ErrBadRecord, err)
	}
	return r, rest, nil
}

// maxMilli is what fits the upper bits of a Version.Time.
const maxMilli = 1<<(64-counterBits) - 1
