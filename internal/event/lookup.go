package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

const sidecarSuffix = ".idx"

func (l *Log) sidecarPath(seq uint64) string {
	return filepath.Join(l.dir, sidecarName(seq))
}

func sidecarName(seq uint64) string { return fmt.Sprintf("%016x%s", seq, sidecarSuffix) }

// loadIndex opens the sidecars that are there, deletes those of segments that
// are gone, and builds the table of the active segment. Missing sidecars are written later, in the background.
func (l *Log) loadIndex() error {
	segs := l.records.Segments()
	live := map[uint64]bool{}
	for _, s := range segs {
		live[s.Seq] = true
	}
	entries, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), sidecarSuffix)
		seq, err := strconv.ParseUint(digits, 16, 64)
		if !ok || err != nil {
			continue
		}
		side, err := openSidecar(l.fs, l.sidecarPath(seq))
		if err == nil && live[seq] {
			l.sidecars[seq] = side
		} else if err := l.fs.Remove(l.sidecarPath(seq)); err != nil {
			return err
		}
	}
	l.active = segs[len(segs)-1].Seq
	delete(l.sidecars, l.active) // none is written for a segment that is still written to
	t, err := l.buildTable(context.Background(), l.active)
	l.tables[l.active] = t
	var corrupt *seglog.CorruptError
	if errors.As(err, &corrupt) {
		l.log.Error("event log is damaged; events there are lost to questions and sinks", "error", err)
		err = nil
	}
	return err
}

// buildTable indexes a segment by reading it. The table is complete up to the
// error, which is a *seglog.CorruptError for damage that was stepped over.
func (l *Log) buildTable(ctx context.Context, seq uint64) (*table, error) {
	t := &table{}
	var damage error
	for rec, err := range l.segment(seq) {
		var corrupt *seglog.CorruptError
		if errors.As(err, &corrupt) {
			damage = err
			continue
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return t, err
		}
		r, err := parseRecord(rec.Data)
		if err != nil {
			damage = &seglog.CorruptError{Segment: seq, Offset: rec.Pos.Off, Reason: err.Error()}
			continue
		}
		t.events += int64(r.events)
		r.each(func(e entryRef) {
			if !e.message.IsZero() {
				t.add(keyOf(e.message), uint32(rec.Pos.Off))
			}
		})
		t.newest = max(t.newest, r.newest)
	}
	return t, damage
}

// segment yields the records of one segment.
func (l *Log) segment(seq uint64) func(yield func(seglog.Record, error) bool) {
	return func(yield func(seglog.Record, error) bool) {
		for rec, err := range l.records.Scan(seglog.Pos{Seg: seq}) {
			var corrupt *seglog.CorruptError
			if err == nil && rec.Pos.Seg != seq || errors.As(err, &corrupt) && corrupt.Segment != seq || !yield(rec, err) {
				return
			}
		}
	}
}

// indexSealed writes the sidecar of every sealed segment that has none.
func (l *Log) indexSealed(ctx context.Context) {
	for _, s := range l.records.Segments() {
		l.mu.Lock()
		_, have := l.sidecars[s.Seq]
		l.mu.Unlock()
		if have || !s.Sealed || ctx.Err() != nil {
			continue
		}
		t, err := l.buildTable(ctx, s.Seq)
		var corrupt *seglog.CorruptError
		if err != nil && !errors.As(err, &corrupt) {
			if ctx.Err() == nil && !errors.Is(err, seglog.ErrFreed) {
				l.log.Warn("indexing events failed; questions about them are slow", "segment", s.Seq, "error", err)
			}
			continue
		}
		if err := faultfs.WriteFile(l.fs, l.dir, sidecarName(s.Seq), encodeSidecar(t), filePerm); err != nil {
			l.log.Warn("writing an event index failed; questions about these events are slow", "segment", s.Seq, "error", err)
			continue
		}
		side, err := openSidecar(l.fs, l.sidecarPath(s.Seq))
		if err != nil {
			l.log.Warn("reading an event index failed", "segment", s.Seq, "error", err)
			continue
		}
		l.mu.Lock()
		l.sidecars[s.Seq] = side
		delete(l.tables, s.Seq)
		l.mu.Unlock()
	}
}

// Find returns all events of a message that the log still has, oldest first:
// none for an unknown one. It reads only segments that can hold some.
func (l *Log) Find(ctx context.Context, id mail.ID) ([]Event, error) {
	var found []Event
	born := id.Time().Add(-time.Second).UnixNano()
	for _, s := range l.records.Segments() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		events, err := l.findIn(ctx, s.Seq, id, born)
		if errors.Is(err, seglog.ErrFreed) {
			continue // retention was faster
		}
		if err != nil {
			return nil, fmt.Errorf("event log: find %v: %w", id, err)
		}
		found = append(found, events...)
	}
	return found, nil
}

// findIn returns the events of a message in one segment.
func (l *Log) findIn(ctx context.Context, seq uint64, id mail.ID, born int64) ([]Event, error) {
	l.mu.Lock()
	side, t := l.sidecars[seq], l.tables[seq]
	var offs []uint32
	if side == nil && t != nil {
		offs = t.find(keyOf(id))
	}
	l.mu.Unlock()
	switch {
	case side != nil && side.newest < born:
		return nil, nil
	case side != nil:
		var err error
		if offs, err = side.find(l.fs, keyOf(id)); errors.Is(err, fs.ErrNotExist) {
			return nil, seglog.ErrFreed
		} else if err != nil {
			return nil, err
		}
	case t == nil:
		return l.searchSegment(ctx, seq, id)
	}
	var found []Event
	var buf []byte
	for _, off := range offs {
		rec, err := l.records.Read(seglog.Pos{Seg: seq, Off: int64(off)}, buf)
		var corrupt *seglog.CorruptError
		if errors.As(err, &corrupt) {
			return l.searchSegment(ctx, seq, id) // the index or the record is damaged
		}
		if err != nil {
			return nil, err
		}
		if found, err = appendMatching(found, rec, id); err != nil {
			return nil, err
		}
		if cap(rec.Data) > cap(buf) {
			buf = rec.Data
		}
	}
	return found, nil
}

// searchSegment finds the events of a message in a segment that has no index yet.
func (l *Log) searchSegment(ctx context.Context, seq uint64, id mail.ID) (found []Event, err error) {
	for rec, err := range l.segment(seq) {
		var corrupt *seglog.CorruptError
		if errors.As(err, &corrupt) {
			continue // reported at start and by the sinks
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			found, err = appendMatching(found, rec, id)
		}
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// appendMatching parses the events of the message in a record.
func appendMatching(found []Event, rec seglog.Record, id mail.ID) ([]Event, error) {
	r, err := parseRecord(rec.Data)
	if err != nil {
		return nil, err
	}
	var refs []entryRef
	r.each(func(e entryRef) {
		if e.message == id {
			refs = append(refs, e)
		}
	})
	if len(refs) == 0 {
		return found, nil
	}
	lines, err := r.lines(nil)
	if err != nil {
		return nil, err
	}
	found = slices.Grow(found, len(refs))
	for _, e := range refs {
		var ev Event
		if err := json.Unmarshal(lines[e.start:e.end], &ev); err != nil {
			return nil, err
		}
		found = append(found, ev)
	}
	return found, nil
}
