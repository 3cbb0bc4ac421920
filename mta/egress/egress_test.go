package egress

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

func TestSharesAndOverflow(t *testing.T) {
	inTime(t, func(t *testing.T) {
		e := sources("a", "b")
		e.Pools = []proxy.Pool{{Name: "default", Sources: []proxy.Member{{Name: "a", Weight: 1}, {Name: "b", Weight: 3}}}}
		w := newWorld(t, e, `
[default]
messages_per_connection = 1
connections = 20
`)
		defer w.close()
		for i := range 400 {
			w.site("default", "p", fmt.Sprintf("mx%d.test", i), 1).start()
		}
		until(t, time.Minute, "all sent", func() bool { return w.count("*") == 400 })
		if a, b := w.count("a"), w.count("b"); a < 70 || a > 130 {
			t.Errorf("a sent %d, b %d, want about 1:3", a, b)
		}
	})
}

// TestOverflow: a source at its limit does not keep the other idle.
func TestOverflow(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a", "b"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 1
`)
		defer w.close()
		for i := range 4 {
			s := w.site("default", "p", fmt.Sprintf("mx%d.p.test", i), 1)
			s.took = 10 * time.Second
			s.start()
		}
		time.Sleep(2 * spread)
		if n := w.count("*"); n != 2 {
			t.Errorf("%d messages under way, want one by each source", n)
		}
		until(t, time.Minute, "all sent", func() bool { return w.count("*") == 4 })
		for _, s := range []string{"a", "b"} {
			if n := w.mostAt(spot{s, "p"}); n != 1 {
				t.Errorf("%d connections by %v", n, s)
			}
		}
	})
}

// TestSharedLimit: many ready queues under one provider's limits are served
// fairly, share its connections, and use what it allows.
func TestSharedLimit(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 5
message_rate = "50/s"
`)
		defer w.close()
		start := time.Now()
		var all []*site
		for i := range 100 {
			all = append(all, w.site("default", "p", fmt.Sprintf("mx%d.p.test", i), 3).start())
		}
		big := w.site("default", "p", "big.p.test", 1000).start()
		until(t, 2*time.Minute, "small ones sent", func() bool {
			for _, s := range all {
				if !s.sentAll(3) {
					return false
				}
			}
			return true
		})
		took := time.Since(start)
		until(t, 2*time.Minute, "all sent", func() bool { return big.sentAll(1000) })
		whole := time.Since(start)
		at := spot{"a", "p"}
		if w.mostAt(at) > 5 {
			t.Errorf("%d connections at a time, 5 allowed", w.mostAt(at))
		}
		if bad := overshoot(w.sentAt(at), 50); bad != "" {
			t.Error(bad)
		}
		if least := time.Duration(float64(1300) / 50 * float64(time.Second)); whole > least*12/10 {
			t.Errorf("all took %v, the limit allows %v", whole, least)
		}
		if took > 20*time.Second {
			t.Errorf("those with 3 messages each waited %v behind the one with 1000", took)
		}
	})
}

