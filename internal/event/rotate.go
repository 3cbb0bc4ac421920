package event

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// rotatedTime is the part of a renamed file's name that sorts by age.
const rotatedTime = "20060102T150405.000000"

const gzipSuffix = ".gz"

// due reports whether the file must be rotated before size more bytes go in.
func (s *FileSink) due(size int64) bool {
	if s.note.Offset == 0 {
		return false
	}
	tooBig := s.o.RotateSize > 0 && s.note.Offset+size > int64(s.o.RotateSize)
	tooOld := s.o.RotateEvery > 0 && time.Since(time.Unix(s.note.Started, 0)) >= s.o.RotateEvery.D()
	return tooBig || tooOld
}

// stem splits the path around the place where a renamed file has its time.
func (s *FileSink) stem() (before, after string) {
	after = filepath.Ext(s.o.Path)
	return strings.TrimSuffix(s.o.Path, after) + "-", after
}

// rotate renames the file and begins a new one. The name is durable in the
// cursor's note before the rename, so a crash in between is finished by restore.
func (s *FileSink) rotate() error {
	if s.stale > 0 { // bytes of an earlier run beyond the committed end must not go into the renamed file
		if err := s.file.Truncate(s.note.Offset); err != nil {
			return err
		}
		s.stale = 0
	}
	if err := s.file.Datasync(); err != nil {
		return err
	}
	before, after := s.stem()
	s.note.Rotate = before + time.Now().UTC().Format(rotatedTime) + after
	if err := s.commitNote(); err != nil {
		return err
	}
	if err := s.cursor.Save(); err != nil {
		return err
	}
	err := s.file.Close()
	s.file = nil
	if err != nil {
		return err
	}
	if err := s.finishRotation(); err != nil {
		return err
	}
	return s.open()
}

// finishRotation renames the file as noted, unless that was done, and notes that a new one begins.
func (s *FileSink) finishRotation() error {
	done, err := s.exists(s.note.Rotate)
	if err == nil && !done {
		done, err = s.exists(s.note.Rotate + gzipSuffix)
	}
	if err == nil && !done {
		err = s.renameAway()
	}
	if err != nil {
		return err
	}
	s.note = sinkNote{Started: time.Now().Unix()}
	s.dirty = false
	if err := s.commitNote(); err != nil {
		return err
	}
	return s.cursor.Save()
}

// renameAway cuts the file to its committed length and renames it; a file that someone took away is no error.
func (s *FileSink) renameAway() error {
	there, err := s.exists(s.o.Path)
	if err != nil || !there {
		return err
	}
	f, err := s.fs.OpenFile(s.o.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err == nil && size > s.note.Offset {
		if err = f.Truncate(s.note.Offset); err == nil {
			err = f.Sync()
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.fs.Rename(s.o.Path, s.note.Rotate); err != nil {
		return err
	}
	return s.fs.SyncDir(filepath.Dir(s.o.Path))
}

func (s *FileSink) wakeTidier() {
	select {
	case s.tidy <- struct{}{}:
	default:
	}
}

// tidier compresses and deletes renamed files in the background.
func (s *FileSink) tidier(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.tidy:
		}
		if err := s.tidyFiles(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("compressing or deleting old event files failed", "error", err)
		}
	}
}

// tidyFiles brings the renamed files into the wanted state.
func (s *FileSink) tidyFiles(ctx context.Context) error {
	names, err := s.rotated()
	if err != nil {
		return err
	}
	if s.o.KeepFiles > 0 && len(names) > s.o.KeepFiles {
		for _, name := range names[:len(names)-s.o.KeepFiles] {
			if err := s.fs.Remove(name); err != nil {
				return err
			}
		}
		names = names[len(names)-s.o.KeepFiles:]
	}
	for _, name := range names {
		if s.o.Compress && !strings.HasSuffix(name, gzipSuffix) {
			if err := s.compress(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// rotated lists the renamed files, oldest first.
func (s *FileSink) rotated() ([]string, error) {
	dir := filepath.Dir(s.o.Path)
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	before, after := s.stem()
	var names []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		middle, ok := strings.CutPrefix(path, filepath.Clean(before))
		middle = strings.TrimSuffix(middle, gzipSuffix)
		middle, ok2 := strings.CutSuffix(middle, after)
		if _, err := time.Parse(rotatedTime, middle); ok && ok2 && err == nil {
			names = append(names, path)
		}
	}
	slices.Sort(names)
	return names, nil
}

// compress replaces a file by its gzip form.
func (s *FileSink) compress(ctx context.Context, name string) (err error) {
	in, err := s.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := name + gzipSuffix + ".tmp"
	out, err := s.fs.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(&fileWriter{f: out})
	_, err = io.Copy(z, &fileReader{ctx: ctx, f: in})
	if err = errors.Join(err, z.Close()); err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = s.fs.Rename(tmp, name+gzipSuffix)
	}
	if err != nil {
		return errors.Join(err, s.fs.Remove(tmp))
	}
	if err := s.fs.SyncDir(filepath.Dir(name)); err != nil {
		return err
	}
	return s.fs.Remove(name)
}

// fileWriter writes one piece after the other.
type fileWriter struct {
	f   faultfs.File
	off int64
}

func (w *fileWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.off)
	w.off += int64(n)
	return n, err
}

// fileReader reads one piece after the other, until ctx ends.
type fileReader struct {
	ctx context.Context
	f   faultfs.File
	off int64
}

func (r *fileReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.f.ReadAt(p, r.off)
	r.off += int64(n)
	return n, err
}
