package desk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/grant"
)

// overshoot tells what is wrong with instants under a rate per second: never more
// than ceil(1.02 R)+1 in a second, nor 10.2 R (and one) in ten.
func overshoot(sent []time.Time, rate int64) string {
	slices.SortFunc(sent, time.Time.Compare)
	for _, w := range []struct {
		span time.Duration
		most int
	}{{time.Second, int(math.Ceil(1.02*float64(rate))) + 1}, {10 * time.Second, max(int(10.2*float64(rate)), int(10*rate)+1)}} {
		first := 0
		for i, at := range sent {
			for at.Sub(sent[first]) >= w.span {
				first++
			}
			if n := i - first + 1; n > w.most {
				return fmt.Sprintf("%d messages in the %v until %v, %d allowed", n, w.span, at.Format("05.000"), w.most)
			}
		}
	}
	return ""
}

// provider is the model: it sees the connections and messages of one key.
type provider struct {
	key    throttle.Key
	limits throttle.Limits
	proxy  string

	mu     sync.Mutex
	open   int
	byNode map[string]int
	sent   []time.Time
	wrong  []string
}

func (p *provider) connect(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open++
	p.byNode[node]++
	if p.open > p.limits.Connections {
		p.wrong = append(p.wrong, fmt.Sprintf("%s: %d connections at %s: %v", p.key, p.open, time.Now().Format("05.000"), p.byNode))
	}
}

func (p *provider) disconnect(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	p.byNode[node]--
}

func (p *provider) mail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, time.Now())
}

