package compose

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"
)

// foldColumn is where a header line is folded (RFC 5322 §2.1.1, RFC 2047 §2).
const foldColumn = 76

// errFieldBreak means that a header value would end its line: an injection.
var errFieldBreak = errors.New("a header value must not contain CR, LF or NUL")

// errFieldLong means that a header line cannot be folded to what SMTP carries.
var errFieldLong = errors.New("a header line is longer than 998 characters and cannot be folded")

// fieldLine writes one header field, folding between words.
type fieldLine struct {
	dst    []byte
	column int
	empty  bool // no word on this line yet: folding here would leave it blank
}

// startLine begins a field.
func startLine(dst []byte, name string) *fieldLine {
	dst = append(dst, name...)
	dst = append(dst, ':', ' ')
	return &fieldLine{dst: dst, column: len(name) + 2, empty: true}
}

// words appends text, which may be folded at its spaces. Text that is folded
// already ("\r\n ") keeps that.
func (l *fieldLine) words(text string) {
	if !l.empty {
		text = " " + text
	}
	for len(text) > 0 {
		gap := len(text) - len(strings.TrimLeft(text, " \t"))
		n := strings.IndexAny(text[gap:], " \t")
		if n < 0 {
			n = len(text) - gap
		}
		l.word(text[:gap], text[gap:gap+n])
		text = text[gap+n:]
	}
}

// word appends white space and a word, on a new line if this one is full.
func (l *fieldLine) word(gap, word string) {
	if word == "" {
		return // white space at the end
	}
	if first, _, folded := strings.Cut(word, "\r\n"); folded {
		l.add(gap, first)
		l.dst = append(l.dst, word[len(first):]...)
		l.column = 0
		return
	}
	l.add(gap, word)
}

func (l *fieldLine) add(gap, word string) {
	if !l.empty && gap != "" && l.column+len(gap)+len(word) > foldColumn {
		l.dst = append(l.dst, '\r', '\n')
		l.column = 0
		gap = gap[:1]
	}
	l.dst = append(l.dst, gap...)
	l.dst = append(l.dst, word...)
	l.column += len(gap) + len(word)
	l.empty = false
}

// end closes the field and returns the buffer.
func (l *fieldLine) end() []byte { return append(l.dst, '\r', '\n') }

// appendText appends an unstructured field; what is not ASCII becomes encoded words.
func appendText(dst []byte, name, value string) []byte {
	l := startLine(dst, name)
	// ASCII stays, encoded words in it too: many clients encode by themselves.
	if asciiString(value) && !strings.ContainsFunc(value, isControlNotTab) && (foldable(value) || isStructured(name)) {
		l.words(value)
		return l.end()
	}
	l.dst = append(l.dst, encodedWords(value, len(name)+2)...)
	return l.end()
}

func isControlNotTab(r rune) bool { return isControl(r) && r != '\t' }

// isStructured reports whether encoded words would destroy the meaning of a
// field: URLs and message ids.
func isStructured(name string) bool {
	switch name = strings.ToLower(name); name {
	case "message-id", "in-reply-to", "references", "feedback-id":
		return true
	}
	return strings.HasPrefix(name, "list-")
}

// foldable reports whether every word of value fits on a line.
func foldable(value string) bool {
	for len(value) > maxLine-80 {
		n := strings.IndexAny(value, " \t")
		if n < 0 || n > maxLine-80 {
			return false
		}
		value = value[n+1:]
	}
	return true
}

// appendHeader appends a field whose value comes from outside: addresses by
// their rules, all else as text.
func appendHeader(dst []byte, name, value string) ([]byte, error) {
	value = strings.Trim(value, " \t")
	if strings.ContainsAny(value, "\r\n\x00") {
		return nil, errFieldBreak
	}
	if !validFieldName(name) {
		return nil, errors.New("not a header field name: " + name)
	}
	start := len(dst)
	if lower := strings.ToLower(name); isAddressField(lower) {
		if with, err := appendAddresses(dst, name, value); err == nil {
			dst = with
		} else if lower == "from" || !asciiString(value) {
			return nil, err
		} else {
			dst = appendText(dst, name, value) // such as: undisclosed-recipients:;
		}
	} else {
		dst = appendText(dst, name, value)
	}
	if longLine(dst[start:]) {
		return nil, errFieldLong
	}
	return dst, nil
}

// validFieldName is RFC 5322 §2.2: printable ASCII without colon.
func validFieldName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return name != "" && len(name) <= 200
}

// wordLimit is the longest encoded word, delimiters included (RFC 2047 §2).
const wordLimit = 75

// encodedWords writes text as encoded words in UTF-8, folded between them. The
// first one has what is left of a line of which column characters are used.
func encodedWords(text string, column int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	q := qIsShorter(text)
	var b strings.Builder
	for first := true; first || text != ""; first = false {
		room := wordLimit
		if first {
			room = max(wordLimit-column, 40)
		} else {
			b.WriteString("\r\n ")
		}
		var word string
		if word, text = nextWord(text, room-len("=?utf-8?q??="), q); q {
			b.WriteString("=?utf-8?q?")
			writeQ(&b, word)
		} else {
			b.WriteString("=?utf-8?b?")
			b.WriteString(base64.StdEncoding.EncodeToString([]byte(word)))
		}
		b.WriteString("?=")
	}
	return b.String()
}

// nextWord cuts off as many characters as fit into room encoded bytes.
func nextWord(text string, room int, q bool) (word, rest string) {
	used := 0
	for i, r := range text {
		n := utf8.RuneLen(r)
		switch {
		case !q:
			if base64.StdEncoding.EncodedLen(i+n) > room {
				return text[:i], text[i:]
			}
			continue
		case !qPlain(text[i]) && text[i] != ' ':
			n *= 3
		}
		if used += n; used > room {
			return text[:i], text[i:]
		}
	}
	return text, ""
}

// qIsShorter chooses between the Q and the B encoding.
func qIsShorter(text string) bool {
	escaped := 0
	for i := range len(text) {
		if !qPlain(text[i]) && text[i] != ' ' {
			escaped++
		}
	}
	return len(text)+2*escaped <= base64.StdEncoding.EncodedLen(len(text))
}

// qPlain is what the Q encoding leaves as it is, even in a phrase (RFC 2047 §5).
func qPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!*+-/", c) >= 0
}

func writeQ(b *strings.Builder, s string) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ':
			b.WriteByte('_')
		case qPlain(c):
			b.WriteByte(c)
		default:
			b.WriteByte('=')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
}

const hexDigits = "0123456789ABCDEF"
