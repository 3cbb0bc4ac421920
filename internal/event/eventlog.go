package event

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/prometheus/client_golang/prometheus"
)

// LogOptions are what a configuration file can set.
type LogOptions struct {
	Keep        units.Duration `toml:"keep" doc:"How long events stay readable: for questions about a message and for sinks that lag behind. Events that a sink has not read are kept longer, up to max_size."`
	MaxSize     units.Size     `toml:"max_size" doc:"Largest size in bytes of the event log; beyond it the oldest events go, read or not. Events that the queue needs for recovery never go."`
	SegmentSize units.Size     `toml:"segment_size" doc:"Size in bytes of one file of the log; old events go a file at a time."`
}

// DefaultLogOptions returns 7 days, 10 GiB, 32 MiB.
func DefaultLogOptions() LogOptions {
	return LogOptions{Keep: units.Duration(7 * 24 * time.Hour), MaxSize: 10 << 30, SegmentSize: 32 << 20}
}

// Validate returns an error that begins with the key at fault.
func (o LogOptions) Validate() error {
	switch {
	case o.Keep <= 0:
		return errors.New("keep: must be positive")
	case o.SegmentSize < 16<<10 || o.SegmentSize > 1<<30:
		return errors.New("segment_size: must be between 16KiB and 1GiB")
	case o.MaxSize < 4*o.SegmentSize:
		return errors.New("max_size: must be at least four times segment_size")
	}
	return nil
}

