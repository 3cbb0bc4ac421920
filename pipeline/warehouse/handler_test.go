package warehouse_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/http"
	"net/http/httptest"
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

func TestHandler(t *testing.T) {
	for _, c := range []struct {
		method, body string
		with         script
		status       int
		want         string
	}{
		{"POST", `{"query":"SELECT 1"}`, script{rows: [][]any{{int64(1)}, {nil}}, cut: true}, 200, `{"columns":[{"name":"a","type":"ANY"}],"rows":[[1],[null]],"truncated":true}`},
		{"POST", `{"query":"x","args":[1,18446744073709551615,1.5,"s",true,null],"limit":7,"tenant":"acme"}`, script{}, 200, `"rows":[]`},
		{"POST", `{"query":"x"}`, script{rows: [][]any{{int64(math.MaxInt64)}, {uint64(5)}, {uint64(math.MaxUint64)}, {new(big.Int).Lsh(big.NewInt(1), 100)}, {math.Inf(1)}, {fact.ProfileID{}}, {time.Unix(0, 0)}, {[]byte("a")},
			{[]any{math.NaN(), map[string]any{"k": int64(1 << 60)}}}}}, 200, `[["9223372036854775807"],[5],["18446744073709551615"],["1267650600228229401496703205376"],["+Inf"],["00000000000000000000000000"],["1970-01-01T00:00:00Z"],["YQ=="],[["NaN",{"k":"1152921504606846976"}]]]`},
		{"GET", ``, script{}, 405, `method_not_allowed`},
		{"POST", `{"query":1}`, script{}, 400, `invalid_json`},
		{"POST", `{"sql":"x"}`, script{}, 400, `unknown field`},
		{"POST", `{"query":"x","limit":-1}`, script{}, 400, `/limit`},
		{"POST", `{"query":"x","limit":1000000}`, script{}, 400, `between 1 and 100000`},
		{"POST", `{"query":"x","args":[[1]]}`, script{}, 400, `/args/0`},
		{"POST", strings.Repeat(" ", 1<<20) + `{}`, script{}, 413, `too_large`},
		{"POST", `{"query":"x"}`, script{err: &warehouse.SQLError{Message: "no such table", Line: 2, Column: 5}}, 400, `"detail":"no such table","pointer":"/query","field":"query","line":2,"column":5`},
		{"POST", `{"query":"x"}`, script{err: fmt.Errorf("x: %w", warehouse.ErrBusy)}, 503, `overloaded`},
		{"POST", `{"query":"x"}`, script{err: context.DeadlineExceeded}, 504, `longer than it may`},
		{"POST", `{"query":"x"}`, script{late: errors.New("disk")}, 500, `disk`},
	} {
		w := httptest.NewRecorder()
		s := c.with
		warehouse.Handler(&s, warehouse.DefaultOptions()).ServeHTTP(w, httptest.NewRequest(c.method, "/sql", strings.NewReader(c.body)))
		body, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		if w.Code != c.status || !strings.Contains(string(body), c.want) {
			t.Errorf("%.60s: %d %s, want %d %s", c.body, w.Code, body, c.status, c.want)
		}
		if w.Code == http.StatusOK && s.shut != 1 {
			t.Errorf("%s: closed %d times", c.body, s.shut)
		}
		if strings.Contains(c.body, "acme") {
			if got := fmt.Sprintf("%v %d %#v", s.asked.Tenant, s.asked.Limit, s.asked.Args); got != `acme 7 []interface {}{1, 0xffffffffffffffff, 1.5, "s", true, interface {}(nil)}` {
				t.Errorf("asked %s", got)
			}
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	o := warehouse.DefaultOptions()
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
	if err := (warehouse.Options{}).Validate(); err != nil {
		t.Errorf("no warehouse: %v", err)
	}
	for want, change := range map[string]func(*warehouse.Options){
		"engine: ":     func(o *warehouse.Options) { o.Engine = "oracle" },
		"batch: ":      func(o *warehouse.Options) { o.Batch = 0 },
		"window: ":     func(o *warehouse.Options) { o.Window = 0 },
		"query_time: ": func(o *warehouse.Options) { o.QueryTime = -1 },
		"memory: ":     func(o *warehouse.Options) { o.Memory = 1 },
		"threads: ":    func(o *warehouse.Options) { o.Threads = 0 },
		"unsorted: ":   func(o *warehouse.Options) { o.Tail = 5 },
	} {
		o := warehouse.DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
