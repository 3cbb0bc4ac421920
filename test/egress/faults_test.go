//go:build egress

package egress

import (
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/watch"
)

// faulty is four nodes and two proxies with limits of every kind: s1 and s2 have a
// proxy each as authority; the pool of both at alpha and at delta, d1, which every node
// has for its own, and a tenant have an owner among the nodes. At alpha a message
// needs permits of two authorities, at delta of the pool's alone.
func faulty(t *testing.T, lay layout) *world {
	lay.nodes = 4
	lay.proxies = []proxySpec{{Name: "p1", Zone: "a"}, {Name: "p2", Zone: "b"}}
	lay.sources = []sourceSpec{{Name: "s1", Proxy: "p1"}, {Name: "s2", Proxy: "p2"}}
	lay.pools = `
pools = [
  { name = "default", sources = [{ name = "s1" }, { name = "s2" }] },`
	if !lay.apart { // in a namespace of its own a node cannot have the address of another
		lay.sources = append(lay.sources, sourceSpec{Name: "d1"})
		lay.pools += `
  { name = "direct", sources = [{ name = "d1" }] },`
	}
	lay.pools += "\n]"
	lay.rules = `
[default]
connections = 8
message_rate = "50/s"
[[provider]]
name = "alpha"
mx_suffix = ["alpha.sink.test"]
  [provider.pool]
  connections = 12
  message_rate = "70/s"
[[provider]]
name = "delta"
mx_suffix = ["delta.sink.test"]
message_rate = ""
  [provider.pool]
  connections = 8
  message_rate = "40/s"
[[tenant]]
name = "slow"
message_rate = "20/s"`
	return newWorld(t, lay, sink.Provider{Name: "alpha", Domains: []string{"a%d.test"}, Count: 3},
		sink.Provider{Name: "gamma", Domains: []string{"g%d.test"}, Count: 3},
		sink.Provider{Name: "delta", Domains: []string{"d%d.test"}, Count: 3}, sink.Provider{Name: "beta", Domains: []string{"b%d.test"}, Count: 3})
}

// demand is more than the limits of faulty allow. It returns those whose use is to be judged, and all.
func (w *world) demand() (judged, all []bound) {
	flows := []flow{{name: "alpha", domain: "a%d.test", rate: 120}, {name: "delta", domain: "d%d.test", rate: 70},
		{name: "slow", domain: "g%d.test", rate: 35, tenant: "slow"}}
	judged = []bound{{name: "pool at delta", provider: "delta", limit: watch.Limit{Rate: 40, Connections: 8}},
		{name: "tenant", provider: "gamma", limit: watch.Limit{Rate: 20}, late: 200 * time.Millisecond}}
	if !w.lay.apart {
		flows = append(flows, flow{name: "direct", domain: "b%d.test", rate: 80, pool: "direct"})
		judged = append(judged, bound{name: "d1 of all nodes", sources: []string{"d1"}, provider: "beta", limit: watch.Limit{Rate: 50, Connections: 8}})
	}
	w.inject(flows)
	each := watch.Limit{Rate: 50, Connections: 8}
	return judged, append([]bound{{name: "s1", sources: []string{"s1"}, provider: "alpha", limit: each},
		{name: "s2", sources: []string{"s2"}, provider: "alpha", limit: each},
		{name: "pool at alpha", provider: "alpha", limit: watch.Limit{Rate: 70, Connections: 12}}}, judged...)
}

// What must be used of a limit when all is well, and under a fault. How much can be is for the
// bench to show, which has the machine for itself; here it is about limits that hold while mail goes.
const (
	mostUse = 0.3
	someUse = 0.1
)

// phase is a time under a fault, or after one.
type phase struct {
	name     string
	from, to time.Time
	least    float64 // share of each limit that must be used
}

// during lets a fault last, and remembers that so much of the limits must be used once it is known.
func (w *world) during(name string, settle, d time.Duration, least float64) {
	w.mark("%s", name)
	time.Sleep(settle)
	p := phase{name: name, from: time.Now(), least: least}
	time.Sleep(d)
	p.to = time.Now()
	w.phases = append(w.phases, p)
}

// judge holds the record against limits and phases.
func (w *world) judge(judged, all []bound) {
	w.t.Helper()
	r := w.record()
	w.marks(r)
	w.overshoot(r, all...)
	defer func() {
		for _, b := range all {
			if w.t.Failed() {
				w.t.Logf("%s, by second: %v", b.name, w.course(r, b))
			}
		}
	}()
	for _, p := range w.phases {
		for _, b := range judged {
			use := w.used(r, b, p.from, p.to)
			w.t.Logf("%s: %s: %.1f %% used", p.name, b.name, 100*use)
			if use < p.least {
				w.t.Errorf("%s: %s: %.1f %% of its rate was used, not %.0f %%", p.name, b.name, 100*use, 100*p.least)
			}
		}
	}
}

