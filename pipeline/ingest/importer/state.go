package importer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// checkpointVersion is that of the file's format: docs/formats/import-checkpoint.md.
const checkpointVersion = 1

// checkpoint is the content of the file, as JSON.
type checkpoint struct {
	Version     int    `json:"version"`
	Fingerprint string `json:"fingerprint"` // SHA-256 of the input
	Options     string `json:"options"`     // SHA-256 of what decides how it is read
	Offset      int64  `json:"offset"`      // all rows before it are taken
	Line        int64  `json:"line"`        // at offset
	Rows        int64  `json:"rows"`
	Rejected    int64  `json:"rejected"`
	Rejects     int64  `json:"rejects"` // length of the file of rejects
}

// ErrOther says that a checkpoint is of another input or was made with other options.
var ErrOther = errors.New("the checkpoint is of another file or of other options; remove it to begin at the start")

// state is what an import writes: rejects and the checkpoint.
type state struct {
	path       string // "": no checkpoint
	checkpoint checkpoint
	rejects    *os.File // nil: none
}

// openState reads the checkpoint, if there is one, and brings the rejects to its length.
func openState(o Options, fingerprint string) (*state, error) {
	s := &state{path: o.Checkpoint, checkpoint: checkpoint{Version: checkpointVersion, Fingerprint: fingerprint, Options: o.hash()}}
	if err := s.load(); err != nil {
		return nil, err
	}
	if o.Rejects == "" {
		return s, nil
	}
	f, err := os.OpenFile(o.Rejects, os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(s.checkpoint.Rejects); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.rejects = f
	return s, nil
}

func (s *state) load() error {
	if s.path == "" {
		return nil
	}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var c checkpoint
	if err := json.Unmarshal(b, &c); err != nil || c.Offset < 0 || c.Line < 1 || c.Rejects < 0 {
		return fmt.Errorf("%s is not a checkpoint; remove it to begin at the start", s.path)
	}
	if c.Version != s.checkpoint.Version || c.Fingerprint != s.checkpoint.Fingerprint || c.Options != s.checkpoint.Options {
		return fmt.Errorf("%s: %w", s.path, ErrOther)
	}
	s.checkpoint = c
	return nil
}

// hash is of all that decides what becomes of a row.
func (o Options) hash() string {
	b, err := json.Marshal([]any{o.Kind, o.Format, o.Delimiter, o.Text, o.Mapping, o.MaxRow})
	if err != nil {
		return ""
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// commit makes rejects durable, then the place behind a batch.
func (s *state) commit(rejects []byte, at *source, p Progress) error {
	c := &s.checkpoint
	if s.rejects != nil && len(rejects) > 0 {
		n, err := s.rejects.WriteAt(rejects, c.Rejects)
		if err == nil {
			err = s.rejects.Sync()
		}
		if err != nil {
			return err
		}
		c.Rejects += int64(n)
	}
	c.Offset, c.Line, c.Rows, c.Rejected = at.offset, at.line, p.Rows, p.Rejected
	if s.path == "" {
		return nil
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return replace(s.path, append(b, '\n'))
}

// replace writes a file so that it has the old content or the new one, whatever happens.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// finish removes what is of no more use.
func (s *state) finish() error {
	if s.path == "" {
		return nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *state) close() error {
	if s.rejects == nil {
		return nil
	}
	return s.rejects.Close()
}
