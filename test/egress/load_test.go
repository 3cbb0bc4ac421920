//go:build egress

package egress

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// flow is a stream of messages into every node.
type flow struct {
	name   string // begins the recipients' local parts
	domain string
	rate   float64 // over all nodes
	count  int64   // over all nodes; 0: no limit
	pool   string
	tenant string
	stream string
}

// inject begins flows into the nodes of the given numbers, all if there are none; endLoad ends those without a count.
func (w *world) inject(flows []flow, nodes ...int) {
	if len(nodes) == 0 {
		for i := range w.nodes {
			nodes = append(nodes, i)
		}
	}
	if w.stopLoad == nil {
		ctx, stop := context.WithCancel(context.Background())
		w.stopLoad, w.running = stop, make(chan struct{}, 1000)
		w.t.Cleanup(func() { w.endLoad() })
		w.loadContext = ctx
	}
	for _, f := range flows {
		for _, i := range nodes {
			o := load.DefaultOptions()
			o.Target = fmt.Sprintf("%s:%d", w.nodeAddress(i), smtpPort)
			o.Keep, o.Size, o.Connections, o.Seed = true, 2<<10, 2, rand.Uint64()
			o.Domains, o.DomainCount, o.Locals = []string{f.domain}, 3, []string{fmt.Sprintf("%s.%d.%d.", f.name, i, len(w.loads))}
			o.Rate, o.Count = f.rate/float64(len(nodes)), f.count/int64(len(nodes))
			o.Pool, o.Tenant, o.Stream = f.pool, f.tenant, f.stream
			o.GiveUp, o.Timeout = units.Duration(rig.Patience), units.Duration(rig.Patience)
			l, err := load.New(o, load.Deps{})
			w.must(err)
			w.loads = append(w.loads, l)
			go func() {
				if _, err := l.Run(w.loadContext); err != nil && w.loadContext.Err() == nil {
					w.t.Errorf("source %s: %v", o.Locals[0], err)
				}
				w.running <- struct{}{}
			}()
		}
	}
}

// awaitLoad waits for flows that have a count.
func (w *world) awaitLoad() {
	w.t.Helper()
	for n := len(w.loads); w.ended < n; w.ended++ {
		select {
		case <-w.running:
		case <-time.After(2 * rig.Patience):
			w.t.Fatal("the sources do not end")
		}
	}
}

// endLoad stops the sources and returns every copy that was acknowledged.
func (w *world) endLoad() (acks []ledger.Ack) {
	if w.stopLoad == nil {
		return nil
	}
	w.stopLoad()
	w.awaitLoad()
	for _, l := range w.loads {
		acks = append(acks, l.Acks()...)
	}
	return acks
}

// awaitEmpty waits until no node owes anything any more.
func (w *world) awaitEmpty() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*rig.Patience)
	defer cancel()
	for _, n := range w.nodes {
		for left := int64(1); left > 0; {
			st, err := n.admin.Stats(ctx)
			if err != nil {
				w.t.Fatalf("%d messages stay in the queue of %s: %v", left, n.Name, err)
			}
			if left = st.Messages; left > 0 {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
}

// reconcile holds the books of sources and simulator against each other. A copy may
// have come twice if its first delivery lies shortly before one of the cuts. What went to
// the named domains was ended.
func (w *world) reconcile(acks []ledger.Ack, cuts []time.Time, ended ...string) {
	w.t.Helper()
	r := ledger.Reconcile(acks, w.sink.Deliveries())
	r.Settle(func(a ledger.Ack) bool {
		_, domain, _ := strings.Cut(a.Recipient, "@")
		return slices.Contains(ended, domain)
	})
	w.t.Logf("acknowledged %d, delivered %d, duplicates %d", r.Acked, r.Delivered, len(r.Duplicates))
	if r.Acked == 0 {
		w.t.Error("nothing was acknowledged")
	}
	for _, m := range head(r.Missing) {
		w.t.Errorf("lost: %+v", m)
	}
	for _, a := range head(r.Altered) {
		w.t.Errorf("altered: %+v", a)
	}
	for _, d := range head(r.Late(cuts, excuse)) {
		w.t.Errorf("delivered twice without an excuse: %+v", d)
	}
}

// excuse is how shortly before a cut a delivery must lie to be repeated.
const excuse = 2 * time.Second

// head is as much of a list as is worth printing.
func head[T any](list []T) []T { return list[:min(len(list), 5)] }

// senders checks that each copy came from an address of its pool; pools are told by how recipients begin.
func (w *world) senders(pools map[string][]string) {
	w.t.Helper()
	wrong := 0
	for _, d := range w.sink.Deliveries() {
		name, _, _ := strings.Cut(d.Recipient, ".")
		if d.Provider == "home" {
			continue
		}
		peer, err := netip.ParseAddrPort(d.Peer)
		from := peer.Addr()
		if err != nil {
			from, err = netip.ParseAddr(d.Peer)
		}
		ok := false
		for _, s := range pools[name] {
			ok = ok || from == w.source(s)
		}
		if (err != nil || !ok) && wrong < 5 {
			wrong++
			w.t.Errorf("%s came from %s, which is not of its pool", d.Recipient, d.Peer)
		}
	}
}
