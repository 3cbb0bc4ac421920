// Package egress is the gate between the queue and the world: which source a
// message goes out by, under which limits, and when.
//
// The queue says what a ready queue could use (Seek). The gate picks a source
// of the pool (proxy.Pools), resolves the limits that hold for it (rules, tightened by orders
// and warm-up), and asks the desk for permits. A lease that comes back carries one connection: it dials from the
// source, paces its messages, and hears every outcome. Replies that rules match
// become orders (throttle/backoff), which are records that all nodes share.
//
// Callbacks of the desk may come from below our own calls. They only post
// to the inbox; the gate's goroutine does the rest, without holding a lock
// while it calls the queue. Lock order: the queue's, Gate.mu, the desk's.
package egress

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/records"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/desk"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// Options are what a Gate is configured by.
type Options struct {
	Egress   proxy.Options
	Throttle Throttle
	// LocalIPv4 and LocalIPv6 are the addresses to send from without any source.
	LocalIPv4, LocalIPv6 netip.Addr
	Node                 string // name of this node
	Nodes                []Node // configured ones, this one included; empty: alone
	// Token opens links to other nodes and proxies.
	Token string
	// StateFile keeps the daily counts of limits that this node owns over a restart; "" keeps none.
	StateFile string
}

// Node is one configured node.
type Node struct {
	Name string
	Link string // address of its grant link
}

