//go:build crash

package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// held are domains whose mail a backlog keeps; that of the others is on its way.
const held = "e*.test"

// backlog runs the engine under load with part of its delivery suspended, and kills it.
func (w *world) backlog() {
	w.t.Helper()
	w.start()
	if _, err := w.admin.Suspend(context.Background(), adminapi.Filter{Domain: held}, time.Time{}, "test"); err != nil {
		w.t.Fatal(err)
	}
	w.startLoad(rate)
	time.Sleep(1200 * time.Millisecond) // long enough for some flushes of the index
	w.endLoad()
	w.kill()
}

// resume lets everything go, whatever the index remembers of suspensions.
func (w *world) resume() {
	w.t.Helper()
	if _, err := w.admin.ResumeMatching(context.Background(), adminapi.Filter{All: true}); err != nil {
		w.t.Fatal(err)
	}
}

// startFails runs the engine and wants it to end with an error that says all of this.
func (w *world) startFails(want ...string) {
	w.t.Helper()
	_, err := rig.Start(rig.Binary(w.t), w.config())
	if err == nil {
		w.t.Fatal("the engine started")
	}
	for _, s := range want {
		if !strings.Contains(err.Error(), s) {
			w.t.Errorf("the engine's last words do not say %q:\n%s", s, tail(err.Error(), 5))
		}
	}
	if strings.Contains(err.Error(), "goroutine ") {
		w.t.Errorf("the engine panicked:\n%s", tail(err.Error(), 30))
	}
}

// repair runs the command that the error names.
func (w *world) repair() {
	w.t.Helper()
	out, err := exec.Command(rig.Binary(w.t), "queue", "repair", "-c", w.config()).CombinedOutput()
	if err != nil {
		w.t.Fatalf("godwit queue repair: %v: %s", err, out)
	}
}

// tailOf finds where the records of a log end, by opening a copy of it.
func tailOf(t *testing.T, dir string) (path string, end int64) {
	t.Helper()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	l, err := seglog.Open(copied, seglog.Options{SegmentBytes: 1 << 20}, seglog.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	pos := l.Tail()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, fmt.Sprintf("%016x.seg", pos.Seg)), pos.Off
}

