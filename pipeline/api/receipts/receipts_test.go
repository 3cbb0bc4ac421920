package receipts

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/units"
)

func open(t *testing.T, fs vfs.FS, o Options) *Store {
	t.Helper()
	s, err := Open("receipts", o, fs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC) }

func TestClaimAnswer(t *testing.T) {
	s := open(t, vfs.NewMem(), DefaultOptions())
	defer s.Close()
	digest := sha256.Sum256([]byte("request"))
	first, fresh, err := s.Claim("acme", "k", digest, start())
	if err != nil || !fresh || first.Seed == "" || !first.At.Equal(start()) {
		t.Fatal(first, fresh, err)
	}
	again, fresh, err := s.Claim("acme", "k", sha256.Sum256([]byte("other")), start().Add(time.Hour))
	if err != nil || fresh || again.Digest != digest || again.Seed != first.Seed || again.Status != 0 {
		t.Fatal(again, fresh, err)
	}
	first.Status, first.Body = 201, []byte("answer")
	if err := s.Answer("acme", "k", first); err != nil {
		t.Fatal(err)
	}
	again, _, err = s.Claim("acme", "k", digest, start())
	if err != nil || again.Status != 201 || string(again.Body) != "answer" || again.Seed != first.Seed || !again.At.Equal(start()) {
		t.Fatal(again, err)
	}
	for _, other := range [][2]string{{"acme2", "k"}, {"acme", "k2"}, {"acm", "ek"}} {
		if r, fresh, err := s.Claim(other[0], other[1], digest, start()); err != nil || !fresh || r.Seed == first.Seed {
			t.Error(other, r, fresh, err)
		}
	}
}

func TestLongAnswerIsNotKept(t *testing.T) {
	s := open(t, vfs.NewMem(), DefaultOptions())
	defer s.Close()
	r, _, err := s.Claim("acme", "k", [32]byte{1}, start())
	if err != nil {
		t.Fatal(err)
	}
	r.Status, r.Body = 200, bytes.Repeat([]byte("x"), MaxBody+1)
	if err := s.Answer("acme", "k", r); err != nil {
		t.Fatal(err)
	}
	if r, fresh, err := s.Claim("acme", "k", [32]byte{1}, start()); err != nil || fresh || r.Status != 0 || len(r.Body) > 0 {
		t.Error(r.Status, fresh, err)
	}
}

// TestBounds: neither age nor number goes over what is configured, for long.
func TestBounds(t *testing.T) {
	s := open(t, vfs.NewMem(), Options{Keep: units.Duration(time.Hour), Max: 100})
	defer s.Close()
	now := start()
	for i := range 1000 {
		now = now.Add(time.Second)
		if _, fresh, err := s.Claim("acme", fmt.Sprint(i), [32]byte{}, now); err != nil || !fresh {
			t.Fatal(i, fresh, err)
		}
		if n := s.Len(); n > 100 {
			t.Fatalf("%d are kept", n)
		}
	}
	if _, fresh, _ := s.Claim("acme", "999", [32]byte{}, now); fresh {
		t.Error("the last one is forgotten")
	}
	if _, fresh, _ := s.Claim("acme", "999", [32]byte{}, now.Add(time.Hour)); !fresh {
		t.Error("an old one is remembered")
	}
	for i := range 50 {
		if _, _, err := s.Claim("acme", fmt.Sprint("late", i), [32]byte{}, now.Add(3*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Len(); n > 60 {
		t.Errorf("%d are kept long after their time", n)
	}
}

// TestCrash: a claim that returned is there after a power cut, its answer perhaps.
func TestCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, fs, DefaultOptions())
	seeds := map[string]string{}
	for i := range 200 {
		key := fmt.Sprint(i)
		r, _, err := s.Claim("acme", key, [32]byte{byte(i)}, start())
		if err != nil {
			t.Fatal(err)
		}
		seeds[key] = r.Seed
		r.Status = 202
		if err := s.Answer("acme", key, r); err != nil {
			t.Fatal(err)
		}
	}
	after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, 2))})
	_ = s.Close()
	again := open(t, after, DefaultOptions())
	defer again.Close()
	if again.Len() != 200 {
		t.Errorf("%d of 200 are left", again.Len())
	}
	for key, seed := range seeds {
		r, fresh, err := again.Claim("acme", key, [32]byte{}, start())
		if err != nil || fresh || r.Seed != seed || r.Status != 0 && r.Status != 202 {
			t.Fatal(key, r, fresh, err)
		}
	}
}

func TestConcurrent(t *testing.T) {
	s := open(t, vfs.NewMem(), Options{Keep: units.Duration(time.Hour), Max: 50})
	defer s.Close()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				key := fmt.Sprint(g, "-", i)
				if r, fresh, err := s.Claim("acme", key, [32]byte{}, start().Add(time.Duration(i)*time.Millisecond)); err != nil || !fresh {
					t.Error(r, fresh, err)
				} else if err := s.Answer("acme", key, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDecodeRefuses(t *testing.T) {
	whole := (&Receipt{At: start(), Seed: "seed"}).encode()
	for n := range whole {
		if err := new(Receipt).decode(whole[:n]); err == nil {
			t.Errorf("%d bytes are read", n)
		}
	}
	whole[0] = 9
	if err := new(Receipt).decode(whole); err == nil {
		t.Error("another version is read")
	}
	for _, o := range []Options{{Max: 1}, {Keep: 1}} {
		if o.Validate() == nil {
			t.Error(o)
		}
	}
}
