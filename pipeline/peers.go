package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/api/receipts"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/peer"
)

// Peers is what a Pipeline needs to read what other nodes have.
type Peers struct {
	Node   string             // name of this one
	Others func() []peer.Node // where the pipelines of the others answer
	Trust  peer.Trust
}

// peers is this node among those of one pipeline.
type peers struct {
	server *peer.Server
	finder *peer.Finder

	mu   sync.Mutex
	seen []int64 // up to which offset each partition of the facts is known to show in profiles
}

// openPeers makes the connection with the other nodes, if there are to be any.
func (p *Pipeline) openPeers() (err error) {
	if !p.o.Peers.Enabled() || p.d.Peers == nil {
		if len(p.o.Kafka.Brokers) > 0 {
			p.log.Info("the logs are in Kafka and pipeline.peers.listen is empty: this node answers for the partitions that it is given, and for no others")
		}
		return nil
	}
	d := p.d.Peers
	here := local{p}
	n := &peers{seen: make([]int64, p.facts.Partitions())}
	if n.server, err = peer.Listen(p.o.Peers, here, d.Trust, p.log); err != nil {
		return fmt.Errorf("peers.%w", err)
	}
	p.peers = n // so that it is closed
	if n.finder, err = peer.NewFinder(peer.FinderDeps{Local: here, Others: d.Others, Trust: d.Trust, Logger: p.log, Registerer: p.d.Registerer}); err != nil {
		return err
	}
	p.counts.Elsewhere(func(partition int32) account.Away { return n.finder.Partition(consumerAccount, partition) })
	return nil
}

// PeerAddr is where other nodes reach this one's pipeline, nil if they do not.
func (p *Pipeline) PeerAddr() net.Addr {
	if p.peers == nil {
		return nil
	}
	return p.peers.server.Addr()
}

// Holder names the node that serves a partition of a consumer: this one or, where the pipeline has several, another; "" while
// nobody is known to. others: there may be other nodes.
func (p *Pipeline) Holder(consumer string, partition int32) (node string, others bool) {
	switch {
	case p.peers == nil:
		return "", false
	case local{p}.Serves(consumer, partition):
		return p.d.Peers.Node, true
	}
	return p.peers.finder.Owner(consumer, partition), true
}

// people reads profiles, wherever they are.
func (p *Pipeline) people() *customer.Reader {
	if p.peers == nil {
		return customer.NewReader(p.customer.Store, p.facts.Partitions())
	}
	return customer.NewReaderOf(func(partition int32) (customer.State, bool) {
		if s, ok := serving(p.customer, partition); ok {
			return customer.Here(s), true
		}
		return customer.Elsewhere(p.peers.finder.Partition(consumerCustomer, partition)), true
	}, p.facts.Partitions())
}

// identities tells whose identifiers are, wherever that is known, within ctx.
func (p *Pipeline) identities(ctx context.Context) *identity.Reader {
	if p.peers == nil {
		return identity.NewReader(p.identity.Store, p.intake.Partitions())
	}
	return identity.NewReaderOf(func(partition int32) (identity.State, bool) {
		if s, ok := serving(p.identity, partition); ok {
			return s, true
		}
		return p.peers.finder.Partition(consumerIdentity, partition).Within(ctx), true
	}, p.intake.Partitions())
}

// counting finds the processors of the account level that questions are answered from.
func (p *Pipeline) counting(partition int32) (keyed.Processor, bool) {
	if p.peers != nil {
		if _, ok := p.account.Serving(partition); !ok {
			return nil, false
		}
	}
	return behind(p.account.Processor)(partition)
}

// serving is the state of a partition that this node is the one to answer for.
func serving(w *keyed.Worker, partition int32) (*keyed.Store, bool) {
	if _, ok := w.Serving(partition); !ok {
		return nil, false
	}
	return w.Store(partition)
}

// waitAnywhere is Wait where partitions may be elsewhere.
func (p *Pipeline) waitAnywhere(ctx context.Context, at ingest.Position) error {
	sent := make([]int64, p.facts.Partitions())
	for i := range sent {
		sent[i] = -1
	}
	for _, m := range at {
		got, err := p.applied(ctx, m.Partition, m.Offset)
		if err != nil {
			return fmt.Errorf("pipeline: waiting for identity: %w", err)
		}
		for i, offset := range got.Sent[:min(len(got.Sent), len(sent))] {
			sent[i] = max(sent[i], offset)
		}
	}
	all, ctx := errgroup.WithContext(ctx)
	for part, offset := range sent {
		all.Go(func() error { return p.shown(ctx, int32(part), offset) })
	}
	if err := all.Wait(); err != nil {
		return fmt.Errorf("pipeline: waiting for profiles: %w", err)
	}
	return nil
}

