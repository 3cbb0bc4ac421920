package account

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// ErrUnavailable says that a partition is not counted here at the moment.
var ErrUnavailable = errors.New("account: a partition is not being counted here")

// ErrTooMany says that there are more counts than were to be held in memory.
var ErrTooMany = errors.New("account: too many counts")

// Reader answers questions for numbers. It sees all that was applied. It is safe for concurrent use.
type Reader struct {
	zones      *zones
	processors func(partition int32) (keyed.Processor, bool)
	away       func(partition int32) Away // nil: all are here
	partitions int32
}

// NewReader reads what the processors of all partitions count; keyed.Worker.Processor finds them.
func NewReader(o Options, processors func(int32) (keyed.Processor, bool), partitions int32) (*Reader, error) {
	z, err := newZones(o)
	if err != nil {
		return nil, err
	}
	return &Reader{zones: z, processors: processors, partitions: partitions}, nil
}

// Elsewhere makes the reader ask other nodes for the partitions that have no processor here.
func (r *Reader) Elsewhere(away func(partition int32) Away) { r.away = away }

// source is what one partition has to say.
type source interface {
	collect(ctx context.Context, p *plan, tenant string) (lines, error)
	// listMetrics adds the metrics of a tenant.
	listMetrics(ctx context.Context, tenant string, found map[fact.MetricID]Metric) error
	// listDimensions adds the names of all.
	listDimensions(ctx context.Context, found map[string]bool) error
}

// source finds a partition.
func (r *Reader) source(partition int32) (s source, here bool, err error) {
	own, err := r.processor(partition)
	switch {
	case err == nil:
		return own, true, nil
	case r.away != nil:
		return remote{r.away(partition)}, false, nil
	}
	return nil, false, err
}

func (r *Reader) processor(partition int32) (*Processor, error) {
	p, ok := r.processors(partition)
	if own, is := p.(*Processor); ok && is {
		return own, nil
	}
	return nil, fmt.Errorf("%w: %d", ErrUnavailable, partition)
}

// Zone is the time zone in which a tenant is counted.
func (r *Reader) Zone(tenant string) *time.Location { return r.zones.of(tenant) }

// Query answers a question. Besides Invalid and ErrNeedsWarehouse it returns ErrUnavailable.
func (r *Reader) Query(ctx context.Context, q Query) (*Result, error) {
	p, err := newPlan(&q, r.zones.of(q.Tenant))
	if err == nil {
		err = p.check(r.zones.of(q.Tenant))
	}
	if err != nil {
		return nil, err
	}
	all, err := r.collect(ctx, p, q.Tenant)
	if err != nil {
		return nil, err
	}
	if !p.by {
		all = lines{"": all[""]}
	}
	return page(&q, p, all)
}

// collect adds up all partitions. Those elsewhere are asked at once.
func (r *Reader) collect(ctx context.Context, p *plan, tenant string) (lines, error) {
	all := lines{}
	var away []source
	for id := range r.partitions {
		one, here, err := r.source(id)
		if err != nil {
			return nil, err
		}
		if !here {
			away = append(away, one)
			continue
		}
		got, err := one.collect(ctx, p, tenant)
		if err != nil {
			return nil, err
		}
		all.merge(got)
		if p.most > 0 && all.cells() > p.most {
			return nil, ErrTooMany
		}
	}
	if away == nil {
		return all, nil
	}
	return all, all.gather(ctx, away, p, tenant)
}

// gather adds up partitions that are elsewhere.
func (l lines) gather(ctx context.Context, parts []source, p *plan, tenant string) error {
	got := make([]lines, len(parts))
	all, ctx := errgroup.WithContext(ctx)
	for i, one := range parts {
		all.Go(func() (err error) {
			got[i], err = one.collect(ctx, p, tenant)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	for _, some := range got {
		if l.merge(some); p.most > 0 && l.cells() > p.most {
			return ErrTooMany
		}
	}
	return nil
}

func (l lines) cells() (n int) {
	for _, line := range l {
		n += len(line)
	}
	return n
}

// merge adds the numbers of another partition.
func (l lines) merge(o lines) {
	for value, cells := range o {
		line := l[value]
		if line == nil {
			l[value] = cells
			continue
		}
		for id, n := range cells {
			if m := line[id]; m != nil {
				m.add(n)
			} else {
				line[id] = n
			}
		}
	}
}

func (n *cellNumbers) add(o *cellNumbers) {
	n.count, n.sum, n.unique = n.count+o.count, n.sum.Add(o.sum), n.unique+o.unique
}

func (n *cellNumbers) isZero() bool { return n.count == 0 && n.unique == 0 && n.sum.IsZero() }

// Metric is what is known of a metric.
type Metric struct {
	ID               fact.MetricID
	Name, Service    string
	Created, Updated time.Time // the first event came, and the last one, which is rounded to the day
}

// Metrics lists the metrics of a tenant by name.
func (r *Reader) Metrics(ctx context.Context, tenant string) ([]Metric, error) {
	found := map[fact.MetricID]Metric{}
	for id := range r.partitions {
		p, _, err := r.source(id)
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = p.listMetrics(ctx, tenant, found)
		}
		if err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Metric) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Service, b.Service)
	}), nil
}

