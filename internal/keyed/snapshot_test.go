package keyed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/stream"
)

// trimmed is a topic that has lost its oldest records.
type trimmed struct {
	stream.Topic
	start atomic.Int64
}

func (t *trimmed) Start(context.Context, int32) (int64, error) { return t.start.Load(), nil }

func (t *trimmed) Read(ctx context.Context, p int32, from int64) (stream.Reader, error) {
	start := t.start.Load()
	if from > 0 && from < start {
		return nil, fmt.Errorf("offset %d: %w", from, stream.ErrTooOld)
	}
	return t.Topic.Read(ctx, p, max(from, start))
}

// holding is a log that remembers what is held.
type holding struct {
	stream.Log
	offset atomic.Int64
}

func (h *holding) Hold(_ context.Context, _ string, _ stream.Topic, _ int32, offset int64) error {
	h.offset.Store(offset)
	return nil
}

// withSnapshots has three snapshots taken of one partition, so two kept, and records behind them. The log has what they need.
func withSnapshots(t *testing.T) (*node, *trimmed) {
	t.Helper()
	n := newNode(t, 1)
	in := &trimmed{Topic: n.in}
	h := &holding{Log: n.log}
	h.offset.Store(-1)
	n.in, n.log = in, h
	n.start()
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 3 {
		for range 20 {
			n.wait(0, n.put(0, randomText(rnd), randomText(rnd)))
		}
		if err := n.w.Snapshot(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if at, want := h.offset.Load(), int64(max(40, 40*i)); at != want {
			t.Fatalf("held from %d, want %d", at, want)
		}
	}
	n.wait(0, n.put(0, "tail", "tail"))
	n.stop()
	return n, in
}

func TestStateLost(t *testing.T) {
	n, in := withSnapshots(t)
	in.start.Store(80) // what the oldest snapshot needs
	if err := n.o.FS.RemoveAll(n.o.Dir); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.verify0()
}

// verify0 is verify where the beginning of the input is trimmed.
func (n *node) verify0() {
	n.t.Helper()
	in := n.in
	n.in = in.(*trimmed).Topic
	n.verify()
	n.in = in
}

func TestStateOfAnotherVersion(t *testing.T) {
	n, _ := withSnapshots(t)
	w, err := NewWorker(n.log, n.o, func() Spec { s := n.spec(); s.Version = 2; return s }(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	n.w = w
	n.verify()
	store, _ := w.Store(0)
	if v, err := store.Get(identityKey); err != nil || v[4] != 2 {
		t.Errorf("the state of the old version is used: %v %v", v, err)
	}
	if s := n.w.Status()[0]; s.Snapshot.Offset != 0 {
		t.Errorf("a snapshot of another version counts: %+v", s.Snapshot)
	}
	if err := w.Snapshot(ctx, 0); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if have := w.parts[0].list(); len(have) != 1 {
		t.Errorf("%d snapshots", len(have))
	}
	if names, err := n.o.FS.List("/snaps/count/0"); err != nil || len(names) != 1 {
		t.Errorf("snapshots of the old version stay: %v, %v", names, err)
	}
}

// TestSnapshotDamaged damages one or both snapshots, deletes the state, and trims the log or not.
func TestSnapshotDamaged(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		n, in := withSnapshots(t)
		have := n.w.parts[0].list()
		if len(have) != 2 {
			t.Fatalf("%d snapshots", len(have))
		}
		both := rnd.IntN(3) == 0
		damage(t, n.o.FS, have[0].path, rnd)
		if both {
			damage(t, n.o.FS, have[1].path, rnd)
		}
		if err := n.o.FS.RemoveAll(n.o.Dir); err != nil {
			t.Fatal(err)
		}
		keep := rnd.IntN(2) == 0
		if !keep {
			in.start.Store(have[1].Offset)
		}
		n.start()
		if !both || keep {
			n.verify0()
			if err := n.w.Snapshot(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			checkKept(t, n)
		} else {
			n.expectError("put a copy")
		}
		n.stop()
	}
}

// checkKept restores from each snapshot that is kept.
func checkKept(t *testing.T, n *node) {
	t.Helper()
	p := n.w.parts[0]
	for _, s := range p.list() {
		for _, f := range s.files {
			if got, err := sum(n.o.FS, n.o.FS.PathJoin(s.path, f.name), t.Context().Err); err != nil || got != f {
				t.Fatalf("a kept snapshot is damaged: %s: %+v, want %+v (%v)", s.path, got, f, err)
			}
		}
	}
}

func (n *node) expectError(text string) {
	n.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if s := n.w.Status()[0]; strings.Contains(s.Error, text) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	n.t.Fatalf("no error with %q: %+v", text, n.w.Status()[0])
}

// damage changes a snapshot so that it is another: a byte, a length, a file that is gone, the whole manifest.
func damage(t *testing.T, fs vfs.FS, dir string, rnd *rand.Rand) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	name := fs.PathJoin(dir, names[rnd.IntN(len(names))])
	data := readAll(t, fs, name)
	switch r := rnd.IntN(4); {
	case r == 0:
		err = fs.Remove(name)
	case r == 1 && len(data) > 0:
		data[rnd.IntN(len(data))] ^= 1 << rnd.IntN(8)
		err = rewrite(fs, name, data)
	case r == 2 && len(data) > 0:
		err = rewrite(fs, name, data[:rnd.IntN(len(data))])
	default:
		err = rewrite(fs, name, append(data, 'x'))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rewrite replaces a file, so that links to the old one keep what they have.
func rewrite(fs vfs.FS, name string, data []byte) error {
	if err := fs.Remove(name); err != nil {
		return err
	}
	return writeSynced(fs, name, data)
}

func readAll(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, info.Size())
	if len(data) > 0 {
		if _, err := f.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

// TestStateDamaged damages files of the state itself while it is closed. Links of snapshots stay whole.
func TestStateDamaged(t *testing.T) {
	for seed := range uint64(30) {
		n, in := withSnapshots(t)
		in.start.Store(80)
		damageState(t, n.o.FS, "/state/count/0", rand.New(rand.NewPCG(seed, 3)))
		n.start()
		n.readable()
		n.verify0()
		n.stop()
	}
}

// readable waits until all of the state can be read: damage that a reader is the first to find leads to a restore.
func (n *node) readable() {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s, open := n.w.Store(0)
		if open && s.Scan([]byte{1}, []byte{0xff}, func(_, _ []byte) bool { return true }) == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatal("the state stays damaged")
		}
	}
}

func damageState(t *testing.T, fs vfs.FS, dir string, rnd *rand.Rand) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(names, func(s string) bool {
		return s == "LOCK" || strings.HasPrefix(s, "OPTIONS") || strings.HasSuffix(s, ".log") || len(readAll(t, fs, fs.PathJoin(dir, s))) == 0
	})
	name := fs.PathJoin(dir, names[rnd.IntN(len(names))])
	data := readAll(t, fs, name)
	switch rnd.IntN(3) {
	case 0:
		err = fs.Remove(name)
	case 1:
		for range 50 {
			data[rnd.IntN(len(data))] ^= 1 << rnd.IntN(8)
		}
		err = rewrite(fs, name, data)
	case 2:
		err = rewrite(fs, name, data[:len(data)/2])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamageShowsLate damages tables in place while they are in use. The snapshots share them, so all comes from the log. The
// damage is found by the processor, or, without input, by a reader.
func TestDamageShowsLate(t *testing.T) {
	t.Run("by the processor", func(t *testing.T) {
		n := inUseAndDamaged(t)
		for i := range 50 {
			n.put(0, fmt.Sprint(i))
		}
		n.verify()
	})
	t.Run("by a reader", func(t *testing.T) {
		n := inUseAndDamaged(t)
		old, _ := n.w.Store(0)
		if err := old.Scan([]byte("c"), nil, func(_, _ []byte) bool { return true }); err == nil {
			t.Fatal("the damage does not show")
		}
		deadline := time.Now().Add(10 * time.Second)
		for s, open := n.w.Store(0); !open || s == old; s, open = n.w.Store(0) {
			if time.Now().After(deadline) {
				t.Fatal("the damaged state stays")
			}
			time.Sleep(time.Millisecond)
		}
		n.put(0, "a")
		n.verify()
	})
}

func inUseAndDamaged(t *testing.T) *node {
	t.Helper()
	n := newNode(t, 1)
	n.o.Cache = 1 // every read goes to the files
	n.start()
	for range 3 {
		for i := range 50 {
			n.wait(0, n.put(0, fmt.Sprint(i)))
		}
		if err := n.w.Snapshot(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	names, err := n.o.FS.List("/state/count/0")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !immutable(name) {
			continue
		}
		f, err := n.o.FS.OpenReadWrite("/state/count/0/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 200), 10); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return n
}

func TestTooOldState(t *testing.T) {
	n, in := withSnapshots(t)
	old := vfs.NewCrashableMem() // a copy of the state of long ago
	if _, err := vfs.Clone(n.o.FS, old, "/state", "/state", vfs.CloneSync); err != nil {
		t.Fatal(err)
	}
	n.start()
	for range 2 {
		for range 30 {
			n.wait(0, n.put(0, "later"))
		}
		if err := n.w.Snapshot(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	n.stop()
	t.Run("restores", func(t *testing.T) {
		if _, err := vfs.Clone(n.o.FS, old, "/snaps", "/snaps", vfs.CloneSync); err != nil {
			t.Fatal(err)
		}
		n.t, n.o.FS = t, old
		in.start.Store(n.w.parts[0].list()[1].Offset)
		n.start()
		n.verify0()
		n.stop()
	})
	t.Run("cannot", func(t *testing.T) {
		n.t = t
		if err := old.RemoveAll("/snaps"); err != nil {
			t.Fatal(err)
		}
		in.start.Store(1 << 40)
		n.start()
		n.expectError("put a copy")
		if _, err := old.Stat("/state/count/0"); err != nil {
			t.Error("the state was thrown away though there is nothing to make it from")
		}
		n.stop()
	})
}

func TestRebuild(t *testing.T) {
	n, in := withSnapshots(t)
	in.start.Store(80)
	n.start()
	n.verify0()
	for range 3 {
		if err := n.w.Rebuild(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		n.verify0()
	}
	if err := n.o.FS.RemoveAll("/snaps"); err != nil {
		t.Fatal(err)
	}
	if err := n.w.Rebuild(t.Context(), 0); err == nil {
		t.Fatal("rebuilt of nothing")
	}
	in.start.Store(0)
	n.verify() // the state is still there
	if err := n.w.Rebuild(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	n.verify()
	if err := n.w.Rebuild(t.Context(), 7); err == nil {
		t.Error("rebuilt a partition that is none")
	}
}

func TestReplacedLog(t *testing.T) {
	n := newNode(t, 1)
	n.start()
	n.wait(0, n.put(0, "a", "b", "c"))
	n.stop()
	other := newNode(t, 1)
	other.o.FS = n.o.FS
	other.put(0, "x")
	other.start()
	other.expectError("the log was replaced")
}

func TestManifest(t *testing.T) {
	m := &manifest{consumer: "c", partition: 3, version: 2, offset: 12, taken: time.Unix(1, 5).UTC(), files: []snapFile{{"000001.sst", 5, 77}}}
	data := m.encode()
	got, err := parseManifest(data)
	if err != nil || string(got.encode()) != string(data) || got.files[0] != m.files[0] {
		t.Fatalf("%+v %v", got, err)
	}
	for i := range data {
		bad := slices.Clone(data)
		bad[i] ^= 4
		if _, err := parseManifest(bad); err == nil {
			t.Errorf("byte %d changed: taken all the same", i)
		}
		if _, err := parseManifest(data[:i]); err == nil {
			t.Errorf("cut at %d: taken all the same", i)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add((&manifest{consumer: "c", offset: 12, taken: time.Unix(1, 5), files: []snapFile{{"000001.sst", 5, 77}}}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err == nil && string(m.encode()) != string(data) {
			t.Error("another text for the same")
		}
		if err == nil && slices.ContainsFunc(m.files, func(f snapFile) bool { return strings.Contains(f.name, "/") }) {
			t.Error("a name outside of the folder")
		}
	})
}
