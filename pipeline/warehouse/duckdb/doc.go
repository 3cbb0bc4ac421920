// Package duckdb is the warehouse of one node: a DuckDB file in the process.
//
// Events and profiles are each kept in several tables, that views put together. What arrives is
// appended to the last one, the tail. In the background a tail that is long enough is written anew, sorted by tenant and
// profile, and tables of about one size are merged into a larger one. So a question about few profiles
// reads few rows, and each row is written a few times in all. What changes is deleted where it is and appended to the tail.
//
// Whether there was an event or a profile before is asked of a set of keys beside the database
// (package keyset). dialect.go has the SQL. docs/warehouse.md tells the whole.
package duckdb

import (
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// ErrNoCgo is returned by Open of a program that was built without cgo.
var ErrNoCgo = errors.New("warehouse: this program was built with CGO_ENABLED=0, and DuckDB is a C++ library: " +
	"build it with cgo and a C++ compiler, or set pipeline.warehouse.engine = \"\"")

// Deps is what the warehouse needs. All may be nil.
type Deps struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Counts     warehouse.Counts // what SQL's aggregates(…) asks
	Behind     func() bool      // reports whether the levels that people wait for are behind, so that what can wait should
}
