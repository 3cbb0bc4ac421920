package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// describe prints where and on what the benchmark runs, and refuses
// filesystems on which durability costs nothing or something else.
func (b *bench) describe() error {
	kind, err := filesystem(b.dir)
	if err != nil {
		return err
	}
	p50, p99, err := syncTimes(filepath.Join(b.dir, "sync"))
	if err != nil {
		return err
	}
	b.say("date        %s", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	b.say("machine     %d CPUs, %s, Linux %s, %s", runtime.NumCPU(), cpuModel(), kernel(), runtime.Version())
	b.say("filesystem  %s, fdatasync of 10 KB p50 %.2f ms, p99 %.2f ms (%s)", kind, ms(p50), ms(p99), b.dir)
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		b.say("load        %s", strings.TrimSpace(string(load)))
	}
	b.say("rounds      %d of %v, 20 connections, 10 KB, 10 domains, one recipient, unless a case says otherwise", b.o.rounds, b.o.load)
	if b.o.quick {
		b.say("QUICK: figures are for development only")
	}
	return nil
}

// filesystem names the type of the filesystem that dir is on.
func filesystem(dir string) (string, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return "", err
	}
	switch uint32(st.Type) {
	case 0x01021994, 0x858458f6:
		return "", fmt.Errorf("%s is on a memory filesystem: choose a real disk with -dir", dir)
	case 0x794c7630:
		return "", fmt.Errorf("%s is on overlayfs: choose a real disk with -dir", dir)
	case 0xef53:
		return "ext4", nil
	case 0x58465342:
		return "xfs", nil
	case 0x9123683e:
		return "btrfs", nil
	}
	return fmt.Sprintf("type %#x", uint32(st.Type)), nil
}

// syncTimes overwrites and syncs 10 KB at a time in a file that is there already, as the spool does.
func syncTimes(path string) (p50, p99 time.Duration, err error) {
	const n, size = 200, 10 << 10
	f, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(path)
	}()
	if _, err := f.Write(make([]byte, n*size)); err != nil {
		return 0, 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, 0, err
	}
	block := slices.Repeat([]byte{'x'}, size)
	times := make([]time.Duration, n)
	for i := range times {
		if _, err := f.WriteAt(block, int64(i*size)); err != nil {
			return 0, 0, err
		}
		begin := time.Now()
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, err
		}
		times[i] = time.Since(begin)
	}
	slices.Sort(times)
	return times[n/2], times[n*99/100], nil
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // for people only
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease") // for people only
	return strings.TrimSpace(string(b))
}

// allocated sums up the blocks of all files below dir for which want holds.
func allocated(dir string, want func(rel string) bool) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || !want(rel) {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// usage is what all files below dir take of the disk.
func usage(dir string) (int64, error) { return allocated(dir, func(string) bool { return true }) }
