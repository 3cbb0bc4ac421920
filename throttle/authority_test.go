package throttle

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// greedy keeps up the wants of a client: it says them again a round trip after each grant.
func (w *world) greedy(client string, n int, l Limits, p mail.Priority, flows int, trip time.Duration) {
	w.wantAs(client, Send, n, l, p, flows)
	before := w.onOut
	w.onOut = func(o Out) {
		before(o)
		if o.Client == client && o.Grant != nil && o.Grant.Kind == Send {
			w.after(trip, func() { w.wantAs(client, Send, n, l, p, flows) })
		}
	}
}

func TestRateIsUsedAndKept(t *testing.T) {
	for _, rate := range []units.Rate{perSecond(1), perSecond(10), perSecond(100), perSecond(1000), perSecond(5000), {Count: 90, Per: time.Minute}} {
		t.Run(strings.ReplaceAll(rate.String(), "/", "_"), func(t *testing.T) {
			o := DefaultOptions()
			w := ready(t, o, "a", "b", "c")
			noise := rand.New(rand.NewPCG(1, 2))
			w.late = func() time.Duration { return time.Duration(noise.Int64N(int64(5 * ms))) }
			l := Limits{MessageRate: rate}
			for i, c := range []string{"a", "b", "c"} {
				w.greedy(c, 40, l, mail.Normal, 5, time.Duration(i+1)*2*ms)
			}
			const span = 60 * time.Second
			var uses []time.Duration
			for _, out := range w.collect(span) {
				if g := out.Grant; g != nil {
					for range g.N {
						uses = append(uses, g.At+time.Duration(noise.Int64N(int64(15*ms))))
					}
				}
			}
			full := o.Pace * rate.PerSecond() * span.Seconds()
			if n := float64(len(uses)); n < 0.97*full || n > full+1 {
				t.Errorf("%v permits, paced to %v", n, full)
			}
			slices.Sort(uses)
			if n, at := worst(uses, time.Second); float64(n) > math.Ceil(1.02*rate.PerSecond())+1 {
				t.Errorf("%d in a second at %v", n, at)
			}
			if n, at := worst(uses, 10*time.Second); float64(n) > 10.2*rate.PerSecond() {
				t.Errorf("%d in ten seconds at %v", n, at)
			}
		})
	}
}

func TestLateTickGrantsNoOldInstants(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	l := Limits{MessageRate: perSecond(1000)}
	w.want("a", Send, 10_000, l)
	w.tick()
	for _, c := range []struct {
		late     time.Duration
		from, to int
	}{{10 * ms, 9, 11}, {15 * ms, 13, 16}, {16 * ms, 1, 1}, {time.Second, 1, 1}} {
		w.now += c.late
		out, _ := w.a.Tick(w.now)
		if n := grantedOf(out, "a", Send); n < c.from || n > c.to {
			t.Errorf("%v late: %d permits, want %d to %d", c.late, n, c.from, c.to)
		}
	}
}

func TestGrantsOfOneTickAreMerged(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	w.want("a", Send, 9000, Limits{MessageRate: perSecond(10_000)})
	w.advance(10 * ms)
	out := w.collect(100 * ms)
	if n := grantedOf(out, "a", Send); n < 970 || len(out) > 60 {
		t.Errorf("%d permits in %d grants", n, len(out))
	}
	for _, o := range out {
		if o.Grant.N > 21 {
			t.Errorf("one grant of %d stands for more than 2 ms", o.Grant.N)
		}
	}
}

func TestNothingBeforeExpiry(t *testing.T) {
	for name, l := range map[string]Limits{"unlimited": {}, "limited": {MessageRate: perSecond(1000), Connections: 5}} {
		w := newWorld(t, DefaultOptions())
		w.a.Join("a", 0)
		w.want("a", Send, 5, l)
		w.want("a", Connect, 5, l)
		out := w.collect(time.Second - 1)
		if grantedOf(out, "", Send)+grantedOf(out, "", Connect) > 0 {
			t.Errorf("%s: granted before Expiry", name)
		}
		if h := hintsOf(out, "a"); len(h) != 2 || h[0].After < 990*ms || h[0].After > time.Second {
			t.Errorf("%s: hints %+v", name, h)
		}
		out = w.collect(20 * ms)
		if grantedOf(out, "", Send) < 5 || grantedOf(out, "", Connect) != 5 {
			t.Errorf("%s: not granted after Expiry: %+v", name, out)
		}
	}
}

