package render

import (
	"errors"
	"strings"
)

// maxStrips is how often striptags goes over a text: what it removes can leave
// a new tag behind.
const maxStrips = 50

func striptags(r *run, in, _ any) (any, error) {
	s := text(in)
	for range maxStrips {
		if strings.IndexByte(s, '<') < 0 || strings.IndexByte(s, '>') < 0 {
			return s, nil
		}
		if err := r.tick(len(s) / 64); err != nil {
			return nil, err
		}
		x := stripper{r: r, s: s}
		if err := x.strip(); err != nil {
			return nil, err
		}
		stripped := x.b.String()
		if strings.Count(stripped, "<") == strings.Count(s, "<") {
			return s, nil
		}
		s = stripped
	}
	return nil, errors.New("the tags are nested too deeply")
}

// stripper removes tags, comments and declarations as Python's HTML parser
// finds them. The content of script and style is text there, and stays.
type stripper struct {
	r *run
	s string // what is left
	b strings.Builder
	// gone are the ends that do not come any more, not to be searched again.
	gone [len(ends)]bool
}

// ends of markup, by number.
var ends = [...]string{">", "-->", `"`, `'`, "<"}

const (
	endTagMark = iota
	endComment
	endDouble
	endSingle
	nextOpen
)

func (x *stripper) strip() error {
	for x.s != "" {
		i := strings.IndexByte(x.s, '<')
		if i < 0 {
			x.keep(len(x.s))
			break
		}
		x.keep(i)
		n, raw := x.markup()
		switch {
		case n == 0:
			x.keep(1)
		case n < 0:
			if err := x.r.tick(len(x.s) / 64); err != nil {
				return err
			}
			x.keep(x.unclosed())
		default:
			x.s = x.s[n:]
			if raw != "" {
				x.element(raw)
			}
		}
	}
	return nil
}

// keep moves n bytes to the result.
func (x *stripper) keep(n int) {
	x.b.WriteString(x.s[:n])
	x.s = x.s[n:]
}

// behind returns the offset behind the next end at or after from, or -1.
func (x *stripper) behind(from, end int) int {
	if x.gone[end] {
		return -1
	}
	n := strings.Index(x.s[from:], ends[end])
	if n < 0 {
		x.gone[end] = end == endComment || from <= 1
		return -1
	}
	return from + n + len(ends[end])
}

// unclosed returns how much the parser gives out as text where markup does not end.
func (x *stripper) unclosed() int {
	if n := x.behind(1, endTagMark); n > 0 {
		return n
	}
	if n := x.behind(1, nextOpen); n > 0 {
		return n - 1
	}
	return len(x.s)
}

// element keeps the content of a script or style. Nothing is given out of one
// that is not closed.
func (x *stripper) element(name string) {
	for at := 0; ; at += 2 {
		i := strings.Index(x.s[at:], "</")
		if i < 0 {
			x.s = ""
			return
		}
		at += i
		if rest := x.s[at+2:]; len(rest) >= len(name) && strings.EqualFold(rest[:len(name)], name) {
			x.keep(at)
			return
		}
	}
}

// markup returns the length of the markup that stands first: 0 if it is none,
// -1 if it does not end. raw names an element whose content is not parsed.
func (x *stripper) markup() (n int, raw string) {
	if len(x.s) < 2 {
		return 0, ""
	}
	switch c := x.s[1]; {
	case c == '/':
		return x.behind(1, endTagMark), ""
	case strings.HasPrefix(x.s, "<!--"):
		return x.behind(4, endComment), ""
	case c == '!' || c == '?':
		return x.behind(1, endTagMark), ""
	case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		return x.startTag()
	}
	return 0, ""
}

// startTag finds the end of an opening tag; ">" in a quoted attribute is not it.
func (x *stripper) startTag() (n int, raw string) {
	if x.behind(1, endTagMark) < 0 {
		return -1, ""
	}
	s, i := x.s, 1
	for i < len(s) && strings.IndexByte(" \t\n\r\f/>", s[i]) < 0 {
		i++
	}
	name := strings.ToLower(s[1:i])
	for i < len(s) && s[i] != '>' {
		i++
		if s[i-1] != '=' {
			continue
		}
		for i < len(s) && strings.IndexByte(" \t\n\r\f", s[i]) >= 0 {
			i++
		}
		if i >= len(s) || !isQuote(s[i]) {
			continue
		}
		quote := endDouble
		if s[i] == '\'' {
			quote = endSingle
		}
		if i = x.behind(i+1, quote); i < 0 {
			return -1, ""
		}
	}
	if i >= len(s) {
		return -1, ""
	}
	if (name == "script" || name == "style") && s[i-1] != '/' {
		raw = name
	}
	return i + 1, raw
}
