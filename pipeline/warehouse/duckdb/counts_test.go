//go:build cgo

package duckdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// accountLevel is one that has so many days of one value of each dimension, and in the total, of every metric.
type accountLevel struct {
	metrics map[string][]warehouse.CountedMetric
	dims    []string
	days    int
	zone    *time.Location
	err     error         // at the end
	endless bool          // days never end
	block   chan struct{} // not nil: Each closes it, and waits until ctx ends

	asked   atomic.Pointer[warehouse.CountsQuery]
	given   atomic.Int64
	running atomic.Int64
	passes  atomic.Int64
}

func (a *accountLevel) Metrics(_ context.Context, tenant string) ([]warehouse.CountedMetric, error) {
	return a.metrics[tenant], nil
}

func (a *accountLevel) Each(ctx context.Context, q warehouse.CountsQuery, f func(warehouse.Count) error) error {
	a.asked.Store(&q)
	a.passes.Add(1)
	a.running.Add(1)
	defer a.running.Add(-1)
	if a.block != nil {
		close(a.block)
		<-ctx.Done()
		return ctx.Err()
	}
	dims := a.dims
	if !q.All {
		dims = []string{q.Dimension}
	}
	for _, d := range dims {
		for day := 0; day < a.days || a.endless; day++ {
			c := warehouse.Count{Dimension: d, Start: time.Date(2026, 3, 1+day, 0, 0, 0, 0, a.zone), Count: int64(day), Micros: big.NewInt(int64(day) * 1_500_000), Uniques: 1}
			if d != "" {
				c.Value = "of " + d
			}
			a.given.Add(1)
			if err := f(c); err != nil {
				return err
			}
		}
	}
	return a.err
}

func someCounts(t *testing.T) *accountLevel {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return &accountLevel{dims: []string{"", "Plan"}, days: 60, zone: zone, metrics: map[string][]warehouse.CountedMetric{
		"acme":  {{ID: 11, Service: "api", Name: "Placed Order"}, {ID: 13, Service: "api", Name: "Opened"}, {ID: 15, Service: "mta", Name: "Opened"}},
		"other": {{ID: 17, Service: "api", Name: "Placed Order"}},
	}}
}

