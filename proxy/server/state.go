package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// saveEvery bounds how much of a daily limit a crash can forget.
const saveEvery = 10 * time.Second

func (s *Server) saves() bool { return s.d.Saver != nil && s.conf.Load().StateFile != "" }

// restore reads the counts of the run before. A file that cannot be understood
// is an error: to start with no counts would send more than a day allows.
func (s *Server) restore() error {
	if !s.saves() {
		return nil
	}
	b, err := readFile(s.d.FS, s.conf.Load().StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.d.Saver.Restore(b)
	}
	if err != nil {
		return fmt.Errorf("state_file: %w; if its counts do not matter, delete %s", err, s.conf.Load().StateFile)
	}
	return nil
}

func readFile(fsys faultfs.FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		return b, nil
	}
	return nil, err
}

// save writes the counts.
func (s *Server) save() error {
	if !s.saves() {
		return nil
	}
	b, err := s.d.Saver.Save()
	if err != nil {
		return fmt.Errorf("state_file: %w", err)
	}
	dir, name := filepath.Split(filepath.Clean(s.conf.Load().StateFile))
	if err := faultfs.WriteFile(s.d.FS, filepath.Clean(dir), name, b, 0o600); err != nil {
		return fmt.Errorf("state_file: %w", err)
	}
	return nil
}

func (s *Server) saveOften() {
	if !s.saves() {
		return
	}
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.serving.Done():
			return
		case <-tick.C:
			if err := s.save(); err != nil {
				s.log.Error("proxy state was not saved", "error", err)
			}
		}
	}
}
