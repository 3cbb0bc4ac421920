//go:build cgo

package duckdb

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// Four things keep a question from doing more than reading: its tree is checked here, it is of a kind that reads, it
// runs in a transaction that cannot write, and the database may touch no file but its own.

// checked is a statement that may run.
type checked struct {
	sql    string
	prefix int // bytes of sql before the question's own text
	text   string
}

// guard checks a statement, and puts the limit around it.
func guard(ctx context.Context, c *duckdb.Conn, s warehouse.Statement) (*checked, error) {
	end := statementEnd(s.SQL)
	q := &checked{text: s.SQL}
	body := strings.TrimRightFunc(s.SQL[:end], isSpace)
	if strings.TrimSpace(body) == "" {
		return nil, q.errorAt("there is no statement", -1)
	}
	if next := firstWord(s.SQL, end); next >= 0 {
		return nil, q.errorAt("one statement at a time", next)
	}
	if explained := explain.FindString(body); explained != "" {
		q.sql = body
		return q, checkTree(ctx, c, s, q, body[len(explained):], len(explained))
	}
	q.sql, q.prefix = sqlAround(body, s.Limit)
	// First as it came, so that what is wrong with it is told of it and not of what was put around it.
	if err := checkTree(ctx, c, s, q, s.SQL, 0); err != nil {
		return nil, err
	}
	return q, checkTree(ctx, c, s, q, q.sql, -q.prefix)
}

var explain = regexp.MustCompile(`(?is)^\s*EXPLAIN\s+(ANALYZE\s+)?(\([A-Z, ]*\)\s*)?`)

// errorAt is an error at a byte of the statement.
func (q *checked) errorAt(message string, at int) *warehouse.SQLError {
	e := &warehouse.SQLError{Message: message}
	if at >= 0 && at <= len(q.text) {
		before := q.text[:at]
		e.Line = strings.Count(before, "\n") + 1
		e.Column = len([]rune(before[strings.LastIndexByte(before, '\n')+1:])) + 1
	}
	return e
}

// checkTree has the database parse a text, and checks what it names. shift is where the text begins in the statement.
func checkTree(ctx context.Context, c *duckdb.Conn, s warehouse.Statement, q *checked, sql string, shift int) error {
	tree, err := parseTree(ctx, c, sql)
	if err != nil {
		return err
	}
	if tree.Error {
		at := -1
		if tree.Position != "" {
			if _, err := fmt.Sscan(tree.Position, &at); err == nil {
				at += shift
			}
		}
		message := tree.Message
		if tree.Type == "not implemented" {
			message, at = "only SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN of those can be asked", 0
		}
		return q.errorAt(message, at)
	}
	if len(tree.Statements) != 1 {
		return q.errorAt("one statement at a time", -1)
	}
	w := walk{tenant: s.Tenant != "", ctes: map[string]bool{}}
	w.names(tree.Statements[0])
	w.visit(tree.Statements[0])
	if w.message != "" {
		at := w.at
		if at >= 0 {
			at += shift
		}
		return q.errorAt(w.message, at)
	}
	return nil
}

type tree struct {
	Error      bool   `json:"error"`
	Type       string `json:"error_type"`
	Message    string `json:"error_message"`
	Position   string `json:"position"`
	Statements []any  `json:"statements"`
}

func parseTree(ctx context.Context, c *duckdb.Conn, sql string) (*tree, error) {
	rows, err := c.QueryContext(ctx, sqlParse, []driver.NamedValue{{Ordinal: 1, Value: sql}})
	if err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	defer func() { _ = rows.Close() }()
	row := make([]driver.Value, 1)
	if err := rows.Next(row); err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	t := new(tree)
	if err := json.Unmarshal([]byte(str(row[0])), t); err != nil {
		return nil, fmt.Errorf("warehouse: parse: %w", err)
	}
	return t, nil
}

// walk looks for what may not be named. It keeps the first.
type walk struct {
	tenant  bool
	ctes    map[string]bool
	message string
	at      int
}

// names collects the names that WITH gives.
func (w *walk) names(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			w.names(e)
		}
	case map[string]any:
		if m, ok := v["cte_map"].(map[string]any); ok {
			entries, _ := m["map"].([]any)
			for _, e := range entries {
				if entry, ok := e.(map[string]any); ok {
					w.ctes[strings.ToLower(str(entry["key"]))] = true
				}
			}
		}
		if str(v["type"]) == "RECURSIVE_CTE_NODE" || str(v["type"]) == "CTE_NODE" {
			w.ctes[strings.ToLower(str(v["cte_name"]))] = true
		}
		for _, e := range v {
			w.names(e)
		}
	}
}

func (w *walk) visit(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			w.visit(e)
		}
	case map[string]any:
		if m := w.refused(v); m != "" && w.message == "" {
			w.message, w.at = m, location(v)
			return
		}
		for _, e := range v {
			w.visit(e)
		}
	}
}

// location is where a node stands in the text; -1 is not known.
func location(node map[string]any) int {
	at, ok := node["query_location"].(float64)
	if !ok || at < 0 || at > math.MaxInt32 {
		return -1
	}
	return int(at)
}

