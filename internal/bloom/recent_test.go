package bloom

import (
	"math/rand/v2"
	"testing"
)

func TestRecentForgetsNothingItCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	f := NewRecent(64 << 10)
	since := map[uint64]uint32{}
	wrong, asked := 0, 0
	for i := range 200_000 {
		h := r.Uint64()
		since[h] = f.Epoch()
		f.Add(h)
		if i%100 == 0 {
			f.Turn()
			asked++
			if f.Has(r.Uint64()) {
				wrong++
			}
		}
	}
	for h, s := range since {
		if f.Covers(s) && !f.Has(h) {
			t.Fatal("a thing of a covered owner is not there")
		}
	}
	if f.Epoch() < 5 || wrong > asked/25 {
		t.Errorf("epoch %d, %d of %d wrong", f.Epoch(), wrong, asked)
	}
}
