package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// ErrIndexDamaged is wrapped by IndexError.
var ErrIndexDamaged = errors.New("queue index is damaged")

// IndexError says what is wrong with the index file and what to do about it.
type IndexError struct {
	Path   string
	Reason string
}

// Error names the file, the reason and the command that mends it.
func (e *IndexError) Error() string {
	return fmt.Sprintf("queue index %s is damaged: %s; no message is lost: stop the server and run `godwit queue repair` to rebuild it from the segments", e.Path, e.Reason)
}

// Unwrap makes errors.Is(err, ErrIndexDamaged) true.
func (e *IndexError) Unwrap() error { return ErrIndexDamaged }

// The layout of a bbolt meta page, from its file format: a 16 byte page
// header, then magic, version, page size, flags, root (id, sequence),
// freelist, high-water page id, transaction id and an FNV-1a checksum.
const (
	metaHeader    = 16
	metaMagic     = 0xED0CDAED
	metaPageSize  = 8
	metaHighWater = 40
	metaChecksum  = 56
	metaSize      = 64
)

// checkIndexFile compares the file's size with the high-water mark of both
// meta pages. bbolt maps the file; a page beyond its end is a memory fault that
// kills the process, so this has to be known before it is opened.
func checkIndexFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	if info.Size() == 0 {
		return &IndexError{path, "it is empty"}
	}
	valid := 0
	pageSize := int64(os.Getpagesize())
	for page := range int64(2) {
		size, highWater, ok := readMeta(f, page*pageSize)
		if !ok {
			continue
		}
		valid++
		if need := int64(highWater) * int64(size); need > info.Size() {
			return &IndexError{path, fmt.Sprintf("it has %d bytes and should have %d: it was cut off", info.Size(), need)}
		}
	}
	if valid == 0 {
		return &IndexError{path, "neither of its two head pages is readable"}
	}
	return nil
}

func readMeta(f io.ReaderAt, off int64) (pageSize uint32, highWater uint64, ok bool) {
	var b [metaHeader + metaSize]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return 0, 0, false
	}
	m := b[metaHeader:]
	if binary.LittleEndian.Uint32(m) != metaMagic {
		return 0, 0, false
	}
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaChecksum])
	if sum.Sum64() != binary.LittleEndian.Uint64(m[metaChecksum:]) {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint32(m[metaPageSize:]), binary.LittleEndian.Uint64(m[metaHighWater:]), true
}

// guardFault runs f with memory faults in this goroutine turned into an error:
// a page inside the file can still point beyond it.
func guardFault(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &IndexError{path, fmt.Sprint("reading it failed: ", r)}
		}
	}()
	return f()
}

// Check reads every row of every bucket, in this goroutine so that a fault is
// caught (bbolt's own checker runs in another). It reads the whole file.
func (x *Index) Check() error {
	return x.view(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				if string(name) != bucketDue {
					return nil
				}
				if _, ok := parseEntry(k, v); !ok {
					return x.damaged("row", k)
				}
				return nil
			})
		})
	})
}
