package render

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// word is a part of a tag between spaces, and its byte offset in the tag.
type word struct {
	s   string
	off int
}

// splitWords cuts a tag's content at spaces, but not inside of quotes: a
// quoted string with what touches it is one word. A quote that is never closed
// is a plain character.
func splitWords(content string) []word {
	var words []word
	q := quotes{s: content}
	for i := 0; i < len(content); {
		r, n := utf8.DecodeRuneInString(content[i:])
		if unicode.IsSpace(r) {
			i += n
			continue
		}
		end := q.wordEnd(i)
		words = append(words, word{content[i:end], i})
		i = end
	}
	return words
}

// quotes finds quoted strings in s.
type quotes struct {
	s string
	// open holds, per byte, a bit for each kind of quote: a search that stood here
	// ran to the end without finding one. It keeps a tag full of quotes that never
	// close from costing a search to the end for each.
	open []byte
}

// wordEnd returns the end of the word that starts at i, which is no space.
func (q *quotes) wordEnd(i int) int {
	j := q.plain(i)
	quoted := false
	for j < len(q.s) && isQuote(q.s[j]) {
		end := q.end(j)
		if end < 0 {
			break
		}
		quoted = true
		j = q.plain(end)
	}
	if quoted {
		return j
	}
	for j = i; j < len(q.s); {
		r, n := utf8.DecodeRuneInString(q.s[j:])
		if unicode.IsSpace(r) {
			break
		}
		j += n
	}
	return j
}

// plain returns the end of the run of characters from i that are neither space nor quote.
func (q *quotes) plain(i int) int {
	for i < len(q.s) {
		r, n := utf8.DecodeRuneInString(q.s[i:])
		if isQuote(q.s[i]) || unicode.IsSpace(r) {
			break
		}
		i += n
	}
	return i
}

// end returns the offset behind the closing quote of the string that opens at
// i, or -1. A backslash takes the character behind it out of the game.
func (q *quotes) end(i int) int {
	quote := q.s[i]
	bit := byte(1)
	if quote == '\'' {
		bit = 2
	}
	for j := i + 1; j < len(q.s); j++ {
		if q.open != nil && q.open[j]&bit != 0 {
			break
		}
		switch q.s[j] {
		case quote:
			return j + 1
		case '\\':
			j++
		}
	}
	if q.open == nil {
		q.open = make([]byte, len(q.s))
	}
	for j := i + 1; j < len(q.s) && q.open[j]&bit == 0; j++ {
		q.open[j] |= bit
		if q.s[j] == '\\' {
			j++
		}
	}
	return -1
}

func isQuote(c byte) bool { return c == '"' || c == '\'' }

// literal returns the value of a quoted string with its quotes.
func literal(s string) string {
	quote := s[:1]
	s = s[1 : len(s)-1]
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	s = strings.ReplaceAll(s, `\`+quote, quote)
	return strings.ReplaceAll(s, `\\`, `\`)
}
