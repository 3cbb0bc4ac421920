//go:build cgo

package duckdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// Query implements warehouse.Warehouse.
func (d *DB) Query(ctx context.Context, s warehouse.Statement) (_ warehouse.Rows, err error) {
	select {
	case d.slots <- struct{}{}:
	default:
		d.m.queries.WithLabelValues("busy").Inc()
		return nil, warehouse.ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, d.o.QueryTime.D())
	stop := context.AfterFunc(d.ending, cancel)
	r := &rows{d: d, cancel: func() { stop(); cancel() }, scope: &scope{tenant: s.Tenant}, limit: s.Limit}
	r.ctx = context.WithValue(ctx, scopeKey{}, r.scope)
	ctx = r.ctx
	defer func() {
		if err != nil {
			r.err = err
			_ = r.Close()
		}
	}()
	if r.conn, err = d.connect(ctx); err != nil {
		return nil, err
	}
	q, err := guard(ctx, r.conn, s)
	if err != nil {
		return nil, err
	}
	if s.Tenant != "" {
		if _, err := r.conn.ExecContext(ctx, sqlTenantViews(fact.TenantIDOf(s.Tenant)), nil); err != nil {
			return nil, fmt.Errorf("warehouse: %w", err)
		}
	}
	return r, r.run(q, s.Args)
}

// connect makes a connection of its own for a question, so that nothing it leaves behind is met by another. It is to be
// given back by disconnect.
func (d *DB) connect(ctx context.Context) (*duckdb.Conn, error) {
	d.asking.RLock()
	if d.ending.Err() != nil {
		d.asking.RUnlock()
		return nil, warehouse.ErrClosed
	}
	c, err := d.db.Connect(ctx)
	if err != nil {
		d.asking.RUnlock()
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	conn, ok := c.(*duckdb.Conn)
	if !ok {
		d.asking.RUnlock()
		return nil, errors.Join(fmt.Errorf("warehouse: the driver gave a %T", c), c.Close())
	}
	return conn, nil
}

func (d *DB) disconnect(c *duckdb.Conn) error {
	defer d.asking.RUnlock()
	return c.Close()
}

// rows is a result, over the driver's own.
type rows struct {
	d      *DB
	ctx    context.Context
	cancel context.CancelFunc
	scope  *scope
	conn   *duckdb.Conn
	stmt   driver.Stmt
	got    driver.Rows

	columns []warehouse.Column
	limit   int
	read    int
	row     []driver.Value
	out     []any
	cut     bool
	err     error
	closed  atomic.Bool
}

func (r *rows) run(q *checked, args []any) error {
	if _, err := r.conn.ExecContext(r.ctx, sqlBeginRead, nil); err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	prepared, err := r.conn.PrepareContext(r.ctx, q.sql)
	if err != nil {
		return r.explain(q, err)
	}
	r.stmt = prepared
	stmt, ok := prepared.(*duckdb.Stmt)
	if !ok {
		return fmt.Errorf("warehouse: the driver gave a %T", prepared)
	}
	if kind, err := stmt.StatementType(); err != nil || kind != duckdb.STATEMENT_TYPE_SELECT && kind != duckdb.STATEMENT_TYPE_EXPLAIN {
		return errors.Join(err, &warehouse.SQLError{Message: "the statement does more than read"})
	}
	values, err := bind(stmt, args)
	if err != nil {
		return err
	}
	if r.got, err = stmt.QueryContext(r.ctx, values); err != nil {
		return r.explain(q, err)
	}
	types, _ := r.got.(driver.RowsColumnTypeDatabaseTypeName)
	for i, name := range r.got.Columns() {
		c := warehouse.Column{Name: name}
		if types != nil {
			c.Type = types.ColumnTypeDatabaseTypeName(i)
		}
		r.columns = append(r.columns, c)
	}
	r.row, r.out = make([]driver.Value, len(r.columns)), make([]any, len(r.columns))
	return nil
}

// bind gives each argument the type that the statement wants: one of another type would make it read everything.
func bind(stmt *duckdb.Stmt, args []any) ([]driver.NamedValue, error) {
	if n := stmt.NumInput(); n != len(args) {
		return nil, &warehouse.SQLError{Message: fmt.Sprintf("the statement has %d parameters, %d arguments were given", n, len(args))}
	}
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		want, err := stmt.ParamType(i + 1)
		if err != nil {
			return nil, fmt.Errorf("warehouse: %w", err)
		}
		if out[i].Value, err = argument(a, want); err != nil {
			return nil, &warehouse.SQLError{Message: fmt.Sprintf("argument %d: %v", i+1, err)}
		}
		out[i].Ordinal = i + 1
	}
	return out, nil
}

func argument(a any, want duckdb.Type) (any, error) {
	switch v := a.(type) {
	case fact.ProfileID:
		u := duckdb.UUID(v)
		return u.String(), nil // a text of this form is taken for the id it names
	case fact.MetricID:
		return uint64(v), nil
	case int64:
		if want == duckdb.TYPE_UBIGINT && v >= 0 {
			return uint64(v), nil
		}
	case string:
		if want == duckdb.TYPE_UUID {
			if p, err := fact.ParseProfileID(v); err == nil {
				u := duckdb.UUID(p)
				return u.String(), nil
			}
		}
		if want == duckdb.TYPE_UBIGINT {
			if m, err := fact.ParseMetricID(v); err == nil && len(v) == len(m.String()) {
				return uint64(m), nil
			}
		}
	case nil, bool, uint64, float64, time.Time:
	default:
		return nil, fmt.Errorf("%T is not a type of arguments", a)
	}
	return a, nil
}

