// Package patch changes JSON objects the way the API's clients ask for: members that are given are set, null
// takes them away, and lists get and lose values.
package patch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxList is the number of values that a list has at most; what is appended beyond it is dropped.
const MaxList = 4000

// Member is one name and value of an object.
type Member struct {
	Name  string // without escapes
	name  []byte // as it stands in the text, with its quotes
	Value []byte // compact JSON
}

// Object is a JSON object whose members stand in the order in which they came first.
type Object []Member

// Parse reads a JSON object from outside; nothing at all is an empty one. Of members with the same name the last one counts. The object may
// share the memory of text.
func Parse(text []byte) (Object, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if o, ok := tight(text); ok {
		return o, nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, err
	}
	return Load(b.Bytes())
}

// Load is Parse for text that Append wrote.
func Load(text []byte) (Object, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if o, ok := tight(text); ok {
		return o, nil
	}
	var out Object
	err := each(text, '{', func(name, value []byte) error {
		m := Member{name: name, Value: value}
		if err := m.setName(string(name)); err != nil {
			return err
		}
		out.set(m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// setName takes the name as it stands in the text, with its quotes.
func (m *Member) setName(quoted string) error {
	if strings.IndexByte(quoted, '\\') < 0 {
		m.Name = quoted[1 : len(quoted)-1]
		return nil
	}
	var name string // a pointer to the member would move every one to the heap
	err := json.Unmarshal(m.name, &name)
	m.Name = name
	return err
}

// room is how many members an object may have; more are made room for as they come.
func room(text []byte) int { return min(bytes.Count(text, []byte{','})+1, 16) }

// Append appends the object as compact JSON.
func (o Object) Append(b []byte) []byte {
	b = append(slices.Grow(b, o.size()), '{')
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, m.name...)
		b = append(b, ':')
		b = append(b, m.Value...)
	}
	return append(b, '}')
}

// size is how long the text of the object is; that of an empty one is a byte longer.
func (o Object) size() int {
	size := 1
	for i := range o {
		size += len(o[i].name) + len(o[i].Value) + len(":,")
	}
	return size
}

// Get returns the value of a name, or nil.
func (o Object) Get(name string) []byte {
	if i := o.index(name); i >= 0 {
		return o[i].Value
	}
	return nil
}

func (o Object) index(name string) int {
	for i := range o {
		if o[i].Name == name {
			return i
		}
	}
	return -1
}

func (o *Object) set(m Member) {
	if i := o.index(m.Name); i >= 0 {
		(*o)[i].Value = m.Value
		return
	}
	*o = append(*o, m)
}

// Remove takes a name away.
func (o *Object) Remove(name string) {
	if i := o.index(name); i >= 0 {
		*o = slices.Delete(*o, i, i+1)
	}
}

// isNull reports whether a value is null.
func isNull(v []byte) bool { return string(v) == "null" }

// Set sets the members of a change; null takes away. The change is not to be used after it.
func (o *Object) Set(change Object) {
	if len(*o) == 0 && !change.hasNull() {
		*o = change
		return
	}
	for _, m := range change {
		if isNull(m.Value) {
			o.Remove(m.Name)
		} else {
			o.set(m)
		}
	}
}

func (o Object) hasNull() bool {
	return slices.ContainsFunc(o, func(m Member) bool { return isNull(m.Value) })
}

// Settled reports whether setting the object in an empty one gives its text: no member is null, or named twice.
func Settled(text []byte) bool {
	o, ok := tight(text)
	return ok && len(o) > 0 && !o.hasNull() && o.size() == len(text)
}

// Fill sets those members that are not there yet.
func (o *Object) Fill(other Object) {
	for _, m := range other {
		if o.index(m.Name) < 0 {
			*o = append(*o, m)
		}
	}
}

// Extend appends to lists: a value, or each of a list of values. What is not there becomes a list, and what is
// no list becomes the first of one.
func (o *Object) Extend(change Object) error {
	for _, m := range change {
		if isNull(m.Value) {
			continue
		}
		list, err := elements(o.Get(m.Name))
		if err != nil {
			return err
		}
		more, err := elements(m.Value)
		if err != nil {
			return err
		}
		more = more[:min(len(more), max(0, MaxList-len(list)))]
		o.set(Member{Name: m.Name, name: m.name, Value: array(append(list, more...))})
	}
	return nil
}

// Reduce takes a value, or each of a list of values, out of lists wherever they are in them. What is no list is left alone.
func (o *Object) Reduce(change Object) error {
	for _, m := range change {
		i := o.index(m.Name)
		if i < 0 || (*o)[i].Value[0] != '[' {
			continue
		}
		list, err := elements((*o)[i].Value)
		if err != nil {
			return err
		}
		gone, err := elements(m.Value)
		if err != nil {
			return err
		}
		before := len(list)
		list = slices.DeleteFunc(list, func(v []byte) bool {
			return slices.ContainsFunc(gone, func(g []byte) bool { return same(g, v) })
		})
		if len(list) < before {
			(*o)[i].Value = array(list)
		}
	}
	return nil
}

// Unset takes names away: text is one JSON string, or a list of them.
func (o *Object) Unset(text []byte) error {
	var names []string
	if err := json.Unmarshal(text, &names); err != nil {
		var one string
		if json.Unmarshal(text, &one) != nil {
			return fmt.Errorf("unset is neither a name nor a list of names: %w", err)
		}
		names = []string{one}
	}
	for _, n := range names {
		o.Remove(n)
	}
	return nil
}

// same reports whether two compact values are equal; strings are, however they are escaped.
func same(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if a[0] != '"' || b[0] != '"' {
		return false
	}
	var x, y string
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && x == y
}

// elements returns the values of a list; of something else, that itself; of nothing and null, none.
func elements(v []byte) ([][]byte, error) {
	switch {
	case len(v) == 0 || isNull(v):
		return nil, nil
	case v[0] != '[':
		return [][]byte{v}, nil
	}
	var out [][]byte
	err := each(v, '[', func(_, e []byte) error {
		out = append(out, e)
		return nil
	})
	return out, err
}

func array(values [][]byte) []byte {
	return append(append([]byte{'['}, bytes.Join(values, []byte{','})...), ']')
}

// With returns the object with one more member, or another value of it. The value is compact JSON.
func (o Object) With(name string, value []byte) (Object, error) {
	quoted, err := quote(name)
	if err != nil {
		return nil, err
	}
	o.set(Member{Name: name, name: quoted, Value: value})
	return o, nil
}

// quote is a name as JSON. Most have nothing that is to be escaped.
func quote(name string) ([]byte, error) {
	for i := range len(name) {
		if c := name[i]; c != '_' && c != '$' && c != ' ' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return json.Marshal(name)
		}
	}
	return append(append(append(make([]byte, 0, len(name)+2), '"'), name...), '"'), nil
}

// Plain is what stands between the quotes of a JSON string, if that is its text as it is: without escapes, and all of it UTF-8. It shares
// the value's memory.
func Plain(value []byte) ([]byte, bool) {
	if len(value) < 2 || value[0] != '"' {
		return nil, false
	}
	inner := value[1 : len(value)-1]
	ascii := true
	for _, c := range inner {
		if c == '\\' || c < ' ' {
			return nil, false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return inner, ascii || utf8.Valid(inner)
}
