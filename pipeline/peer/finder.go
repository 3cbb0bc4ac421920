package peer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Spot is a partition of a consumer.
type Spot struct {
	Consumer  string
	Partition int32
}

// Times of finding.
const (
	refreshEvery = time.Second
	refreshMin   = 50 * time.Millisecond // between two times that a node is asked
	claimsLast   = 3 * time.Second       // of a node that does not answer any more
	// patience is how long a partition that nobody has is waited for. Who asks later, while there is still nobody, does not wait again.
	patience = 2 * time.Second
)

// FinderDeps are what a Finder works with.
type FinderDeps struct {
	Local  Local
	Others func() []Node // with a pipeline; this node is not among them
	Trust  Trust
	Logger *slog.Logger
	// Registerer is told of metrics; nil: none.
	Registerer prometheus.Registerer
}

// Finder finds who has what, and asks there. It is safe for concurrent use.
type Finder struct {
	d      FinderDeps
	client *client
	wanted chan struct{} // somebody waits for an owner
	asking sync.WaitGroup

	mu      sync.Mutex
	nodes   map[string]*known
	owners  map[Spot]owner
	missing map[Spot]time.Time // since when nobody has it, of those that were asked for
	changed chan struct{}      // closed and renewed when owners may have changed
}

// known is what is known of another node.
type known struct {
	node   Node
	gone   context.Context // ends when it is given up: then nobody waits for its answers any more
	giveUp context.CancelFunc
	table  Table
	heard  time.Time // when it told its table
	asked  time.Time
	asking bool
}

// owner is who has a partition.
type owner struct {
	node       Node
	gone       context.Context
	generation int64
}

func newKnown(n Node) *known {
	k := &known{node: n}
	k.gone, k.giveUp = context.WithCancel(context.Background())
	return k
}

// NewFinder returns a Finder that asks nobody before Run.
func NewFinder(d FinderDeps) (*Finder, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Finder{d: d, client: newClient(d.Trust), wanted: make(chan struct{}, 1), nodes: map[string]*known{}, owners: map[Spot]owner{},
		missing: map[Spot]time.Time{}, changed: make(chan struct{})}
	if err := f.client.m.register(d.Registerer); err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	return f, nil
}

// Run asks the others for what they have until ctx ends.
func (f *Finder) Run(ctx context.Context) {
	defer f.client.close()
	defer f.asking.Wait()
	t := time.NewTicker(refreshEvery)
	defer t.Stop()
	for {
		f.refresh(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-f.wanted:
		}
	}
}

// refresh asks each node that is not being asked, and forgets those that are gone.
func (f *Finder) refresh(ctx context.Context) {
	others := f.d.Others()
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, k := range f.nodes {
		if !slices.Contains(others, k.node) { // it is gone, or elsewhere
			k.giveUp()
			delete(f.nodes, name)
			f.settle()
		}
	}
	for _, n := range others {
		k := f.nodes[n.Name]
		if k == nil {
			k = newKnown(n)
			f.nodes[n.Name] = k
		}
		if k.asking || now.Sub(k.asked) < refreshMin {
			continue
		}
		k.asking, k.asked = true, now
		f.asking.Go(func() { f.learn(ctx, k) })
	}
}

// learn asks a node for its table.
func (f *Finder) learn(ctx context.Context, k *known) {
	t, err := f.client.table(ctx, k.node)
	f.mu.Lock()
	defer f.mu.Unlock()
	k.asking = false
	switch {
	case err == nil:
		if k.heard.IsZero() {
			f.d.Logger.Info("another node of the pipeline answers", "node", k.node.Name, "address", k.node.Address)
		}
		k.table, k.heard = t, time.Now()
	case ctx.Err() != nil || k.heard.IsZero() || time.Since(k.heard) < claimsLast:
		return
	default:
		f.d.Logger.Warn("another node of the pipeline does not answer", "node", k.node.Name, "address", k.node.Address, "error", err)
		k.giveUp()
		fresh := newKnown(k.node)
		fresh.asked = k.asked
		if f.nodes[k.node.Name] == k {
			f.nodes[k.node.Name] = fresh
		}
	}
	f.settle()
}

// settle finds the owners of all that is claimed. f.mu is held.
func (f *Finder) settle() {
	clear(f.owners)
	for _, k := range f.nodes {
		for consumer, claims := range k.table.Consumers {
			for _, c := range claims {
				at := Spot{consumer, c.Partition}
				if had, taken := f.owners[at]; !taken || had.generation < c.Generation {
					f.owners[at] = owner{k.node, k.gone, c.Generation}
				}
				delete(f.missing, at)
			}
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// disown notes that a node does not have a partition, until it claims it again.
func (f *Finder) disown(n Node, at Spot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.nodes[n.Name]; k != nil {
		left := slices.DeleteFunc(slices.Clone(k.table.Consumers[at.Consumer]), func(c Claim) bool { return c.Partition == at.Partition })
		k.table.Consumers = maps.Clone(k.table.Consumers)
		if k.table.Consumers != nil {
			k.table.Consumers[at.Consumer] = left
		}
		f.settle()
	}
}

// Owner is the name of the other node that has a partition, "" if none is known.
func (f *Finder) Owner(consumer string, partition int32) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owners[Spot{consumer, partition}].node.Name
}

// find returns who has a partition; self: this node has. It waits a while for one that nobody has.
func (f *Finder) find(ctx context.Context, at Spot) (o owner, self bool, err error) {
	const look = 20 * time.Millisecond // nobody tells when this node gets it
	for {
		if f.d.Local.Serves(at.Consumer, at.Partition) {
			f.mu.Lock()
			delete(f.missing, at)
			f.mu.Unlock()
			return owner{}, true, nil
		}
		f.mu.Lock()
		o, known := f.owners[at]
		changed := f.changed
		since, missing := f.missing[at]
		if !known && !missing {
			since = time.Now()
			f.missing[at] = since
		}
		f.mu.Unlock()
		if known {
			return o, false, nil
		}
		if time.Since(since) > patience {
			return owner{}, false, ErrNobody
		}
		select {
		case f.wanted <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-time.After(look):
		case <-ctx.Done():
			return owner{}, false, ctx.Err()
		}
	}
}

// at calls here or there, wherever a partition is, and again when it went elsewhere.
func (f *Finder) at(ctx context.Context, at Spot, here func() error, there func(context.Context, Node) error) error {
	const pause = 10 * time.Millisecond
	began := time.Now()
	for try := 1; ; try++ {
		o, self, err := f.find(ctx, at)
		if err != nil {
			return err
		}
		if self {
			err = here()
		} else if err = o.call(ctx, there); passes(err) && ctx.Err() == nil {
			f.disown(o.node, at)
		}
		switch {
		case !passes(err):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case try > 1 && time.Since(began) > patience:
			return nobody{err}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// call asks the owner, until it is given up.
func (o owner) call(ctx context.Context, there func(context.Context, Node) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.gone, cancel)()
	return there(ctx, o.node)
}

// nobody is an ErrNobody that tells what the last node said.
type nobody struct{ last error }

func (n nobody) Error() string   { return ErrNobody.Error() + ": " + n.last.Error() }
func (n nobody) Unwrap() []error { return []error{ErrNobody, n.last} }

// answering are the nodes that answer questions of a kind, by name.
func (f *Finder) answering(what string) (nodes []owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.nodes {
		if slices.Contains(k.table.Answers, what) {
			nodes = append(nodes, owner{node: k.node, gone: k.gone})
		}
	}
	slices.SortFunc(nodes, func(a, b owner) int { return strings.Compare(a.node.Name, b.node.Name) })
	return nodes
}
