//go:build crash

package crash

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-mta/godwit/internal/ledger"
)

// volume is an ext4 file system in a file, of the test's own.
type volume struct {
	t      *testing.T
	image  string
	mount  string
	loaded bool
}

func newVolume(t *testing.T, size int64) *volume {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "mounting a file system needs root")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		missing(t, err.Error())
	}
	v := &volume{t: t, image: filepath.Join(t.TempDir(), "volume.img"), mount: t.TempDir()}
	f, err := os.Create(v.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	v.run("mkfs.ext4", "-q", "-F", v.image)
	v.attach()
	t.Cleanup(func() {
		if v.loaded {
			_ = exec.Command("umount", "-l", v.mount).Run()
		}
	})
	return v
}

// missing skips, or fails where everything must be there.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("GODWIT_INTEROP") == "require" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func (v *volume) run(name string, args ...string) {
	v.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		v.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (v *volume) attach() {
	v.t.Helper()
	v.run("mount", "-o", "loop", v.image, v.mount)
	v.loaded = true
}

// detach unmounts; a process that was just killed may hold it for a moment.
func (v *volume) detach() {
	v.t.Helper()
	for range 200 {
		if err := exec.Command("umount", v.mount).Run(); err == nil {
			v.loaded = false
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	v.run("umount", v.mount)
}

// cut stops the file system as a power cut does: nothing more reaches the
// disk, not even the journal (EXT4_IOC_SHUTDOWN with NOLOGFLUSH, linux/fs/ext4/ext4.h).
func (v *volume) cut() {
	v.t.Helper()
	const ioctlShutdown, noLogFlush = 0x8004587d, 2
	d, err := os.Open(v.mount)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := unix.IoctlSetPointerInt(int(d.Fd()), ioctlShutdown, noLogFlush); err != nil {
		v.t.Fatalf("EXT4_IOC_SHUTDOWN: %v", err)
	}
}

// darkness is the time between a cut and the death of the process. With the
// power gone nothing could have been answered in it, so no answer given in it is a
// promise: a sync that overlaps the cut may even succeed, where the kernel was
// about to turn unwritten extents into written ones and forgot the error.
type darkness struct{ from, to time.Time }

// promised drops the acknowledgements that were given in the dark.
func promised(acks []ledger.Ack, dark []darkness) (kept []ledger.Ack) {
	for _, a := range acks {
		lit := true
		for _, d := range dark {
			lit = lit && (a.At.Time().Before(d.from) || a.At.Time().After(d.to))
		}
		if lit {
			kept = append(kept, a)
		}
	}
	return kept
}

// TestPowerCut: the volume's power goes at random moments under load, in every
// other round at the moment of death, else up to 20 ms before it.
func TestPowerCut(t *testing.T) {
	random := random(t)
	v := newVolume(t, 1<<30)
	r := newRig(t, filepath.Join(v.mount, "spool"))
	t.Cleanup(r.kill) // before the volume goes
	r.mustStart()
	s := r.startSources(1500)
	var dark []darkness
	for round := range rounds(t) {
		time.Sleep(time.Duration(300+random.IntN(1500)) * time.Millisecond)
		if round%2 == 0 {
			r.kill()
			v.cut()
		} else {
			from := time.Now()
			v.cut()
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
			r.kill()
			dark = append(dark, darkness{from, time.Now()})
		}
		v.detach()
		v.attach()
		r.mustStart()
	}
	acks := s.stop()
	lit := promised(acks, dark)
	t.Logf("%d of %d acknowledgements were given with the power gone and do not count", len(acks)-len(lit), len(acks))
	r.awaitEmpty()
	r.terminate()
	r.reconcile(lit)
	r.checkEvents(lit)
	v.detach()
	if out, err := exec.Command("e2fsck", "-fn", v.image).CombinedOutput(); err != nil {
		t.Logf("e2fsck: %v\n%s", err, out)
	}
}
