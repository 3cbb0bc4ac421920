//go:build cgo

package duckdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
	"github.com/godwit-mta/godwit/pipeline/warehouse/keyset"
)

// DB implements warehouse.Warehouse.
type DB struct {
	dir    string
	o      warehouse.Options
	log    *slog.Logger
	m      *metrics
	behind func() bool      // the levels that people wait for are
	counts warehouse.Counts // nil: there are none
	db     *duckdb.Connector
	sql    *sql.DB // over db
	// slots bounds the queries that run at once.
	slots chan struct{}
	// ending ends when the warehouse is closed, and with it every question; asking counts those.
	ending context.Context
	end    context.CancelFunc
	asking sync.RWMutex

	// mu is held for writing: a batch, or putting merged tables in place.
	mu       sync.Mutex
	w        *sql.Conn // all writes of mu go through it
	closed   bool
	stale    atomic.Bool // a transaction failed: what is in memory is to be read again
	offsets  map[int32]int64
	tenants  map[string]fact.TenantID
	near     [64]namedTenant        // those asked for last
	named    map[fact.TenantID]bool // those in the table
	metrics  map[fact.MetricID]bool
	events   *shelf
	profiles *shelf
	// sight is held, beside mu, to change keys, gone and the columns of shelves, which questions look at.
	sight     sync.RWMutex
	keys      *keyset.Set
	gone      gone
	cleared   map[fact.ProfileID]bool // profiles that lost an identifier
	epoch     uint32
	lastRun   int64
	known     known
	unsaved   unsaved
	fullUntil time.Time                          // a batch was full not long ago: facts come faster than they are stored
	safe      atomic.Pointer[[]warehouse.Offset] // as of the last checkpoint

	upkeep upkeep

	writing, sorting *lane
}

type namedTenant struct {
	name string
	id   fact.TenantID
}

// Open opens the warehouse in a folder, making it if there is none.
func Open(ctx context.Context, dir string, o warehouse.Options, deps Deps) (warehouse.Warehouse, error) {
	return open(ctx, dir, o, deps)
}

func open(ctx context.Context, dir string, o warehouse.Options, deps Deps) (_ *DB, err error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	d := &DB{dir: dir, o: o, log: deps.Logger, counts: deps.Counts, slots: make(chan struct{}, o.Queries)}
	d.ending, d.end = context.WithCancel(context.Background())
	if d.behind = deps.Behind; d.behind == nil {
		d.behind = func() bool { return false }
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(d.path("tmp"), 0o750); err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	if strings.ContainsAny(dir, "?%") {
		return nil, fmt.Errorf("warehouse: %s: the path must not have ? or %%", dir)
	}
	if d.db, err = duckdb.NewConnector("?"+d.settings().Encode(), d.attach); err != nil {
		return nil, fmt.Errorf("warehouse: open %s: %w", d.path("warehouse.duckdb"), err)
	}
	d.sql = sql.OpenDB(d.db)
	d.writing, d.sorting = newLane(), newLane()
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.w, err = d.sql.Conn(ctx); err != nil {
		return nil, fmt.Errorf("warehouse: open %s: %w", d.path("warehouse.duckdb"), err)
	}
	if err := d.functions(ctx); err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	if err := d.exec(ctx, sqlSchema+sqlAggregates+sqlTemporary+sqlLock); err != nil {
		return nil, err
	}
	if err := d.load(ctx); err != nil {
		return nil, err
	}
	d.saved()
	if d.m, err = newMetrics(deps.Registerer, d); err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	d.startUpkeep()
	return d, nil
}

// attach gives a new connection the database, which the first one opens.
func (d *DB) attach(c driver.ExecerContext) error {
	statement := sqlUse
	if d.w == nil {
		statement = sqlAttach(d.path("warehouse.duckdb")) + sqlUse
	}
	_, err := c.ExecContext(context.Background(), statement, nil)
	return err
}

func (d *DB) path(name string) string { return filepath.Join(d.dir, name) }

// settings are those that hold for the whole database.
func (d *DB) settings() url.Values {
	return url.Values{
		"memory_limit":   {strconv.FormatInt(memoryLimit(d.o), 10) + "B"},
		"threads":        {strconv.Itoa(d.o.Threads)},
		"temp_directory": {d.path("tmp")},
		// Checkpoints are save's to make: by itself the database would make one with each large transaction, before anything is sorted.
		"checkpoint_threshold": {"1TB"},
	}
}

// memoryLimit is a quarter of the machine's memory and at most 1 GiB, unless told otherwise.
func memoryLimit(o warehouse.Options) int64 {
	const most, least = 1 << 30, 128 << 20
	if o.Memory > 0 {
		return int64(o.Memory)
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return least
	}
	var kib int64
	if _, err := fmt.Sscanf(strings.TrimPrefix(string(info), "MemTotal:"), "%d", &kib); err != nil {
		return least
	}
	return max(least, min(most, kib<<10/4))
}

// exec runs statements on the writing connection.
func (d *DB) exec(ctx context.Context, statements string) error {
	if _, err := d.w.ExecContext(ctx, statements); err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	return nil
}

// tx runs f in a transaction of the writing connection.
func (d *DB) tx(ctx context.Context, f func() error) error {
	if err := d.exec(ctx, sqlBegin); err != nil {
		return err
	}
	err := f()
	if err == nil {
		if err = d.writing.do(func() error { return d.exec(ctx, sqlCommit) }); err == nil {
			return nil
		}
	}
	d.stale.Store(true)
	if _, e := d.w.ExecContext(context.WithoutCancel(ctx), sqlRollback); e != nil && !strings.Contains(e.Error(), "no transaction") {
		err = errors.Join(err, fmt.Errorf("warehouse: %w", e))
	}
	return err
}

// each calls f with the rows of a question on the writing connection.
func (d *DB) each(ctx context.Context, q string, f func(scan func(...any) error) error) (err error) {
	rows, err := d.w.QueryContext(ctx, q)
	if err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	defer func() {
		if e := errors.Join(rows.Err(), rows.Close()); err == nil && e != nil {
			err = fmt.Errorf("warehouse: %w", e)
		}
	}()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the upkeep and all questions, and writes what is in memory into the file.
func (d *DB) Close() error {
	d.end()
	d.upkeep.stop()
	d.asking.Lock()
	defer d.asking.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	defer d.writing.close()
	defer d.sorting.close()
	var errs []error
	if d.keys != nil && !d.stale.Load() {
		errs = append(errs, d.checkpoint(context.Background()))
	}
	d.sight.Lock()
	defer d.sight.Unlock()
	if d.keys != nil {
		errs = append(errs, d.keys.Close())
		d.keys = nil
	}
	if d.w != nil {
		errs = append(errs, d.w.Close())
	}
	if d.sql != nil {
		errs = append(errs, d.sql.Close())
	}
	if d.m != nil {
		d.m.set.Unregister()
	}
	return errors.Join(errs...)
}

// tenant is the id of a tenant's name.
func (d *DB) tenant(name string) fact.TenantID {
	if len(name) == 0 {
		return fact.TenantIDOf(name)
	}
	near := &d.near[(len(name)+31*int(name[0])+7*int(name[len(name)-1]))%len(d.near)]
	if near.name == name {
		return near.id
	}
	id, known := d.tenants[name]
	if !known {
		id = fact.TenantIDOf(name)
		d.tenants[name] = id
	}
	near.name, near.id = name, id
	return id
}
