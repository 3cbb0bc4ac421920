package keyed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/stream"
)

// tableFS counts the tables that are made, by whether they are paced.
type tableFS struct {
	vfs.FS
	paced, others *atomic.Int64
}

func (f tableFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	switch {
	case path.Ext(name) != ".sst":
	case paced(c):
		f.paced.Add(1)
	default:
		f.others.Add(1)
	}
	return f.FS.Create(name, c)
}

func (f tableFS) Unwrap() vfs.FS { return f.FS }

// Pebble's names of what it writes are only strings: another version must not turn the pace off unnoticed.
func TestTablesArePaced(t *testing.T) {
	fs := tableFS{vfs.NewMem(), new(atomic.Int64), new(atomic.Int64)}
	m := NewMemory(1 << 20)
	defer m.Close()
	s, err := OpenStore("/s", StoreOptions{Memory: m, FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for range 2 { // the same key twice, so that a compaction has to write
		tx := s.Begin(stream.Assignment{})
		if err := tx.Set([]byte("k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(1); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	flushed := fs.paced.Load()
	if err := s.db.Compact(t.Context(), []byte{0}, []byte{255}, false); err != nil {
		t.Fatal(err)
	}
	if flushed != 2 || fs.paced.Load() != 3 || fs.others.Load() != 0 {
		t.Errorf("%d tables of flushes, %d of both that are paced, %d others; want 2, 3, 0", flushed, fs.paced.Load(), fs.others.Load())
	}
}

// A compaction that would take long does not hold up Close: it is given up, and the state is as it was.
func TestCloseGivesUpCompactions(t *testing.T) {
	fs := &slowFS{FS: vfs.NewMem(), began: make(chan struct{}, 1)}
	m := NewMemory(1 << 20)
	defer m.Close()
	s, err := OpenStore("/s", StoreOptions{Memory: m, FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 1<<10)
	for n := range 2 {
		tx := s.Begin(stream.Assignment{})
		for i := range 2000 {
			_, _ = rand.Read(value) // never fails
			if err := tx.Set(fmt.Appendf(nil, "k%d", i), value); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(tx.Commit(int64(n+1)), s.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	fs.slow.Store(true)
	compacted := make(chan error, 1)
	go func() { compacted <- s.db.Compact(context.Background(), []byte{0}, []byte{255}, false) }()
	<-fs.began // from now on each block waits until Close was called
	go func() {
		for !s.ending.Load() {
			runtime.Gosched()
		}
		fs.slow.Store(false)
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-compacted; err == nil {
		t.Error("the compaction was finished")
	}
	if s, err = OpenStore("/s", StoreOptions{FS: fs.FS}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if at, err := s.Offset(); at != 2 || err != nil {
		t.Errorf("the state is of offset %d, %v", at, err)
	}
	if ok, err := s.Has([]byte("k1999")); !ok || err != nil {
		t.Errorf("a key is there: %v, %v", ok, err)
	}
}

// slowFS holds up who writes tables while it is slow.
type slowFS struct {
	vfs.FS
	slow  atomic.Bool
	began chan struct{}
}

func (f *slowFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	if err != nil || !paced(c) {
		return file, err
	}
	return &slowFile{file, f}, nil
}

func (f *slowFS) Unwrap() vfs.FS { return f.FS }

type slowFile struct {
	vfs.File
	of *slowFS
}

func (f *slowFile) Write(p []byte) (int, error) {
	for f.of.slow.Load() {
		select {
		case f.of.began <- struct{}{}:
		default:
		}
		runtime.Gosched()
	}
	return f.File.Write(p)
}
