package warehouse

import (
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// EventQuery asks for events of a tenant.
type EventQuery struct {
	Tenant     string
	Profile    fact.ProfileID // zero: of all
	Metric     fact.MetricID  // zero: of all
	From, To   time.Time      // From <= time < To; zero: no bound
	Filters    []Filter
	Descending bool
	Cursor     EventCursor // zero: from the start
	Size       int
}

// EventCursor is the place behind an event.
type EventCursor struct {
	Time      time.Time
	Partition int32
	Offset    int64
}

// IsZero reports whether it is the start.
func (c EventCursor) IsZero() bool { return c == EventCursor{} }

// EventPage is a part of the events asked for. More says that Next leads to others.
type EventPage struct {
	Events []Event
	Next   EventCursor
	More   bool
}

// Filter is a condition on a dimension or property: its text is one of Values.
type Filter struct {
	Name   string
	Values []string
	Not    bool
}

// Interval is the length of a bucket.
type Interval uint8

// The intervals. Weeks begin on Monday.
const (
	Hour Interval = iota + 1
	Day
	Week
	Month
)

// String is the name that the API has for it.
func (i Interval) String() string {
	if i < Hour || i > Month {
		return "none"
	}
	return [...]string{"hour", "day", "week", "month"}[i-1]
}

// AggregateQuery asks how often a metric happened in each bucket of a time, by dimensions.
type AggregateQuery struct {
	Tenant   string
	Metric   fact.MetricID
	Unique   bool // count profiles too, which costs most
	Interval Interval
	Zone     *time.Location // nil is UTC
	By       []string       // dimensions, or else properties
	Filters  []Filter
	From, To time.Time // From <= time < To
	Groups   int       // at most; more is an error. 0 is 10,000
}

// ErrTooMany says that an aggregate has more groups than were allowed.
var ErrTooMany = errors.New("warehouse: too many groups")

// Validate reports what cannot be answered. Its error begins with the field.
func (q *AggregateQuery) Validate() error {
	switch {
	case q.Interval < Hour || q.Interval > Month:
		return fmt.Errorf("interval: %d is none", q.Interval)
	case q.From.IsZero() || q.To.IsZero():
		return errors.New("from, to: both are needed")
	case !q.From.Before(q.To):
		return errors.New("to: is not after from")
	case q.To.Sub(q.From) > 10*366*24*time.Hour:
		return errors.New("to: more than ten years after from")
	}
	return nil
}

// Aggregate has one column of numbers for each bucket.
type Aggregate struct {
	Starts []time.Time // of the buckets, in the zone of the query
	Groups []Group     // with at least one event, ordered by their dimensions
}

// Group is what is counted for one combination of dimensions. An event without a dimension has "" for it.
type Group struct {
	By      []string
	Counts  []int64
	Micros  []int64 // sums of values, in millionths
	Uniques []int64 // nil unless asked for
}

// SeenQuery asks for an event before one.
type SeenQuery struct {
	Tenant  string
	Profile fact.ProfileID
	Metric  fact.MetricID
	UID     string
	// Partition and Offset are where the one in question is in the log of facts, which the warehouse may have
	// consumed already. A partition of -1 asks for any event.
	Partition int32
	Offset    int64
}
