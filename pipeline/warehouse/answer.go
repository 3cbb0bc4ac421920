package warehouse

import (
	"context"
	"encoding/base64"
	"math"
	"math/big"
	"strconv"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Answer is a result whose values can be written as JSON.
type Answer struct {
	Columns   []Column `json:"columns"`
	Rows      [][]any  `json:"rows"`
	Truncated bool     `json:"truncated,omitempty"`
}

// Asker is what answers statements: a Warehouse.
type Asker interface {
	Query(ctx context.Context, s Statement) (Rows, error)
}

// Ask answers a statement. Profiles are written as the API does; times in RFC 3339; integers that other programs
// would not read exactly, above 2^53, as text; bytes in base64.
func Ask(ctx context.Context, w Asker, s Statement) (_ *Answer, err error) {
	rows, err := w.Query(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	a := &Answer{Columns: rows.Columns(), Rows: [][]any{}}
	for rows.Next() {
		row := make([]any, len(a.Columns))
		for i, v := range rows.Row() {
			row[i] = jsonValue(v)
		}
		a.Rows = append(a.Rows, row)
	}
	a.Truncated = rows.Truncated()
	return a, rows.Err()
}

const exact = 1 << 53

func jsonValue(v any) any {
	switch v := v.(type) {
	case int64:
		if v > exact || v < -exact {
			return strconv.FormatInt(v, 10)
		}
	case uint64:
		if v > exact {
			return strconv.FormatUint(v, 10)
		}
	case *big.Int:
		if v.IsInt64() {
			return jsonValue(v.Int64())
		}
		return v.String()
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
	case fact.ProfileID:
		return v.String()
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = jsonValue(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = jsonValue(v[k])
		}
		return out
	}
	return v
}
