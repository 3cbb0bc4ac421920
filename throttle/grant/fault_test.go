package grant

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

// lossTest loses contact at some time and looks at when both sides know.
// Each must within the lease; an echo that is under way may come in late.
func lossTest(t *testing.T, late time.Duration, spoil func(up, dn *way)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		r.wantAlways(testKey, perSec)
		time.Sleep(3 * time.Second)
		if len(r.log.of("grant", time.Time{})) == 0 {
			t.Fatal("nothing granted before the fault")
		}
		r.set(func() { r.swallow = true })
		up, dn := r.ways()
		spoil(up, dn)
		since := time.Now()
		time.Sleep(Lease - 2*BeatEvery - time.Millisecond)
		if len(r.log.contacts()) != 1 || len(r.onContact()) != 1 {
			t.Error("contact lost before the lease ran out")
		}
		time.Sleep(time.Until(since.Add(Lease+late)) + time.Millisecond)
		if !slices.Equal(r.log.contacts(), []string{"up", "down"}) {
			t.Errorf("the client's contacts one lease later: %v", r.log.contacts())
		}
		if !slices.Equal(r.onContact(), []string{"+n1", "-n1"}) || len(r.server.Contacts()) != 0 {
			t.Errorf("the server's contacts one lease later: %v", r.onContact())
		}
		if s := r.status(); waits(s) != 0 {
			t.Errorf("the authority still holds %d wants", waits(s))
		}
		up.hold(false)
		dn.hold(false)
		down := time.Now()
		time.Sleep(time.Second)
		if n := len(r.log.of("grant", down)); n != 0 {
			t.Errorf("%d grants after the contact was lost", n)
		}
	})
}

func TestSilence(t *testing.T) {
	lossTest(t, 0, func(up, dn *way) { up.hold(true); dn.hold(true) })
}

func TestLossTowardsTheAuthority(t *testing.T) {
	lossTest(t, 0, func(up, dn *way) { up.hold(true) })
}

func TestLossTowardsTheNode(t *testing.T) {
	lossTest(t, 0, func(up, dn *way) { dn.hold(true) })
}

func TestLinkTooSlowForTheLease(t *testing.T) {
	lossTest(t, BeatEvery, func(up, dn *way) { up.slow(310 * time.Millisecond); dn.slow(310 * time.Millisecond) })
}

func TestSteadyDelayOnlyShifts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		r.set(func() { r.delay = 60 * time.Millisecond })
		r.wantAlways(testKey, perSec)
		time.Sleep(5 * time.Second)
		r.set(func() { _ = r.last.Close() }) // the next one is slow from its start
		time.Sleep(2 * time.Second)
		since := time.Now()
		time.Sleep(10 * time.Second)
		if n := freshOf(r.log.of("grant", since)); n < 970 || n > 990 {
			t.Errorf("%d fresh permits in 10 s over 60 ms of delay, want about 980", n)
		}
		if trip := r.client.Status().RoundTrip; trip != 120*time.Millisecond {
			t.Errorf("round trip %v", trip)
		}
	})
}

func TestRiseOfDelayMakesPermitsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		r.wantAlways(testKey, perSec)
		time.Sleep(5 * time.Second)
		up, dn := r.ways()
		up.slow(100 * time.Millisecond)
		dn.slow(100 * time.Millisecond)
		time.Sleep(200 * time.Millisecond)
		since := time.Now()
		time.Sleep(10 * time.Second)
		got := r.log.of("grant", since)
		if len(got) < 100 || freshOf(got) != 0 {
			t.Errorf("%d permits, %d of them fresh; want many and none fresh", permits(got), freshOf(got))
		}
		time.Sleep(15 * time.Second)
		since = time.Now()
		time.Sleep(5 * time.Second)
		if n := freshOf(r.log.of("grant", since)); n < 480 {
			t.Errorf("%d fresh permits in 5 s long after the delay rose, want about 490", n)
		}
		if got := r.log.contacts(); len(got) != 1 {
			t.Errorf("contacts %v", got)
		}
	})
}

