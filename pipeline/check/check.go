// Package check counts again: it reads the second log from its start and
// compares what the account level says with what it finds. It shares no
// code with that level.
//
// Count gathers all events of the log, as rows of numbers by metric (gather.go). Compare then takes one metric and
// interval after the other: it lists what each event adds to which count, sorts that, adds up what is alike (tally.go), and
// holds it against the account level's rows (compare.go).
package check

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Interval is a size of bucket.
type Interval uint8

// The intervals that are counted.
const (
	Hour Interval = iota
	Day
	Month
	intervals = 3
)

// String names the interval.
func (i Interval) String() string { return [...]string{"hour", "day", "month"}[i] }

// Key names one count.
type Key struct {
	Tenant   string
	Metric   fact.MetricID
	Dim      string // "" for the total
	Value    string
	Interval Interval
	Bucket   int64 // Unix seconds of its start
}

// String tells it to a reader.
func (k Key) String() string {
	at := time.Unix(k.Bucket, 0).UTC().Format(time.RFC3339)
	return fmt.Sprintf("%s, metric %v, %s=%q, %v of %s", k.Tenant, k.Metric, k.Dim, k.Value, k.Interval, at)
}

// Options bound a recount.
type Options struct {
	// Zone is a tenant's time zone.
	Zone func(tenant string) *time.Location
	// Shard of Shards of the metrics are counted: memory for time.
	Shard, Shards uint64
	// Wanted are events that are looked for, as tenant, a space, and unique id; Has tells whether they are there.
	Wanted map[string]bool
	// Skip tells of records that the account level was not given; nil: of none. What a skipped part of a merged profile's
	// state had is not known here, so its counts differ. It is called from several goroutines.
	Skip func(partition int32, offset int64) bool
}

// Recount is what the log says.
type Recount struct {
	Facts    int64 // records read
	Events   int64 // events in them
	Distinct int64 // that count
	Merges   int
	Skipped  int64 // records that were left out

	o       Options
	world   *world
	tenants map[string]bool // that have events, in any shard
	found   map[string]bool // of Options.Wanted
}

// Count reads all facts that are there now.
func Count(ctx context.Context, facts stream.Topic, o Options) (*Recount, error) {
	o.Shards = max(o.Shards, 1)
	if o.Skip == nil {
		o.Skip = func(int32, int64) bool { return false }
	}
	r := &Recount{o: o, world: newWorld(facts.Partitions(), o.Zone), tenants: map[string]bool{}, found: map[string]bool{}}
	merged, err := r.gather(ctx, facts)
	if err != nil {
		return nil, err
	}
	r.Merges = len(merged)
	r.Distinct, err = r.world.settle(ctx, merged)
	return r, err
}

// Has reports whether a wanted event is in the log, in any shard.
func (r *Recount) Has(event string) bool { return r.found[event] }

// Tenants are those that have events, in any shard.
func (r *Recount) Tenants() []string { return slices.Sorted(maps.Keys(r.tenants)) }

// inShard reports whether a metric is counted in the shard.
func (o *Options) inShard(m fact.MetricID) bool { return uint64(m)>>32%o.Shards == o.Shard }
