package wire

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

func pointerReader(t reflect.Type) (reader, error) {
	elem, err := readerOf(t.Elem())
	if err != nil {
		return nil, err
	}
	return func(s *scanner, v reflect.Value) *DecodeError {
		if s.word("null") {
			return nil
		}
		v.Set(reflect.New(t.Elem()))
		return elem(s, v.Elem())
	}, nil
}

func sliceReader(t reflect.Type) (reader, error) {
	elem, err := readerOf(t.Elem())
	if err != nil {
		return nil, err
	}
	return func(s *scanner, v reflect.Value) *DecodeError {
		if s.word("null") {
			return nil
		}
		return s.array(func(i int) *DecodeError {
			if i == v.Cap() {
				v.Grow(max(4, i))
			}
			v.SetLen(i + 1)
			return elem(s, v.Index(i))
		})
	}, nil
}

func mapReader(t reflect.Type) (reader, error) {
	if t.Key().Kind() != reflect.String {
		return nil, fmt.Errorf("cannot decode %v: keys must be strings", t)
	}
	elem, err := readerOf(t.Elem())
	if err != nil {
		return nil, err
	}
	return func(s *scanner, v reflect.Value) *DecodeError {
		if s.word("null") {
			return nil
		}
		v.Set(reflect.MakeMap(t))
		return s.members(func(key, _ []byte) *DecodeError {
			name := reflect.ValueOf(string(key)).Convert(t.Key())
			if v.MapIndex(name).IsValid() {
				return s.fail(CodeDuplicateField, "occurs twice")
			}
			value := reflect.New(t.Elem()).Elem()
			if err := elem(s, value); err != nil {
				return err
			}
			v.SetMapIndex(name, value)
			return nil
		})
	}, nil
}

// structField is one member that a struct knows.
type structField struct {
	bit   uint64 // for finding duplicates
	index []int
	read  reader
}

func structReader(t reflect.Type) (reader, error) {
	fields := map[string]structField{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Anonymous || name == "" || name == "-" {
			continue
		}
		read, err := readerOf(f.Type)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", name, err)
		}
		if len(fields) == 64 {
			return nil, fmt.Errorf("%v has more than 64 fields", t)
		}
		fields[name] = structField{bit: 1 << len(fields), index: f.Index, read: read}
	}
	return func(s *scanner, v reflect.Value) *DecodeError {
		var seen uint64
		return s.members(func(key, _ []byte) *DecodeError {
			f, known := fields[string(key)]
			if !known {
				return s.fail(CodeUnknownField, "is not a field here; known fields: "+names(fields))
			}
			if seen&f.bit != 0 {
				return s.fail(CodeDuplicateField, "occurs twice")
			}
			seen |= f.bit
			return f.read(s, v.FieldByIndex(f.index))
		})
	}, nil
}

func names(fields map[string]structField) string {
	list := make([]string, len(fields))
	for name, f := range fields {
		at := 0
		for bit := f.bit; bit > 1; bit >>= 1 {
			at++
		}
		list[at] = name
	}
	return strings.Join(list, ", ")
}

// array calls element for each element; element must consume it.
func (s *scanner) array(element func(i int) *DecodeError) *DecodeError {
	if !s.take('[') {
		return s.wrong("an array")
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.space()
	if s.take(']') {
		s.depth--
		return nil
	}
	for i := 0; ; i++ {
		s.space()
		if err := element(i); err != nil {
			return err.under(strconv.Itoa(i))
		}
		s.space()
		if s.take(']') {
			s.depth--
			return nil
		}
		if !s.take(',') {
			return s.broken("want , or ]")
		}
	}
}

// members calls member for each member of an object with its key, unescaped
// (valid only until the member's value is read) and as it is written.
func (s *scanner) members(member func(key, raw []byte) *DecodeError) *DecodeError {
	if !s.take('{') {
		return s.wrong("an object")
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.space()
	if s.take('}') {
		s.depth--
		return nil
	}
	for {
		s.space()
		start := s.pos
		key, err := s.text("a field name in quotes")
		if err != nil {
			return err
		}
		raw := s.data[start:s.pos]
		s.space()
		if !s.take(':') {
			return s.broken("want : after a field name")
		}
		s.space()
		if err := member(key, raw); err != nil {
			return err.under(keyName(raw))
		}
		s.space()
		if s.take('}') {
			s.depth--
			return nil
		}
		if !s.take(',') {
			return s.broken("want , or }")
		}
	}
}

// keyName reads the field name again for an error, since the unescaped form
// may be overwritten by then.
func keyName(token []byte) string {
	again := scanner{data: token}
	name, err := again.text("")
	if err != nil {
		return ""
	}
	return string(name)
}
