// Package desk is the node's side of limits. A Desk knows which authority owns
// each key, tells it how many permits this node could use, and hands what is granted
// to those that wait, fairly.
//
// The order of things for one connection: Ask waits for a permit of each bound
// that limits connections and calls granted with a Lease; Lease.Opened right before dialling; Lease.Slot
// before each message, whose Pass is used right before MAIL; Lease.Close.
//
// The authority of a key is the proxy that the Bound names, or else the first of
// the configured nodes, in an order that the key decides, that is not known to be dead.
// If that is this node, its own Keeper serves it in process. If it cannot be reached this node
// uses its share of the limit for a while. DESIGN.md tells why this is safe.
package desk

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

// Options are what a Desk is told.
type Options struct {
	// Node is the name of this node, by which authorities know it.
	Node string
	// Nodes are the configured nodes, this one included. Empty: this node is alone. All
	// nodes must have the same list, or limits that span sources are not exact.
	Nodes []string
	// CutOffFor is how long a node that cannot reach the owner of a limit uses its share of it.
	CutOffFor units.Duration
	// Fresh is how long after its instant a message permit may be used.
	Fresh time.Duration
	// ConnectFresh is how long after its instant a lease may be opened: less than what
	// the authority waits, as telling takes time.
	ConnectFresh time.Duration
	// BankFresh is how long after its instant a permit may be taken by Take.
	BankFresh time.Duration
	// Patience is how long a Slot may have to wait, by what the authority says, before it gives up.
	Patience time.Duration
	// Throttle are the constants of all authorities.
	Throttle throttle.Options
}

// DefaultOptions are those of a node that is alone.
func DefaultOptions() Options {
	return Options{
		Node:         "node",
		CutOffFor:    units.Duration(5 * time.Minute),
		Fresh:        15 * time.Millisecond,
		ConnectFresh: 1500 * time.Millisecond,
		BankFresh:    200 * time.Millisecond,
		Patience:     30 * time.Second,
		Throttle:     throttle.DefaultOptions(),
	}
}

// Validate reports what cannot work. Its error begins with the field.
func (o Options) Validate() error {
	switch {
	case o.Node == "":
		return errors.New("node: must not be empty")
	case len(o.Nodes) > 0 && !slices.Contains(o.Nodes, o.Node):
		return fmt.Errorf("nodes: %q, this node, is not among them", o.Node)
	case o.CutOffFor.D() < 0:
		return fmt.Errorf("cut_off_for: %v is negative", o.CutOffFor)
	case o.Fresh <= 0 || o.ConnectFresh <= 0 || o.BankFresh <= 0 || o.Patience <= 0:
		return errors.New("fresh, connect_fresh, bank_fresh, patience: must be more than 0")
	case o.ConnectFresh >= o.Throttle.ConnectLapse:
		return fmt.Errorf("connect_fresh: %v is not less than the %v after which leases lapse", o.ConnectFresh, o.Throttle.ConnectLapse)
	}
	for i, n := range o.Nodes {
		if n == "" || slices.Contains(o.Nodes[:i], n) {
			return fmt.Errorf("nodes[%d]: %q is empty or there twice", i, n)
		}
	}
	if err := o.Throttle.Validate(); err != nil {
		return fmt.Errorf("throttle.%w", err)
	}
	return nil
}

// Deps is what a Desk needs from others. All functions may be nil. They are
// called without a lock of the desk, in order, and must not block.
type Deps struct {
	Logger *slog.Logger
	// OnReach is called when contact with a proxy is made or lost.
	OnReach func(proxy string, up bool)
	// OnChange is called when the closed loop of an authority changed a rate. Each node that uses
	// the key hears it, by and Seq tell which change it was.
	OnChange func(by string, c throttle.Change)
	// OnOwners is called when the answer of Owns may have changed: it is Recheck of the
	// server through which other nodes reach Keeper.
	OnOwners func()
}

// ErrDown is returned when the authority of a key is lost: nothing may be sent
// under it, from here, for now.
var ErrDown = errors.New("desk: the authority of a limit cannot be reached")

// ErrRevoked is returned when the connection must end.
var ErrRevoked = errors.New("desk: the connection is more than this node may have")

// errClosed is returned after Close.
var errClosed = errors.New("desk: closed")

// Desk is safe for concurrent use. Its lock is never held while others' code runs.
type Desk struct {
	o      Options
	d      Deps
	keeper *throttle.Keeper
	own    *Port
	start  time.Time

	mu       sync.Mutex
	closed   bool
	limiters map[throttle.Key]*limiter
	proxies  map[string]*Port
	peers    map[string]*peer
	share    *Port // nil: not cut off from anyone
	shares   *throttle.Keeper
	absent   int // as the own keeper was told
	timer    *time.Timer
	timerAt  time.Time

	dirty   map[*limiter]struct{} // with samples to tell
	samples *time.Timer
	out     []func() // calls to make without the lock, in order
	spare   []func()
	calling bool
}

// New starts a desk and its own authority.
func New(o Options, d Deps) (*Desk, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Desk{
		o: o, d: d, start: time.Now(),
		limiters: make(map[throttle.Key]*limiter),
		proxies:  make(map[string]*Port),
		peers:    make(map[string]*peer),
		dirty:    make(map[*limiter]struct{}),
	}
	own := o.Throttle
	if len(o.Nodes) < 2 {
		own.Expiry = 0 // nobody else can have granted anything under its keys
	}
	for _, n := range o.Nodes {
		if n != o.Node {
			k.peers[n] = &peer{name: n, port: &Port{d: k, name: n, kind: Node}, lostAt: k.start, hereAt: k.start}
		}
	}
	k.keeper = throttle.NewKeeper(own)
	k.own = k.local(k.keeper)
	k.mu.Lock()
	defer k.unlock()
	k.review(k.start)
	return k, nil
}

// Keeper is the node's own authority, which other nodes reach through a server.
func (d *Desk) Keeper() *throttle.Keeper { return d.keeper }

// Close ends the desk. Whoever waits gets an error, or nil for a lease.
func (d *Desk) Close() {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.closed = true
	for _, lim := range d.limiters {
		d.fail(lim, errClosed)
	}
	for _, t := range []*time.Timer{d.timer, d.samples} {
		if t != nil {
			t.Stop()
		}
	}
	shares := d.shares
	d.unlock()
	d.keeper.Close()
	if shares != nil {
		shares.Close()
	}
}

// post queues a call for unlock. d.mu is held.
func (d *Desk) post(f func()) { d.out = append(d.out, f) }

// unlock gives d.mu back and then makes the queued calls. They are made by one goroutine
// at a time, so that links hear them in order; another one that finds it at work leaves its own to it.
func (d *Desk) unlock() {
	if d.calling || len(d.out) == 0 {
		d.mu.Unlock()
		return
	}
	d.calling = true
	for len(d.out) > 0 {
		batch := d.out
		d.out, d.spare = d.spare[:0], nil
		d.mu.Unlock()
		for i, f := range batch {
			f()
			batch[i] = nil
		}
		d.mu.Lock()
		d.spare = batch[:0]
	}
	d.calling = false
	d.mu.Unlock()
}

// barrier returns when all calls queued before have been made. d.mu is not held, and
// it must not be called from within a queued call.
func (d *Desk) barrier() {
	done := make(chan struct{})
	d.mu.Lock()
	d.post(func() { close(done) })
	d.unlock()
	<-done
}
