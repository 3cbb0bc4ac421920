package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/check"
	"github.com/godwit-mta/godwit/pipeline/erase"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Recounted is what counting again from the log came to.
type Recounted struct {
	Facts     int64    `json:"facts"`    // records of the second log
	Events    int64    `json:"events"`   // of those
	Distinct  int64    `json:"distinct"` // events that count
	Merges    int      `json:"merges"`
	Counts    int      `json:"counts"` // that were compared
	Different int      `json:"different"`
	Missing   int      `json:"missing"` // acknowledged events that are not in the log
	Skipped   int64    `json:"skipped"` // records that the account level skips by an operator's word, and that were left out here too
	First     []string `json:"first,omitempty"`
}

// OK reports whether nothing is wrong.
func (r *Recounted) OK() bool { return r.Different == 0 && r.Missing == 0 }

// mostShown bounds how many differences are told.
const mostShown = 20

// Recount runs the consumers until they have applied the logs, counts everything again and compares. acked
// are events that must be there, as "tenant unique-id". The API is not started. done is told how much of it is done, from 0 to 1.
func (p *Pipeline) Recount(ctx context.Context, acked []string, shards uint64, done func(float64)) (*Recounted, error) {
	running, cancel := context.WithCancel(ctx)
	p.stop = cancel
	for _, w := range p.consumers() {
		p.running.Go(func() {
			if err := w.worker.Run(running); err != nil && running.Err() == nil {
				p.d.Fatal(err)
			}
		})
	}
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	out := &Recounted{}
	zone := func(tenant string) *time.Location { return p.counts.Zone(tenant) }
	found := make([]bool, len(acked))
	for shard := range shards {
		r, err := check.Count(ctx, p.facts, check.Options{Zone: zone, Shard: shard, Shards: shards, UIDs: len(acked) > 0, Skip: p.skips.skipsFact})
		if err != nil {
			return nil, err
		}
		out.Facts, out.Events, out.Merges = r.Facts, r.Events, r.Merges
		out.Skipped = r.Skipped
		out.Distinct += r.Distinct
		out.Counts += r.Rows()
		rows := func(f func(check.Row) error) error { return p.final(ctx, r.Tenants(), shard, shards, f) }
		first, n, err := r.Compare(rows, mostShown-len(out.First))
		if err != nil {
			return nil, err
		}
		out.Different += n
		for _, e := range first {
			out.First = append(out.First, e.Error())
		}
		for i := range acked {
			found[i] = found[i] || r.Has(acked[i]) || r.Has(erasedAck(acked[i]))
		}
		done(float64(shard+1) / float64(shards))
	}
	for i, is := range found {
		if !is {
			if out.Missing++; len(out.First) < mostShown {
				out.First = append(out.First, "acknowledged and not in the log: "+acked[i])
			}
		}
	}
	return out, nil
}

// erasedAck is what an acknowledged event is called once its profile is erased.
func erasedAck(acked string) string {
	tenant, uid, _ := strings.Cut(acked, " ")
	return tenant + " " + erase.UID(uid)
}

// settle waits until all consumers have applied all there is; what a stage writes makes more work for the next. The account level
// shows what it has applied before it is committed.
func (p *Pipeline) settle(ctx context.Context) error {
	for quiet := 0; quiet < 5; {
		quiet++
		for _, c := range p.Status() {
			for _, s := range c.Partitions {
				if s.Error != "" {
					return fmt.Errorf("%s, partition %d: %s", c.Name, s.Partition, s.Error)
				}
				if s.End < 0 || s.Lag > 0 && (c.Name != consumerAccount || s.End > s.Applied) || s.State != keyed.StateRunning && s.Applied < s.End {
					quiet = 0
				}
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// final calls f for what the account level says of the metrics of a shard.
func (p *Pipeline) final(ctx context.Context, tenants []string, shard, shards uint64, f func(check.Row) error) error {
	intervals := map[check.Interval]account.Interval{check.Hour: account.Hour, check.Day: account.Day, check.Month: account.Month}
	for _, tenant := range tenants {
		metrics, err := p.counts.Metrics(ctx, tenant)
		if err != nil {
			return err
		}
		for _, m := range metrics {
			if !check.InShard(m.ID, shard, shards) {
				continue
			}
			for theirs, ours := range intervals {
				err := p.counts.Each(ctx, tenant, m.ID, ours, func(x account.Final) error {
					return f(check.Row{Key: check.Key{Tenant: fact.TenantIDOf(tenant), Metric: m.ID, Dim: x.Dimension, Value: x.Value, Interval: theirs, Bucket: x.Start.Unix()},
						Count: x.Count, Sum: x.Sum.Big(), Unique: x.Unique})
				})
				if err != nil {
					return errors.Join(fmt.Errorf("metric %v of %s", m.ID, tenant), err)
				}
			}
		}
	}
	return nil
}
