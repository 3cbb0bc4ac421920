//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// shelf is a table in several parts: runs. The last one is the tail, to which is appended. d.mu guards it.
type shelf struct {
	name   string // of the view
	fixed  []column
	prefix string // of the names of columns that are made on demand
	extra  []column
	byName map[string]int    // place in extra of what a name stands for; -1: it got no column
	lower  map[string]string // the database does not tell names of columns by case
	most   int
	sight  *sync.RWMutex // held to change extra and byName
	runs   []*run
	order  string
	// moved are profiles whose rows were deleted from runs that are being merged.
	moved   []fact.ProfileID
	merging bool
	sorting bool // all that is not sorted is to be
	// rewriting are sorted runs that are to be written anew.
	rewriting []*run
}

// run is one table. Level 0 is not sorted.
type run struct {
	id      int64
	level   int
	rows    int64
	columns []column // as the table has them; after the fixed ones extra[:n], perhaps narrower
}

func newShelf(name, prefix, order string, fixed []column, most int, sight *sync.RWMutex) *shelf {
	return &shelf{name: name, fixed: fixed, prefix: prefix, order: order, most: most, sight: sight, byName: map[string]int{}, lower: map[string]string{}}
}

// columns are those of the next tail.
func (s *shelf) columns() []column { return append(slices.Clone(s.fixed), s.extra...) }

func (s *shelf) table(r *run) string { return fmt.Sprintf("store.%s_%d", s.name, r.id) }

func (s *shelf) tail() *run { return s.runs[len(s.runs)-1] }

// load takes a column that was made before.
func (s *shelf) load(name string, k kind) {
	s.byName[name] = len(s.extra)
	s.lower[strings.ToLower(name)] = name
	s.extra = append(s.extra, column{s.prefix + name, k})
}

const maxColumnName = 64

// place is where the column of a name is, or -1. The first value of a name makes its column, if there is
// room; make is told so.
func (s *shelf) place(name string, k kind, make func(column)) int {
	if i, known := s.byName[name]; known {
		return i
	}
	s.sight.Lock()
	defer s.sight.Unlock()
	if len(s.extra) >= s.most || len(name) == 0 || len(name) > maxColumnName || s.lower[strings.ToLower(name)] != "" || !plain(name) {
		if len(s.byName) < 100_000 {
			s.byName[name] = -1
		}
		return -1
	}
	s.load(name, k)
	make(column{name, k})
	return s.byName[name]
}

// widen makes a column one of texts.
func (s *shelf) widen(at int) {
	s.sight.Lock()
	defer s.sight.Unlock()
	s.extra[at].kind = kindText
}

// plain reports whether a name can be one of a column.
func plain(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

// expressions are the columns of the shelf as a run can give them.
func (s *shelf) expressions(r *run) []string {
	out := make([]string, 0, len(s.fixed)+len(s.extra))
	for _, c := range s.fixed {
		out = append(out, identifier(c.name))
	}
	for i, c := range s.extra {
		name := identifier(c.name)
		at := len(s.fixed) + i
		if at >= len(r.columns) {
			out = append(out, "CAST(NULL AS "+c.kind.String()+") AS "+name)
			continue
		}
		switch has := r.columns[at].kind; {
		case has == c.kind:
			out = append(out, name)
		case has == kindNumber:
			out = append(out, numberAsText(name)+" AS "+name)
		default:
			out = append(out, "CAST("+name+" AS VARCHAR) AS "+name)
		}
		// What was no text stays known as what it was.
		if r.columns[at].kind != c.kind {
			p := slices.IndexFunc(s.fixed, func(c column) bool { return c.name == "properties" })
			expr := strings.TrimSuffix(out[p], " AS properties")
			value := name
			if r.columns[at].kind == kindNumber {
				value = "CAST(" + numberAsText(name) + " AS JSON)"
			}
			out[p] = withMember(expr, strings.TrimPrefix(c.name, s.prefix), value) + " AS properties"
		}
	}
	return out
}

// selection reads all columns of some rows of a run.
func (s *shelf) selection(r *run, where string) string {
	return "SELECT " + strings.Join(s.expressions(r), ", ") + " FROM " + s.table(r) + where
}

// union reads all columns of some rows of some runs.
func (s *shelf) union(runs []*run, where string) string {
	parts := make([]string, len(runs))
	for i, r := range runs {
		parts[i] = s.selection(r, where)
	}
	return unionAll(parts)
}

// eachRow calls f with the profile and all columns, which it may keep, of each row of a selection or union.
func (d *DB) eachRow(ctx context.Context, s *shelf, q string, f func(id fact.ProfileID, values []any) error) error {
	n := len(s.fixed) + len(s.extra)
	profile := slices.IndexFunc(s.fixed, func(c column) bool { return c.kind == kindUUID })
	return d.each(ctx, q, func(scan func(...any) error) error {
		values, to := make([]any, n), make([]any, n)
		for i := range values {
			to[i] = &values[i]
		}
		if err := scan(to...); err != nil {
			return err
		}
		var id uuid
		if err := id.Scan(values[profile]); err != nil {
			return err
		}
		return f(fact.ProfileID(id), values)
	})
}

// view makes the view of what is there.
func (s *shelf) view() string {
	more := ""
	if s.name == shelfEvents {
		more = ", micros / 1000000.0 AS value"
	}
	return fmt.Sprintf("CREATE OR REPLACE VIEW main.%s AS SELECT *%s FROM (%s)", s.name, more, s.union(s.runs, ""))
}

const (
	shelfEvents   = "events"
	shelfProfiles = "profiles"
)
