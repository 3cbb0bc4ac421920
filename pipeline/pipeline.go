package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/api/receipts"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/erase"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/ingest/feed"
	"github.com/godwit-mta/godwit/pipeline/ingest/hook"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// Deps are what a Pipeline works with.
type Deps struct {
	Version    string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Fatal is told when a log can take nothing more: then nothing can be acknowledged.
	Fatal func(error)
	// Mail is a cursor of the MTA's event log that nobody else uses; nil: there is no MTA here.
	Mail *event.Cursor
	// Peers are how other nodes of this pipeline are reached; nil: they are not, whatever the options say.
	Peers *Peers

	now func() time.Time // of erasing; nil: time.Now
}

// Pipeline is the customer side of one node.
type Pipeline struct {
	o   Options
	d   Deps
	log *slog.Logger

	logs   stream.Log
	intake stream.Topic
	facts  stream.Topic
	memory *keyed.Memory

	identity *keyed.Worker
	customer *keyed.Worker
	account  *keyed.Worker
	counts   *account.Reader
	house    warehouse.Warehouse // nil: there is none
	filler   *warehouse.Consumer
	eraser   *erase.Eraser // nil with logs in Kafka
	skips    *skips
	peers    *peers // nil: there are none

	door     *ingest.Door
	messages *feed.Store
	feed     *feed.Feed // nil without an MTA
	receipts *receipts.Store
	api      *api.Server

	stop    context.CancelFunc
	running sync.WaitGroup
}

// New opens the logs and makes all parts. Nothing runs before Start. On an error everything is closed.
func New(ctx context.Context, o Options, d Deps) (_ *Pipeline, err error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pipeline{o: o, d: d, log: d.Logger}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("pipeline: %w", err), p.close())
		}
	}()
	if err := p.openLogs(); err != nil {
		return nil, err
	}
	if p.intake, err = p.logs.Topic(ctx, topicIntake, int32(o.Partitions)); err != nil {
		return nil, err
	}
	if p.facts, err = p.logs.Topic(ctx, topicFacts, int32(o.Partitions)); err != nil {
		return nil, err
	}
	p.intake, p.facts = &watched{p.intake, d.Fatal}, &watched{p.facts, d.Fatal}
	if err := p.stages(); err != nil {
		return nil, err
	}
	if err := p.openPeers(); err != nil {
		return nil, err
	}
	if err := p.openWarehouse(ctx); err != nil {
		return nil, err
	}
	if err := p.openErase(); err != nil {
		return nil, err
	}
	if p.messages, err = feed.OpenStore(filepath.Join(o.Path, "messages"), o.Messages); err != nil {
		return nil, err
	}
	into := ingest.Deps{Intake: p.intake, Hydrate: p.messages, ArchiveAfter: o.Customer.Window.D() - archiveMargin, Registerer: d.Registerer, Logger: d.Logger}
	if w := p.archive(); w != nil {
		into.Archive = past{p.identities, w}
	}
	if p.door, err = ingest.New(o.Ingest, into); err != nil {
		return nil, err
	}
	if d.Mail != nil {
		if p.feed, err = feed.New(o.Feed, feed.Deps{Cursor: d.Mail, Door: p.door, Messages: p.messages, Tenant: p.knows, Registerer: d.Registerer, Logger: d.Logger}); err != nil {
			return nil, err
		}
	}
	return p, p.openAPI()
}

// openLogs opens the logs, here or at the brokers.
func (p *Pipeline) openLogs() error {
	d := stream.Deps{Logger: p.d.Logger, Registerer: p.d.Registerer}
	if len(p.o.Kafka.Brokers) > 0 {
		k, err := stream.NewKafka(p.o.Kafka, d)
		if err == nil {
			p.logs = k
		}
		return err
	}
	l, err := stream.Open(p.o.logs(), p.o.Log, d)
	if err == nil {
		p.logs = l
	}
	return err
}

