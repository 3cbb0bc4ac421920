// Package cluster knows which nodes there are: their names, roles, zones, addresses,
// load, configuration and sending sources. It carries the records (internal/records) between
// them, so that what is ordered on one node holds on all.
//
// Membership and failure detection are memberlist's: every node probes others and
// gossips what it finds. That takes seconds, so nothing that needs to be quick or exact hangs on it; limits
// have links and heartbeats of their own. What memberlist's 512 bytes of metadata do not hold goes two ways:
// small changes (load, one record) are gossiped at once, and every few seconds two
// nodes compare all they know over TCP, as does a node that joins: each sends reports
// and a digest of its records, and then what the other's digest lacks.
//
// A node looks again and again for configured, resolved or listed members that are not
// there, so that halves of a cluster that was split find each other.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/records"
)

// Records is the store that the cluster carries from node to node.
type Records interface {
	Digest() records.Digest
	Delta(other records.Digest) []records.Record
	Merge(recs []records.Record) (news []records.Record, err error)
	SubscribeLocal(f func(records.Record)) (cancel func())
}

// Deps are what a Cluster works with. Self is called often and must not call the cluster.
type Deps struct {
	Records      Records
	Logger       *slog.Logger          // nil: discard
	Registerer   prometheus.Registerer // nil: no metrics
	ConfigDigest func() string         // names the configuration in force; nil: not told
	Self         func() State          // what to tell about this node; nil: nothing
}

// Cluster is this node's part in the cluster. Its methods are safe for concurrent use.
type Cluster struct {
	o       Options
	name    string
	zone    string
	key     []byte // nil: none
	d       Deps
	log     *slog.Logger
	pace    pace
	metrics *metrics

	list  *memberlist.Memberlist // nil: not started, or off
	addr  atomic.Pointer[string]
	gate  *gate
	queue memberlist.TransmitLimitedQueue

	// mu guards what follows. memberlist calls us with its own locks held, so it is never called with mu held.
	mu        sync.Mutex
	peers     map[string]*peer
	own       report // the last one made
	ownNames  []string
	outgoing  []records.Record
	listeners []*listener
	started   bool
	stopping  bool

	present  atomic.Int64 // other members that are there
	inbound  chan []byte
	outbound chan struct{} // outgoing has something
	refresh  chan struct{} // report now
	changed  chan struct{} // members may have changed
	stop     chan struct{}
	wg       sync.WaitGroup
}

// pace is how often things happen.
type pace struct {
	report  time.Duration // how often a node tells its load
	suspect time.Duration // silence after which a member is shown as suspect
	join    time.Duration // how often missing members are looked for
	forget  time.Duration // how long a dead member that is not configured is shown
	leave   time.Duration // the most that saying goodbye takes
	tune    func(*memberlist.Config)
}

func defaultPace() pace {
	return pace{
		report: 2 * time.Second, suspect: 10 * time.Second, join: 5 * time.Second,
		forget: time.Hour, leave: time.Second,
	}
}

