package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/account"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// counted is the account level in the warehouse's words.
type counted struct {
	counts *account.Reader
	most   int // counts of one dimension to hold in memory
}

// mostCounts take 90 to 310 MiB, the more the more values they are of. A statement that wants more must not end the server.
const mostCounts = 1_000_000

// Metrics implements warehouse.Counts.
func (c counted) Metrics(ctx context.Context, tenant string) ([]warehouse.CountedMetric, error) {
	all, err := c.counts.Metrics(ctx, tenant)
	out := make([]warehouse.CountedMetric, len(all))
	for i, m := range all {
		out[i] = warehouse.CountedMetric{ID: m.ID, Service: m.Service, Name: m.Name}
	}
	return out, forSQL(err)
}

// Each implements warehouse.Counts.
func (c counted) Each(ctx context.Context, q warehouse.CountsQuery, f func(warehouse.Count) error) error {
	intervals := map[warehouse.Interval]account.Interval{warehouse.Hour: account.Hour, warehouse.Day: account.Day, warehouse.Week: account.Week, warehouse.Month: account.Month}
	dimensions := []string{q.Dimension}
	if q.All {
		var err error
		if dimensions, err = c.counts.Dimensions(ctx); err != nil {
			return forSQL(err)
		}
	}
	for _, dimension := range dimensions {
		err := c.counts.EachBy(ctx, q.Tenant, q.Metric, intervals[q.Interval], dimension, c.most, func(n account.Final) error {
			return f(warehouse.Count{Dimension: n.Dimension, Value: n.Value, Start: n.Start, Count: n.Count, Micros: n.Sum.Big(), Uniques: n.Unique})
		})
		if errors.Is(err, account.ErrTooMany) {
			return &warehouse.SQLError{Message: fmt.Sprintf("aggregates: there are more than %d counts by dimension %q: ask for a longer interval or another dimension, or the API, whose questions have bounds", c.most, dimension)}
		}
		if err != nil {
			return forSQL(err)
		}
	}
	return nil
}

// forSQL makes an error one for whoever asked, if it is not a fault of the program.
func forSQL(err error) error {
	switch {
	case errors.Is(err, account.ErrUnavailable), errors.Is(err, keyed.ErrClosed):
		return &warehouse.SQLError{Message: "aggregates: a partition of the account level is not counted here at the moment; see: godwit pipeline"}
	case errors.Is(err, account.ErrNeedsWarehouse):
		return &warehouse.SQLError{Message: "aggregates: the tenant is still counted in another time zone than pipeline.account says, until the state of the account level is made anew"}
	}
	return err
}
