package stream

import (
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// power is a file system whose power goes at a call chosen beforehand: at that
// instant what was not synced is lost or torn, at random.
type power struct {
	faultfs.FS
	sim  *faultfs.Sim
	r    *rand.Rand
	mu   sync.Mutex
	left int // calls until the cut
	off  bool
}

func newPower(t *testing.T, dir string, r *rand.Rand) *power {
	t.Helper()
	sim, err := faultfs.NewSim(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &power{FS: sim, sim: sim, r: rand.New(rand.NewPCG(r.Uint64(), 2)), left: 1 + r.IntN(1+r.IntN(500))}
}

// cut ends it now, if it has not ended yet.
func (p *power) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutLocked()
}

func (p *power) cutLocked() {
	if !p.off {
		p.off = true
		if err := p.sim.Crash(p.r); err != nil {
			panic(err) // the test's own folder failed
		}
	}
}

func (p *power) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left--; p.left == 0 {
		p.cutLocked()
	}
}

// OpenFile implements faultfs.FS.
func (p *power) OpenFile(name string, flag int, perm fs.FileMode) (faultfs.File, error) {
	f, err := p.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &poweredFile{f, p}, nil
}

// Rename implements faultfs.FS.
func (p *power) Rename(from, to string) error { p.tick(); return p.FS.Rename(from, to) }

// Remove implements faultfs.FS.
func (p *power) Remove(name string) error { p.tick(); return p.FS.Remove(name) }

// SyncDir implements faultfs.FS.
func (p *power) SyncDir(dir string) error { p.tick(); return p.FS.SyncDir(dir) }

// poweredFile counts the calls that change something.
type poweredFile struct {
	faultfs.File
	p *power
}

func (f *poweredFile) WriteAt(b []byte, off int64) (int, error) {
	f.p.tick()
	return f.File.WriteAt(b, off)
}

func (f *poweredFile) Writev(bufs [][]byte, off int64) (int64, error) {
	f.p.tick()
	return f.File.Writev(bufs, off)
}

func (f *poweredFile) Datasync() error { f.p.tick(); return f.File.Datasync() }
func (f *poweredFile) Sync() error     { f.p.tick(); return f.File.Sync() }

func (f *poweredFile) Truncate(size int64) error { f.p.tick(); return f.File.Truncate(size) }
func (f *poweredFile) Allocate(size int64) error { f.p.tick(); return f.File.Allocate(size) }
