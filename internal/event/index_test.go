package event

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/godwit-mta/godwit/internal/faultfs"
)

// TestIndexAgainstMap compares table and sidecar with a plain map, over several runs and with repeated keys.
func TestIndexAgainstMap(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []int{0, 1, 255, 256, 257, 3 * runLength, 20_000} {
		r := rand.New(rand.NewPCG(uint64(n), 5))
		want := map[uint64][]uint32{}
		tab := &table{}
		for i := range n {
			key := r.Uint64N(uint64(n)) << 40 // some come many times
			if n == 20_000 && i%3 == 0 {
				key = 7
			}
			off := uint32(i) * 100
			tab.add(key, off)
			tab.add(key, off) // another event of the message in the same record
			want[key] = append(want[key], off)
		}
		if err := faultfs.WriteFile(faultfs.OS{}, dir, "x.idx", encodeSidecar(tab), 0o600); err != nil {
			t.Fatal(err)
		}
		side, err := openSidecar(faultfs.OS{}, filepath.Join(dir, "x.idx"))
		if err != nil || side.entries != int64(n) {
			t.Fatalf("%d entries: %v", n, err)
		}
		want[1<<63] = nil // an unknown key
		checked := 0
		for key, offs := range want {
			if checked++; checked > 500 && key != 7 {
				continue
			}
			if got := tab.find(key); !slices.Equal(got, offs) {
				t.Fatalf("table of %d: %d offsets for %d, want %d", n, len(got), key, len(offs))
			}
			if got, err := side.find(faultfs.OS{}, key); err != nil || !slices.Equal(got, offs) {
				t.Fatalf("sidecar of %d: %d offsets for %d, want %d (%v)", n, len(got), key, len(offs), err)
			}
		}
	}
}
