package event

import (
	"errors"
	"io/fs"
	"time"

	"github.com/godwit-mta/godwit/internal/seglog"
)

// Reclaim gives back about need bytes by dropping the oldest events, also ones
// that cursors have not read; each such cursor gets a Gap event that counts
// them. It returns the bytes freed, which are back on the volume soon after:
// less than need when the rest is held by the queue or still being written to.
func (l *Log) Reclaim(need int64) int64 { return l.retain(need) }

// retain frees the segments that are old, or too many, or wanted back.
func (l *Log) retain(need int64) (freed int64) {
	l.retainMu.Lock()
	defer l.retainMu.Unlock()
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold.IsZero() {
		return 0
	}
	total := l.Size()
	for _, s := range l.records.Segments() {
		if !s.Sealed || s.Seq >= hold.Seg {
			break
		}
		expired := time.Since(s.ModTime) > l.o.Keep.D()
		forced := total > int64(l.o.MaxSize) || freed < need
		if !expired && !forced || !forced && l.unread(s.Seq) {
			break
		}
		if err := l.drop(s.Seq); err != nil {
			l.log.Error("dropping old events failed", "segment", s.Seq, "error", err)
			break
		}
		total -= s.Bytes
		freed += s.Bytes
	}
	return freed
}

// unread reports whether a cursor still has events to read in the segment.
func (l *Log) unread(seq uint64) bool {
	for _, c := range l.allCursors() {
		c.mu.Lock()
		from := c.state.from()
		c.mu.Unlock()
		if n, err := l.eventsFrom(from, seq); n > 0 || err != nil {
			return true
		}
	}
	return false
}

// eventsFrom counts the events of a segment that lie at or behind a place.
func (l *Log) eventsFrom(from seglog.Pos, seq uint64) (int64, error) {
	if from.Seg > seq {
		return 0, nil
	}
	l.mu.Lock()
	side := l.sidecars[seq]
	l.mu.Unlock()
	if side != nil && (from.Seg < seq || from.Off <= seglog.FirstOffset) {
		return side.events, nil
	}
	if from.Seg < seq {
		from = seglog.Pos{Seg: seq}
	}
	var n int64
	for rec, err := range l.records.Scan(from) {
		var corrupt *seglog.CorruptError
		if errors.As(err, &corrupt) && corrupt.Segment == seq {
			continue
		}
		if err != nil || rec.Pos.Seg != seq {
			return n, err
		}
		if r, err := parseRecord(rec.Data); err == nil {
			n += int64(r.events)
		}
	}
	return n, nil
}

// drop frees one segment after telling the cursors that lose events.
func (l *Log) drop(seq uint64) error {
	for _, c := range l.allCursors() {
		if err := l.widenGap(c, seq); err != nil {
			return err
		}
	}
	if err := l.records.Free(seq); err != nil && !errors.Is(err, seglog.ErrFreed) {
		return err
	}
	l.mu.Lock()
	delete(l.sidecars, seq)
	delete(l.tables, seq)
	l.mu.Unlock()
	if err := l.fs.Remove(l.sidecarPath(seq)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.log.Warn("deleting an event index failed", "segment", seq, "error", err)
	}
	return nil
}

// widenGap adds what the cursor has not read of the segment to its gap, durably if the volume lets us.
func (l *Log) widenGap(c *Cursor, seq uint64) error {
	c.mu.Lock()
	from := c.state.from()
	c.mu.Unlock()
	lost, err := l.eventsFrom(from, seq)
	if err != nil || from.Seg > seq {
		return err
	}
	c.mu.Lock()
	if c.state.from() != from { // it read on meanwhile
		c.mu.Unlock()
		return l.widenGap(c, seq)
	}
	c.state.Gap += lost
	c.state.GapTo = seglog.Pos{Seg: seq + 1}
	c.dirty = true
	c.mu.Unlock()
	if lost == 0 {
		return nil
	}
	l.metrics.lost(c.name, lost)
	l.log.Error("events dropped before a sink had read them", "cursor", c.name, "events", lost, "segment", seq)
	if err := c.Save(); err != nil {
		l.log.Warn("saving an event cursor failed", "cursor", c.name, "error", err)
	}
	return nil
}
