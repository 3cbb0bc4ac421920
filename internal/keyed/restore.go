package keyed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/stream"
)

// errNoSource says that a state cannot be made anew: neither is there a snapshot, nor does the log go back far enough.
var errNoSource = errors.New("keyed: there is nothing to make the state from")

// errOther says that a folder has no state that this consumer can go on with.
var errOther = errors.New("keyed: not a state of this consumer, partition and version")

// errSnapshot says that a file of a snapshot is not as its manifest says.
var errSnapshot = errors.New("keyed: snapshot is damaged")

// stateVersion is the layout of the reserved rows.
const stateVersion = 1

var identityKey = []byte{reserved, 'v'}

// identity is a row that says what a state is of.
func (p *part) identity() []byte {
	b := binary.BigEndian.AppendUint32([]byte{stateVersion}, p.w.s.Version)
	b = binary.BigEndian.AppendUint32(b, uint32(p.id))
	return append(b, p.w.s.Name...)
}

// check reports whether a state is of this consumer, partition and version.
func (p *part) check(s *Store) error {
	v, err := s.Get(identityKey)
	if errors.Is(err, ErrNotFound) || err == nil && string(v) != string(p.identity()) {
		return errOther
	}
	return err
}

func (p *part) storeOptions() StoreOptions {
	w := p.w
	return StoreOptions{Memory: w.memory, MemTable: uint64(w.o.MemTable), Merger: w.s.Merger, FS: w.o.FS, Logger: p.logger}
}

// open opens the state. It is made anew if it is missing or cannot be used, or there is a reason to replace it.
func (p *part) open(ctx context.Context, replace error) (*Store, error) {
	p.files.Lock()
	defer p.files.Unlock()
	p.step(StateOpening)
	have := p.list()
	if len(have) > 0 {
		p.mu.Lock()
		p.snapshot = have[0]
		p.mu.Unlock()
	}
	if err := p.hold(ctx, have); err != nil {
		return nil, err
	}
	if replace == nil {
		store, err := p.openState()
		if err == nil || transient(err) {
			return store, err
		}
		replace = err
	}
	p.step(StateRestoring)
	return p.restore(ctx, have, replace)
}

// step notes what is being done, and leaves the last error to be seen.
func (p *part) step(s State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = s
}

// openState opens the folder as it is.
func (p *part) openState() (*Store, error) {
	if _, err := p.w.o.FS.Stat(p.dir); err != nil {
		return nil, fmt.Errorf("keyed: %w", err)
	}
	store, err := OpenStore(p.dir, p.storeOptions())
	if err != nil {
		return nil, err
	}
	if err := p.check(store); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", p.dir, err), store.Close())
	}
	return store, nil
}

