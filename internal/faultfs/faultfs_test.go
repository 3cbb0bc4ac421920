package faultfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// each runs a test on both filesystems.
func each(t *testing.T, f func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { f(t, OS{}, t.TempDir()) })
	t.Run("sim", func(t *testing.T) {
		dir := t.TempDir()
		f(t, newSim(t, dir), dir)
	})
}

func newSim(t *testing.T, dir string) *Sim {
	t.Helper()
	s, err := NewSim(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, fsys FS, name string) File {
	t.Helper()
	f, err := fsys.OpenFile(name, osCreate, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFileOperations(t *testing.T) {
	each(t, func(t *testing.T, fsys FS, dir string) {
		must(t, fsys.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
		name := filepath.Join(dir, "a", "b", "f")
		f := create(t, fsys, name)
		var bufs [][]byte
		var want []byte
		for i := range 2500 { // more than one pwritev takes
			b := bytes.Repeat([]byte{byte(i)}, i%7)
			bufs = append(bufs, b)
			want = append(want, b...)
		}
		n, err := f.Writev(bufs, 5)
		if err != nil || n != int64(len(want)) {
			t.Fatalf("wrote %d of %d: %v", n, len(want), err)
		}
		must(t, f.Datasync())
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 5); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read back differs: %v", err)
		}
		must(t, f.Allocate(100_000))
		must(t, f.Allocate(10))
		if size, err := f.Size(); err != nil || size != 100_000 {
			t.Fatalf("size %d, %v", size, err)
		}
		must(t, f.Truncate(7))
		must(t, f.Sync())
		must(t, fsys.Rename(name, name+"2"))
		must(t, fsys.SyncDir(filepath.Dir(name)))
		if _, err := fsys.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if data, err := ReadFile(fsys, name+"2", 7); err != nil || len(data) != 7 {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
		if _, err := ReadFile(fsys, name+"2", 6); err == nil {
			t.Fatal("the limit was not kept")
		}
		must(t, WriteFile(fsys, dir, "w", []byte("one"), 0o600))
		must(t, WriteFile(fsys, dir, "w", []byte("two"), 0o600))
		if entries, err := fsys.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Fatalf("%v, %v", entries, err)
		}
		must(t, fsys.Remove(name+"2"))
		if free, total, err := fsys.Free(dir); err != nil || free <= 0 || total < free {
			t.Fatalf("%d %d %v", free, total, err)
		}
	})
}

func TestRules(t *testing.T) {
	dir := t.TempDir()
	s := newSim(t, dir)
	f := create(t, s, filepath.Join(dir, "x.seg"))
	other := create(t, s, filepath.Join(dir, "y.log"))
	remove := s.Inject(Rule{Op: OpWrite, Name: "*.seg", Nth: 2, Times: 1, Err: syscall.EIO, Short: 3})
	for i, want := range []error{nil, syscall.EIO, nil} {
		n, err := f.WriteAt([]byte("hello"), int64(i)*10)
		if !errors.Is(err, want) || want != nil && n != 3 {
			t.Errorf("write %d: %d, %v", i, n, err)
		}
		if _, err := other.WriteAt([]byte("hello"), 0); err != nil {
			t.Errorf("another file: %v", err)
		}
	}
	remove()
	s.Inject(Rule{Op: OpRename, Name: "z", Err: syscall.ENOSPC})
	if err := s.Rename(filepath.Join(dir, "x.seg"), filepath.Join(dir, "z")); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	must(t, s.Rename(filepath.Join(dir, "x.seg"), filepath.Join(dir, "n")))
	s.Inject(Rule{Op: OpSync, Name: "n", Err: syscall.EIO})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("a renamed file is matched by its new name: %v", err)
	}
	s.SetFree(1, 2)
	if free, total, _ := s.Free(dir); free != 1 || total != 2 {
		t.Error(free, total)
	}
}

// TestCrash: what was synced stays; of the rest, over many cuts, everything from nothing to all is seen, and nothing else.
func TestCrash(t *testing.T) {
	seen := map[string]int{}
	for seed := range 200 {
		dir := t.TempDir()
		old := filepath.Join(dir, "old")
		must(t, os.WriteFile(old, []byte("before"), 0o600))
		s := newSim(t, dir)
		durable := create(t, s, filepath.Join(dir, "durable"))
		_, err := durable.WriteAt(bytes.Repeat([]byte("A"), 2048), 0)
		must(t, err)
		must(t, durable.Sync())
		must(t, s.SyncDir(dir))
		_, err = durable.WriteAt(bytes.Repeat([]byte("B"), 1500), 0)
		must(t, err)
		create(t, s, filepath.Join(dir, "new"))
		must(t, s.Remove(old))
		must(t, s.Crash(rand.New(rand.NewPCG(uint64(seed), 0))))
		if _, err := durable.WriteAt(nil, 0); !errors.Is(err, ErrCrashed) {
			t.Fatal(err)
		}
		if _, err := s.OpenFile(old, os.O_RDONLY, 0); !errors.Is(err, ErrCrashed) {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "durable"))
		must(t, err)
		if len(got) != 2048 || !bytes.Equal(got[1500:], bytes.Repeat([]byte("A"), 548)) {
			t.Fatalf("synced bytes changed: %d", len(got))
		}
		sectors := ""
		for at := 0; at < 1500; at += sector {
			part := got[at:min(at+sector, 1500)]
			if !bytes.Equal(part, bytes.Repeat(part[:1], len(part))) {
				t.Fatalf("a sector was torn at %d", at)
			}
			sectors += string(part[:1])
		}
		seen[sectors]++
		_, errOld := os.Stat(old)
		_, errNew := os.Stat(filepath.Join(dir, "new"))
		switch {
		case errNew != nil && errOld != nil:
			t.Fatal("the later change of names came without the earlier")
		case errOld == nil:
			seen["old"]++
			if b, _ := os.ReadFile(old); string(b) != "before" {
				t.Fatalf("old is %q", b)
			}
		default:
			seen["removed"]++
		}
	}
	for _, want := range []string{"AAA", "BBB", "BAA", "AAB", "ABA", "old", "removed"} {
		if seen[want] == 0 {
			t.Errorf("never seen: %s (%v)", want, seen)
		}
	}
}
