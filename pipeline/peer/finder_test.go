package peer

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// TestNobody: a partition that nobody has is waited for once, and comes as soon as somebody has it.
func TestNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := newFake("a"), newFake("b")
	c.serve(b)
	f := c.finder(a)
	r := f.Partition("customer", 2)
	began := time.Now()
	_, err := r.Get([]byte("k"))
	if !errors.Is(err, ErrNobody) || !errors.Is(err, keyed.ErrClosed) || time.Since(began) < patience {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	began = time.Now()
	if _, err := r.Get([]byte("k")); !errors.Is(err, ErrNobody) || time.Since(began) > patience/2 {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	b.fill(t, spot, 2)
	within(t, "the value", func() bool { _, err := r.Get([]byte("k00001")); return err == nil })
	b.set(spot, 0)
	a.fill(t, spot, 2) // it comes here
	if _, err := r.Get([]byte("k00001")); err != nil {
		t.Errorf("here: %v", err)
	}
}

// TestGenerations: of two that claim a partition, the later one is asked.
func TestGenerations(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b, d := newFake("a"), newFake("b"), newFake("d")
	b.set(spot, 3)
	d.set(spot, 4)
	c.serve(b)
	c.serve(d)
	f := c.finder(a)
	within(t, "both tables", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		told := 0
		for _, k := range f.nodes {
			if !k.heard.IsZero() {
				told++
			}
		}
		return told == 2
	})
	if name := f.Owner("customer", 2); name != "d" {
		t.Errorf("owner is %q", name)
	}
}

// TestStandsStill: who waits for a node that does not answer any more is let go when the node is given up.
func TestStandsStill(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	b := newFake("b")
	b.set(spot, 1)
	s, err := Listen(Options{Listen: "127.0.0.1:0"}, b, Trust{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	slow := http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
			<-r.Context().Done()
		default:
			s.http.Handler.ServeHTTP(w, r)
		}
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = slow.Serve(ln) })
	t.Cleanup(func() { _ = slow.Close(); _ = s.Stop(context.Background()); serving.Wait() })
	c := newCluster(t)
	c.nodes["b"] = Node{"b", ln.Addr().String()}
	r := c.finder(newFake("a")).Partition("customer", 2)
	if _, err := r.Ask(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	close(gate)
	began := time.Now()
	if _, err := r.Ask(t.Context(), nil); !errors.Is(err, ErrNobody) || time.Since(began) > claimsLast+2*patience+2*refreshEvery {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// TestWaitMoves: whoever waits goes on waiting where the partition went.
func TestWaitMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b, d := newFake("a"), newFake("b"), newFake("d")
	b.set(spot, 1)
	c.serve(b)
	c.serve(d)
	r := c.finder(a).Partition("customer", 2)
	time.AfterFunc(100*time.Millisecond, func() {
		b.set(spot, 0)
		d.mu.Lock()
		d.applied[spot] = 6
		d.mu.Unlock()
		d.set(spot, 2)
	})
	if p, err := r.Wait(t.Context(), 5); err != nil || p.Committed != 6 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestLostWhileAnswering: what a node read of a partition that went meanwhile is not taken; who has it now is asked, also in the middle of a scan.
func TestLostWhileAnswering(t *testing.T) {
	for _, what := range []string{"get", "page", "ask"} {
		t.Run(what, func(t *testing.T) {
			c := newCluster(t)
			a, b, d := newFake("a"), newFake("b"), newFake("d")
			b.fill(t, spot, 30)
			d.fill(t, spot, 31)
			d.set(spot, 0)
			questions := 0
			b.asked = func(Spot) { // between the check and the answer
				if questions++; questions == 2 {
					b.set(spot, 0)
					d.set(spot, 2)
				}
			}
			c.serve(b)
			c.serve(d)
			r := c.finder(a).Partition("customer", 2)
			switch what {
			case "get":
				for range 2 {
					if _, err := r.Get([]byte("k00001")); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := r.Get([]byte("k00030")); err != nil { // only d has it
					t.Error(err)
				}
			case "page":
				rows, pages, err := all(r, []byte("k"), []byte("l"), false, 1000)
				if err != nil || len(rows) != 31 || pages < 3 {
					t.Errorf("%d rows in %d pages, %v", len(rows), pages, err)
				}
			case "ask":
				for _, want := range []string{"b", "d"} {
					got, err := r.Ask(t.Context(), nil)
					if err != nil || !strings.HasPrefix(string(got), want+":") {
						t.Errorf("%q, %v", got, err)
					}
				}
			}
			if questions != 2 {
				t.Errorf("b was asked %d times", questions)
			}
		})
	}
}
