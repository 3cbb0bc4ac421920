// Package pipeline is the customer side: it wires the door, the logs, the stages and the API together, and
// starts and stops them in order. docs/OVERVIEW.md follows an event through it.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/api"
	"github.com/godwit-mta/godwit/pipeline/api/receipts"
	"github.com/godwit-mta/godwit/pipeline/customer"
	"github.com/godwit-mta/godwit/pipeline/erase"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/identity"
	"github.com/godwit-mta/godwit/pipeline/ingest"
	"github.com/godwit-mta/godwit/pipeline/ingest/feed"
	"github.com/godwit-mta/godwit/pipeline/ingest/hook"
	"github.com/godwit-mta/godwit/pipeline/peer"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// Options are the options of every part.
type Options struct {
	Path       string `toml:"path" doc:"Folder of the pipeline's logs and state; empty turns the pipeline off."`
	Partitions int    `toml:"partitions" doc:"Partitions of each log. It cannot be changed once there are records."`

	API       api.Options         `toml:"api" doc:"The HTTP API of events, profiles and counts."`
	Receipts  receipts.Options    `toml:"receipts" doc:"Idempotency keys of requests."`
	Ingest    ingest.Options      `toml:"ingest" doc:"What is taken in."`
	Hooks     []hook.Hook         `toml:"hooks" doc:"Web hooks, POST /hooks/NAME."`
	Feed      feed.Options        `toml:"feed" doc:"What the MTA tells, as events of the recipients."`
	Messages  feed.StoreOptions   `toml:"messages" doc:"What is remembered of messages that went out, to complete events that name them."`
	Identity  identity.Options    `toml:"identity" doc:"Whose an event is."`
	Customer  customer.Options    `toml:"customer" doc:"What is kept of each profile."`
	Account   account.Options     `toml:"account" doc:"What is counted."`
	Log       stream.Options      `toml:"log" doc:"The logs, where they are embedded."`
	Erase     erase.Options       `toml:"erase" doc:"Deleted profiles are taken out of the logs."`
	Kafka     stream.KafkaOptions `toml:"kafka" doc:"Brokers that keep the logs instead; without any the logs are embedded."`
	Peers     peer.Options        `toml:"peers" doc:"The other nodes of a pipeline with several."`
	Warehouse warehouse.Options   `toml:"warehouse" doc:"The warehouse that SQL asks."`
	State     keyed.Options       `toml:"state" doc:"The stages' state."`
}

// DefaultOptions returns the defaults: off.
func DefaultOptions() Options {
	o := Options{Partitions: 4, API: api.DefaultOptions(), Receipts: receipts.DefaultOptions(), Ingest: ingest.DefaultOptions(), Feed: feed.DefaultOptions(), Messages: feed.DefaultStoreOptions(), Identity: identity.DefaultOptions(),
		Customer: customer.DefaultOptions(), Account: account.DefaultOptions(), Log: stream.DefaultOptions(), Erase: erase.DefaultOptions(), Kafka: stream.DefaultKafkaOptions(), State: keyed.DefaultOptions(), Warehouse: warehouse.DefaultOptions()}
	o.API.Listen = []string{"127.0.0.1:8028"}
	return o
}

// Enabled reports whether there is to be a pipeline.
func (o *Options) Enabled() bool { return o.Path != "" }

// Validate names the first key that cannot be used.
func (o Options) Validate() error {
	if !o.Enabled() {
		return nil
	}
	if o.Partitions < 1 || o.Partitions > 1024 {
		return errors.New("partitions: must be between 1 and 1024")
	}
	state := o.state()
	for _, part := range []struct {
		name     string
		validate func() error
	}{{"api", o.API.Validate}, {"receipts", o.Receipts.Validate}, {"ingest", o.Ingest.Validate}, {"feed", o.Feed.Validate}, {"messages", o.Messages.Validate}, {"identity", o.Identity.Validate}, {"customer", o.Customer.Validate}, {"account", o.Account.Validate},
		{"log", o.Log.Validate}, {"erase", o.Erase.Validate}, {"peers", o.Peers.Validate}, {"state", state.Validate}, {"warehouse", o.Warehouse.Validate}} {
		if err := part.validate(); err != nil {
			return fmt.Errorf("%s.%w", part.name, err)
		}
	}
	if len(o.Kafka.Brokers) > 0 {
		if err := o.Kafka.Validate(); err != nil {
			return fmt.Errorf("kafka.%w", err)
		}
	} else if o.Peers.Enabled() {
		return errors.New("peers.listen: needs kafka.brokers: embedded logs are those of one node")
	}
	if _, err := hook.New(o.Hooks, hook.Deps{Door: nobody{}}); err != nil {
		return fmt.Errorf("hooks: %w", err)
	}
	return o.tenants()
}

// nobody is a door for hooks that are only checked.
type nobody struct{}

// Bulk implements hook.Door.
func (nobody) Bulk(context.Context, string, []byte, string) (ingest.Position, *ingest.Report, error) {
	return nil, nil, errors.New("pipeline: this door leads nowhere")
}

// tenants checks that no two tenants look alike in the keys of states.
func (o *Options) tenants() error {
	ids := map[fact.TenantID]string{}
	for _, k := range o.API.Keys {
		id := fact.TenantIDOf(k.Tenant)
		if other, there := ids[id]; there && other != k.Tenant {
			return fmt.Errorf("api.keys: tenants %q and %q cannot be told apart: rename one", other, k.Tenant)
		}
		ids[id] = k.Tenant
	}
	return nil
}

// state is where the stages keep what they know.
func (o *Options) state() keyed.Options {
	s := o.State
	if s.Dir == "" {
		s.Dir = filepath.Join(o.Path, "state")
	}
	if s.Snapshots == "" {
		s.Snapshots = filepath.Join(o.Path, "snapshots")
	}
	return s
}

// logs is where the embedded logs are.
func (o *Options) logs() string { return filepath.Join(o.Path, "log") }

// customerWindow is how long the customer level collects changes: they show when they are written.
const customerWindow = 40 * time.Millisecond

// The names of topics and consumers.
const (
	topicIntake       = "intake"
	topicFacts        = "facts"
	consumerIdentity  = "identity"
	consumerCustomer  = "customer"
	consumerAccount   = "account"
	consumerWarehouse = "warehouse"
)
