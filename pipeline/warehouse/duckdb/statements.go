//go:build cgo

package duckdb

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// This file has the statements, and dialect.go the words that they are made of. Together they are all the SQL there is.

// What is read at the start.
const (
	sqlSettings  = "SELECT name, value FROM store.settings"
	sqlOffsets   = "SELECT partition, next FROM store.offsets"
	sqlOrigins   = "SELECT partition, stage, source, log_offset, n FROM store.origins"
	sqlMarkers   = "SELECT tenant, merge, source, destination, partition FROM store.markers"
	sqlTenants   = "SELECT tenant, name FROM main.tenants"
	sqlCleared   = "SELECT profile FROM store.cleared"
	sqlGoneCount = "SELECT count(*) FROM store.redirects"
	sqlGone      = "SELECT source FROM store.redirects"
	sqlMetrics   = "SELECT metric FROM main.metrics"
	sqlColumns   = "SELECT shelf, name, type FROM store.columns ORDER BY shelf, place"
	sqlRuns      = "SELECT shelf, id, level FROM store.runs ORDER BY id"
	sqlRunTables = "SELECT table_name, estimated_size FROM duckdb_tables() WHERE schema_name = 'store' AND regexp_matches(table_name, '_[0-9]+$')"
	sqlKeyFiles  = "SELECT name FROM store.keyfiles"
	sqlNoKeys    = "DELETE FROM store.keyfiles"
)

// Transactions.
const (
	sqlBegin      = "BEGIN"
	sqlBeginRead  = "BEGIN TRANSACTION READ ONLY"
	sqlCommit     = "COMMIT"
	sqlRollback   = "ROLLBACK"
	sqlCheckpoint = "CHECKPOINT"
)

func sqlFirstSettings() string {
	return fmt.Sprintf("INSERT INTO store.settings VALUES ('version', %d), ('epoch', 1)", formatVersion)
}

func sqlSetFormat() string {
	return fmt.Sprintf("UPDATE store.settings SET value = %d WHERE name = 'version'", formatVersion)
}

func sqlTableColumns(table string) string {
	return "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = 'store' AND table_name = " + text(strings.TrimPrefix(table, "store.")) + " ORDER BY column_index"
}

func sqlDrop(table string) string { return "DROP TABLE IF EXISTS " + table + ";" }

// Keys.

func sqlEventKeys(table, where string) string {
	return "SELECT profile, metric, uid FROM " + table + where
}

func sqlProfileKeys(table, where string) string { return "SELECT profile FROM " + table + where }

func whereEpoch(since uint32) string { return fmt.Sprintf(" WHERE epoch >= %d", since) }

func whereFirstByte(b byte) string {
	return fmt.Sprintf(" WHERE profile BETWEEN %s AND %s", uuidLiteral([16]byte{b}), uuidLiteral(lastUUID(b)))
}

func sqlAddKeyFile(name string, epoch uint32) string {
	return fmt.Sprintf("INSERT INTO store.keyfiles VALUES (%s); UPDATE store.settings SET value = %d WHERE name = 'epoch'", text(name), epoch)
}

func sqlReplaceKeyFiles(old []string, name string) string {
	return fmt.Sprintf("DELETE FROM store.keyfiles WHERE name IN %s; INSERT INTO store.keyfiles VALUES (%s)", list(old, text), text(name))
}

// Progress of the consumer.

func sqlProgress(b *warehouse.Batch) string {
	var out strings.Builder
	for _, o := range b.Offsets {
		fmt.Fprintf(&out, "DELETE FROM store.offsets WHERE partition = %d; INSERT INTO store.offsets VALUES (%d, %d);\n", o.Partition, o.Partition, o.Next)
	}
	for _, o := range b.Origins {
		fmt.Fprintf(&out, "DELETE FROM store.origins WHERE partition = %d AND stage = %d AND source = %d; INSERT INTO store.origins VALUES (%d, %d, %d, %d, %d);\n",
			o.Partition, o.Stage, o.Source, o.Partition, o.Stage, o.Source, o.Offset, o.N)
	}
	if len(b.Merges) > 0 {
		fmt.Fprintf(&out, "DELETE FROM store.markers WHERE merge IN %s;\n", list(b.Merges, func(m warehouse.Merge) string { return uuidLiteral(m.ID) }))
	}
	return out.String()
}

