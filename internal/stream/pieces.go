package stream

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"github.com/godwit-mta/godwit/internal/seglog"
)

// markEvery is how many bytes of a segment lie between two marks: what has to be read to find an offset.
const markEvery = 256 << 10

// piece is a segment, or the file that took its place when it was rewritten. Its fields but seg,
// old and first are guarded by topic.mu.
type piece struct {
	seg   uint64
	old   bool  // it was rewritten: in a file of its own
	first int64 // offset of its first entry

	began  time.Time // when its first batch was appended
	newest time.Time // when its last one was; zero: not known
	bytes  int64     // of a rewritten one
	marks  []mark    // rising; the first one is not the piece's begin
	ends   []int64   // by partition: the offset behind its last entry; nil: not known
}

// mark tells where in a piece the batch that begins with an offset lies.
type mark struct {
	offset int64
	at     int64
}

// mark remembers a place, unless one nearby or behind it is known. Topic.mu is held.
func (p *piece) mark(offset, at int64) {
	last := mark{at: seglog.FirstOffset}
	if n := len(p.marks); n > 0 {
		last = p.marks[n-1]
	}
	if at >= last.at+markEvery {
		p.marks = append(p.marks, mark{offset, at})
	}
}

// seek returns the last known place at or before an offset; 0 is the piece's begin. Topic.mu is held.
func (p *piece) seek(offset int64) int64 {
	i := sort.Search(len(p.marks), func(i int) bool { return p.marks[i].offset > offset })
	if i == 0 {
		return 0
	}
	return p.marks[i-1].at
}

// stored is a batch as it lies in a piece.
type stored struct {
	header
	body []byte
	at   int64 // its place, for piece.mark
}

// records appends what the batch has of a partition, from an offset on, with data copied to arena.
func (s stored) records(recs []Record, arena []byte, partition int32, from int64) ([]Record, []byte, error) {
	first := s.base
	for body := s.body; len(body) > 0; {
		r, rest, err := nextRun(body)
		if err != nil {
			return recs, arena, err
		}
		if r.partition == partition && first+r.entries > from {
			begin := len(arena)
			arena = append(arena, r.data...)
			r.data = arena[begin:]
			if recs, err = r.records(recs, first, from, s.header.at); err != nil {
				return recs, arena, err
			}
		}
		first += r.entries
		body = rest
	}
	return recs, arena, nil
}

// each calls f for every entry of the batch until it fails; erased ones have nil data.
func (s stored) each(f func(partition int32, offset int64, data []byte) error) error {
	first := s.base
	for body := s.body; len(body) > 0; {
		r, rest, err := nextRun(body)
		if err != nil {
			return err
		}
		var failed error
		err = r.each(first, func(offset int64, data []byte) {
			if failed == nil {
				failed = f(r.partition, offset, data)
			}
		})
		if err = errors.Join(failed, err); err != nil {
			return err
		}
		first += r.entries
		body = rest
	}
	return nil
}

// ends notes in the table, by partition, the offset behind the last entry of each run.
func (s stored) ends(table []int64) error {
	first := s.base
	for body := s.body; len(body) > 0; {
		r, rest, err := nextRun(body)
		if err != nil {
			return err
		}
		first += r.entries
		if int(r.partition) < len(table) {
			table[r.partition] = first
		}
		body = rest
	}
	return nil
}

// scan calls f for the batches of a piece in order, from the last known place before an offset on, until it returns
// false. The batch is valid during the call. Damage is stepped over; what lies behind the last batch that f took is returned.
func (t *topic) scan(p *piece, from int64, f func(stored) (bool, error)) (damage, err error) {
	t.mu.RLock()
	at := p.seek(from)
	t.mu.RUnlock()
	if p.old {
		return t.scanRewritten(p, at, f)
	}
	for rec, err := range t.records.Scan(seglog.Pos{Seg: p.seg, Off: at}) {
		var corrupt *seglog.CorruptError
		switch {
		case errors.As(err, &corrupt) && corrupt.Segment == p.seg:
			damage = err
			continue
		case corrupt != nil, err == nil && rec.Pos.Seg != p.seg:
			return damage, nil // a later segment
		case err != nil:
			return damage, err
		}
		h, body, err := parseBatch(rec.Data)
		if err != nil || rec.Type != typeBatch {
			damage = fmt.Errorf("segment %d at %d: %w", p.seg, rec.Pos.Off, errBadBatch)
			continue
		}
		if more, err := f(stored{h, body, rec.Pos.Off}); err != nil || !more {
			return damage, err
		}
		damage = nil
	}
	return damage, nil
}

