//go:build crash

package crash

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/load"
)

// backlog injects while delivery stands still, and kills the program, so that
// everything acknowledged is on the volume and nowhere else.
func (r *rig) backlog(n int64) []ledger.Ack {
	r.t.Helper()
	r.mustStart()
	r.cli("queue", "suspend", "--all", "--reason", "test")
	o := r.bySMTP(0)
	o.Count = n
	l, err := load.New(o, load.Deps{})
	if err != nil {
		r.t.Fatal(err)
	}
	if report, err := l.Run(context.Background()); err != nil || !report.OK() {
		r.t.Fatalf("injection: %+v, %v", report, err)
	}
	r.kill()
	return l.Acks()
}

// cli runs a command of the program and returns what it printed.
func (r *rig) cli(args ...string) string {
	r.t.Helper()
	out, err := r.tryCLI(args...)
	if err != nil {
		r.t.Fatalf("godwit %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (r *rig) tryCLI(args ...string) (string, error) {
	cmd := exec.Command(binary(r.t), append(args, "-c", r.config())...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// deliverAll lets everything go and compares the books.
func (r *rig) deliverAll(acks []ledger.Ack) {
	r.t.Helper()
	r.mustStart()
	r.resume()
	r.awaitEmpty()
	r.terminate()
	if books := ledger.Reconcile(acks, r.sink.Deliveries()); !books.OK() || len(books.Duplicates) > 0 {
		r.t.Errorf("books: %s", books)
	}
}

// resume ends every suspension there is.
func (r *rig) resume() {
	r.t.Helper()
	for line := range strings.Lines(r.cli("queue", "suspensions", "--json")) {
		if _, rest, ok := strings.Cut(line, `"id": "`); ok {
			id, _, _ := strings.Cut(rest, `"`)
			r.cli("queue", "resume", id)
		}
	}
}

// newest is the segment with the highest name in a log's folder.
func newest(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no segments in %s: %v", dir, err)
	}
	return files[len(files)-1]
}

// TestTornTail: garbage behind the last record of both logs is not mistaken for mail.
func TestTornTail(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "spool"))
	acks := r.backlog(500)
	for _, dir := range []string{"segments", "events"} {
		f, err := os.OpenFile(newest(t, filepath.Join(r.spool, dir)), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		end := len(strings.TrimRight(string(b), "\x00"))
		if _, err := f.WriteAt([]byte("half a record that a power cut left"), int64(end)); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	r.deliverAll(acks)
}

// TestTruncatedIndex: refused with the repair command; after it nothing is lost.
func TestTruncatedIndex(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "spool"))
	acks := r.backlog(500)
	r.mustStart() // brings everything into the index
	r.terminate()
	index := filepath.Join(r.spool, "index.bolt")
	if err := os.Truncate(index, 20<<10); err != nil {
		t.Fatal(err)
	}
	if err := r.start(); err == nil || !strings.Contains(err.Error(), "godwit queue repair") {
		t.Fatalf("start on a truncated index: %v", err)
	}
	r.cli("queue", "repair")
	if kept, _ := filepath.Glob(index + ".damaged-*"); len(kept) != 1 {
		t.Errorf("the damaged index was not kept: %v", kept)
	}
	r.deliverAll(acks)
}

// TestForeignVolume: another node, with another name and path, carries on.
func TestForeignVolume(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, filepath.Join(dir, "spool"))
	acks := r.backlog(300)
	moved := filepath.Join(dir, "elsewhere")
	if err := os.Rename(r.spool, moved); err != nil {
		t.Fatal(err)
	}
	r.spool = moved
	r.configure()
	r.deliverAll(acks)
}

// TestVolumeInUse: a second program on the same volume ends with a clear error.
func TestVolumeInUse(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "spool"))
	r.mustStart()
	out, err := r.tryCLI("serve")
	if err == nil || !strings.Contains(out, "in use by another process") {
		t.Errorf("a second server: %v, %s", err, out)
	}
	r.terminate()
}

// TestFullDisk: new mail is put off with 452; what was accepted is delivered;
// with space again mail is taken again.
func TestFullDisk(t *testing.T) {
	v := newVolume(t, 256<<20)
	r := newRig(t, filepath.Join(v.mount, "spool"))
	t.Cleanup(r.kill)
	acks := r.backlog(500)
	ballast := filepath.Join(v.mount, "ballast")
	r.mustStart()
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for {
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	_ = f.Close()
	o := r.bySMTP(200)
	o.Count, o.Keep = 0, true
	l, err := load.New(o, load.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan *load.Report, 1)
	go func() {
		report, _ := l.Run(ctx)
		done <- report
	}()
	refused := func() bool { _, n, _ := l.Counts(); return n > 20 }
	await(t, "452 on a full disk", refused)
	r.resume()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	before, _, _ := l.Counts()
	await(t, "mail is taken again", func() bool { n, _, _ := l.Counts(); return n > before+100 })
	cancel()
	report := <-done
	for code := range report.Errors {
		if !strings.HasPrefix(code, "452") {
			t.Errorf("refused with %q", code)
		}
	}
	acks = append(acks, l.Acks()...)
	r.awaitEmpty()
	r.terminate()
	if books := ledger.Reconcile(acks, r.sink.Deliveries()); !books.OK() {
		t.Errorf("books: %s", books)
	}
	v.detach()
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 60 s for: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestReadOnlyVolume: at the start a clear error; under load the program ends,
// says why, and nothing that it acknowledged is lost.
func TestReadOnlyVolume(t *testing.T) {
	v := newVolume(t, 256<<20)
	r := newRig(t, filepath.Join(v.mount, "spool"))
	t.Cleanup(r.kill)
	acks := r.backlog(200)
	v.run("mount", "-o", "remount,ro", v.mount)
	if err := r.start(); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("start on a read-only volume: %v", err)
	}
	v.run("mount", "-o", "remount,rw", v.mount)
	r.deliverAll(acks)
	v.detach()
}
