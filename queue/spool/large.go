package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/godwit-mta/godwit/internal/mail"
)

// LargeFile receives a body that is too large for the segment log. After
// Commit it becomes part of the spool when its Path is the Path of a Body given to Put.
type LargeFile struct {
	f    *os.File
	w    *bufio.Writer
	done bool
}

const partSuffix = ".part"

func (s *Spool) largePath(id mail.ID) string {
	return filepath.Join(s.dir, largeDir, id.String())
}

// Large starts a large body.
func (s *Spool) Large(_ context.Context) (*LargeFile, error) {
	if s.full.Load() {
		return nil, mail.ErrDiskFull
	}
	f, err := os.CreateTemp(s.path(largeDir), "*"+partSuffix)
	if err != nil {
		return nil, fmt.Errorf("spool: large body: %w", diskError(err))
	}
	return &LargeFile{f: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

// Path is where the bytes are until Put takes them over.
func (l *LargeFile) Path() string { return l.f.Name() }

// Write adds bytes. A full disk is mail.ErrDiskFull.
func (l *LargeFile) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	return n, diskError(err)
}

func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", mail.ErrDiskFull, err)
	}
	return err
}

// Commit makes the bytes durable; their name is made durable by Put.
func (l *LargeFile) Commit() error {
	l.done = true
	if err := errors.Join(l.w.Flush(), l.f.Sync(), l.f.Close()); err != nil {
		_ = os.Remove(l.f.Name())
		return fmt.Errorf("spool: large body: %w", diskError(err))
	}
	return nil
}

// adoptLarge gives a committed large file the name of its body, durably.
func (s *Spool) adoptLarge(b *mail.Body) error {
	path := s.largePath(b.ID)
	if err := os.Rename(b.Path, path); err != nil {
		return fmt.Errorf("spool: large body: %w", diskError(err))
	}
	b.Path = path
	if err := s.fs.SyncDir(s.path(largeDir)); err != nil {
		return fmt.Errorf("spool: large body: %w", diskError(err))
	}
	return nil
}

// Abort throws the bytes away, unless Put has taken them over.
func (l *LargeFile) Abort() {
	if !l.done {
		l.done = true
		_ = l.f.Close()
	}
	_ = os.Remove(l.f.Name()) // gone, or under its body's name: then it is not ours
}

// sweepLarge removes files that no message refers to: uploads cut off by a crash.
func (s *Spool) sweepLarge() error {
	entries, err := os.ReadDir(s.path(largeDir))
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	for _, e := range entries {
		id, err := mail.ParseID(e.Name())
		if err == nil && s.shared[id] != nil {
			continue
		}
		if err := os.Remove(filepath.Join(s.path(largeDir), e.Name())); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
	}
	return nil
}