// count is the number of messages in a time.
func (p *provider) count(from, to time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.sent {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// world is a cluster of nodes, proxies and providers.
type world struct {
	t         *testing.T
	net       *simnet
	names     []string
	cutOff    time.Duration
	providers []*provider
	nodes     map[string]*node
	start     time.Time
	mu        sync.Mutex
	proxies   map[string]*simproxy
	wg        sync.WaitGroup
}

// node is one process.
type node struct {
	name string
	desk *Desk
	stop context.CancelFunc
}

// simproxy is the process of a proxy.
type simproxy struct {
	keeper *throttle.Keeper
	stop   context.CancelFunc
}

func newWorld(t *testing.T, nodes int, providers ...*provider) *world {
	w := &world{t: t, net: newSimnet(), cutOff: 20 * time.Second, providers: providers,
		nodes: map[string]*node{}, proxies: map[string]*simproxy{}, start: time.Now()}
	for i := range nodes {
		w.names = append(w.names, fmt.Sprint("n", i+1))
	}
	for _, p := range providers {
		p.byNode = map[string]int{}
		if p.proxy != "" && w.proxy("", p.proxy) == nil {
			w.startProxy(p.proxy)
		}
	}
	for _, n := range w.names {
		w.boot(n)
	}
	return w
}

func (w *world) serve(ctx context.Context, host string, d grant.ServerDeps) *grant.Server {
	s, err := grant.NewServer(grant.ServerOptions{Name: host}, d)
	if err != nil {
		w.t.Fatal(err)
	}
	w.net.serve(host, func(c net.Conn) { _ = s.Serve(ctx, c) })
	return s
}

func (w *world) startProxy(name string) {
	o := throttle.DefaultOptions()
	o.Claims = true
	ctx, cancel := context.WithCancel(context.Background())
	p := &simproxy{keeper: throttle.NewKeeper(o), stop: cancel}
	w.serve(ctx, name, grant.ServerDeps{Keeper: p.keeper})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.proxies[name] = p
}

// proxy returns a proxy that can be reached from a host, or nil.
func (w *world) proxy(from, name string) *simproxy {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unreachable(from, name) {
		return nil
	}
	return w.proxies[name]
}

func (w *world) killProxy(name string) {
	w.mu.Lock()
	p := w.proxies[name]
	delete(w.proxies, name)
	w.mu.Unlock()
	if p == nil {
		return
	}
	w.net.kill(name)
	p.stop()
	p.keeper.Close()
}

// boot starts the process of a node.
func (w *world) boot(name string) {
	if w.nodes[name] != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var server *grant.Server
	o := DefaultOptions()
	o.Node, o.Nodes, o.CutOffFor = name, w.names, units.Duration(w.cutOff)
	d, err := New(o, Deps{OnOwners: func() {
		if server != nil {
			server.Recheck()
		}
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	server = w.serve(ctx, name, grant.ServerDeps{Keeper: d.Keeper(), Owns: d.Owns, OnContact: d.NodeContact})
	others := map[string]Kind{}
	for _, n := range w.names {
		if n != name {
			others[n] = Node
		}
	}
	for _, p := range w.providers {
		if p.proxy != "" {
			others[p.proxy] = Proxy
		}
	}
	for other, kind := range others {
		port := d.AddLink(other, kind, nil)
		c, err := grant.NewClient(grant.ClientOptions{Node: name, Authority: other}, grant.ClientDeps{Events: port,
			Dial: func(ctx context.Context) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, DialWithin)
				defer cancel()
				return w.net.dial(ctx, name, other)
			}})
		if err != nil {
			w.t.Fatal(err)
		}
		port.Use(c)
		w.wg.Go(func() { c.Run(ctx) })
	}
	n := &node{name: name, desk: d, stop: cancel}
	w.nodes[name] = n
	for i, p := range w.providers {
		for j := range 8 {
			rnd := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			w.wg.Go(func() { w.work(ctx, n, p, fmt.Sprint(j%3), rnd) })
		}
	}
}

func (w *world) kill(name string) {
	n := w.nodes[name]
	if n == nil {
		return
	}
	delete(w.nodes, name)
	w.net.kill(name)
	n.stop()
	n.desk.Close()
	// The kernel closes the process's connections; the provider hears of it at once.
	synctest.Wait()
}

func (w *world) end() {
	for _, n := range w.names {
		w.kill(n)
	}
	for _, p := range w.providers {
		w.killProxy(p.proxy)
	}
	w.wg.Wait()
}

// work is one worker of a node: it connects and sends, for ever.
func (w *world) work(ctx context.Context, n *node, p *provider, flow string, rnd *rand.Rand) {
	b := []throttle.Bound{{Key: p.key, Limits: p.limits, Proxy: p.proxy}}
	for ctx.Err() == nil {
		got := make(chan *Lease, 1)
		r := n.desk.Ask(b, Asker{Flow: flow}, func(l *Lease) { got <- l })
		select {
		case <-ctx.Done():
			if !r.Cancel() {
				if l := <-got; l != nil {
					l.Close(true)
				}
			}
		case l := <-got:
			if l != nil {
				w.session(ctx, n, p, l, flow, rnd)
			}
			if l == nil {
				pauseFor(ctx, 100*time.Millisecond)
			}
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// session is one connection.
func (w *world) session(ctx context.Context, n *node, p *provider, l *Lease, flow string, rnd *rand.Rand) {
	who := Asker{Flow: flow}
	if !l.Opened() {
		l.Close(true)
		return
	}
	x := w.proxy(n.name, p.proxy) // the connection is through this process
	if p.proxy != "" {
		if x == nil {
			l.Close(false)
			pauseFor(ctx, 100*time.Millisecond)
			return
		}
		id := l.IDs()[0].ID
		if _, ok := x.keeper.Claim(id); !ok {
			l.Close(false)
			return
		}
		defer x.keeper.Release(id, true)
	}
	if ctx.Err() != nil {
		return
	}
	p.connect(n.name)
	defer l.Close(true)
	defer p.disconnect(n.name)
	for range 20 + rnd.IntN(60) {
		select {
		case <-l.Revoked():
			return
		case <-ctx.Done():
			return
		default:
		}
		s, err := l.Slot(ctx, who)
		if err != nil || s.Use(ctx) != nil || ctx.Err() != nil || w.proxy(n.name, p.proxy) != x {
			return
		}
		p.mail()
		pauseFor(ctx, time.Duration(3+rnd.IntN(15))*time.Millisecond)
	}
}

func (w *world) unreachable(a, b string) bool {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	return w.net.cut[[2]string{a, b}] || w.net.cut[[2]string{b, a}]
}

// check lists what the providers saw that must not be.
func (w *world) check() (wrong []string) {
	for _, p := range w.providers {
		p.mu.Lock()
		wrong = append(wrong, p.wrong...)
		if over := overshoot(p.sent, p.limits.MessageRate.Count); over != "" {
			wrong = append(wrong, p.key.String()+": "+over)
		}
		p.mu.Unlock()
	}
	return wrong
}

// ownedBy makes a provider whose key is owned by the node.
func ownedBy(owner string, nodes int, l throttle.Limits) *provider {
	var names []string
	for i := range nodes {
		names = append(names, fmt.Sprint("n", i+1))
	}
	for i := 0; ; i++ {
		k := throttle.Key{Pool: "p", Provider: fmt.Sprint("g", i)}
		if rank(names, k)[0] == owner {
			return &provider{key: k, limits: l}
		}
	}
}

func limits(connections int, rate int64) throttle.Limits {
	return throttle.Limits{Connections: connections, MessageRate: perSecond(rate)}
}

func (w *world) use(t *testing.T, p *provider, from time.Time, least float64) {
	t.Helper()
	span := time.Since(from)
	use := float64(p.count(from, time.Now())) / span.Seconds() / float64(p.limits.MessageRate.Count)
	if use < least || use > 1.01 {
		t.Errorf("%s: use %.3f of the rate over %v, want at least %.2f", p.key, use, span, least)
	}
}

func TestClusterUsesTheWholeLimit(t *testing.T) {
	for _, rate := range []int64{10, 100, 500} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := ownedBy("n1", 3, limits(9, rate))
				source := &provider{key: sourceKey, limits: limits(9, rate), proxy: "x"}
				w := newWorld(t, 3, pool, source)
				defer w.end()
				for _, a := range w.names {
					w.net.slow(a, "n1", 2*time.Millisecond)
				}
				time.Sleep(3 * time.Second)
				from := time.Now()
				time.Sleep(20 * time.Second)
				w.use(t, pool, from, 0.95)
				w.use(t, source, from, 0.95)
				for _, wrong := range w.check() {
					t.Error(wrong)
				}
			})
		})
	}
}

func TestCutOffNodeUsesItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ownedBy("n1", 3, limits(9, 60))
		w := newWorld(t, 3, p)
		defer w.end()
		time.Sleep(10 * time.Second)
		for _, n := range []string{"n1", "n2"} {
			w.net.set("n3", n, true)
			w.net.set(n, "n3", true)
		}
		time.Sleep(3 * time.Second)
		s, _ := w.nodes["n3"].desk.KeyStatus(p.key)
		if s.Mode != Share || s.Opened > 3 || s.Opened == 0 {
			t.Errorf("cut off: %+v", s)
		}
		if !strings.Contains(s.Connect.Reason+s.Send.Reason, "cut off: 1/3") {
			t.Errorf("it does not say so: %q, %q", s.Connect.Reason, s.Send.Reason)
		}
		from := time.Now()
		time.Sleep(10 * time.Second)
		w.use(t, p, from, 0.93)
		time.Sleep(w.cutOff - 12*time.Second)
		if s, _ := w.nodes["n3"].desk.KeyStatus(p.key); s.Mode != Cut || s.Opened != 0 || s.Why == "" {
			t.Errorf("cut off for too long: %+v", s)
		}
		time.Sleep(6 * time.Second) // the owner lets go of the reserve
		from = time.Now()
		time.Sleep(10 * time.Second)
		w.use(t, p, from, 0.95)
		for _, n := range []string{"n1", "n2"} {
			w.net.set("n3", n, false)
			w.net.set(n, "n3", false)
		}
		time.Sleep(5 * time.Second)
		if s, _ := w.nodes["n3"].desk.KeyStatus(p.key); s.Mode != Remote || s.Authority != "n1" {
			t.Errorf("back: %+v", s)
		}
		for _, wrong := range w.check() {
			t.Error(wrong)
		}
	})
}

func TestDeadOwnerIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ownedBy("n1", 3, limits(9, 60))
		w := newWorld(t, 3, p)
		defer w.end()
		second := rank(w.names, p.key)[1]
		time.Sleep(5 * time.Second)
		w.kill("n1")
		time.Sleep(5 * time.Second)
		for _, n := range []string{"n2", "n3"} {
			s, _ := w.nodes[n].desk.KeyStatus(p.key)
			if n == second && s.Mode != Owner || n != second && (s.Mode != Remote || s.Authority != second) {
				t.Errorf("%s: %+v", n, s)
			}
		}
		from := time.Now()
		time.Sleep(10 * time.Second)
		w.use(t, p, from, 0.95)
		w.boot("n1")
		time.Sleep(3 * time.Second)
		if s, _ := w.nodes[second].desk.KeyStatus(p.key); s.Mode != Remote || s.Authority != "n1" {
			t.Errorf("after its return: %+v", s)
		}
		from = time.Now()
		time.Sleep(10 * time.Second)
		w.use(t, p, from, 0.95)
		for _, wrong := range w.check() {
			t.Error(wrong)
		}
	})
}

// A node that cannot reach the owner, which is dead for the one that would be next, is
// served by that one and does not use a share beside it.
func TestOwnerDeadForOneAndOutOfReachForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ownedBy("n1", 3, limits(9, 60))
		w := newWorld(t, 3, p)
		defer w.end()
		order := rank(w.names, p.key)
		time.Sleep(5 * time.Second)
		w.net.set("n1", order[2], true)
		w.net.set(order[2], "n1", true)
		time.Sleep(3 * time.Second)
		w.kill("n1")
		time.Sleep(5 * time.Second)
		if s, _ := w.nodes[order[2]].desk.KeyStatus(p.key); s.Mode != Remote || s.Authority != order[1] {
			t.Errorf("not served by the second: %+v", s)
		}
		from := time.Now()
		time.Sleep(10 * time.Second)
		w.use(t, p, from, 0.95)
		for _, wrong := range w.check() {
			t.Error(wrong)
		}
	})
}

