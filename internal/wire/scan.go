package wire

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds nesting: deeper than any honest document, far from the end of the stack.
const maxDepth = 64

// scanner walks over one JSON document (RFC 8259).
type scanner struct {
	data    []byte
	pos     int
	depth   int
	scratch []byte   // unescaped strings
	compact []byte   // the free object being read
	keys    [][]byte // of the free objects being read, innermost last
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) word(w string) bool {
	if len(s.data)-s.pos >= len(w) && string(s.data[s.pos:s.pos+len(w)]) == w {
		s.pos += len(w)
		return true
	}
	return false
}

func (s *scanner) enter() *DecodeError {
	if s.depth++; s.depth > maxDepth {
		return s.fail(CodeTooDeep, "more than "+strconv.Itoa(maxDepth)+" levels of nesting")
	}
	return nil
}

func (s *scanner) fail(code, detail string) *DecodeError {
	return &DecodeError{Code: code, Detail: detail, Offset: s.pos}
}

// broken is for text that is not JSON.
func (s *scanner) broken(want string) *DecodeError {
	if s.pos >= len(s.data) {
		return s.fail(CodeInvalidJSON, "the document ends too early: "+want)
	}
	return s.fail(CodeInvalidJSON, "not JSON at "+strconv.QuoteRuneToASCII(rune(s.data[s.pos]))+": "+want)
}

// wrong is for JSON of another type than the field's, or no JSON at all.
func (s *scanner) wrong(want string) *DecodeError {
	if s.pos >= len(s.data) {
		return s.broken("want " + want)
	}
	switch c := s.data[s.pos]; {
	case c == '"', c == '{', c == '[', c == '-', c >= '0' && c <= '9',
		s.peek("true"), s.peek("false"), s.peek("null"):
		return s.fail(CodeWrongType, "must be "+want)
	}
	return s.broken("want " + want)
}

func (s *scanner) peek(w string) bool { return bytes.HasPrefix(s.data[s.pos:], []byte(w)) }

// text reads a string and returns it unescaped; the bytes are valid until the next call.
func (s *scanner) text(want string) ([]byte, *DecodeError) {
	if s.pos >= len(s.data) || s.data[s.pos] != '"' {
		return nil, s.wrong(want)
	}
	raw, escaped, err := s.quoted()
	if err != nil || !escaped {
		return raw, err
	}
	s.scratch = unescape(s.scratch[:0], raw)
	return s.scratch, nil
}

// quoted passes over a string, checks it and returns what is between the quotes.
func (s *scanner) quoted() (raw []byte, escaped bool, err *DecodeError) {
	s.pos++
	start, high := s.pos, false
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		switch {
		case c == '"':
			raw = s.data[start:s.pos]
			if high && !utf8.Valid(raw) {
				s.pos = start
				return nil, false, s.fail(CodeInvalidUTF8, "string is not UTF-8")
			}
			s.pos++
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return nil, false, err
			}
			continue
		case c < ' ':
			return nil, false, s.fail(CodeInvalidJSON, "control character in a string: write it as an escape")
		case c >= utf8.RuneSelf:
			high = true
		}
		s.pos++
	}
	return nil, false, s.fail(CodeInvalidJSON, "the document ends inside a string")
}

// escape passes over one escape sequence. A lone surrogate is refused: it has no UTF-8 form.
func (s *scanner) escape() *DecodeError {
	if s.pos+1 >= len(s.data) {
		return s.fail(CodeInvalidJSON, "the document ends inside a string")
	}
	switch s.data[s.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return nil
	case 'u':
		r := hex4(s.data[s.pos+2:])
		if r < 0 {
			return s.fail(CodeInvalidJSON, `\u needs four hexadecimal digits`)
		}
		if r < 0xd800 || r > 0xdfff {
			s.pos += 6
			return nil
		}
		if r < 0xdc00 && bytes.HasPrefix(s.data[min(s.pos+6, len(s.data)):], []byte(`\u`)) {
			if low := hex4(s.data[s.pos+8:]); low >= 0xdc00 && low <= 0xdfff {
				s.pos += 12
				return nil
			}
		}
		return s.fail(CodeInvalidUTF8, "half of a surrogate pair")
	}
	return s.fail(CodeInvalidJSON, "unknown escape")
}

func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			r |= rune(c-'a') + 10
		case c >= 'A' && c <= 'F':
			r |= rune(c-'A') + 10
		default:
			return -1
		}
	}
	return r
}

// unescape appends the meaning of raw, which quoted has checked.
func unescape(out, raw []byte) []byte {
	for len(raw) > 0 {
		at := bytes.IndexByte(raw, '\\')
		if at < 0 {
			return append(out, raw...)
		}
		out = append(out, raw[:at]...)
		c := raw[at+1]
		raw = raw[at+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(raw)
			raw = raw[4:]
			if r >= 0xd800 && r < 0xdc00 {
				r = (r-0xd800)<<10 + hex4(raw[2:]) - 0xdc00 + 0x10000
				raw = raw[6:]
			}
			out = utf8.AppendRune(out, r)
			continue
		}
		out = append(out, c)
	}
	return out
}

// number passes over a number and returns it.
func (s *scanner) number() ([]byte, *DecodeError) {
	start := s.pos
	s.take('-')
	if !s.take('0') && s.digits() == 0 {
		if s.pos == start {
			return nil, s.wrong("a number")
		}
		return nil, s.broken("want a digit")
	}
	if s.take('.') && s.digits() == 0 {
		return nil, s.broken("want a digit after the point")
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if s.digits() == 0 {
			return nil, s.broken("want a digit in the exponent")
		}
	}
	return s.data[start:s.pos], nil
}

func (s *scanner) digits() int {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos - start
}
