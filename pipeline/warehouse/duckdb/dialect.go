//go:build cgo

package duckdb

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// This file has the words of DuckDB's SQL: types, literals, and the tables; statements.go has the statements. Ids stand in statements as
// literals: a bound parameter of another type than its column makes a question read the whole table.

// formatVersion is that of the tables.
const (
	formatVersion = 2
	fullTables    = 1 // before: every table had all columns, which a program that knows no other takes for granted
)

// kind is the type of a column.
type kind uint8

const (
	kindText kind = iota
	kindNumber
	kindBool
	kindID   // of a tenant or metric
	kindUUID // of a profile
	kindTime // UTC, without a zone
	kindInt  // 64 bits
	kindInt32
	kindEpoch
)

func (k kind) String() string {
	return [...]string{"VARCHAR", "DOUBLE", "BOOLEAN", "UBIGINT", "UUID", "TIMESTAMP", "BIGINT", "INTEGER", "UINTEGER"}[k]
}

// kindOf is the kind that a type's name stands for.
func kindOf(name string) (kind, error) {
	for k := kindText; k <= kindEpoch; k++ {
		if k.String() == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("column of type %s", name)
}

// column is one of a shelf.
type column struct {
	name string
	kind kind
}

// Columns of events, by their place.
const (
	evTenant = iota
	evProfile
	evMetric
	evTime
	evAccepted
	evMicros
	evCurrency
	evBackfill
	evUID
	evProperties
	evDims
	evPartition
	evOffset
	evEpoch
)

var eventColumns = []column{
	{"tenant", kindID}, {"profile", kindUUID}, {"metric", kindID}, {"time", kindTime}, {"accepted", kindTime}, {"micros", kindInt},
	{"currency", kindText}, {"backfill", kindBool}, {"uid", kindText}, {"properties", kindText}, {"dims", kindText},
	{"log_partition", kindInt32}, {"log_offset", kindInt}, {"epoch", kindEpoch},
}

// Columns of profiles, by their place. Between prText and prLatitude are texts.
const (
	prTenant = iota
	prProfile
	prCreated
	prUpdated
	prEpoch
	prConsent
	prSuppressions
	prLists
	prAttributes
	prProperties
	prEmailConsent
	prEmailConsentAt
	prSMSConsent
	prSMSConsentAt
	prSuppressed
	prLatitude
	prLongitude
	prText
	// prLocation is where those of a location begin: identifiers and other attributes come before.
	prLocation = prText + 10
)

var profileColumns = append([]column{
	{"tenant", kindID}, {"profile", kindUUID}, {"created", kindTime}, {"updated", kindTime}, {"epoch", kindEpoch},
	{"consent", kindText}, {"suppressions", kindText}, {"lists", kindText}, {"attributes", kindText}, {"properties", kindText},
	{"email_consent", kindText}, {"email_consent_at", kindTime}, {"sms_consent", kindText}, {"sms_consent_at", kindTime}, {"suppressed", kindBool},
	{"latitude", kindNumber}, {"longitude", kindNumber},
}, texts("email", "phone_number", "external_id", "anonymous_id", "first_name", "last_name", "organization", "locale", "title", "image",
	"address1", "address2", "city", "country", "region", "zip", "timezone", "ip")...)

func texts(names ...string) []column {
	out := make([]column, len(names))
	for i, n := range names {
		out[i] = column{n, kindText}
	}
	return out
}

// sqlUse makes the warehouse the database that a connection's statements are about.
const sqlUse = "USE warehouse;"

// sqlAttach opens the database's file, without a log of its own: the log of facts is there to make again what a crash takes.
func sqlAttach(path string) string {
	return "ATTACH " + text(path) + " AS warehouse (RECOVERY_MODE NO_WAL_WRITES);"
}

const sqlSchema = `
CREATE SCHEMA IF NOT EXISTS store;
CREATE TABLE IF NOT EXISTS store.settings (name VARCHAR, value BIGINT);
CREATE TABLE IF NOT EXISTS store.offsets (partition INTEGER, next BIGINT);
CREATE TABLE IF NOT EXISTS store.origins (partition INTEGER, stage UTINYINT, source INTEGER, log_offset BIGINT, n INTEGER);
CREATE TABLE IF NOT EXISTS store.markers (tenant VARCHAR, merge UUID, source UUID, destination UUID, partition INTEGER);
CREATE TABLE IF NOT EXISTS store.redirects (source UUID, destination UUID);
CREATE TABLE IF NOT EXISTS store.cleared (profile UUID);
CREATE TABLE IF NOT EXISTS store.runs (shelf VARCHAR, id BIGINT, level INTEGER);
CREATE TABLE IF NOT EXISTS store.columns (shelf VARCHAR, place INTEGER, name VARCHAR, type VARCHAR);
CREATE TABLE IF NOT EXISTS store.keyfiles (name VARCHAR);
CREATE TABLE IF NOT EXISTS tenants (tenant UBIGINT, name VARCHAR);
CREATE TABLE IF NOT EXISTS metrics (tenant UBIGINT, metric UBIGINT, service VARCHAR, name VARCHAR);
DROP TABLE IF EXISTS main.aggregates; -- of versions before, where it had no rows
`

// sqlTemporary has the tables of the writing connection.
const sqlTemporary = `
CREATE TEMP TABLE touched (profile UUID);
CREATE TEMP TABLE leaving (profile UUID);
`

// sqlAggregates gives the function that asks the account level a name and a parameter that may be left out: the driver can have none,
// and must not be given a NULL.
const sqlAggregates = `
CREATE OR REPLACE MACRO main.` + aggregatesFunction + `(tenant, metric, "interval", dimension := NULL) AS TABLE
	FROM ` + countsFunction + `(coalesce(CAST(tenant AS VARCHAR), ''), coalesce(CAST(metric AS VARCHAR), ''), coalesce(CAST("interval" AS VARCHAR), ''),
		dimension IS NULL, coalesce(CAST(dimension AS VARCHAR), ''));
`

// sqlLock closes what SQL could reach outside of the warehouse. It comes last: nothing can be set after it.
const sqlLock = `
SET GLOBAL TimeZone = 'UTC';
SET GLOBAL autoinstall_known_extensions = false;
SET GLOBAL autoload_known_extensions = false;
SET GLOBAL enable_external_access = false;
SET GLOBAL lock_configuration = true;
`

// public are the tables that one tenant's SQL may name; each has a column tenant.
var public = []string{"events", "profiles", "metrics", "tenants"}

// sqlTenantViews hides the public tables behind views of one tenant's rows, for one connection.
func sqlTenantViews(tenant fact.TenantID) string {
	var b strings.Builder
	for _, name := range public {
		fmt.Fprintf(&b, "CREATE OR REPLACE TEMP VIEW %s AS SELECT * FROM warehouse.main.%s WHERE tenant = %s;\n", name, name, idLiteral(uint64(tenant)))
	}
	return b.String()
}

// sqlTable makes the table of a run. One that waits to be sorted is not compressed: it is soon written anew.
func sqlTable(name string, columns []column, tail bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s (", name)
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(identifier(c.name) + " " + c.kind.String())
		switch {
		case tail && c.kind == kindText:
			b.WriteString(" USING COMPRESSION uncompressed")
		case c.name == eventColumns[evProperties].name || c.name == eventColumns[evUID].name:
			// To try what suits them costs more than to compress them.
			b.WriteString(" USING COMPRESSION fsst")
		}
	}
	b.WriteString(")")
	return b.String()
}

// identifier quotes a name.
func identifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// text is a literal. A text with a zero byte would end the statement, so that is replaced.
func text(s string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, "\x00", "\uFFFD"), "'", "''") + "'"
}

