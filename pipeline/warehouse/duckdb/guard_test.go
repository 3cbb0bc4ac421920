//go:build cgo

package duckdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// shop opens a warehouse with a little of two tenants in it.
func shop(t *testing.T, o warehouse.Options) *DB {
	t.Helper()
	d, err := open(context.Background(), t.TempDir(), o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	b := new(warehouse.Batch)
	for i := range 10 {
		tenant := []string{"acme", "other"}[i%2]
		p := fact.DeriveProfile(tenant, fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(i)}, fact.ProfileID{})
		at := time.Date(2026, 5, 1, i, 0, 0, 0, time.UTC)
		b.Events = append(b.Events, warehouse.Event{Tenant: tenant, Profile: p, Accepted: at, Event: fact.Event{Metric: fact.DeriveMetric(tenant, "api", "Opened"),
			Service: "api", Name: "Opened", Time: at, UID: fmt.Sprint(i), Value: 2_500_000, HasValue: true, Dims: []fact.Dim{{Name: "URL", Value: "u"}}}})
		b.Changes = append(b.Changes, warehouse.Change{Tenant: tenant, Profile: p, At: at, Who: []fact.Identifier{{Kind: fact.ByEmail, Value: fmt.Sprint(i, "@x.example")}}})
	}
	if err := d.Append(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return d
}

func ask(d *DB, s warehouse.Statement) (*warehouse.Answer, error) {
	return warehouse.Ask(context.Background(), d, s)
}

func TestSQLThatReads(t *testing.T) {
	d := shop(t, testOptions())
	acme := fact.DeriveProfile("acme", fact.Identifier{Kind: fact.ByEmail, Value: "0"}, fact.ProfileID{})
	metric := fact.DeriveMetric("acme", "api", "Opened")
	for _, c := range []struct {
		tenant, sql string
		args        []any
		want        string
	}{
		{"", "SELECT count(*) FROM events", nil, "[[10]]"},
		{"", "select count(*) from events;  -- all\n ; ", nil, "[[10]]"},
		{"", "/* first */ WITH e AS (SELECT * FROM events) SELECT sum(value) FROM e", nil, "[[25]]"},
		{"", "FROM events SELECT count(*)", nil, "[[10]]"},
		{"", "VALUES (1, 'it''s; fine')", nil, "[[1 it's; fine]]"},
		{"", "SELECT $$a;b$$", nil, "[[a;b]]"},
		{"acme", "SELECT count(*), sum(micros) FROM events", nil, "[[5 12500000]]"},
		{"acme", "SELECT count(*) FROM profiles JOIN events USING (profile) WHERE profiles.email LIKE '%x.example'", nil, "[[5]]"},
		{"acme", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT max(i) FROM n", nil, "[[3]]"},
		{"acme", "SELECT name FROM tenants", nil, "[[acme]]"},
		{"acme", "SELECT name FROM metrics WHERE metric = $1", []any{metric}, "[[Opened]]"},
		{"", "SELECT count(*) FROM events WHERE tenant = tenant_id('other')", nil, "[[5]]"},
		{"", "SELECT count(*) FROM events WHERE profile = ?", []any{acme}, "[[1]]"},
		{"", "SELECT count(*) FROM events WHERE profile = ?", []any{acme.String()}, "[[1]]"},
		{"", "SELECT profile FROM events WHERE profile = profile_id('" + acme.String() + "')", nil, "[[" + acme.String() + "]]"},
		{"", "SELECT profile_text(profile), metric_text(metric) FROM events ORDER BY time LIMIT 1", nil, "[[" + acme.String() + " " + metric.String() + "]]"},
		{"", "SELECT time FROM events ORDER BY time DESC LIMIT 1", nil, "[[2026-05-01T09:00:00Z]]"},
		{"", `SELECT "d_URL", [1, 2], {'a': 18446744073709551615} FROM events LIMIT 1`, nil, "[[u [1 2] map[a:18446744073709551615]]]"},
		{"", "SELECT i FROM range(3) t(i) ORDER BY i DESC", nil, "[[2] [1] [0]]"},
		{"", "SELECT count(*) > 0 FROM duckdb_columns()", nil, "[[true]]"},
		{"", "SELECT next FROM store.offsets", nil, "[]"},
		{"", "SELECT 170141183460469231731687303715884105727::HUGEINT, 'nan'::DOUBLE, 'a'::BLOB, NULL", nil, "[[170141183460469231731687303715884105727 NaN YQ== <nil>]]"},
		{"", "SELECT ?::BIGINT + 1, ?, ?::BOOLEAN, ?::DOUBLE", []any{int64(1), "x", true, 1.5}, "[[2 x true 1.5]]"},
	} {
		a, err := ask(d, warehouse.Statement{Tenant: c.tenant, SQL: c.sql, Args: c.args, Limit: 100})
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
			continue
		}
		if got := fmt.Sprint(a.Rows); got != c.want || a.Truncated {
			t.Errorf("%s: %s, want %s", c.sql, got, c.want)
		}
	}
	for _, q := range []string{"DESCRIBE events", "SHOW TABLES", "SUMMARIZE profiles", "EXPLAIN SELECT * FROM events", "explain analyze select count(*) from events",
		"EXPLAIN (FORMAT JSON) SELECT 1", "DESCRIBE SELECT * FROM events", "SHOW ALL TABLES"} {
		if a, err := ask(d, warehouse.Statement{SQL: q, Limit: 100}); err != nil || len(a.Rows) == 0 {
			t.Errorf("%s: %v", q, err)
		}
	}
	a, err := ask(d, warehouse.Statement{Tenant: "acme", SQL: "DESCRIBE events", Limit: 100})
	if err != nil || len(a.Rows) < 10 {
		t.Errorf("a tenant's describe: %v", err)
	}
}

func TestSQLThatIsRefused(t *testing.T) {
	o := testOptions()
	d := shop(t, o)
	outside := filepath.Join(t.TempDir(), "x.csv")
	if err := os.WriteFile(outside, []byte("a\n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ tenant, sql string }{
		{"", "DELETE FROM events"}, {"", "UPDATE metrics SET name = 'x'"}, {"", "INSERT INTO metrics VALUES (1,1,'a','b')"}, {"", "DROP VIEW events"}, {"", "CREATE TABLE x (a INT)"},
		{"", "CREATE TEMP TABLE x AS SELECT 1"}, {"", "ALTER TABLE metrics ADD COLUMN x INT"}, {"", "TRUNCATE metrics"},
		{"", "SELECT 1; DELETE FROM metrics"}, {"", "SELECT 1;;SELECT 2"}, {"", "EXPLAIN ANALYZE DELETE FROM metrics"}, {"", "EXPLAIN ANALYZE INSERT INTO metrics SELECT * FROM metrics"},
		{"", "EXPLAIN SELECT 1; DROP TABLE metrics"}, {"", "WITH x AS (DELETE FROM metrics RETURNING *) SELECT * FROM x"},
		{"", "COPY metrics TO '" + outside + "'"}, {"", "COPY (SELECT 1) TO '" + outside + "'"}, {"", "EXPORT DATABASE '" + outside + "'"}, {"", "IMPORT DATABASE '/tmp'"},
		{"", "ATTACH '" + outside + "' AS y"}, {"", "ATTACH ':memory:' AS y"}, {"", "DETACH warehouse"}, {"", "USE temp"}, {"", "INSTALL httpfs"}, {"", "LOAD httpfs"}, {"", "FORCE INSTALL spatial"},
		{"", "PRAGMA database_list"}, {"", "PRAGMA memory_limit='10GB'"}, {"", "SET memory_limit='10GB'"}, {"", "SET enable_external_access=true"}, {"", "RESET memory_limit"}, {"", "SET VARIABLE a = 1"},
		{"", "CALL pragma_version()"}, {"", "CHECKPOINT"}, {"", "FORCE CHECKPOINT"}, {"", "VACUUM"}, {"", "ANALYZE"}, {"", "BEGIN"}, {"", "COMMIT"}, {"", "ROLLBACK"},
		{"", "PREPARE p AS SELECT 1"}, {"", "EXECUTE p"}, {"", "DEALLOCATE p"}, {"", "CREATE MACRO m() AS 1"}, {"", "CREATE SECRET s (TYPE s3)"},
		{"", "SELECT * FROM read_csv('" + outside + "')"}, {"", "SELECT * FROM '" + outside + "'"}, {"", `SELECT * FROM "` + outside + `"`}, {"", "SELECT * FROM read_text('/etc/passwd')"}, {"", "SELECT * FROM glob('/*')"},
		{"", "SELECT * FROM parquet_scan('/x')"}, {"", "SELECT * FROM read_json_auto('/x')"}, {"", "SELECT * FROM sniff_csv('/etc/passwd')"}, {"", "SELECT * FROM duckdb_secrets()"},
		{"", "SELECT getenv('HOME')"}, {"", "SELECT main.getenv('HOME')"}, {"", "SELECT * FROM query('DELETE FROM metrics')"}, {"", "SELECT * FROM query_table('metrics')"}, {"", "SELECT * FROM checkpoint()"}, {"", "SELECT * FROM force_checkpoint()"},
		{"", "SELECT * FROM enable_logging()"}, {"", "SELECT * FROM json_execute_serialized_sql('{}')"}, {"", "SELECT * FROM warehouse.store.offsets"}, {"", "SELECT nextval('s')"}, {"", "SELECT write_log('x')"},
		{"", "SELECT * FROM (SELECT * FROM (SELECT * FROM read_blob('/etc/passwd')))"}, {"", "SELECT (SELECT max(content) FROM read_text('/etc/passwd'))"},
		{"", "SELECT 1) UNION ALL SELECT 2 FROM (SELECT 1"}, {"", "SELECT 1) ; DELETE FROM metrics; --"}, {"", "SELECT 1 -- \n) ; DELETE FROM metrics"},
		{"", ""}, {"", " ; -- nothing\n"}, {"", "SELEC 1"}, {"", "SELECT * FROM nowhere"}, {"", "SELECT ? + 1"},
		// What another tenant has.
		{"acme", "SELECT * FROM main.events"}, {"acme", "SELECT * FROM warehouse.main.events"}, {"acme", "SELECT * FROM store.offsets"}, {"acme", "SELECT * FROM store.events_1"}, {"acme", "SELECT * FROM events_1"},
		{"acme", "SELECT * FROM duckdb_tables()"}, {"acme", "SELECT * FROM information_schema.tables"}, {"acme", "SELECT * FROM pg_catalog.pg_tables"}, {"acme", "SELECT * FROM duckdb_settings()"}, {"acme", "SELECT * FROM sqlite_master"},
		{"acme", "SHOW TABLES"}, {"acme", "SHOW ALL TABLES"}, {"acme", "DESCRIBE main.events"}, {"acme", "SUMMARIZE warehouse.main.events"}, {"acme", "SELECT current_setting('temp_directory')"},
		{"acme", "WITH x AS (SELECT * FROM main.profiles) SELECT * FROM x"}, {"acme", "SELECT (SELECT count(*) FROM main.events)"}, {"acme", "SELECT * FROM events WHERE EXISTS (SELECT 1 FROM store.runs)"},
		{"acme", "SELECT * FROM query_table('main.events')"}, {"acme", "EXPLAIN ANALYZE SELECT * FROM main.events"}, {"acme", "PIVOT main.events ON metric USING count(*)"},
		{"acme", "SELECT * FROM (PIVOT main.events ON metric IN (1) USING count(*))"}, {"acme", "SELECT * FROM (DESCRIBE main.events)"}, {"acme", "SELECT * FROM duckdb_views"},
	} {
		a, err := ask(d, warehouse.Statement{Tenant: c.tenant, SQL: c.sql, Limit: 100})
		var e *warehouse.SQLError
		if !errors.As(err, &e) {
			t.Errorf("%q %s: %v %+v", c.tenant, c.sql, err, a)
			continue
		}
		t.Logf("%s %s: %v", c.tenant, c.sql, err)
	}
	if a, err := ask(d, warehouse.Statement{SQL: "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM metrics), (SELECT count(*) FROM duckdb_tables())", Limit: 1}); err != nil || fmt.Sprint(a.Rows[0][:2]) != "[10 2]" {
		t.Errorf("afterwards: %+v %v", a, err)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "a\n1\n" {
		t.Errorf("the file is now %q %v", b, err)
	}
}

func TestSQLErrorsTellThePlace(t *testing.T) {
	d := shop(t, testOptions())
	for _, c := range []struct {
		tenant, sql, want string
	}{
		{"", "SELECT *\nFROM events\nWHERE colour = 'red'", "line 3, column 7: "},
		{"", "SELEC 1", "line 1, column 1: "},
		{"", "SELECT 1,\n  FROM FROM events", "line 2, column 8: "},
		{"", "SELECT ü, getenv('x')", "line 1, column 11: function getenv is not allowed"},
		{"acme", "SELECT 1\nFROM events, store.runs", "line 2, column 14: table store.runs is not one of"},
		{"", "SELECT 1;\n DELETE FROM events", "line 2, column 2: one statement at a time"},
		{"", "EXPLAIN SELECT * FROM nowhere", "line 1, column 23: "},
		{"", "SELECT " + strings.Repeat("count(*), ", 40) + "colour FROM events", "line 1, column 408: "},
		{"", "SELECT ?", "the statement has 1 parameters, 0 arguments were given"},
	} {
		_, err := ask(d, warehouse.Statement{Tenant: c.tenant, SQL: c.sql, Limit: 10})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "LINE") {
			t.Errorf("%s: %v, want %s", c.sql, err, c.want)
		}
	}
}

func TestSQLIsLimited(t *testing.T) {
	o := testOptions()
	o.Queries = 1
	o.QueryTime = 0
	o.QueryTime += 300_000_000
	d := shop(t, o)
	a, err := ask(d, warehouse.Statement{SQL: "SELECT * FROM range(1000000) ORDER BY 1", Limit: 3})
	if err != nil || fmt.Sprint(a.Rows) != "[[0] [1] [2]]" || !a.Truncated {
		t.Errorf("%+v %v", a, err)
	}
	if a, err := ask(d, warehouse.Statement{SQL: "SELECT 1 AS a, 2 AS a, 3 AS b", Limit: 3}); err != nil || len(a.Columns) != 3 {
		t.Errorf("%+v %v", a, err)
	}
	const slow = "SELECT count(*) FROM range(100000000) a, range(100000) b"
	began := time.Now()
	if _, err := ask(d, warehouse.Statement{SQL: slow}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("a query that takes too long: %v after %v", err, time.Since(began))
	}
	rows, err := d.Query(context.Background(), warehouse.Statement{SQL: "SELECT 1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(d, warehouse.Statement{SQL: "SELECT 1"}); !errors.Is(err, warehouse.ErrBusy) {
		t.Errorf("a second query: %v", err)
	}
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := d.Query(ctx, warehouse.Statement{SQL: slow}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled query: %v", err)
	}
	if _, err := ask(d, warehouse.Statement{SQL: "SELECT 1"}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestWhatIsBehindTheGuard asks without it: the database itself must refuse.
func TestWhatIsBehindTheGuard(t *testing.T) {
	ctx := context.Background()
	d := shop(t, testOptions())
	c, err := d.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.disconnect(c) }()
	run := func(sql string) error {
		_, err := c.ExecContext(ctx, sql, nil)
		return err
	}
	if err := run("BEGIN TRANSACTION READ ONLY"); err != nil {
		t.Fatal(err)
	}
	if err := run("DELETE FROM metrics"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a deletion: %v", err)
	}
	if err := run("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.csv")
	for _, sql := range []string{"SELECT * FROM read_text('/etc/passwd')", "SELECT * FROM '/etc/passwd'", "COPY metrics TO '" + file + "'", "ATTACH '" + file + "' AS y", "INSTALL httpfs", "LOAD httpfs",
		"SET enable_external_access = true", "SET memory_limit = '10GB'", "SET lock_configuration = false", "EXPORT DATABASE '" + file + "'"} {
		if err := run(sql); err == nil {
			t.Errorf("%s was done", sql)
		}
	}
}

func TestAskingAClosedWarehouse(t *testing.T) {
	ctx := context.Background()
	d := shop(t, testOptions())
	slow := make(chan error, 1)
	go func() {
		_, err := ask(d, warehouse.Statement{SQL: "SELECT count(*) FROM range(100000000) a, range(100000) b"})
		slow <- err
	}()
	time.Sleep(20 * time.Millisecond)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; !errors.Is(err, context.Canceled) && !errors.Is(err, warehouse.ErrClosed) {
		t.Errorf("a question under way: %v", err)
	}
	_, query := ask(d, warehouse.Statement{SQL: "SELECT 1"})
	_, seen := d.Seen(ctx, warehouse.SeenQuery{})
	_, state := d.State(ctx)
	_, stats := d.Stats(ctx)
	_, events := d.Events(ctx, warehouse.EventQuery{Size: 1})
	for i, err := range []error{query, seen, state, stats, events, d.Append(ctx, new(warehouse.Batch))} {
		if !errors.Is(err, warehouse.ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// TestSortsMoreThanMemory makes the database use its temporary files, which it may although it may touch no others.
func TestSortsMoreThanMemory(t *testing.T) {
	o := testOptions()
	o.Memory = 128 << 20
	d := shop(t, o)
	const rows = 4_000_000
	a, err := ask(d, warehouse.Statement{SQL: "SELECT count(*), max(p) - min(p) FROM (SELECT row_number() OVER () AS p, x FROM (SELECT hash(i) || repeat('x', 30) AS x FROM range(4000000) t(i) ORDER BY x))"})
	if err != nil || fmt.Sprint(a.Rows) != fmt.Sprintf("[[%d %d]]", rows, rows-1) {
		t.Errorf("%+v %v", a, err)
	}
}
