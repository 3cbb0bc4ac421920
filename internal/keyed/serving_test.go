package keyed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/stream"
)

// gated applies records once it may, and commits them once it may.
type gated struct{ apply, flush chan struct{} }

func (g gated) Apply(*Tx, []stream.Record) error { <-g.apply; return nil }
func (g gated) Flush(*Tx) error                  { <-g.flush; return nil }

// await waits for a condition that nobody tells of.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

// TestServing: a state answers for its partition once it has all that was there when the partition came, and until that goes.
func TestServing(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprint("early=", early), func(t *testing.T) {
			n := newNode(t, 1)
			last := n.put(0, "a", "b")
			g := gated{make(chan struct{}), make(chan struct{})}
			s := n.spec()
			s.Early, s.New = early, func(*Store, stream.Assignment) (Processor, error) { return g, nil }
			w, err := NewWorker(n.log, n.o, s, Deps{})
			if err != nil {
				t.Fatal(err)
			}
			serves := func() bool { _, ok := w.Serving(0); return ok }
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- w.Run(ctx) }()
			await(t, "the processor", func() bool { _, ok := w.Processor(0); return ok })
			if serves() {
				t.Error("it serves before anything is applied")
			}
			for w.Applied(0) <= last {
				select {
				case g.apply <- struct{}{}:
				case <-time.After(time.Millisecond):
				}
			}
			if serves() != early {
				t.Errorf("applied and not committed: it serves: %v", !early)
			}
			close(g.flush)
			await(t, "the commit", serves)
			// What comes later is nobody's business but Wait's.
			n.put(0, "c")
			if generation, ok := w.Serving(0); !ok || generation != 1 {
				t.Errorf("with more to do: %d, %v", generation, ok)
			}
			if _, ok := w.Serving(1); ok {
				t.Error("it serves a partition that there is not")
			}
			close(g.apply)
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if serves() {
				t.Error("it serves after the partition went")
			}
		})
	}
}

// TestPage: pages put together are the scan, in both directions, whatever their size.
func TestPage(t *testing.T) {
	s, err := OpenStore("/s", StoreOptions{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	tx := s.Begin(stream.Assignment{})
	for i := range 50 {
		if err := tx.Set(fmt.Appendf(nil, "k%02d", i), bytes.Repeat([]byte{'v'}, i%7)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(1); err != nil {
		t.Fatal(err)
	}
	for _, back := range []bool{false, true} {
		for _, size := range []int{0, 1, 10, 40, 10_000} {
			var want, got []string
			scan := s.Scan
			if back {
				scan = s.ScanBack
			}
			if err := scan([]byte("k03"), []byte("k41"), func(k, v []byte) bool { want = append(want, string(k)+string(v)); return true }); err != nil {
				t.Fatal(err)
			}
			from, to := []byte("k03"), []byte("k41")
			for more := true; more; {
				var rows []Row
				var err error
				if rows, more, err = s.Page(from, to, back, size); err != nil || len(rows) == 0 {
					t.Fatalf("%d rows, %v", len(rows), err)
				}
				for _, r := range rows {
					got = append(got, string(r.Key)+string(r.Value))
				}
				if last := rows[len(rows)-1].Key; back {
					to = last
				} else {
					from = append(bytes.Clone(last), 0)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("back %v, size %d: %v, not %v", back, size, got, want)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Page([]byte("k"), nil, false, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
