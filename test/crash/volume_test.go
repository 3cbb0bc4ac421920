//go:build crash

package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EXT4_IOC_SHUTDOWN of linux/ext4.h, _IOR('X', 125, __u32), and its flag that
// drops the journal's last transaction instead of writing it.
const (
	ioctlShutdown      = 0x8004587d
	shutdownNoLogFlush = 2
)

// volume is an ext4 file system in an image file of the test's own.
type volume struct {
	t       *testing.T
	image   string
	dir     string
	options string
	mounted bool
}

// newVolume makes a file system of size bytes and mounts it. Whatever happens, it is unmounted at the end.
func newVolume(t *testing.T, size int64, options ...string) *volume {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		unable(t, errors.New("mounting a file system takes root on Linux"))
	}
	dir := t.TempDir()
	v := &volume{t: t, image: filepath.Join(dir, "image"), dir: filepath.Join(dir, "mnt"), options: strings.Join(append(options, "loop"), ",")}
	f, err := os.Create(v.image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close(), os.Mkdir(v.dir, 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := command("mkfs.ext4", "-q", "-F", v.image); err != nil {
		unable(t, fmt.Errorf("mkfs.ext4: %w: %s", err, out))
	}
	t.Cleanup(v.release)
	if out, err := command("mount", "-o", v.options, v.image, v.dir); err != nil {
		unable(t, fmt.Errorf("mount: %w: %s", err, out))
	}
	v.mounted = true
	return v
}

func command(name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // outside the PATH of some
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (v *volume) path(name string) string { return filepath.Join(v.dir, name) }

func (v *volume) mount() {
	v.t.Helper()
	if out, err := command("mount", "-o", v.options, v.image, v.dir); err != nil {
		v.t.Fatalf("mount: %v: %s", err, out)
	}
	v.mounted = true
}

// unmount takes the volume away; the kernel may take a moment to let go of a killed process's files.
func (v *volume) unmount() {
	v.t.Helper()
	var err error
	for pause := time.Millisecond; pause < 4*time.Second; pause *= 2 {
		if err = unix.Unmount(v.dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(pause)
	}
	if err != nil {
		v.t.Fatalf("umount: %v", err)
	}
	v.mounted = false
}

// remount changes the options of the mounted file system.
func (v *volume) remount(mode string) {
	v.t.Helper()
	if out, err := command("mount", "-o", "remount,"+mode, v.dir); err != nil {
		v.t.Fatalf("mount -o remount,%s: %v: %s", mode, err, out)
	}
}

// breakDown has ext4 find an error, upon which it goes read-only (errors=remount-ro).
func (v *volume) breakDown() {
	v.t.Helper()
	out, err := command("findmnt", "-n", "-o", "SOURCE", v.dir)
	if err == nil {
		err = os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(out), "trigger_fs_error"), []byte("by the crash test"), 0)
	}
	if err != nil {
		unable(v.t, fmt.Errorf("triggering a file system error: %w", err))
	}
}

// mend repairs the unmounted file system.
func (v *volume) mend() {
	v.t.Helper()
	if out, err := command("e2fsck", "-fy", v.image); err != nil {
		v.t.Logf("e2fsck -fy: %v: %s", err, tail(out, 1)) // 1: errors were corrected
	}
}

// fill writes a file that leaves no room on the volume.
func (v *volume) fill() (path string) {
	v.t.Helper()
	path = v.path("ballast")
	f, err := os.Create(path)
	if err != nil {
		v.t.Fatal(err)
	}
	for size := 1 << 20; size >= 512; size /= 2 {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		err = nil
	}
	_ = f.Close() // whatever it says: the disk is full
	return path
}

// release is the end, also after a failure: the mount goes when its last user does.
func (v *volume) release() {
	if !v.mounted {
		return
	}
	if err := unix.Unmount(v.dir, 0); err != nil {
		err = unix.Unmount(v.dir, unix.MNT_DETACH)
		v.t.Logf("the volume was busy at the end: %v", err)
	}
	v.mounted = false
}

// shutdown cuts the power: what is not on the disk now never gets there.
func (v *volume) shutdown() {
	v.t.Helper()
	d, err := os.Open(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	flags := uint32(shutdownNoLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), ioctlShutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		unable(v.t, fmt.Errorf("EXT4_IOC_SHUTDOWN: %w", errno))
	}
}

// check has e2fsck look at the unmounted image, its journal not replayed, and
// returns its last words. It changes nothing.
func (v *volume) check() string {
	out, err := command("e2fsck", "-fn", v.image)
	return fmt.Sprintf("%s (%v)", tail(out, 1), err)
}