// locate returns the piece that an offset lies in, and the offset behind the piece's durable entries. It returns
// nil when the offset is before the first piece, and where that begins.
func (t *topic) locate(offset int64) (p *piece, limit int64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := sort.Search(len(t.pieces), func(i int) bool { return t.pieces[i].first > offset })
	if i == 0 {
		return nil, t.pieceEnd(-1)
	}
	return t.pieces[i-1], t.pieceEnd(i - 1)
}

// load finds the pieces and the offset of the next record.
func (t *topic) load() error {
	t.end = t.kept.dropped
	if err := t.loadRewritten(); err != nil {
		return err
	}
	for _, info := range t.records.Segments() {
		if err := t.loadSegment(info); err != nil {
			return err
		}
	}
	slices.SortFunc(t.pieces, func(a, b *piece) int { return int(int64(a.seg) - int64(b.seg)) })
	for i, p := range t.pieces[:max(0, len(t.pieces)-1)] {
		if p.newest.IsZero() {
			p.newest = t.pieces[i+1].began
		}
	}
	if err := t.loadTail(); err != nil {
		return err
	}
	return t.dropAgain()
}

// loadSegment adds the piece of a segment that has a readable batch.
func (t *topic) loadSegment(info seglog.SegmentInfo) error {
	if slices.ContainsFunc(t.pieces, func(p *piece) bool { return p.seg == info.Seq }) {
		return t.free(info.Seq) // it was rewritten; the process ended before it was freed
	}
	p := &piece{seg: info.Seq, newest: info.ModTime}
	found := false
	_, err := t.scan(p, 0, func(s stored) (bool, error) {
		p.first, p.began, found = s.base, s.header.at, true
		return false, nil
	})
	if found {
		t.pieces = append(t.pieces, p)
	}
	return err
}

// lostJump is added to the next offset when the newest records are damaged: how many there were is not known, and
// no offset may be given a second time.
const lostJump = 1 << 32

// loadTail reads the last piece to its end, which tells the next offset.
func (t *topic) loadTail() error {
	var damage error
	if n := len(t.pieces); n > 0 {
		p := t.pieces[n-1]
		p.ends = make([]int64, t.partitions)
		last := p.first
		var err error
		damage, err = t.scan(p, 0, func(s stored) (bool, error) {
			last, p.newest = s.end(), s.header.at
			p.mark(s.base, s.at)
			return true, s.ends(p.ends)
		})
		if err != nil {
			return err
		}
		t.end = max(t.end, last)
	}
	behind := t.damageBehind()
	if damage == nil && behind == nil {
		return nil
	}
	t.end += lostJump
	t.log.Error("the newest records are damaged; offsets go on behind a gap", "damage", errors.Join(damage, behind), "next", t.end)
	return nil
}

// damageBehind returns what keeps segments behind the last piece from being read.
func (t *topic) damageBehind() error {
	var from seglog.Pos
	if n := len(t.pieces); n > 0 {
		from.Seg = t.pieces[n-1].seg + 1
	}
	if from.Seg > t.records.Tail().Seg {
		return nil
	}
	for _, err := range t.records.Scan(from) {
		if err != nil {
			return err
		}
	}
	return nil
}

// free gives a segment back. That it was free already is no error.
func (t *topic) free(seg uint64) error {
	if err := t.records.Free(seg); err != nil && !errors.Is(err, seglog.ErrFreed) {
		return err
	}
	return nil
}

// dropAgain drops what was dropped when the process ended.
func (t *topic) dropAgain() error {
	n := 0
	for n < len(t.pieces) && t.pieceEnd(n) <= t.kept.dropped {
		n++
	}
	if n == 0 {
		return nil
	}
	return t.remove(n)
}

// pieceEnd is the offset behind piece i. Topic.mu is held.
func (t *topic) pieceEnd(i int) int64 {
	if i+1 < len(t.pieces) {
		return t.pieces[i+1].first
	}
	return t.end
}

func (t *topic) path(name string) string { return filepath.Join(t.dir, name) }
