package keyed

import (
	"testing"

	"github.com/godwit-mta/godwit/internal/stream"
)

type appending struct{}

func (appending) Combine(_, older, newer []byte) ([]byte, error) { return append(older, newer...), nil }

func TestCommitKeepsStateAndOffset(t *testing.T) {
	s, err := OpenStore(t.TempDir(), StoreOptions{Merger: appending{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	tx := s.Begin(stream.Assignment{})
	for _, err := range []error{tx.Set([]byte("a"), []byte("1")), tx.Merge([]byte("m"), []byte("x")), tx.Merge([]byte("m"), []byte("y"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if v, err := tx.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Errorf("own write: %q %v", v, err)
	}
	if there, err := s.Has([]byte("a")); err != nil || there {
		t.Errorf("seen before the commit: %v", err)
	}
	if err := tx.Commit(7); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get([]byte("m")); err != nil || string(v) != "xy" {
		t.Errorf("merged: %q %v", v, err)
	}
	if o, err := s.Offset(); err != nil || o != 7 {
		t.Errorf("offset %d %v", o, err)
	}
}