// TestUrgentFirst: a ready queue that waits among many asks anew when it has something urgent.
func TestUrgentFirst(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 1
`)
		defer w.close()
		var last *site
		for i := range 50 {
			last = w.site("default", "p", fmt.Sprintf("mx%d.p.test", i), 1)
			last.took = time.Second
			last.start()
		}
		time.Sleep(500 * time.Millisecond)
		last.d.Priority, last.asked = mail.Urgent, 0
		last.seek()
		time.Sleep(3 * time.Second)
		if !last.sentAll(1) {
			t.Error("the urgent one waits behind the others")
		}
		until(t, 2*time.Minute, "all sent", func() bool { return w.count("*") == 50 })
	})
}

func TestIdleGivesWay(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), `
[default]
connections = 1
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 1
`)
		defer w.close()
		first := w.site("default", "p", "mx1.p.test", 1)
		first.idle = time.Hour
		first.start()
		time.Sleep(time.Second)
		second := w.site("default", "p", "mx2.p.test", 1).start()
		time.Sleep(time.Second)
		if !second.sentAll(1) {
			t.Error("an idle connection keeps the only one that is allowed")
		}
		time.Sleep(10 * time.Second)
	})
}

// TestDeadSiteIsDeferred: with many sources and slow failures there is an end to trying the next one.
func TestDeadSiteIsDeferred(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a", "b", "c", "d", "e", "f"), ``)
		defer w.close()
		err := &mail.OutcomeError{Outcome: mail.Outcome{Kind: mail.Deferred, Class: mail.ClassConnect}}
		tries := 0
		for another := true; another; tries++ {
			var got queue.Lease
			for _, l := range w.g.Seek(queue.Demand{Key: "k", Pool: "default", Site: "dead.test", N: 1, Take: func(l queue.Lease) { got = l }}) {
				got = l
			}
			until(t, time.Minute, "a lease", func() bool { return got != nil })
			time.Sleep(30 * time.Second)
			another = got.Failed(err)
			got.Close(false)
			if tries > 10 {
				t.Fatal("no end")
			}
		}
		if tries != mostTries {
			t.Errorf("%d sources tried", tries)
		}
	})
}

func TestProxyDownAndUp(t *testing.T) {
	inTime(t, func(t *testing.T) {
		e := sources("a", "b")
		for i, n := range []string{"x", "y"} {
			e.Proxies = append(e.Proxies, proxy.ProxyOptions{Name: n, Address: "192.0.2.1:1"})
			e.Sources[i].Proxy, e.Sources[i].Bind = n, "192.0.2.1"
		}
		w := newWorld(t, e, `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 2
message_rate = "20/s"
`)
		defer w.close()
		s := w.site("default", "p", "mx.p.test", 6000).start()
		during := func(d time.Duration) (a, b int) {
			a, b = w.count("a"), w.count("b")
			time.Sleep(d)
			return w.count("a") - a, w.count("b") - b
		}
		time.Sleep(3 * time.Second)
		if a, b := during(10 * time.Second); a < 190 || b < 190 {
			t.Errorf("both up: %d and %d in 10 s", a, b)
		}
		w.proxies["x"].set(true)
		time.Sleep(2 * time.Second)
		if a, b := during(10 * time.Second); a > 0 || b < 190 {
			t.Errorf("x down: %d and %d in 10 s", a, b)
		}
		w.proxies["y"].set(true)
		time.Sleep(2 * time.Second)
		if a, b := during(10 * time.Second); a+b > 0 {
			t.Errorf("both down: %d and %d in 10 s", a, b)
		}
		w.proxies["x"].set(false)
		time.Sleep(3 * time.Second)
		if a, b := during(10 * time.Second); a < 190 || b > 0 {
			t.Errorf("x up: %d and %d in 10 s", a, b)
		}
		for range 20 { // it flaps
			w.proxies["y"].set(false)
			time.Sleep(700 * time.Millisecond)
			w.proxies["y"].set(true)
			time.Sleep(300 * time.Millisecond)
		}
		w.proxies["y"].set(false)
		time.Sleep(3 * time.Second)
		if a, b := during(10 * time.Second); a < 190 || b < 190 {
			t.Errorf("both up again: %d and %d in 10 s", a, b)
		}
		for _, src := range []string{"a", "b"} {
			if bad := overshoot(w.sentAt(spot{src, "p"}), 20); bad != "" {
				t.Errorf("%s: %s", src, bad)
			}
		}
		s.mu.Lock()
		s.left = 0
		s.mu.Unlock()
		time.Sleep(10 * time.Second)
	})
}

func TestReload(t *testing.T) {
	inTime(t, func(t *testing.T) {
		const limits = `
[default]
connections = %d
message_rate = "10/s"
`
		w := newWorld(t, proxy.DefaultOptions(), fmt.Sprintf(limits, 1))
		defer w.close()
		s := w.site("", "p", "mx.p.test", 2000)
		s.took = 500 * time.Millisecond
		s.start()
		other := w.site("gone", "p", "mx2.p.test", 10).start()
		time.Sleep(5 * time.Second)
		if n := w.count(""); n == 0 || w.mostAt(spot{"", "p"}) > 2 {
			t.Errorf("%d by the host's address, %d connections", n, w.mostAt(spot{"", "p"}))
		}
		if !other.sentAll(10) {
			t.Error("a pool that does not exist keeps mail")
		}
		// Sources come: what waits for the pool without a name goes by the default one.
		e := sources("a", "b")
		e.Pools = []proxy.Pool{{Name: "default", Sources: []proxy.Member{{Name: "a"}}}, {Name: "extra", Sources: []proxy.Member{{Name: "b"}}}}
		w.reload(e, fmt.Sprintf(limits, 3))
		time.Sleep(time.Second)
		old := w.count("")
		extra := w.site("extra", "q", "mx.q.test", 1000).start()
		time.Sleep(5 * time.Second)
		if w.count("") != old || w.count("a") < 20 || w.count("b") < 20 || w.mostAt(spot{"a", "p"}) != 3 {
			t.Errorf("after the reload: %d by the host's address, %d by a, %d by b, %d connections", w.count("")-old, w.count("a"), w.count("b"), w.mostAt(spot{"a", "p"}))
		}
		// A pool goes with its source.
		e = sources("a")
		w.reload(e, fmt.Sprintf(limits, 3))
		time.Sleep(2 * time.Second)
		b, q := w.count("b"), len(w.sentAt(spot{"a", "q"}))
		time.Sleep(5 * time.Second)
		if w.count("b") != b || len(w.sentAt(spot{"a", "q"}))-q < 20 {
			t.Errorf("after its pool went: %d by b, %d by a", w.count("b")-b, len(w.sentAt(spot{"a", "q"}))-q)
		}
		for _, x := range []*site{s, extra} {
			x.mu.Lock()
			x.left = 0
			x.mu.Unlock()
		}
		time.Sleep(10 * time.Second)
	})
}

// TestReviveWhileWaiting: a source that comes back is asked by those that wait for another one.
func TestReviveWhileWaiting(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a", "b"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 1
`)
		defer w.close()
		o, err := w.g.Give(rules.Suspend, throttle.Key{Source: "b"}, "", "", throttle.Limits{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		first := w.site("default", "p", "mx1.p.test", 1)
		first.took = time.Hour
		first.start()
		second := w.site("default", "p", "mx2.p.test", 1).start()
		time.Sleep(time.Minute)
		if second.sentAll(1) {
			t.Fatal("by a stopped source")
		}
		if err := w.g.Lift(o.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !second.sentAll(1) {
			t.Error("the source that may send again is not used")
		}
		time.Sleep(time.Hour)
	})
}
