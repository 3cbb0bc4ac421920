package render

import (
	"strings"
	"unicode"
)

// member is one lookup, "value.name": the key of a map, the index of a list or
// text, a field of a loop or group, or one of a few methods without argument
// that Python's values have. There is no reflection, so nothing else is reachable.
func (r *run) member(v any, name string) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		if item, ok := v[name]; ok {
			return item, true
		}
		return r.mapMethod(v, name)
	case []any:
		return listIndex(v, name)
	case *loop:
		return v.member(name)
	case *grouped:
		switch name {
		case "grouper", "0":
			return v.grouper, true
		case "list", "1":
			return v.list, true
		}
	case string, safe:
		if m, ok := textMethod(r, text(v), name); ok {
			return m, true
		}
		return runeIndex(text(v), name)
	}
	return nil, false
}

// mapMethod is items, keys and values of a dict.
func (r *run) mapMethod(m map[string]any, name string) (any, bool) {
	per := 16
	switch name {
	case "items":
		per = 96
	case "keys", "values":
	default:
		return nil, false
	}
	if r.charge(per*len(m)) != nil {
		return nil, false
	}
	list := make([]any, 0, len(m))
	for _, k := range keys(m) {
		switch name {
		case "items":
			list = append(list, []any{k, m[k]})
		case "keys":
			list = append(list, k)
		case "values":
			list = append(list, m[k])
		}
	}
	return list, true
}

// textMethod is the methods of a Python string that need no argument and that
// templates are known to use.
func textMethod(r *run, s, name string) (any, bool) {
	if name == "" || name[0] < 'a' || r.charge(len(s)) != nil {
		return nil, false
	}
	switch name {
	case "upper":
		return upper(s), true
	case "lower":
		return strings.ToLower(s), true
	case "title":
		return titleCase(s), true
	case "capitalize":
		return capitalize(strings.ToLower(s)), true
	case "strip":
		return strings.TrimSpace(s), true
	case "lstrip":
		return strings.TrimLeftFunc(s, unicode.IsSpace), true
	case "rstrip":
		return strings.TrimRightFunc(s, unicode.IsSpace), true
	case "split":
		return r.fields(s), true
	case "isdigit":
		return all(s, unicode.IsDigit), true
	case "isalpha":
		return all(s, unicode.IsLetter), true
	}
	return nil, false
}

func (r *run) fields(s string) []any {
	words := strings.Fields(s)
	if r.charge(32*len(words)) != nil {
		return nil
	}
	return listOf(words, func(w string) any { return w })
}

func all(s string, ok func(rune) bool) bool {
	for _, c := range s {
		if !ok(c) {
			return false
		}
	}
	return s != ""
}

func listIndex(list []any, name string) (any, bool) {
	i, ok := index(name)
	if !ok || i >= len(list) {
		return nil, false
	}
	return list[i], true
}

func runeIndex(s, name string) (any, bool) {
	i, ok := index(name)
	if !ok {
		return nil, false
	}
	for _, c := range s {
		if i == 0 {
			return string(c), true
		}
		i--
	}
	return nil, false
}

func index(name string) (int, bool) {
	if name == "" || !isDigit(name[0]) {
		return 0, false
	}
	i, err := parseInt(name)
	return int(i), err == nil
}
