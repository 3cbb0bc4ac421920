package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
)

// ErrCrashed is what every call gets after Crash.
var ErrCrashed = errors.New("faultfs: the power is off")

// Sim is a filesystem for tests: a real folder, plus book-keeping of what a
// power cut would leave of it, plus failures by rule. It keeps the durable
// content of every file that was opened for writing in memory. Folders
// themselves are taken as durable when made.
type Sim struct {
	os OS

	mu      sync.Mutex
	root    string
	names   map[string]*node // what the process sees
	durable map[string]*node // what a power cut would leave
	pending []nameOp         // the difference, in order
	rules   []*activeRule
	crashed bool
	free    *[2]int64
}

// node is a file apart from its names. Sim.mu guards it.
type node struct {
	name    string // present path
	loaded  bool   // durable is valid; else it is the content of the real file
	durable []byte
	writes  []write // not synced yet, in order
}

// write is one change of a file's content: data at off, or with nil data a new size.
type write struct {
	off  int64
	data []byte
}

// nameOp is one change of a folder that was not synced: path now names node, or nothing.
type nameOp struct {
	dir   string
	apply func(names map[string]*node)
}

// NewSim returns a Sim over the folder root, whose present content counts as durable.
func NewSim(root string) (*Sim, error) {
	s := &Sim{root: root, names: map[string]*node{}, durable: map[string]*node{}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n := &node{name: path}
			s.names[path], s.durable[path] = n, n
		}
		return err
	})
	return s, err
}

// SetFree makes Free report the given numbers of bytes.
func (s *Sim) SetFree(free, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = &[2]int64{free, total}
}

// OpenFile implements FS.
func (s *Sim) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = filepath.Clean(name)
	if _, err := s.check(OpOpen, name); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	n := s.names[name]
	if n != nil && flag&os.O_TRUNC != 0 {
		if err := n.load(name); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	switch {
	case n == nil:
		n = &node{name: name, loaded: true}
		s.link(name, n)
	case flag&os.O_TRUNC != 0:
		n.writes = append(n.writes, write{})
	}
	if flag&(os.O_WRONLY|os.O_RDWR) != 0 {
		if err := n.load(name); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return &simFile{sim: s, node: n, real: &osFile{f: f}}, nil
}

// load reads the durable content of a file before its first change.
func (n *node) load(name string) (err error) {
	if !n.loaded {
		n.durable, err = os.ReadFile(name)
		n.loaded = err == nil
	}
	return err
}

// link records that name now is n. Sim.mu is held.
func (s *Sim) link(name string, n *node) {
	s.names[name] = n
	s.pending = append(s.pending, nameOp{dir: filepath.Dir(name), apply: func(m map[string]*node) { m[name] = n }})
}

// Remove implements FS.
func (s *Sim) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = filepath.Clean(name)
	if _, err := s.check(OpRemove, name); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	if n := s.names[name]; n != nil {
		if err := n.load(name); err != nil {
			return err
		}
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	delete(s.names, name)
	s.pending = append(s.pending, nameOp{dir: filepath.Dir(name), apply: func(m map[string]*node) { delete(m, name) }})
	return nil
}

// Rename implements FS.
func (s *Sim) Rename(oldname, newname string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	if _, err := s.check(OpRename, oldname, newname); err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	n, over := s.names[oldname], s.names[newname]
	if n == nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: fs.ErrNotExist}
	}
	err := n.load(oldname)
	if over != nil {
		err = errors.Join(err, over.load(newname))
	}
	if err != nil {
		return err
	}
	if err := os.Rename(oldname, newname); err != nil {
		return err
	}
	delete(s.names, oldname)
	s.names[newname], n.name = n, newname
	s.pending = append(s.pending, nameOp{dir: filepath.Dir(newname), apply: func(m map[string]*node) {
		delete(m, oldname)
		m[newname] = n
	}})
	return nil
}

// ReadDir implements FS.
func (s *Sim) ReadDir(dir string) ([]fs.DirEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.check(OpReadDir, dir); err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: err}
	}
	return s.os.ReadDir(dir)
}

// MkdirAll implements FS.
func (s *Sim) MkdirAll(dir string, perm fs.FileMode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.check(OpMkdir, dir); err != nil {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return s.os.MkdirAll(dir, perm)
}

// Stat implements FS.
func (s *Sim) Stat(name string) (fs.FileInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.check(OpStat, name); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return s.os.Stat(name)
}

// SyncDir implements FS: the names of dir as they are now survive a power cut.
func (s *Sim) SyncDir(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir = filepath.Clean(dir)
	if _, err := s.check(OpSyncDir, dir); err != nil {
		return &fs.PathError{Op: "syncdir", Path: dir, Err: err}
	}
	var rest []nameOp
	for _, op := range s.pending {
		if op.dir == dir {
			op.apply(s.durable)
		} else {
			rest = append(rest, op)
		}
	}
	s.pending = rest
	return nil
}

// Free implements FS.
func (s *Sim) Free(dir string) (free, total int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crashed {
		return 0, 0, ErrCrashed
	}
	if s.free != nil {
		return s.free[0], s.free[1], nil
	}
	return s.os.Free(dir)
}

// Crash cuts the power. The folder then holds what was synced and, as r
// decides, a part of what was not: for names a prefix of the changes, for
// each file nothing, all, a prefix torn at a sector, or any set of sectors of the
// writes. Every later call fails with ErrCrashed; a new Sim on the folder is the restart.
func (s *Sim) Crash(r *rand.Rand) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crashed {
		return ErrCrashed
	}
	s.crashed = true
	for _, op := range s.pending[:r.IntN(len(s.pending)+1)] {
		op.apply(s.durable)
	}
	after := map[string][]byte{}
	for name, n := range s.durable {
		if n.loaded {
			after[name] = n.survive(r)
		}
	}
	for name := range s.names {
		if n := s.durable[name]; n == nil || n.loaded {
			if err := os.Remove(name); err != nil {
				return fmt.Errorf("faultfs: crash: %w", err)
			}
		}
	}
	for name, data := range after {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return fmt.Errorf("faultfs: crash: %w", err)
		}
	}
	return nil
}
