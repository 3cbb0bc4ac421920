package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// change makes a change of kept durable and then visible.
func (t *topic) change(f func(k *kept) (changed bool)) error {
	t.keptMu.Lock()
	defer t.keptMu.Unlock()
	k := t.kept.clone()
	if !f(k) {
		return nil
	}
	if err := faultfs.WriteFile(t.fs, t.dir, keptName, k.encode(), 0o640); err != nil {
		return fmt.Errorf("stream: topic %s: %w", t.name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = k
	return nil
}

// hold remembers from where on a group needs a partition.
func (t *topic) hold(group string, partition int32, offset int64) error {
	if err := checkPartition(t, partition); err != nil {
		return err
	}
	return t.change(func(k *kept) bool {
		if k.holds[group] == nil {
			k.holds[group] = map[int32]int64{}
		}
		have, ok := k.holds[group][partition]
		k.holds[group][partition] = offset
		return !ok || have != offset
	})
}

// release forgets what a group holds.
func (t *topic) release(group string) error {
	return t.change(func(k *kept) bool {
		_, ok := k.holds[group]
		delete(k.holds, group)
		return ok
	})
}

// trim drops the oldest pieces, as far as they are too old or too much and nobody holds them.
func (t *topic) trim(now time.Time) error {
	t.chores.Lock()
	defer t.chores.Unlock()
	if err := t.rollStale(now); err != nil {
		return err
	}
	due := t.due(now)
	if due == 0 {
		return nil
	}
	n := 0
	err := t.change(func(k *kept) bool {
		if n = t.unheld(due, k.lowest()); n == 0 {
			return false
		}
		for i := range n {
			ends, err := t.learnEnds(t.piece(i))
			if err != nil {
				n = i // what cannot be read now stays
				t.log.Warn("reading a segment that is due to be dropped failed", "error", err)
				break
			}
			k.dropped = t.endOf(i)
			for p, end := range ends {
				k.gone[p] = max(k.gone[p], end)
			}
		}
		return n > 0
	})
	if err != nil || n == 0 {
		return err
	}
	return t.remove(n)
}

// rollStale seals the active segment when all in it is too old, so that it can be dropped.
func (t *topic) rollStale(now time.Time) error {
	t.mu.RLock()
	n := len(t.pieces)
	stale := n > 0 && t.o.KeepFor > 0 && now.Sub(t.pieces[n-1].newest) > t.o.KeepFor.D() && t.pieces[n-1].seg == t.records.Tail().Seg
	t.mu.RUnlock()
	if !stale {
		return nil
	}
	return t.roll()
}

// due returns how many of the oldest pieces exceed the limits.
func (t *topic) due(now time.Time) int {
	sizes := t.sizes()
	t.mu.RLock()
	defer t.mu.RUnlock()
	total := int64(0)
	for _, p := range t.pieces {
		total += p.size(sizes)
	}
	active := t.records.Tail().Seg
	for i, p := range t.pieces {
		old := t.o.KeepFor > 0 && now.Sub(p.newest) > t.o.KeepFor.D()
		much := t.o.KeepBytes > 0 && total > int64(t.o.KeepBytes)
		if p.seg >= active || !old && !much {
			return i
		}
		total -= p.size(sizes)
	}
	return len(t.pieces)
}

// sizes returns the bytes of each segment.
func (t *topic) sizes() map[uint64]int64 {
	sizes := map[uint64]int64{}
	for _, info := range t.records.Segments() {
		sizes[info.Seq] = info.Bytes
	}
	return sizes
}

func (p *piece) size(segments map[uint64]int64) int64 {
	if p.old {
		return p.bytes
	}
	return segments[p.seg]
}

// unheld returns how many of the n oldest pieces lie before an offset.
func (t *topic) unheld(n int, offset int64) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i := range n {
		if t.pieceEnd(i) > offset {
			return i
		}
	}
	return n
}

func (t *topic) piece(i int) *piece {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.pieces[i]
}

func (t *topic) endOf(i int) int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.pieceEnd(i)
}

// remove takes the n oldest pieces out and gives their files back. KEPT says already that they are gone.
func (t *topic) remove(n int) error {
	t.mu.Lock()
	dead := t.pieces[:n]
	t.pieces = append([]*piece(nil), t.pieces[n:]...)
	t.mu.Unlock()
	var errs []error
	for _, p := range dead {
		if p.old {
			errs = append(errs, t.fs.Remove(t.rewrittenPath(p.seg)))
		}
	}
	// Segments between them that hold nothing readable go too.
	last := dead[n-1].seg
	for seg := dead[0].seg; seg <= last; seg++ {
		errs = append(errs, t.free(seg))
	}
	return errors.Join(errs...)
}

// usage is the size of what is kept and when its oldest record was appended; zero if there is none.
func (t *topic) usage() (bytes int64, oldest time.Time) {
	sizes := t.sizes()
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, p := range t.pieces {
		bytes += p.size(sizes)
	}
	if len(t.pieces) > 0 {
		oldest = t.pieces[0].began
	}
	return bytes, oldest
}
