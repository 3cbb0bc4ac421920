package throttle

import (
	"testing"
	"time"
)

// status is the state of the test key.
func (w *world) status() KeyStatus {
	for _, s := range w.a.Status(w.now) {
		if s.Key == testKey {
			return s
		}
	}
	return KeyStatus{}
}

func TestLifeOfALease(t *testing.T) {
	l := Limits{Connections: 3}
	o := DefaultOptions()
	for _, c := range []struct {
		name   string
		claims bool
		do     func(w *world, ids []uint64)
		after  time.Duration
		counts int
	}{
		{"granted", false, func(*world, []uint64) {}, 0, 3},
		{"not yet lapsed: the last word may be under way", false, func(*world, []uint64) {}, o.ConnectLapse + o.Expiry - 20*ms, 3},
		{"lapsed", false, func(*world, []uint64) {}, o.ConnectLapse + o.Expiry, 0},
		{"lapsed in a proxy", true, func(*world, []uint64) {}, o.ConnectLapse, 0},
		{"opened", false, func(w *world, ids []uint64) { w.a.Opened("a", testKey, ids[0], w.now) }, time.Hour, 1},
		{"given back", false, func(w *world, ids []uint64) { w.a.Done("a", testKey, ids[0], true, w.now) }, 0, 2},
		{"given back in a proxy", true, func(w *world, ids []uint64) { w.a.Done("a", testKey, ids[0], false, w.now) }, 0, 2},
		{"broken", false, func(w *world, ids []uint64) { w.a.Done("a", testKey, ids[0], false, w.now) }, o.Linger - 10*ms, 3},
		{"another key", false, func(w *world, ids []uint64) { w.a.Done("a", Key{Source: "x"}, ids[0], true, w.now) }, 0, 3},
		{"another client", false, func(w *world, ids []uint64) { w.a.Done("b", testKey, ids[0], true, w.now) }, 0, 3},
		{"opened late", false, func(w *world, ids []uint64) { w.a.Opened("a", testKey, 77, w.now) }, 0, 4},
		{"opened in a proxy means nothing", true, func(w *world, ids []uint64) { w.a.Opened("a", testKey, ids[0], w.now) }, o.ConnectLapse, 0},
		{"claimed", true, func(w *world, ids []uint64) { w.a.Claim(ids[0], w.now) }, time.Hour, 1},
		{"claimed, and done by the client", true, func(w *world, ids []uint64) {
			w.a.Claim(ids[0], w.now)
			w.a.Done("a", testKey, ids[0], true, w.now)
		}, time.Hour, 1},
		{"released", true, func(w *world, ids []uint64) { w.a.Claim(ids[0], w.now); w.a.Release(ids[0], true, w.now) }, 0, 2},
		{"released unclean", true, func(w *world, ids []uint64) { w.a.Claim(ids[0], w.now); w.a.Release(ids[0], false, w.now) }, o.Linger - 10*ms, 1},
		{"client lost", false, func(w *world, ids []uint64) { w.a.Leave("a", false, w.now) }, time.Hour, 3},
		{"client lost, and gone later", false, func(w *world, ids []uint64) {
			w.a.Leave("a", false, w.now)
			w.advance(time.Minute)
			w.a.Leave("a", true, w.now)
		}, o.Linger, 0},
		{"client lost in a proxy", true, func(w *world, ids []uint64) { w.a.Claim(ids[0], w.now); w.a.Leave("a", false, w.now) }, o.ConnectLapse, 1},
		{"client gone", false, func(w *world, ids []uint64) { w.a.Leave("a", true, w.now) }, o.Linger - 10*ms, 3},
		{"client gone for a while", false, func(w *world, ids []uint64) { w.a.Leave("a", true, w.now) }, o.Linger, 0},
		{"client gone in a proxy", true, func(w *world, ids []uint64) { w.a.Claim(ids[0], w.now); w.a.Leave("a", true, w.now) }, 0, 1},
		{"back, and not told yet", false, func(w *world, ids []uint64) { w.a.Join("a", w.now) }, o.Expiry - 10*ms, 3},
		{"back, and nothing told", false, func(w *world, ids []uint64) { w.a.Join("a", w.now) }, o.Expiry + o.Linger, 0},
		{"back with one", false, func(w *world, ids []uint64) {
			w.a.Leave("a", false, w.now)
			w.a.Join("a", w.now)
			w.a.Hold("a", testKey, ids[1:2], l, w.now)
		}, time.Hour, 1},
		{"back with one: the others linger", false, func(w *world, ids []uint64) {
			w.a.Join("a", w.now)
			w.a.Hold("a", testKey, ids[1:2], l, w.now)
		}, o.Linger - 10*ms, 3},
		{"another owner's are counted above the limit", false, func(w *world, ids []uint64) {
			w.a.Hold("a", testKey, []uint64{70, 71, 70, ids[0]}, l, w.now)
		}, 0, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := o
			o.Claims = c.claims
			w := ready(t, o, "a", "b")
			w.want("a", Connect, 3, l)
			w.want("b", Connect, 0, l)
			ids := leasesOf(w.collect(10*ms), "a")
			if len(ids) != 3 {
				t.Fatalf("leases %v", ids)
			}
			w.want("b", Send, 1, l) // so that somebody knows of the key
			c.do(w, ids)
			w.advance(c.after)
			if n := w.status().Connections; n != c.counts {
				t.Fatalf("%d count, want %d", n, c.counts)
			}
			free := max(l.Connections-c.counts, 0)
			w.want("b", Connect, 10, l)
			if n := grantedOf(w.collect(2*ms), "b", Connect); n != free {
				t.Errorf("%d more were granted, %d are free", n, free)
			}
		})
	}
}

func TestClaimOnce(t *testing.T) {
	o := DefaultOptions()
	o.Claims = true
	w := ready(t, o, "a")
	w.want("a", Connect, 2, Limits{Connections: 2})
	ids := leasesOf(w.collect(10*ms), "a")
	if k, ok := w.a.Claim(ids[0], w.now); !ok || k != testKey {
		t.Fatalf("claim: %v %v", k, ok)
	}
	if _, ok := w.a.Claim(ids[0], w.now); ok {
		t.Error("one lease made two connections")
	}
	if _, ok := w.a.Claim(999, w.now); ok {
		t.Error("a lease that was never granted")
	}
	w.now += o.ConnectLapse // and no Tick yet
	if _, ok := w.a.Claim(ids[1], w.now); ok {
		t.Error("a lease that lapsed")
	}
	w.a.Release(ids[1], true, w.now)
	w.a.Release(ids[0], false, w.now)
	w.a.Release(ids[0], true, w.now)
	if n := w.status().Lingering; n != 1 {
		t.Errorf("%d linger", n)
	}
}

// Leases of one grant follow each other though two clients got theirs in turns.
func TestLeaseIdsOfAGrantFollow(t *testing.T) {
	w := ready(t, DefaultOptions(), "a", "b")
	w.want("a", Connect, 5, Limits{Connections: 10})
	w.want("b", Connect, 5, Limits{Connections: 10})
	out := w.collect(10 * ms)
	seen := map[uint64]bool{}
	for _, c := range []string{"a", "b"} {
		for _, id := range leasesOf(out, c) {
			if seen[id] {
				t.Errorf("lease %d twice", id)
			}
			seen[id] = true
			w.a.Opened(c, testKey, id, w.now)
		}
	}
	if s := w.status(); len(seen) != 10 || s.Granted != 0 || s.Connections != 10 {
		t.Errorf("%d leases, %+v", len(seen), s)
	}
}
