package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	berrors "go.etcd.io/bbolt/errors"
)

// Repair rebuilds the index of a volume from its segments and event log. The
// old index file is kept beside the new one, with the time in its name.
// Idempotency keys older than the segments are lost with it, and stored actions,
// of which the shared records bring suspensions back; no message is, but for those in Recovery.Damage.
func Repair(ctx context.Context, dir string, o Options, d Deps) (*Recovery, error) {
	s, r, err := open(ctx, dir, o, d, true)
	if err != nil {
		return nil, err
	}
	return r, s.Close()
}

// setAside renames the index; the volume is locked.
func setAside(path string) error {
	exists, err := indexExists(path)
	if err != nil || !exists {
		return err
	}
	return os.Rename(path, fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405")))
}

// CheckVolume reads the whole index of a volume and changes nothing.
// ErrVolumeInUse when a server has it open.
func CheckVolume(dir string) error {
	x, err := openIndex(filepath.Join(dir, indexFile), true)
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%w: %s", ErrVolumeInUse, dir)
	}
	if err != nil {
		return err
	}
	err = x.Check()
	if cerr := x.Close(); err == nil {
		err = cerr
	}
	return err
}
