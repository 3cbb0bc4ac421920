package render

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func truncatecharsHTML(_ *run, in, arg any) (any, error) {
	n, ok, err := limit(arg)
	if !ok || err != nil {
		return in, err
	}
	h := htmlCutter{s: norm.NFC.String(text(in)), length: n, keep: n - 1}
	return h.cut(ellipsis, nextChar), nil
}

func truncatewordsHTML(_ *run, in, arg any) (any, error) {
	n, ok, err := limit(arg)
	if !ok || err != nil {
		return in, err
	}
	if n <= 0 {
		return "", nil
	}
	h := htmlCutter{s: text(in), length: n, keep: n}
	return h.cut(" "+ellipsis, nextWord), nil
}

// htmlCutter shortens HTML to a number of characters or words, not counting
// tags, and closes the tags that are open where it cuts.
type htmlCutter struct {
	s      string
	length int // units that may stand without cutting
	keep   int // units kept when cutting
	open   []string
	// noTags: no ">" is left, and must not be searched for again.
	noTags bool
}

// piece finds the next tag or unit at or after pos.
type piece func(h *htmlCutter, pos int) (from, to int, unit bool)

// tagEnd returns the offset of the next ">" from pos, or -1.
func (h *htmlCutter) tagEnd(pos int) int {
	if h.noTags {
		return -1
	}
	end := strings.IndexByte(h.s[pos:], '>')
	h.noTags = end < 0
	return end
}

func (h *htmlCutter) cut(mark string, next piece) string {
	pos, end, count := 0, 0, 0
	for count <= h.length {
		from, to, unit := next(h, pos)
		if from < 0 {
			break
		}
		pos = to
		if unit {
			count++
			if count == h.keep {
				end = pos
			}
			continue
		}
		if count < h.keep {
			h.tag(h.s[from:to])
		}
	}
	if count <= h.length {
		return h.s
	}
	var b strings.Builder
	b.WriteString(h.s[:end])
	b.WriteString(mark)
	for i := len(h.open) - 1; i >= 0; i-- {
		b.WriteString("</" + h.open[i] + ">")
	}
	return b.String()
}

// tag notes an opening or closing tag.
func (h *htmlCutter) tag(s string) {
	s = strings.TrimSuffix(s[1:], ">")
	closing := strings.HasPrefix(s, "/")
	s = strings.TrimPrefix(s, "/")
	end := strings.IndexFunc(s, unicode.IsSpace)
	if end == 0 || s == "" {
		return
	}
	name, rest := s, ""
	if end > 0 {
		name, rest = s[:end], s[end:]
	}
	single := strings.HasSuffix(strings.TrimRightFunc(rest, unicode.IsSpace), "/") && strings.TrimSpace(rest) == "/"
	if trimmed := strings.TrimSuffix(name, "/"); trimmed != name && trimmed != "" && rest == "" {
		name, single = trimmed, true
	}
	name = strings.ToLower(name)
	switch {
	case single || isSingle(name):
	case closing:
		if n := len(h.open); n > 0 && h.open[n-1] == name {
			h.open = h.open[:n-1]
		}
	default:
		h.open = append(h.open, name)
	}
}

func isSingle(name string) bool {
	switch name {
	case "br", "col", "link", "base", "img", "param", "area", "hr", "input":
		return true
	}
	return false
}

// nextChar finds a tag, "<" to ">" with something between, or one character.
func nextChar(h *htmlCutter, pos int) (from, to int, unit bool) {
	s := h.s
	if pos >= len(s) {
		return -1, 0, false
	}
	if s[pos] == '<' {
		if end := h.tagEnd(pos); end > 1 {
			return pos, pos + end + 1, false
		}
	}
	_, n := utf8.DecodeRuneInString(s[pos:])
	return pos, pos + n, true
}

// nextWord finds a tag or a run of characters that are neither space nor bracket.
func nextWord(h *htmlCutter, pos int) (from, to int, unit bool) {
	s := h.s
	for pos < len(s) {
		i := strings.IndexFunc(s[pos:], func(c rune) bool { return c == '<' || !(c == '>' || unicode.IsSpace(c)) })
		if i < 0 {
			return -1, 0, false
		}
		pos += i
		if s[pos] != '<' {
			end := strings.IndexFunc(s[pos:], func(c rune) bool { return c == '<' || c == '>' || unicode.IsSpace(c) })
			if end < 0 {
				end = len(s) - pos
			}
			return pos, pos + end, true
		}
		if end := h.tagEnd(pos); end >= 0 {
			return pos, pos + end + 1, false
		}
		pos++
	}
	return -1, 0, false
}
