package stream

import (
	"errors"
	"fmt"
	"maps"
	"testing"
)

// TestEach: every record comes once with the offset it is read at, in order, also of rewritten segments; Rewrite asks with the same offsets.
func TestEach(t *testing.T) {
	e := openLog(t, t.TempDir(), small(), Deps{})
	all := fill(t, openFacts(t, e), 60)
	gone := map[int64]bool{}
	for p := range all {
		for offset := range all[p] {
			gone[offset] = offset%7 == 0
		}
	}
	asked := map[string]bool{}
	err := e.Rewrite(t.Context(), "facts", func(p int32, offset int64, data []byte) ([]byte, bool) {
		asked[fmt.Sprint(p, offset)] = true
		if want := all[p][offset]; want != string(data) {
			t.Errorf("partition %d, offset %d: %q, want %q", p, offset, data, want)
		}
		return data, !gone[offset]
	})
	if err != nil {
		t.Fatal(err)
	}
	for p := range all {
		for offset := range all[p] {
			if !asked[fmt.Sprint(p, offset)] {
				t.Errorf("nobody asked for offset %d of partition %d", offset, p)
			}
		}
		maps.DeleteFunc(all[p], func(offset int64, _ string) bool { return gone[offset] })
	}
	got := make([]map[int64]string, len(all))
	last := int64(-1)
	err = e.Each(t.Context(), "facts", func(p int32, offset int64, data []byte) error {
		if offset <= last {
			return fmt.Errorf("offset %d after %d", offset, last)
		}
		last = offset
		if got[p] == nil {
			got[p] = map[int64]string{}
		}
		got[p][offset] = string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for p := range all {
		if !maps.Equal(got[p], all[p]) {
			t.Errorf("partition %d: %d records, want %d", p, len(got[p]), len(all[p]))
		}
	}
	enough := errors.New("enough")
	n := 0
	err = e.Each(t.Context(), "facts", func(int32, int64, []byte) error { n++; return enough })
	if !errors.Is(err, enough) || n != 1 {
		t.Errorf("%d calls, %v", n, err)
	}
}

// TestHeld: what groups hold can be asked for, and Release ends it.
func TestHeld(t *testing.T) {
	e := openLog(t, t.TempDir(), small(), Deps{})
	top := openFacts(t, e)
	for p := range int32(2) {
		if err := e.Hold(t.Context(), "customer", top, p, 10+int64(p)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := e.Held("facts")
	if err != nil || len(held) != 1 || !maps.Equal(held["customer"], map[int32]int64{0: 10, 1: 11}) {
		t.Fatalf("%v, %v", held, err)
	}
	held["customer"][0] = 99 // a copy
	if err := e.Release(t.Context(), "account", top); err != nil {
		t.Fatal(err)
	}
	if held, _ = e.Held("facts"); held["customer"][0] != 10 {
		t.Error("what Held returned was the log's own")
	}
	if err := e.Release(t.Context(), "customer", top); err != nil {
		t.Fatal(err)
	}
	if held, _ = e.Held("facts"); len(held) != 0 {
		t.Errorf("%v is held after Release", held)
	}
}
