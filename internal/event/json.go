package event

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/internal/mail"
)

// DeriveID names the event of the given kind about an attempt (0 where there
// is none). The same arguments give the same id, so a repeated write is recognisable.
func DeriveID(message mail.ID, attempt int, k Kind) string {
	b := make([]byte, 0, 64)
	b, _ = message.AppendText(b) // never fails
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(attempt), 10)
	b = append(b, '.')
	return string(append(b, k...))
}

// MarshalJSON implements json.Marshaler.
func (e Event) MarshalJSON() ([]byte, error) { return AppendJSON(nil, &e), nil }

// AppendJSON appends e as one JSON object, without a line end. Fields lists
// names and order; empty ones are left out.
func AppendJSON(b []byte, e *Event) []byte {
	o := object{b: append(b, '{')}
	o.text("id", e.ID)
	o.text("kind", string(e.Kind))
	o.instant("time", e.Time)
	o.id("message", e.Message)
	o.id("batch", e.Batch)
	o.text("tenant", e.Tenant)
	o.text("stream", e.Stream)
	o.text("pool", e.Pool)
	o.tags("tags", e.Tags)
	o.text("reverse_path", e.ReversePath)
	o.text("recipient", e.Recipient)
	o.text("domain", e.Domain)
	o.number("size", e.Size)
	o.text("protocol", e.Protocol)
	o.text("peer", e.Peer)
	o.text("auth", e.AuthID)
	o.number("attempt", int64(e.Attempt))
	o.text("site", e.Site)
	o.text("provider", e.Provider)
	o.text("source", e.Source)
	o.text("host", e.Host)
	o.text("address", e.Address)
	o.text("tls", e.TLS)
	o.id("session", e.Session)
	o.milliseconds("took_ms", e.Took)
	o.text("outcome", e.Outcome)
	o.text("class", e.Class)
	o.number("code", int64(e.Code))
	o.text("enhanced", e.Enhanced)
	o.text("reply", e.Reply)
	o.text("command", e.Command)
	o.instant("next_try", e.NextTry)
	o.text("reason", e.Reason)
	o.text("filter", e.Filter)
	o.instant("until", e.Until)
	o.text("limit", e.Limit)
	o.text("rule", e.Rule)
	o.number("gap_events", e.GapEvents)
	return append(o.b, '}')
}

// object appends the members of one JSON object.
type object struct {
	b    []byte
	more bool // a member was written
}

func (o *object) name(name string) {
	if o.more {
		o.b = append(o.b, ',')
	}
	o.more = true
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(name, value string) {
	if value != "" {
		o.name(name)
		o.b = appendString(o.b, value)
	}
}

func (o *object) number(name string, value int64) {
	if value != 0 {
		o.name(name)
		o.b = strconv.AppendInt(o.b, value, 10)
	}
}

func (o *object) id(name string, value mail.ID) {
	if !value.IsZero() {
		o.name(name)
		o.b = append(o.b, '"')
		o.b, _ = value.AppendText(o.b) // never fails
		o.b = append(o.b, '"')
	}
}

func (o *object) instant(name string, value time.Time) {
	if !value.IsZero() {
		o.name(name)
		o.b = append(o.b, '"')
		o.b = appendTime(o.b, value)
		o.b = append(o.b, '"')
	}
}

// milliseconds writes a duration in ms with up to three decimals.
func (o *object) milliseconds(name string, value time.Duration) {
	us := value.Round(time.Microsecond).Microseconds()
	if us == 0 {
		return
	}
	o.name(name)
	if us < 0 {
		o.b = append(o.b, '-')
		us = -us
	}
	o.b = strconv.AppendInt(o.b, us/1000, 10)
	if rest := us % 1000; rest != 0 {
		o.b = append(o.b, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
	}
}

func (o *object) tags(name string, tags []mail.Tag) {
	if len(tags) == 0 {
		return
	}
	o.name(name)
	o.b = append(o.b, '{')
	for i, t := range tags {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = appendString(o.b, t.Name)
		o.b = append(o.b, ':')
		o.b = appendString(o.b, t.Value)
	}
	o.b = append(o.b, '}')
}

// appendTime writes RFC 3339 in UTC with nine decimals. Years outside 0-9999 have no such form and are clamped.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, min(max(year, 0), 9999), 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), second, 2)
	b = appendDigits(append(b, '.'), t.Nanosecond(), 9)
	return append(b, 'Z')
}

// appendDigits writes v with exactly n digits.
func appendDigits(b []byte, v, n int) []byte {
	start := len(b)
	for range n {
		b = append(b, '0')
	}
	for i := start + n - 1; i >= start; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return b
}

// appendString writes s as a JSON string (RFC 8259 §7). Bytes that are not UTF-8
// become U+FFFD; U+2028 and U+2029 are escaped, since JavaScript took them for line ends.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		if i+8 <= len(s) && isPlain(s[i:i+8]) {
			i += 8
			continue
		}
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' && c != 0x7f {
			i++
			continue
		}
		size := 1
		var r rune
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
			if !(r == utf8.RuneError && size == 1) && r != '\u2028' && r != '\u2029' {
				i += size
				continue
			}
		}
		b = append(b, s[start:i]...)
		switch {
		case c < utf8.RuneSelf:
			b = appendEscape(b, c)
		case r == utf8.RuneError:
			b = append(b, "\uFFFD"...)
		case r == '\u2028':
			b = append(b, `\u2028`...)
		default:
			b = append(b, `\u2029`...)
		}
		i += size
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// isPlain reports whether all 8 bytes of s stand for themselves in a JSON
// string, looking at all of them at once.
func isPlain(s string) bool {
	_ = s[7]
	x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	quote, slash := x^ones*'"', x^ones*'\\'
	special := x | (x + ones) | // above 127, and DEL
		(x-ones*' ')&^x |
		(quote-ones)&^quote |
		(slash-ones)&^slash
	return special&tops == 0
}

const hexDigits = "0123456789abcdef"

// appendEscape writes a control character, quote or backslash.
func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