func counting(t *testing.T, a *accountLevel, o warehouse.Options) *DB {
	t.Helper()
	d, err := open(context.Background(), t.TempDir(), o, Deps{Counts: a})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestAggregatesAreAsked(t *testing.T) {
	a := someCounts(t)
	d := counting(t, a, testOptions())
	for _, c := range []struct {
		tenant, sql string
		args        []any
		want        string
		asked       warehouse.CountsQuery
	}{
		{"", "select start, local_start, count, micros, uniques from aggregates('acme', 'Placed Order', 'day') where dimension = '' order by start limit 2", nil,
			"[[2026-02-28T23:00:00Z 2026-03-01T00:00:00Z 0 0 1] [2026-03-01T23:00:00Z 2026-03-02T00:00:00Z 1 1500000 1]]", warehouse.CountsQuery{Tenant: "acme", Metric: 11, Interval: warehouse.Day, All: true}},
		{"", "select count(*) from aggregates('acme', 'Placed Order', 'HOUR')", nil, "[[120]]", warehouse.CountsQuery{Tenant: "acme", Metric: 11, Interval: warehouse.Hour, All: true}},
		{"", "select count(*), sum(count), min(value) from aggregates('acme', 'Placed Order', 'week', dimension := 'Plan')", nil, "[[60 1770 of Plan]]", warehouse.CountsQuery{Tenant: "acme", Metric: 11, Interval: warehouse.Week, Dimension: "Plan"}},
		{"", "select count(*) from aggregates('acme', 'Placed Order', 'month', dimension := '')", nil, "[[60]]", warehouse.CountsQuery{Tenant: "acme", Metric: 11, Interval: warehouse.Month}},
		{"", "select count(*) from aggregates(?, ?, 'day')", []any{"acme", fact.MetricID(15).String()}, "[[120]]", warehouse.CountsQuery{Tenant: "acme", Metric: 15, Interval: warehouse.Day, All: true}},
		{"", "select tenant = tenant_id('other'), metric, \"interval\", sum(micros) from aggregates('other', 'Placed Order', 'day', dimension := '') group by all", nil, "[[true 17 day 2655000000]]",
			warehouse.CountsQuery{Tenant: "other", Metric: 17, Interval: warehouse.Day}},
		{"acme", "with a as (select * from aggregates('acme', 'Placed Order', 'day')) select count(*) from a x join a y using (start, dimension)", nil, "[[120]]", warehouse.CountsQuery{Tenant: "acme", Metric: 11, Interval: warehouse.Day, All: true}},
	} {
		got, err := ask(d, warehouse.Statement{Tenant: c.tenant, SQL: c.sql, Args: c.args, Limit: 100})
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
			continue
		}
		if rows := fmt.Sprint(got.Rows); rows != c.want {
			t.Errorf("%s: %s, want %s", c.sql, rows, c.want)
		}
		if q := *a.asked.Load(); q != c.asked {
			t.Errorf("%s asked %+v", c.sql, q)
		}
		if n := a.running.Load(); n != 0 {
			t.Errorf("%s: %d still run", c.sql, n)
		}
	}
	a.dims = []string{"\x80"}
	if got, err := ask(d, warehouse.Statement{SQL: "select distinct dimension, value from aggregates('acme', 'Placed Order', 'day')"}); err != nil || fmt.Sprint(got.Rows) != "[[\uFFFD of \uFFFD]]" {
		t.Errorf("what is no UTF-8: %+v %v", got, err)
	}
	a.days = 0
	if got, err := ask(d, warehouse.Statement{SQL: "from aggregates('acme', 'Placed Order', 'day')", Limit: 1}); err != nil || len(got.Rows) != 0 || len(got.Columns) != 10 {
		t.Errorf("no counts: %+v %v", got, err)
	}
}

