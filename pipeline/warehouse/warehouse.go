// Package warehouse keeps every event and profile in columns, for the questions that are about many
// of them at once: segments, reports over several dimensions, an operator's SQL.
//
// The interface is here, and what every implementation has in common: the Consumer, which turns the log of
// facts into batches; how profiles change (Profile); calendar buckets (Calendar); answers as JSON
// (Ask). Package duckdb is the implementation for one node. docs/warehouse.md tells how it works.
//
// A batch is applied whole, together with the offsets of the log that it was made of. So whatever happens, the
// contents are those of a prefix of each partition, each fact once.
package warehouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Errors of a Warehouse.
var (
	// ErrOffset says that a batch does not begin where the last one ended: State tells where that was.
	ErrOffset = errors.New("warehouse: the batch does not follow what is stored")
	// ErrBusy says that too many questions are being answered.
	ErrBusy = errors.New("warehouse: too many queries at once")
	// ErrClosed says that the warehouse was closed.
	ErrClosed = errors.New("warehouse: closed")
)

// Warehouse is safe for concurrent use; Append is for one goroutine.
type Warehouse interface {
	Sink
	// Query answers SQL that reads. Errors about the SQL are of type *SQLError.
	Query(ctx context.Context, s Statement) (Rows, error)
	// Events lists events in the order of their times.
	Events(ctx context.Context, q EventQuery) (*EventPage, error)
	// Aggregate counts, by as many dimensions as are asked for.
	Aggregate(ctx context.Context, q AggregateQuery) (*Aggregate, error)
	// Seen reports whether there was an event of the same profile, metric and unique id before.
	Seen(ctx context.Context, q SeenQuery) (bool, error)
	Stats(ctx context.Context) (Stats, error)
	Close() error
}

// Sink is what a Consumer writes to.
type Sink interface {
	// State is how far the log was consumed, and what the consumer keeps.
	State(ctx context.Context) (*State, error)
	// Append applies a batch: all of it or nothing. After an error other than ErrOffset it is
	// unknown which; the batch may be given again, and is refused by ErrOffset if it was applied.
	Append(ctx context.Context, b *Batch) error
	// Safe is what no crash takes back: batches behind it may be gone after one, all of them from some batch on, and State
	// tells so. So the log has to keep what comes behind it. From of the offsets is not used.
	Safe() []Offset
}

// State is what the consumer stored with its batches.
type State struct {
	Offsets []Offset
	Origins []Origin
	Markers []Marker
}

// Offset says that the records of a partition of the facts before Next are applied.
type Offset struct {
	Partition int32
	From      int64 // in a Batch: the Next of the one before
	Next      int64
}

// Origin is the last output of a source that was applied from a partition of the facts.
type Origin struct {
	Partition int32 // of the facts
	Stage     fact.Stage
	Source    int32 // partition that the stage read
	Offset    int64
	N         int32
}

// Marker says that one partition of the first log sends nothing more under the source of a merge.
type Marker struct {
	Tenant    string
	Merge     fact.Merge
	Partition int32 // of the first log
}

// Batch is what is applied at once. Its slices and strings are the receiver's only until Append returns.
type Batch struct {
	Offsets []Offset
	Origins []Origin // those that changed
	Markers []Marker // of merges that are not complete with this batch
	Events  []Event
	Changes []Change
	Merges  []Merge
}

// Event is one occurrence. Of several with the same profile, metric and UID the first stays.
type Event struct {
	fact.Event
	Tenant    string
	Profile   fact.ProfileID
	Accepted  time.Time
	Partition int32 // of the fact
	Offset    int64
}

// Change changes a profile, making it if there is none.
type Change struct {
	Tenant  string
	Profile fact.ProfileID
	At      time.Time
	// Who are identifiers that it is known by, which it takes if it has none of their kind.
	Who          []fact.Identifier
	*fact.Change // nil: only that
}

// Merge moves everything of Source to Destination, or removes it if that is zero. Of events that
// both have, the destination's stays; of attributes and properties too.
type Merge struct {
	Tenant string
	fact.Merge
	At time.Time
	// Events and Changes are how many of the batch's came before it.
	Events, Changes int
}

// Statement is SQL that reads, with its arguments.
type Statement struct {
	// Tenant restricts the statement to one tenant's rows; "" is for operators, who see all.
	Tenant string
	SQL    string
	Args   []any // string, bool, int64, uint64, float64, time.Time, fact.ProfileID, fact.MetricID or nil
	Limit  int   // rows at most; 0: no limit
}

// Rows is a result. It must be closed.
type Rows interface {
	Columns() []Column
	// Next moves to the next row.
	Next() bool
	// Row is the current row: nil, bool, int64, uint64, float64, string, []byte, time.Time, fact.ProfileID,
	// *big.Int or, for nested types, []any and map[string]any. It is valid until Next.
	Row() []any
	// Truncated reports, at the end, whether Limit cut rows off.
	Truncated() bool
	Err() error
	Close() error
}

// Column is one of a result.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"` // as the dialect calls it
}

// SQLError is an error in a Statement, for whoever wrote it.
type SQLError struct {
	Message      string
	Line, Column int // from 1; 0 is not known
}

// Error implements error.
func (e *SQLError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// Stats tell how large a warehouse is.
type Stats struct {
	Events, Profiles int64
	Bytes            int64 // on disk
	Keys             int   // known for telling duplicates
	Runs             int   // tables that events are in
	Unsorted         int64 // events that are not yet sorted by profile
	Columns          int   // made of properties and dimensions
}
