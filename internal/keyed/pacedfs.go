package keyed

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/pace"
)

// pacedFS lets flushes and compactions rest as often as they work: each takes most of a second, and a stage's turn beside it
// would leave requests no CPU for milliseconds. Pebble makes tables as it writes them, so who holds up the writing holds up the work.
type pacedFS struct {
	vfs.FS
	hurry  func() bool
	ending func() bool // the state is being closed: what is being written is given up, and made again from what is there
}

// Create implements vfs.FS.
func (f pacedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	if paced(category) {
		return &pacedFile{file, pace.New(f.hurry), f.ending}, nil
	}
	return file, nil
}

// paced knows the categories as Pebble names them.
func paced(c vfs.DiskWriteCategory) bool {
	return c == "pebble-memtable-flush" || c == "pebble-compaction"
}

// Unwrap implements vfs.FS.
func (f pacedFS) Unwrap() vfs.FS { return f.FS }

// pacedFile is a table that is being written, by one goroutine at a time.
type pacedFile struct {
	vfs.File
	pace   pace.Pace
	ending func() bool
}

// Write implements vfs.File.
func (f *pacedFile) Write(p []byte) (int, error) {
	if f.ending() {
		return 0, ErrClosed // Pebble's Close would wait for all of it, half a minute for a large compaction
	}
	f.pace.Step()
	return f.File.Write(p)
}
