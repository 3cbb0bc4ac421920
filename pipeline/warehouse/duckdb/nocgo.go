//go:build !cgo

package duckdb

import (
	"context"

	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// Open returns ErrNoCgo.
func Open(context.Context, string, warehouse.Options, Deps) (warehouse.Warehouse, error) {
	return nil, ErrNoCgo
}
