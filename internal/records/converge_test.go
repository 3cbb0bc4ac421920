package records

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

var beginning = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

// world is some nodes with clocks of their own and a network that does as it likes.
type world struct {
	dir    string
	stores []*Store
	sims   []*faultfs.Sim
	skews  []atomic.Int64    // nanoseconds
	passed atomic.Int64      // nanoseconds since the beginning
	wire   []Record          // what was ever sent; any of it may arrive any number of times
	best   map[string]Record // the model: the highest version of each key that was acknowledged
}

func (w *world) start(t *rapid.T, i int) {
	dir := fmt.Sprintf("%s/n%d", w.dir, i)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	sim, err := faultfs.NewSim(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.sims[i] = sim
	w.stores[i] = open(t, dir, fmt.Sprint("n", i), Deps{FS: sim, Now: func() time.Time {
		return beginning.Add(time.Duration(w.passed.Load() + w.skews[i].Load()))
	}})
}

func (w *world) wrote(t *rapid.T, s *Store, before Record, r Record) {
	if r.Version.Compare(before.Version) <= 0 {
		t.Fatalf("a write of %s has version %v, not above %v, which its node knew", r.Key, r.Version, before.Version)
	}
	if best, ok := w.best[r.Key]; !ok || r.supersedes(&best) {
		w.best[r.Key] = r
	}
	w.wire = append(w.wire, r)
}

// known is what a store has of a key, tombstones included.
func known(s *Store, key string) Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.byKey[key]; e != nil {
		return e.Record
	}
	return Record{}
}

// TestConvergence: nodes with skewed clocks write, delete, restart, lose power; records arrive in any
// order, repeatedly or not at all. One round of digests and deltas later all hold the same, and it is the last write of each key.
func TestConvergence(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 4).Draw(t, "nodes")
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		w := &world{
			dir: dir, best: map[string]Record{},
			stores: make([]*Store, n), sims: make([]*faultfs.Sim, n), skews: make([]atomic.Int64, n),
		}
		for i := range n {
			w.skews[i].Store(rapid.Int64Range(-3600, 3600).Draw(t, "skew") * int64(time.Second))
			w.start(t, i)
		}
		defer func() {
			for _, s := range w.stores {
				s.Close()
			}
		}()
		node := rapid.IntRange(0, n-1)
		key := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("k", rapid.IntRange(0, 3).Draw(t, "k")) })
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				s, k := w.stores[node.Draw(t, "node")], key.Draw(t, "key")
				before := known(s, k)
				ttl := time.Duration(rapid.IntRange(0, 3).Draw(t, "hours")) * time.Hour
				w.wrote(t, s, before, put(t, s, k, fmt.Sprint(rapid.Int().Draw(t, "value")), ttl))
			},
			"delete": func(t *rapid.T) {
				s, k := w.stores[node.Draw(t, "node")], key.Draw(t, "key")
				before := known(s, k)
				existed, err := s.Delete(k)
				if err != nil {
					t.Fatal(err)
				}
				if existed {
					w.wrote(t, s, before, known(s, k))
				}
			},
			"deliver": func(t *rapid.T) {
				if len(w.wire) == 0 {
					return
				}
				some := rapid.SliceOfN(rapid.SampledFrom(w.wire), 1, 5).Draw(t, "records")
				s := w.stores[node.Draw(t, "to")]
				if _, err := s.Merge(some); err != nil {
					t.Fatal(err)
				}
				for _, r := range some {
					if have := known(s, r.Key); r.supersedes(&have) {
						t.Fatalf("%v was not taken although it supersedes %v", r, have)
					}
				}
			},
			"exchange": func(t *rapid.T) {
				a, b := w.stores[node.Draw(t, "a")], w.stores[node.Draw(t, "b")]
				exchange(t, a, b)
			},
			"restart": func(t *rapid.T) {
				i := node.Draw(t, "node")
				w.stores[i].Close()
				w.start(t, i)
			},
			"power cut": func(t *rapid.T) {
				i := node.Draw(t, "node")
				if err := w.sims[i].Crash(randOf(t)); err != nil {
					t.Fatal(err)
				}
				w.stores[i].Close()
				w.start(t, i)
			},
			"time": func(t *rapid.T) {
				w.passed.Add(rapid.Int64Range(1, 7200).Draw(t, "s") * int64(time.Second))
			},
		})
		w.settle(t)
	})
}

// exchange does what two nodes of a cluster do: both send what the other's digest lacks.
func exchange(t *rapid.T, a, b *Store) {
	da, db := a.Digest(), b.Digest()
	toB, toA := a.Delta(db), b.Delta(da)
	if _, err := a.Merge(toA); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Merge(toB); err != nil {
		t.Fatal(err)
	}
	if a != b && a.Digest() != b.Digest() {
		t.Fatal("two stores that exchanged what they lacked still differ")
	}
}

// settle lets everybody talk to everybody and compares with the model.
func (w *world) settle(t *rapid.T) {
	for range 2 {
		for _, s := range w.stores[1:] {
			exchange(t, w.stores[0], s)
		}
	}
	for i, s := range w.stores {
		got := map[string]Record{}
		for _, r := range s.Delta(Digest{}) {
			got[r.Key] = r
		}
		if d := cmp.Diff(w.best, got, sameRecord); d != "" {
			t.Fatalf("node %d differs from the last writes:\n%s", i, d)
		}
	}
	// With one clock for all, all show the same too.
	for i := range w.skews {
		w.skews[i].Store(0)
	}
	for _, s := range w.stores[1:] {
		if a, b := shows(w.stores[0], ""), shows(s, ""); a != b {
			t.Fatalf("one shows %s, another %s", a, b)
		}
	}
	if !bytes.Equal(digestBytes(w.stores[0]), digestBytes(w.stores[len(w.stores)-1])) {
		t.Fatal("digests differ")
	}
}

func digestBytes(s *Store) []byte {
	d := s.Digest()
	return d.Append(nil)
}

func randOf(t *rapid.T) *rand.Rand {
	return rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
}
