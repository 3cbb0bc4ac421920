package spool

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// When a segment is worth moving: there are several, it has few rows left, and
// what is alive in it is a small part of it.
const (
	compactSegments = 8
	compactRows     = 2000
	compactShare    = 0.3
)

// Compact moves what is alive in a mostly dead segment to the end of the log,
// so that a few long deferred messages do not keep gigabytes. It moves at most one
// segment and tells where the rows went; the caller brings what it has in
// memory in line, and the next flush frees the segment. Not concurrent with Flush.
func (s *Spool) Compact(ctx context.Context) (map[mail.ID]Loc, error) {
	if s.pending != nil {
		return nil, nil
	}
	info, ok := s.sparsest()
	if !ok {
		return nil, nil
	}
	c := compaction{s: s, seg: info.Seq, moved: map[mail.ID]Loc{}}
	if err := c.collect(); err != nil || c.bytes > int64(compactShare*float64(info.Bytes)) {
		return nil, err
	}
	if err := c.move(ctx); err != nil {
		return nil, fmt.Errorf("spool: compact segment %d: %w", c.seg, err)
	}
	s.slog.Info("segment compacted", "segment", c.seg, "rows", len(c.moved), "bytes", c.bytes)
	return c.moved, nil
}

// sparsest chooses the sealed segment before the checkpoint with the fewest rows.
func (s *Spool) sparsest() (best seglog.SegmentInfo, ok bool) {
	segments := s.log.Segments()
	if len(segments) < compactSegments {
		return best, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fewest := int64(compactRows)
	for _, info := range segments {
		c := s.segments[info.Seq]
		if !info.Sealed || info.Seq >= s.checkpoint.Records.Seg || c == nil || c.indexed > fewest || s.holdsLarge(info.Seq) {
			continue
		}
		best, ok, fewest = info, true, c.indexed
	}
	return best, ok
}

// holdsLarge reports whether a segment has the record of a large file: that
// record is what a rebuild finds the file by.
func (s *Spool) holdsLarge(seg uint64) bool {
	for _, c := range s.shared {
		if c.large && c.pos.Seg == seg {
			return true
		}
	}
	return false
}

// compaction is the move of one segment.
type compaction struct {
	s      *Spool
	seg    uint64
	bytes  int64              // alive, as far as rows and bodies go
	rows   map[uint32][]Entry // by the offset of their record
	shared []*sharedBody
	moved  map[mail.ID]Loc
}

// collect finds what is alive.
func (c *compaction) collect() error {
	c.rows = map[uint32][]Entry{}
	n := 0
	err := c.s.index.Scan(0, func(e Entry) bool {
		if e.Seg == c.seg {
			c.rows[e.Off] = append(c.rows[e.Off], e)
			c.bytes += int64(e.Len)
			n++
		}
		return n <= compactRows
	})
	if err != nil {
		return err
	}
	for off := range c.rows {
		h, err := c.s.header(seglog.Pos{Seg: c.seg, Off: int64(off)})
		if err != nil {
			return err
		}
		if h.bodyInline {
			c.bytes += h.body.Size
		}
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, b := range c.s.shared {
		if b.pos.Seg == c.seg {
			c.shared = append(c.shared, b)
			c.bytes += b.ref.Size
		}
	}
	return nil
}

// move writes everything again and then changes the index in one transaction:
// a crash before it leaves the old places in force.
func (c *compaction) move(ctx context.Context) error {
	u := &indexUpdate{checkpoint: c.s.checkpoint}
	for _, off := range slices.Sorted(maps.Keys(c.rows)) {
		entries, err := c.moveRecord(ctx, c.rows[off])
		if err != nil {
			return err
		}
		u.relocate = append(u.relocate, entries...)
	}
	places := make([]sharedBody, len(c.shared))
	for i, b := range c.shared {
		var err error
		if places[i], err = c.moveShared(ctx, b); err != nil {
			return err
		}
		u.shared = append(u.shared, &places[i])
	}
	d, err := c.s.index.apply(u)
	if err != nil {
		return err
	}
	c.settle(d, places)
	return nil
}

// settle brings the counts in line.
func (c *compaction) settle(d deltas, places []sharedBody) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for seg, n := range d.segments {
		s.segment(seg).indexed += n
	}
	for i, b := range c.shared {
		s.segment(b.pos.Seg).fresh--
		b.pos, b.off = places[i].pos, places[i].off
		s.segment(b.pos.Seg).fresh++
	}
}

// moveRecord writes the rows of one record that are still alive.
func (c *compaction) moveRecord(ctx context.Context, entries []Entry) ([]Entry, error) {
	b := &mail.Batch{}
	for i := range entries {
		m, err := c.s.Load(entries[i].Loc)
		if err != nil {
			return nil, err
		}
		m.Attempts, m.LastReply = entries[i].Attempts, entries[i].LastReply
		m.NextAttempt = time.UnixMilli(entries[i].Due)
		b.Messages = append(b.Messages, m)
	}
	old := entries[0].Loc.Pos()
	h, err := c.s.header(old)
	if err != nil {
		return nil, err
	}
	if h.bodyInline && !h.body.Content {
		data, err := c.s.bytesAt(old, h.bodyOff, h.body.Size)
		if err != nil {
			return nil, err
		}
		b.Body = &mail.Body{ID: h.body.ID, Kind: h.body.Kind, Size: h.body.Size, EightBit: h.body.EightBit, Data: data}
	}
	enc := c.s.codec.encodeBatch(b)
	pos, err := c.s.log.Append(ctx, recordMoved, enc.parts...)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		entries[i].Loc = Loc{Seg: pos.Seg, Off: uint32(pos.Off), Row: enc.rows[i].off, Len: enc.rows[i].len}
		c.moved[entries[i].ID] = entries[i].Loc
	}
	return entries, nil
}

// moveShared writes stored content again.
func (c *compaction) moveShared(ctx context.Context, b *sharedBody) (sharedBody, error) {
	c.s.mu.Lock()
	moved := *b
	c.s.mu.Unlock()
	data, err := c.s.bytesAt(moved.pos, moved.off, moved.ref.Size)
	if err != nil {
		return moved, err
	}
	enc := c.s.codec.encodeBatch(&mail.Batch{ContentUntil: moved.until, ContentTenant: moved.tenant,
		Body: &mail.Body{ID: moved.ref.ID, Kind: moved.ref.Kind, Size: moved.ref.Size, EightBit: moved.ref.EightBit, Data: data}})
	moved.pos, err = c.s.log.Append(ctx, recordMoved, enc.parts...)
	moved.off = uint32(len(enc.parts[0]))
	return moved, err
}
