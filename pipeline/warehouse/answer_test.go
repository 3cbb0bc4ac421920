package warehouse_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// script answers every statement with the same rows, or the same error.
type script struct {
	asked warehouse.Statement
	rows  [][]any
	err   error
	late  error // after the rows
	cut   bool
	shut  int
	at    int
}

func (s *script) Query(_ context.Context, q warehouse.Statement) (warehouse.Rows, error) {
	s.asked, s.at = q, 0
	if s.err != nil {
		return nil, s.err
	}
	return s, nil
}

func (s *script) Columns() []warehouse.Column {
	return []warehouse.Column{{Name: "a", Type: "ANY"}}
}
func (s *script) Next() bool      { s.at++; return s.at <= len(s.rows) }
func (s *script) Row() []any      { return s.rows[s.at-1] }
func (s *script) Truncated() bool { return s.cut }
func (s *script) Err() error      { return s.late }
func (s *script) Close() error    { s.shut++; return nil }

func TestAskMakesJSON(t *testing.T) {
	for _, c := range []struct {
		with script
		want string
		err  string
	}{
		{with: script{rows: [][]any{{int64(1)}, {nil}}, cut: true}, want: `{"columns":[{"name":"a","type":"ANY"}],"rows":[[1],[null]],"truncated":true}`},
		{want: `"rows":[]`},
		{with: script{rows: [][]any{{int64(math.MaxInt64)}, {uint64(5)}, {uint64(math.MaxUint64)}, {new(big.Int).Lsh(big.NewInt(1), 100)}, {math.Inf(1)}, {fact.ProfileID{}}, {time.Unix(0, 0)}, {[]byte("a")},
			{[]any{math.NaN(), map[string]any{"k": int64(1 << 60)}}}}}, want: `[["9223372036854775807"],[5],["18446744073709551615"],["1267650600228229401496703205376"],["+Inf"],["00000000000000000000000000"],["1970-01-01T00:00:00Z"],["YQ=="],[["NaN",{"k":"1152921504606846976"}]]]`},
		{with: script{err: &warehouse.SQLError{Message: "no such table", Line: 2, Column: 5}}, err: "line 2, column 5: no such table"},
		{with: script{late: errors.New("disk")}, err: "disk"},
	} {
		s := c.with
		a, err := warehouse.Ask(t.Context(), &s, warehouse.Statement{SQL: "x", Tenant: "acme", Limit: 7})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, want %s", err, c.err)
			}
			continue
		}
		body, err2 := json.Marshal(a)
		if err != nil || err2 != nil || !strings.Contains(string(body), c.want) {
			t.Errorf("%s %v %v, want %s", body, err, err2, c.want)
		}
		if s.shut != 1 || s.asked.Tenant != "acme" || s.asked.Limit != 7 {
			t.Errorf("closed %d times; asked %+v", s.shut, s.asked)
		}
	}
}
