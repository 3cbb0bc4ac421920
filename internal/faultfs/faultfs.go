// Package faultfs is the little of a filesystem that our own durable files
// need, behind two interfaces, so that what a disk does on a bad day can be
// tested.
//
// OS is the real thing: positioned vectored writes (pwritev), fdatasync,
// fallocate, directory sync, free space. Sim works on a real temporary folder
// too but keeps book of what has been synced: it can fail any call by rule
// (EIO, ENOSPC, EROFS, a short write) and can cut the power, after which the
// folder holds what was synced plus a random part of what was not, torn at
// sector boundaries.
//
// Two promises of POSIX are easily forgotten, and Sim holds callers to both:
// a write is durable only after Datasync or Sync of that file, and a new,
// renamed or removed name is durable only after SyncDir of its folder.
package faultfs

import (
	"errors"
	"io"
	"io/fs"
)

// FS is a filesystem as durable files need it. Names are paths as the os package takes them.
type FS interface {
	// OpenFile opens a regular file; flag is made of os.O_*.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Remove(name string) error
	// Rename replaces newname atomically. It is durable after SyncDir.
	Rename(oldname, newname string) error
	ReadDir(dir string) ([]fs.DirEntry, error)
	MkdirAll(dir string, perm fs.FileMode) error
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Free returns the bytes that an unprivileged process can still write to the volume of dir, and the volume's size.
	Free(dir string) (free, total int64, err error)
}

// File is an open regular file with positioned access only.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Writev writes bufs one after the other at off and returns the bytes
	// written. It goes on after a short write; n is less than the sum only with an error.
	Writev(bufs [][]byte, off int64) (n int64, err error)
	// Datasync makes the content, and the size where reading needs it, durable (fdatasync).
	Datasync() error
	// Sync makes content and all attributes durable (fsync).
	Sync() error
	// Allocate reserves space up to size and grows the file to it; the new
	// part reads as zeros. Where the filesystem cannot reserve, it only grows the file.
	Allocate(size int64) error
	Truncate(size int64) error
	Size() (int64, error)
	Close() error
}

// WriteFile replaces dir/name by data so that a power cut leaves the old
// content or the new, never a mixture: written beside, synced, renamed, folder synced.
func WriteFile(fsys FS, dir, name string, data []byte, perm fs.FileMode) error {
	path := dir + "/" + name
	tmp := path + ".tmp"
	f, err := fsys.OpenFile(tmp, osCreate, perm)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, fsys.Remove(tmp))
	}
	return fsys.SyncDir(dir)
}

// ReadFile returns the whole content of a file of at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.OpenFile(name, osRead, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errTooBig}
	}
	data := make([]byte, size)
	n, err := f.ReadAt(data, 0)
	if err == io.EOF {
		err = nil
	}
	return data[:n], err
}

var errTooBig = errors.New("file is larger than it may be")
