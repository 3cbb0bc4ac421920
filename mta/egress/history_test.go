package egress

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// TestRandomHistories runs a queue, this gate, the desk and the authorities of two proxies through
// random histories: mail comes, proxies flap, sites break, providers push back, orders come and go, the
// configuration changes. At no time may the provider see more than it allows. When the trouble is over,
// all is delivered, and nothing is left behind. GODWIT_SEED reproduces one history, as far as goroutines let it.
func TestRandomHistories(t *testing.T) {
	histories, seed := 4, uint64(time.Now().UnixNano())
	if testing.Short() {
		histories = 2
	}
	if s := os.Getenv("GODWIT_SEED"); s != "" {
		histories = 1
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(histories) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newHistory(t, seed+i).run(80) })
		})
	}
}

// Limits of the histories: of each source at the provider big, and at each site without provider.
const (
	bigConns, bigRate   = 3, 20
	siteConns, siteRate = 2, 5
	tenantRate          = 4
	historyRules        = `
[default]
connections = 2
message_rate = "5/s"
messages_per_connection = 7
[[provider]]
name = "big"
mx_suffix = [".big.test"]
connections = 3
message_rate = "20/s"
connect_rate = "5/s"
[[provider.rule]]
name = "blocked"
match = "blocked by list"
action = "suspend"
for = "2m"
matches = ["421 4.7.0 blocked by list"]
not = ["421 try later"]
[[provider.rule]]
name = "slow"
match = "too fast"
action = "slow"
message_rate = "2/s"
connections = 1
for = "1m"
matches = ["421 4.7.0 too fast"]
not = ["421 try later"]
[[tenant]]
name = "u"
message_rate = "4/s"
`
)

