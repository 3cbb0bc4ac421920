package bloom

import (
	"math/rand/v2"
	"testing"
)

func TestFilter(t *testing.T) {
	f := New(64 << 10)
	r := rand.New(rand.NewPCG(1, 1))
	added := make([]uint64, f.Capacity())
	for i := range added {
		added[i] = r.Uint64()
		f.Add(added[i])
	}
	for _, h := range added {
		if !f.Has(h) {
			t.Fatalf("%x was added", h)
		}
	}
	wrong := 0
	const asked = 100_000
	for range asked {
		if f.Has(r.Uint64()) {
			wrong++
		}
	}
	if share := float64(wrong) / asked; share > 0.02 || share == 0 {
		t.Fatalf("it errs in %.4f of all cases", share)
	}
}

func TestSmallest(t *testing.T) {
	f := New(0)
	f.Add(1 << 63)
	if !f.Has(1<<63) || f.Has(12345) {
		t.Fatal("one cache line does not tell two hashes apart")
	}
	if !Filter(nil).Has(7) {
		t.Fatal("a nil filter must have everything")
	}
}