func sqlRedirects(sources []fact.ProfileID) string {
	return "SELECT source, destination FROM store.redirects WHERE source IN " + profileList(sources)
}

// Rows of profiles.

// whereIn finds the profiles that were put into a temporary table; that reads one column of all rows.
func whereIn(temporary string) string {
	return " WHERE profile IN (SELECT profile FROM temp." + temporary + ")"
}

func sqlEmpty(temporary string) string { return "DELETE FROM temp." + temporary }

// whereRows finds rows by their places in a table.
func whereRows(rows []int64) string {
	return " WHERE rowid IN " + list(rows, func(n int64) string { return strconv.FormatInt(n, 10) })
}

func sqlRowIDs(table, where string) string { return "SELECT rowid FROM " + table + where }

// whereProfiles finds few profiles without reading all rows, for tables are sorted by tenant and profile. No tenants are all.
func whereProfiles(tenants []fact.TenantID, ids []fact.ProfileID) string {
	where := " WHERE profile IN " + profileList(ids)
	if len(tenants) > 0 {
		where += " AND tenant IN " + list(tenants, func(t fact.TenantID) string { return idLiteral(uint64(t)) })
	}
	return where
}

func sqlDelete(table, where string) string { return "DELETE FROM " + table + where }

// Tables of a shelf.

// sqlNewTail makes an empty tail and puts it into the view.
func sqlNewTail(s *shelf, r *run) string {
	return sqlTable(s.table(r), r.columns, true) + "; " + sqlAddRun(s, r) + s.view()
}

func sqlAddRun(s *shelf, r *run) string {
	return fmt.Sprintf("INSERT INTO store.runs VALUES (%s, %d, %d); ", text(s.name), r.id, r.level)
}

// sqlSwap puts one run in the place of others.
func sqlSwap(s *shelf, into *run, of []*run) string {
	out := sqlAddRun(s, into)
	for _, r := range of {
		out += fmt.Sprintf("DELETE FROM store.runs WHERE id = %d;", r.id)
	}
	out += s.view() + ";"
	for _, r := range of {
		out += sqlDrop(s.table(r))
	}
	return out
}

func sqlAddColumn(s *shelf, place int) string {
	c := s.extra[place]
	return fmt.Sprintf("INSERT INTO store.columns VALUES (%s, %d, %s, '%s')", text(s.name), place, text(c.name[len(s.prefix):]), c.kind)
}

func sqlWidenColumns(s *shelf) string {
	var out strings.Builder
	for i, c := range s.extra {
		fmt.Fprintf(&out, "UPDATE store.columns SET type = '%s' WHERE shelf = %s AND place = %d AND type <> '%s';", c.kind, text(s.name), i, c.kind)
	}
	return out.String()
}

func sqlAlter(s *shelf, c column) string {
	return fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", s.table(s.tail()), identifier(c.name), c.kind)
}

func sqlCopy(table, rows, order string) string {
	return fmt.Sprintf("INSERT INTO %s SELECT * FROM (%s) ORDER BY %s", table, rows, order)
}

func sqlSample(rows string, n int) string {
	return fmt.Sprintf("SELECT tenant, profile FROM (%s) USING SAMPLE reservoir(%d ROWS)", rows, n)
}

// unionAll is the rows of several questions.
func unionAll(parts []string) string { return strings.Join(parts, " UNION ALL ") }

// between is a condition on the rows from one cut to before another; nil is no bound. It is written so that the database
// can skip what lies outside of it.
func between(from, to *cut) string {
	var all []string
	if from != nil && to != nil && from.tenant == to.tenant {
		return fmt.Sprintf(" WHERE tenant = %s AND profile >= %s AND profile < %s", idLiteral(from.tenant), uuidLiteral(from.profile), uuidLiteral(to.profile))
	}
	if from != nil {
		t := idLiteral(from.tenant)
		all = append(all, fmt.Sprintf("tenant >= %s AND (tenant > %s OR profile >= %s)", t, t, uuidLiteral(from.profile)))
	}
	if to != nil {
		t := idLiteral(to.tenant)
		all = append(all, fmt.Sprintf("tenant <= %s AND (tenant < %s OR profile < %s)", t, t, uuidLiteral(to.profile)))
	}
	if len(all) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(all, " AND ")
}

