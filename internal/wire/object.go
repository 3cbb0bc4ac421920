package wire

import (
	"bytes"
	"iter"
)

// Object is a JSON object kept as its bytes: validated once, without
// insignificant white space. It is how substitutions travel through the
// engine without being decoded before they are rendered.
type Object []byte

// MarshalJSON implements json.Marshaler; an unset object is null.
func (o Object) MarshalJSON() ([]byte, error) {
	if len(o) == 0 {
		return []byte("null"), nil
	}
	return o, nil
}

// UnmarshalJSON implements json.Unmarshaler for clients; servers read with a Decoder.
func (o *Object) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*o = nil
		return nil
	}
	s := scanner{data: b}
	out, err := s.object()
	if err != nil {
		return err
	}
	*o = out
	return nil
}

// JSONSchema describes an Object to package openapi.
func (Object) JSONSchema() string { return `{"type":"object","additionalProperties":true}` }

// Members yields the members of o in order: the key as it is written, in
// quotes, and the value. o must come from a Decoder or from Vars.
func (o Object) Members() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		if len(o) < 2 {
			return
		}
		s := scanner{data: o, pos: 1}
		for !s.take('}') {
			s.take(',')
			start := s.pos
			if _, _, err := s.quoted(); err != nil {
				return
			}
			key := o[start:s.pos]
			s.take(':')
			start = s.pos
			if s.skip(); s.pos == start || !yield(key, o[start:s.pos]) {
				return
			}
		}
	}
}

// skip passes over a value that is known to be valid and compact.
func (s *scanner) skip() {
	depth := 0
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case '"':
			if _, _, err := s.quoted(); err != nil {
				return
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return
			}
			depth--
		case ',':
			if depth == 0 {
				return
			}
		}
		s.pos++
	}
}

// KeyName is the meaning of a key that Members yielded.
func KeyName(quoted []byte) string {
	raw := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	return string(unescape(nil, raw))
}

// Merge returns the members of base that over does not have, then those of over.
func Merge(base, over Object) Object {
	if len(base) <= len("{}") {
		return over
	}
	if len(over) <= len("{}") {
		return base
	}
	own := map[string]struct{}{}
	for key := range over.Members() {
		own[KeyName(key)] = struct{}{}
	}
	out := make(Object, 0, len(base)+len(over))
	out = append(out, '{')
	for key, value := range base.Members() {
		if _, hidden := own[KeyName(key)]; !hidden {
			out = append(append(append(append(out, key...), ':'), value...), ',')
		}
	}
	return append(out, over[1:]...)
}

// fewKeys is up to how many members duplicates are looked for by comparing
// all of them; above it a map is cheaper.
const fewKeys = 16

// object reads a free object and returns a compact copy.
func (s *scanner) object() (Object, *DecodeError) {
	if s.pos >= len(s.data) || s.data[s.pos] != '{' {
		return nil, s.wrong("an object")
	}
	// Built in the scanner's own buffer, so that what is kept is exactly as long as needed.
	out, err := s.free(s.compact[:0])
	if err != nil {
		return nil, err
	}
	s.compact = out
	return bytes.Clone(out), nil
}

// free appends the value at the scanner's position to out, compacted.
func (s *scanner) free(out []byte) ([]byte, *DecodeError) {
	start := s.pos
	if start >= len(s.data) {
		return nil, s.broken("want a value")
	}
	switch c := s.data[start]; {
	case c == '{':
		return s.freeObject(out)
	case c == '[':
		return s.freeArray(out)
	case c == '"':
		if _, _, err := s.quoted(); err != nil {
			return nil, err
		}
	case c == '-' || c >= '0' && c <= '9':
		if _, err := s.number(); err != nil {
			return nil, err
		}
	case s.word("true"), s.word("false"), s.word("null"):
	default:
		return nil, s.broken("want a value")
	}
	return append(out, s.data[start:s.pos]...), nil
}

func (s *scanner) freeArray(out []byte) ([]byte, *DecodeError) {
	out = append(out, '[')
	err := s.array(func(i int) (err *DecodeError) {
		if i > 0 {
			out = append(out, ',')
		}
		out, err = s.free(out)
		return err
	})
	return append(out, ']'), err
}

func (s *scanner) freeObject(out []byte) ([]byte, *DecodeError) {
	out = append(out, '{')
	seen := keySet{base: len(s.keys)}
	err := s.members(func(key, raw []byte) (err *DecodeError) {
		if !s.remember(&seen, key, len(raw) != len(key)+2) {
			return s.fail(CodeDuplicateField, "occurs twice")
		}
		if out[len(out)-1] != '{' {
			out = append(out, ',')
		}
		out = append(append(out, raw...), ':')
		out, err = s.free(out)
		return err
	})
	s.keys = s.keys[:seen.base]
	return append(out, '}'), err
}

// keySet is the keys that one free object has had so far: those on the
// scanner's stack from base on, or many when there are more than a few.
type keySet struct {
	base int
	many map[string]struct{}
}

// remember adds key and reports whether it is new; fleeting keys are copied.
func (s *scanner) remember(set *keySet, key []byte, fleeting bool) bool {
	if set.many == nil {
		for _, k := range s.keys[set.base:] {
			if bytes.Equal(k, key) {
				return false
			}
		}
		if len(s.keys)-set.base < fewKeys {
			if fleeting {
				key = bytes.Clone(key)
			}
			s.keys = append(s.keys, key)
			return true
		}
		set.many = make(map[string]struct{}, 2*fewKeys)
		for _, k := range s.keys[set.base:] {
			set.many[string(k)] = struct{}{}
		}
	}
	if _, dup := set.many[string(key)]; dup {
		return false
	}
	set.many[string(key)] = struct{}{}
	return true
}
