package render

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Values inside of a run are nil, bool, int64, float64, string, safe, []any,
// map[string]any, time.Time, *loop and *grouped. They behave as Python's would.

// safe is text that needs no escaping, Django's SafeString.
type safe string

// grouped is what regroup makes: the value that the items share, and they.
type grouped struct {
	grouper any
	list    []any
}

// text returns a string or safe value as a string.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case safe:
		return string(v)
	}
	return ""
}

// truth reports whether a value counts as true: not empty, not zero, not nil.
func truth(v any) bool {
	switch v := v.(type) {
	case nil, absent:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case safe:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

// keys returns a map's keys in order. Python keeps the order of insertion, which a
// decoded map has lost; sorted is the same every time at least.
func keys(m map[string]any) []string {
	return slices.Sorted(maps.Keys(m))
}

var errNotIterable = errors.New("the value cannot be iterated")

// items returns what iterating over a value yields.
func (r *run) items(v any) ([]any, error) {
	switch v := v.(type) {
	case []any:
		return v, nil
	case *grouped:
		return []any{v.grouper, v.list}, nil
	case map[string]any:
		if err := r.charge(16 * len(v)); err != nil {
			return nil, err
		}
		list := make([]any, 0, len(v))
		for _, k := range keys(v) {
			list = append(list, k)
		}
		return list, nil
	case string, safe:
		return r.chars(text(v))
	}
	return nil, fmt.Errorf("%w: %s", errNotIterable, typeName(v))
}

// chars returns the characters of a text, one item each.
func (r *run) chars(s string) ([]any, error) {
	if err := r.charge(32 * len(s)); err != nil {
		return nil, err
	}
	list := make([]any, 0, len(s))
	for _, c := range s {
		list = append(list, string(c))
	}
	return list, nil
}

// length is Python's len(); ok is false for values that have none.
func length(v any) (n int, ok bool) {
	switch v := v.(type) {
	case []any:
		return len(v), true
	case map[string]any:
		return len(v), true
	case string:
		return runes(v), true
	case safe:
		return runes(string(v)), true
	case *grouped:
		return 2, true
	}
	return 0, false
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string, safe:
		return "str"
	case []any:
		return "list"
	case map[string]any, *loop:
		return "dict"
	case time.Time:
		return "datetime"
	}
	return "group"
}

// str is Python's str(): the text of a value, not for display in {{ }}.
func (r *run) str(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case safe:
		return string(v), nil
	case nil:
		return "None", nil
	case bool:
		if v {
			return "True", nil
		}
		return "False", nil
	case int64:
		return itoa(v), nil
	case float64:
		return floatRepr(v), nil
	case time.Time:
		return strings.Replace(isoFormat(moment{t: v}), "T", " ", 1), nil
	}
	var b strings.Builder
	if err := r.repr(&b, v, 0); err != nil {
		return "", err
	}
	return b.String(), nil
}

// shown is the text of a value in {{ }}, before escaping.
func (r *run) shown(v any) (string, error) {
	switch v := v.(type) {
	case float64:
		return floatShown(v), nil
	case time.Time:
		return formatDate(moment{t: v}, "N j, Y, P"), nil
	}
	return r.str(v)
}

// maxDepth bounds recursion into values. Variables are refused at half of it;
// filters that build lists can add a level each.
const maxDepth = 400

// repr writes a value as Python's repr() does. A list that holds one other list
// many times, which holds another ..., is small but prints without end: the
// output limit is checked at every item.
func (r *run) repr(b *strings.Builder, v any, depth int) error {
	if depth > maxDepth {
		return errors.New("the value is nested too deeply")
	}
	if b.Len() > r.maxOutput {
		return r.tooLarge()
	}
	if err := r.tick(1); err != nil {
		return err
	}
	switch v := v.(type) {
	case string:
		quote(b, v)
		return nil
	case safe:
		quote(b, string(v))
		return nil
	case []any:
		return r.reprList(b, "[", v, "]", depth)
	case *grouped:
		b.WriteString("GroupedResult(grouper=")
		if err := r.repr(b, v.grouper, depth+1); err != nil {
			return err
		}
		b.WriteString(", list=")
		if err := r.reprList(b, "[", v.list, "]", depth+1); err != nil {
			return err
		}
		b.WriteByte(')')
		return nil
	case map[string]any:
		return r.reprMap(b, v, depth)
	case *loop:
		return r.reprMap(b, v.fields(), depth)
	}
	s, err := r.str(v)
	b.WriteString(s)
	return err
}

func (r *run) reprList(b *strings.Builder, open string, list []any, close string, depth int) error {
	b.WriteString(open)
	for i, item := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		if err := r.repr(b, item, depth+1); err != nil {
			return err
		}
	}
	b.WriteString(close)
	return nil
}

func (r *run) reprMap(b *strings.Builder, m map[string]any, depth int) error {
	b.WriteByte('{')
	for i, k := range keys(m) {
		if i > 0 {
			b.WriteString(", ")
		}
		quote(b, k)
		b.WriteString(": ")
		if err := r.repr(b, m[k], depth+1); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

// quote writes a string as Python's repr() does.
func quote(b *strings.Builder, s string) {
	q := '\''
	if strings.ContainsRune(s, '\'') && !strings.ContainsRune(s, '"') {
		q = '"'
	}
	b.WriteRune(q)
	for _, c := range s {
		switch {
		case c == q || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(c):
			b.WriteRune(c)
		case c < 0x100:
			fmt.Fprintf(b, `\x%02x`, c)
		case c < 0x10000:
			fmt.Fprintf(b, `\u%04x`, c)
		default:
			fmt.Fprintf(b, `\U%08x`, c)
		}
	}
	b.WriteRune(q)
}
