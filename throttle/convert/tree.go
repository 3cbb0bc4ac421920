package convert

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxDepth bounds nested values.
const maxDepth = 20

// table is a TOML table with its keys in order and the lines of all.
type table struct {
	line int
	keys []string
	vals map[string]value
}

// value is a string, int64, float64, bool, []value or *table.
type value struct {
	line int
	v    any
}

func newTable(line int) *table { return &table{line: line, vals: map[string]value{}} }

func (t *table) set(key string, v value) {
	if _, known := t.vals[key]; !known {
		t.keys = append(t.keys, key)
	}
	t.vals[key] = v
}

// parseTOML reads a file into a tree that knows lines and order. An error names its place.
func parseTOML(name string, data []byte) (*table, error) {
	var check map[string]any
	if err := toml.Unmarshal(data, &check); err != nil { // what the loop below does not check: duplicates, types
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			line, column := bad.Position()
			return nil, fmt.Errorf("%s:%d:%d: %w", name, line, column, err)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	root := newTable(0)
	b := builder{}
	b.p.Reset(data)
	at := root
	for b.p.NextExpression() {
		e := b.p.Expression()
		var err error
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			at, err = b.enter(root, e, e.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			err = b.keyValue(at, e, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := b.p.Error(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return root, nil
}

type builder struct{ p unstable.Parser }

func (b *builder) key(e *unstable.Node) (parts []string, line int) {
	it := e.Key()
	for it.Next() {
		n := it.Node()
		if len(parts) == 0 {
			line = b.p.Shape(n.Raw).Start.Line
		}
		parts = append(parts, string(n.Data))
	}
	return parts, line
}

// enter goes to the table of a header.
func (b *builder) enter(root *table, e *unstable.Node, array bool) (*table, error) {
	parts, line := b.key(e)
	at := root
	for i, part := range parts {
		last := i == len(parts)-1
		have, known := at.vals[part]
		switch v := have.v.(type) {
		case *table:
			if last && v.line == 0 {
				v.line = line
			}
			at = v
		case []value:
			if last && array {
				next := newTable(line)
				at.set(part, value{have.line, append(v, value{line, next})})
				at = next
				continue
			}
			next, ok := v[len(v)-1].v.(*table)
			if !ok {
				return nil, fmt.Errorf("line %d: %s is not a table", line, part)
			}
			at = next
		default:
			if known {
				return nil, fmt.Errorf("line %d: %s is not a table", line, part)
			}
			next := newTable(line)
			if last && array {
				at.set(part, value{line, []value{{line, next}}})
			} else {
				at.set(part, value{line, next})
			}
			at = next
		}
	}
	return at, nil
}

func (b *builder) keyValue(at *table, e *unstable.Node, depth int) error {
	parts, line := b.key(e)
	for _, part := range parts[:len(parts)-1] {
		next, ok := at.vals[part].v.(*table)
		if !ok {
			next = newTable(line)
			at.set(part, value{line, next})
		}
		at = next
	}
	v, err := b.value(e.Value(), line, depth)
	at.set(parts[len(parts)-1], v)
	return err
}

func (b *builder) value(n *unstable.Node, line, depth int) (value, error) {
	if depth > maxDepth {
		return value{}, fmt.Errorf("line %d: too deep", line)
	}
	if n.Raw.Length > 0 {
		line = b.p.Shape(n.Raw).Start.Line
	}
	switch n.Kind {
	case unstable.String:
		return value{line, string(n.Data)}, nil
	case unstable.Bool:
		return value{line, string(n.Data) == "true"}, nil
	case unstable.Integer:
		i, err := strconv.ParseInt(string(n.Data), 0, 64)
		if err != nil {
			return value{line, string(n.Data)}, nil
		}
		return value{line, i}, nil
	case unstable.Array:
		list := []value{}
		for it := n.Children(); it.Next(); {
			v, err := b.value(it.Node(), line, depth+1)
			if err != nil {
				return v, err
			}
			list = append(list, v)
		}
		return value{line, list}, nil
	case unstable.InlineTable:
		t := newTable(line)
		for it := n.Children(); it.Next(); {
			if err := b.keyValue(t, it.Node(), depth+1); err != nil {
				return value{}, err
			}
		}
		return value{line, t}, nil
	}
	return value{line, string(n.Data)}, nil // floats and dates: no setting has one
}

// text is a scalar as text.
func (v value) text() (string, bool) {
	switch x := v.v.(type) {
	case string:
		return x, true
	case int64:
		return strconv.FormatInt(x, 10), true
	case bool:
		return strconv.FormatBool(x), true
	}
	return "", false
}

// list is an array, or a single value as one of one element.
func (v value) list() []value {
	if l, ok := v.v.([]value); ok {
		return l
	}
	return []value{v}
}

func (v value) table() *table {
	t, _ := v.v.(*table)
	return t
}
