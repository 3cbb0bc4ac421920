package render

import (
	"cmp"
	"errors"
	"reflect"
	"strings"
	"time"
)

// equal is Python's ==. Numbers are equal across types, and True is 1.
func (r *run) equal(a, b any, depth int) (bool, error) {
	if depth > maxDepth {
		return false, errors.New("the value is nested too deeply")
	}
	if err := r.tick(1); err != nil {
		return false, err
	}
	if isText(a) && isText(b) {
		return text(a) == text(b), nil
	}
	if x, ok := asInt(a); ok {
		if y, ok := asInt(b); ok {
			return x == y, nil
		}
	}
	if x, ok := asFloat(a); ok {
		y, ok := asFloat(b)
		return ok && x == y, nil
	}
	switch a := a.(type) {
	case nil:
		return b == nil, nil
	case []any:
		if b, ok := b.([]any); ok {
			return r.equalLists(a, b, depth)
		}
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			return r.equalMaps(a, b, depth)
		}
	case time.Time:
		b, ok := b.(time.Time)
		return ok && a.Equal(b), nil
	case *loop:
		b, ok := b.(*loop)
		return ok && a == b, nil
	case *grouped:
		if b, ok := b.(*grouped); ok {
			return r.equalLists([]any{a.grouper, a.list}, []any{b.grouper, b.list}, depth)
		}
	}
	return false, nil
}

func (r *run) equalLists(a, b []any, depth int) (bool, error) {
	if len(a) != len(b) {
		return false, nil
	}
	for i := range a {
		if ok, err := r.equal(a[i], b[i], depth+1); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (r *run) equalMaps(a, b map[string]any, depth int) (bool, error) {
	if len(a) != len(b) {
		return false, nil
	}
	for k, v := range a {
		w, ok := b[k]
		if !ok {
			return false, nil
		}
		if ok, err := r.equal(v, w, depth+1); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// compare orders two values; the error is errType where Python's < raises.
func (r *run) compare(a, b any, depth int) (int, error) {
	if depth > maxDepth {
		return 0, errors.New("the value is nested too deeply")
	}
	if err := r.tick(1); err != nil {
		return 0, err
	}
	if isText(a) && isText(b) {
		return strings.Compare(text(a), text(b)), nil
	}
	if x, ok := asInt(a); ok {
		if y, ok := asInt(b); ok {
			return cmp.Compare(x, y), nil
		}
	}
	if x, ok := asFloat(a); ok {
		if y, ok := asFloat(b); ok {
			return cmp.Compare(x, y), nil
		}
		return 0, errType
	}
	if a, ok := a.([]any); ok {
		if b, ok := b.([]any); ok {
			return r.compareLists(a, b, depth)
		}
	}
	if a, ok := a.(time.Time); ok {
		if b, ok := b.(time.Time); ok {
			return a.Compare(b), nil
		}
	}
	return 0, errType
}

func (r *run) compareLists(a, b []any, depth int) (int, error) {
	for i := range min(len(a), len(b)) {
		same, err := r.equal(a[i], b[i], depth+1)
		if err != nil {
			return 0, err
		}
		if !same {
			return r.compare(a[i], b[i], depth+1)
		}
	}
	return cmp.Compare(len(a), len(b)), nil
}

// contains is Python's "v in container".
func (r *run) contains(container, v any) (bool, error) {
	switch c := container.(type) {
	case string, safe:
		if !isText(v) {
			return false, errType
		}
		if err := r.tick(len(text(c)) / 256); err != nil {
			return false, err
		}
		return strings.Contains(text(c), text(v)), nil
	case map[string]any:
		if !isText(v) {
			return false, nil
		}
		_, ok := c[text(v)]
		return ok, nil
	case []any:
		for _, item := range c {
			if ok, err := r.equal(item, v, 0); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	}
	return false, errType
}

// same is Python's "a is b", as far as it can be told: one None, one True, one
// False; lists and maps by identity; other values if type and value agree.
func same(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
	case string, safe:
		return isText(b) && text(a) == text(b)
	case time.Time:
		b, ok := b.(time.Time)
		return ok && a.Equal(b)
	}
	switch b.(type) {
	case []any, map[string]any:
		return false
	}
	return a == b
}
