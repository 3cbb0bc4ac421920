package queue

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// strict is a gate whose answers a test chooses.
type strict struct {
	mu     sync.Mutex
	give   bool // leases at once
	paced  bool // whose messages wait for ever
	admits bool
}

func (g *strict) Seek(d Demand) []Lease {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.give || d.N == 0 {
		return nil
	}
	return []Lease{strictLease{gate: g}}
}

func (g *strict) Limited(Flow) bool       { return true }
func (g *strict) Admit(Flow, func()) bool { g.mu.Lock(); defer g.mu.Unlock(); return g.admits }

type strictLease struct {
	openLease
	gate *strict
}

func (l strictLease) Paced() bool { return l.gate.paced }

func (l strictLease) Slot(ctx context.Context, _ Asker) (mail.Pass, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestWhy: each thing that a message can wait for is told apart.
func TestWhy(t *testing.T) {
	for _, c := range []struct {
		name string
		gate *strict
		prep func(t *testing.T, q *Queue, w *world)
		want WaitFor // "": not waiting
	}{
		{name: "connect", gate: &strict{admits: true}, want: WaitConnect},
		{name: "send", gate: &strict{give: true, paced: true, admits: true}, want: WaitSend},
		{name: "own", gate: &strict{give: true}, want: WaitOwn},
		{name: "resume", gate: &strict{give: true, admits: true}, want: WaitResume, prep: func(t *testing.T, q *Queue, _ *world) {
			if _, err := q.Suspend(Filter{Tenant: "t"}, time.Time{}, "r"); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "hold", gate: &strict{give: true, admits: true}, want: WaitHold, prep: func(t *testing.T, q *Queue, w *world) {
			w.setDown("d.test", true)
			inject(t, q, nil, "before@d.test")
			synctest.Wait()
		}},
		{name: "delivering", gate: &strict{give: true, admits: true}, prep: func(_ *testing.T, _ *Queue, w *world) { w.took = time.Minute }},
		{name: "not due", gate: &strict{give: true, admits: true}, prep: func(*testing.T, *Queue, *world) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				q, err := Open(context.Background(), testOptions(t.TempDir()), Deps{Router: w, Deliverer: w, Gate: c.gate, Fatal: func(err error) { t.Error(err) }})
				if err != nil {
					t.Fatal(err)
				}
				q.Start()
				defer stop(t, q)
				if c.prep != nil {
					c.prep(t, q, w)
				}
				change := func(m *mail.Message) {
					if c.name == "not due" {
						m.NotBefore = time.Now().Add(time.Hour)
					}
				}
				ids := inject(t, q, change, "a@d.test", "b@d.test")
				synctest.Wait()
				m, err := q.Find(t.Context(), ids[0])
				if err != nil {
					t.Fatal(err)
				}
				why, waits := q.Why(m)
				if waits != (c.want != "") || why.For != c.want {
					t.Fatalf("%+v, waits %v; want %q", why, waits, c.want)
				}
				if c.want == WaitHold {
					until, reason := q.Hold("", "d.test")
					if !why.Until.After(time.Now()) || !until.Equal(why.Until) || why.Reason != "421 4.4.1 refused" || reason != why.Reason {
						t.Errorf("hold: %+v; %v %q", why, until, reason)
					}
				}
				if c.want == WaitConnect || c.want == WaitSend {
					if why.Ready != " d.test" || why.Site != "d.test" || why.Ahead != 0 {
						t.Errorf("%+v", why)
					}
					m, _ := q.Find(t.Context(), ids[1])
					if second, _ := q.Why(m); second.Ahead != 1 {
						t.Errorf("second: %+v", second)
					}
				}
				if n := q.InFlight(); (c.name == "delivering") != (n > 0) {
					t.Errorf("%d in flight", n)
				}
			})
		})
	}
}

// TestWhyGone: a message that left, or was never here, waits for nothing.
func TestWhyGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		q := start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		ids := inject(t, q, nil, "a@d.test")
		m, err := q.Find(t.Context(), ids[0])
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, err := q.Find(t.Context(), ids[0]); !errors.Is(err, mail.ErrNotFound) {
			t.Fatal(err)
		}
		if why, waits := q.Why(m); waits {
			t.Errorf("%+v", why)
		}
		if until, _ := q.Hold("", "d.test"); !until.IsZero() {
			t.Errorf("held until %v", until)
		}
	})
}