func TestChangeOfRateKeepsTheDebt(t *testing.T) {
	p := newPacer(0)
	p.set(100*ms, 0, 15*ms)
	p.take(0)
	p.charge(9, 0, 15*ms) // 10 permits are owed
	p.set(10*ms, 500*ms, 15*ms)
	if p.next != 550*ms {
		t.Errorf("half of a second was paid of ten permits; next at %v, want 550ms", p.next)
	}
	p.set(1000*ms, 500*ms, 15*ms)
	if p.next != 5500*ms {
		t.Errorf("five permits are owed at one a second; next at %v", p.next)
	}
	p.set(0, 500*ms, 15*ms)
	p.take(600 * ms)
	p.set(1000*ms, 700*ms, 15*ms)
	if p.next != 1600*ms {
		t.Errorf("the last permit without a limit counts; next at %v", p.next)
	}
}

func TestChargePushesTheNextInstant(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	l := Limits{MessageRate: units.Rate{Count: 98, Per: 98 * time.Second / 100}} // 100/s, 98/s after Pace
	w.want("a", Send, 1000, l)
	w.tick()
	w.a.Charge("a", testKey, 97, w.now)
	if n := grantedOf(w.collect(995*ms), "a", Send); n != 0 {
		t.Errorf("%d permits while 97 more messages are paid for", n)
	}
	if n := grantedOf(w.collect(10*ms), "a", Send); n == 0 {
		t.Error("no permit after they are paid for")
	}
}

func TestFairness(t *testing.T) {
	type who struct {
		priority mail.Priority
		flows    int
		share    float64 // of all grants
	}
	for _, c := range []struct {
		name string
		who  []who
	}{
		{"equal", []who{{mail.Bulk, 1, .5}, {mail.Bulk, 1, .5}}},
		{"by flows", []who{{mail.Bulk, 9, .9}, {mail.Bulk, 1, .1}}},
		{"three", []who{{mail.Bulk, 50, .5}, {mail.Bulk, 30, .3}, {mail.Bulk, 20, .2}}},
		{"priority first", []who{{mail.Normal, 1, 1}, {mail.Bulk, 100, 0}}},
		{"priority, then flows", []who{{mail.Normal, 3, .75}, {mail.Normal, 1, .25}, {mail.Bulk, 9, 0}}},
		{"no flows named", []who{{mail.Bulk, 0, .5}, {mail.Bulk, 0, .5}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var names []string
			for i := range c.who {
				names = append(names, fmt.Sprintf("c%d", i))
			}
			w := ready(t, DefaultOptions(), names...)
			for i, x := range c.who {
				w.greedy(names[i], 30, Limits{MessageRate: perSecond(1000)}, x.priority, x.flows, ms)
			}
			out := w.collect(5 * time.Second)
			all := float64(grantedOf(out, "", Send))
			for i, x := range c.who {
				if share := float64(grantedOf(out, names[i], Send)) / all; math.Abs(share-x.share) > .01 {
					t.Errorf("%s got %.3f of the permits, want %.2f", names[i], share, x.share)
				}
			}
		})
	}
}