// applied waits for the identity stage.
func (p *Pipeline) applied(ctx context.Context, partition int32, offset int64) (peer.Progress, error) {
	if p.identity.Committed(partition) > offset { // also if it went elsewhere since
		return local{p}.progress(consumerIdentity, p.identity, partition), nil
	}
	return p.peers.finder.Partition(consumerIdentity, partition).Wait(ctx, offset)
}

// shown waits until a fact shows in profiles. An offset of -1 is one that is not known, of a node that
// was started since: then it is all that there is.
func (p *Pipeline) shown(ctx context.Context, partition int32, offset int64) error {
	if offset < 0 {
		end, err := p.facts.End(ctx, partition)
		if err != nil {
			return err
		}
		offset = end - 1
	}
	p.peers.mu.Lock()
	there := p.peers.seen[partition] > offset
	p.peers.mu.Unlock()
	if there || p.customer.Committed(partition) > offset {
		return nil
	}
	got, err := p.peers.finder.Partition(consumerCustomer, partition).Wait(ctx, offset)
	if err != nil {
		return err
	}
	p.peers.mu.Lock()
	defer p.peers.mu.Unlock()
	p.peers.seen[partition] = max(p.peers.seen[partition], got.Committed)
	return nil
}

// requests remembers those with an idempotency key.
func (p *Pipeline) requests() api.Receipts {
	if p.peers == nil {
		return p.receipts
	}
	return sharedSeeds{p.receipts}
}

// sharedSeeds are receipts of one node, whose seeds are the same on all nodes: an event that comes again at another node, where
// nothing is remembered of the first request, gets the same unique id there.
type sharedSeeds struct{ *receipts.Store }

// Claim implements api.Receipts.
func (s sharedSeeds) Claim(tenant, key string, digest [sha256.Size]byte, now time.Time) (receipts.Receipt, bool, error) {
	r, fresh, err := s.Store.Claim(tenant, key, digest, now)
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%s%d\x00%s", len(tenant), tenant, len(key), key)
	h.Write(digest[:])
	r.Seed = hex.EncodeToString(h.Sum(nil)[:16])
	return r, fresh, err
}

// local is what this node has, for the others.
type local struct{ p *Pipeline }

// Table implements peer.Local.
func (l local) Table() peer.Table {
	t := peer.Table{Node: l.p.d.Peers.Node, Consumers: map[string][]peer.Claim{}}
	for _, c := range l.p.consumers() {
		for partition := range l.p.facts.Partitions() {
			if generation, ok := c.worker.Serving(partition); ok {
				t.Consumers[c.name] = append(t.Consumers[c.name], peer.Claim{Partition: partition, Generation: generation})
			}
		}
	}
	if l.p.house != nil {
		t.Answers = []string{answersHouse}
	}
	return t
}

// Serves implements peer.Local.
func (l local) Serves(consumer string, partition int32) bool {
	w, err := l.p.consumer(consumer)
	if err != nil {
		return false
	}
	_, ok := w.Serving(partition)
	return ok
}

// Store implements peer.Local.
func (l local) Store(consumer string, partition int32) (peer.Store, bool) {
	w, err := l.p.consumer(consumer)
	if err != nil {
		return nil, false
	}
	return w.Store(partition)
}

// Wait implements peer.Local.
func (l local) Wait(ctx context.Context, consumer string, partition int32, offset int64) (peer.Progress, error) {
	w, err := l.p.consumer(consumer)
	if err == nil {
		err = w.Wait(ctx, partition, offset)
	}
	if err != nil {
		return peer.Progress{}, err
	}
	return l.progress(consumer, w, partition), nil
}

func (l local) progress(consumer string, w *keyed.Worker, partition int32) peer.Progress {
	out := peer.Progress{Committed: w.Committed(partition)}
	if consumer == consumerIdentity {
		for part := range l.p.facts.Partitions() {
			out.Sent = append(out.Sent, w.Sent(l.p.facts, part))
		}
	}
	return out
}

// errQuestion says that a node of another version asks.
var errQuestion = errors.New("pipeline: a question of another node is not known here")

// Ask implements peer.Local.
func (l local) Ask(ctx context.Context, consumer string, partition int32, question []byte) ([]byte, error) {
	if consumer != consumerAccount {
		return nil, fmt.Errorf("%w: of %s", errQuestion, consumer)
	}
	proc, ok := l.p.counting(partition)
	if !ok {
		return nil, keyed.ErrClosed
	}
	return account.Answer(ctx, proc, question)
}
