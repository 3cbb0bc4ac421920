package render

import (
	"encoding/base64"
	"fmt"
	"math"
	"unicode/utf8"
)

// extraFilters are not Django's: they are those that templates of the marketing
// systems bring along.
func extraFilters() []filter {
	return []filter{
		{name: "abs", fn: absolute},
		{name: "append", arg: needsArg, fn: appendTo},
		{name: "at_least", arg: needsArg, fn: func(_ *run, in, arg any) (any, error) { return bound(in, arg, 1) }},
		{name: "at_most", arg: needsArg, fn: func(_ *run, in, arg any) (any, error) { return bound(in, arg, -1) }},
		{name: "base64_encode", text: true, fn: of(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) })},
		{name: "base64_decode", text: true, fn: decodeWith(base64.StdEncoding)},
		{name: "base64_url_safe_encode", text: true, fn: of(func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) })},
		{name: "base64_url_safe_decode", text: true, fn: decodeWith(base64.URLEncoding)},
		{name: "capitalize", text: true, safe: true, fn: of(capitalize)},
		{name: "ceil", fn: ceil},
		{name: "compact", fn: compact},
		{name: "concat", arg: needsArg, fn: appendTo},
		{name: "count", fn: func(_ *run, in, _ any) (any, error) { n, _ := length(in); return int64(n), nil }},
		{name: "floatadd", arg: needsArg, fn: arithmetic(func(a, b float64) float64 { return a + b })},
		{name: "multiply", arg: needsArg, fn: arithmetic(func(a, b float64) float64 { return a * b })},
		{name: "lookup", arg: needsArg, fn: lookupKey},
	}
}

// numberOf returns a number as it is, or read from a text.
func numberOf(v any) (any, error) {
	if _, ok := asFloat(v); ok {
		if b, isBool := v.(bool); isBool {
			return boolInt(b), nil
		}
		return v, nil
	}
	if n, err := toInt(v); err == nil {
		return n, nil
	}
	return toFloatAny(v)
}

func toFloatAny(v any) (any, error) {
	f, err := toFloat(v)
	return f, err
}

// absolute and the other number filters show nothing for what is no number, as
// Django's floatformat does.
func absolute(_ *run, in, _ any) (any, error) {
	v, err := numberOf(in)
	if err != nil {
		return "", nil
	}
	if n, ok := v.(int64); ok {
		if n == math.MinInt64 {
			return nil, errRange
		}
		return max(n, -n), nil
	}
	return math.Abs(v.(float64)), nil
}

// bound returns the larger (sign 1) or smaller (sign -1) of two numbers.
func bound(in, arg any, sign float64) (any, error) {
	a, aerr := numberOf(in)
	b, berr := numberOf(arg)
	if aerr != nil || berr != nil {
		return "", nil
	}
	x, _ := asFloat(a)
	y, _ := asFloat(b)
	if (x-y)*sign < 0 {
		return b, nil
	}
	return a, nil
}

// arithmetic makes a filter that computes with integers as long as both are.
func arithmetic(op func(a, b float64) float64) func(*run, any, any) (any, error) {
	return func(_ *run, in, arg any) (any, error) {
		a, aerr := numberOf(in)
		b, berr := numberOf(arg)
		if aerr != nil || berr != nil {
			return "", nil
		}
		x, _ := asFloat(a)
		y, _ := asFloat(b)
		result := op(x, y)
		_, aInt := a.(int64)
		_, bInt := b.(int64)
		if aInt && bInt && math.Abs(result) < 1<<53 {
			return int64(result), nil
		}
		return result, nil
	}
}

// ceil rounds up and keeps ".0", as the system it comes from documents.
func ceil(_ *run, in, _ any) (any, error) {
	f, err := toFloat(in)
	if err != nil {
		return "", nil
	}
	return floatRepr(math.Ceil(f)), nil
}

func compact(_ *run, in, _ any) (any, error) {
	list, ok := in.([]any)
	if !ok {
		return in, nil
	}
	out := make([]any, 0, len(list))
	for _, v := range list {
		if v != nil {
			out = append(out, v)
		}
	}
	return out, nil
}

// appendTo joins two lists, or puts the text of one value behind the other's.
func appendTo(r *run, in, arg any) (any, error) {
	if x, ok := in.([]any); ok {
		if y, ok := arg.([]any); ok {
			return r.concatLists(x, y)
		}
		return r.concatLists(x, []any{arg})
	}
	a, err := r.str(in)
	if err != nil {
		return nil, err
	}
	b, err := r.str(arg)
	if err != nil {
		return nil, err
	}
	if err := r.room(len(a) + len(b)); err != nil {
		return nil, err
	}
	return a + b, nil
}

// decodeWith makes a filter that decodes; what is not valid, or no text, shows
// as nothing.
func decodeWith(enc *base64.Encoding) func(*run, any, any) (any, error) {
	return func(_ *run, in, _ any) (any, error) {
		b, err := enc.DecodeString(text(in))
		if err != nil || !utf8.Valid(b) {
			return "", nil
		}
		return string(b), nil
	}
}

// lookupKey is a lookup by a key that cannot stand in a path, such as one with
// spaces: person|lookup:'Key With Space'.
func lookupKey(r *run, in, arg any) (any, error) {
	name, err := r.str(arg)
	if err != nil {
		return nil, err
	}
	if len(name) > 0 && name[0] == '_' {
		return nil, fmt.Errorf("names may not begin with underscores")
	}
	if v, ok := r.member(in, name); ok {
		return v, nil
	}
	return "", nil
}