// explain turns the database's error into one for who wrote the statement.
func (r *rows) explain(q *checked, err error) error {
	if ctx := r.ctx.Err(); ctx != nil {
		return fmt.Errorf("warehouse: %w", ctx)
	}
	own := r.scope.failed()
	var bad *warehouse.SQLError
	if own != nil && !errors.As(own, &bad) {
		return fmt.Errorf("warehouse: %w", own)
	}
	var e *duckdb.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("warehouse: %w", err)
	}
	message, at := positionIn(q.sql, e.Msg)
	if at >= 0 {
		at -= q.prefix
	}
	if bad != nil {
		message = bad.Message
	}
	return q.errorAt(message, at)
}

var caret = regexp.MustCompile(`(?s)^(.*?)\n+LINE (\d+): (.*?)\n( *)\^`)

// positionIn finds the place that a message of the database points at below a copy of the line, which it cuts
// if it is long.
func positionIn(sql, message string) (string, int) {
	m := caret.FindStringSubmatch(message)
	if m == nil {
		return strings.TrimSpace(message), -1
	}
	text := strings.TrimSpace(m[1])
	number, err := strconv.Atoi(m[2])
	lines := strings.SplitAfter(sql, "\n")
	if err != nil || number < 1 || number > len(lines) {
		return text, -1
	}
	column := len(m[4]) - len("LINE "+m[2]+": ")
	shown := strings.TrimSuffix(m[3], "...")
	if cut, ok := strings.CutPrefix(shown, "..."); ok {
		shown = cut
		column -= len("...")
	}
	at := strings.Index(lines[number-1], shown)
	if at < 0 || column < 0 || column > len(shown) {
		return text, -1
	}
	for _, l := range lines[:number-1] {
		at += len(l)
	}
	return text, at + column
}

// Columns implements warehouse.Rows.
func (r *rows) Columns() []warehouse.Column { return r.columns }

// Next implements warehouse.Rows.
func (r *rows) Next() bool {
	if r.err != nil || r.closed.Load() {
		return false
	}
	if r.err = r.ctx.Err(); r.err != nil {
		return false
	}
	err := r.got.Next(r.row)
	if errors.Is(err, io.EOF) {
		return false
	}
	if err != nil {
		r.err = fmt.Errorf("warehouse: %w", err)
		return false
	}
	if r.limit > 0 && r.read >= r.limit {
		r.cut = true
		return false
	}
	r.read++
	for i, v := range r.row {
		r.out[i] = plainValue(v, r.columns[i].Type)
	}
	return true
}

// plainValue is a value as warehouse.Rows promises it.
func plainValue(v any, typ string) any {
	switch v := v.(type) {
	case []byte:
		if typ == "UUID" && len(v) == 16 {
			return fact.ProfileID(v)
		}
		return append([]byte(nil), v...)
	case duckdb.UUID:
		return fact.ProfileID(v)
	case int8:
		return int64(v)
	case int16:
		return int64(v)
	case int32:
		return int64(v)
	case uint8:
		return uint64(v)
	case uint16:
		return uint64(v)
	case uint32:
		return uint64(v)
	case float32:
		return float64(v)
	case nil, bool, int64, uint64, float64, string, time.Time, *big.Int:
		return v
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plainValue(v[i], "")
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = plainValue(v[k], "")
		}
		return out
	case fmt.Stringer:
		return v.String()
	}
	return fmt.Sprint(v)
}

// Row implements warehouse.Rows.
func (r *rows) Row() []any { return r.out }

// Truncated implements warehouse.Rows.
func (r *rows) Truncated() bool { return r.cut }

// Err implements warehouse.Rows.
func (r *rows) Err() error { return r.err }

// Close implements warehouse.Rows.
func (r *rows) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	var errs []error
	if r.got != nil {
		errs = append(errs, r.got.Close())
	}
	if r.stmt != nil {
		errs = append(errs, r.stmt.Close())
	}
	r.cancel()
	r.scope.readers.Wait()
	if r.conn != nil {
		errs = append(errs, r.d.disconnect(r.conn)) // which ends its transaction and drops its views
	}
	outcome := "ok"
	if r.err != nil {
		outcome = "error"
	}
	r.d.m.queries.WithLabelValues(outcome).Inc()
	<-r.d.slots
	return errors.Join(errs...)
}

// ask answers one of the warehouse's own questions, waiting for its turn. The rows' values are those of the driver.
func (d *DB) ask(ctx context.Context, q string, f func(row []driver.Value) error) (err error) {
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.slots }()
	return d.read(ctx, q, f)
}

// read is ask without a turn, for questions that cost little.
func (d *DB) read(ctx context.Context, q string, f func(row []driver.Value) error) (err error) {
	c, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.disconnect(c)) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ending, cancel)()
	got, err := c.QueryContext(ctx, q, nil)
	if err != nil {
		return fmt.Errorf("warehouse: %w", errors.Join(ctx.Err(), err))
	}
	defer func() { err = errors.Join(err, got.Close()) }()
	row := make([]driver.Value, len(got.Columns()))
	for {
		switch err := got.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("warehouse: %w", err)
		}
		if err := f(row); err != nil {
			return err
		}
	}
}

func profileIn(v driver.Value) (p fact.ProfileID) {
	if b, ok := v.([]byte); ok {
		copy(p[:], b)
	}
	return p
}

func intIn(v driver.Value) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case int32:
		return int64(v)
	case uint64:
		return int64(v)
	case uint32:
		return int64(v)
	case *big.Int:
		return v.Int64()
	}
	return 0
}
