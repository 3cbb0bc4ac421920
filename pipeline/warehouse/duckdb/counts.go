//go:build cgo

package duckdb

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// SQL's aggregates(tenant, metric, interval) are the counts of the account level, asked when a statement wants them. A goroutine reads them for
// the database, which takes them by chunks and may stop at any of them.

// A statement may name aggregatesFunction, which is a macro, and not countsFunction behind it.
const (
	aggregatesFunction = "aggregates"
	countsFunction     = "account_counts"
)

// scope is what the functions of one statement know of it. It is in the statement's context: a function that finds none answers nothing.
type scope struct {
	tenant  string // the only one that may be named; "": any
	readers sync.WaitGroup

	mu  sync.Mutex
	err error // the first, as it was before the database made text of it
}

type scopeKey struct{}

func (s *scope) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return err
}

func (s *scope) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// countsFunction registers as it is bound: with the text of tenant, metric and interval, whether all dimensions are wanted, and the one that is.
func (d *DB) countsFunction() duckdb.ChunkTableFunction {
	text, flag := typeInfo(duckdb.TYPE_VARCHAR), typeInfo(duckdb.TYPE_BOOLEAN)
	return duckdb.ChunkTableFunction{
		Config: duckdb.TableFunctionConfig{Arguments: []duckdb.TypeInfo{text, text, text, flag, text}},
		BindArgumentsContext: func(ctx context.Context, _ map[string]any, args ...any) (duckdb.ChunkTableSource, error) {
			of, ok := ctx.Value(scopeKey{}).(*scope)
			if !ok {
				return nil, errors.New("aggregates cannot be asked here")
			}
			all, _ := args[3].(bool)
			q := warehouse.CountsQuery{Tenant: str(args[0]), All: all, Dimension: str(args[4])}
			if err := d.countsQuery(ctx, of, &q, str(args[1]), str(args[2])); err != nil {
				return nil, of.fail(err)
			}
			return &countsSource{ctx: ctx, of: of, counts: d.counts, q: q, id: uint64(fact.TenantIDOf(q.Tenant)), stop: func() {}}, nil
		},
	}
}

// typeInfo is a plain type, of which there is always one.
func typeInfo(t duckdb.Type) duckdb.TypeInfo {
	info, _ := duckdb.NewTypeInfo(t)
	return info
}

// countsQuery checks the arguments and completes the question.
func (d *DB) countsQuery(ctx context.Context, of *scope, q *warehouse.CountsQuery, metric, interval string) error {
	refuse := func(format string, args ...any) error {
		return &warehouse.SQLError{Message: "aggregates: " + fmt.Sprintf(format, args...)}
	}
	if d.counts == nil {
		return refuse("nothing is counted here")
	}
	if of.tenant != "" && q.Tenant != of.tenant {
		return refuse("the tenant of this statement is %q", of.tenant)
	}
	for q.Interval = warehouse.Hour; q.Interval.String() != strings.ToLower(interval); q.Interval++ {
		if q.Interval == warehouse.Month {
			return refuse("the interval can be hour, day, week or month, not %q", interval)
		}
	}
	metrics, err := d.counts.Metrics(ctx, q.Tenant)
	if err != nil {
		return err
	}
	if len(metrics) == 0 {
		return refuse("there are no counts of a tenant %q", q.Tenant)
	}
	var named []string
	for _, m := range metrics {
		if m.ID.String() == strings.ToLower(metric) {
			q.Metric = m.ID
			return nil
		}
		if m.Name == metric {
			q.Metric = m.ID
			named = append(named, fmt.Sprintf("%s (%s)", m.ID, m.Service))
		}
	}
	switch len(named) {
	case 0:
		return refuse("tenant %q has no metric with the name or id %q", q.Tenant, metric)
	case 1:
		return nil
	}
	return refuse("several metrics are named %q: ask by id, which can be %s", metric, strings.Join(named, " or "))
}

// Columns of aggregates, by their place.
const (
	agTenant = iota
	agMetric
	agInterval
	agStart
	agLocal
	agDimension
	agValue
	agCount
	agMicros
	agUniques
)

// countsSource is one place of a statement that names aggregates. The database calls it on one thread at a time.
type countsSource struct {
	ctx    context.Context // of the statement
	of     *scope
	counts warehouse.Counts
	q      warehouse.CountsQuery
	id     uint64 // of the tenant
	stop   context.CancelFunc
	*reading
}

// reading is one pass over the counts.
type reading struct {
	chunks chan []warehouse.Count
	err    error // why chunks ended; to be read then
}

