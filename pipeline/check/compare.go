package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Row is a final count.
type Row struct {
	Dim    string // "" for the total
	Value  string
	Bucket int64 // Unix seconds of its start
	Count  int64
	Sum    Sum
	Unique int64
}

// Counts is what is compared with the log: the account level. It is for several goroutines at once.
type Counts interface {
	// Metrics are those of a tenant.
	Metrics(ctx context.Context, tenant string) ([]fact.MetricID, error)
	// Each calls f for every count of a metric by intervals of one size, until it fails.
	Each(ctx context.Context, tenant string, metric fact.MetricID, interval Interval, f func(Row) error) error
}

// Difference is a count that is not what the log says.
type Difference struct {
	Key
	What      string
	Want, Got string
}

// Error implements error.
func (d *Difference) Error() string {
	return fmt.Sprintf("%v: %s is %s, the log says %s", d.Key, d.What, d.Got, d.Want)
}

// Compared is what a comparison came to.
type Compared struct {
	Counts    int // that the log makes
	Different int
	First     []*Difference
}

// Compare holds the account level's counts of the shard against the recount. It tells at most so many differences.
func (r *Recount) Compare(ctx context.Context, counts Counts, most int) (*Compared, error) {
	parts, err := r.parts(ctx, counts)
	if err != nil {
		return nil, err
	}
	err = sideBySide(ctx, len(parts), func(ctx context.Context, i int) error { return parts[i].compare(ctx, counts, most) })
	if err != nil {
		return nil, err
	}
	out := &Compared{}
	for _, p := range parts {
		out.Counts, out.Different = out.Counts+p.done.Counts, out.Different+p.done.Different
		out.First = append(out.First, p.done.First[:min(len(p.done.First), most-len(out.First))]...)
	}
	return out, nil
}

// part is one metric by intervals of one size.
type part struct {
	world *world
	key   Key     // without dimension and bucket
	m     *metric // nil if the log has no event of it
	lines []line
	done  Compared
}

// parts lists what is to be compared: what either side has.
func (r *Recount) parts(ctx context.Context, counts Counts) (all []*part, err error) {
	for _, name := range r.Tenants() {
		ids, err := counts.Metrics(ctx, name)
		if err != nil {
			return nil, err
		}
		var ours map[fact.MetricID]*metric
		if t := r.world.tenants[name]; t != nil {
			ours = t.metrics
		}
		for id := range ours {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			if !r.o.inShard(id) {
				continue
			}
			for i := range Interval(intervals) {
				all = append(all, &part{world: r.world, key: Key{Tenant: name, Metric: id, Interval: i}, m: ours[id]})
			}
		}
	}
	return all, nil
}

// compare counts the part and compares it.
func (p *part) compare(ctx context.Context, counts Counts, most int) error {
	if p.m != nil {
		p.lines = p.m.lines(p.key.Interval)
	}
	p.done.Counts = len(p.lines)
	note := func(dim fact.Dim, bucket int64, what string, want, got any) {
		if p.done.Different++; len(p.done.First) < most {
			k := p.key
			k.Dim, k.Value, k.Bucket = dim.Name, dim.Value, bucket
			p.done.First = append(p.done.First, &Difference{k, what, fmt.Sprint(want), fmt.Sprint(got)})
		}
	}
	err := counts.Each(ctx, p.key.Tenant, p.key.Metric, p.key.Interval, func(row Row) error {
		if row.Count == 0 && row.Unique == 0 && row.Sum == (Sum{}) {
			return nil // everything in it was taken back
		}
		dim := fact.Dim{Name: row.Dim, Value: row.Value}
		l := p.line(dim, row.Bucket)
		switch {
		case l == nil:
			note(dim, row.Bucket, "count", 0, row.Count)
			return nil
		case l.met:
			return fmt.Errorf("%s=%q of metric %v, %v at %d: it is there twice", row.Dim, row.Value, p.key.Metric, p.key.Interval, row.Bucket)
		case row.Count != l.count:
			note(dim, row.Bucket, "count", l.count, row.Count)
		case row.Sum != l.sum:
			note(dim, row.Bucket, "sum", l.sum, row.Sum)
		case row.Unique != l.unique:
			note(dim, row.Bucket, "unique", l.unique, row.Unique)
		}
		l.met = true
		return nil
	})
	for _, l := range p.lines {
		if !l.met && err == nil {
			note(p.world.names[l.label], l.bucket, "count", l.count, "not there")
		}
	}
	p.lines = nil
	return err
}

// line finds a count of the log, nil if it has none.
func (p *part) line(dim fact.Dim, bucket int64) *line {
	label, known := p.world.labels[dim]
	if !known {
		return nil
	}
	i, found := slices.BinarySearchFunc(p.lines, line{label: label, bucket: bucket}, func(a, b line) int {
		return cmp.Or(cmp.Compare(a.label, b.label), cmp.Compare(a.bucket, b.bucket))
	})
	if !found {
		return nil
	}
	return &p.lines[i]
}
