package faultfs

import (
	"errors"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIovecs is Linux's UIO_MAXIOV: one pwritev takes no more.
const maxIovecs = 1024

// vectors recycles the arrays that pwritev reads its buffers from; a group
// commit needs one at each call. It holds scratch memory, not state.
var vectors = sync.Pool{New: func() any { return new([]unix.Iovec) }}

// Writev implements File.
func (f *osFile) Writev(bufs [][]byte, off int64) (int64, error) {
	scratch := vectors.Get().(*[]unix.Iovec)
	defer func() {
		clear(*scratch)
		vectors.Put(scratch)
	}()
	iov := (*scratch)[:0]
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		iov = append(iov, v)
	}
	*scratch = iov
	n, err := f.pwritev(iov, off)
	runtime.KeepAlive(bufs)
	return n, f.wrap("pwritev", err)
}

// pwritev writes all of iov, in as many calls as the kernel wants.
func (f *osFile) pwritev(iov []unix.Iovec, off int64) (int64, error) {
	fd := f.f.Fd()
	defer runtime.KeepAlive(f.f)
	var total int64
	for len(iov) > 0 {
		part := iov[:min(len(iov), maxIovecs)]
		lo, hi := splitOffset(off + total)
		n, _, errno := unix.Syscall6(unix.SYS_PWRITEV, fd, uintptr(unsafe.Pointer(&part[0])), uintptr(len(part)), lo, hi, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return total, errno
		case n == 0:
			return total, io.ErrShortWrite
		}
		total += int64(n)
		iov = advance(iov, int(n))
	}
	return total, nil
}

// advance drops the n bytes already written from the front of iov.
func advance(iov []unix.Iovec, n int) []unix.Iovec {
	for n > 0 {
		have := int(iov[0].Len)
		if n < have {
			iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
			iov[0].SetLen(have - n)
			return iov
		}
		n -= have
		iov = iov[1:]
	}
	return iov
}

// splitOffset cuts a file offset into the two machine words of the system call.
func splitOffset(off int64) (lo, hi uintptr) {
	const bits = 8 * unsafe.Sizeof(uintptr(0))
	return uintptr(off), uintptr(uint64(off) >> (bits - 1) >> 1)
}

// Datasync implements File.
func (f *osFile) Datasync() error {
	fd := int(f.f.Fd())
	defer runtime.KeepAlive(f.f)
	for {
		err := unix.Fdatasync(fd)
		if !errors.Is(err, unix.EINTR) {
			return f.wrap("fdatasync", err)
		}
	}
}

// Allocate implements File.
func (f *osFile) Allocate(size int64) error {
	fd := int(f.f.Fd())
	defer runtime.KeepAlive(f.f)
	for {
		err := unix.Fallocate(fd, 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return f.grow(size)
		}
		return f.wrap("fallocate", err)
	}
}

// grow is Allocate where nothing can be reserved.
func (f *osFile) grow(size int64) error {
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	return f.Truncate(size)
}

func statfs(dir string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	block := int64(st.Bsize)
	return int64(st.Bavail) * block, int64(st.Blocks) * block, nil
}
