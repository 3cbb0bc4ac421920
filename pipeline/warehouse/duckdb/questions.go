//go:build cgo

package duckdb

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// dimension is the text of a dimension of an event, or else of a property with its name.
func (d *DB) dimension(name string) string {
	d.sight.RLock()
	at, known := d.events.byName[name]
	prefix := d.events.prefix
	d.sight.RUnlock()
	parts := make([]string, 0, 3)
	if known && at >= 0 {
		parts = append(parts, identifier(prefix+name))
	}
	parts = append(parts, member("dims", name), member("properties", name))
	return "coalesce(" + strings.Join(parts, ", ") + ", '')"
}

func (d *DB) conditions(filters []warehouse.Filter) []string {
	var out []string
	for _, f := range filters {
		not := ""
		if f.Not {
			not = " NOT"
		}
		if len(f.Values) == 0 {
			out = append(out, fmt.Sprint(f.Not))
			continue
		}
		out = append(out, d.dimension(f.Name)+not+" IN "+list(f.Values, text))
	}
	return out
}

// Events implements warehouse.Warehouse.
func (d *DB) Events(ctx context.Context, q warehouse.EventQuery) (*warehouse.EventPage, error) {
	if q.Size <= 0 {
		return nil, fmt.Errorf("size: %d is not more than 0", q.Size)
	}
	d.sight.RLock()
	extra, prefix := slices.Clone(d.events.extra), d.events.prefix
	d.sight.RUnlock()
	p := new(warehouse.EventPage)
	err := d.ask(ctx, sqlEvents(&q, extra, d.conditions(q.Filters)), func(row []driver.Value) error {
		if len(p.Events) == q.Size {
			p.More = true
			return nil
		}
		e := eventIn(row, extra, prefix)
		e.Tenant = q.Tenant
		p.Events = append(p.Events, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if n := len(p.Events); n > 0 {
		last := &p.Events[n-1]
		p.Next = warehouse.EventCursor{Time: last.Time, Partition: last.Partition, Offset: last.Offset}
	}
	return p, d.nameMetrics(ctx, p.Events)
}

func eventIn(row []driver.Value, extra []column, prefix string) warehouse.Event {
	e := warehouse.Event{Profile: profileIn(row[evProfile]), Partition: int32(intIn(row[evPartition])), Offset: intIn(row[evOffset])}
	e.Time, _ = row[evTime].(time.Time)
	e.Accepted, _ = row[evAccepted].(time.Time)
	metric, _ := row[evMetric].(uint64)
	e.Metric = fact.MetricID(metric)
	e.Value, e.HasValue = row[evMicros].(int64)
	e.Backfill, _ = row[evBackfill].(bool)
	e.Currency, e.UID, e.Properties = str(row[evCurrency]), str(row[evUID]), []byte(str(row[evProperties]))
	for i, c := range extra {
		if v, ok := row[len(eventColumns)+i].(string); ok {
			e.Dims = append(e.Dims, fact.Dim{Name: c.name[len(prefix):], Value: v})
		}
	}
	if more := str(row[evDims]); more != "" {
		var dims map[string]string
		if json.Unmarshal([]byte(more), &dims) == nil {
			for name, value := range dims {
				e.Dims = append(e.Dims, fact.Dim{Name: name, Value: value})
			}
		}
	}
	slices.SortFunc(e.Dims, func(a, b fact.Dim) int { return strings.Compare(a.Name, b.Name) })
	return e
}

// nameMetrics fills in what the metrics of events are called.
func (d *DB) nameMetrics(ctx context.Context, events []warehouse.Event) error {
	at := map[fact.MetricID][]int{}
	var ids []fact.MetricID
	for i := range events {
		m := events[i].Metric
		if at[m] == nil {
			ids = append(ids, m)
		}
		at[m] = append(at[m], i)
	}
	if len(ids) == 0 {
		return nil
	}
	return d.read(ctx, sqlMetricNames(ids), func(row []driver.Value) error {
		id, _ := row[0].(uint64)
		for _, i := range at[fact.MetricID(id)] {
			events[i].Service, events[i].Name = str(row[1]), str(row[2])
		}
		return nil
	})
}

const defaultGroups = 10_000

// Aggregate implements warehouse.Warehouse.
func (d *DB) Aggregate(ctx context.Context, q warehouse.AggregateQuery) (*warehouse.Aggregate, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	most := q.Groups
	if most <= 0 {
		most = defaultGroups
	}
	cal := warehouse.Calendar{Interval: q.Interval, Zone: q.Zone}
	if cal.Zone == nil {
		cal.Zone = time.UTC
	}
	by := make([]string, len(q.By))
	for i, name := range q.By {
		by[i] = d.dimension(name)
	}
	measures := 3
	if q.Unique {
		measures++
	}
	out := &warehouse.Aggregate{Starts: cal.Starts(q.From, q.To)}
	at := map[int64]int{}
	for i, t := range out.Starts {
		at[t.Unix()] = i
	}
	groups := map[string]*warehouse.Group{}
	err := d.ask(ctx, sqlAggregate(&q, cal.Shifts(q.From, q.To), by, d.conditions(q.Filters)), func(row []driver.Value) error {
		start, _ := row[0].(time.Time)
		i, known := at[cal.At(start).Unix()]
		if !known {
			return fmt.Errorf("warehouse: a bucket begins at %v, which is not a %v of %v", start, q.Interval, cal.Zone)
		}
		g, err := groupOf(groups, row[measures:], len(out.Starts), q.Unique, most)
		if err != nil {
			return err
		}
		g.Counts[i] = intIn(row[1])
		if sum, ok := row[2].(*big.Int); ok && !sum.IsInt64() {
			return fmt.Errorf("warehouse: the sum %v is too large", sum)
		}
		g.Micros[i] = intIn(row[2])
		if q.Unique {
			g.Uniques[i] = intIn(row[3])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b warehouse.Group) int { return slices.Compare(a.By, b.By) })
	return out, nil
}

// groupOf finds the group of a row.
func groupOf(groups map[string]*warehouse.Group, by []driver.Value, buckets int, unique bool, most int) (*warehouse.Group, error) {
	names := make([]string, len(by))
	for i, v := range by {
		names[i] = str(v)
	}
	key := fmt.Sprintf("%q", names)
	g := groups[key]
	if g != nil {
		return g, nil
	}
	if len(groups) >= most {
		return nil, fmt.Errorf("%w: more than %d", warehouse.ErrTooMany, most)
	}
	g = &warehouse.Group{By: names, Counts: make([]int64, buckets), Micros: make([]int64, buckets)}
	if unique {
		g.Uniques = make([]int64, buckets)
	}
	groups[key] = g
	return g, nil
}

// Seen implements warehouse.Warehouse. Most questions are answered by the set of keys: no key, no event; and a key of a profile that never left
// is an event, whose place in the log only some want to know.
func (d *DB) Seen(ctx context.Context, q warehouse.SeenQuery) (bool, error) {
	var h hasher
	if d.stale.Load() {
		if _, err := d.State(ctx); err != nil {
			return false, err
		}
	}
	d.sight.RLock()
	closed := d.keys == nil
	there := !closed && d.keys.Has(h.event(q.Profile, q.Metric, q.UID))
	sure := q.Partition < 0 && !d.gone.maybe(q.Profile)
	d.sight.RUnlock()
	if closed {
		return false, warehouse.ErrClosed
	}
	if !there || sure {
		return there, nil
	}
	seen := false
	err := d.read(ctx, sqlSeen(&q), func(row []driver.Value) error {
		partition, offset := int32(intIn(row[0])), intIn(row[1])
		seen = seen || q.Partition < 0 || partition != q.Partition || offset < q.Offset
		return nil
	})
	return seen, err
}

// Stats implements warehouse.Warehouse.
func (d *DB) Stats(ctx context.Context) (warehouse.Stats, error) {
	d.mu.Lock()
	if err := d.ready(ctx); err != nil {
		d.mu.Unlock()
		return warehouse.Stats{}, err
	}
	s := warehouse.Stats{Keys: d.keys.Len(), Runs: len(d.events.runs), Columns: len(d.events.extra) + len(d.profiles.extra)}
	s.Unsorted = d.events.unsorted()
	d.mu.Unlock()
	if info, err := os.Stat(d.path("warehouse.duckdb")); err == nil {
		s.Bytes = info.Size()
	}
	return s, d.read(ctx, sqlCounts, func(row []driver.Value) error {
		s.Events, s.Profiles = intIn(row[0]), intIn(row[1])
		return nil
	})
}