// A client that was served by priority does not pay for it for long, and one that was away gains nothing.
func TestFairnessForgets(t *testing.T) {
	w := ready(t, DefaultOptions(), "a", "b")
	l := Limits{MessageRate: perSecond(1000)}
	w.wantAs("a", Send, 2000, l, mail.Normal, 1)
	w.wantAs("b", Send, 9000, l, mail.Bulk, 1)
	w.advance(time.Second)
	w.wantAs("a", Send, 9000, l, mail.Bulk, 1)
	out := w.collect(time.Second)
	if a, b := grantedOf(out, "a", Send), grantedOf(out, "b", Send); b-a > 2*fairDebt {
		t.Errorf("a got %d, b %d", a, b)
	}
	w.wantAs("a", Send, 0, l, mail.Bulk, 1)
	w.advance(2 * time.Second)
	w.wantAs("a", Send, 9000, l, mail.Bulk, 1)
	out = w.collect(time.Second)
	if a, b := grantedOf(out, "a", Send), grantedOf(out, "b", Send); a-b > 2*fairCredit {
		t.Errorf("after a pause a got %d, b %d", a, b)
	}
}

func TestConnectionsAreSharedByWhatIsHeld(t *testing.T) {
	w := ready(t, DefaultOptions(), "a", "b")
	l := Limits{Connections: 12}
	w.wantAs("a", Connect, 12, l, mail.Bulk, 3)
	w.wantAs("b", Connect, 12, l, mail.Bulk, 1)
	out := w.collect(10 * ms)
	if a, b := grantedOf(out, "a", Connect), grantedOf(out, "b", Connect); a != 9 || b != 3 {
		t.Fatalf("a got %d, b %d; want 9 and 3", a, b)
	}
	for i, c := range []string{"a", "b", "a", "b"} { // one comes free and is given to who lacks most
		id := leasesOf(out, c)[i/2]
		w.a.Done(c, testKey, id, true, w.now)
		if n := grantedOf(w.collect(10*ms), c, Connect); n != 1 {
			t.Errorf("%s gave one back and got %d", c, n)
		}
	}
}

func TestOneConnectionIsPassedOn(t *testing.T) {
	w := ready(t, DefaultOptions(), "a", "b")
	got := map[string]int{}
	for range 20 {
		w.want("a", Connect, 1, Limits{Connections: 1})
		w.want("b", Connect, 1, Limits{Connections: 1})
		out := w.collect(10 * ms)
		for _, c := range []string{"a", "b"} {
			for _, id := range leasesOf(out, c) {
				got[c]++
				w.a.Done(c, testKey, id, true, w.now)
			}
		}
	}
	if got["a"] < 9 || got["b"] < 9 {
		t.Errorf("%v", got)
	}
}

func TestConnectRate(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	w.want("a", Connect, 1000, Limits{ConnectRate: perSecond(10)})
	if n := grantedOf(w.collect(10*time.Second), "a", Connect); n < 97 || n > 99 {
		t.Errorf("%d leases in 10 s at 10/s", n)
	}
}

func TestStrictestLimitsHold(t *testing.T) {
	w := ready(t, DefaultOptions(), "a", "b")
	w.want("b", Send, 1, Limits{MessageRate: perSecond(10), Connections: 2})
	w.want("a", Send, 1e6, Limits{MessageRate: perSecond(1000), Connections: 9})
	count := func(d time.Duration) int { return grantedOf(w.collect(d), "", Send) }
	if n := count(10 * time.Second); n > 99 || n < 97 {
		t.Errorf("%d permits in 10 s; b says 10/s", n)
	}
	if s := w.a.Status(w.now)[0]; s.Limits.Connections != 2 || s.Slots != 2 || s.Rate != 10 {
		t.Errorf("status %+v", s)
	}
	w.advance(forgetAfter - 10*time.Second) // b wants nothing any more
	if n := count(10 * time.Second); n < 9000 {
		t.Errorf("%d permits in 10 s; b has said nothing for a minute", n)
	}
	w.want("b", Send, 0, Limits{MessageRate: perSecond(10)})
	w.tick()
	w.a.Leave("b", true, w.now)
	if n := count(time.Second); n < 900 {
		t.Errorf("%d permits in 1 s after b left", n)
	}
}

