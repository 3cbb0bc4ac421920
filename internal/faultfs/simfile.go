package faultfs

import (
	"io/fs"
	"math/rand/v2"
)

// sector is what a disk writes as a whole or not at all.
const sector = 512

// simFile is an open file of a Sim.
type simFile struct {
	sim  *Sim
	node *node
	real *osFile
}

// fail gives err the present name of the file. Sim.mu is held.
func (f *simFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.node.name, Err: err}
}

// ReadAt implements File.
func (f *simFile) ReadAt(p []byte, off int64) (int, error) {
	f.sim.mu.Lock()
	_, err := f.sim.check(OpRead, f.node.name)
	if err != nil {
		err = f.fail("read", err)
	}
	f.sim.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.real.ReadAt(p, off)
}

// WriteAt implements File.
func (f *simFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.Writev([][]byte{p}, off)
	return int(n), err
}

// Writev implements File.
func (f *simFile) Writev(bufs [][]byte, off int64) (int64, error) {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	var data []byte
	for _, b := range bufs {
		data = append(data, b...)
	}
	rule, failure := f.sim.check(OpWrite, f.node.name)
	if failure != nil {
		if rule == nil {
			return 0, f.fail("write", failure)
		}
		data = data[:min(len(data), rule.Short)]
	}
	n, err := f.real.WriteAt(data, off)
	if n > 0 {
		f.node.writes = append(f.node.writes, write{off: off, data: data[:n:n]})
	}
	if failure != nil {
		err = f.fail("write", failure)
	}
	return int64(n), err
}

// Datasync implements File. When a rule fails it, what was not synced is
// forgotten as Linux forgets it: still to be read, but taken for clean, so that a later sync
// does not write it.
func (f *simFile) Datasync() error {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	rule, err := f.sim.check(OpSync, f.node.name)
	if rule != nil {
		f.node.writes = nil
	}
	if err != nil {
		return f.fail("sync", err)
	}
	for _, w := range f.node.writes {
		f.node.durable = w.apply(f.node.durable)
	}
	f.node.writes = nil
	return nil
}

// Sync implements File.
func (f *simFile) Sync() error { return f.Datasync() }

// Allocate implements File.
func (f *simFile) Allocate(size int64) error {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if _, err := f.sim.check(OpAllocate, f.node.name); err != nil {
		return f.fail("allocate", err)
	}
	have, err := f.real.Size()
	if err != nil || have >= size {
		return err
	}
	if err := f.real.Truncate(size); err != nil {
		return err
	}
	f.node.writes = append(f.node.writes, write{off: size})
	return nil
}

// Truncate implements File.
func (f *simFile) Truncate(size int64) error {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if _, err := f.sim.check(OpTruncate, f.node.name); err != nil {
		return f.fail("truncate", err)
	}
	if err := f.real.Truncate(size); err != nil {
		return err
	}
	f.node.writes = append(f.node.writes, write{off: size})
	return nil
}

// Size implements File.
func (f *simFile) Size() (int64, error) {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if f.sim.crashed {
		return 0, ErrCrashed
	}
	return f.real.Size()
}

// Close implements File. It works without power too: the descriptor is given back.
func (f *simFile) Close() error { return f.real.Close() }

// apply returns content after the write.
func (w write) apply(content []byte) []byte {
	end := w.off + int64(len(w.data))
	if grow := end - int64(len(content)); grow > 0 {
		content = append(content, make([]byte, grow)...)
	}
	if w.data == nil {
		return content[:w.off]
	}
	copy(content[w.off:], w.data)
	return content
}

// survive returns the content after a power cut.
func (n *node) survive(r *rand.Rand) []byte {
	content := append([]byte(nil), n.durable...)
	mode := r.IntN(4)
	if mode == 0 || len(n.writes) == 0 {
		return content
	}
	writes := n.writes
	cut := -1
	if mode == 2 {
		cut = r.IntN(len(writes))
	}
	for i, w := range writes {
		switch {
		case i == cut:
			if w.data != nil {
				keep := sectorEnd(w.off, r.IntN(len(w.data)+1), len(w.data))
				content = write{off: w.off, data: w.data[:keep:keep]}.apply(content)
			}
			return content
		case mode == 3 && w.data != nil:
			content = w.someSectors(content, r)
		case mode == 3 && r.IntN(2) == 0: // a change of size that was lost
		default:
			content = w.apply(content)
		}
	}
	return content
}

// someSectors applies each sector of the write or not.
func (w write) someSectors(content []byte, r *rand.Rand) []byte {
	for at := 0; at < len(w.data); {
		end := sectorEnd(w.off, at+1, len(w.data))
		if r.IntN(2) == 0 {
			content = write{off: w.off + int64(at), data: w.data[at:end]}.apply(content)
		}
		at = end
	}
	return content
}

// sectorEnd rounds n bytes written at off up to the end of a sector, at most to limit.
func sectorEnd(off int64, n, limit int) int {
	end := (off + int64(n) + sector - 1) / sector * sector
	return min(int(end-off), limit)
}
