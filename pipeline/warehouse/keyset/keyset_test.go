package keyset

import (
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// key makes keys of few values of Hi, so that neighbours and equal halves are met.
func key(r *rand.Rand) Key {
	if r.Intn(4) == 0 {
		return Key{uint64(r.Intn(3)) << 62, uint64(r.Intn(50))}
	}
	return Key{r.Uint64(), r.Uint64()}
}

func TestSetAgainstAMap(t *testing.T) {
	for seed := range int64(6) {
		r := rand.New(rand.NewSource(seed))
		dir := t.TempDir()
		s, err := Open(dir, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		model := map[Key]bool{}
		var kept []Key    // those that were written to files
		var safe []string // the files that the owner will ask for after a crash, and their keys
		var safeKeys []Key
		for range 60 {
			switch n := r.Intn(10); {
			case n < 6:
				var add Table
				add.Reserve(r.Intn(2) * r.Intn(5000))
				for range r.Intn(3000) {
					k := key(r)
					if add.Add(k) != !model[k] && !s.Has(k) {
						t.Fatalf("seed %d: Add told otherwise of %x", seed, k)
					}
					model[k] = true
				}
				s.Add(&add)
			case n < 8:
				install(t, s, s.Write)
				kept = kept[:0]
				for k := range model {
					kept = append(kept, k)
				}
			case n < 9:
				install(t, s, s.Merge)
			case r.Intn(2) == 0: // the owner remembers what there is
				safe, safeKeys = s.Files(), slices.Clone(kept)
				if err := s.Sweep(s.Retired()); err != nil {
					t.Fatal(err)
				}
			case r.Intn(2) == 0: // it opens the set anew without having remembered
				names, retired := s.Files(), s.Retired()
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(dir, names, retired); err != nil {
					t.Fatal(err)
				}
				clear(model)
				for _, k := range kept {
					model[k] = true
				}
			default: // a crash: what was in memory is gone, and what the owner did not remember
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(dir, safe, nil); err != nil {
					t.Fatal(err)
				}
				clear(model)
				kept = slices.Clone(safeKeys)
				for _, k := range kept {
					model[k] = true
				}
			}
			for k := range model {
				if !s.Has(k) {
					t.Fatalf("seed %d: %x is lost", seed, k)
				}
			}
			for range 2000 {
				if k := key(r); s.Has(k) != model[k] {
					t.Fatalf("seed %d: Has(%x) = %v", seed, k, !model[k])
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func install(t *testing.T, s *Set, made func() (*File, error)) {
	t.Helper()
	f, err := made()
	if err != nil {
		t.Fatal(err)
	}
	if f == nil {
		return
	}
	if err := s.Install(f); err != nil {
		t.Fatal(err)
	}
}

func TestMergeLeavesFewFiles(t *testing.T) {
	s, err := Open(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewSource(1))
	for range 64 {
		var add Table
		for range 500 {
			add.Add(Key{r.Uint64(), r.Uint64()})
		}
		s.Add(&add)
		install(t, s, s.Write)
		for range 4 {
			install(t, s, s.Merge)
		}
	}
	if n := len(s.Files()); n > 3*fan {
		t.Errorf("%d files", n)
	}
	if err := s.Sweep(s.Retired()); err != nil {
		t.Fatal(err)
	}
	if s.Len() != 64*500 {
		t.Errorf("%d keys", s.Len())
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "*"+suffix))
	if err != nil || len(left) != len(s.Files()) {
		t.Errorf("files on disk: %v %v", left, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var add Table
	for i := range uint64(100) {
		add.Add(Key{i << 57, i})
	}
	s.Add(&add)
	install(t, s, s.Write)
	name := s.Files()[0]
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, whole[:20], whole[:len(whole)-1], append(append([]byte(nil), whole...), 0), append([]byte{'x'}, whole[1:]...), changed(whole, 9)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, []string{name}, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if _, err := Open(dir, []string{"gone.keys"}, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("no file: %v", err)
	}
}

func changed(b []byte, at int) []byte {
	out := append([]byte(nil), b...)
	out[at] ^= 1
	return out
}

func BenchmarkHasNot(b *testing.B) {
	s, err := Open(b.TempDir(), nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	r := rand.New(rand.NewSource(1))
	for range 8 {
		var add Table
		for range 500_000 {
			add.Add(Key{r.Uint64(), r.Uint64()})
		}
		s.Add(&add)
		f, err := s.Write()
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Install(f); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		s.Has(Key{r.Uint64(), r.Uint64()})
	}
}