// listMetrics implements source.
func (p *Processor) listMetrics(_ context.Context, tenant string, found map[fact.MetricID]Metric) error {
	return p.registry(tenant, func(m *metric) {
		addMetric(found, Metric{m.id, m.name, m.service, time.UnixMilli(m.created).UTC(), time.UnixMilli(m.updated).UTC()})
	})
}

// addMetric adds what another partition knows of a metric.
func addMetric(found map[fact.MetricID]Metric, n Metric) {
	if o, known := found[n.ID]; known {
		if o.Created.Before(n.Created) {
			n.Created = o.Created
		}
		if o.Updated.After(n.Updated) {
			n.Updated = o.Updated
		}
	}
	if n.Updated.Before(n.Created) {
		n.Updated = n.Created
	}
	found[n.ID] = n
}

func metricOf(key []byte) fact.MetricID { return fact.MetricID(binary.BigEndian.Uint64(key[9:])) }

// registry calls f for the metrics of a tenant; for one that changed lately, it may do so twice.
func (p *Processor) registry(tenant string, f func(*metric)) error {
	id := fact.TenantIDOf(tenant)
	var inner error
	err := p.store.Scan(metricKey(id, 0)[:9], nil, func(k, v []byte) bool {
		m := &metric{id: metricOf(k)}
		if inner = m.parse(bytes.Clone(v)); inner == nil {
			f(m)
		}
		return inner == nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tenants[tenant]; t != nil {
		for _, m := range t.metrics {
			f(m)
		}
	}
	return errors.Join(inner, err)
}

// listDimensions implements source.
func (p *Processor) listDimensions(_ context.Context, found map[string]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.names {
		found[name] = true
	}
	return nil
}

// Metric returns one metric of a tenant, false if there were no events of it.
func (r *Reader) Metric(ctx context.Context, tenant string, id fact.MetricID) (Metric, bool, error) {
	all, err := r.Metrics(ctx, tenant)
	if err != nil {
		return Metric{}, false, err
	}
	for _, m := range all {
		if m.ID == id {
			return m, true, nil
		}
	}
	return Metric{}, false, nil
}

// Final is the final value of one count.
type Final struct {
	Dimension string // "" for the total
	Value     string
	Start     time.Time // of the interval
	Count     int64
	Sum       Sum
	Unique    int64
}

// Each calls f for all counts of a metric in intervals of the tenant's zone, until it returns an error. It holds all counts of one
// dimension in memory.
func (r *Reader) Each(ctx context.Context, tenant string, metric fact.MetricID, interval Interval, f func(Final) error) error {
	dims, err := r.Dimensions(ctx)
	if err != nil {
		return err
	}
	for _, name := range dims {
		if err := r.EachBy(ctx, tenant, metric, interval, name, 0, f); err != nil {
			return err
		}
	}
	return nil
}

// EachBy is Each for the counts by one dimension, "" for the total. Of a dimension that nobody has there are none. If there are more than most, unless that is 0, it
// returns ErrTooMany before it calls f.
func (r *Reader) EachBy(ctx context.Context, tenant string, metric fact.MetricID, interval Interval, dimension string, most int, f func(Final) error) error {
	p := &plan{tenant: fact.TenantIDOf(tenant), metric: metric, dim: dimension, interval: interval, zone: r.zones.of(tenant), by: true, unique: true, most: most}
	all, err := r.collect(ctx, p, tenant)
	if err != nil {
		return err
	}
	return all.each(dimension, p, f)
}

// Dimensions are the names of all there are, of any tenant, and "" for the total, in order.
func (r *Reader) Dimensions(ctx context.Context) ([]string, error) {
	dims := map[string]bool{"": true}
	for id := range r.partitions {
		p, _, err := r.source(id)
		if err == nil {
			err = p.listDimensions(ctx, dims)
		}
		if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(dims)), nil
}

func (l lines) each(dim string, p *plan, f func(Final) error) error {
	starts := map[int64]time.Time{}
	for _, value := range slices.Sorted(maps.Keys(l)) {
		line := l[value]
		for _, id := range slices.Sorted(maps.Keys(line)) {
			n := line[id]
			if n.isZero() {
				continue // all of it was taken back
			}
			start, known := starts[id]
			if !known {
				start = time.Unix(p.start(id), 0).In(p.zone)
				starts[id] = start
			}
			if err := f(Final{dim, value, start, n.count, n.sum, n.unique}); err != nil {
				return err
			}
		}
	}
	return nil
}
