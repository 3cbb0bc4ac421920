//go:build egress

package egress

import (
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/watch"
)

// TestLoss kills a proxy, then both proxies of another zone, under load. Mail goes
// on over what is left within 5 s, each message from a source of its pool, and none is lost.
func TestLoss(t *testing.T) {
	w := newWorld(t, layout{
		nodes: 2,
		proxies: []proxySpec{
			{Name: "p1", Zone: "a"}, {Name: "p2", Zone: "a"}, {Name: "p3", Zone: "b"}, {Name: "p4", Zone: "c"},
		},
		sources: []sourceSpec{
			{Name: "s1", Proxy: "p1"}, {Name: "s2", Proxy: "p2"}, {Name: "s3", Proxy: "p3"}, {Name: "s4", Proxy: "p4"},
			{Name: "u1", Proxy: "p1"}, {Name: "u3", Proxy: "p3"}, {Name: "u4", Proxy: "p4"},
		},
		pools: `
pools = [
  { name = "default", sources = [{ name = "s1" }, { name = "s2" }, { name = "s3" }, { name = "s4" }] },
  { name = "urgent", sources = [{ name = "u1" }, { name = "u3" }, { name = "u4" }] },
]`,
		rules: `
[default]
connections = 4
message_rate = "60/s"
messages_per_connection = 20`,
	}, sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.start()
	w.inject([]flow{{name: "bulk", domain: "e%d.test", rate: 100}, {name: "urgent", domain: "e%d.test", pool: "urgent", rate: 40}})

	time.Sleep(3 * time.Second)
	var cuts []time.Time
	begin := w.mark("p3 killed")
	cuts = append(cuts, w.kill(2))
	time.Sleep(7 * time.Second)
	zone := w.mark("p1 and p2 killed, all of zone a")
	cuts = append(cuts, w.kill(0, 1))
	time.Sleep(7 * time.Second)
	end := time.Now()
	r := w.record()
	w.startProxy(0)
	w.startProxy(1)
	w.startProxy(2)
	acks := w.endLoad()
	w.awaitEmpty()
	w.reconcile(acks, cuts)
	w.senders(map[string][]string{"bulk": {"s1", "s2", "s3", "s4"}, "urgent": {"u1", "u3", "u4"}})

	limit := watch.Limit{Rate: 60, Connections: 4}
	all := w.record()
	for _, s := range []string{"s1", "s2", "s3", "s4", "u1", "u3", "u4"} {
		w.overshoot(all, bound{name: s, sources: []string{s}, provider: "easy", limit: limit})
	}
	for _, x := range []struct {
		left     []string
		from, to time.Time
		could    float64 // messages a second that could go
	}{
		{[]string{"s1", "s2", "s4"}, begin, zone, 100},
		{[]string{"u1", "u4"}, begin, zone, 40},
		{[]string{"s4"}, zone, end, 58},
		{[]string{"u4"}, zone, end, 40},
	} {
		b := bound{name: "left", sources: x.left, provider: "easy", limit: watch.Limit{}}
		if quiet := w.silence(r, b, x.from, x.to); quiet > 5*time.Second {
			t.Errorf("%v: no mail for %v", x.left, quiet)
		}
		from := x.from.Add(5 * time.Second)
		got := float64(w.mails(r, b, from, x.to)) / x.to.Sub(from).Seconds()
		t.Logf("%v: %.1f/s from 5 s after the kill on", x.left, got)
		if got < 0.3*x.could { // the machine may be slow
			t.Errorf("%v: %.1f/s from 5 s after the kill on, of %v", x.left, got, x.could)
		}
	}
}

// kill ends proxies at once and returns the instant at which the simulator has
// seen all their connections end: what was on its way until then may have arrived.
func (w *world) kill(proxies ...int) time.Time {
	w.t.Helper()
	var theirs []string
	for _, k := range proxies {
		w.procs[k].Kill()
		for _, s := range w.sourcesOf(w.sets[k].Name) {
			theirs = append(theirs, s.Name)
		}
	}
	w.eventually("connections of a dead proxy", func() error {
		if w.openFrom(theirs...) > 0 {
			return errNotYet
		}
		return nil
	})
	return time.Now()
}
