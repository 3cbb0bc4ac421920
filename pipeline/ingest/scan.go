package ingest

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// deepest is how far values may nest anywhere; what a property may do is a limit of its own.
const deepest = 200

// scanner reads a JSON text (RFC 8259) from the front, once, and checks all that it passes. The text is
// valid UTF-8. After something that is not JSON bad is set, i stays there, and every
// method returns at once.
type scanner struct {
	doc string
	i   int
	bad bool

	depth int // of the value that skip is in
	deep  int // greatest depth since it was set to 0: 0 for a scalar, 1 for {} and []
	long  int // most items of one array since it was set to 0
}

func (s *scanner) fail() { s.bad = true }

// peek skips white space and returns the next byte, 0 at the end or after fail.
func (s *scanner) peek() byte {
	if s.i < len(s.doc) && !s.bad && s.doc[s.i] > ' ' {
		return s.doc[s.i]
	}
	return s.space()
}

func (s *scanner) space() byte {
	if s.bad {
		return 0
	}
	for s.i < len(s.doc) {
		switch c := s.doc[s.i]; c {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

// end checks that nothing follows.
func (s *scanner) end() {
	if s.peek() != 0 || s.i < len(s.doc) {
		s.fail()
	}
}

// member reads up to the value of an object's next member, n being how many were read. It
// is false behind the last one, whose brace it takes. The opening brace is behind already.
func (s *scanner) member(n int) (key string, ok bool) {
	c := s.peek()
	if c == '}' {
		s.i++
		return "", false
	}
	if n > 0 {
		if c != ',' {
			s.fail()
			return "", false
		}
		s.i++
		c = s.peek()
	}
	if c != '"' {
		s.fail()
		return "", false
	}
	key = s.text()
	if s.peek() != ':' {
		s.fail()
		return "", false
	}
	s.i++
	return key, true
}

// element is member for arrays.
func (s *scanner) element(n int) bool {
	c := s.peek()
	switch {
	case c == ']':
		s.i++
		return false
	case n == 0:
		return !s.bad
	case c != ',':
		s.fail()
		return false
	}
	s.i++
	if s.peek() == ']' {
		s.fail()
	}
	return !s.bad
}

// special says of each byte that it is not simply a part of a string: quotes, backslashes, control characters.
var special = func() (t [256]bool) {
	for c := range ' ' {
		t[c] = true
	}
	t['"'], t['\\'] = true, true
	return t
}()

// plain is how many bytes at the front of s are simply parts of a string.
func plain(s string) int {
	for i := 0; i < len(s); i++ {
		if special[s[i]] {
			return i
		}
	}
	return len(s)
}

// text reads a string, at its opening quote. Without escapes the result is a part of the document.
func (s *scanner) text() string {
	if s.bad {
		return ""
	}
	start := s.i + 1
	end := start + plain(s.doc[start:])
	switch {
	case end < len(s.doc) && s.doc[end] == '"':
		s.i = end + 1
		return s.doc[start:end]
	case end < len(s.doc) && s.doc[end] == '\\':
		return s.escaped(start, end)
	}
	s.i = end
	s.fail()
	return ""
}

// escaped is text from the first escape on.
func (s *scanner) escaped(start, j int) string {
	var b strings.Builder
	b.WriteString(s.doc[start:j])
	for j < len(s.doc) {
		c := s.doc[j]
		switch {
		case c == '"':
			s.i = j + 1
			return b.String()
		case c == '\\':
			r, n := unescape(s.doc[j:])
			if n == 0 {
				s.i = j
				s.fail()
				return ""
			}
			b.WriteRune(r)
			j += n
		case c < ' ':
			s.i = j
			s.fail()
			return ""
		default:
			b.WriteByte(c)
			j++
		}
	}
	s.fail()
	return ""
}

// unescape reads the escape at the front of s and its length; 0 if it is none. Half a surrogate pair is U+FFFD.
func unescape(s string) (rune, int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\', '/':
		return rune(s[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, ok := hex4(s[2:])
		if !ok {
			return 0, 0
		}
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if strings.HasPrefix(s[6:], `\u`) {
			if low, ok := hex4(s[8:]); ok {
				if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
					return both, 12
				}
			}
		}
		return utf8.RuneError, 6
	}
	return 0, 0
}

// mend makes each half of a surrogate pair that stands alone \ufffd. Clients that cut a text in the midst of a character
// send them, and readers of JSON disagree on what they are: some refuse the whole.
func mend(doc string) string {
	if !strings.Contains(doc, `\ud`) && !strings.Contains(doc, `\uD`) {
		return doc
	}
	b := []byte(doc)
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		r, n := unescape(doc[i:])
		if n == 6 && r == utf8.RuneError {
			copy(b[i:], `\ufffd`)
		}
		i += max(n, 2) - 1
	}
	return string(b)
}

func hex4(s string) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for _, c := range []byte(s[:4]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// skip passes a value and returns it as it stands there.
func (s *scanner) skip() string {
	c := s.peek()
	start := s.i
	switch c {
	case '"':
		s.skipText()
	case '{':
		s.skipObject()
	case '[':
		s.skipArray()
	case 't':
		s.word("true")
	case 'f':
		s.word("false")
	case 'n':
		s.word("null")
	default:
		s.number()
	}
	if s.bad {
		return ""
	}
	return s.doc[start:s.i]
}

func (s *scanner) word(w string) {
	if !strings.HasPrefix(s.doc[s.i:], w) {
		s.fail()
		return
	}
	s.i += len(w)
}

func (s *scanner) skipText() {
	j := s.i + 1
	for {
		j += plain(s.doc[j:])
		switch {
		case j < len(s.doc) && s.doc[j] == '"':
			s.i = j + 1
			return
		case j < len(s.doc) && s.doc[j] == '\\':
			_, n := unescape(s.doc[j:])
			if j += n; n > 0 {
				continue
			}
		}
		s.i = j
		s.fail()
		return
	}
}

// down enters an object or array.
func (s *scanner) down() bool {
	s.i++
	s.depth++
	s.deep = max(s.deep, s.depth)
	if s.depth > deepest {
		s.fail()
	}
	return !s.bad
}

func (s *scanner) skipObject() {
	if !s.down() {
		return
	}
	for n := 0; ; n++ {
		if _, ok := s.member(n); !ok {
			break
		}
		s.skip()
	}
	s.depth--
}

func (s *scanner) skipArray() {
	if !s.down() {
		return
	}
	n := 0
	for s.element(n) {
		s.skip()
		n++
	}
	s.long = max(s.long, n)
	s.depth--
}

// number passes a number.
func (s *scanner) number() string {
	if s.bad {
		return ""
	}
	start := s.i
	j := s.i
	at := func() byte {
		if j < len(s.doc) {
			return s.doc[j]
		}
		return 0
	}
	digits := func() bool {
		from := j
		for c := at(); c >= '0' && c <= '9'; c = at() {
			j++
		}
		return j > from
	}
	if at() == '-' {
		j++
	}
	ok := true
	if at() == '0' {
		j++
	} else {
		ok = digits()
	}
	if ok && at() == '.' {
		j++
		ok = digits()
	}
	if c := at(); ok && (c == 'e' || c == 'E') {
		j++
		if c := at(); c == '+' || c == '-' {
			j++
		}
		ok = digits()
	}
	if s.i = j; !ok {
		s.fail()
		return ""
	}
	return s.doc[start:j]
}

// appendText appends a string as JSON.
func appendText(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
