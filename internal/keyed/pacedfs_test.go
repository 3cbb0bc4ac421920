package keyed

import (
	"path"
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
