package records

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

const (
	fileName    = "records"
	damagedName = "records.damaged"
	filePerm    = 0o600
	dirPerm     = 0o700
	maxFile     = 1 << 30
	// slack is how much a file may grow beyond twice what it held when it was written whole.
	slack = 256 << 10
)

// disk is the file behind a store. Store.wmu guards it.
//
// The file is appended to, one sync a write, and written anew when much of it
// is superseded, at every start, and after a failed write or sync: then nobody knows what the
// disk has, and a whole new file settles it.
type disk struct {
	fs         faultfs.FS
	dir        string
	file       faultfs.File
	generation uint64
	size       int64
	limit      int64 // write it anew above this size
	broken     bool  // a write failed: the file must be written anew
}

// load reads the file. Without one it returns a zero header.
func (d *disk) load(take func(Record)) (h fileHeader, gaps []gap, err error) {
	path := d.dir + "/" + fileName
	data, err := faultfs.ReadFile(d.fs, path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fileHeader{}, nil, nil
	}
	if err != nil {
		return h, nil, err
	}
	if h, err = parseFileHeader(data); err != nil {
		return h, nil, fmt.Errorf("%s cannot be read: %w; move it away to start without it", path, err)
	}
	gaps = scan(data, h, take)
	if len(gaps) > 0 {
		err = faultfs.WriteFile(d.fs, d.dir, damagedName, data, filePerm)
	}
	return h, gaps, err
}

// append makes recs durable behind what is there.
func (d *disk) append(recs []Record) error {
	var b []byte
	for i := range recs {
		b = appendFrame(b, &recs[i], d.generation, d.size+int64(len(b)), d.size)
	}
	_, err := d.file.WriteAt(b, d.size)
	if err == nil {
		err = d.file.Datasync()
	}
	if err != nil {
		d.broken = true
		return err
	}
	d.size += int64(len(b))
	return nil
}

// rewrite replaces the file by one that holds what each passes to its argument.
func (d *disk) rewrite(clock uint64, each func(add func(*Record))) error {
	d.broken = true
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails since Go 1.24
	h := fileHeader{generation: binary.LittleEndian.Uint64(random[:]), clock: clock}
	b := make([]byte, headerSize, max(headerSize, d.size))
	each(func(r *Record) { b = appendFrame(b, r, h.generation, int64(len(b)), int64(len(b))) })
	h.whole = int64(len(b))
	copy(b, h.encode())
	if err := faultfs.WriteFile(d.fs, d.dir, fileName, b, filePerm); err != nil {
		return err
	}
	f, err := d.fs.OpenFile(d.dir+"/"+fileName, os.O_RDWR, filePerm)
	if err != nil {
		return err
	}
	old := d.file
	d.file, d.generation, d.size, d.broken = f, h.generation, int64(len(b)), false
	d.limit = 2*d.size + slack
	if old != nil {
		_ = old.Close() // its name is gone: nothing of it is needed
	}
	return nil
}

func (d *disk) close() error {
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}
