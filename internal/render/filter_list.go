package render

import (
	"errors"
	"slices"
	"strings"
)

func listFilters() []filter {
	return []filter{
		{name: "first", fn: func(r *run, in, _ any) (any, error) { return end(in, 0) }},
		{name: "last", safe: true, fn: func(r *run, in, _ any) (any, error) { return end(in, -1) }},
		{name: "join", arg: needsArg, safe: true, fn: join},
		{name: "length", fn: func(_ *run, in, _ any) (any, error) { n, _ := length(in); return int64(n), nil }},
		{name: "length_is", arg: needsArg, fn: lengthIs},
		{name: "slice", arg: needsArg, safe: true, fn: slice},
		{name: "dictsort", arg: needsArg, fn: func(r *run, in, arg any) (any, error) { return dictsort(r, in, arg, false) }},
		{name: "dictsortreversed", arg: needsArg, fn: func(r *run, in, arg any) (any, error) { return dictsort(r, in, arg, true) }},
		{name: "unordered_list", safe: true, fn: unorderedList},
	}
}

// end returns the first item (at 0) or the last (-1), "" if there is none.
func end(v any, at int) (any, error) {
	switch v := v.(type) {
	case []any:
		if len(v) == 0 {
			return "", nil
		}
		if at < 0 {
			at = len(v) - 1
		}
		return v[at], nil
	case string, safe:
		c := []rune(text(v))
		if len(c) == 0 {
			return "", nil
		}
		if at < 0 {
			at = len(c) - 1
		}
		return string(c[at]), nil
	case *grouped:
		return end([]any{v.grouper, v.list}, at)
	}
	return nil, errType
}

// join: without escaping only a list of texts can be joined, as in Python; any
// other value passes through.
func join(r *run, in, arg any) (any, error) {
	list, err := r.items(in)
	if errors.Is(err, errNotIterable) {
		return in, nil
	}
	if err != nil {
		return nil, err
	}
	sep, err := r.conditional(arg)
	if err != nil {
		return nil, err
	}
	e := expand{r: r}
	for i, v := range list {
		if i > 0 {
			e.add(sep)
		}
		s := text(v)
		if r.escape {
			if s, err = r.conditional(v); err != nil {
				return nil, err
			}
		} else if !isText(v) {
			return in, nil
		}
		if !e.add(s) {
			break
		}
	}
	return safe(e.b.String()), e.err
}

func lengthIs(_ *run, in, arg any) (any, error) {
	n, ok := length(in)
	want, err := toInt(arg)
	if !ok || err != nil {
		return "", nil
	}
	return int64(n) == want, nil
}

// slice is Python's value[start:stop:step].
func slice(_ *run, in, arg any) (any, error) {
	var list []any
	var chars []rune
	n := 0
	switch v := in.(type) {
	case []any:
		list, n = v, len(v)
	case string, safe:
		chars = []rune(text(v))
		n = len(chars)
	default:
		return in, nil
	}
	bounds, ok := parseSlice(arg)
	if !ok {
		return in, nil
	}
	at := bounds.indices(n)
	if chars != nil || isText(in) {
		out := make([]rune, 0, len(at))
		for _, i := range at {
			out = append(out, chars[i])
		}
		return string(out), nil
	}
	out := make([]any, 0, len(at))
	for _, i := range at {
		out = append(out, list[i])
	}
	return out, nil
}

// bounds are start, stop and step; nil is left out.
type bounds [3]*int

func parseSlice(arg any) (b bounds, ok bool) {
	var parts []string
	switch arg := arg.(type) {
	case string, safe:
		parts = strings.Split(text(arg), ":")
	case int64:
		parts = []string{itoa(arg)}
	default:
		return b, false
	}
	if len(parts) > 3 {
		return b, false
	}
	for i, s := range parts {
		if s == "" {
			continue
		}
		n, err := parseInt(s)
		if err != nil {
			return b, false
		}
		small := int(min(max(n, -1<<40), 1<<40))
		b[i] = &small
	}
	if len(parts) == 1 {
		b[0], b[1] = nil, b[0]
	}
	return b, b[2] == nil || *b[2] != 0
}

