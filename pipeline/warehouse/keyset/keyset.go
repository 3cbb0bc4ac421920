// Package keyset is a set of 16-byte keys that only grows, larger than memory: the
// warehouse asks it whether it has an event or a profile already, which a table in
// columns could answer only by reading a whole column.
//
// New keys are in memory. Write puts them into a sorted file with a Bloom filter; Merge makes one
// file of several. Which files belong to the set is for the owner to remember, in the transaction that
// also says what they cover: after a crash the keys that were in memory are added again from what they
// were made of. Files are mapped into memory, so what is kept there is for the kernel to decide. Format: docs/formats/keyset.md.
package keyset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Key is spread evenly: it is a hash, or an id that is made of one.
type Key struct{ Hi, Lo uint64 }

// KeyOf reads a key from 16 bytes, so that keys are ordered as the bytes are.
func KeyOf(b [16]byte) Key {
	return Key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func compare(a, b Key) int {
	switch {
	case a.Hi < b.Hi, a.Hi == b.Hi && a.Lo < b.Lo:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// ErrDamaged is returned for a file that is not as it was written. The set can be made again from
// what its keys were made of.
var ErrDamaged = errors.New("keyset: damaged file")

// Set is safe for concurrent use, by one writer and any number of readers.
type Set struct {
	dir string

	merging sync.Mutex // held during Merge, before mu
	mu      sync.RWMutex
	files   []*file
	fresh   Table
	retired []string // names of files that are no part of it any more, until Sweep
}

// Open opens a set of files that were written before, by their names. Retired ones stay in the folder until Sweep;
// other files of sets in it, which a crash left over, are removed.
func Open(dir string, names, retired []string) (*Set, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	s := &Set{dir: dir, retired: slices.Clone(retired)}
	for _, name := range names {
		f, err := openFile(filepath.Join(dir, name))
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.files = append(s.files, f)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keyset: %w", err), s.Close())
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) && !slices.Contains(names, e.Name()) && !slices.Contains(retired, e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, errors.Join(fmt.Errorf("keyset: %w", err), s.Close())
			}
		}
	}
	return s, nil
}

// Close unmaps the files, when a Merge that is going on has ended. The set must not be used any more.
func (s *Set) Close() error {
	s.merging.Lock()
	defer s.merging.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, f := range s.files {
		err = errors.Join(err, f.close())
	}
	s.files = nil
	return err
}

// Has reports whether the set has a key.
func (s *Set) Has(k Key) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fresh.Has(k) {
		return true
	}
	for i := len(s.files) - 1; i >= 0; i-- {
		if s.files[i].has(k) {
			return true
		}
	}
	return false
}

// Add adds all keys of a table, in memory.
func (s *Set) Add(t *Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.each(func(k Key) { s.fresh.Add(k) })
}

// Fresh is how many keys are in memory only.
func (s *Set) Fresh() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fresh.Len()
}

// Len is how many keys the set has; those that Merge finds in two files count twice until then.
func (s *Set) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := s.fresh.Len()
	for _, f := range s.files {
		n += f.count
	}
	return n
}

// Files are the names of the files of the set.
func (s *Set) Files() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]string, len(s.files))
	for i, f := range s.files {
		out[i] = f.name()
	}
	return out
}

// Write makes a synced file of the keys in memory. It belongs to the set after Install; Discard removes it.
func (s *Set) Write() (*File, error) {
	s.mu.RLock()
	keys := make([]Key, 0, s.fresh.Len())
	s.fresh.each(func(k Key) { keys = append(keys, k) })
	s.mu.RUnlock()
	keys = sorted(keys)
	f, err := s.write(len(keys), func(put func(Key) error) error {
		for _, k := range keys {
			if err := put(k); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &File{f: f, fresh: len(keys)}, nil
}

// sorted sorts keys that are spread evenly: first into as many heaps as there are about keys, which leaves little to sort.
func sorted(keys []Key) []Key {
	n := uint64(max(1, len(keys)/4))
	at := make([]int32, n+1)
	for _, k := range keys {
		heap, _ := bits.Mul64(k.Hi, n)
		at[heap+1]++
	}
	for i := range n {
		at[i+1] += at[i]
	}
	out := make([]Key, len(keys))
	next := slices.Clone(at[:n])
	for _, k := range keys {
		heap, _ := bits.Mul64(k.Hi, n)
		out[next[heap]] = k
		next[heap]++
	}
	for i := range n {
		slices.SortFunc(out[at[i]:at[i+1]], compare)
	}
	return out
}

// File is one that was written and is not yet part of the set.
type File struct {
	f      *file
	fresh  int      // keys of the memory that it holds
	merged []string // files that it replaces
}

// Name is what Open wants.
func (f *File) Name() string { return f.f.name() }

// Replaces are the names of the files that it was merged of.
func (f *File) Replaces() []string { return f.merged }

// Keys is how many keys it has.
func (f *File) Keys() int { return f.f.count }

// Install makes a file part of the set in place of what it was made of, which is retired: its owner may yet lose in a crash that
// it was replaced. No keys may have been added since Write.
func (s *Set) Install(f *File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.fresh > 0 {
		if s.fresh.Len() != f.fresh {
			return fmt.Errorf("keyset: %d keys in memory, %d were written", s.fresh.Len(), f.fresh)
		}
		s.fresh.Clear()
	}
	var err error
	s.files = slices.DeleteFunc(s.files, func(old *file) bool {
		if !slices.Contains(f.merged, old.name()) {
			return false
		}
		err = errors.Join(err, old.close())
		s.retired = append(s.retired, old.name())
		return true
	})
	s.files = append(s.files, f.f)
	return err
}

// Retired are the files that were replaced and wait for Sweep.
func (s *Set) Retired() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.retired)
}

// Sweep removes some of the retired files: their owner will not ask for them again, whatever happens.
func (s *Set) Sweep(names []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	s.retired = slices.DeleteFunc(s.retired, func(name string) bool {
		if !slices.Contains(names, name) {
			return false
		}
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("keyset: %w", err))
		}
		return true
	})
	return errors.Join(errs...)
}

// Discard removes a file that does not become part of the set.
func (s *Set) Discard(f *File) error { return errors.Join(f.f.close(), os.Remove(f.f.path)) }
