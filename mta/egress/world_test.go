package egress

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/records"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/grant"
)

// world is the gate under test, what it sends to, and its proxies. Time is virtual.
type world struct {
	t       testing.TB
	g       *Gate
	o       Options
	store   *records.Store
	proxies map[string]*fakeProxy

	mu     sync.Mutex
	events []event.Event
	open   map[spot]int // connections, of a source to a provider or site
	most   map[spot]int
	conns  map[spot]int // opened in all
	sent   map[spot][]time.Time
	by     map[string][]time.Time // what tenants sent
	reply  func(source, site string) mail.Outcome
}

// fakeProxy is the authority of a proxy without the proxy.
type fakeProxy struct {
	keeper *throttle.Keeper
	server *grant.Server
	mu     sync.Mutex
	down   bool
	conns  []net.Conn
}

func newWorld(t testing.TB, e proxy.Options, toml string) *world {
	t.Helper()
	w := &world{t: t, proxies: map[string]*fakeProxy{}, open: map[spot]int{}, most: map[spot]int{}, conns: map[spot]int{},
		sent: map[spot][]time.Time{}, by: map[string][]time.Time{}}
	w.o = Options{Egress: e, Throttle: DefaultThrottle(), Node: "n1"}
	w.o.Throttle.Packs, w.o.Throttle.Files = nil, []string{w.file(toml)}
	for _, p := range e.Proxies {
		w.proxy(p.Name)
	}
	var err error
	if w.store, err = records.Open(filepath.Join(t.TempDir(), "records"), "n1", records.Deps{}); err != nil {
		t.Fatal(err)
	}
	w.g, err = New(w.o, Deps{Records: w.store, Events: w.event, DialProxy: w.dialProxy})
	if err != nil {
		t.Fatal(err)
	}
	w.g.Start()
	return w
}

func (w *world) file(toml string) string {
	w.t.Helper()
	name := filepath.Join(w.t.TempDir(), "rules.toml")
	if err := os.WriteFile(name, []byte("version = 1\n"+toml), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return name
}

func (w *world) reload(e proxy.Options, toml string) {
	w.t.Helper()
	w.o.Egress, w.o.Throttle.Files = e, []string{w.file(toml)}
	if err := w.g.Reload(w.o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) event(e event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *world) proxy(name string) {
	o := throttle.DefaultOptions()
	p := &fakeProxy{keeper: throttle.NewKeeper(o)}
	var err error
	if p.server, err = grant.NewServer(grant.ServerOptions{Name: name}, grant.ServerDeps{Keeper: p.keeper}); err != nil {
		w.t.Fatal(err)
	}
	w.proxies[name] = p
}

// dialProxy connects to a fake proxy.
func (w *world) dialProxy(ctx context.Context, name string) (net.Conn, error) {
	p := w.proxies[name]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, fmt.Errorf("no route to %s", name)
	}
	here, there := net.Pipe()
	p.conns = append(p.conns, here, there)
	go func() { _ = p.server.Serve(context.WithoutCancel(ctx), there) }()
	return here, nil
}

// set makes a proxy unreachable, or reachable again.
func (p *fakeProxy) set(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	if down {
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.conns = nil
	}
}

// close ends everything and looks for what was left behind.
func (w *world) close() {
	w.t.Helper()
	w.nothingLeft()
	w.g.Stop()
	for _, p := range w.proxies {
		p.set(true)
		p.keeper.Close()
	}
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

// nothingLeft checks that no lease, request or counter was leaked, when nobody wants anything any more.
func (w *world) nothingLeft() {
	w.t.Helper()
	time.Sleep(12 * time.Minute) // contacts, banks of permits and failures run out
	g := w.g
	g.mu.Lock()
	if len(g.demands)+len(g.alarms)+len(g.open)+len(g.leases)+g.asked+len(g.tries) > 0 {
		w.t.Errorf("left behind: %d demands, %d alarms, %d requests, open %v, %d leases, tries %v", len(g.demands), len(g.alarms), g.asked, g.open, len(g.leases), g.tries)
	}
	g.mu.Unlock()
	g.admissions.mu.Lock()
	if s := &g.admissions; len(s.flows)+len(s.taps)+len(s.held) > 0 {
		w.t.Errorf("left behind: %d flows, %d taps, %d held", len(s.flows), len(s.taps), len(s.held))
	}
	g.admissions.mu.Unlock()
	for _, s := range g.desk.Status() {
		if s.Leases+s.Connect.Waiting+s.Send.Waiting > 0 {
			w.t.Errorf("left behind at the desk: %+v", s)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for at, n := range w.open {
		if n != 0 {
			w.t.Errorf("%d connections by %v are open", n, at)
		}
	}
}

func (w *world) connect(at spot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[at]++
	w.conns[at]++
	w.most[at] = max(w.most[at], w.open[at])
}

func (w *world) disconnect(at spot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[at]--
}

// mail is the moment of MAIL.
func (w *world) mail(at spot, site, tenant string) mail.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.sent[at] = append(w.sent[at], now)
	w.by[tenant] = append(w.by[tenant], now)
	out := mail.Outcome{Kind: mail.Delivered, Class: mail.ClassSMTP, Started: now, Reply: mail.Reply{Code: 250}}
	if w.reply != nil {
		out = w.reply(at.source, site)
	}
	return out
}

func (w *world) count(source string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at, sent := range w.sent {
		if at.source == source || source == "*" {
			n += len(sent)
		}
	}
	return n
}

func (w *world) mostAt(at spot) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most[at]
}

func (w *world) connsAt(at spot) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns[at]
}

func (w *world) sentAt(at spot) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sent[at])
}

// overshoot tells what is wrong with instants under a rate: never more than
// ceil(1.02 R)+1 in a second, nor 10.2 R (and one) in ten.
func overshoot(sent []time.Time, rate float64) string {
	for _, s := range []struct {
		span time.Duration
		most int
	}{{time.Second, int(math.Ceil(1.02*rate)) + 1}, {10 * time.Second, max(int(10.2*rate), int(10*rate)+1)}} {
		first := 0
		for i, at := range sent {
			for at.Sub(sent[first]) >= s.span {
				first++
			}
			if n := i - first + 1; n > s.most {
				return fmt.Sprintf("%d messages in the %v until %v, %d allowed", n, s.span, at.Format("05.000"), s.most)
			}
		}
	}
	return ""
}

func sources(names ...string) (o proxy.Options) {
	for _, n := range names {
		o.Sources = append(o.Sources, proxy.Source{Name: n})
	}
	o.ProxyTimeout = units.Duration(time.Second)
	return o
}

// until waits for a condition, for at most so long.
func until(t testing.TB, most time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(most); ; time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, most)
		}
	}
}

func inTime(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }
