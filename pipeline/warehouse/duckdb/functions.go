//go:build cgo

package duckdb

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// function is one that SQL may use. Its result depends on its argument alone, so of a literal it is computed once.
type function struct {
	from, to duckdb.Type
	f        func(any) (any, error)
}

// Config implements duckdb.ScalarFunc.
func (f function) Config() duckdb.ScalarFuncConfig {
	from, err := duckdb.NewTypeInfo(f.from)
	to, err2 := duckdb.NewTypeInfo(f.to)
	if err != nil || err2 != nil {
		return duckdb.ScalarFuncConfig{} // which is refused when it is registered
	}
	return duckdb.ScalarFuncConfig{InputTypeInfos: []duckdb.TypeInfo{from}, ResultTypeInfo: to}
}

// Executor implements duckdb.ScalarFunc.
func (f function) Executor() duckdb.ScalarFuncExecutor {
	return duckdb.ScalarFuncExecutor{RowExecutor: func(values []driver.Value) (any, error) { return f.f(values[0]) }}
}

// functions registers how ids are written: in the database they are numbers, in the API text.
func (d *DB) functions(ctx context.Context) error {
	for name, f := range map[string]function{
		"tenant_id": {duckdb.TYPE_VARCHAR, duckdb.TYPE_UBIGINT, func(v any) (any, error) { return uint64(fact.TenantIDOf(str(v))), nil }},
		"metric_id": {duckdb.TYPE_VARCHAR, duckdb.TYPE_UBIGINT, func(v any) (any, error) {
			m, err := fact.ParseMetricID(str(v))
			if err != nil {
				return nil, fmt.Errorf("metric_id: %q is %w", str(v), err)
			}
			return uint64(m), nil
		}},
		"metric_text": {duckdb.TYPE_UBIGINT, duckdb.TYPE_VARCHAR, func(v any) (any, error) {
			id, _ := v.(uint64)
			return fact.MetricID(id).String(), nil
		}},
		"profile_id": {duckdb.TYPE_VARCHAR, duckdb.TYPE_UUID, func(v any) (any, error) {
			p, err := fact.ParseProfileID(str(v))
			if err != nil {
				return nil, fmt.Errorf("profile_id: %q is %w", str(v), err)
			}
			return duckdb.UUID(p), nil
		}},
		"profile_text": {duckdb.TYPE_UUID, duckdb.TYPE_VARCHAR, func(v any) (any, error) {
			switch id := v.(type) {
			case duckdb.UUID:
				return fact.ProfileID(id).String(), nil
			case []byte:
				var u uuid
				err := u.Scan(id)
				return fact.ProfileID(u).String(), err
			}
			return nil, fmt.Errorf("profile_text: a %T is no profile", v)
		}},
	} {
		if err := duckdb.RegisterScalarUDF(d.w, name, f); err != nil {
			return fmt.Errorf("function %s: %w", name, err)
		}
	}
	if err := duckdb.RegisterTableUDF(d.w, countsFunction, d.countsFunction()); err != nil {
		return fmt.Errorf("function %s: %w", countsFunction, err)
	}
	return ctx.Err()
}