var (
	// tableFunctions make rows of their arguments alone, or of one tenant's counts: which tenant that may be is checked by the function.
	tableFunctions = []string{"range", "generate_series", "unnest", "json_each", "json_tree", "repeat", aggregatesFunction}
	// operatorFunctions tell of the database.
	operatorFunctions = []string{"duckdb_columns", "duckdb_tables", "duckdb_views", "duckdb_functions", "duckdb_settings", "duckdb_memory", "duckdb_types", "duckdb_keywords",
		"duckdb_temporary_files", "pragma_table_info", "pragma_storage_info", "pragma_database_size", "pragma_show"}
	// noFunctions reach beyond rows.
	noFunctions      = []string{"getenv", "nextval", "currval", "setseed", "write_log", "getvariable", "json_execute_serialized_sql"}
	noTenantFunction = []string{"current_setting", "json_serialize_plan", "current_database", "current_query", "txid_current"}
	operatorSchemas  = []string{"", "main", "store", "information_schema", "pg_catalog"}
	plainName        = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// refused tells why a node of the tree may not be.
func (w *walk) refused(node map[string]any) string {
	switch str(node["type"]) {
	case "BASE_TABLE":
		return w.refusedTable(str(node["catalog_name"]), str(node["schema_name"]), str(node["table_name"]))
	case "TABLE_FUNCTION":
		f, _ := node["function"].(map[string]any)
		if name := strings.ToLower(str(f["function_name"])); !slices.Contains(tableFunctions, name) && (w.tenant || !slices.Contains(operatorFunctions, name)) {
			return "function " + name + " is not allowed"
		}
	case "SHOW_REF":
		if w.tenant && node["query"] == nil && str(node["table_name"]) != "" {
			name := strings.Trim(str(node["table_name"]), `"`)
			return w.refusedTable(str(node["catalog_name"]), str(node["schema_name"]), name)
		}
	case "COLUMN_DATA", "DELIM_GET", "BOUND_TABLE_REF":
		return "this kind of table is not allowed"
	}
	if str(node["class"]) == "FUNCTION" {
		name := strings.ToLower(str(node["function_name"]))
		if slices.Contains(noFunctions, name) || w.tenant && (slices.Contains(noTenantFunction, name) || strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, "duckdb_")) {
			return "function " + name + " is not allowed"
		}
	}
	return ""
}

func (w *walk) refusedTable(catalog, schema, table string) string {
	name := strings.ToLower(table)
	if schema == "" && catalog == "" && (w.ctes[name] || slices.Contains(public, name)) {
		return ""
	}
	if name == aggregatesFunction {
		return "aggregates is a function: aggregates('tenant', 'metric', 'day')"
	}
	if !w.tenant && catalog == "" && slices.Contains(operatorSchemas, strings.ToLower(schema)) && plainName.MatchString(table) {
		return ""
	}
	if w.tenant {
		return fmt.Sprintf("table %s is not one of %s", strings.TrimLeft(catalog+"."+schema+"."+table, "."), strings.Join(public, ", "))
	}
	return "table " + strings.TrimLeft(catalog+"."+schema+"."+table, ".") + " is not allowed"
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' }

// firstWord is where something other than spaces, semicolons and comments begins, or -1.
func firstWord(sql string, from int) int {
	for i := from; i < len(sql); {
		if n := skipToken(sql[i:]); n > 0 && (strings.HasPrefix(sql[i:], "--") || strings.HasPrefix(sql[i:], "/*")) {
			i += n
			continue
		}
		if sql[i] == ';' || isSpace(rune(sql[i])) {
			i++
			continue
		}
		return i
	}
	return -1
}

// statementEnd is where the first statement ends: at a semicolon outside of quotes and comments. It leaves
// out a comment at the end. It need not be right: what is made of it is parsed by the database and checked again.
func statementEnd(sql string) int {
	end := 0
	for i := 0; i < len(sql); {
		n := skipToken(sql[i:])
		comment := strings.HasPrefix(sql[i:], "--") || strings.HasPrefix(sql[i:], "/*")
		switch {
		case n == 0 && sql[i] == ';':
			if end > 0 {
				return i
			}
			i++
			continue
		case n == 0:
			n = 1
		}
		if !comment && !isSpace(rune(sql[i])) {
			end = i + n
		}
		i += n
	}
	return end
}

var dollar = regexp.MustCompile(`^\$[A-Za-z_]*\$`)

// skipToken is the length of the comment or quoted text that begins here; 0 if none does.
func skipToken(sql string) int {
	until := func(from int, end string) int {
		if i := strings.Index(sql[min(from, len(sql)):], end); i >= 0 {
			return from + i + len(end)
		}
		return len(sql)
	}
	switch {
	case strings.HasPrefix(sql, "--"):
		return until(2, "\n")
	case strings.HasPrefix(sql, "/*"):
		return until(2, "*/")
	case sql[0] == '\'' || sql[0] == '"':
		return until(1, sql[:1])
	case sql[0] == '$':
		if tag := dollar.FindString(sql); tag != "" {
			return until(len(tag), tag)
		}
	}
	return 0
}
