package egress

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// sender is the queue's side of one flow: it sends when it is admitted, and may have to connect first.
type sender struct {
	w       *world
	f       queue.Flow
	connect time.Duration
	idle    time.Duration

	mu    sync.Mutex
	left  int
	until time.Time // the connection is open
}

func (s *sender) try() {
	for {
		s.mu.Lock()
		if s.left == 0 {
			s.mu.Unlock()
			return
		}
		open := time.Now().Before(s.until)
		s.mu.Unlock()
		if !open {
			time.Sleep(s.connect)
		}
		s.mu.Lock()
		s.until = time.Now().Add(s.idle)
		s.mu.Unlock()
		if s.w.g.Limited(s.f) && !s.w.g.Admit(s.f, func() { go s.try() }) {
			return
		}
		s.mu.Lock()
		s.left--
		s.mu.Unlock()
		s.w.mail(spot{"a", s.f.Site}, s.f.Site, s.f.Tenant)
	}
}

func (w *world) senders(n, messages int, connect time.Duration) (all []*sender) {
	for i := range n {
		all = append(all, &sender{w: w, left: messages, connect: connect, idle: 5 * time.Second,
			f: queue.Flow{Tenant: "t", Stream: "s", Provider: "p", Site: fmt.Sprintf("mx%d.test", i)}})
	}
	for _, s := range all {
		go s.try()
	}
	return all
}

// TestTenantLimitOverManySites: each flow waits in one place, all come to their
// turn although they have to connect first, and the rate is used.
func TestTenantLimitOverManySites(t *testing.T) {
	for _, test := range []struct {
		name, rules string
		rate        float64
		connect     time.Duration
	}{
		{"quick", `message_rate = "50/s"`, 50, 0},
		{"slow to connect", `message_rate = "50/s"`, 50, time.Second},
		{"slow rate", `message_rate = "1/s"`, 1, time.Second},
		{"two limits", "message_rate = \"2/s\"\n[[tenant]]\nname = \"t\"\nprovider = \"p\"\nmessage_rate = \"2/s\"", 2, time.Second},
		{"two limits, one slower", "message_rate = \"20/s\"\n[[tenant]]\nname = \"t\"\nprovider = \"p\"\nmessage_rate = \"1/s\"", 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				w := newWorld(t, sources("a"), "[[provider]]\nname = \"p\"\nmx_suffix = [\".p.test\"]\n[[tenant]]\nname = \"t\"\n"+test.rules)
				defer w.close()
				n := int(20 * test.rate)
				all := w.senders(n, 2, test.connect)
				start := time.Now()
				most := 0
				for w.count("*") < 2*n {
					time.Sleep(100 * time.Millisecond)
					w.g.admissions.mu.Lock()
					most = max(most, len(w.g.admissions.flows))
					for _, tap := range w.g.admissions.taps {
						if tap.line.Len() > n || tap.asked > mostAsked {
							t.Fatalf("%d wait in a line of %d flows, %d calls owed", tap.line.Len(), n, tap.asked)
						}
					}
					w.g.admissions.mu.Unlock()
					if time.Since(start) > time.Minute {
						t.Fatalf("%d of %d sent in %v", w.count("*"), 2*n, time.Since(start))
					}
				}
				if took := time.Since(start); took < 38*time.Second || took > 50*time.Second {
					t.Errorf("it took %v, want about 40 s", took)
				}
				for _, s := range all {
					s.mu.Lock()
					if s.left != 0 {
						t.Errorf("%v: %d left", s.f, s.left)
					}
					s.mu.Unlock()
				}
			})
		})
	}
}

func TestStreamStopped(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), ``)
		defer w.close()
		stop := func(d time.Duration) string {
			end := time.Time{}
			if d > 0 {
				end = time.Now().Add(d)
			}
			o, err := w.g.Give(rules.SuspendStream, throttle.Key{Tenant: "t"}, "s", "", throttle.Limits{}, end)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return o.ID
		}
		id := stop(0)
		w.senders(50, 2, 0)
		time.Sleep(time.Minute)
		if n := w.count("*"); n != 0 {
			t.Errorf("%d sent by a stream that is stopped", n)
		}
		if err := w.g.Lift(id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := w.count("*"); n != 100 {
			t.Errorf("%d sent after it was lifted", n)
		}
		stop(time.Minute)
		w.senders(50, 2, 0)
		time.Sleep(2 * time.Minute)
		if n := w.count("*"); n != 200 {
			t.Errorf("%d sent after the order's time", n)
		}
		if w.g.Limited(queue.Flow{Tenant: "t", Stream: "s"}) {
			t.Error("still limited")
		}
	})
}

// TestSourceOrdersDoNotLimitStreams: an order about a source must not make every message a transaction of its own.
func TestSourceOrdersDoNotLimitStreams(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), ``)
		defer w.close()
		if _, err := w.g.Give(rules.Suspend, throttle.Key{Source: "a"}, "", "", throttle.Limits{}, time.Time{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if w.g.Limited(queue.Flow{Tenant: "t", Stream: "s", Provider: "p", Site: "mx.p.test"}) {
			t.Error("limited")
		}
	})
}