// When a link that was slow for long becomes fast, all that was under way arrives at
// once. Only what is as fresh as ever may be used then.
func TestFallOfDelayIsNoBurst(t *testing.T) {
	t.Run("in one piece", func(t *testing.T) { fallTest(t, false) })
	t.Run("in pieces", func(t *testing.T) { fallTest(t, true) })
}

func fallTest(t *testing.T, split bool) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		r.set(func() { r.delay = 120 * time.Millisecond })
		fast := throttle.Limits{MessageRate: units.Rate{Count: 1000, Per: time.Second}}
		r.wantAlways(testKey, fast)
		time.Sleep(8 * time.Second)
		if len(r.log.of("grant", time.Time{})) < 1000 {
			t.Fatal("nothing granted over the slow link")
		}
		_, dn := r.ways()
		dn.mu.Lock()
		dn.delay, dn.split = 0, split
		dn.mu.Unlock()
		since := time.Now()
		time.Sleep(3 * time.Second)
		got := r.log.of("grant", since)
		for i := range got {
			sum, used := 0, 0
			for _, n := range got[i:] {
				if n.at.Sub(got[i].at) > 120*time.Millisecond {
					break
				}
				sum += n.grant.N
				if n.age() <= fresh {
					used += n.grant.N
				}
			}
			if used > 120+30 {
				t.Fatalf("%d of %d permits could be used within 120 ms at 1000/s", used, sum)
			}
		}
		if n := freshOf(r.log.of("grant", since.Add(2*time.Second))); n < 960 {
			t.Errorf("%d fresh permits in 1 s after it settled", n)
		}
	})
}

func TestPermitsFromABufferAreOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		r.wantAlways(testKey, perSec)
		time.Sleep(3 * time.Second)
		_, dn := r.ways()
		dn.hold(true)
		time.Sleep(290 * time.Millisecond)
		dn.hold(false)
		since := time.Now()
		time.Sleep(time.Millisecond)
		got := r.log.of("grant", since)
		if permits(got) < 25 || freshOf(got) > 2 {
			t.Errorf("%d permits came out of the buffer, %d of them fresh; want some 28 and at most 2", permits(got), freshOf(got))
		}
		time.Sleep(time.Second)
		if got := r.log.contacts(); len(got) != 1 {
			t.Errorf("contacts %v", got)
		}
	})
}

// A node that does not get to run for a while finds its permits old, and none at all
// once the lease is over.
func TestPausedNode(t *testing.T) {
	for _, c := range []struct {
		pause    time.Duration
		contacts []string
	}{{280 * time.Millisecond, []string{"up"}}, {2 * time.Second, []string{"up", "down", "up"}}} {
		t.Run(c.pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
				defer r.stop()
				r.wantAlways(testKey, perSec)
				time.Sleep(3 * time.Second)
				r.log.mu.Lock()
				ask, paused := r.log.onGrant, false
				r.log.onGrant = func(n note) {
					ask(n)
					if !paused {
						paused = true
						time.Sleep(c.pause)
					}
				}
				r.log.mu.Unlock()
				before := len(r.onContact())
				start := time.Now()
				time.Sleep(c.pause + 15*time.Millisecond)
				for _, n := range r.log.of("grant", start.Add(c.pause)) {
					if n.born.Before(start.Add(c.pause-fresh)) && n.age() <= fresh {
						t.Errorf("a permit born %v before the pause was over looks fresh", start.Add(c.pause).Sub(n.born))
					}
				}
				time.Sleep(500 * time.Millisecond)
				if got := r.log.contacts(); !slices.Equal(got, c.contacts) {
					t.Errorf("contacts %v, want %v", got, c.contacts)
				}
				if len(c.contacts) > 1 && len(r.onContact()) != before+2 {
					t.Errorf("the server saw %v", r.onContact())
				}
			})
		})
	}
}
