package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/seglog"
)

const (
	cursorSuffix = ".json"
	maxBatch     = 1 << 20 // bytes of JSON after which a batch is full
)

// Cursor is a reader's durable place in the log. One goroutine uses it at a
// time. A cursor holds back retention as far as LogOptions.MaxSize allows, also while
// nothing reads it; DropCursor ends that.
type Cursor struct {
	log  *Log
	name string

	mu    sync.Mutex // guards what follows; retention looks at it too
	state cursorState
	read  seglog.Pos // where Next goes on
	dirty bool

	saveMu sync.Mutex

	buf   []byte // of the current batch
	lines [][]byte
}

// cursorState is what a cursor's file holds.
type cursorState struct {
	Pos seglog.Pos `json:"pos"`
	// Gap events before GapTo were dropped unread.
	Gap   int64      `json:"gap,omitempty"`
	GapTo seglog.Pos `json:"gap_to,omitzero"`
	Note  string     `json:"note,omitempty"`
}

// from is the first place this cursor has neither committed nor lost. Cursor.mu is held.
func (s *cursorState) from() seglog.Pos {
	if s.GapTo.Compare(s.Pos) > 0 {
		return s.GapTo
	}
	return s.Pos
}

// Batch is a run of events. Its slices are valid until the cursor's next call of Next.
type Batch struct {
	Lines  [][]byte   // one JSON object with its line end each
	Events int        // how many
	Next   seglog.Pos // commit it when the batch is taken care of
}

// ErrCursorName is returned for a name that cannot be a file name everywhere.
var ErrCursorName = errors.New("event: a cursor name has 1 to 64 letters a-z, digits, - and _")

// Cursor returns the cursor of the given name, at its committed place; a new
// one starts at the oldest event there is.
func (l *Log) Cursor(name string) (*Cursor, error) {
	valid := len(name) > 0 && len(name) <= 64
	for _, c := range name {
		valid = valid && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	if !valid {
		return nil, ErrCursorName
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cursors[name]
	if c == nil {
		c = &Cursor{log: l, name: name, dirty: true}
		l.cursors[name] = c
	}
	c.Rewind()
	return c, nil
}

// DropCursor forgets a cursor that no one will read any more.
func (l *Log) DropCursor(name string) error {
	l.mu.Lock()
	c := l.cursors[name]
	delete(l.cursors, name)
	l.mu.Unlock()
	if c == nil {
		return nil
	}
	c.saveMu.Lock()
	defer c.saveMu.Unlock()
	dir := filepath.Join(l.dir, cursorDir)
	if err := l.fs.Remove(filepath.Join(dir, name+cursorSuffix)); err != nil {
		return fmt.Errorf("event: drop cursor: %w", err)
	}
	return l.fs.SyncDir(dir)
}

// loadCursors reads all cursor files, so that retention knows of them before their readers start.
func (l *Log) loadCursors() error {
	dir := filepath.Join(l.dir, cursorDir)
	entries, err := l.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), cursorSuffix)
		if !ok {
			continue
		}
		data, err := faultfs.ReadFile(l.fs, filepath.Join(dir, e.Name()), 1<<20)
		if err != nil {
			return err
		}
		c := &Cursor{log: l, name: name}
		if err := json.Unmarshal(data, &c.state); err != nil {
			return fmt.Errorf("cursor %s cannot be read; delete the file to start it at the oldest event: %w",
				filepath.Join(dir, e.Name()), err)
		}
		c.read = c.state.Pos
		l.cursors[name] = c
	}
	return nil
}

// Position is the committed place and the note that was committed with it.
func (c *Cursor) Position() (seglog.Pos, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Pos, c.state.Note
}

// Rewind makes Next go on from the committed place: for a reader that failed to take care of a batch.
func (c *Cursor) Rewind() {
	c.mu.Lock()
	c.read = c.state.Pos
	c.mu.Unlock()
}

// Commit tells that everything before pos is taken care of. It becomes durable
// within about a second, or by Save; after a crash before that some events come again.
func (c *Cursor) Commit(pos seglog.Pos) {
	_, note := c.Position()
	c.CommitNote(pos, note)
}

// CommitNote is Commit with a text that is kept together with the place.
func (c *Cursor) CommitNote(pos seglog.Pos, note string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pos.Compare(c.state.Pos) < 0 {
		pos = c.state.Pos
	}
	c.state.Pos, c.state.Note, c.dirty = pos, note, true
	if pos.Compare(c.state.GapTo) >= 0 {
		c.state.Gap, c.state.GapTo = 0, seglog.Pos{}
	}
}

// Save makes what was committed durable now.
func (c *Cursor) Save() error {
	c.saveMu.Lock()
	defer c.saveMu.Unlock()
	c.mu.Lock()
	state, dirty := c.state, c.dirty
	c.dirty = false
	c.mu.Unlock()
	if !dirty {
		return nil
	}
	data, err := json.Marshal(state)
	if err == nil {
		err = faultfs.WriteFile(c.log.fs, filepath.Join(c.log.dir, cursorDir), c.name+cursorSuffix, append(data, '\n'), filePerm)
	}
	if err != nil {
		c.mu.Lock()
		c.dirty = true
		c.mu.Unlock()
		return fmt.Errorf("event: cursor %s: %w", c.name, err)
	}
	return nil
}

