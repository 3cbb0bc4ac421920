package stream

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// sweepAll collects what Sweep gives.
func sweepAll(t *testing.T, top Topic) (got [2]map[int64]string, err error) {
	t.Helper()
	got = [2]map[int64]string{{}, {}}
	err = Sweep(t.Context(), top, []int32{0, 1}, func(p int32, r Record) error {
		got[p][r.Offset] = string(r.Data)
		return nil
	})
	return got, err
}

// TestSweepErased: what was erased is left out, at the end of a partition too, and while it is being read.
func TestSweepErased(t *testing.T) {
	e := openLog(t, t.TempDir(), small(), Deps{})
	top := openFacts(t, e)
	all := fill(t, top, 60)
	gone := func(p int32, offset int64) bool { return offset%7 == 0 || p == 0 && offset > 90 }
	erase := func() error {
		return e.Rewrite(t.Context(), "facts", func(p int32, offset int64, data []byte) ([]byte, bool) { return data, !gone(p, offset) })
	}
	n := 0
	err := Sweep(t.Context(), top, []int32{0, 1}, func(p int32, r Record) error {
		if all[p][r.Offset] != string(r.Data) {
			t.Errorf("partition %d, offset %d: %.10q", p, r.Offset, r.Data)
		}
		if n++; n == 1 {
			return erase()
		}
		return nil
	})
	if err != nil || n < 60 {
		t.Fatalf("%d records, %v", n, err)
	}
	for p := range all {
		maps.DeleteFunc(all[p], func(offset int64, _ string) bool { return gone(int32(p), offset) })
	}
	if end, err := top.End(t.Context(), 0); err != nil || end <= 100 {
		t.Fatalf("the end is %d: %v", end, err)
	}
	got, err := sweepAll(t, top)
	if err != nil || !maps.Equal(got[0], all[0]) || !maps.Equal(got[1], all[1]) {
		t.Errorf("%d and %d records, want %d and %d: %v", len(got[0]), len(got[1]), len(all[0]), len(all[1]), err)
	}
}

// TestSweepDamage: what cannot be read is an error, not left out.
func TestSweepDamage(t *testing.T) {
	dir := t.TempDir()
	e := openLog(t, dir, small(), Deps{})
	fill(t, openFacts(t, e), 60)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "facts", "segments", "*.seg"))
	b, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	b[9000] ^= 1
	if err := os.WriteFile(files[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = sweepAll(t, openFacts(t, openLog(t, dir, small(), Deps{})))
	var lost *LostError
	if !errors.As(err, &lost) || !errors.Is(err, ErrLost) || lost.To <= lost.From || lost.Err == nil {
		t.Errorf("%v", err)
	}
}
