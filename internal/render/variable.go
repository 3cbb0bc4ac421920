package render

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// maxVarDepth is how deep variables may nest. A map that holds itself is refused by it.
const maxVarDepth = maxDepth / 2

// admit checks that a variable is made of the allowed types only. It copies nothing.
func admit(v any, depth int) error {
	if depth > maxVarDepth {
		return fmt.Errorf("is nested deeper than %d", maxVarDepth)
	}
	switch v := v.(type) {
	case nil, string, bool, int64, float64, time.Time, json.Number,
		int, int32, int16, int8, uint, uint64, uint32, uint16, uint8, float32,
		[]string, map[string]string:
		return nil
	case map[string]any:
		for k, item := range v {
			if err := admit(item, depth+1); err != nil {
				return fmt.Errorf(".%s %w", clip(k), err)
			}
		}
		return nil
	case []any:
		for i, item := range v {
			if err := admit(item, depth+1); err != nil {
				return fmt.Errorf(".%d %w", i, err)
			}
		}
		return nil
	case []map[string]any:
		for i, item := range v {
			if err := admit(item, depth+1); err != nil {
				return fmt.Errorf(".%d %w", i, err)
			}
		}
		return nil
	}
	return fmt.Errorf("has a type that templates cannot use: %T", v)
}

// variable follows a path of lookups; ok is false where it leads nowhere.
func (r *run) variable(path []string) (v any, ok bool) {
	v, ok = r.lookup(path[0])
	for _, name := range path[1:] {
		if !ok {
			return nil, false
		}
		v, ok = r.member(v, name)
	}
	return v, ok
}

// lookup finds a name in the frames, then in the variables.
func (r *run) lookup(name string) (any, bool) {
	for i := len(r.scopes) - 1; i >= 0; i-- {
		if r.scopes[i].name == name {
			return r.scopes[i].value, true
		}
	}
	if r.loop != nil && name == "forloop" {
		return r.loop, true
	}
	if v, ok := r.vars[name]; ok {
		return r.known(name, v), true
	}
	switch name {
	case "True":
		return true, true
	case "False":
		return false, true
	case "None":
		return nil, true
	}
	return nil, false
}

// known converts a variable to the types of value.go, once in a run.
func (r *run) known(name string, v any) any {
	switch v.(type) {
	case string, bool, nil, int64, time.Time:
		return v
	case map[string]any, []any, map[string]string, []string, []map[string]any:
	default:
		c, _ := convert(v)
		return c
	}
	for i := range r.converted {
		if r.converted[i].name == name {
			return r.converted[i].value
		}
	}
	c, _ := convert(v)
	r.converted = append(r.converted, binding{name, c})
	return c
}

// convert returns an admitted value in the types of value.go. Lists and maps are
// copied only if something in them changes.
func convert(v any) (w any, changed bool) {
	switch v := v.(type) {
	case float64:
		return wholeFloat(v)
	case float32:
		w, _ := wholeFloat(float64(v))
		return w, true
	case json.Number:
		return jsonNumber(v), true
	case int:
		return int64(v), true
	case int32:
		return int64(v), true
	case int16:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint:
		return unsigned(uint64(v)), true
	case uint64:
		return unsigned(v), true
	case uint32:
		return int64(v), true
	case uint16:
		return int64(v), true
	case uint8:
		return int64(v), true
	case []any:
		return convertList(v)
	case map[string]any:
		return convertMap(v)
	case []string:
		return listOf(v, func(s string) any { return s }), true
	case []map[string]any:
		return listOf(v, func(m map[string]any) any { w, _ := convertMap(m); return w }), true
	case map[string]string:
		m := make(map[string]any, len(v))
		for k, s := range v {
			m[k] = s
		}
		return m, true
	}
	return v, false
}

func listOf[T any](list []T, conv func(T) any) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = conv(v)
	}
	return out
}

func convertList(list []any) (any, bool) {
	var changed []any
	for i, v := range list {
		w, ok := convert(v)
		if !ok {
			continue
		}
		if changed == nil {
			changed = append([]any(nil), list...)
		}
		changed[i] = w
	}
	if changed == nil {
		return list, false
	}
	return changed, true
}

func convertMap(m map[string]any) (any, bool) {
	var changed map[string]any
	for k, v := range m {
		w, ok := convert(v)
		if !ok {
			continue
		}
		if changed == nil {
			changed = make(map[string]any, len(m))
			for k, v := range m {
				changed[k] = v
			}
		}
		changed[k] = w
	}
	if changed == nil {
		return m, false
	}
	return changed, true
}

// wholeFloat makes an integer of a float without fraction: a JSON decoder makes
// float64 of every number, and a count of 5 must not print as 5.0.
func wholeFloat(f float64) (any, bool) {
	const exact = 1 << 53
	if f == math.Trunc(f) && math.Abs(f) < exact {
		return int64(f), true
	}
	return f, false
}

// jsonNumber keeps what was written: 5 is an integer, 5.0 a float. An integer of
// more than 64 bits is kept as text, which prints right.
func jsonNumber(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	if f, err := n.Float64(); err == nil && !isInteger(string(n)) {
		return f
	}
	return string(n)
}

func isInteger(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

func unsigned(u uint64) any {
	if u <= math.MaxInt64 {
		return int64(u)
	}
	return json.Number(fmt.Sprint(u)).String()
}
