//go:build egress

package egress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

// TestBackoff: a provider answers as Yahoo does when it has had enough. The shipped rule stops the source there, on both
// nodes and over a restart, and says so; other mail goes on. An operator lifts it on the other node, and mail goes on.
func TestBackoff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, layout{
		nodes:   2,
		proxies: []proxySpec{{Name: "p1"}},
		sources: []sourceSpec{{Name: "s1", Proxy: "p1"}},
		packs:   []string{"default", "yahoo"},
		rules: `
[[provider]]
name = "yahoo"
mx_suffix = ["yahoodns.sink.test"]`,
	}, sink.Provider{Name: "yahoodns", Domains: []string{"y%d.test"}, Count: 3,
		Behaviour: sink.Behaviour{Texts: "yahoo", SourceRate: units.Rate{Count: 10, Per: time.Hour}}},
		sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.start()
	w.inject([]flow{{name: "yahoo", domain: "y%d.test", count: 40}})
	ordered := -1
	var e event.Event
	w.eventually("an order", func() error {
		for i := range w.nodes {
			list, err := w.eventsOf(i, func(e *event.Event) bool { return e.Kind == event.Suspended })
			if err == nil && len(list) > 0 {
				ordered, e = i, list[0]
				return nil
			}
		}
		return errNotYet
	})
	if e.Rule != "yahoo/complaints" || !strings.Contains(e.Reason, "[TSS04]") || e.Source != "s1" || e.Provider != "yahoo" || time.Until(e.Until) < time.Hour {
		t.Errorf("event %+v", e)
	}
	// The node that did not see the replies says the same, and so does the one that did after a restart.
	w.awaitEvent(1-ordered, "the order", func(e *event.Event) bool { return e.Kind == event.Suspended && e.Rule == "yahoo/complaints" })
	id := w.awaitOrder(1-ordered, "")
	code, err := w.nodes[ordered].Stop()
	if err != nil || code != 0 {
		t.Errorf("the node ended with code %d, %v", code, err)
	}
	w.startNode(ordered)
	w.awaitOrder(ordered, id)

	for i := range w.nodes {
		x := godwitJSON[adminapi.Explanation](w, i, "explain", "someone@y0.test")
		if !x.Stopped || len(x.Orders) != 1 || x.Orders[0].ID != id || !strings.Contains(x.Orders[0].Reason, "[TSS04]") || len(x.Paths) != 1 || x.Paths[0].Usable {
			t.Errorf("explain at %s: %+v", w.nodes[i].Name, x)
		}
	}
	before := w.providerMails("yahoodns")
	w.inject([]flow{{name: "easy", domain: "e%d.test", count: 20}})
	w.eventually("mail to another provider", func() error {
		if n := w.providerMails("easy"); n < 20 {
			return fmt.Errorf("%d of 20", n)
		}
		return nil
	})
	if after := w.providerMails("yahoodns"); after != before {
		t.Errorf("%d messages were tried under the order", after-before)
	}

	w.must(w.sink.Change("yahoodns", func(b *sink.Behaviour) error { b.SourceRate = units.Rate{}; return nil }))
	w.godwit(1-ordered, "throttles", "lift", id)
	w.awaitEvent(ordered, "the end of the order", func(e *event.Event) bool { return e.Kind == event.Resumed && strings.Contains(e.ID, id) })
	w.awaitLoad()
	w.awaitEmpty()
	w.reconcile(w.endLoad(), nil)
	for i := range w.nodes {
		if x := godwitJSON[adminapi.Explanation](w, i, "explain", "someone@y0.test"); x.Stopped || len(x.Orders) != 0 {
			t.Errorf("explain at %s after the lift: %+v", w.nodes[i].Name, x)
		}
	}
}

// awaitOrder waits until godwit throttles lists an order of the yahoo pack at a node, of that id if there is one.
func (w *world) awaitOrder(i int, id string) string {
	w.t.Helper()
	var found string
	w.eventually("the order at "+w.nodes[i].Name, func() error {
		list := godwitJSON[struct{ Orders []adminapi.Order }](w, i, "throttles", "list")
		for _, o := range list.Orders {
			if strings.Contains(o.Rule, "complaints") && o.Scope.Source == "s1" && o.Scope.Provider == "yahoo" && (id == "" || o.ID == id) {
				found = o.ID
				return nil
			}
		}
		return fmt.Errorf("%+v", list.Orders)
	})
	return found
}

// providerMails is how many MAIL commands a provider had.
func (w *world) providerMails(name string) (n int64) {
	for _, s := range w.sink.Stats().Sources {
		if s.Provider == name {
			n += s.Mails
		}
	}
	return n
}

// TestWarmup: a new source sends its 20 of the day, all else goes by the warm one, at once.
func TestWarmup(t *testing.T) {
	t.Parallel()
	today := time.Now().UTC()
	w := newWorld(t, layout{
		nodes:   2,
		proxies: []proxySpec{{Name: "p1"}, {Name: "p2"}},
		sources: []sourceSpec{{Name: "new", Proxy: "p1", Warmup: "slow"}, {Name: "warm", Proxy: "p2"}},
		pools: `warmups = [{ name = "slow", start = "` + today.Format(time.DateOnly) + `", days = [20, 40] }]
`,
		rules: "[default]\nconnections = 4\n",
	}, sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.start()
	w.inject([]flow{{name: "easy", domain: "e%d.test", count: 200}})
	begin := time.Now()
	w.awaitLoad()
	w.awaitEmpty()
	took := time.Since(begin)
	w.reconcile(w.endLoad(), nil)
	from := map[string]int64{}
	for _, s := range w.sink.Stats().Sources {
		from[s.Source] += s.Mails
	}
	if time.Now().UTC().Day() != today.Day() {
		t.Skip("the day ended meanwhile")
	}
	if n := from[w.source("new").String()]; n != 20 {
		t.Errorf("the new source sent %d, not 20; the warm one %d", n, from[w.source("warm").String()])
	}
	if took > 10*time.Second {
		t.Errorf("mail waited: 200 messages took %v", took)
	}
	// The count survives the proxy.
	code, err := w.procs[0].Stop()
	if err != nil || code != 0 {
		t.Errorf("the proxy ended with code %d, %v", code, err)
	}
	w.startProxy(0)
	w.inject([]flow{{name: "more", domain: "e%d.test", count: 60}})
	w.awaitLoad()
	w.awaitEmpty()
	for _, s := range w.sink.Stats().Sources {
		if s.Source == w.source("new").String() && s.Provider == "easy" && s.Mails != 20 {
			t.Errorf("the new source sent %d after a restart of its proxy, not 20", s.Mails)
		}
	}
}
