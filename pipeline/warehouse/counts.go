package warehouse

import (
	"context"
	"math/big"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Counts are the final counts of the account level. A warehouse shows them to SQL as the rows of aggregates(…), and keeps none of them. Errors
// that are for whoever wrote the SQL are of type *SQLError.
type Counts interface {
	// Metrics lists the metrics of a tenant that there are counts of.
	Metrics(ctx context.Context, tenant string) ([]CountedMetric, error)
	// Each calls f with all counts that are asked for until it returns an error, which is returned, or ctx ends.
	Each(ctx context.Context, q CountsQuery, f func(Count) error) error
}

// CountedMetric is a metric of a tenant.
type CountedMetric struct {
	ID            fact.MetricID
	Service, Name string
}

// CountsQuery asks for the counts of a metric.
type CountsQuery struct {
	Tenant    string
	Metric    fact.MetricID
	Interval  Interval
	All       bool   // of all dimensions, and the total
	Dimension string // unless All; "" is the total
}

// Count is what happened in one bucket, with one value of a dimension.
type Count struct {
	Dimension, Value string    // "" in the total
	Start            time.Time // of the bucket, in the tenant's zone
	Count            int64
	Micros           *big.Int // sum of values, in millionths
	Uniques          int64
}
