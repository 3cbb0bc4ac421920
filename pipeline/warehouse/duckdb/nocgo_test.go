//go:build !cgo

package duckdb

import (
	"errors"
	"testing"

	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

func TestWithoutCgoItSaysSo(t *testing.T) {
	if _, err := Open(t.Context(), t.TempDir(), warehouse.DefaultOptions(), Deps{}); !errors.Is(err, ErrNoCgo) {
		t.Error(err)
	}
}
