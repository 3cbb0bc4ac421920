package seglog

import (
	"errors"
	"fmt"
)

var (
	// ErrFailed wraps the cause once a write or sync has failed. The log takes
	// nothing more: after a failed fsync the page cache no longer tells what is
	// on the disk. Reading goes on; appending needs a new Open.
	ErrFailed = errors.New("log has failed and takes no more records; check the disk, then restart")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log is closed")
	// ErrFreed is returned for a position whose segment was freed.
	ErrFreed = errors.New("segment was freed")
	// ErrBadType is returned for record type 255, which the log keeps for itself.
	ErrBadType = errors.New("record type 255 is reserved")
)

// CorruptError tells where a log cannot be read although it should be.
// A torn tail of the last segment is not corruption: what was never
// acknowledged may be missing.
type CorruptError struct {
	Segment uint64
	Offset  int64
	Path    string // of the segment file
	Reason  string
	// Resume is the next place from which Scan can go on: a later valid record
	// of the same segment or the start of the next one. Zero: there is none.
	Resume Pos
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("log segment %s is corrupt at offset %d: %s", e.Path, e.Offset, e.Reason)
}
