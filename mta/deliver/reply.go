package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Limits on what a peer may answer.
const (
	maxReplyLine = 4 << 10  // with its line end; RFC 5321 §4.5.3.1.5 allows 512
	maxReplySize = 64 << 10 // all lines of one reply
	maxReplyText = 1 << 10  // kept for the outcome
)

// errMalformed: what came is no SMTP reply. The session is out of step then.
var errMalformed = errors.New("malformed reply")

// replyParser collects the lines of one reply (RFC 5321 §4.2). It is reused:
// nothing is allocated until mailReply.
type replyParser struct {
	code     int
	enhanced []byte
	text     []byte
	size     int
	lines    int
	each     func(text []byte) // told each line's text as it stands; may be nil
}

func (p *replyParser) reset() {
	*p = replyParser{enhanced: p.enhanced[:0], text: p.text[:0]}
}

// line takes one line with its line end. done tells that the reply is complete.
func (p *replyParser) line(b []byte) (done bool, err error) {
	p.size += len(b)
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if p.size > maxReplySize {
		return true, fmt.Errorf("%w: longer than %d bytes", errMalformed, maxReplySize)
	}
	code, more, text, ok := splitLine(b)
	if !ok {
		p.code, p.enhanced, p.text = 0, p.enhanced[:0], appendText(p.text[:0], b)
		return true, errMalformed
	}
	// Lines with different codes are a fault of the peer; the last one counts, as it ends the reply.
	p.code = code
	if p.each != nil {
		p.each(text)
	}
	if n := enhancedLen(text, code); n > 0 {
		if p.lines == 0 {
			p.enhanced = append(p.enhanced[:0], text[:n]...)
		}
		text = bytes.TrimPrefix(text[n:], []byte(" "))
	}
	if p.lines > 0 && len(text) > 0 && len(p.text) > 0 {
		p.text = append(p.text, ' ')
	}
	p.text = appendText(p.text, text)
	p.lines++
	return !more, nil
}

// splitLine cuts "250-text", "250 text" and "250".
func splitLine(b []byte) (code int, more bool, text []byte, ok bool) {
	if len(b) < 3 || b[0] < '2' || b[0] > '5' || !digit(b[1]) || !digit(b[2]) {
		return 0, false, nil, false
	}
	code = int(b[0]-'0')*100 + int(b[1]-'0')*10 + int(b[2]-'0')
	if len(b) == 3 {
		return code, false, nil, true
	}
	if b[3] != ' ' && b[3] != '-' {
		return 0, false, nil, false
	}
	return code, b[3] == '-', b[4:], true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// enhancedLen is the length of an RFC 3463 code at the start of text whose
// class agrees with the reply's (RFC 2034 §4), or 0.
func enhancedLen(text []byte, code int) int {
	if len(text) < 5 || text[0] != byte('0'+code/100) || text[0] == '3' {
		return 0
	}
	i := 1
	for range 2 { // subject and detail: "." 1*3digit
		if i >= len(text) || text[i] != '.' {
			return 0
		}
		i++
		from := i
		for i < len(text) && i < from+3 && digit(text[i]) {
			i++
		}
		if i == from {
			return 0
		}
	}
	if i < len(text) && text[i] != ' ' {
		return 0
	}
	return i
}

// appendText appends b, cut so that the whole keeps within maxReplyText.
func appendText(text, b []byte) []byte {
	return append(text, b[:min(len(b), max(0, maxReplyText-len(text)))]...)
}

// mailReply returns the reply with strings of its own.
func (p *replyParser) mailReply() mail.Reply {
	return mail.Reply{Code: p.code, Enhanced: string(p.enhanced), Text: clean(p.text)}
}

// clean makes text fit for logs and events: valid UTF-8 without control characters.
func clean(text []byte) string {
	text = bytes.TrimSpace(text)
	if plain(text) {
		return string(text)
	}
	if len(text) > maxReplyText-utf8.UTFMax { // the cut may have gone through a character
		for i := 0; i < utf8.UTFMax-1 && len(text) > 0 && !utf8.RuneStart(text[len(text)-1]); i++ {
			text = text[:len(text)-1]
		}
		if n := len(text); n > 0 && text[n-1] >= utf8.RuneSelf {
			if r, _ := utf8.DecodeLastRune(text); r == utf8.RuneError {
				text = text[:n-1]
			}
		}
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
}

func plain(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}