// TestTornTail: a power cut leaves any bytes behind the last record.
func TestTornTail(t *testing.T) {
	r := seeded(t)
	w := newWorld(t, r, "")
	w.backlog()
	garbage := func(n int) []byte {
		b := make([]byte, 1+r.IntN(n))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	for _, torn := range []func(f *os.File, end int64) error{
		func(f *os.File, end int64) error { return f.Truncate(end) },
		func(f *os.File, end int64) error { return f.Truncate(end + int64(1+r.IntN(100))) },
		func(f *os.File, end int64) error { _, err := f.WriteAt(garbage(10_000), end); return err },
		func(f *os.File, end int64) error { // an older record's bytes, cut off
			old := make([]byte, 1+r.IntN(2000))
			n, err := f.ReadAt(old, seglog.FirstOffset)
			if errors.Is(err, io.EOF) { // a young segment has fewer bytes
				err = nil
			}
			if err == nil {
				_, err = f.WriteAt(append(old[:n], garbage(10)...), end)
			}
			return err
		},
	} {
		for _, dir := range []string{"segments", "events"} {
			path, end := tailOf(t, filepath.Join(w.spool, dir))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err == nil {
				err = errors.Join(torn(f, end), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		w.start()
		w.kill()
	}
	w.start()
	w.resume()
	w.settle()
}

// TestTruncatedIndex: refused with the command that mends it, and mended by it.
func TestTruncatedIndex(t *testing.T) {
	w := newWorld(t, seeded(t), "")
	w.backlog()
	index := filepath.Join(w.spool, "index.bolt")
	if err := os.Truncate(index, int64(5*os.Getpagesize())); err != nil { // the file is long, but its end is not in use
		t.Fatal(err)
	}
	w.startFails("index.bolt is damaged", "godwit queue repair")
	w.repair()
	if kept, _ := filepath.Glob(index + ".damaged-*"); len(kept) != 1 {
		t.Errorf("the damaged index was not kept: %v", kept)
	}
	w.start()
	w.resume() // the suspension did not go with the index: it is a shared record
	w.settle()
}

// TestDamagedIndexPages: whatever pages of the index are garbage, the engine
// either does not need them or ends with the command that mends it. It never
// panics. Each try is on a copy of the volume that reaches no provider.
func TestDamagedIndexPages(t *testing.T) {
	r := seeded(t)
	w := newWorld(t, r, "")
	w.backlog()
	index := filepath.Join(w.spool, "index.bolt")
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	real := w.params
	const tries = 15
	var refused []byte
	n := 0
	for i := range tries {
		bad := w.garblePages(whole)
		w.params.Spool, w.params.Events, w.params.Port = filepath.Join(w.dir, fmt.Sprint("copy", i)), filepath.Join(w.dir, "copy.jsonl"), 1
		w.writeConfig()
		err := errors.Join(os.CopyFS(w.params.Spool, os.DirFS(w.spool)), os.WriteFile(filepath.Join(w.params.Spool, "index.bolt"), bad, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if !w.survives() {
			refused = bad
			n++
		}
	}
	t.Logf("refused %d of %d", n, tries)
	if n == 0 {
		t.Fatal("the engine never noticed")
	}
	w.params = real
	w.writeConfig()
	if err := os.WriteFile(index, refused, 0o600); err != nil {
		t.Fatal(err)
	}
	w.repair()
	w.start()
	w.resume()
	w.settle()
}

// garblePages returns the index with some of its pages damaged, but not the
// two at its head. Many of its pages are free, so one would rarely matter.
func (w *world) garblePages(whole []byte) []byte {
	bad, page := bytes.Clone(whole), os.Getpagesize()
	for at := 2 * page; at < len(bad); at += page {
		if w.r.IntN(8) != 0 {
			continue
		}
		from := at + w.r.IntN(2)*w.r.IntN(page) // all of it, or its end
		for i := from; i < at+page; i++ {
			bad[i] = byte(w.r.Uint32())
		}
	}
	return bad
}

// survives runs the engine for a moment. False: it ended with the right error,
// at the start or when it came to a bad page.
func (w *world) survives() bool {
	w.t.Helper()
	e, err := rig.Start(rig.Binary(w.t), w.config())
	if err == nil {
		time.Sleep(400 * time.Millisecond) // for a flush, and retries that fall due
		if syscall.Kill(e.PID(), 0) == nil {
			e.Kill()
			return true
		}
	}
	if said := e.Log(); !strings.Contains(said, "godwit queue repair") || strings.Contains(said, "goroutine ") {
		w.t.Fatalf("the engine on a damaged index:\n%s", tail(said, 40))
	}
	return false
}

// TestForeignVolume: another node, with another name and path, carries on.
func TestForeignVolume(t *testing.T) {
	w := newWorld(t, seeded(t), "")
	w.backlog()
	before, err := os.ReadFile(filepath.Join(w.spool, "VOLUME"))
	moved := filepath.Join(w.dir, "elsewhere")
	if err = errors.Join(err, os.Rename(w.spool, moved)); err != nil {
		t.Fatal(err)
	}
	w.spool, w.params.Spool, w.params.Hostname = moved, moved, "other.godwit.test"
	w.writeConfig()
	w.start()
	w.resume()
	w.settle()
	if after, err := os.ReadFile(filepath.Join(moved, "VOLUME")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the volume is now %s, was %s, %v", after, before, err)
	}
}

// TestVolumeInUse: a second process on the same volume ends, the first goes on.
func TestVolumeInUse(t *testing.T) {
	w := newWorld(t, seeded(t), "")
	w.start()
	second := w.params
	w.params.SMTP, w.params.HTTP, w.params.Admin = w.freePort(), w.freePort(), w.params.Admin+"2"
	w.writeConfig()
	w.startFails("in use by another process", w.spool)
	w.params = second
	w.writeConfig()
	w.startLoad(rate)
	time.Sleep(300 * time.Millisecond)
	w.settle()
}

// TestFullDisk: with no byte left, new mail is refused for now and what was
// accepted is delivered; with room again, all goes on.
func TestFullDisk(t *testing.T) {
	v := newVolume(t, 128<<20)
	w := newWorld(t, seeded(t), v.path("spool"))
	w.start()
	w.startLoad(rate)
	w.awaitAcked(500)
	ballast := v.fill()
	smtp, http := w.awaitRefusal()
	if !strings.HasPrefix(smtp, "452 4.3.1") {
		t.Errorf("SMTP on a full disk: %s", smtp)
	}
	if !strings.HasPrefix(http, "503") {
		t.Errorf("HTTP on a full disk: %s", http)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	acked, _, _ := w.counts()
	w.awaitAcked(acked + 500)
	w.settle()
}

// awaitAcked waits until the sources have so many acknowledgements.
func (w *world) awaitAcked(n int64) {
	w.t.Helper()
	err := rig.Eventually(func() error {
		if acked, _, _ := w.counts(); acked < n {
			return fmt.Errorf("%d acknowledged, want %d", acked, n)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestReadOnlyVolume: a clear error at the start, and when the kernel takes
// the file system away under load.
func TestReadOnlyVolume(t *testing.T) {
	v := newVolume(t, 256<<20, "errors=remount-ro")
	w := newWorld(t, seeded(t), v.path("spool"))
	w.backlog()
	v.remount("ro")
	w.startFails("read-only")
	v.remount("rw")
	w.start()
	w.resume()
	w.startLoad(rate)
	time.Sleep(500 * time.Millisecond)
	v.breakDown()
	code, err := w.engine.Wait()
	if err != nil || code == 0 {
		t.Errorf("the engine on a volume that became read-only: code %d, %v", code, err)
	}
	if last := tail(w.engine.Log(), 5); !strings.Contains(last, "could no longer record what it does") || !strings.Contains(last, "read-only") {
		t.Errorf("its last words:\n%s", last)
	}
	w.kill()
	v.unmount()
	v.mend()
	v.mount()
	w.start()
	w.settle()
}
