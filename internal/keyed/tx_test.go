package keyed

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/stream"
)

func memStore(t testing.TB) *Store {
	t.Helper()
	s, err := OpenStore("/s", StoreOptions{FS: vfs.NewMem(), Merger: appending{}, MemTable: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestTxIsItsModel compares a Tx with a map, and the Store with the map of the last commit. Memtables are rotated so often that keys are
// found in them, in those being written out, and in files.
func TestTxIsItsModel(t *testing.T) {
	s := memStore(t)
	s.fresh.limit = 4 << 10
	lap := 0
	rapid.Check(t, func(t *rapid.T) {
		lap++
		prefix := fmt.Sprintf("%d/", lap)
		now, committed := map[string]string{}, map[string]string{}
		tx := s.Begin(stream.Assignment{})
		defer func() { _ = tx.drop() }()
		key := rapid.Custom(func(t *rapid.T) string { return prefix + fmt.Sprint(rapid.IntRange(0, 400).Draw(t, "k")) })
		look := func(what string, v []byte, err error, k string, model map[string]string) {
			want, there := model[k]
			if there != (err == nil) || !there && !errors.Is(err, ErrNotFound) || there && string(v) != want {
				t.Fatalf("%s %s: %q %v, want %q %v", what, k, v, err, want, there)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				for range rapid.IntRange(1, 100).Draw(t, "n") {
					k, v := []byte(key.Draw(t, "key")), []byte(rapid.StringN(0, 20, 20).Draw(t, "value"))
					now[string(k)] = string(v)
					if err := tx.Set(k, v); err != nil {
						t.Fatal(err)
					}
					clear(k) // they may be used again
					clear(v)
				}
			},
			"delete": func(t *rapid.T) {
				k := key.Draw(t, "key")
				delete(now, k)
				if err := tx.Delete([]byte(k)); err != nil {
					t.Fatal(err)
				}
			},
			"get": func(t *rapid.T) {
				k := key.Draw(t, "key")
				v, err := tx.Get([]byte(k))
				look("tx", v, err, k, now)
				has, err := tx.Has([]byte(k))
				if _, there := now[k]; err != nil || has != there {
					t.Fatalf("has %s: %v %v", k, has, err)
				}
				v, err = s.Get([]byte(k))
				look("store", v, err, k, committed)
			},
			"look": func(t *rapid.T) {
				keys := make([][]byte, rapid.IntRange(0, 50).Draw(t, "n"))
				for i := range keys {
					keys[i] = []byte(key.Draw(t, "key"))
				}
				if err := tx.Look(keys); err != nil {
					t.Fatal(err)
				}
				for _, k := range keys {
					v, err := tx.Get(k)
					look("looked", v, err, string(k), now)
					clear(k) // they may be used again
				}
			},
			"all": func(t *rapid.T) {
				for i := range 400 {
					k := fmt.Sprint(prefix, i)
					v, err := tx.Get([]byte(k))
					look("all", v, err, k, now)
				}
			},
			"commit": func(t *rapid.T) {
				if err := tx.Commit(1); err != nil {
					t.Fatal(err)
				}
				if len(tx.written.entries) != 0 {
					t.Fatal("the Tx is not empty")
				}
				clear(committed)
				for k, v := range now {
					committed[k] = v
				}
			},
			"scan": func(t *rapid.T) {
				n := 0
				if err := tx.Scan([]byte(prefix), nil, func(k, v []byte) bool {
					n++
					look("scan", v, nil, string(k), committed)
					return true
				}); err != nil || n != len(committed) {
					t.Fatalf("%d keys, want %d: %v", n, len(committed), err)
				}
			},
		})
	})
}

// TestFreshKeys holds that no key that lies in a memtable is unknown to fresh, and that it forgets what was written out.
func TestFreshKeys(t *testing.T) {
	s := memStore(t)
	s.fresh.limit = 64 << 10
	tx := s.Begin(stream.Assignment{})
	defer func() { _ = tx.drop() }()
	key := func(n int) []byte { return fmt.Appendf(nil, "key %d", n*7919%100_000) }
	const last = 20_000
	for n := range last {
		if err := tx.Put(key(n), []byte("value")); err != nil {
			t.Fatal(err)
		}
		if n%100 != 99 {
			continue
		}
		if err := tx.Commit(int64(n)); err != nil {
			t.Fatal(err)
		}
		for m := n; m >= 0; m -= 500 {
			if has, err := tx.Has(key(m)); !has || err != nil {
				t.Fatalf("key %d of %d: %v %v", m, n, has, err)
			}
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if s.fresh.forget(); len(s.fresh.gens) != 1 {
		t.Errorf("%d generations are left after everything was written out", len(s.fresh.gens))
	}
	known := 0
	for n := range last {
		if s.fresh.may(tx.written.hash(key(n))) {
			known++
		}
	}
	if known > last/10 {
		t.Errorf("%d of %d keys are still thought to be in memory", known, last)
	}
}

// TestReservedKeys holds that a processor cannot overwrite what belongs to the program.
func TestReservedKeys(t *testing.T) {
	tx := memStore(t).Begin(stream.Assignment{})
	for _, key := range [][]byte{nil, {}, offsetKey} {
		for name, err := range map[string]error{
			"set": tx.Set(key, nil), "put": tx.Put(key, nil), "merge": tx.Merge(key, nil), "delete": tx.Delete(key),
		} {
			if err == nil {
				t.Errorf("%s %q is taken", name, key)
			}
		}
	}
}

func TestSeen(t *testing.T) {
	s := memStore(t)
	rapid.Check(t, func(t *rapid.T) {
		// Each lap is other sources, so that one store does.
		stage := uint8(rapid.IntRange(0, 255).Draw(t, "stage"))
		type at struct {
			partition int32
			offset    int64
			n         int32
		}
		committed := map[int32]at{}
		open := func() (*Seen, *Tx) {
			seen, err := OpenSeen(s)
			if err != nil {
				t.Fatal(err)
			}
			for from, m := range seen.marks {
				if from.stage == stage {
					committed[from.partition] = at{from.partition, m.offset, m.n}
				}
			}
			return seen, s.Begin(stream.Assignment{})
		}
		seen, tx := open()
		defer func() { _ = tx.drop() }()
		now := map[int32]at{}
		for p, m := range committed {
			now[p] = m
		}
		t.Repeat(map[string]func(*rapid.T){
			"first": func(t *rapid.T) {
				r := at{int32(rapid.IntRange(0, 3).Draw(t, "p")), int64(rapid.IntRange(0, 9).Draw(t, "o")), int32(rapid.IntRange(0, 3).Draw(t, "n"))}
				got, err := seen.First(tx, stage, r.partition, r.offset, r.n)
				if err != nil {
					t.Fatal(err)
				}
				last, known := now[r.partition]
				want := r.n == 0 || !known || r.offset > last.offset || r.offset == last.offset && r.n > last.n
				if got != want {
					t.Fatalf("%+v after %+v: %v", r, last, got)
				}
				if want && r.n != 0 {
					now[r.partition] = r
				}
			},
			"commit": func(t *rapid.T) {
				if err := tx.Commit(1); err != nil {
					t.Fatal(err)
				}
				for p, m := range now {
					committed[p] = m
				}
			},
			"crash": func(*rapid.T) {
				_ = tx.drop()
				want := map[int32]at{}
				for p, m := range committed {
					want[p] = m
				}
				clear(committed)
				seen, tx = open()
				if fmt.Sprint(committed) != fmt.Sprint(want) {
					t.Fatalf("opened %v, want %v", committed, want)
				}
				clear(now)
				for p, m := range want {
					now[p] = m
				}
			},
		})
	})
	if _, err := (&Seen{}).First(nil, 1, -1, 0, 1); err == nil {
		t.Error("a partition below 0 is taken")
	}
}

func TestClosedStore(t *testing.T) {
	s, err := OpenStore("/s", StoreOptions{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	tx := s.Begin(stream.Assignment{})
	for i := range 1000 {
		if err := tx.Set(fmt.Append(nil, i), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(1); err != nil {
		t.Fatal(err)
	}
	_ = tx.drop()
	scanning, closed := make(chan struct{}), make(chan error)
	go func() {
		<-scanning
		closed <- s.Close()
	}()
	n := 0
	err = s.Scan([]byte{1}, []byte{0xff}, func(k, _ []byte) bool {
		if n++; n == 1 {
			close(scanning)
			for {
				if _, err := s.Get(k); errors.Is(err, ErrClosed) { // not a deadlock
					break
				}
			}
		}
		return true
	})
	if err != nil || n != 1000 {
		t.Errorf("a scan under way: %d %v", n, err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s.Scan(nil, nil, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u != (Usage{}) {
		t.Errorf("%+v", u)
	}
}

func TestOperandsStayInOrder(t *testing.T) {
	for n := 1; n < 40; n++ {
		want := ""
		for i := range n {
			want += string(rune('A' + i))
		}
		for newer := range n { // so many come after the first one, the others before
			vm, err := StoreOptions{Merger: appending{}}.merger().Merge([]byte("k"), []byte{want[n-1-newer]})
			if err != nil {
				t.Fatal(err)
			}
			for i := n - 2 - newer; i >= 0; i-- {
				if err := vm.MergeOlder([]byte{want[i]}); err != nil {
					t.Fatal(err)
				}
			}
			for i := n - newer; i < n; i++ {
				if err := vm.MergeNewer([]byte{want[i]}); err != nil {
					t.Fatal(err)
				}
			}
			got, _, err := vm.Finish(true)
			if err != nil || string(got) != want {
				t.Fatalf("%d operands, %d newer: %q, %v", n, newer, got, err)
			}
		}
	}
}
