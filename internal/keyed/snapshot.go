package keyed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Snapshot is a synced copy of a partition's state, outside of its folder.
type Snapshot struct {
	Offset int64     `json:"offset"` // from which the input is still to be applied to it
	Taken  time.Time `json:"taken"`
	Bytes  int64     `json:"bytes"` // of its files, most of which it shares with the state

	path  string
	files []snapFile
}

// kept is how many snapshots of a partition are kept: if the newest is damaged there is another one, and the log still has what follows it.
const kept = 2

// newName is the folder of a snapshot that is being made.
const newName = "new"

// Snapshot makes a snapshot of a partition now. Without a change since the last one it does nothing.
func (w *Worker) Snapshot(ctx context.Context, partition int32) error {
	p := w.part(partition)
	store, open := w.Store(partition)
	switch {
	case !open:
		return fmt.Errorf("keyed: %s: partition %d is not open here", w.s.Name, partition)
	case p.snaps == "":
		return fmt.Errorf("keyed: %s: no folder for snapshots is set", w.s.Name)
	}
	return p.snap(ctx, store)
}

// keepSnapshots makes a snapshot each SnapshotEvery until ctx ends.
func (p *part) keepSnapshots(ctx context.Context, store *Store) {
	if p.snaps == "" {
		return
	}
	every := p.w.o.SnapshotEvery.D()
	t := time.NewTimer(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if err := p.snap(ctx, store); err != nil && ctx.Err() == nil {
			p.logger.Error("snapshot failed; the log is kept from the last good one on", "err", err)
		}
		t.Reset(every)
	}
}

// snap makes a snapshot, lets the log forget what it makes superfluous, and removes old ones.
func (p *part) snap(ctx context.Context, store *Store) error {
	p.w.snapping.Lock()
	defer p.w.snapping.Unlock()
	p.files.Lock()
	defer p.files.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	made, err := p.make(ctx, store)
	if err != nil {
		p.w.m.snapshot(p.id, "failed")
		return fmt.Errorf("keyed: snapshot of partition %d: %w", p.id, err)
	}
	if made == nil {
		return nil
	}
	p.w.m.snapshot(p.id, "made")
	p.logger.Debug("snapshot made", "offset", made.Offset, "bytes", made.Bytes)
	p.mu.Lock()
	p.snapshot = *made
	p.mu.Unlock()
	return p.retire(ctx, made.Offset)
}

// make makes a snapshot, or returns nil if there is one of this offset. The consumer goes on meanwhile.
func (p *part) make(ctx context.Context, store *Store) (*Snapshot, error) {
	fs := p.w.o.FS
	if err := makeDir(fs, p.snaps); err != nil {
		return nil, err
	}
	dir := fs.PathJoin(p.snaps, newName)
	if err := fs.RemoveAll(dir); err != nil {
		return nil, err
	}
	at, err := store.Offset()
	if err != nil {
		return nil, err
	}
	if have := p.list(); len(have) > 0 && have[0].Offset == at {
		return nil, nil
	}
	if err := store.checkpoint(dir); err != nil {
		return nil, err
	}
	m, err := p.describe(ctx, store, dir)
	if err != nil {
		return nil, err
	}
	if err := writeSynced(fs, fs.PathJoin(dir, manifestName), m.encode()); err != nil {
		return nil, err
	}
	if err := syncDir(fs, dir); err != nil {
		return nil, err
	}
	final := fs.PathJoin(p.snaps, fmt.Sprintf("%020d", m.offset))
	if err := p.discard(final); err != nil { // one that is damaged, or list had found it
		return nil, err
	}
	if err := fs.Rename(dir, final); err != nil {
		return nil, err
	}
	return &Snapshot{Offset: m.offset, Taken: m.taken, Bytes: m.bytes(), path: final, files: m.files}, syncDir(fs, p.snaps)
}

// checkpoint copies the state as of now into a new folder, synced. Files that never change are linked.
func (s *Store) checkpoint(dir string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.db.Flush(); err != nil {
		return s.failed(err)
	}
	if err := s.db.Checkpoint(dir); err != nil {
		return s.failed(err)
	}
	return nil
}