// saveCursors saves every cursor that moved.
func (l *Log) saveCursors() error {
	var errs []error
	for _, c := range l.allCursors() {
		errs = append(errs, c.Save())
	}
	return errors.Join(errs...)
}

func (l *Log) allCursors() []*Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Cursor, 0, len(l.cursors))
	for _, c := range l.cursors {
		all = append(all, c)
	}
	return all
}

// Next returns the events after the previous batch and waits while there are
// none. Events that were dropped unread come as one event of kind Gap.
// Errors: the context's, and what reading the log returns; Next may be called again after any.
func (c *Cursor) Next(ctx context.Context) (Batch, error) {
	for {
		changed := c.log.waiter()
		c.mu.Lock()
		from := c.read
		gap, isGap := c.gapBatch()
		c.mu.Unlock()
		if isGap {
			return gap, nil
		}
		next, err := c.collect(from)
		var corrupt *seglog.CorruptError
		switch {
		case errors.As(err, &corrupt):
			return c.skipDamage(corrupt), nil
		case err != nil && !errors.Is(err, seglog.ErrFreed):
			return Batch{}, err
		}
		c.mu.Lock()
		if c.state.GapTo.Compare(from) > 0 {
			c.mu.Unlock() // retention came between: the gap goes first
			continue
		}
		if len(c.lines) == 0 && c.state.Pos == from {
			c.state.Pos, c.dirty = next, c.dirty || next != from // records without events need no commit
		}
		c.read = next
		c.mu.Unlock()
		if len(c.lines) > 0 {
			return Batch{Lines: c.lines, Events: len(c.lines), Next: next}, nil
		}
		if next != from {
			continue
		}
		select {
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-changed:
		}
	}
}

// waiter returns a channel that is closed by the next append.
func (l *Log) waiter() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// collect fills the batch with events from a place on and returns where it stopped. An error
// comes only when nothing was collected before it.
func (c *Cursor) collect(from seglog.Pos) (seglog.Pos, error) {
	c.buf, c.lines = c.buf[:0], c.lines[:0]
	next := from
	var ends []int
	var failed error
	for rec, err := range c.log.records.Scan(from) {
		var r record
		if err == nil {
			if r, err = parseRecord(rec.Data); err != nil {
				err = &seglog.CorruptError{Segment: rec.Pos.Seg, Offset: rec.Pos.Off, Reason: err.Error(), Resume: rec.Next}
			}
		}
		if err == nil {
			start := len(c.buf)
			var grown []byte
			if grown, err = r.lines(c.buf); err == nil {
				c.buf = grown
				r.each(func(e entryRef) { ends = append(ends, start+e.end) })
				next = rec.Next
			} else {
				err = &seglog.CorruptError{Segment: rec.Pos.Seg, Offset: rec.Pos.Off, Reason: err.Error(), Resume: rec.Next}
			}
		}
		if err != nil {
			failed = err
			break
		}
		if len(c.buf) >= maxBatch {
			break
		}
	}
	start := 0
	for _, end := range ends {
		c.lines = append(c.lines, c.buf[start:end:end])
		start = end
	}
	if next != from {
		failed = nil // it comes again with the next call
	}
	return next, failed
}

// gapBatch returns the pending gap, if there is one ahead of the reader. Cursor.mu is held.
func (c *Cursor) gapBatch() (Batch, bool) {
	if c.state.GapTo.Compare(c.read) <= 0 {
		return Batch{}, false
	}
	c.read = c.state.GapTo
	if c.state.Gap == 0 {
		return Batch{}, false
	}
	return c.gapEvent(c.state.Gap, "dropped unread: the event log reached its largest size or the volume ran short", c.read), true
}

// gapEvent makes the batch of one Gap event.
func (c *Cursor) gapEvent(events int64, reason string, next seglog.Pos) Batch {
	e := Event{
		ID: fmt.Sprintf("%s.%d.%d.%s", c.name, next.Seg, next.Off, Gap), Kind: Gap, Time: time.Now(), Reason: reason, GapEvents: events,
	}
	c.lines = append(c.lines[:0], append(AppendJSON(nil, &e), '\n'))
	return Batch{Lines: c.lines, Events: 1, Next: next}
}

// skipDamage steps over what cannot be read, with a Gap event of unknown size.
func (c *Cursor) skipDamage(damage *seglog.CorruptError) Batch {
	c.log.log.Error("event log is damaged; a sink loses events", "cursor", c.name, "error", damage)
	next := damage.Resume
	if next.IsZero() { // a place that this log does not have: it was replaced
		next = seglog.Pos{Seg: c.log.records.Segments()[0].Seq}
		c.mu.Lock()
		c.state.Pos = seglog.Pos{}
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.read = next
	c.mu.Unlock()
	return c.gapEvent(0, "event log is damaged: "+damage.Reason, next)
}
