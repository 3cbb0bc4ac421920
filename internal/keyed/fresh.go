package keyed

import "github.com/godwit-mta/godwit/internal/bloom"

// fresh knows which keys may lie in Pebble's memtables. They have no filters, and looking for a key that is not there costs
// several times what the filtered files below them cost. So keys that fresh does not have are looked for in the files only.
//
// It rotates the memtable itself when a generation is full, and forgets a generation once it was written out.
// It belongs to the goroutine that commits.
type fresh struct {
	store *Store
	limit int          // bytes of a generation
	gens  []generation // the oldest first; the last one is being filled
	spare bloom.Filter // of a generation that was forgotten, cleared
}

type generation struct {
	keys    bloom.Filter
	size    int             // bytes written into it
	written <-chan struct{} // closed when all of it is in files; nil while it is being filled
}

const (
	// nodeSize is about what a memtable takes for an entry beside key and value.
	nodeSize = 64
	// leastEntry is the size of an entry that the filters are laid out for; smaller ones make them err more often.
	leastEntry = nodeSize + 24
)

func newFresh(s *Store, memTable uint64) *fresh {
	f := &fresh{store: s, limit: int(memTable)}
	f.begin()
	return f
}

func (f *fresh) begin() {
	keys := f.spare
	if f.spare = nil; keys == nil {
		keys = bloom.New(f.limit / leastEntry * bloom.BitsPerKey / 8)
	}
	f.gens = append(f.gens, generation{keys: keys})
}

// may reports whether a key with this hash may lie in a memtable.
func (f *fresh) may(hash uint64) bool {
	for i := range f.gens {
		if f.gens[i].keys.Has(hash) {
			return true
		}
	}
	return false
}

func (f *fresh) add(hash uint64, size int) {
	g := &f.gens[len(f.gens)-1]
	g.keys.Add(hash)
	g.size += size + nodeSize
}

// forget drops the generations that were written out. What is opened afterwards sees them in files.
func (f *fresh) forget() {
	for len(f.gens) > 1 && f.gens[0].isWritten() {
		f.spare = f.gens[0].keys
		clear(f.spare)
		f.gens = append(f.gens[:0], f.gens[1:]...)
	}
}

func (g *generation) isWritten() bool {
	select {
	case <-g.written:
		return true
	default:
		return false
	}
}

// committed begins a new generation if the last one is full.
func (f *fresh) committed() error {
	g := &f.gens[len(f.gens)-1]
	if g.size < f.limit {
		return nil
	}
	written, err := f.store.db.AsyncFlush()
	if err != nil {
		return err
	}
	g.written = written
	f.begin()
	return nil
}
