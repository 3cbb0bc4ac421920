package keyed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed/keyedtest"
	"github.com/godwit-mta/godwit/internal/stream"
)

const secret = "a-secret-of-one"

// having is where the secret is.
func having(t *testing.T, dir string) []string {
	t.Helper()
	names, err := keyedtest.Having(dir, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// commit applies writes and writes them out.
func commit(t *testing.T, s *Store, f func(tx *Tx) error) {
	t.Helper()
	tx := s.Begin(stream.Assignment{})
	if err := errors.Join(f(tx), tx.Commit(1), s.Flush()); err != nil {
		t.Fatal(err)
	}
}

func others(tx *Tx, from, n int) error {
	for i := range n {
		if err := tx.Put(fmt.Appendf(nil, "k%06d", from+i), bytes.Repeat([]byte{byte(i)}, 100)); err != nil {
			return err
		}
	}
	return nil
}

// TestCompact: after it no file has what was deleted or written over, neither in values nor in keys of tombstones, wherever
// these lie; and all else is there.
func TestCompact(t *testing.T) {
	key := []byte("k000500-" + secret)
	old := []byte("k000700")
	for name, steps := range map[string][]func(tx *Tx) error{
		"rows that were written over and deleted": {
			func(tx *Tx) error {
				return errors.Join(others(tx, 0, 2000), tx.Put(key, []byte(secret)), tx.Put(old, []byte(secret)))
			},
			func(tx *Tx) error { return errors.Join(tx.Delete(key), tx.Put(old, []byte("new"))) },
		},
		"a tombstone with nothing below it": {
			func(tx *Tx) error { return errors.Join(others(tx, 0, 2000), tx.Delete(key)) },
		},
		"a tombstone in a file between others": {
			func(tx *Tx) error { return others(tx, 0, 400) },
			func(tx *Tx) error { return others(tx, 1000, 400) },
			func(tx *Tx) error { return errors.Join(others(tx, 500, 40), tx.Delete(key)) },
		},
		"nothing but a tombstone": {func(tx *Tx) error { return tx.Delete(key) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := NewMemory(8 << 20)
			defer m.Close()
			s, err := OpenStore(dir, StoreOptions{Memory: m})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for _, step := range steps {
				commit(t, s, step)
			}
			if len(having(t, dir)) == 0 {
				t.Fatal("the secret was never in a file")
			}
			count := func() (n int) {
				if err := s.Scan([]byte("k"), nil, func(_, _ []byte) bool { n++; return true }); err != nil {
					t.Fatal(err)
				}
				return n
			}
			before := count()
			if err := s.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			if names := having(t, dir); len(names) > 0 {
				t.Errorf("still in %v", names)
			}
			if after := count(); after != before {
				t.Errorf("%d rows of %d are left", after, before)
			}
		})
	}
}

// TestCompactCloses: a state can be closed while its compaction waits for a turn.
func TestCompactCloses(t *testing.T) {
	m := NewMemory(8 << 20)
	defer m.Close()
	var behind atomic.Bool
	behind.Store(true)
	m.compactions.mu.Lock()
	m.compactions.wait = behind.Load
	m.compactions.mu.Unlock()
	s, err := OpenStore(t.TempDir(), StoreOptions{Memory: m})
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, func(tx *Tx) error { return others(tx, 0, 10) })
	commit(t, s, func(tx *Tx) error { return others(tx, 0, 10) })
	done := make(chan error, 1)
	go func() { done <- s.Compact(context.Background()) }()
	for s.users.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("it ended with %v", err)
	}
}