// Questions.

const (
	sqlParse  = "SELECT CAST(json_serialize_sql($1::VARCHAR) AS VARCHAR)"
	sqlCounts = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM profiles)"
)

// sqlAround puts a limit around a statement; the second result is how many bytes come before it.
func sqlAround(statement string, limit int) (string, int) {
	const open = "SELECT * FROM (\n"
	q := open + statement + "\n)"
	if limit > 0 {
		q += fmt.Sprintf(" LIMIT %d", limit+1)
	}
	return q, len(open)
}

// sqlEvents lists events. extra are the columns of dimensions.
func sqlEvents(q *warehouse.EventQuery, extra []column, filters []string) string {
	where := []string{"tenant = " + tenantLiteral(q.Tenant)}
	if !q.Profile.IsZero() {
		where = append(where, "profile = "+uuidLiteral(q.Profile))
	}
	if q.Metric != 0 {
		where = append(where, "metric = "+idLiteral(uint64(q.Metric)))
	}
	if !q.From.IsZero() {
		where = append(where, "time >= "+timeLiteral(q.From))
	}
	if !q.To.IsZero() {
		where = append(where, "time < "+timeLiteral(q.To))
	}
	direction, beyond := "ASC", ">"
	if q.Descending {
		direction, beyond = "DESC", "<"
	}
	if c := q.Cursor; !c.IsZero() {
		where = append(where, fmt.Sprintf("time %[1]s= %[2]s AND (time %[1]s %[2]s OR log_partition %[1]s %[3]d OR log_partition = %[3]d AND log_offset %[1]s %[4]d)",
			beyond, timeLiteral(c.Time), c.Partition, c.Offset))
	}
	where = append(where, filters...)
	var names []string
	for _, c := range append(eventColumns[:len(eventColumns):len(eventColumns)], extra...) {
		names = append(names, identifier(c.name))
	}
	return fmt.Sprintf("SELECT %s FROM events WHERE %s ORDER BY time %[3]s, log_partition %[3]s, log_offset %[3]s LIMIT %[4]d",
		strings.Join(names, ", "), strings.Join(where, " AND "), direction, q.Size+1)
}

// sqlAggregate counts: bucket, count, sum, perhaps uniques, and then the dimensions.
func sqlAggregate(q *warehouse.AggregateQuery, shifts []warehouse.Shift, by, filters []string) string {
	columns := []string{bucket(q.Interval, "time", shifts), "count(*)", "sum(micros)"}
	if q.Unique {
		columns = append(columns, "count(DISTINCT profile)")
	}
	groups := "1"
	for i := range by {
		groups += fmt.Sprintf(", %d", len(columns)+1+i)
	}
	where := append([]string{"tenant = " + tenantLiteral(q.Tenant), "metric = " + idLiteral(uint64(q.Metric)), "time >= " + timeLiteral(q.From), "time < " + timeLiteral(q.To)}, filters...)
	return fmt.Sprintf("SELECT %s FROM events WHERE %s GROUP BY %s", strings.Join(append(columns, by...), ", "), strings.Join(where, " AND "), groups)
}

func sqlSeen(q *warehouse.SeenQuery) string {
	return fmt.Sprintf("SELECT log_partition, log_offset FROM events WHERE tenant = %s AND profile = %s AND metric = %s AND uid = %s",
		tenantLiteral(q.Tenant), uuidLiteral(q.Profile), idLiteral(uint64(q.Metric)), text(q.UID))
}

func sqlMetricNames(ids []fact.MetricID) string {
	return "SELECT metric, service, name FROM metrics WHERE metric IN " + list(ids, func(m fact.MetricID) string { return idLiteral(uint64(m)) })
}