// indices lists what the slice takes out of n items.
func (b bounds) indices(n int) []int {
	step := 1
	if b[2] != nil {
		step = *b[2]
	}
	low, high := 0, n
	if step < 0 {
		low, high = -1, n-1
	}
	place := func(p *int, none int) int {
		if p == nil {
			return none
		}
		i := *p
		if i < 0 {
			i += n
		}
		return min(max(i, low), high)
	}
	start, stop := place(b[0], low), place(b[1], high)
	if step < 0 {
		start, stop = place(b[0], high), place(b[1], low)
	}
	var at []int
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		at = append(at, i)
	}
	return at
}

// dictsort sorts by a key, a path of keys or an index; "" if it cannot be done.
func dictsort(r *run, in, arg any, reversed bool) (any, error) {
	list, err := r.items(in)
	if errors.Is(err, errNotIterable) {
		return "", nil
	}
	if err != nil {
		return nil, err
	}
	if isText(arg) && text(arg) == "" {
		return nil, errors.New("the key is empty")
	}
	type pair struct{ by, item any }
	pairs := make([]pair, 0, len(list))
	for _, item := range list {
		by, ok := r.property(item, arg)
		if _, byIndex := arg.(int64); !ok && byIndex && lacksIndex(item) {
			return nil, errors.New("an item has too few items")
		}
		if !ok {
			return "", nil
		}
		pairs = append(pairs, pair{by, item})
	}
	var failed error
	slices.SortStableFunc(pairs, func(a, b pair) int {
		c, err := r.compare(a.by, b.by, 0)
		if err != nil {
			failed = err
		}
		if reversed {
			return -c
		}
		return c
	})
	if failed != nil {
		if r.over() {
			return nil, failed
		}
		return "", nil
	}
	out := make([]any, len(pairs))
	for i, p := range pairs {
		out[i] = p.item
	}
	return out, nil
}

// lacksIndex: an index that such an item does not have is an error, not just a
// value that cannot be sorted.
func lacksIndex(item any) bool {
	switch item.(type) {
	case []any, string, safe, map[string]any:
		return true
	}
	return false
}

// property is the sort key of an item.
func (r *run) property(item, arg any) (any, bool) {
	if i, ok := arg.(int64); ok {
		n, has := length(item)
		if i < 0 {
			i += int64(n)
		}
		if !has || i < 0 || i >= int64(n) {
			return nil, false
		}
		return r.member(item, itoa(i))
	}
	name := text(arg)
	if name == "" || name[0] == '_' || strings.Contains(name, "._") {
		return nil, false
	}
	v, ok := item, true
	for _, part := range strings.Split(name, ".") {
		if _, isList := v.([]any); isList || isText(v) {
			return nil, false
		}
		if v, ok = r.member(v, part); !ok {
			return nil, false
		}
	}
	return v, true
}

func unorderedList(r *run, in, _ any) (any, error) {
	list, err := r.items(in)
	if err != nil {
		return nil, err
	}
	e := expand{r: r}
	err = r.writeItems(&e, list, 1)
	return safe(e.b.String()), err
}

// writeItems writes list items; a list behind an item is its sublist.
func (r *run) writeItems(e *expand, list []any, tabs int) error {
	if tabs > maxDepth {
		return errors.New("the list is nested too deeply")
	}
	indent := strings.Repeat("\t", tabs)
	for i := 0; i < len(list); i++ {
		if err := r.tick(1); err != nil {
			return err
		}
		if i > 0 {
			e.add("\n")
		}
		s, err := r.str(list[i])
		if err != nil {
			return err
		}
		if _, ok := list[i].(safe); r.escape && !ok {
			s = escape(s)
		}
		e.add(indent, "<li>", s)
		if i+1 < len(list) {
			if sub, ok := list[i+1].([]any); ok {
				i++
				if err := r.writeSublist(e, sub, indent, tabs); err != nil {
					return err
				}
			}
		}
		if !e.add("</li>") {
			return e.err
		}
	}
	return nil
}

func (r *run) writeSublist(e *expand, sub []any, indent string, tabs int) error {
	if len(sub) == 0 {
		return nil
	}
	e.add("\n", indent, "<ul>\n")
	if err := r.writeItems(e, sub, tabs+1); err != nil {
		return err
	}
	e.add("\n", indent, "</ul>\n", indent)
	return e.err
}
