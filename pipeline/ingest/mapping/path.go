// Package mapping makes documents of the API of data that has another form: the body of
// a web hook, a row of a file. A configured Event says where its parts are found.
package mapping

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Path is a place in a JSON value: "$" is the value, "$.customer.email", `$.items[0]["SKU no"]` lie in it, and
// what does not begin with $ is the name of a member of the outermost object.
type Path struct {
	text  string
	steps []step
}

// step goes to a member, or to an item if index is not negative.
type step struct {
	key   string
	index int
}

var errPath = errors.New(`write $.name, $.name[0] or $["any name"], or the name of a member alone`)

// ParsePath reads a path.
func ParsePath(s string) (Path, error) {
	p := Path{text: s}
	rest, ok := strings.CutPrefix(s, "$")
	if !ok {
		if s == "" {
			return p, errPath
		}
		p.steps = []step{{s, -1}}
		return p, nil
	}
	for rest != "" {
		var st step
		var err error
		if st, rest, err = parseStep(rest); err != nil {
			return p, fmt.Errorf("%q is not a path: %w", s, err)
		}
		p.steps = append(p.steps, st)
	}
	return p, nil
}

func parseStep(s string) (step, string, error) {
	switch {
	case s[0] == '.':
		s = s[1:]
		end := strings.IndexAny(s, ".[")
		if end < 0 {
			end = len(s)
		}
		if end == 0 {
			return step{}, "", errPath
		}
		return step{s[:end], -1}, s[end:], nil
	case strings.HasPrefix(s, `["`):
		quoted, err := strconv.QuotedPrefix(s[1:])
		if err != nil || !strings.HasPrefix(s[1+len(quoted):], "]") {
			return step{}, "", errPath
		}
		key, err := strconv.Unquote(quoted)
		if err != nil {
			return step{}, "", errPath
		}
		return step{key, -1}, s[2+len(quoted):], nil
	case s[0] == '[':
		digits, rest, ok := strings.Cut(s[1:], "]")
		n, err := strconv.ParseUint(digits, 10, 31)
		if !ok || err != nil {
			return step{}, "", errPath
		}
		return step{"", int(n)}, rest, nil
	}
	return step{}, "", errPath
}

// String is what ParsePath read.
func (p Path) String() string { return p.text }

// IsZero reports whether p is no path.
func (p Path) IsZero() bool { return p.text == "" }

// Name is the last member that the path goes to, "" if there is none.
func (p Path) Name() string {
	for i := len(p.steps) - 1; i >= 0; i-- {
		if p.steps[i].index < 0 {
			return p.steps[i].key
		}
	}
	return ""
}

// Get returns what lies at the path in a value as encoding/json decodes it. null is not there.
func (p Path) Get(v any) (any, bool) {
	for _, s := range p.steps {
		switch in := v.(type) {
		case map[string]any:
			if s.index >= 0 {
				return nil, false
			}
			v = in[s.key]
		case []any:
			if s.index < 0 || s.index >= len(in) {
				return nil, false
			}
			v = in[s.index]
		default:
			return nil, false
		}
	}
	return v, v != nil
}