type history struct {
	t      *testing.T
	r      *rand.Rand
	w      *world
	q      *queue.Queue
	ids    mail.IDs
	steps  []string
	put    int
	order  []string
	single bool // one recipient in a transaction: then the rate holds within each second

	mu        sync.Mutex
	rnd       *rand.Rand // of what others do
	calm      bool
	down      map[string]bool // sites
	took      time.Duration
	delivered map[mail.ID]int
	visits    map[*visit]struct{}
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, r: rand.New(rand.NewPCG(seed, 1)), rnd: rand.New(rand.NewPCG(seed, 2)), down: map[string]bool{},
		delivered: map[mail.ID]int{}, visits: map[*visit]struct{}{}, took: 20 * time.Millisecond}
	h.w = newWorld(t, h.egress(), historyRules)
	h.w.g.dial = h.dial
	o := queue.DefaultOptions()
	o.Path = t.TempDir()
	o.Spool.SegmentSize, o.Spool.Spares, o.Spool.MinFree = 1<<20, 0, 0
	o.MaxSessions, o.MaxReady, o.MaxInMemory = 2+h.r.IntN(30), 20, 100+h.r.IntN(300)
	if h.single = h.r.IntN(3) > 0; h.single {
		o.MaxPerTransaction = 1
	}
	o.Retry = queue.RetryRule{First: units.Duration(20 * time.Second), Factor: 1.5, Max: units.Duration(2 * time.Minute), Jitter: 0.3}
	o.HoldMax = units.Duration(30 * time.Second)
	q, err := queue.Open(t.Context(), o, queue.Deps{Router: h, Gate: h.w.g, Deliverer: h, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	q.Start()
	h.q = q
	return h
}

// egress has two sources behind proxies and one without.
func (h *history) egress() proxy.Options {
	e := sources("a", "b", "c")
	for i, n := range []string{"x", "y"} {
		e.Proxies = append(e.Proxies, proxy.ProxyOptions{Name: n, Address: "192.0.2.1:1"})
		e.Sources[i].Proxy, e.Sources[i].Bind = n, "192.0.2.1"
	}
	e.Pools = []proxy.Pool{
		{Name: "default", Sources: []proxy.Member{{Name: "a"}, {Name: "b", Weight: 2}}, Fallback: "rest"},
		{Name: "rest", Sources: []proxy.Member{{Name: "c"}}}}
	return e
}

func (h *history) run(steps int) {
	for range steps {
		h.step()
		synctest.Wait()
		if h.t.Failed() {
			break
		}
	}
	h.settle()
	if h.t.Failed() {
		h.t.Logf("steps: %v", h.steps)
	}
}

func (h *history) step() {
	n := h.r.IntN(100)
	h.steps = append(h.steps, fmt.Sprintf("%d@%s", n, time.Now().Format("04:05.000")))
	switch {
	case n < 30:
		h.inject()
	case n < 65:
		time.Sleep(time.Duration(h.r.IntN(5000)) * time.Millisecond)
	case n < 70:
		time.Sleep(time.Duration(h.r.IntN(60)) * time.Second)
	case n < 76:
		h.mu.Lock()
		s := h.site()
		h.down[s] = !h.down[s]
		h.mu.Unlock()
	case n < 84:
		h.flap([]string{"x", "y"}[h.r.IntN(2)], h.r.IntN(2) == 0)
	case n < 92:
		h.orders()
	case n < 96:
		h.mu.Lock()
		h.took = time.Duration(h.r.IntN(400)) * time.Millisecond
		h.mu.Unlock()
	default:
		h.reload()
	}
}

func (h *history) site() string {
	return []string{"mx1.big.test", "mx2.big.test", "mx3.big.test", "mx.one.test", "mx.two.test"}[h.r.IntN(5)]
}

func (h *history) inject() {
	now := time.Now()
	n := 1 + h.r.IntN(60)
	first := h.ids.Reserve(now, n+1)
	b := &mail.Batch{Body: &mail.Body{ID: first.Add(n), Size: 4, Data: []byte("body")}}
	ref := mail.BodyRef{ID: b.Body.ID, Size: 4}
	for i := range n {
		b.Messages = append(b.Messages, &mail.Message{ID: first.Add(i), Batch: first, Accepted: now, Tenant: []string{"t", "u", "v"}[h.r.IntN(3)],
			Stream: strconv.Itoa(h.r.IntN(2)), Priority: mail.Priority(h.r.IntN(3)), Expires: now.Add(100 * time.Hour),
			Recipient: fmt.Sprintf("r%d@%s", h.put, h.site()), Body: ref, Pool: []string{"", "rest", "odd"}[h.r.IntN(3)]})
		h.put++
	}
	if err := h.q.Put(h.t.Context(), b); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) flap(name string, down bool) {
	h.w.proxies[name].set(down)
	if !down {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for v := range h.visits { // what went through it is cut off
		if s, _ := h.w.g.pools.Source(v.source); s.Proxy == name {
			v.cut()
		}
	}
}

func (h *history) orders() {
	if len(h.order) > 0 && h.r.IntN(2) == 0 {
		_ = h.w.g.Lift(h.order[0]) // it may have ended
		h.order = h.order[1:]
		return
	}
	end := time.Time{}
	if h.r.IntN(2) == 0 {
		end = time.Now().Add(time.Duration(1+h.r.IntN(60)) * time.Second)
	}
	source := []string{"a", "b", "c"}[h.r.IntN(3)]
	action, k, stream, l := rules.Suspend, throttle.Key{Source: source, Provider: "big"}, "", throttle.Limits{}
	switch h.r.IntN(5) {
	case 0:
		k = throttle.Key{Source: source, Site: "mx.one.test"}
	case 1:
		action = rules.OneConnection
	case 2:
		action, k = rules.SuspendTenant, throttle.Key{Tenant: "t"}
	case 3:
		action, k, stream = rules.SuspendStream, throttle.Key{Tenant: "u", Provider: "big"}, "1"
	}
	o, err := h.w.g.Give(action, k, stream, "", l, end)
	if err != nil {
		h.t.Fatal(err)
	}
	h.order = append(h.order, o.ID)
}

func (h *history) reload() {
	e := h.egress()
	if h.r.IntN(2) == 0 {
		e.Pools = nil
	}
	h.w.o.Egress = e
	if err := h.w.g.Reload(h.w.o); err != nil {
		h.t.Fatal(err)
	}
}

// settle ends all trouble, and looks whether everything comes to its end.
func (h *history) settle() {
	h.mu.Lock()
	h.calm = true
	clear(h.down)
	h.mu.Unlock()
	for _, p := range h.w.proxies {
		p.set(false)
	}
	for _, o := range h.w.g.Orders() {
		_ = h.w.g.Lift(o.ID)
	}
	time.Sleep(20 * time.Minute)
	synctest.Wait()
	if n := h.q.Queued(); n != 0 {
		h.t.Errorf("%d messages are queued still", n)
		for _, m := range []string{"default", "rest", "", "odd"} {
			for _, s := range []string{"mx1.big.test", "mx2.big.test", "mx3.big.test", "mx.one.test", "mx.two.test"} {
				h.t.Logf("%s %s: %+v", m, s, h.w.g.Stops(m+" "+s))
			}
		}
	}
	h.mu.Lock()
	if len(h.delivered) != h.put {
		h.t.Errorf("%d of %d delivered", len(h.delivered), h.put)
	}
	for id, n := range h.delivered {
		if n != 1 {
			h.t.Errorf("%v delivered %d times", id, n)
		}
	}
	h.mu.Unlock()
	for _, s := range []string{"a", "b", "c"} {
		for place, l := range map[string][2]int{"big": {bigConns, bigRate}, "mx.one.test": {siteConns, siteRate}, "mx.two.test": {siteConns, siteRate}} {
			at := spot{s, place}
			if n := h.w.mostAt(at); n > l[0] {
				h.t.Errorf("%d connections of %v, %d allowed", n, at, l[0])
			}
			if bad := overshoot(h.w.sentAt(at), float64(l[1])); bad != "" && h.single {
				h.t.Errorf("%v: %s", at, bad)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.q.Stop(ctx); err != nil {
		h.t.Error(err)
	}
	h.w.close()
}