// TestFaults: limits hold at the provider while links between nodes are cut in two halves, a proxy is out
// of reach for half of the nodes, another is slow, links stutter, owners and a proxy stand still.
func TestFaults(t *testing.T) {
	w := faulty(t, layout{faults: true})
	w.start()
	judged, all := w.demand()
	w.during("all is well", 3*time.Second, 3*time.Second, mostUse)

	w.links(fault{up: drop, down: drop}, func(i, j int) bool { return i/2 != j/2 })
	w.during("links between two halves are cut", 3*time.Second, 4*time.Second, someUse)
	w.links(fault{}, nil)
	w.during("links are whole", 4*time.Second, 2*time.Second, someUse)

	w.proxy(0, fault{up: drop, down: drop}, 0, 1)
	w.during("p1 is out of reach for n1 and n2", 3*time.Second, 2*time.Second, someUse)
	w.proxy(0, fault{}, 0, 1)
	w.during("p1 is back", 3*time.Second, time.Second, 0)

	w.links(fault{down: drop}, func(i, j int) bool { return i == 0 || j == 0 })
	w.during("links of n1 lose what comes back", 3*time.Second, 2*time.Second, someUse)
	w.links(fault{}, nil)
	w.during("links of n1 are whole", 3*time.Second, time.Second, 0)

	w.slow(1, 100*time.Millisecond)
	w.during("p2 is 100 ms away", 4*time.Second, time.Second, 0)
	w.slow(1, 0)
	w.during("p2 is near", 2*time.Second, time.Second, 0)

	w.mark("links between nodes stutter")
	for range 6 {
		w.links(fault{up: hold, down: hold}, func(i, j int) bool { return i%2 != j%2 })
		time.Sleep(300 * time.Millisecond)
		w.links(fault{}, nil)
		time.Sleep(400 * time.Millisecond)
	}
	for _, n := range w.nodes {
		w.pause(n.Signal)
		w.during(n.Name+" goes on", time.Second, 500*time.Millisecond, 0)
	}
	w.during("all is well again", 2*time.Second, 3*time.Second, mostUse)
	w.judge(judged, all)

	// A proxy that stands still holds a MAIL of each connection and lets go of them when it goes on. Its own
	// limits hold all the same, since it grants nothing then for longer; those of others cannot know.
	w.pause(w.procs[0].Signal)
	w.during("p1 goes on", 2*time.Second, 3*time.Second, 0)
	w.endLoad()
	w.overshoot(w.record(), all[:2]...)
}

// links sets a fault on links between nodes: on those that pick chooses, or on all.
func (w *world) links(f fault, pick func(i, j int) bool) {
	for i, n := range w.nodes {
		for j := range w.nodes {
			if i != j && (pick == nil || pick(i, j)) {
				n.links[j].set(f)
			}
		}
	}
}

// proxy sets a fault between a proxy and some nodes.
func (w *world) proxy(k int, f fault, nodes ...int) {
	for _, i := range nodes {
		w.sets[k].relays[i].set(f)
	}
}

// slow sets how far a proxy is away. Connections from before end: else what was
// under way for long would meet what is no more, and make a burst that nobody sent.
func (w *world) slow(k int, delay time.Duration) {
	for _, r := range w.sets[k].relays {
		r.set(fault{delay: delay})
		r.cut()
	}
}

// stopped is the mark of a process that stands still, until the next mark.
const stopped = "a process is stopped"

// pause stops a process for two seconds.
func (w *world) pause(signal func(syscall.Signal) error) {
	w.t.Helper()
	w.mark(stopped)
	w.must(signal(syscall.SIGSTOP))
	time.Sleep(2 * time.Second)
	w.must(signal(syscall.SIGCONT))
}

// TestGossipSplit cuts the network between the nodes, gossip and links, into two halves.
// Mail and proxies stay in reach. What an operator does in one half reaches the other when they meet again.
func TestGossipSplit(t *testing.T) {
	w := faulty(t, layout{apart: true})
	w.start()
	judged, all := w.demand()
	w.during("all is well", 3*time.Second, 3*time.Second, mostUse)
	w.separate(2, 3)
	w.during("the network is cut in two", 3*time.Second, 5*time.Second, someUse)
	id := w.suspend(0, "nobody.test")
	w.separate()
	w.during("the network is whole", 5*time.Second, 2*time.Second, someUse)
	for i := range w.nodes {
		w.awaitSuspension(i, id)
	}
	w.during("all is well again", time.Second, 3*time.Second, mostUse)
	w.endLoad()
	w.judge(judged, all)
}