// Deps are what a Gate works with.
type Deps struct {
	Records *records.Store
	Events  func(event.Event) // takes events about the engine
	// DialNode connects to the grant link of another node. Nil: plain TCP.
	DialNode func(ctx context.Context, address string) (net.Conn, error)
	// DialProxy connects to the grant link of a Godwit proxy. Nil: as its options say.
	DialProxy  func(ctx context.Context, name string) (net.Conn, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Gate implements queue.Gate. It is safe for concurrent use.
type Gate struct {
	o            Options
	d            Deps
	log          *slog.Logger
	desk         *desk.Desk
	conf         atomic.Pointer[conf]
	pools        *proxy.Pools
	dialer       *proxy.Dialer
	dial         func(context.Context, proxy.Request) (net.Conn, error) // the dialer's
	ids          mail.IDs
	admissions   admissions
	orders       *backoff.Orders
	backoff      *backoff.Engine
	clustered    bool
	ctx          context.Context
	stop         context.CancelFunc
	cancelOrders func()
	workers      sync.WaitGroup
	links        *links
	tally        tally
	loops        loops

	inbox  inbox
	stores inbox // what is to be written to the shared records

	mu       sync.Mutex
	day      int // of the year, in UTC
	swept    time.Time
	expired  time.Time // when that was looked at last
	next     time.Time // when the gate's goroutine will look at alarms
	demands  map[string]*demand
	alarms   alarms          // of demands
	asked    int             // requests of all demands
	plans    map[route]*plan // made lately
	open     map[spot]int
	leases   map[*lease]struct{}
	failures map[spot]*failure
	tries    map[string]tries // by ready queue

	ordersMu sync.Mutex
	news     []backoff.Order // changed, and not in effect yet
}

// spot is a source at a site, or at a ready queue; without a place it is the source everywhere.
type spot struct{ source, place string }

// conf is what a reload replaces.
type conf struct {
	rules   *rules.Set
	tenants sync.Map // [2]string{tenant, provider} → []throttle.Bound
}

// New returns a gate; Start begins.
func New(o Options, d Deps) (*Gate, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Node == "" {
		o.Node = "node"
	}
	if d.DialNode == nil {
		d.DialNode = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	g := &Gate{o: o, d: d, log: d.Logger, clustered: len(o.Nodes) > 1, demands: map[string]*demand{},
		open: map[spot]int{}, leases: map[*lease]struct{}{}, failures: map[spot]*failure{}, tries: map[string]tries{},
		plans: map[route]*plan{}, orders: backoff.NewOrders(), day: time.Now().UTC().YearDay()}
	g.inbox.wake, g.stores.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	g.admissions = newAdmissions(func(b throttle.Bound, ready func()) bool { return g.desk.Take(b, 1, ready) }, g.post)
	g.ctx, g.stop = context.WithCancel(context.Background())
	c, err := newConf(o)
	if err != nil {
		return nil, err
	}
	g.conf.Store(c)
	if g.pools, err = proxy.NewPools(o.Egress, proxy.Deps{Logger: d.Logger}); err != nil {
		return nil, fmt.Errorf("egress.%w", err)
	}
	g.dialer, err = proxy.NewDialer(o.Egress, proxy.DialerDeps{Node: o.Node, LocalIPv4: o.LocalIPv4, LocalIPv6: o.LocalIPv6, Registerer: d.Registerer})
	if err != nil {
		return nil, fmt.Errorf("egress.%w", err)
	}
	g.backoff, err = backoff.New(o.Throttle.Backoff, backoff.Deps{Rules: c.rules, Orders: g.orders, Node: o.Node, Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return nil, err
	}
	g.dial = g.dialer.Dial
	if g.d.DialProxy == nil {
		g.d.DialProxy = g.dialer.Link
	}
	if err := g.newDesk(); err != nil {
		return nil, err
	}
	if err := g.restore(); err != nil {
		return nil, err
	}
	if d.Registerer != nil {
		if err := d.Registerer.Register(g.desk.Keeper()); err != nil {
			return nil, err
		}
	}
	g.links, err = newLinks(g)
	return g, err
}

func newConf(o Options) (*conf, error) {
	set, err := rules.Load(o.Throttle.Packs, o.Throttle.Files)
	if err != nil {
		return nil, fmt.Errorf("throttle.%w", err)
	}
	return &conf{rules: set}, nil
}

func (g *Gate) newDesk() (err error) {
	o := desk.DefaultOptions()
	o.Node = g.o.Node
	for _, n := range g.o.Nodes {
		o.Nodes = append(o.Nodes, n.Name)
	}
	if d := g.o.Throttle.CutOffFor; d > 0 {
		o.CutOffFor = d
	}
	g.desk, err = desk.New(o, desk.Deps{Logger: g.log,
		OnReach:  func(name string, up bool) { g.post(func() { g.reach(name, up) }) },
		OnChange: func(by string, c throttle.Change) { g.post(func() { g.changed(by, c) }) },
		OnOwners: func() { g.links.recheck() }})
	return err
}

// Start begins work: links to proxies and other nodes, probes, timers.
func (g *Gate) Start() {
	g.workers.Go(g.loop)
	g.workers.Go(g.storeLoop)
	g.workers.Go(g.saveOften)
	g.links.start(g.o.Egress)
	g.cancelOrders = g.d.Records.Subscribe(orderPrefix, g.orderChanged)
}

// Stop ends it, after the queue. What leases are out still can no longer send.
func (g *Gate) Stop() {
	if g.cancelOrders != nil {
		g.cancelOrders()
	}
	g.stop()
	g.mu.Lock()
	for _, x := range g.demands {
		g.end(x)
	}
	g.mu.Unlock()
	g.links.stop()
	g.workers.Wait()
	g.desk.Close()
	g.inbox.do() // what was granted meanwhile is given back
}

// Reload takes changed rules, sources and pools. On an error nothing changes.
func (g *Gate) Reload(o Options) error {
	c, err := newConf(o)
	if err != nil {
		return err
	}
	if err := o.Egress.Validate(); err != nil {
		return fmt.Errorf("egress.%w", err)
	}
	if err := g.dialer.Reload(o.Egress); err != nil { // it reads files, so it may fail still
		return fmt.Errorf("egress.%w", err)
	}
	if err := g.pools.Reload(o.Egress); err != nil {
		return fmt.Errorf("egress.%w", err)
	}
	g.conf.Store(c)
	g.backoff.Reload(c.rules)
	g.links.start(o.Egress)
	g.refresh(&change{conf: true})
	g.admissions.restart()
	return nil
}

// Rules is the set of rules in force.
func (g *Gate) Rules() *rules.Set { return g.conf.Load().rules }

// Digest names what must be the same on all nodes: rules and sources.
func (g *Gate) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%+v\n%v", g.Rules().Digest(), g.pools.List(), g.pools.Sources())
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Pool chooses the pool of a message that is being accepted.
func (g *Gate) Pool(m *mail.Message) string { return g.pools.For(m) }

// Pools are the sources and pools.
func (g *Gate) Pools() *proxy.Pools { return g.pools }

// Desk is the node's side of limits.
func (g *Gate) Desk() *desk.Desk { return g.desk }

// Limited implements queue.Gate.
func (g *Gate) Limited(f queue.Flow) bool {
	if len(g.tenantLimits(f.Tenant, f.Provider)) > 0 {
		return true
	}
	_, stopped := g.HeldBy(f)
	return stopped
}

func (g *Gate) tenantLimits(tenant, provider string) []throttle.Bound {
	c := g.conf.Load()
	key := [2]string{tenant, provider}
	if v, ok := c.tenants.Load(key); ok {
		return v.([]throttle.Bound)
	}
	bounds := limitsOf(g.tenantBounds(tenant, provider))
	c.tenants.Store(key, bounds)
	return bounds
}

// tenantBounds are what the rules say of a tenant's mail to a provider.
func (g *Gate) tenantBounds(tenant, provider string) []throttle.Bound {
	return g.Rules().Resolve(rules.Query{Tenant: tenant, Provider: provider}).Tenant
}

// Admit implements queue.Gate.
func (g *Gate) Admit(f queue.Flow, ready func()) bool {
	if _, stopped := g.HeldBy(f); stopped {
		g.admissions.hold(f, ready)
		if _, still := g.HeldBy(f); !still { // it ended between: nobody else would call
			g.post(g.admissions.release)
		}
		return false
	}
	needs := g.tenantLimits(f.Tenant, f.Provider)
	return len(needs) == 0 || g.admissions.admit(f, needs, ready)
}
