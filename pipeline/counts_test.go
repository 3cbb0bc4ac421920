//go:build cgo

package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// TestCountsBySQL holds the rows of aggregates against what metric-aggregates answers with.
func TestCountsBySQL(t *testing.T) {
	c := newCity(t, "duckdb", func(o *Options) { o.Account.Zones = map[string]string{shop: "Europe/Berlin"} })
	// The clocks change on 29 March 2026 in Berlin.
	from := time.Date(2026, 3, 27, 23, 0, 0, 0, time.UTC)
	var all []*fact.Intake
	for i := range 300 {
		e := c.event(fmt.Sprint("u", i), fmt.Sprint("mail:m", i%40, "@mail.test"))
		e.Event.Time, e.Event.Value = from.Add(time.Duration(i*i)*time.Minute), int64(i)*1_234_567
		all = append(all, e)
	}
	c.put(all...)
	c.quiet()
	before := c.compareCounts()
	// What comes then shows at once, since the account level is asked and not a copy.
	c.put(c.event("both", "id:"+c.profile("mail:m1@mail.test").String(), "mail:m2@mail.test"))
	c.quiet()
	if after := c.compareCounts(); after == before {
		t.Error("an event and a merge changed nothing")
	}
	few := counted{c.p.counts, 100}
	q := warehouse.CountsQuery{Tenant: shop, Metric: fact.DeriveMetric(shop, "api", "Placed Order"), Interval: warehouse.Month, All: true}
	n := 0
	take := func(warehouse.Count) error { n++; return nil }
	c.must(few.Each(t.Context(), q, take))
	months := n
	q.Interval = warehouse.Hour
	var bad *warehouse.SQLError
	if err := few.Each(t.Context(), q, take); !errors.As(err, &bad) || n != months {
		t.Errorf("more than are to be held: %v, after %d", err, n-months)
	}
	c.must(c.p.StopConsumer(t.Context(), consumerAccount))
	_, err := c.p.SQL(t.Context(), "from aggregates('shop', 'Placed Order', 'day')", 10)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not counted here at the moment") {
		t.Errorf("of a level that is stopped: %v", err)
	}
}

// compareCounts compares them by all intervals, with and without a dimension, and returns all.
func (c *city) compareCounts() (all string) {
	c.Helper()
	metric := fact.DeriveMetric(shop, "api", "Placed Order")
	for _, interval := range []account.Interval{account.Hour, account.Day, account.Week, account.Month} {
		for _, dimension := range []string{"", "URL"} {
			want := c.countsOf(metric, interval, dimension)
			for _, from := range []string{
				fmt.Sprintf("aggregates('shop', 'Placed Order', '%s') where dimension = '%s'", interval, dimension),
				fmt.Sprintf("aggregates('shop', '%v', '%s', dimension := '%s')", metric, interval, dimension),
			} {
				a, err := c.p.SQL(c.Context(), "select value, start, local_start, count, micros, uniques from "+from, 1<<20)
				c.must(err)
				var got []string
				for _, row := range a.Rows {
					got = append(got, fmt.Sprintln(row...))
				}
				slices.Sort(got)
				if len(want) == 0 || !slices.Equal(got, want) {
					c.Errorf("%s: %v, want %v", from, got, want)
				}
			}
			all += strings.Join(want, "")
		}
	}
	return all
}

// countsOf is the API's answer, in order.
func (c *city) countsOf(metric fact.MetricID, interval account.Interval, dimension string) (out []string) {
	c.Helper()
	zone := c.p.counts.Zone(shop)
	q := account.Query{Tenant: shop, Metric: metric, Measurements: []string{account.Count, account.SumValue, account.Unique}, Interval: interval,
		From: time.Date(2026, 1, 1, 0, 0, 0, 0, zone), To: time.Date(2026, 12, 31, 0, 0, 0, 0, zone)}
	if dimension != "" {
		q.By = []string{dimension}
	}
	r, err := c.p.counts.Query(c.Context(), q)
	c.must(err)
	for _, row := range r.Rows {
		for i, n := range row.Count {
			if n != 0 {
				start := r.Dates[i]
				out = append(out, fmt.Sprintln(strings.Join(row.Dimensions, ""), start.UTC().Format(time.RFC3339), start.Format("2006-01-02T15:04:05Z"), n, row.Sum[i].Big(), row.Unique[i]))
			}
		}
	}
	slices.Sort(out)
	return out
}
