package render

import (
	"strings"
	"unicode/utf8"
)

// tokenKind is what a piece of the source is.
type tokenKind uint8

const (
	textToken tokenKind = iota
	variableToken
	tagToken
)

// token is one piece of the source. Comments leave none.
type token struct {
	kind tokenKind
	// content is the text, or what stands between the braces, trimmed.
	content string
	// at is the place of the opening brace; inner the place of content.
	at, inner position
}

// place is the position of the byte at offset off of the content. A tag never
// spans lines, so only the column moves.
func (t *token) place(off int) position {
	return position{t.inner.line, t.inner.col + utf8.RuneCountInString(t.content[:off])}
}

// scanner cuts a source at Django's tag syntax: {{ }}, {% %} and {# #}, each
// within one line and closed by the first closing pair; anything else is text.
type scanner struct {
	src string
	pos int // next byte to cut
	// place of src[colPos], moved on by place
	line, col, colPos int
	// verbatim is the tag that ends a verbatim section, "" outside of one.
	verbatim string
	// closer remembers for "}}", "%}" and "#}" where the next one is, so that a line of
	// opening braces without an end does not cost a search each (it did: quadratic).
	closer [3]struct{ from, at int }
	// newline is where the next line ends, remembered for the same reason.
	newline int
}

func newScanner(src string) *scanner {
	s := &scanner{src: src, line: 1, col: 1, newline: -1}
	for i := range s.closer {
		s.closer[i].from = -1
	}
	return s
}

// next returns the next token; ok is false at the end.
func (s *scanner) next() (t token, ok bool) {
	for s.pos < len(s.src) {
		start, end := s.findTag(s.pos)
		if start > s.pos {
			t = s.text(s.pos, start)
			s.pos = start
			return t, true
		}
		s.pos = end
		if t, ok := s.tag(start, end); ok {
			return t, true
		}
	}
	return token{}, false
}

func (s *scanner) text(from, to int) token {
	return token{kind: textToken, content: s.src[from:to], at: s.place(from)}
}

// tag makes the token of src[start:end], which has tag syntax; ok is false for
// a comment.
func (s *scanner) tag(start, end int) (t token, ok bool) {
	inner := s.src[start+2 : end-2]
	content := strings.TrimSpace(inner)
	isTag := s.src[start+1] == '%'
	if s.verbatim != "" {
		if !isTag || content != s.verbatim {
			return s.text(start, end), true
		}
		s.verbatim = ""
	}
	if s.src[start+1] == '#' {
		return token{}, false
	}
	t = token{kind: variableToken, content: content, at: s.place(start)}
	if isTag {
		t.kind = tagToken
		if content == "verbatim" || strings.HasPrefix(content, "verbatim ") {
			s.verbatim = "end" + content
		}
	}
	lead := inner[:strings.Index(inner, content)]
	t.inner = position{t.at.line, t.at.col + 2 + utf8.RuneCountInString(lead)}
	return t, true
}

// findTag finds the first tag, variable or comment at or after pos. Without
// one, both results are the end of the source.
func (s *scanner) findTag(pos int) (start, end int) {
	for {
		i := strings.IndexByte(s.src[pos:], '{')
		if i < 0 || pos+i+1 >= len(s.src) {
			return len(s.src), len(s.src)
		}
		pos += i
		if k := strings.IndexByte("{%#", s.src[pos+1]); k >= 0 {
			if at := s.close(k, pos+2); at >= 0 {
				return pos, at + 2
			}
		}
		pos++
	}
}

// close returns where the closing pair number k (0 "}}", 1 "%}", 2 "#}") is at
// or after from on the same line, or -1.
func (s *scanner) close(k, from int) int {
	c := &s.closer[k]
	if c.from < 0 || from < c.from || (c.at >= 0 && from > c.at) {
		c.from = from
		c.at = strings.Index(s.src[from:], [...]string{"}}", "%}", "#}"}[k])
		if c.at >= 0 {
			c.at += from
		}
	}
	if c.at < 0 {
		return -1
	}
	if s.newline < from {
		s.newline = len(s.src)
		if nl := strings.IndexByte(s.src[from:], '\n'); nl >= 0 {
			s.newline = from + nl
		}
	}
	if s.newline < c.at {
		return -1
	}
	return c.at
}

// place returns line and column of a byte offset; offsets must not decrease.
func (s *scanner) place(off int) position {
	part := s.src[s.colPos:off]
	if n := strings.Count(part, "\n"); n > 0 {
		s.line += n
		s.col = 1
		part = part[strings.LastIndexByte(part, '\n')+1:]
	}
	s.col += utf8.RuneCountInString(part)
	s.colPos = off
	return position{s.line, s.col}
}
