package keyed

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// pieceBytes is about how much of a state Compact rewrites at once: other compactions of the process wait meanwhile, and Close.
	pieceBytes = 512 << 20
	// touchesAtOnce is how many small files wait to be made one.
	touchesAtOnce = 16
	// lastLevel has nothing below it.
	lastLevel = 6
)

// touchKey begins keys that never are.
var touchKey = []byte{reserved, 't'}

// Compact rewrites the state of a partition, so that no file of it has a byte of what was deleted or written over before, and
// returns when the old files are gone. The consumer goes on meanwhile, and what it deletes then is for the next time. Snapshots that were taken before
// still have all of it.
//
// It waits its turn among the compactions of the process, and so while a stage is behind.
func (w *Worker) Compact(ctx context.Context, partition int32) error {
	p := w.part(partition)
	store, open := w.Store(partition)
	if !open {
		return fmt.Errorf("keyed: %s: partition %d is not open here", w.s.Name, partition)
	}
	if err := p.clear(); err != nil {
		return fmt.Errorf("keyed: %s: partition %d: %w", w.s.Name, partition, err)
	}
	if err := store.Compact(ctx); err != nil {
		return fmt.Errorf("keyed: %s: partition %d: %w", w.s.Name, partition, err)
	}
	return nil
}

// clear removes what a restore that was broken off has left.
func (p *part) clear() error {
	p.files.Lock()
	defer p.files.Unlock()
	return p.w.o.FS.RemoveAll(p.dir + ".new")
}

// Compact is Worker.Compact of an open state. It returns ErrClosed if that is closed meanwhile.
func (s *Store) Compact(ctx context.Context) error {
	if err := s.Flush(); err != nil {
		return err
	}
	cuts, err := s.cuts()
	if err != nil {
		return err
	}
	for i := 1; i < len(cuts); i++ {
		if err := s.compact(ctx, cuts[i-1], cuts[i]); err != nil {
			return err
		}
	}
	if err := s.sweep(ctx); err != nil {
		return err
	}
	if err := s.gone(ctx); err != nil {
		return err
	}
	return s.relist(ctx)
}

// cuts divide all keys into pieces of about pieceBytes.
func (s *Store) cuts() ([][]byte, error) {
	tables, err := s.tables()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(tables, func(a, b table) int { return bytes.Compare(a.last, b.last) })
	cuts, size := [][]byte{{}}, uint64(0)
	for _, t := range tables {
		if size += t.size; size >= pieceBytes && !bytes.Equal(t.last, cuts[len(cuts)-1]) {
			cuts, size = append(cuts, t.last), 0
		}
	}
	return append(cuts, bytes.Repeat([]byte{0xff}, 64)), nil
}

// table is a file of the state.
type table struct {
	first, last []byte // keys
	size        uint64
	tombstones  bool
	level       int
	number      uint64
}

func (s *Store) tables() ([]table, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	levels, err := s.db.SSTables(pebble.WithProperties())
	if err != nil {
		return nil, s.failed(err)
	}
	var out []table
	for level := range levels {
		for _, t := range levels[level] {
			out = append(out, table{bytes.Clone(t.Smallest.UserKey), bytes.Clone(t.Largest.UserKey), t.Size, t.Properties.NumDeletions > 0, level, uint64(t.FileNum)})
		}
	}
	return out, nil
}

// compact moves what there is between two keys down to the last level. Close does not wait for its turn.
func (s *Store) compact(ctx context.Context, from, to []byte) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for ctx.Err() == nil {
			if s.closing.Load() {
				cancel(ErrClosed)
			}
			pause(ctx)
		}
	}()
	if err := s.db.Compact(ctx, from, to, false); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return s.failed(err)
	}
	return nil
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(lookAgain):
	}
}

// sweep takes tombstones out of the last level, with the keys that they name. Pebble leaves them out when it writes that level, but a file that
// nothing overlaps is moved there as it is. One with many tombstones Pebble then writes anew by itself; others are, together with what
// overlaps them: a tombstone of a key that never was.
func (s *Store) sweep(ctx context.Context) error {
	left, err := s.sunk()
	for len(left) > 0 && err == nil {
		if pause(ctx); ctx.Err() != nil {
			return ctx.Err()
		}
		var now map[uint64]table
		if now, err = s.sunk(); err != nil {
			return err
		}
		for n := range left { // what sinks meanwhile is of later deletions
			if _, there := now[n]; !there {
				delete(left, n)
			} else if err := errors.Join(s.touch(left[n].first, left[n].last), s.compact(ctx, left[n].first, append(bytes.Clone(left[n].last), 0xff))); err != nil {
				return err
			}
		}
	}
	return err
}

// sunk are the files of the last level that have tombstones, by number.
func (s *Store) sunk() (map[uint64]table, error) {
	tables, err := s.tables()
	out := map[uint64]table{}
	for _, t := range tables {
		if t.level == lastLevel && t.tombstones {
			out[t.number] = t
		}
	}
	return out, err
}

// touch writes files that overlap what lies between some keys and that change nothing.
func (s *Store) touch(keys ...[]byte) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	var never [16]byte
	_, _ = rand.Read(never[:]) // never fails
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	for _, k := range keys {
		if err := b.Delete(append(bytes.Clone(k), never[:]...), nil); err != nil {
			return s.failed(err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return s.failed(err)
	}
	if err := s.db.Flush(); err != nil {
		return s.failed(err)
	}
	return nil
}

// relist waits until Pebble has replaced its list of files and removed the one before: these lists have the first and the last key of each file that
// there was. One is replaced when more files came and went than it began with.
func (s *Store) relist(ctx context.Context) error {
	before, err := s.lists()
	if err != nil {
		return err
	}
	for round := 1; ; round++ {
		if err := s.touch(touchKey); err != nil {
			return err
		}
		if round%touchesAtOnce == 0 {
			if err := s.compact(ctx, touchKey, After(touchKey)); err != nil {
				return err
			}
		}
		now, err := s.lists()
		if err != nil || !slices.ContainsFunc(now, func(name string) bool { return slices.Contains(before, name) }) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// lists are the names of Pebble's lists of files.
func (s *Store) lists() ([]string, error) {
	names, err := s.fs.List(s.dir)
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "MANIFEST-") }), err
}

// gone waits until the files that were replaced are removed: somebody may still be reading them.
func (s *Store) gone(ctx context.Context) error {
	for {
		if err := s.enter(); err != nil {
			return err
		}
		m := s.db.Metrics().Table
		s.leave()
		if m.ZombieCount == 0 && m.ObsoleteCount == 0 {
			return nil
		}
		if pause(ctx); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
