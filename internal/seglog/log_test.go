package seglog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small makes segments that a few records fill.
func small() Options { return Options{SegmentBytes: 16 << 10, Spares: 1, MaxRecord: 1 << 20} }

func open(t testing.TB, dir string, o Options, fsys faultfs.FS) *Log {
	t.Helper()
	l, err := Open(dir, o, Deps{FS: fsys, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func simulate(t testing.TB, dir string) *faultfs.Sim {
	t.Helper()
	s, err := faultfs.NewSim(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t testing.TB, l *Log, data ...string) []Pos {
	t.Helper()
	var all []Pos
	for _, d := range data {
		pos, err := l.Append(context.Background(), 1, []byte(d))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pos)
	}
	return all
}

// contents reads the whole log; corruption is returned beside the records around it.
func contents(t testing.TB, l *Log) (data []string, damage []*CorruptError) {
	t.Helper()
	last := Pos{}
	for rec, err := range l.Scan(Pos{}) {
		var c *CorruptError
		if errors.As(err, &c) {
			damage = append(damage, c)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Pos.Compare(last) <= 0 || rec.Next.Compare(rec.Pos) <= 0 {
			t.Fatalf("positions not rising: %v after %v, next %v", rec.Pos, last, rec.Next)
		}
		last = rec.Pos
		data = append(data, string(rec.Data))
	}
	return data, damage
}

func same(t testing.TB, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d records, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("record %d differs: %.40q, want %.40q", i, got[i], want[i])
		}
	}
}

// text returns n distinct records of the given size.
func text(prefix string, n, size int) []string {
	var out []string
	for i := range n {
		s := fmt.Sprintf("%s-%d-", prefix, i)
		out = append(out, s+string(bytes.Repeat([]byte{'a' + byte(i%26)}, max(0, size-len(s)))))
	}
	return out
}

func TestAppendAndRead(t *testing.T) {
	dir := t.TempDir()
	reg := prometheus.NewRegistry()
	l, err := Open(filepath.Join(dir, "log"), small(), Deps{Name: "test", Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	want := append(text("first", 40, 1000), "", "x", string(bytes.Repeat([]byte("large"), 20_000)), "after")
	positions := add(t, l, want...)
	parts, err := l.Append(context.Background(), 7, []byte("a"), nil, []byte("bc"))
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, "abc")
	got, damage := contents(t, l)
	same(t, got, want)
	if damage != nil {
		t.Fatal(damage)
	}
	for i, pos := range positions {
		for _, buf := range [][]byte{nil, make([]byte, 64), make([]byte, 1<<20)} {
			rec, err := l.Read(pos, buf)
			if err != nil || string(rec.Data) != want[i] || rec.Type != 1 {
				t.Fatalf("record %d: %v", i, err)
			}
		}
		raw := make([]byte, len(want[i]))
		if n, err := l.ReadAt(raw, pos.Seg, DataOffset(pos)); string(raw[:n]) != want[i] || err != nil && len(want[i]) > 0 {
			t.Fatalf("raw record %d: %v", i, err)
		}
	}
	if rec, err := l.Read(parts, nil); err != nil || rec.Type != 7 || rec.Next != l.Tail() {
		t.Fatalf("got %+v, %v", rec, err)
	}
	if st := l.Stats(); st.Records != uint64(len(want)) || st.Commits == 0 || st.Syncs < st.Commits {
		t.Fatalf("stats %+v", st)
	}
	if n, err := reg.Gather(); err != nil || len(n) == 0 {
		t.Fatalf("metrics: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), 1); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	if l, err = Open(filepath.Join(dir, "log"), small(), Deps{Name: "test", Registerer: reg}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want = append(want, "next run")
	add(t, l, "next run")
	got, _ = contents(t, l)
	same(t, got, want)
}

func TestScanFrom(t *testing.T) {
	l := open(t, t.TempDir(), small(), nil)
	want := text("r", 50, 900)
	positions := add(t, l, want...)
	for i, pos := range positions {
		for rec, err := range l.Scan(pos) {
			if err != nil || string(rec.Data) != want[i] {
				t.Fatalf("from %v: %v", pos, err)
			}
			break
		}
	}
	for rec, err := range l.Scan(l.Tail()) {
		t.Fatalf("behind the tail: %v, %v", rec.Pos, err)
	}
	for _, err := range l.Scan(Pos{Seg: l.Tail().Seg, Off: l.Tail().Off + 1}) {
		if err == nil {
			t.Fatal("a position beyond the end was accepted")
		}
	}
}

func TestConcurrentAppendsShareCommits(t *testing.T) {
	l := open(t, t.TempDir(), Options{SegmentBytes: 256 << 10, Spares: 2}, nil)
	const callers, each = 20, 50
	var wg sync.WaitGroup
	for c := range callers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var last Pos
			for i := range each {
				data := []byte(fmt.Sprintf("%d %d %s", c, i, bytes.Repeat([]byte("x"), 2000)))
				pos, err := l.Append(context.Background(), 1, data[:3], data[3:])
				if err != nil {
					t.Error(err)
					return
				}
				if pos.Compare(last) <= 0 {
					t.Errorf("position %v after %v", pos, last)
				}
				last = pos
				if rec, err := l.Read(pos, nil); err != nil || !bytes.Equal(rec.Data, data) {
					t.Errorf("not readable on return: %v", err)
				}
			}
		}()
	}
	wg.Wait()
	got, damage := contents(t, l)
	if len(got) != callers*each || damage != nil {
		t.Fatalf("%d records, %v", len(got), damage)
	}
	next := map[int]int{}
	for _, d := range got {
		var c, i int
		if _, err := fmt.Sscanf(d, "%d %d", &c, &i); err != nil || next[c] != i {
			t.Fatalf("caller %d: record %d, want %d (%v)", c, i, next[c], err)
		}
		next[c]++
	}
	if st := l.Stats(); st.Commits >= st.Records {
		t.Errorf("%d commits for %d records of 20 callers: nothing was grouped", st.Commits, st.Records)
	}
}

// TestFollowing reads behind two writers through many rolls: a reader at the tail sees every record once and no damage.
func TestFollowing(t *testing.T) {
	l := open(t, t.TempDir(), small(), nil)
	const writers, each = 2, 800
	var wg sync.WaitGroup
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range each {
				if _, err := l.Append(context.Background(), 1, make([]byte, 700)); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	defer wg.Wait()
	var at Pos
	for n := 0; n < writers*each; {
		for rec, err := range l.Scan(at) {
			if err != nil {
				t.Fatalf("at %v after %d records: %v", at, n, err)
			}
			n, at = n+1, rec.Next
		}
		runtime.Gosched()
	}
}

func TestTypeAndSizeRefused(t *testing.T) {
	l := open(t, t.TempDir(), small(), nil)
	if _, err := l.Append(context.Background(), 255, nil); !errors.Is(err, ErrBadType) {
		t.Error(err)
	}
	if _, err := l.Append(context.Background(), 1, make([]byte, 1<<20+1)); !errors.Is(err, mail.ErrTooLarge) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Append(ctx, 1, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFreeRecyclesAndForgets(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	for round := range 5 {
		add(t, l, text(fmt.Sprint("round", round), 60, 1000)...)
		for _, s := range l.Segments() {
			if s.Sealed && s.Seq%3 != 0 {
				if err := l.Free(s.Seq); err != nil {
					t.Fatal(err)
				}
				if _, err := l.Read(Pos{s.Seq, FirstOffset}, nil); !errors.Is(err, ErrFreed) {
					t.Fatalf("read of a freed segment: %v", err)
				}
				if err := l.Free(s.Seq); !errors.Is(err, ErrFreed) {
					t.Fatalf("freed twice: %v", err)
				}
			}
		}
	}
	if err := l.Free(l.Tail().Seg); err == nil {
		t.Fatal("the active segment was freed")
	}
	before, damage := contents(t, l)
	if damage != nil {
		t.Fatal(damage[0])
	}
	live := len(l.Segments())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, small(), nil)
	got, damage := contents(t, l)
	same(t, got, before)
	if damage != nil || len(l.Segments()) != live {
		t.Fatalf("%v, %d segments, want %d", damage, len(l.Segments()), live)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	if len(files) > live+small().Spares {
		t.Errorf("%d files for %d segments", len(files), live)
	}
}

func TestRoll(t *testing.T) {
	l := open(t, t.TempDir(), small(), nil)
	if err := l.Roll(); err != nil || len(l.Segments()) != 1 {
		t.Fatalf("rolling an empty segment: %v, %d segments", err, len(l.Segments()))
	}
	add(t, l, "one")
	if err := l.Roll(); err != nil {
		t.Fatal(err)
	}
	add(t, l, "two")
	infos := l.Segments()
	if len(infos) != 2 || !infos[0].Sealed || infos[1].Sealed || infos[0].Bytes != FirstOffset+HeaderSize+3+sealSize {
		t.Fatalf("%+v", infos)
	}
	got, _ := contents(t, l)
	same(t, got, []string{"one", "two"})
}

func TestFailedSyncPoisons(t *testing.T) {
	dir := t.TempDir()
	fsys := simulate(t, dir)
	l := open(t, dir, small(), fsys)
	add(t, l, "good")
	remove := fsys.Inject(faultfs.Rule{Op: faultfs.OpSync, Name: "*.seg", Times: 1, Err: syscall.EIO})
	if _, err := l.Append(context.Background(), 1, []byte("lost")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v", err)
	}
	remove()
	if _, err := l.Append(context.Background(), 1, []byte("more")); !errors.Is(err, ErrFailed) {
		t.Fatalf("the log went on after a failed sync: %v", err)
	}
	if err := l.Roll(); !errors.Is(err, ErrFailed) {
		t.Fatalf("roll: %v", err)
	}
	got, _ := contents(t, l)
	same(t, got, []string{"good"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, small(), fsys)
	add(t, l, "again")
	if got, _ := contents(t, l); got[0] != "good" || got[len(got)-1] != "again" {
		t.Fatalf("%q", got)
	}
}

func TestShortWritePoisons(t *testing.T) {
	dir := t.TempDir()
	fsys := simulate(t, dir)
	l := open(t, dir, small(), fsys)
	add(t, l, "good")
	fsys.Inject(faultfs.Rule{Op: faultfs.OpWrite, Name: "*.seg", Times: 1, Err: syscall.EIO, Short: 40})
	if _, err := l.Append(context.Background(), 1, []byte("a record that is cut short")); !errors.Is(err, ErrFailed) {
		t.Fatalf("got %v", err)
	}
	l.Close()
	l = open(t, dir, small(), fsys)
	add(t, l, "again")
	got, damage := contents(t, l)
	same(t, got, []string{"good", "again"})
	if damage != nil {
		t.Fatal(damage)
	}
}

func TestDiskFullDoesNotPoison(t *testing.T) {
	dir := t.TempDir()
	fsys := simulate(t, dir)
	o := small()
	o.Spares = 0
	l := open(t, dir, o, fsys)
	for _, op := range []faultfs.Op{faultfs.OpAllocate, faultfs.OpOpen} {
		remove := fsys.Inject(faultfs.Rule{Op: op, Name: "*", Err: syscall.ENOSPC})
		var err error
		for range 20 {
			if _, err = l.Append(context.Background(), 1, make([]byte, 3000)); err != nil {
				break
			}
		}
		if !errors.Is(err, mail.ErrDiskFull) {
			t.Fatalf("got %v", err)
		}
		add(t, l, "small ones still fit")
		if _, err := l.Append(context.Background(), 1, make([]byte, 100<<10)); !errors.Is(err, mail.ErrDiskFull) {
			t.Fatalf("oversize: %v", err)
		}
		remove()
		add(t, l, string(make([]byte, 100<<10)), "room again")
	}
	if err := l.Roll(); err != nil {
		t.Fatal(err)
	}
	fsys.Inject(faultfs.Rule{Op: faultfs.OpAllocate, Name: "*.seg", Err: syscall.ENOSPC})
	if _, err := l.Append(context.Background(), 1, make([]byte, 100<<10)); !errors.Is(err, mail.ErrDiskFull) {
		t.Fatalf("oversize in an empty segment: %v", err)
	}
	add(t, l, "last")
	if _, damage := contents(t, l); damage != nil {
		t.Fatal(damage[0])
	}
}

func TestReadOnlyVolume(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small(), nil)
	add(t, l, "x")
	l.Close()
	fsys := simulate(t, dir)
	fsys.Inject(faultfs.Rule{Op: faultfs.OpOpen, Name: "*.seg", Err: syscall.EROFS})
	_, err := Open(dir, small(), Deps{FS: fsys})
	if !errors.Is(err, syscall.EROFS) || !bytes.Contains([]byte(err.Error()), []byte("read-only volume")) {
		t.Fatalf("got %v", err)
	}
}

func TestOptionsValidate(t *testing.T) {
	for want, o := range map[string]Options{
		"segment_size": {SegmentBytes: 100, MaxRecord: 1},
		"spares":       {SegmentBytes: 1 << 20, MaxRecord: 1, Spares: -1},
		"max_record":   {SegmentBytes: 1 << 20, MaxRecord: -1},
	} {
		if err := o.Validate(); err == nil || err.Error()[:len(want)] != want {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
}

func TestPosBinary(t *testing.T) {
	for _, p := range []Pos{{}, {1, 4096}, {1<<64 - 1, 1<<63 - 1}} {
		got, err := ParsePos(p.Append(nil))
		if err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	if bytes.Compare(Pos{1, 256}.Append(nil), Pos{2, 1}.Append(nil)) >= 0 {
		t.Error("binary form does not sort")
	}
	for _, b := range [][]byte{nil, make([]byte, 15), bytes.Repeat([]byte{255}, 16)} {
		if _, err := ParsePos(b); !errors.Is(err, ErrBadPos) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

func TestManyOpenFiles(t *testing.T) {
	dir := t.TempDir()
	o := Options{SegmentBytes: 2 * FirstOffset, MaxRecord: 1 << 20}
	l := open(t, dir, o, nil)
	for i := range maxOpenFiles + 40 {
		add(t, l, fmt.Sprint(i))
		if err := l.Roll(); err != nil {
			t.Fatal(err)
		}
	}
	got, damage := contents(t, l)
	if len(got) != maxOpenFiles+40 || damage != nil {
		t.Fatalf("%d records, %v", len(got), damage)
	}
	if n := l.openFiles.Load(); n > maxOpenFiles+1 {
		t.Errorf("%d files open", n)
	}
	if _, err := os.Stat(filepath.Join(dir, manifestName)); err != nil {
		t.Error(err)
	}
}