func TestShareAndAbsents(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	l := Limits{MessageRate: perSecond(300), Connections: 10}
	w.want("a", Send, 1e6, l)
	w.want("a", Connect, 100, l)
	check := func(step string, rate, slots int) {
		t.Helper()
		w.advance(100 * ms)
		n := grantedOf(w.collect(10*time.Second), "a", Send)
		if got := float64(n) / 9.8; math.Abs(got-float64(rate)) > 2 {
			t.Errorf("%s: %.1f a second, want %d", step, got, rate)
		}
		if s := w.a.Status(w.now)[0]; s.Slots != slots || math.Abs(s.Rate-float64(rate)) > .01 {
			t.Errorf("%s: status %d slots, %v/s", step, s.Slots, s.Rate)
		}
	}
	check("all", 300, 10)
	w.a.SetAbsent(1, 3, w.now)
	check("one of three away", 200, 7)
	w.a.SetAbsent(2, 3, w.now)
	check("two of three away", 100, 4)
	w.a.SetAbsent(0, 3, w.now)
	if s := w.a.Status(w.now)[0]; s.Slots != 4 {
		t.Errorf("a share was granted before its node could tell what it holds")
	}
	w.advance(3 * time.Second)
	check("back", 300, 10)
	w.a.SetShare(3, w.now)
	check("cut off", 100, 3)
	w.a.SetShare(0, w.now)
	check("whole again", 300, 10)
}

func TestStatusTellsWhy(t *testing.T) {
	w := ready(t, DefaultOptions(), "a", "b")
	l := Limits{MessageRate: units.Rate{Count: 6, Per: time.Minute}, Connections: 1}
	w.want("a", Send, 3, l)
	w.want("b", Connect, 2, l)
	out := w.collect(10 * ms)
	if h := hintsOf(out, "a"); len(h) != 1 || h[0].Reason != "message rate 6/min" || h[0].After < 10*time.Second {
		t.Errorf("hints of a: %+v", h)
	}
	if h := hintsOf(out, "b"); len(h) != 1 || h[0].Reason != "connections 1 of 1 in use" || h[0].Contended {
		t.Errorf("hints of b: %+v", h)
	}
	s := w.a.Status(w.now)[0]
	if s.Waiting != [2]int{1, 2} || s.Clients != 2 || s.Granted != 1 || s.Connections != 1 || s.Factor != 1 || s.Why == "" || s.Next < 10*time.Second {
		t.Errorf("status %+v", s)
	}
}

func TestContention(t *testing.T) {
	w := ready(t, DefaultOptions(), "a", "b")
	l := Limits{Connections: 2}
	w.want("a", Connect, 2, l)
	out := w.collect(10 * ms)
	for _, id := range leasesOf(out, "a") {
		w.a.Opened("a", testKey, id, w.now)
	}
	w.want("b", Connect, 1, l)
	if h := hintsOf(w.collect(10*ms), "a"); len(h) != 1 || !h[0].Contended {
		t.Fatalf("a holds all and is not asked for one: %+v", h)
	}
	if h := hintsOf(w.collect(10*time.Second), "a"); len(h) > 0 {
		t.Fatalf("a is asked again and again: %+v", h)
	}
	w.a.Done("a", testKey, leasesOf(out, "a")[0], true, w.now)
	out = w.collect(2 * time.Second)
	if grantedOf(out, "b", Connect) != 1 {
		t.Error("b did not get it")
	}
	if h := hintsOf(out, "a"); len(h) != 1 || h[0].Contended {
		t.Errorf("a is not told that it may keep the rest: %+v", h)
	}
}

func TestDrain(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	w.a.Drain(true, w.now)
	w.want("a", Connect, 1, Limits{})
	out := w.collect(time.Second)
	if h := hintsOf(out, "a"); grantedOf(out, "a", Connect) != 0 || len(h) != 1 {
		t.Errorf("draining: %+v", out)
	}
	w.a.Drain(false, w.now)
	if grantedOf(w.collect(10*ms), "a", Connect) != 1 {
		t.Error("nothing granted after the drain")
	}
}
