// Package seglog is an append-only log in segment files: checksummed, durable
// at return, group-committed. Message bodies, the event log and whatever else
// must survive a power cut are kept in one.
//
// How an append goes: the caller's goroutine checksums its data and queues a
// request. One committer goroutine takes all that is queued, gives each record
// its place, writes the group with one pwritev and one fdatasync, and wakes the
// callers. While it syncs, the next group gathers by itself; there is no delay,
// so a lone caller pays one fdatasync and a hundred callers share it.
//
// How a segment lives: it is prepared ahead of need (its blocks written, its
// header and name durable) as a spare; it becomes the active one when its
// predecessor is full and has been sealed; it is read; its user frees it; its
// file is prepared again as a spare under a new number and a new random
// generation, or deleted.
//
//	spare ──roll──> active ──seal──> sealed ──Free──> freed ──recycle──> spare
//
// What makes recovery exact: a record is valid only with its file's generation,
// at its own offset. A group is written only when all before it is durable, and
// each record names where its group began. So at Open an invalid record followed
// by a valid one of the same group is a torn tail, which was never acknowledged
// and is cut off; one followed by a later group had been acknowledged, and is
// reported as corruption. A segment without its seal that is not the last one has been
// truncated. The file format is in docs/formats/seglog.md.
//
// Lock order: Log.prep, then Log.mu, then segment.mu. Log.qmu and chores.mu come last.
package seglog

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are what a configuration file can set.
type Options struct {
	SegmentBytes units.Size `toml:"segment_size" doc:"Size in bytes of one segment file; a segment is the unit in which space is given back."`
	Spares       int        `toml:"spares" doc:"Number of segments kept written in advance, so that appending never waits for the filesystem to find blocks; 0 for none."`
	MaxRecord    units.Size `toml:"max_record" doc:"Largest record in bytes; one that exceeds a segment gets a segment of its own."`
}

// DefaultOptions returns 64 MiB segments, 2 spares, records up to 256 MiB.
func DefaultOptions() Options {
	return Options{SegmentBytes: 64 << 20, Spares: 2, MaxRecord: 256 << 20}
}

// withDefaults fills what is zero.
func (o Options) withDefaults() Options {
	d := DefaultOptions()
	if o.SegmentBytes == 0 {
		o.SegmentBytes = d.SegmentBytes
	}
	if o.MaxRecord == 0 {
		o.MaxRecord = d.MaxRecord
	}
	return o
}

// Validate returns an error that begins with the key at fault.
func (o Options) Validate() error {
	switch {
	case o.SegmentBytes < 2*FirstOffset || o.SegmentBytes > 1<<40:
		return fmt.Errorf("segment_size: must be between %d bytes and 1TiB", 2*FirstOffset)
	case o.Spares < 0 || o.Spares > 64:
		return errors.New("spares: must be between 0 and 64")
	case o.MaxRecord < 1 || o.MaxRecord > maxLength:
		return errors.New("max_record: must be between 1 byte and 4GiB - 1")
	}
	return nil
}

// Deps are what a Log works with.
type Deps struct {
	FS         faultfs.FS            // nil: the machine's
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
	Name       string                // value of the metrics' log label, and in log lines
}

// Log is one log in one folder. Its methods are safe for concurrent use.
type Log struct {
	dir     string
	o       Options
	fs      faultfs.FS
	log     *slog.Logger
	metrics *metrics
	count   counters

	requests sync.Pool // of *request
	buffers  sync.Pool // of *[]byte, for scanning

	qmu    sync.Mutex
	queue  []*request
	closed bool
	fail   error
	wake   chan struct{} // the committer has work

	mu        sync.RWMutex
	segs      []*segment // by sequence number: sealed ones, then the active one
	freed     map[uint64]bool
	oldest    uint64 // segments below it were freed
	tail      Pos
	openFiles atomic.Int64

	commitState // belongs to the committer

	prep    sync.Mutex
	spares  []*segment
	nextSeq uint64

	chores chores
	stop   chan struct{}
	wg     sync.WaitGroup
}

// counters are the numbers behind Stats and the metrics.
type counters struct {
	records, bytes, commits, syncs, inline atomic.Uint64
}

// Stats counts what was appended since Open.
type Stats struct {
	Records uint64 // acknowledged
	Bytes   uint64 // their data, without headers
	Commits uint64 // groups
	Syncs   uint64 // fdatasync calls on segments for groups and seals
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	return Stats{
		Records: l.count.records.Load(), Bytes: l.count.bytes.Load(),
		Commits: l.count.commits.Load(), Syncs: l.count.syncs.Load(),
	}
}

// SegmentInfo describes a segment that holds, or will hold, records.
type SegmentInfo struct {
	Seq     uint64
	Bytes   int64 // file bytes in use, headers included
	Sealed  bool
	ModTime time.Time // when it was last written to; zero for the active segment until it is sealed
}

// Segments lists the live segments, oldest first; the last one is active.
func (l *Log) Segments() []SegmentInfo {
	l.mu.RLock()
	defer l.mu.RUnlock()
	infos := make([]SegmentInfo, 0, len(l.segs))
	for i, s := range l.segs {
		info := SegmentInfo{Seq: s.seq, Bytes: s.used, Sealed: i < len(l.segs)-1, ModTime: s.modified}
		if !info.Sealed {
			info.Bytes = l.tail.Off
		}
		infos = append(infos, info)
	}
	return infos
}

// Tail is where the next record will go, at the earliest: all before it is durable.
func (l *Log) Tail() Pos {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.tail
}

// Close takes no more records, finishes those queued, and closes the files. A second call does nothing.
func (l *Log) Close() error {
	l.qmu.Lock()
	already := l.closed
	l.closed = true
	l.qmu.Unlock()
	if already {
		return nil
	}
	close(l.stop)
	l.wg.Wait()
	l.metrics.set.Unregister()
	return l.closeFiles()
}

// closeFiles closes every open segment.
func (l *Log) closeFiles() error {
	l.prep.Lock()
	defer l.prep.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, s := range append(l.segs[:len(l.segs):len(l.segs)], l.spares...) {
		_, err := s.close(ErrClosed)
		errs = append(errs, err)
	}
	l.spares = nil
	return errors.Join(errs...)
}

// failure returns the error that ended appending, nil while it goes on.
func (l *Log) failure() error {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	return l.fail
}

// poison ends appending for good.
func (l *Log) poison(op string, cause error) error {
	err := fmt.Errorf("%w: %s: %w", ErrFailed, op, cause)
	l.qmu.Lock()
	if l.fail == nil {
		l.fail = err
	}
	l.qmu.Unlock()
	l.log.Error("log failed and takes no more records", "operation", op, "error", cause)
	return err
}