// New prepares the cluster without using the network. An error about the options begins with the key.
func New(o Options, d Deps) (*Cluster, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	c := &Cluster{
		o: o, d: d, log: d.Logger, pace: defaultPace(), name: o.Name, zone: o.Zone, peers: map[string]*peer{},
		inbound: make(chan []byte, 1024), outbound: make(chan struct{}, 1), refresh: make(chan struct{}, 1),
		changed: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	c.own.Epoch = time.Now().UnixNano()
	if c.log == nil {
		c.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.name == "" {
		host, err := os.Hostname()
		if err != nil || !isName(host) {
			return nil, fmt.Errorf("name: not set, and the system's hostname %q will not do", host)
		}
		c.name = strings.ToLower(host)
	}
	if n, ok := c.configured(c.name); ok && c.zone == "" {
		c.zone = n.Zone
	}
	if o.KeyFile != "" {
		key, err := loadKey(o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
		c.key = key
	}
	if o.Enabled() && d.Records == nil {
		return nil, errors.New("cluster: no records to carry")
	}
	c.queue.RetransmitMult, c.queue.NumNodes = 3, func() int { return int(c.present.Load()) + 1 }
	return c, nil
}

// Name is this node's name.
func (c *Cluster) Name() string { return c.name }

// Addr is the gossip address by which others know this node; "" before Start and when the cluster is off.
func (c *Cluster) Addr() string {
	if a := c.addr.Load(); a != nil {
		return *a
	}
	return ""
}

// Start listens, and begins to look for the others; it does not wait for them. With the cluster off it does nothing.
func (c *Cluster) Start() error {
	c.mu.Lock()
	again := c.started
	c.started = true
	c.mu.Unlock()
	if again {
		return errors.New("cluster: started already")
	}
	if !c.o.Enabled() {
		return nil
	}
	if s := c.ownState(); s.Role != "" && !isName(s.Role) || s.Link != "" && checkHostPort(s.Link) != nil {
		return fmt.Errorf("cluster: role %q or link %q of this node cannot be told", s.Role, s.Link)
	}
	m, err := newMetrics(c, c.d.Registerer)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	c.metrics = m
	c.makeReport(false)
	if err := c.listen(); err != nil {
		m.set.Unregister()
		return fmt.Errorf("bind: %w", err)
	}
	cancel := c.d.Records.SubscribeLocal(c.send)
	c.wg.Go(func() { defer cancel(); c.sender() })
	c.wg.Go(c.receiver)
	c.wg.Go(c.reporter)
	c.wg.Go(c.notifier)
	c.wg.Go(c.joiner)
	return nil
}

// listen makes the memberlist.
func (c *Cluster) listen() error {
	conf, err := c.config()
	if err != nil {
		return err
	}
	bind := netip.MustParseAddrPort(c.o.Bind)
	if c.gate, err = newGate(bind, conf.Logger); err != nil {
		return err
	}
	conf.Transport, conf.BindPort = c.gate, c.gate.GetAutoBindPort()
	if c.pace.tune != nil {
		c.pace.tune(conf)
	}
	ip, port, err := c.gate.FinalAdvertiseAddr(conf.AdvertiseAddr, conf.AdvertisePort)
	if err != nil {
		return errors.Join(err, c.gate.Shutdown())
	}
	addr := net.JoinHostPort(ip.String(), strconv.Itoa(port))
	c.addr.Store(&addr)
	if c.list, err = memberlist.Create(conf); err != nil {
		return errors.Join(err, c.gate.Shutdown())
	}
	return nil
}

// config is how memberlist is to work.
func (c *Cluster) config() (*memberlist.Config, error) {
	conf := memberlist.DefaultLANConfig()
	conf.Name = c.name
	conf.BindAddr = netip.MustParseAddrPort(c.o.Bind).Addr().String()
	conf.Label = "godwit"
	conf.TCPTimeout = 3 * time.Second
	conf.GossipInterval = 100 * time.Millisecond
	conf.PushPullInterval = 10 * time.Second
	conf.DeadNodeReclaimTime = 10 * time.Second // a node may come back with another address
	conf.Logger = newLogger(c.log)
	conf.Delegate, conf.Events, conf.Conflict = (*delegate)(c), (*events)(c), (*events)(c)
	if c.o.Advertise != "" {
		a := netip.MustParseAddrPort(c.o.Advertise)
		conf.AdvertiseAddr, conf.AdvertisePort = a.Addr().String(), int(a.Port())
	}
	if c.key != nil {
		gossip, err := derive(c.key, "gossip")
		if err != nil {
			return nil, err
		}
		conf.SecretKey = gossip
	}
	return conf, nil
}

// Stop says goodbye to the others, for a second at most and not beyond ctx, and ends everything that Start began.
// A connection that is being made just then may hold it for up to three seconds. A second call does nothing.
func (c *Cluster) Stop(ctx context.Context) {
	c.mu.Lock()
	already := c.stopping
	c.stopping = true
	running := c.list != nil
	c.mu.Unlock()
	if already || !running {
		return
	}
	close(c.stop)
	ctx, cancel := context.WithTimeout(ctx, c.pace.leave)
	defer cancel()
	c.sayGoodbye(ctx)
	if err := c.list.Leave(timeLeft(ctx)); err != nil {
		c.log.Debug("leaving the cluster was not heard", "error", err)
	}
	if err := c.list.Shutdown(); err != nil {
		c.log.Warn("closing gossip failed", "error", err)
	}
	c.gate.closeAll()
	c.wg.Wait()
	c.metrics.set.Unregister()
}

// timeLeft is how long ctx lasts, a millisecond at least: memberlist takes 0 for ever.
func timeLeft(ctx context.Context) time.Duration {
	at, _ := ctx.Deadline()
	return max(time.Until(at), time.Millisecond)
}

// ownState asks what to tell about this node, with its sources in order and never nil.
func (c *Cluster) ownState() State {
	var s State
	if c.d.Self != nil {
		s = c.d.Self()
	}
	s.Sources = append([]string{}, s.Sources...)
	slices.Sort(s.Sources)
	return s
}

func (c *Cluster) configDigest() string {
	if c.d.ConfigDigest == nil {
		return ""
	}
	return c.d.ConfigDigest()
}

// link is the address of this node's grant link.
func (c *Cluster) link(s State) string {
	if n, ok := c.configured(c.name); ok && n.Link != "" {
		return n.Link
	}
	return s.Link
}
