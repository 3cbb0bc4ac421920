package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
)

// VolumeFormat is the version of the layout of a whole volume.
const VolumeFormat = 1

// Names inside a volume; docs/formats/spool.md describes each.
const (
	volumeFile = "VOLUME"
	lockFile   = "LOCK"
	indexFile  = "index.bolt"
	segmentDir = "segments"
	eventDir   = "events"
	largeDir   = "large"
)

// Volume identifies a spool volume, whichever node it is attached to.
type Volume struct {
	Format  int       `json:"format"`
	ID      mail.ID   `json:"id"`
	Created time.Time `json:"created"`
}

// ErrVolumeInUse is returned when another process has the volume open.
var ErrVolumeInUse = errors.New("spool volume is in use by another process")

// claim creates or reads the volume file and takes the lock.
func claim(fsys faultfs.FS, dir string) (v Volume, lock *os.File, err error) {
	for _, d := range []string{dir, filepath.Join(dir, largeDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return v, nil, fmt.Errorf("spool volume: %w; create the directory or set queue.path to one this user may write", err)
		}
	}
	lock, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return v, nil, fmt.Errorf("spool volume: %w; is it mounted read-only?", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return v, nil, fmt.Errorf("%w: %s", ErrVolumeInUse, dir)
	}
	if v, err = readVolume(fsys, dir); err != nil {
		_ = lock.Close()
	}
	return v, lock, err
}

func readVolume(fsys faultfs.FS, dir string) (v Volume, err error) {
	path := filepath.Join(dir, volumeFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newVolume(fsys, dir)
	}
	if err != nil {
		return v, fmt.Errorf("spool volume: %w", err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("spool volume: %s: %w; it names the format of everything beside it: restore it from a copy", path, err)
	}
	if v.Format != VolumeFormat {
		return v, fmt.Errorf("spool volume: %s has format %d, this program reads %d", dir, v.Format, VolumeFormat)
	}
	return v, nil
}

func newVolume(fsys faultfs.FS, dir string) (Volume, error) {
	now := time.Now().UTC()
	v := Volume{Format: VolumeFormat, ID: new(mail.IDs).New(now), Created: now}
	b, err := json.Marshal(v)
	if err == nil {
		err = faultfs.WriteFile(fsys, dir, volumeFile, append(b, '\n'), 0o600)
	}
	if err != nil {
		return v, fmt.Errorf("spool volume: %w", err)
	}
	return v, nil
}
