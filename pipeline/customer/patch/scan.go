package patch

import (
	"bytes"
	"errors"
)

// ErrSyntax is returned for text that is not what was expected.
var ErrSyntax = errors.New("not a JSON object or list of the right form")

// Pick calls found for those members of an object, in any JSON text, whose names are wanted. It reads only as much as it needs to tell
// values apart: the text is to be valid.
func Pick(object []byte, names []string, found func(name string, value []byte)) error {
	return each(object, '{', func(name, value []byte) error {
		for _, n := range names {
			if len(name) == len(n)+2 && string(name[1:len(name)-1]) == n {
				found(n, value)
			}
		}
		return nil
	})
}

// each calls f for each member of an object, open being '{', or each element of a list, '['. Names have their quotes.
func each(text []byte, open byte, f func(name, value []byte) error) error {
	s := scan{b: text}
	if s.next() != open {
		return ErrSyntax
	}
	s.i++
	end := open + 2 // in ASCII
	for n := 0; ; n++ {
		switch c := s.next(); {
		case c == end:
			s.i++
			if s.next() != 0 || s.i < len(s.b) {
				return ErrSyntax
			}
			return nil
		case n > 0 && c != ',':
			return ErrSyntax
		case n > 0:
			s.i++
		}
		var name []byte
		if open == '{' {
			if s.next() != '"' {
				return ErrSyntax
			}
			if name = s.value(); name == nil || s.next() != ':' {
				return ErrSyntax
			}
			s.i++
		}
		v := s.value()
		if v == nil {
			return ErrSyntax
		}
		if err := f(name, v); err != nil {
			return err
		}
	}
}

type scan struct {
	b []byte
	i int
}

// next skips white space and returns the byte that follows; 0 at the end.
func (s *scan) next() byte {
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// value takes one value, or nil if there is none.
func (s *scan) value() []byte {
	s.next()
	begin, depth := s.i, 0
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case '"':
			if !s.text() {
				return nil
			}
		case '{', '[':
			depth++
			s.i++
		case '}', ']':
			if depth == 0 {
				return s.scalar(begin)
			}
			depth--
			s.i++
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return s.scalar(begin)
			}
			s.i++
			continue
		default:
			s.i++
			continue
		}
		if depth == 0 {
			return s.b[begin:s.i:s.i]
		}
	}
	if depth > 0 {
		return nil
	}
	return s.scalar(begin)
}

// scalar is what was passed of a number or a word.
func (s *scan) scalar(begin int) []byte {
	if s.i == begin {
		return nil
	}
	return s.b[begin:s.i:s.i]
}

// text passes a string.
func (s *scan) text() bool {
	for j := s.i + 1; ; {
		k := bytes.IndexByte(s.b[j:], '"')
		if k < 0 {
			return false
		}
		end := j + k
		escapes := 0
		for s.b[end-1-escapes] == '\\' {
			escapes++
		}
		if j = end + 1; escapes%2 == 0 {
			s.i = j
			return true
		}
	}
}
