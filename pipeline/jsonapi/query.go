package jsonapi

import (
	"encoding/base64"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Spec says which query parameters an operation takes.
type Spec struct {
	Filters    Allow               // nil: no filter
	Sorts      []string            // fields, without -
	Include    []string            // names of relationships
	Fields     map[string][]string // by type: its sparse fields
	Additional map[string][]string // by type: fields that are there only when asked for
	Size       int                 // of a page, unless given; 0: there are no pages
	MaxSize    int
	Extra      []string // names of further parameters, which the handler reads itself
}

// Query is what was asked for.
type Query struct {
	Filter     *Filter
	Sort       string // "" is the operation's own order
	Descending bool
	Cursor     string
	Size       int
	Include    []string
	Fields     map[string][]string // a type that is not there: all its fields
	Additional map[string][]string
}

// ParseQuery reads the parameters. The errors are of this package and name a parameter.
func ParseQuery(values url.Values, s Spec) (Query, error) {
	q := Query{Size: s.Size}
	var bad Errors
	for _, name := range sortedKeys(values) {
		if err := q.parameter(name, values[name], s); err != nil {
			bad = append(bad, err)
		}
	}
	if len(bad) > 0 {
		return q, bad
	}
	return q, nil
}

func sortedKeys(values url.Values) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (q *Query) parameter(name string, values []string, s Spec) *Error {
	if slices.Contains(s.Extra, name) {
		return nil
	}
	if len(values) != 1 {
		return BadParameter(name, "occurs more than once")
	}
	value := values[0]
	family, member, bracketed := strings.Cut(name, "[")
	if bracketed {
		var ok bool
		if member, ok = strings.CutSuffix(member, "]"); !ok {
			return BadParameter(name, "is not a parameter here")
		}
	}
	switch {
	case name == "filter" && s.Filters != nil:
		return q.filter(value, s.Filters)
	case name == "sort" && len(s.Sorts) > 0:
		return q.sort(value, s.Sorts)
	case name == "include" && len(s.Include) > 0:
		return choose(&q.Include, name, value, s.Include)
	case name == "page[cursor]" && s.MaxSize > 0:
		return q.cursor(value)
	case name == "page[size]" && s.MaxSize > 0:
		return q.size(value, s.MaxSize)
	case bracketed && family == "fields" && s.Fields[member] != nil:
		return chooseOf(&q.Fields, name, member, value, slices.Concat(s.Fields[member], s.Additional[member]))
	case bracketed && family == "additional-fields" && s.Additional[member] != nil:
		return chooseOf(&q.Additional, name, member, value, s.Additional[member])
	}
	return BadParameter(name, "is not a parameter here")
}

func (q *Query) filter(value string, allow Allow) *Error {
	f, err := ParseFilter(value)
	if err == nil {
		err = f.Check(allow)
	}
	if err != nil {
		return BadParameter("filter", "%v", err)
	}
	q.Filter = f
	return nil
}

func (q *Query) sort(value string, allowed []string) *Error {
	q.Sort, q.Descending = strings.CutPrefix(value, "-")
	if !slices.Contains(allowed, q.Sort) {
		return BadParameter("sort", "must be one of %s, or one of them with a - before it", strings.Join(allowed, ", "))
	}
	return nil
}

func (q *Query) size(value string, most int) *Error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return BadParameter("page[size]", "must be a number from 1 to %d", most)
	}
	q.Size = n
	return nil
}

func (q *Query) cursor(value string) *Error {
	c, err := DecodeCursor(value)
	if err != nil {
		return BadParameter("page[cursor]", "%v", err)
	}
	q.Cursor = c
	return nil
}

// EncodeCursor makes the parameter of an operation's cursor, which ParseQuery undoes.
func EncodeCursor(cursor string) string { return base64.RawURLEncoding.EncodeToString([]byte(cursor)) }

// DecodeCursor undoes EncodeCursor.
func DecodeCursor(parameter string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(parameter)
	if err != nil || len(b) == 0 {
		return "", errors.New("is not a cursor of a page before")
	}
	return string(b), nil
}

func choose(into *[]string, name, value string, allowed []string) *Error {
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		if !slices.Contains(allowed, item) {
			return BadParameter(name, "%q is none of %s", item, strings.Join(allowed, ", "))
		}
		*into = append(*into, item)
	}
	return nil
}

func chooseOf(into *map[string][]string, name, member, value string, allowed []string) *Error {
	var list []string
	if value != "" { // none of the fields
		if err := choose(&list, name, value, allowed); err != nil {
			return err
		}
	}
	if *into == nil {
		*into = map[string][]string{}
	}
	(*into)[member] = list
	return nil
}