// stages makes the consumers.
func (p *Pipeline) stages() (err error) {
	o, d := p.o, p.d
	state := o.state()
	p.memory = keyed.NewMemory(state.Cache)
	kd := keyed.Deps{Logger: d.Logger, Registerer: d.Registerer, Memory: p.memory}
	if p.skips, err = openSkips(o.Path, p.log, d.Registerer); err != nil {
		return err
	}
	id := identity.NewProcessor(o.Identity, identity.Deps{Intake: p.intake, Facts: p.facts, Logger: d.Logger, Registerer: d.Registerer})
	if p.identity, err = keyed.NewWorker(p.logs, state, keyed.Spec{Name: consumerIdentity, Input: p.intake, Version: identity.Version, New: p.skips.around(consumerIdentity, id)}, kd); err != nil {
		return err
	}
	cu, err := customer.NewProcessor(o.Customer, customer.Deps{Facts: p.facts, Partitions: p.intake.Partitions(), Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return err
	}
	if p.customer, err = keyed.NewWorker(p.logs, state, keyed.Spec{Name: consumerCustomer, Input: p.facts, Window: customerWindow, Version: customer.Version, Heavy: 4, New: p.skips.around(consumerCustomer, cu)}, kd); err != nil {
		return err
	}
	ac, err := account.NewProcessor(o.Account, account.Deps{Facts: p.facts, Partitions: p.intake.Partitions(), Logger: d.Logger, Registerer: d.Registerer})
	if err != nil {
		return err
	}
	if p.account, err = keyed.NewWorker(p.logs, state, keyed.Spec{Name: consumerAccount, Input: p.facts, Window: state.Window.D(), Version: account.Version, Merger: account.Merger{}, Heavy: 4, Early: true, New: p.skips.around(consumerAccount, ac)}, kd); err != nil {
		return err
	}
	p.counts, err = account.NewReader(o.Account, p.counting, p.facts.Partitions())
	return err
}

func (p *Pipeline) openAPI() (err error) {
	if p.receipts, err = receipts.Open(filepath.Join(p.o.Path, "receipts"), p.o.Receipts, nil); err != nil {
		return err
	}
	hooks, err := hook.New(p.o.Hooks, hook.Deps{Door: p.door, Registerer: p.d.Registerer, Logger: p.d.Logger})
	if err != nil {
		return err
	}
	var asked api.Warehouse
	switch {
	case p.house != nil:
		asked = answers{p.house}
	case p.peers != nil:
		asked = distant{p.peers.finder}
	}
	p.api, err = api.New(p.o.API, api.Deps{Door: p.door, Hooks: hooks, Warehouse: asked, Identities: p.identities(context.Background()),
		Profiles: p.people(), Counts: p.counts, Waiter: p, Receipts: p.requests(),
		Version: p.d.Version, Logger: p.d.Logger, Registerer: p.d.Registerer})
	return err
}

// Start runs the consumers and then the API.
func (p *Pipeline) Start() error {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	for _, w := range p.consumers() {
		p.running.Go(func() {
			if err := w.worker.Run(ctx); err != nil && ctx.Err() == nil {
				p.d.Fatal(fmt.Errorf("pipeline: %w", err))
			}
		})
	}
	if p.peers != nil {
		p.peers.server.Start()
		p.running.Go(func() { p.peers.finder.Run(ctx) })
	}
	if p.filler != nil {
		p.running.Go(func() {
			if err := p.filler.Run(ctx); err != nil && ctx.Err() == nil {
				p.d.Fatal(fmt.Errorf("pipeline: %w", err))
			}
		})
	}
	if p.eraser != nil {
		p.running.Go(func() {
			if err := p.eraser.Run(ctx); err != nil {
				p.log.Error("what waits to be erased from the logs is collected again at the next start", "error", err)
			}
		})
	}
	if p.feed != nil {
		p.running.Go(func() {
			if err := p.feed.Run(ctx); err != nil {
				p.log.Error("what the MTA told last is read again at the next start", "error", err)
			}
		})
	}
	if err := p.api.Start(); err != nil {
		return fmt.Errorf("pipeline: api.%w", err)
	}
	return nil
}

// Stop takes nothing more, and ends the consumers when they have written their state.
func (p *Pipeline) Stop(ctx context.Context) error {
	err := p.api.Stop(ctx)
	if p.peers != nil {
		err = errors.Join(err, p.peers.server.Stop(ctx))
	}
	if p.stop != nil {
		p.stop()
		ended := make(chan struct{})
		go func() {
			p.running.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("pipeline: consumers did not end: %w", ctx.Err()))
		}
	}
	return errors.Join(err, p.close())
}

// close frees what New opened.
func (p *Pipeline) close() error {
	var errs []error
	if p.peers != nil {
		errs = append(errs, p.peers.server.Stop(context.Background())) // of one that was not started
	}
	if p.receipts != nil {
		errs = append(errs, p.receipts.Close())
	}
	if p.house != nil {
		errs = append(errs, p.house.Close())
	}
	if p.messages != nil {
		errs = append(errs, p.messages.Close())
	}
	if p.memory != nil {
		p.memory.Close()
	}
	if p.logs != nil {
		errs = append(errs, p.logs.Close())
	}
	return errors.Join(errs...)
}

// Addrs are what the API listens on.
func (p *Pipeline) Addrs() []net.Addr { return p.api.Addrs() }

// Reload takes new options of the API without dropping a connection. Others hold from the next start on; the log names them.
func (p *Pipeline) Reload(o Options) error {
	if err := p.api.Reload(o.API); err != nil {
		return fmt.Errorf("pipeline.api.%w", err)
	}
	was := p.o
	was.API, o.API = api.Options{}, api.Options{}
	if !reflect.DeepEqual(was, o) {
		p.log.Warn("changed options take effect at the next start", "section", "pipeline")
	}
	return nil
}

// knows reports whether a tenant has a key here; what the MTA tells of others is none of the pipeline's business.
func (p *Pipeline) knows(tenant string) bool {
	return slices.ContainsFunc(p.o.API.Keys, func(k api.Key) bool { return k.Tenant == tenant })
}

// named is a consumer.
type named struct {
	name   string
	worker *keyed.Worker
}

// consumers are in the order in which records pass them.
func (p *Pipeline) consumers() []named {
	return []named{{consumerIdentity, p.identity}, {consumerCustomer, p.customer}, {consumerAccount, p.account}}
}

// Wait waits until what was appended at a position is in what questions are answered from: first
// the identity stage must have passed it, then the customer
// stage what that stage wrote until then. Counts need no waiting for: they show what is applied.
func (p *Pipeline) Wait(ctx context.Context, at ingest.Position) error {
	if p.peers != nil {
		return p.waitAnywhere(ctx, at)
	}
	for _, m := range at {
		if err := p.identity.Wait(ctx, m.Partition, m.Offset); err != nil {
			return fmt.Errorf("pipeline: waiting for identity: %w", err)
		}
	}
	for part := range p.facts.Partitions() {
		at := p.identity.Sent(p.facts, part)
		if at < 0 {
			continue
		}
		if err := p.customer.Wait(ctx, part, at); err != nil {
			return fmt.Errorf("pipeline: waiting for profiles: %w", err)
		}
	}
	return nil
}

// stopPatience bounds how long an operator waits for a consumer to end.
const stopPatience = 30 * time.Second