// fault is one step of a history.
type fault struct {
	after time.Duration
	what  string // cut, heal, oneway, slow, kill, boot, freeze, thaw
	a, b  string
	delay time.Duration
}

func (f fault) String() string {
	return fmt.Sprintf("%v %s %s %s %v", f.after, f.what, f.a, f.b, f.delay)
}

var hosts = []string{"n1", "n2", "n3", "x"}

func drawFault(t *rapid.T) fault {
	f := fault{
		after: time.Duration(rapid.IntRange(0, 3000).Draw(t, "after")) * time.Millisecond,
		what:  rapid.SampledFrom([]string{"cut", "cut", "oneway", "heal", "heal", "heal", "slow", "kill", "boot", "boot", "freeze", "thaw", "thaw"}).Draw(t, "what"),
		a:     rapid.SampledFrom(hosts).Draw(t, "a"),
		b:     rapid.SampledFrom(hosts).Draw(t, "b"),
	}
	if f.what == "slow" {
		f.delay = time.Duration(rapid.SampledFrom([]int{0, 1, 5, 100, 350}).Draw(t, "delay")) * time.Millisecond
	}
	return f
}

func (w *world) apply(f fault) {
	both := func(a, b string, cut bool) {
		if a != b {
			w.net.set(a, b, cut)
			w.net.set(b, a, cut)
		}
	}
	switch f.what {
	case "cut", "heal":
		both(f.a, f.b, f.what == "cut")
	case "oneway":
		w.net.set(f.a, f.b, f.a != f.b)
	case "slow":
		w.net.slow(f.a, f.b, f.delay)
		if f.delay > 5*time.Millisecond { // a burst of delay
			time.AfterFunc(400*time.Millisecond, func() { w.net.slow(f.a, f.b, 0) })
		}
	case "freeze", "thaw":
		for _, h := range hosts {
			both(f.a, h, f.what == "freeze")
		}
	case "kill":
		if w.kill(f.a); f.a == "x" {
			w.killProxy("x")
		}
	case "boot":
		w.revive(f.a)
	}
}

func (w *world) revive(host string) {
	switch {
	case host != "x":
		w.boot(host)
	case w.proxy("", host) == nil:
		w.startProxy("x")
	}
}

// run plays a history and returns what was wrong.
func (w *world) run(history []fault) []string {
	time.Sleep(3 * time.Second)
	for _, f := range history {
		time.Sleep(f.after)
		w.apply(f)
	}
	time.Sleep(4 * time.Second)
	for _, a := range hosts {
		for _, b := range hosts {
			w.net.set(a, b, false)
			w.net.slow(a, b, 0)
		}
		w.revive(a)
	}
	time.Sleep(8 * time.Second) // restarts wait, ended connections linger
	from := time.Now()
	time.Sleep(4 * time.Second)
	wrong := w.check()
	for _, p := range w.providers {
		if n := p.count(from, time.Now()); float64(n) < 0.94*4*float64(p.limits.MessageRate.Count) {
			wrong = append(wrong, fmt.Sprintf("%s: %d messages in 4 s after all was well again", p.key, n))
		}
	}
	return wrong
}

// GODWIT_ROUNDS is the number of histories, GODWIT_SEED the first.
func TestHistories(t *testing.T) {
	rounds, seed := 6, 1
	for name, n := range map[string]*int{"GODWIT_ROUNDS": &rounds, "GODWIT_SEED": &seed} {
		if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
			*n = v
		} else if !errors.Is(err, strconv.ErrSyntax) {
			t.Fatal(err)
		}
	}
	draw := rapid.SliceOfN(rapid.Custom(drawFault), 1, 12)
	for i := seed; i < seed+rounds; i++ {
		history := draw.Example(i)
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3, ownedBy("n1", 3, limits(7, 30)), ownedBy("n2", 3, limits(3, 10)),
				&provider{key: sourceKey, limits: limits(5, 40), proxy: "x"})
			defer w.end()
			if wrong := w.run(history); len(wrong) > 0 {
				t.Errorf("GODWIT_SEED=%d %v:\n%s", i, history, strings.Join(wrong[:min(len(wrong), 8)], "\n"))
			}
		})
	}
}
