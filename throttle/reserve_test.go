package throttle

import (
	"testing"
	"time"
)

// hold lets a client open n connections.
func (w *world) hold(client string, n int, l Limits) []uint64 {
	w.t.Helper()
	w.want(client, Connect, n, l)
	ids := leasesOf(w.collect(10*ms), client)
	if len(ids) != n {
		w.t.Fatalf("%s got %d connections of %d", client, len(ids), n)
	}
	for _, id := range ids {
		w.a.Opened(client, testKey, id, w.now)
	}
	return ids
}

// A node out of contact counts with its share or with what it had, whichever is more.
func TestReserveOfAnAbsentNode(t *testing.T) {
	l := Limits{Connections: 12}
	for _, c := range []struct{ held, free int }{{0, 8}, {3, 8}, {4, 8}, {7, 5}} {
		w := ready(t, DefaultOptions(), "a", "b")
		w.hold("b", c.held, l)
		w.a.Leave("b", false, w.now)
		w.a.SetAbsent(1, 3, w.now)
		w.want("a", Connect, 99, l)
		if n := grantedOf(w.collect(time.Second), "a", Connect); n != c.free {
			t.Errorf("b had %d: a got %d, want %d", c.held, n, c.free)
		}
	}
}

// While nodes are away the limit falls: they may still have the larger share.
func TestReserveOutlivesALimit(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	w.want("a", Connect, 0, Limits{})
	w.want("a", Send, 1, Limits{Connections: 12})
	w.a.SetAbsent(1, 3, w.now)
	w.want("a", Connect, 9, Limits{Connections: 6})
	if n := grantedOf(w.collect(time.Second), "a", Connect); n != 2 {
		t.Errorf("%d granted of 6; the absent node may have 4", n)
	}
	w.a.SetAbsent(0, 3, w.now)
	if n := grantedOf(w.collect(2990*ms), "a", Connect); n != 2 { // the first two lapse
		t.Errorf("%d granted of 6 before the node told what it has", n)
	}
	if n := grantedOf(w.collect(20*ms), "a", Connect); n != 4 {
		t.Errorf("%d more granted of 6 when all is known, want 4", n)
	}
}

func TestShareIsGrantedSoonerWhenItGrows(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	w.a.SetShare(100, w.now)
	w.want("a", Send, 100, Limits{MessageRate: perSecond(10)})
	if n := grantedOf(w.collect(5*time.Second), "a", Send); n != 1 {
		t.Fatalf("%d permits at a tenth a second", n)
	}
	w.a.SetShare(1, w.now)
	if n := grantedOf(w.collect(time.Second), "a", Send); n < 9 || n > 10 {
		t.Errorf("%d permits in the first second at ten", n)
	}
}

func TestFirstPermitAfterAPauseIsFresh(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	l := Limits{MessageRate: perSecond(100)}
	w.want("a", Send, 1, l)
	w.advance(10*ms + 204*time.Microsecond + 12*ms) // the next instant was 12 ms ago, and nobody wanted it
	w.want("a", Send, 1, l)
	out, _ := w.a.Tick(w.now)
	if len(out) != 1 || out[0].Grant.At != w.now {
		t.Errorf("at %v: %+v", w.now, out)
	}
}

func TestChargeAfterAPauseCountsFromNow(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	l := Limits{MessageRate: perSecond(10)}
	w.want("a", Send, 1, l)
	w.advance(5 * time.Second)
	w.a.Charge("a", testKey, 20, w.now)
	w.want("a", Send, 1, l)
	if n := grantedOf(w.collect(2*time.Second), "a", Send); n != 0 {
		t.Error("a permit while 20 messages are paid for")
	}
	if n := grantedOf(w.collect(100*ms), "a", Send); n != 1 {
		t.Error("no permit after they are paid for")
	}
}

func TestHintsAreNotRepeated(t *testing.T) {
	w := ready(t, DefaultOptions(), "a")
	hints := 0
	for range 500 {
		w.want("a", Send, 5, Limits{MessageRate: perSecond(1)})
		hints += len(hintsOf(w.collect(10*ms), "a"))
	}
	if hints < 4 || hints > 11 { // one after each permit and each second
		t.Errorf("%d hints in 5 s", hints)
	}
}