// transient reports whether an error of opening says nothing of the state itself.
func transient(err error) bool {
	for _, e := range []error{syscall.EAGAIN, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// restore replaces the state by the newest snapshot that is whole and that the log goes on from; without one, by an empty state, if
// the log has everything. If there is neither, the folder is left alone.
func (p *part) restore(ctx context.Context, have []Snapshot, why error) (*Store, error) {
	for _, s := range have {
		store, err := p.restoreFrom(ctx, s)
		if err == nil {
			p.w.m.restored(p.id, "snapshot")
			p.logger.Warn("state restored from a snapshot", "offset", s.Offset, "why", why)
			return store, nil
		}
		if ctx.Err() != nil || transient(err) {
			return nil, err
		}
		p.logger.Error("snapshot cannot be used", "offset", s.Offset, "err", err)
		if errors.Is(err, errSnapshot) { // it must not count as one of those kept
			if err := p.discard(s.path); err != nil {
				return nil, err
			}
		}
	}
	if err := p.complete(ctx, why); err != nil {
		return nil, err
	}
	fs := p.w.o.FS
	if err := fs.RemoveAll(p.dir); err != nil {
		return nil, err
	}
	if err := makeDir(fs, p.dir); err != nil {
		return nil, err
	}
	store, err := OpenStore(p.dir, p.storeOptions())
	if err != nil {
		return nil, err
	}
	tx := store.Begin(stream.Assignment{})
	tx.add(opSet, identityKey, p.identity())
	if err := errors.Join(tx.Commit(0), tx.drop()); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	p.w.m.restored(p.id, "log")
	p.logger.Info("state begins empty", "why", why)
	return store, nil
}

// complete returns an error unless the log has all records from its beginning on.
func (p *part) complete(ctx context.Context, why error) error {
	err := p.readable(ctx, 1)
	if !errors.Is(err, stream.ErrTooOld) {
		return err
	}
	start, serr := p.w.s.Input.Start(ctx, p.id)
	if serr != nil {
		return fmt.Errorf("keyed: partition %d: %w", p.id, serr)
	}
	where := p.snaps
	if where == "" {
		where = "(none: no folder for snapshots is set)"
	}
	return fmt.Errorf("%w: partition %d of %s: %w; %s now begins at offset %d, and there is no whole snapshot from there on in %s: "+
		"put a copy of such a snapshot, or of the state, back in its place", errNoSource, p.id, p.w.s.Name, why, p.w.s.Input.Name(), start, where)
}

// readable reports whether the log has all records from an offset on.
func (p *part) readable(ctx context.Context, from int64) error {
	r, err := p.w.s.Input.Read(ctx, p.id, from)
	if err != nil {
		return err
	}
	return r.Close()
}

// restoreFrom puts a snapshot in the place of the state, if it is whole.
func (p *part) restoreFrom(ctx context.Context, s Snapshot) (*Store, error) {
	if err := p.readable(ctx, s.Offset); err != nil {
		return nil, err
	}
	fs := p.w.o.FS
	for _, f := range s.files {
		got, err := sum(fs, fs.PathJoin(s.path, f.name), ctx.Err)
		if err != nil {
			return nil, err
		}
		if got != f {
			return nil, fmt.Errorf("%w: %s", errSnapshot, fs.PathJoin(s.path, f.name))
		}
	}
	fresh := p.dir + ".new"
	if err := p.copy(s, fresh); err != nil {
		return nil, err
	}
	if err := fs.RemoveAll(p.dir); err != nil {
		return nil, err
	}
	if err := fs.Rename(fresh, p.dir); err != nil {
		return nil, err
	}
	if err := syncDir(fs, fs.PathDir(p.dir)); err != nil {
		return nil, err
	}
	return p.openState()
}

// copy makes a folder with the files of a snapshot.
func (p *part) copy(s Snapshot, dir string) error {
	fs := p.w.o.FS
	if err := fs.RemoveAll(dir); err != nil {
		return err
	}
	if err := makeDir(fs, dir); err != nil {
		return err
	}
	for _, f := range s.files {
		put := vfs.Copy
		if immutable(f.name) {
			put = vfs.LinkOrCopy
		}
		if err := put(fs, fs.PathJoin(s.path, f.name), fs.PathJoin(dir, f.name)); err != nil {
			return err
		}
	}
	return syncDir(fs, dir)
}

// immutable reports whether Pebble never changes a file of this name once it is written, so that it may be shared.
func immutable(name string) bool {
	ext := path.Ext(name)
	return ext == ".sst" || ext == ".blob"
}

// Rebuild throws the state of a partition away, takes the newest snapshot in its place, or an empty one, and
// consumes from there. It returns when that is open; catching up follows. The state stays if there is nothing to make another from.
func (w *Worker) Rebuild(ctx context.Context, partition int32) error {
	p := w.part(partition)
	if p == nil {
		return fmt.Errorf("keyed: %s: there is no partition %d", w.s.Name, partition)
	}
	if err := p.replaceable(ctx); err != nil {
		return err
	}
	done, err := p.ask()
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replaceable returns an error if there is nothing to make another state from, as far as can be told while this one is in use.
func (p *part) replaceable(ctx context.Context) error {
	p.files.Lock()
	defer p.files.Unlock()
	for _, s := range p.list() {
		if p.readable(ctx, s.Offset) == nil {
			return nil
		}
	}
	return p.complete(ctx, errRebuild)
}

// ask ends consuming for a rebuild, whose result comes from the channel.
func (p *part) ask() (chan error, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel == nil {
		return nil, fmt.Errorf("keyed: %s: partition %d is not open here", p.w.s.Name, p.id)
	}
	done := make(chan error, 1)
	p.asked = append(p.asked, done)
	p.cancel(errRebuild)
	return done, nil
}