func TestAggregatesThatAreRefused(t *testing.T) {
	a := someCounts(t)
	d := counting(t, a, testOptions())
	for _, c := range []struct{ tenant, sql, want string }{
		{"", "select * from aggregates('nobody', 'Placed Order', 'day')", `line 1, column 15: aggregates: there are no counts of a tenant "nobody"`},
		{"", "select *\nfrom aggregates('acme', 'Placed', 'day')", `line 2, column 6: aggregates: tenant "acme" has no metric with the name or id "Placed"`},
		{"", "select * from aggregates('acme', 'Opened', 'day')", `aggregates: several metrics are named "Opened": ask by id, which can be 000000000000t (api) or 000000000000y (mta)`},
		{"", "select * from aggregates('acme', 'Placed Order', 'minute')", `aggregates: the interval can be hour, day, week or month, not "minute"`},
		{"", "select * from aggregates('acme', 'Placed Order', '')", `aggregates: the interval can be`},
		{"", "select * from aggregates(NULL, 'Placed Order', 'day')", `no counts of a tenant ""`},
		{"", "select * from aggregates('acme', NULL, 'day')", `no metric with the name or id ""`},
		{"", "select * from aggregates('acme', 'Placed Order', NULL)", `the interval can be`},
		{"", "select * from aggregates(7, 'Placed Order', 'day')", `no counts of a tenant "7"`},
		{"", "select * from aggregates('acme')", `aggregates(tenant, metric, interval, dimension := NULL)`},
		{"", "select * from metrics, aggregates('acme', name, 'day')", `literals`},
		{"", "select * from aggregates((select name from tenants), 'x', 'day')", ``},
		{"", "explain select * from aggregates('nobody', 'x', 'day')", `no counts of a tenant "nobody"`},
		{"", "select * from aggregates", `line 1, column 15: aggregates is a function: aggregates('tenant', 'metric', 'day')`},
		{"acme", "select * from aggregates", `aggregates is a function`},
		{"", "select * from main.aggregates", `aggregates is a function`},
		{"", "select aggregates('acme', 'Placed Order', 'day')", ``},
		// The function behind it cannot be named, since a NULL would end the program.
		{"", "select * from account_counts('acme', 'Placed Order', 'day', true, '')", `function account_counts is not allowed`},
		{"", "select * from system.main.account_counts(NULL, NULL, NULL, NULL, NULL)", `function account_counts is not allowed`},
		{"acme", "select * from account_counts('other', 'Placed Order', 'day', true, '')", `function account_counts is not allowed`},
		// Other tenants.
		{"acme", "select * from aggregates('other', 'Placed Order', 'day')", `aggregates: the tenant of this statement is "acme"`},
		{"acme", "select * from aggregates('Acme', 'Placed Order', 'day')", `the tenant of this statement is "acme"`},
		{"acme", "select * from aggregates(NULL, 'Placed Order', 'day')", `the tenant of this statement is "acme"`},
		{"acme", "select * from aggregates('oth' || 'er', 'Placed Order', 'day')", `the tenant of this statement is "acme"`},
		{"acme", "select * from warehouse.main.aggregates('other', 'Placed Order', 'day')", `the tenant of this statement is "acme"`},
		{"acme", "explain analyze select * from aggregates('other', 'Placed Order', 'day')", `the tenant of this statement is "acme"`},
		{"acme", "select (select max(count) from aggregates('other', 'Placed Order', 'day'))", `the tenant of this statement is "acme"`},
		{"acme", "describe select * from aggregates('other', 'Placed Order', 'day')", `the tenant of this statement is "acme"`},
		{"acme", "from aggregates(metric := 'Placed Order', \"interval\" := 'day', tenant := 'other')", ``},
	} {
		got, err := ask(d, warehouse.Statement{Tenant: c.tenant, SQL: c.sql, Limit: 100})
		var e *warehouse.SQLError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "LINE") {
			t.Errorf("%q %s: %v %+v, want %s", c.tenant, c.sql, err, got, c.want)
		}
	}
	_, err := ask(d, warehouse.Statement{Tenant: "acme", SQL: "select * from aggregates(?, 'Placed Order', 'day')", Args: []any{"other"}, Limit: 1})
	if err == nil || !strings.Contains(err.Error(), `the tenant of this statement is "acme"`) {
		t.Errorf("another tenant as an argument: %v", err)
	}
	if n := a.given.Load(); n != 0 {
		t.Errorf("%d counts were given", n)
	}
	none, err := open(t.Context(), t.TempDir(), testOptions(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = none.Close() }()
	if _, err := ask(none, warehouse.Statement{SQL: "select * from aggregates('acme', 'x', 'day')"}); err == nil || !strings.Contains(err.Error(), "nothing is counted here") {
		t.Errorf("without an account level: %v", err)
	}
}

// TestAggregatesThatFail has an error after some rows: it comes out as it was.
func TestAggregatesThatFail(t *testing.T) {
	a := someCounts(t)
	d := counting(t, a, testOptions())
	const sql = "select count(*) from aggregates('acme', 'Placed Order', 'day')"
	var e *warehouse.SQLError
	a.err = &warehouse.SQLError{Message: "aggregates: not now"}
	if _, err := ask(d, warehouse.Statement{SQL: sql, Limit: 1}); !errors.As(err, &e) || e.Message != "aggregates: not now" {
		t.Errorf("of whoever asks: %v", err)
	}
	a.err = errors.New("the disk is gone")
	if _, err := ask(d, warehouse.Statement{SQL: sql, Limit: 1}); !errors.Is(err, a.err) || errors.As(err, &e) {
		t.Errorf("of the program: %v", err)
	}
}

