package pipeline

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
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

// shardRecords is how many records of the log are counted at once: at about 100 bytes for each with its events' labels, beside
// what the account level's reader holds, that takes 1 to 3 GiB.
const shardRecords = 8 << 20

// Recount runs the consumers until they have applied the logs, counts everything again and compares, in at least so many shards
// of the metrics; in more if the log is long. acked are events that must be there, as "tenant unique-id". The API is not
// started. done is told how much of it is done, from 0 to 1.
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
	records, err := p.recordsOf(ctx, p.facts)
	if err != nil {
		return nil, err
	}
	shards = max(shards, 1, uint64(records+shardRecords-1)/shardRecords)
	o := check.Options{Zone: p.counts.Zone, Shards: shards, Wanted: wanted(acked), Skip: p.skips.skipsFact}
	out := &Recounted{}
	for o.Shard = range shards {
		if err := p.recount(ctx, o, acked, out); err != nil {
			return nil, err
		}
		done(float64(o.Shard+1) / float64(shards))
	}
	return out, nil
}

// recount counts and compares one shard.
func (p *Pipeline) recount(ctx context.Context, o check.Options, acked []string, out *Recounted) error {
	facts := p.facts
	if w, is := facts.(*watched); is {
		facts = w.Topic // an embedded one is read faster as such
	}
	r, err := check.Count(ctx, facts, o)
	if err != nil {
		return err
	}
	c, err := r.Compare(ctx, finals{p.counts}, mostShown-len(out.First))
	if err != nil {
		return err
	}
	out.Facts, out.Events, out.Merges, out.Skipped = r.Facts, r.Events, r.Merges, r.Skipped
	out.Distinct += r.Distinct
	out.Counts += c.Counts
	out.Different += c.Different
	for _, e := range c.First {
		out.First = append(out.First, e.Error())
	}
	if o.Shard+1 < o.Shards {
		return nil
	}
	for _, event := range acked { // each pass looks for all of them
		if r.Has(event) || r.Has(erasedAck(event)) {
			continue
		}
		if out.Missing++; len(out.First) < mostShown {
			out.First = append(out.First, "acknowledged and not in the log: "+event)
		}
	}
	return nil
}

// recordsOf is at least how many records a log has.
func (p *Pipeline) recordsOf(ctx context.Context, t stream.Topic) (int64, error) {
	var sum, first, last int64
	for part := range t.Partitions() {
		start, err := t.Start(ctx, part)
		if err != nil {
			return 0, err
		}
		end, err := t.End(ctx, part)
		if err != nil {
			return 0, err
		}
		if sum += end - start; part == 0 || start < first {
			first = start
		}
		last = max(last, end)
	}
	if _, embedded := p.logs.(*stream.Embedded); embedded {
		return last - first, nil // its partitions share one range of offsets
	}
	return sum, nil
}

// wanted are the names that acknowledged events may have in the log.
func wanted(acked []string) map[string]bool {
	names := make(map[string]bool, 2*len(acked))
	for _, event := range acked {
		names[event], names[erasedAck(event)] = true, true
	}
	return names
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

// finals is what the account level says, for the recount.
type finals struct{ counts *account.Reader }

// Metrics implements check.Counts.
func (f finals) Metrics(ctx context.Context, tenant string) (ids []fact.MetricID, err error) {
	all, err := f.counts.Metrics(ctx, tenant)
	for _, m := range all {
		ids = append(ids, m.ID)
	}
	return ids, err
}

// Each implements check.Counts.
func (f finals) Each(ctx context.Context, tenant string, metric fact.MetricID, interval check.Interval, each func(check.Row) error) error {
	ours := map[check.Interval]account.Interval{check.Hour: account.Hour, check.Day: account.Day, check.Month: account.Month}[interval]
	err := f.counts.Each(ctx, tenant, metric, ours, func(x account.Final) error {
		return each(check.Row{Dim: x.Dimension, Value: x.Value, Bucket: x.Start.Unix(), Count: x.Count, Sum: check.Sum(x.Sum), Unique: x.Unique})
	})
	if err != nil {
		return fmt.Errorf("metric %v of %s: %w", metric, tenant, err)
	}
	return nil
}
