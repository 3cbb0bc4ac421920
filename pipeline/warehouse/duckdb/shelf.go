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
	prefix string         // of the names of columns that are made on demand
	own    map[string]int // places of the fixed ones by their names
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
	columns []column // as the table has them, perhaps narrower; a sorted one need not have all
	// filled tells, by place among the shelf's columns, where there are values; nil is not known.
	filled []bool
}

// note remembers where there are values.
func (r *run) note(filled []bool) {
	if r.filled == nil {
		return
	}
	r.filled = append(r.filled, make([]bool, max(0, len(filled)-len(r.filled)))...)
	for i, is := range filled {
		r.filled[i] = r.filled[i] || is
	}
}

// kinds are the kinds of the columns by their names.
func (r *run) kinds() map[string]kind {
	out := make(map[string]kind, len(r.columns))
	for _, c := range r.columns {
		out[c.name] = c.kind
	}
	return out
}

// worth are the places of the columns that a table made of some runs is to have. Of those of profiles most are of few: what nobody
// has would be read, sorted, compressed and written with each row.
func (s *shelf) worth(of []*run) (places []int) {
	all := s.columns()
	has := make([]bool, len(all))
	for i := range all {
		has[i] = i < len(s.fixed) && !s.sparse(i)
	}
	for _, r := range of {
		kinds := r.kinds()
		for i, c := range all {
			if _, there := kinds[c.name]; there && (r.filled == nil || i < len(r.filled) && r.filled[i]) {
				has[i] = true
			}
		}
	}
	for i := range all {
		if has[i] {
			places = append(places, i)
		}
	}
	return places
}

// sparse reports whether a table may be without a fixed column.
func (s *shelf) sparse(place int) bool {
	if s.name != shelfProfiles {
		return false
	}
	switch place {
	case prTenant, prProfile, prCreated, prUpdated, prEpoch, prAttributes, prProperties, prSuppressed:
		return false
	}
	return true
}

func newShelf(name, prefix, order string, fixed []column, most int, sight *sync.RWMutex) *shelf {
	s := &shelf{name: name, fixed: fixed, prefix: prefix, order: order, most: most, sight: sight, own: make(map[string]int, len(fixed)), byName: map[string]int{}, lower: map[string]string{}}
	for i, c := range fixed {
		s.own[c.name] = i
	}
	return s
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
	name = strings.Clone(name) // what it was part of is not to be kept
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
	kinds := r.kinds()
	out := make([]string, 0, len(s.fixed)+len(s.extra))
	for _, c := range s.columns() {
		name := identifier(c.name)
		has, there := kinds[c.name]
		switch {
		case !there:
			out = append(out, "CAST(NULL AS "+c.kind.String()+") AS "+name)
			continue
		case has == c.kind:
			out = append(out, name)
		case has == kindNumber:
			out = append(out, numberAsText(name)+" AS "+name)
		default:
			out = append(out, "CAST("+name+" AS VARCHAR) AS "+name)
		}
		// What was no text stays known as what it was.
		if has != c.kind {
			p := slices.IndexFunc(s.fixed, func(c column) bool { return c.name == "properties" })
			expr := strings.TrimSuffix(out[p], " AS properties")
			value := name
			if has == kindNumber {
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

// selectionOf reads the columns at some places of a run.
func (s *shelf) selectionOf(r *run, places []int) string {
	all := s.expressions(r)
	out := make([]string, len(places))
	for i, at := range places {
		out[i] = all[at]
	}
	return "SELECT " + strings.Join(out, ", ") + " FROM " + s.table(r)
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