// TestAggregatesAreNotReadToTheEnd ends questions before their rows end.
func TestAggregatesAreNotReadToTheEnd(t *testing.T) {
	a := someCounts(t)
	a.endless = true
	o := testOptions()
	o.Queries = 1
	d := counting(t, a, o)
	for _, s := range []warehouse.Statement{
		{SQL: "select count from aggregates('acme', 'Placed Order', 'day') limit 3"},
		{SQL: "select count from aggregates('acme', 'Placed Order', 'day')", Limit: 3},
		{SQL: "with recursive n(i) as (select 0 union all select i + 1 from n where i < 2 and exists (from aggregates('acme', 'Placed Order', 'day') limit 1)) select i from n", Limit: 3},
	} {
		a.passes.Store(0)
		got, err := ask(d, s)
		if err != nil || fmt.Sprint(got.Rows) != "[[0] [1] [2]]" {
			t.Errorf("%s: %+v %v", s.SQL, got, err)
		}
		if a.passes.Load() == 0 || a.running.Load() != 0 {
			t.Errorf("%s: %d passes, %d still run", s.SQL, a.passes.Load(), a.running.Load())
		}
	}
	if _, err := ask(d, warehouse.Statement{SQL: "select 1"}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAggregatesAreCancelled(t *testing.T) {
	const sql = "select sum(count) from aggregates('acme', 'Placed Order', 'day')"
	for name, end := range map[string]func(d *DB, cancel func()){
		"by who asks": func(_ *DB, cancel func()) { cancel() },
		"by the time": func(*DB, func()) {},
		"by the end":  func(d *DB, _ func()) { _ = d.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			a := someCounts(t)
			a.block = make(chan struct{})
			o := testOptions()
			o.Threads = 1
			if name == "by the time" {
				o.QueryTime = 0
				o.QueryTime += 200_000_000
			}
			d := counting(t, a, o)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := warehouse.Ask(ctx, d, warehouse.Statement{SQL: sql})
				ended <- err
			}()
			<-a.block
			// It holds nothing that a batch needs, on the one thread there is.
			if name == "by who asks" {
				w := newWorld(1)
				for range 50 {
					w.step()
				}
				if err := d.Append(t.Context(), w.cut()); err != nil {
					t.Error(err)
				}
			}
			end(d, cancel)
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("it ended with %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it did not end")
			}
			if n := a.running.Load(); n != 0 {
				t.Errorf("%d still run", n)
			}
		})
	}
}

// TestAStoreWithAggregates opens one of a version that had a table of that name.
func TestAStoreWithAggregates(t *testing.T) {
	dir := t.TempDir()
	a := someCounts(t)
	for range 2 {
		d, err := open(t.Context(), dir, testOptions(), Deps{Counts: a})
		if err != nil {
			t.Fatal(err)
		}
		got, err := ask(d, warehouse.Statement{SQL: "select (select count(*) from aggregates('acme', 'Placed Order', 'day')), (select count(*) from duckdb_tables() where table_name = 'aggregates')"})
		if err != nil || fmt.Sprint(got.Rows) != "[[120 0]]" {
			t.Errorf("%+v %v", got, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		// As the version before had it, and would leave it.
		c, err := duckdb.NewConnector(filepath.Join(dir, "warehouse.duckdb"), nil)
		if err != nil {
			t.Fatal(err)
		}
		old := sql.OpenDB(c)
		if _, err := old.ExecContext(t.Context(), `CREATE TABLE IF NOT EXISTS aggregates (tenant UBIGINT, metric UBIGINT, "interval" VARCHAR, start TIMESTAMP, dimension VARCHAR, value VARCHAR,
			count BIGINT, micros BIGINT, uniques BIGINT); INSERT INTO aggregates VALUES (1, 1, 'day', '2026-01-01', '', '', 1, 1, 1)`); err != nil {
			t.Fatal(err)
		}
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
