package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/prometheus/client_golang/prometheus"
)

// FileSinkOptions are what a configuration file can set.
type FileSinkOptions struct {
	Path        string         `toml:"path" doc:"File that events are appended to, one JSON object a line; empty writes none."`
	RotateSize  units.Size     `toml:"rotate_size" doc:"Size in bytes at which the file is renamed and a new one begun; 0 for no limit."`
	RotateEvery units.Duration `toml:"rotate_every" doc:"Age at which the file is renamed and a new one begun, at its next event; 0 for no limit."`
	KeepFiles   int            `toml:"keep_files" doc:"Number of renamed files kept; older ones are deleted. 0 keeps all."`
	Compress    bool           `toml:"compress" doc:"Compress renamed files with gzip."`
}

// DefaultFileSinkOptions returns no path, 256 MiB, 24 hours, 14 files, not compressed.
func DefaultFileSinkOptions() FileSinkOptions {
	return FileSinkOptions{RotateSize: 256 << 20, RotateEvery: units.Duration(24 * time.Hour), KeepFiles: 14}
}

// Validate returns an error that begins with the key at fault.
func (o FileSinkOptions) Validate() error {
	switch {
	case o.Path != "" && filepath.Base(o.Path)[0] == '.':
		return errors.New("path: must name a file whose name does not begin with a dot")
	case o.RotateSize < 0 || o.RotateSize > 0 && o.RotateSize < 4<<10:
		return errors.New("rotate_size: must be 0 or at least 4KiB")
	case o.RotateEvery < 0:
		return errors.New("rotate_every: must not be negative")
	case o.KeepFiles < 0:
		return errors.New("keep_files: must not be negative")
	}
	return nil
}

