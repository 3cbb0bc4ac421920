package queue

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// stopper is a gate that admits nobody until it is opened.
type stopper struct {
	*bounded
	mu    sync.Mutex
	open  bool
	calls []func()
}

func (*stopper) Limited(Flow) bool { return true }

func (g *stopper) Admit(_ Flow, ready func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		g.calls = append(g.calls, ready)
	}
	return g.open
}

func (g *stopper) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.calls)
}

func (g *stopper) release() {
	g.mu.Lock()
	g.open = true
	calls := g.calls
	g.calls = nil
	g.mu.Unlock()
	for _, f := range calls {
		f()
	}
}

// TestSetAside: while a flow waits for a limit of its own, what falls due on disk neither
// spins nor asks again, other domains of the site join it, and all goes when it may. Sites are left alone meanwhile.
func TestSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g := newWorld(), &stopper{bounded: newBounded(3)}
		q, err := Open(t.Context(), testOptions(t.TempDir()), Deps{Router: w, Deliverer: w, Gate: g, Fatal: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		q.Start()
		defer stop(t, q)
		inject(t, q, nil, "a@one.test", "b@one.test")
		inject(t, q, func(m *mail.Message) { m.NotBefore = time.Now().Add(5 * time.Second) }, "late@one.test")
		time.Sleep(10 * time.Second)
		inject(t, q, func(m *mail.Message) { m.Priority = mail.Urgent }, "c@one.test")
		time.Sleep(time.Minute)
		if n := g.waiting(); n != 1 {
			t.Errorf("the flow waits %d times", n)
		}
		q.mu.Lock()
		if len(q.sites) > 0 || q.openCount > 0 {
			t.Errorf("%d sites and %d connections for mail that may not go", len(q.sites), q.openCount)
		}
		q.mu.Unlock()
		g.release()
		time.Sleep(time.Minute)
		if got, _ := w.got(); len(got) != 4 {
			t.Errorf("delivered: %v", got)
		}
	})
}

// TestWithdraw: what is taken away from a ready queue is not wanted of the gate any more.
func TestWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g := newWorld(), newBounded(0)
		q, err := Open(t.Context(), testOptions(t.TempDir()), Deps{Router: w, Deliverer: w, Gate: g, Fatal: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		q.Start()
		defer stop(t, q)
		inject(t, q, nil, "a@one.test", "b@two.test")
		time.Sleep(time.Second)
		if _, err := q.Bounce(t.Context(), Filter{Domain: "one.test"}, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Suspend(Filter{Domain: "two.test"}, time.Time{}, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		g.mu.Lock()
		for key, d := range g.wanted {
			if d.N > 0 {
				t.Errorf("%s still wants %d connections", key, d.N)
			}
		}
		g.mu.Unlock()
		q.mu.Lock()
		if len(q.sites) > 0 {
			t.Errorf("%d sites are kept", len(q.sites))
		}
		q.mu.Unlock()
	})
}
