//go:build egress

package egress

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// within is a context for one call.
func (w *world) within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	w.t.Cleanup(cancel)
	return ctx
}

// suspend stops a domain, by the API of one node, and returns the suspension's id.
func (w *world) suspend(i int, domain string) string {
	w.t.Helper()
	s, err := w.nodes[i].admin.Suspend(w.within(), adminapi.Filter{Domain: domain}, time.Time{}, "by the test")
	w.must(err)
	return s.ID
}

// awaitSuspension waits until a node knows a suspension.
func (w *world) awaitSuspension(i int, id string) {
	w.t.Helper()
	w.eventually("suspension "+id+" at "+w.nodes[i].Name, func() error {
		list, err := w.nodes[i].admin.Suspensions(w.within())
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.ID == id {
				return nil
			}
		}
		return fmt.Errorf("%d suspensions, and it is not among them", len(list))
	})
}

// TestAdmin: what an operator suspends, bounces and resumes on one node happens on the other, also
// when that one was away.
func TestAdmin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, layout{nodes: 2, rules: "[default]\nconnections = 4\n"}, sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.start()
	held := w.suspend(0, "e0.test")
	w.awaitSuspension(1, held)
	w.inject([]flow{{name: "held", domain: "e0.test", count: 20}, {name: "free", domain: "e1.test", count: 20}})
	w.awaitLoad()
	w.eventually("mail that is not held", func() error {
		if n := w.accepted("e1.test"); n < 20 {
			return fmt.Errorf("%d of 20", n)
		}
		return nil
	})
	if n := w.accepted("e0.test"); n != 0 {
		t.Errorf("%d messages were sent though suspended", n)
	}
	for i, n := range w.nodes {
		w.eventually("10 messages that wait at "+n.Name, func() error {
			if n := w.queued(i); n != 10 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}

	// The other node is away when e0.test is bounced and e2.test suspended.
	if code, err := w.nodes[1].Stop(); err != nil || code != 0 {
		t.Errorf("the node ended with code %d, %v", code, err)
	}
	w.godwit(0, "queue", "bounce", "--domain", "e0.test", "--reason", "not wanted")
	later := w.suspend(0, "e2.test")
	w.must(w.nodes[0].admin.Resume(w.within(), held))
	w.startNode(1)
	w.awaitSuspension(1, later)
	w.awaitEmpty()
	for i := range w.nodes {
		w.awaitEvent(i, "a bounce", func(e *event.Event) bool {
			return e.Kind == event.Bounced && e.Domain == "e0.test" && strings.Contains(e.Reply, "not wanted")
		})
	}
	w.inject([]flow{{name: "again", domain: "e0.test", count: 20}, {name: "later", domain: "e2.test", count: 20}})
	w.awaitLoad()
	w.eventually("mail after the end of the suspension", func() error {
		if n := w.accepted("e0.test"); n < 20 {
			return fmt.Errorf("%d of 20", n)
		}
		return nil
	})
	if n := w.accepted("e2.test"); n != 0 {
		t.Errorf("%d messages were sent though suspended", n)
	}
	w.must(w.nodes[1].admin.Resume(w.within(), later))
	w.awaitEmpty()
	if n := w.accepted("e2.test"); n != 20 {
		t.Errorf("%d messages arrived after the end of the second suspension, not 20", n)
	}
}

// accepted is how many copies for a domain have arrived.
func (w *world) accepted(domain string) (n int) {
	for _, d := range w.sink.Deliveries() {
		if strings.HasSuffix(d.Recipient, "@"+domain) {
			n++
		}
	}
	return n
}

func (w *world) queued(i int) int64 {
	w.t.Helper()
	st, err := w.nodes[i].admin.Stats(w.within())
	w.must(err)
	return st.Messages
}

// TestOrders: what an operator suspends by source holds on every node, and mail of the pool takes another source.
func TestOrders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, layout{nodes: 2, proxies: []proxySpec{{Name: "p1"}, {Name: "p2"}},
		sources: []sourceSpec{{Name: "s1", Proxy: "p1"}, {Name: "s2", Proxy: "p2"}}, rules: "[default]\nconnections = 4\n"},
		sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.start()
	o, err := w.nodes[0].admin.SetOrder(w.within(), adminapi.OrderRequest{Scope: adminapi.Scope{Source: "s1"}, Action: adminapi.ActionSuspend, Reason: "by the test"})
	needAdmin(t, err)
	w.eventually("the order at n2", func() error {
		list, err := w.nodes[1].admin.Orders(w.within())
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d orders", len(list))
		}
		return err
	})
	w.inject([]flow{{name: "first", domain: "e%d.test", count: 60}})
	w.awaitLoad()
	w.awaitEmpty()
	w.senders(map[string][]string{"first": {"s2"}})
	w.must(w.nodes[1].admin.LiftOrder(w.within(), o.ID))
	w.eventually("the end of the order at n1", func() error {
		list, err := w.nodes[0].admin.Orders(w.within())
		if err == nil && len(list) != 0 {
			err = fmt.Errorf("%d orders", len(list))
		}
		return err
	})
	w.inject([]flow{{name: "second", domain: "e%d.test", count: 200}})
	w.awaitLoad()
	w.awaitEmpty()
	w.senders(map[string][]string{"first": {"s2"}, "second": {"s1", "s2"}})
	seen := false
	for _, s := range w.sink.Stats().Sources {
		seen = seen || s.Source == w.source("s1").String()
	}
	if !seen {
		t.Error("s1 sent nothing after the end of the order")
	}
	w.reconcile(w.endLoad(), nil)
}

// TestHandoff: a node that is to leave gives its queue to the other one, which delivers it.
func TestHandoff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, layout{nodes: 2, keyed: true, rules: "[default]\nconnections = 4\n"}, sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.start()
	held := w.suspend(0, "e0.test")
	w.awaitSuspension(1, held)
	const n = 300
	w.inject([]flow{{name: "held", domain: "e0.test", count: n}}, 0)
	w.awaitLoad()
	acks := w.endLoad()
	_, err := w.nodes[0].admin.HandoffStatus(w.within())
	needAdmin(t, err)
	s := godwitJSON[adminapi.HandoffStatus](w, 0, "queue", "drain", "--handoff")
	if s.State != adminapi.HandoffDone || s.Moved != n || s.Left != 0 {
		t.Errorf("%+v", s)
	}
	if here, there := w.queued(0), w.queued(1); here != 0 || there != n {
		t.Errorf("%d messages wait here and %d there, not 0 and %d", here, there, n)
	}
	if code, err := w.nodes[0].Stop(); err != nil || code != 0 {
		t.Errorf("the node ended with code %d, %v", code, err)
	}
	moved, err := w.eventsOf(0, func(e *event.Event) bool { return e.Kind == event.Moved })
	if err != nil || len(moved) != n {
		t.Errorf("%d events tell of a move, %v", len(moved), err)
	}
	w.must(w.nodes[1].admin.Resume(w.within(), held))
	w.nodes = w.nodes[1:]
	w.awaitEmpty()
	w.reconcile(acks, nil)
}
