package setcache

import (
	"math/rand/v2"
	"testing"
)

// mix is the last step of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func TestItSaysNothingWrong(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	c := New[uint64, int](64)
	model := map[uint64]int{}
	found, forgotten := 0, 0
	for i := range 200_000 {
		k := uint64(r.IntN(150))
		h := mix(k)
		v := c.Find(h, k)
		want, known := model[k]
		switch {
		case v != nil && (!known || *v != want):
			t.Fatalf("step %d: %d has %d, not %d", i, k, *v, want)
		case v != nil:
			found++
		case known:
			forgotten++
		}
		switch r.IntN(20) {
		case 0:
			c.Remove(h, k)
			delete(model, k)
		case 1:
			if i%5000 == 0 {
				c.Clear()
				clear(model)
			}
		default:
			if v == nil {
				c.Put(h, k, i)
			} else {
				*v = i
			}
			model[k] = i
		}
	}
	if found < 50_000 || forgotten < 10_000 {
		t.Errorf("found %d, forgotten %d", found, forgotten)
	}
}

func TestHalfFullItForgetsLittle(t *testing.T) {
	const size = 1 << 16
	c := New[uint64, uint64](size)
	for k := range uint64(size / 2) {
		c.Put(mix(k+1), k, k)
	}
	lost := 0
	for k := range uint64(size / 2) {
		if v := c.Find(mix(k+1), k); v == nil {
			lost++
		} else if *v != k {
			t.Fatalf("%d has %d", k, *v)
		}
	}
	if lost > size/2/100 {
		t.Errorf("%d of %d are lost", lost, size/2)
	}
}

func TestWhatIsUsedStays(t *testing.T) {
	c := New[uint64, int](8)
	c.Put(mix(1), 1, 1)
	for k := uint64(2); k < 1000; k++ {
		if c.Find(mix(1), 1) == nil {
			t.Fatalf("it is gone at %d", k)
		}
		c.Put(mix(k), k, 0)
	}
}
