package smtp

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	gosmtp "github.com/emersion/go-smtp"
)

// maxORCPT is the longest ORCPT value (RFC 3461 section 4.2).
const maxORCPT = 500

// rcptParam reads NOTIFY and ORCPT, the only parameters of RCPT we know.
func (c *conn) rcptParam(p param, opts *gosmtp.RcptOptions, had *seen) error {
	if !c.ESMTP() || !c.opt.DSN {
		return unknownParam(p.key)
	}
	var buf [16]byte
	switch string(upper(buf[:], p.key)) {
	case "NOTIFY":
		if had.twice(1) || !notifyParam(p.val, opts) {
			return badParam("NOTIFY")
		}
		return nil
	case "ORCPT":
		if had.twice(2) || !orcptParam(p.val, c.utf8, opts) {
			return badParam("ORCPT")
		}
		return nil
	}
	return unknownParam(p.key)
}

// notifyParam reads NEVER or a list of SUCCESS, FAILURE and DELAY, each once at most.
func notifyParam(val []byte, opts *gosmtp.RcptOptions) bool {
	var had seen
	for {
		word, rest, more := bytes.Cut(val, []byte{','})
		var n gosmtp.DSNNotify
		var bit seen
		var buf [8]byte
		switch string(upper(buf[:], word)) {
		case "NEVER":
			n, bit = gosmtp.DSNNotifyNever, 1
		case "SUCCESS":
			n, bit = gosmtp.DSNNotifySuccess, 2
		case "FAILURE":
			n, bit = gosmtp.DSNNotifyFailure, 4
		case "DELAY":
			n, bit = gosmtp.DSNNotifyDelayed, 8
		default:
			return false
		}
		if had.twice(bit) {
			return false
		}
		opts.Notify = append(opts.Notify, n)
		if !more {
			return had == had&^1 || had == 1
		}
		val = rest
	}
}

// orcptParam reads "type;address" of RFC 3461 section 4.2, with the utf-8 type of
// RFC 6533. Other address types are passed on, upper-cased, as the RFC asks.
func orcptParam(val []byte, rawUTF8 bool, opts *gosmtp.RcptOptions) bool {
	kind, enc, ok := bytes.Cut(val, []byte{';'})
	if !ok || !validKeyword(kind) || len(enc) == 0 || len(val) > maxORCPT {
		return false
	}
	typ := gosmtp.DSNAddressType(bytes.ToUpper(kind))
	var addr string
	if typ == gosmtp.DSNAddressTypeUTF8 {
		addr, ok = decodeUTF8Xtext(enc, rawUTF8)
	} else {
		addr, ok = decodeXtext(enc)
		if ok && typ == gosmtp.DSNAddressTypeRFC822 && !ascii([]byte(addr)) {
			typ, ok = gosmtp.DSNAddressTypeUTF8, cleanUTF8([]byte(addr)) // Postfix 3.7 writes a UTF-8 address so
		} else {
			ok = ok && printableASCII(addr)
		}
	}
	if !ok {
		return false
	}
	opts.OriginalRecipientType, opts.OriginalRecipient = typ, addr
	return true
}

// decodeXtext decodes "+3D" and the like (RFC 3461 section 4). Only upper-case digits count.
func decodeXtext(b []byte) (string, bool) {
	for _, ch := range b {
		if ch <= ' ' || ch > '~' || ch == '=' {
			return "", false
		}
	}
	if bytes.IndexByte(b, '+') < 0 {
		return string(b), true
	}
	var out strings.Builder
	for i := 0; i < len(b); i++ {
		if b[i] != '+' {
			out.WriteByte(b[i])
			continue
		}
		if i+2 >= len(b) {
			return "", false
		}
		hi, lo := hexDigit(b[i+1]), hexDigit(b[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		out.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return out.String(), true
}

func hexDigit(ch byte) int {
	switch {
	case '0' <= ch && ch <= '9':
		return int(ch - '0')
	case 'A' <= ch && ch <= 'F':
		return int(ch-'A') + 10
	}
	return -1
}

// decodeUTF8Xtext decodes utf-8-addr-xtext and, where raw allows UTF-8 on the
// line, utf-8-addr-unitext (RFC 6533 section 3): "\x{E9}" stands for a character.
func decodeUTF8Xtext(b []byte, raw bool) (string, bool) {
	if !raw && !ascii(b) || !utf8.Valid(b) {
		return "", false
	}
	var out strings.Builder
	for len(b) > 0 {
		ch := b[0]
		switch {
		case ch == '\\':
			r, n := embeddedChar(b)
			if n == 0 {
				return "", false
			}
			out.WriteRune(r)
			b = b[n:]
			continue
		case ch <= ' ', ch == 0x7f, ch == '+', ch == '=':
			return "", false
		}
		out.WriteByte(ch)
		b = b[1:]
	}
	s := out.String()
	return s, cleanUTF8([]byte(s))
}

// embeddedChar reads `\x{HEX}`; n is its length, 0 if it is none. The shortest
// form is the only one allowed, and ASCII only where it could not stand for itself.
func embeddedChar(b []byte) (r rune, n int) {
	end := bytes.IndexByte(b, '}')
	if end < 5 || end > 9 || b[1] != 'x' || b[2] != '{' || b[3] == '0' && end > 5 {
		return 0, 0
	}
	for _, ch := range b[3:end] {
		if hexDigit(ch) < 0 {
			return 0, 0
		}
	}
	v, err := strconv.ParseUint(string(b[3:end]), 16, 32)
	r = rune(v)
	if err != nil || !utf8.ValidRune(r) || unicode.IsControl(r) {
		return 0, 0
	}
	if r < 0x80 && r != ' ' && r != '+' && r != '=' && r != '\\' {
		return 0, 0
	}
	return r, end + 1
}

func printableASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