// FileSinkDeps are what a FileSink works with.
type FileSinkDeps struct {
	Cursor     *Cursor               // its place in the log
	FS         faultfs.FS            // nil: the machine's
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// FileSink writes events to a file that others follow, and rotates it.
//
// Each event is in the file once, also after a crash. The place in the log and
// the file's length are committed together, after the file was synced. A new run
// goes back to both and writes the events from there again: the same bytes at the same
// offsets, so that a program that follows the file sees no change. Only bytes that the
// log does not account for are cut off. A rotation is noted before the rename and found again by its note.
type FileSink struct {
	o      FileSinkOptions
	cursor *Cursor
	fs     faultfs.FS
	log    *slog.Logger
	lines  prometheus.Counter
	errs   prometheus.Counter

	file  faultfs.File
	note  sinkNote
	stale int64      // length of the file as found, while it exceeds note.Offset
	next  seglog.Pos // read up to here
	dirty bool       // written and not yet committed
	tidy  chan struct{}
}

// sinkNote is kept with the cursor's place.
type sinkNote struct {
	Offset  int64  `json:"offset"`           // length of the file up to the place
	Started int64  `json:"started"`          // Unix seconds at which the file was begun
	Rotate  string `json:"rotate,omitempty"` // the file is being renamed to this
}

const (
	syncEvery  = time.Second
	retryEvery = 5 * time.Second
)

// NewFileSink returns a sink for o; Run makes it work.
func NewFileSink(o FileSinkOptions, d FileSinkDeps) (*FileSink, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Path == "" || d.Cursor == nil {
		return nil, errors.New("path: a file sink needs a path and a cursor")
	}
	if d.FS == nil {
		d.FS = faultfs.OS{}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	s := &FileSink{
		o: o, cursor: d.Cursor, fs: d.FS, log: d.Logger.With("path", o.Path), tidy: make(chan struct{}, 1),
		lines: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_event_file_sink_lines_total",
			Help: "Events written to the event file.",
		}),
		errs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_event_file_sink_errors_total",
			Help: "Failures of writing the event file. It is tried again every 5 s and nothing is lost while the event log has room; look at the file's volume.",
		}),
	}
	if d.Registerer != nil {
		if err := errors.Join(d.Registerer.Register(s.lines), d.Registerer.Register(s.errs)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run writes until ctx ends. A failing file is tried again; Run never stops for it.
func (s *FileSink) Run(ctx context.Context) error {
	tidied := make(chan struct{})
	go func() {
		defer close(tidied)
		s.tidier(ctx)
	}()
	defer func() { <-tidied }()
	for ctx.Err() == nil {
		err := s.restore()
		if err == nil {
			err = s.follow(ctx)
		}
		if s.file != nil {
			err = errors.Join(err, s.file.Close())
			s.file = nil
		}
		if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
			return nil
		}
		s.errs.Inc()
		s.log.Error("writing the event file failed; trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
	return nil
}

// restore opens the file at the committed place.
func (s *FileSink) restore() error {
	s.cursor.Rewind()
	pos, text := s.cursor.Position()
	s.next, s.note, s.stale, s.dirty = pos, sinkNote{Offset: -1}, 0, false
	if text != "" {
		if err := json.Unmarshal([]byte(text), &s.note); err != nil {
			return fmt.Errorf("event file: cursor note: %w", err)
		}
	}
	if err := s.fs.MkdirAll(filepath.Dir(s.o.Path), 0o755); err != nil {
		return err
	}
	if s.note.Rotate != "" {
		if err := s.finishRotation(); err != nil {
			return err
		}
	}
	return s.open()
}

// open opens the file and compares it with the note.
func (s *FileSink) open() error {
	f, err := s.fs.OpenFile(s.o.Path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	s.file = f
	if err := s.fs.SyncDir(filepath.Dir(s.o.Path)); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	s.wakeTidier()
	switch {
	case s.note.Offset < 0: // first run: what is there already stays
		return s.beginAt(size)
	case s.note.Offset > size: // someone moved or cut the file
		s.log.Warn("the event file is shorter than it was; going on at its end", "bytes", size, "expected", s.note.Offset)
		return s.beginAt(size)
	case s.note.Offset < size:
		s.stale = size
	}
	return nil
}

// beginAt commits that our part of the file begins at off, before anything is written there.
func (s *FileSink) beginAt(off int64) error {
	s.note = sinkNote{Offset: off, Started: time.Now().Unix()}
	if err := s.commitNote(); err != nil {
		return err
	}
	return s.cursor.Save()
}

// follow copies events until an error or the end of ctx.
func (s *FileSink) follow(ctx context.Context) error {
	var synced time.Time
	for {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if s.dirty || s.stale > 0 {
			wait, cancel = context.WithTimeout(ctx, syncEvery)
		}
		b, err := s.cursor.Next(wait)
		cancel()
		switch {
		case err == nil:
			err = s.write(b)
		case ctx.Err() != nil:
			return s.finish()
		case errors.Is(err, context.DeadlineExceeded):
			err = s.idle()
		}
		if err == nil && s.dirty && time.Since(synced) >= syncEvery {
			err, synced = s.commit(), time.Now()
		}
		if err != nil {
			return err
		}
	}
}

// write appends a batch, rotating before it where needed.
func (s *FileSink) write(b Batch) error {
	var size int64
	for _, line := range b.Lines {
		size += int64(len(line))
	}
	if s.due(size) {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	if _, err := s.file.Writev(b.Lines, s.note.Offset); err != nil {
		return err
	}
	s.note.Offset += size
	if s.stale <= s.note.Offset {
		s.stale = 0
	}
	s.next, s.dirty = b.Next, true
	s.lines.Add(float64(b.Events))
	return nil
}

// idle is called when the log has no more events: what the file still has beyond is not from the log.
func (s *FileSink) idle() error {
	if s.stale > 0 {
		s.log.Warn("cut off an unfinished end of the event file", "from", s.stale, "to", s.note.Offset)
		if err := s.file.Truncate(s.note.Offset); err != nil {
			return err
		}
		s.stale, s.dirty = 0, true
	}
	return s.commit()
}

// commit makes the file durable, then the place.
func (s *FileSink) commit() error {
	if !s.dirty {
		return nil
	}
	if err := s.file.Datasync(); err != nil {
		return err
	}
	s.dirty = false
	return s.commitNote()
}

func (s *FileSink) commitNote() error {
	text, err := json.Marshal(s.note)
	if err != nil {
		return err
	}
	s.cursor.CommitNote(s.next, string(text))
	return nil
}

// finish is commit at the end of Run.
func (s *FileSink) finish() error {
	if err := s.commit(); err != nil {
		return err
	}
	return s.cursor.Save()
}

// exists reports whether there is a file of that name.
func (s *FileSink) exists(path string) (bool, error) {
	_, err := s.fs.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