// describe makes the manifest of a checkpoint. That it opens is part of it: the offset stands inside.
func (p *part) describe(ctx context.Context, store *Store, dir string) (*manifest, error) {
	fs := p.w.o.FS
	m := &manifest{consumer: p.w.s.Name, partition: p.id, version: p.w.s.Version, taken: time.Now().UTC()}
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		f, known := store.sums[name]
		if !known {
			if f, err = sum(fs, fs.PathJoin(dir, name), ctx.Err); err != nil {
				return nil, err
			}
		}
		if immutable(name) {
			store.sums[name] = f
		}
		m.files = append(m.files, f)
	}
	for name := range store.sums {
		if !slices.Contains(names, name) {
			delete(store.sums, name)
		}
	}
	o := p.storeOptions()
	o.Memory, o.ReadOnly, o.MemTable = nil, true, 1<<20
	copied, err := OpenStore(dir, o)
	if err != nil {
		return nil, err
	}
	err = p.check(copied)
	if err == nil {
		m.offset, err = copied.Offset()
	}
	return m, errors.Join(err, copied.Close())
}

// retire lets the log go up to the oldest of the snapshots to be kept, and removes the others: those
// older, and those beyond the state, which are damaged or of a state that was thrown away.
func (p *part) retire(ctx context.Context, newest int64) error {
	fs := p.w.o.FS
	var keep []Snapshot
	for _, s := range p.list() {
		if s.Offset <= newest && len(keep) < kept {
			keep = append(keep, s)
		}
	}
	if len(keep) == 0 {
		return fmt.Errorf("keyed: partition %d: the snapshot is gone", p.id)
	}
	if err := p.hold(ctx, keep); err != nil {
		return err
	}
	names, err := fs.List(p.snaps)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := fs.PathJoin(p.snaps, name)
		if !slices.ContainsFunc(keep, func(s Snapshot) bool { return s.path == path }) {
			err = errors.Join(err, p.discard(path))
		}
	}
	return err
}

// hold tells the log what the oldest of some snapshots, newest first, needs of it.
func (p *part) hold(ctx context.Context, of []Snapshot) error {
	from := int64(0)
	if len(of) > 0 {
		from = of[len(of)-1].Offset
	}
	if err := p.w.log.Hold(ctx, p.w.s.Name, p.w.s.Input, p.id, from); err != nil {
		return fmt.Errorf("keyed: hold partition %d from offset %d: %w", p.id, from, err)
	}
	return nil
}

// discard removes a snapshot, its manifest first, so that a half removed one is none.
func (p *part) discard(path string) error {
	fs := p.w.o.FS
	manifest := fs.PathJoin(path, manifestName)
	if _, err := fs.Stat(manifest); err == nil {
		if err := fs.Remove(manifest); err != nil {
			return err
		}
		if err := syncDir(fs, path); err != nil {
			return err
		}
	}
	return fs.RemoveAll(path)
}

// list returns the snapshots of this consumer, partition and version, newest first, whose manifest is whole and whose files are
// there in the right size. What they contain is looked at when one is restored.
func (p *part) list() []Snapshot {
	if p.snaps == "" {
		return nil
	}
	fs := p.w.o.FS
	names, err := fs.List(p.snaps)
	if err != nil {
		return nil // there are none yet
	}
	var out []Snapshot
	for _, name := range names {
		path := fs.PathJoin(p.snaps, name)
		m, err := readManifest(fs, path)
		if name == newName || err != nil || m.consumer != p.w.s.Name || m.partition != p.id || m.version != p.w.s.Version || !complete(fs, path, m) {
			continue
		}
		out = append(out, Snapshot{Offset: m.offset, Taken: m.taken, Bytes: m.bytes(), path: path, files: m.files})
	}
	slices.SortFunc(out, func(a, b Snapshot) int { return int(max(-1, min(1, b.Offset-a.Offset))) })
	return out
}

func complete(fs vfs.FS, dir string, m *manifest) bool {
	for _, f := range m.files {
		if info, err := fs.Stat(fs.PathJoin(dir, f.name)); err != nil || info.Size() != f.size {
			return false
		}
	}
	return true
}