// LogDeps are what a Log works with.
type LogDeps struct {
	FS         faultfs.FS            // nil: the machine's
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

const (
	readOnly  = os.O_RDONLY
	filePerm  = 0o640
	cursorDir = "cursors"

	// maxRecord bounds one record: segment offsets in the index have 32 bits.
	maxRecord = 512 << 20
)

// Log is the durable event log. It is also where the queue keeps its state
// changes: one record holds both, so they are durable together or not at all.
// Its methods are safe for concurrent use.
//
// Lock order: Log.mu, then Cursor.mu. retainMu comes before both.
type Log struct {
	dir     string
	o       LogOptions
	fs      faultfs.FS
	log     *slog.Logger
	records *seglog.Log
	codecs  codecPool
	metrics *logMetrics

	mu       sync.Mutex
	tables   map[uint64]*table   // segments without a sidecar
	sidecars map[uint64]*sidecar // sealed segments
	active   uint64              // the newest segment with a table
	cursors  map[string]*Cursor
	hold     seglog.Pos
	changed  chan struct{} // closed at the next append; nil when no one waits

	retainMu sync.Mutex // one retention run at a time

	chore  chan struct{} // there is a segment to index
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// OpenLog opens the event log in dir, making it where there is none. Nothing
// is ever removed before the first Hold: until then the log does not know what the queue needs.
func OpenLog(dir string, o LogOptions, d LogDeps) (*Log, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	if d.FS == nil {
		d.FS = faultfs.OS{}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	so := seglog.DefaultOptions()
	so.SegmentBytes, so.MaxRecord = o.SegmentSize, maxRecord
	records, err := seglog.Open(dir, so, seglog.Deps{FS: d.FS, Logger: d.Logger, Registerer: d.Registerer, Name: "events"})
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	l := &Log{
		dir: dir, o: o, fs: d.FS, log: d.Logger, records: records,
		tables: map[uint64]*table{}, sidecars: map[uint64]*sidecar{}, cursors: map[string]*Cursor{},
		chore: make(chan struct{}, 1),
	}
	if err := l.load(d.Registerer); err != nil {
		return nil, errors.Join(fmt.Errorf("event log: %w", err), records.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.wg.Add(1)
	go l.maintain(ctx)
	l.nudge()
	return l, nil
}

// load brings the indexes and cursors into memory.
func (l *Log) load(reg prometheus.Registerer) error {
	if err := l.fs.MkdirAll(filepath.Join(l.dir, cursorDir), 0o750); err != nil {
		return err
	}
	if err := l.loadIndex(); err != nil {
		return err
	}
	if err := l.loadCursors(); err != nil {
		return err
	}
	var err error
	l.metrics, err = newLogMetrics(l, reg)
	return err
}

// Append makes changes (opaque to the log) and events durable in one record and
// returns its place. Errors are those of seglog.Log.Append, mail.ErrDiskFull
// among them.
func (l *Log) Append(ctx context.Context, changes []byte, events []Event) (seglog.Pos, error) {
	c := l.codecs.get()
	defer l.codecs.put(c)
	c.encode(len(changes), events)
	pos, err := l.records.Append(ctx, recordType, c.head, changes, c.block)
	if err != nil {
		return pos, err
	}
	l.metrics.count(events)
	l.mu.Lock()
	l.register(pos, events)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	l.mu.Unlock()
	return pos, nil
}

// register enters a record into the table of its segment. Log.mu is held.
func (l *Log) register(pos seglog.Pos, events []Event) {
	if pos.Seg > l.active {
		l.active = pos.Seg
		l.tables[pos.Seg] = &table{}
		l.nudge()
	}
	t := l.tables[pos.Seg]
	if t == nil {
		return // sealed and indexed meanwhile; the index was made from the segment itself
	}
	t.events += int64(len(events))
	for i := range events {
		t.newest = max(t.newest, events[i].Time.UnixNano())
		if !events[i].Message.IsZero() {
			t.add(keyOf(events[i].Message), uint32(pos.Off))
		}
	}
}

// Entry is one record as the queue's recovery sees it. Changes is valid until the next iteration.
type Entry struct {
	Pos, Next seglog.Pos
	Changes   []byte
}

// Replay yields the state changes of all records from a position on, up to
// what is durable. Errors are as for seglog.Log.Scan: after a *seglog.CorruptError the loop may go on.
func (l *Log) Replay(from seglog.Pos) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for rec, err := range l.records.Scan(from) {
			var entry Entry
			if err == nil {
				entry = Entry{Pos: rec.Pos, Next: rec.Next}
				var r record
				if r, err = parseRecord(rec.Data); err != nil {
					err = fmt.Errorf("event log at %v: %w", rec.Pos, err)
				}
				entry.Changes = r.changes
			}
			if !yield(entry, err) {
				return
			}
		}
	}
}

// Hold tells that the queue still needs every record from pos on: retention
// never passes it. It also starts retention, which removes nothing before the first call.
func (l *Log) Hold(pos seglog.Pos) {
	l.mu.Lock()
	passed := pos.Seg > l.hold.Seg
	if pos.Compare(l.hold) > 0 {
		l.hold = pos
	}
	l.mu.Unlock()
	if passed {
		l.nudge()
	}
}

// Tail is where the next record will go, at the earliest.
func (l *Log) Tail() seglog.Pos { return l.records.Tail() }

// Size is the number of bytes that the log's segments use.
func (l *Log) Size() int64 {
	var n int64
	for _, s := range l.records.Segments() {
		n += s.Bytes
	}
	return n
}

// nudge wakes the maintenance goroutine.
func (l *Log) nudge() {
	select {
	case l.chore <- struct{}{}:
	default:
	}
}

// Close finishes what was appended, writes the cursors and closes the files. Waiting cursors must be cancelled by their context.
func (l *Log) Close() error {
	l.cancel()
	l.wg.Wait()
	err := l.saveCursors()
	l.metrics.set.Unregister()
	return errors.Join(err, l.records.Close())
}

// maintain indexes sealed segments, saves cursors and applies retention.
func (l *Log) maintain(ctx context.Context) {
	defer l.wg.Done()
	const saveEvery, retainEvery = time.Second, time.Minute
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	var retained time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.chore:
			retained = time.Time{}
		case <-save.C:
		}
		l.indexSealed(ctx)
		if err := l.saveCursors(); err != nil {
			l.log.Warn("saving an event cursor failed; after a crash its reader sees some events again", "error", err)
		}
		if time.Since(retained) >= retainEvery {
			retained = time.Now()
			l.retain(0)
		}
	}
}