// ColumnInfos implements duckdb.ChunkTableSource.
func (s *countsSource) ColumnInfos() []duckdb.ColumnInfo {
	id, text, number, at := typeInfo(duckdb.TYPE_UBIGINT), typeInfo(duckdb.TYPE_VARCHAR), typeInfo(duckdb.TYPE_BIGINT), typeInfo(duckdb.TYPE_TIMESTAMP)
	return []duckdb.ColumnInfo{
		agTenant: {Name: "tenant", T: id}, agMetric: {Name: "metric", T: id}, agInterval: {Name: "interval", T: text}, agStart: {Name: "start", T: at},
		agLocal: {Name: "local_start", T: at}, agDimension: {Name: "dimension", T: text}, agValue: {Name: "value", T: text}, agCount: {Name: "count", T: number},
		agMicros: {Name: "micros", T: typeInfo(duckdb.TYPE_HUGEINT)}, agUniques: {Name: "uniques", T: number},
	}
}

// Cardinality implements duckdb.ChunkTableSource.
func (s *countsSource) Cardinality() *duckdb.CardinalityInfo { return nil }

// Init implements duckdb.ChunkTableSource. A recursive question does so again and again: what was left of the last time is not wanted any more.
func (s *countsSource) Init() {
	s.stop()
	var ctx context.Context
	ctx, s.stop = context.WithCancel(s.ctx)
	r := &reading{chunks: make(chan []warehouse.Count)}
	s.reading = r
	s.of.readers.Go(func() {
		r.err = r.run(ctx, s.counts, s.q)
		close(r.chunks)
	})
}

// run hands all counts over, by chunks.
func (r *reading) run(ctx context.Context, from warehouse.Counts, q warehouse.CountsQuery) error {
	most := duckdb.GetDataChunkCapacity()
	var chunk []warehouse.Count
	give := func() error {
		select {
		case r.chunks <- chunk:
			chunk = make([]warehouse.Count, 0, most)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := from.Each(ctx, q, func(c warehouse.Count) error {
		if chunk = append(chunk, c); len(chunk) < most {
			return nil
		}
		return give()
	})
	if err == nil && len(chunk) > 0 {
		err = give()
	}
	return err
}

// FillChunk implements duckdb.ChunkTableSource.
func (s *countsSource) FillChunk(to duckdb.DataChunk) error {
	var chunk []warehouse.Count
	select {
	case chunk = <-s.chunks:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	if chunk == nil && s.err != nil {
		return s.of.fail(s.err)
	}
	for column, set := range s.columns() {
		if !wanted(to, column) {
			continue
		}
		for i := range chunk {
			if err := set(to, column, i, &chunk[i]); err != nil {
				return s.of.fail(err)
			}
		}
	}
	return to.SetSize(len(chunk))
}

// wanted reports whether the statement uses a column. The driver leaves out others by itself, but makes an error for each value that it throws away, which costs
// more than all else; a value of no type is an error only in a column that is wanted.
func wanted(to duckdb.DataChunk, column int) bool {
	return duckdb.SetChunkValue(to, column, 0, struct{}{}) != nil
}

// setter sets one value of a row.
type setter func(to duckdb.DataChunk, column, row int, c *warehouse.Count) error

func setting[T any](value func(*warehouse.Count) T) setter {
	return func(to duckdb.DataChunk, column, row int, c *warehouse.Count) error {
		return duckdb.SetChunkValue(to, column, row, value(c))
	}
}

// columns set the values of a row, by their place. What is no UTF-8, of which the database would make a NULL, is kept as in the other tables.
func (s *countsSource) columns() []setter {
	metric, interval := uint64(s.q.Metric), s.q.Interval.String()
	return []setter{
		agTenant:    setting(func(*warehouse.Count) uint64 { return s.id }),
		agMetric:    setting(func(*warehouse.Count) uint64 { return metric }),
		agInterval:  setting(func(*warehouse.Count) string { return interval }),
		agStart:     setting(func(c *warehouse.Count) time.Time { return c.Start }),
		agLocal:     setting(func(c *warehouse.Count) time.Time { return onTheWall(c.Start) }),
		agDimension: setting(func(c *warehouse.Count) string { return strings.ToValidUTF8(c.Dimension, "\uFFFD") }),
		agValue:     setting(func(c *warehouse.Count) string { return strings.ToValidUTF8(c.Value, "\uFFFD") }),
		agCount:     setting(func(c *warehouse.Count) int64 { return c.Count }),
		agMicros:    setting(func(c *warehouse.Count) *big.Int { return c.Micros }),
		agUniques:   setting(func(c *warehouse.Count) int64 { return c.Uniques }),
	}
}

// onTheWall is a time as its zone's clock shows it, as if that were UTC.
func onTheWall(t time.Time) time.Time {
	year, month, day := t.Date()
	return time.Date(year, month, day, t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}