func idLiteral(id uint64) string { return strconv.FormatUint(id, 10) + "::UBIGINT" }

func tenantLiteral(name string) string { return idLiteral(uint64(fact.TenantIDOf(name))) }

func uuidText(id [16]byte) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func uuidLiteral(id [16]byte) string { return "'" + uuidText(id) + "'::UUID" }

func timeLiteral(t time.Time) string {
	return "make_timestamp(" + strconv.FormatInt(t.UnixMicro(), 10) + "::BIGINT)"
}

// list is a list of literals in brackets.
func list[T any](values []T, literal func(T) string) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = literal(v)
	}
	return "(" + strings.Join(out, ", ") + ")"
}

func profileList(ids []fact.ProfileID) string {
	return list(ids, func(p fact.ProfileID) string { return uuidLiteral(p) })
}

// numberAsText is a number as this program writes it.
func numberAsText(expr string) string {
	return fmt.Sprintf("CASE WHEN %[1]s = trunc(%[1]s) AND abs(%[1]s) < 1e15 THEN CAST(CAST(%[1]s AS BIGINT) AS VARCHAR) ELSE CAST(%[1]s AS VARCHAR) END", expr)
}

// withMember is JSON text with one more member where a value is there.
func withMember(object, name, value string) string {
	return fmt.Sprintf("CASE WHEN %[3]s IS NULL THEN %[1]s ELSE CAST(json_merge_patch(coalesce(%[1]s, '{}'), json_object(%[2]s, %[3]s)) AS VARCHAR) END", object, text(name), value)
}

// member is the text of a member of JSON text.
func member(object, name string) string {
	return fmt.Sprintf("json_extract_string(%s, %s)", object, text(`$."`+strings.ReplaceAll(name, `"`, `\"`)+`"`))
}

// bucket is the start of the bucket of a time: for hours an instant, otherwise a date of the zone's calendar. The zone's
// offsets stand in the statement, so that its rules are those of this program.
func bucket(interval warehouse.Interval, expr string, shifts []warehouse.Shift) string {
	var b strings.Builder
	b.WriteString("CASE")
	for i := len(shifts) - 1; i >= 0; i-- {
		s := shifts[i]
		local := fmt.Sprintf("%s + to_seconds(%d)", expr, s.Seconds)
		value := fmt.Sprintf("CAST(date_trunc('%s', %s) AS TIMESTAMP)", interval, local)
		if interval == warehouse.Hour {
			value = fmt.Sprintf("%s - to_seconds(%d)", value, s.Seconds)
			if i > 0 {
				value = fmt.Sprintf("greatest(%s, %s)", value, timeLiteral(s.From))
			}
		}
		if i == 0 {
			fmt.Fprintf(&b, " ELSE %s END", value)
		} else {
			fmt.Fprintf(&b, " WHEN %s >= %s THEN %s", expr, timeLiteral(s.From), value)
		}
	}
	if len(shifts) == 1 {
		return strings.TrimSuffix(strings.TrimPrefix(b.String(), "CASE ELSE "), " END")
	}
	return b.String()
}
