package smtp

import (
	"bytes"
	"errors"
	"net/netip"
	"unicode"
	"unicode/utf8"
)

// Limits of RFC 5321 section 4.5.3.1, in octets.
const (
	maxLocal  = 64
	maxDomain = 255
	maxPath   = 256 // with the angle brackets
	maxLabel  = 63
)

// What can be wrong with a path. The texts are sent to the peer.
var (
	errBracket = errors.New("address must be in angle brackets")
	errSyntax  = errors.New("bad address syntax")
	errLocal   = errors.New("local part longer than 64 octets")
	errDomain  = errors.New("bad domain in address")
	errPathLen = errors.New("address longer than 256 octets")
	errUTF8    = errors.New("address is not valid UTF-8")
)

// path is a reverse or forward path (RFC 5321 section 4.1.2) without its
// source route, which is obsolete and ignored (appendix C).
type path struct {
	addr     string // as it was sent: a quoted local part keeps its quotes; "" is the null path
	eightBit bool   // has characters above ASCII (RFC 6531)
	local    bool   // has no domain, which only Postmaster may lack (RFC 5321 section 4.5.1)
}

// parsePath reads the path that s begins with, and returns what follows it.
func parsePath(s []byte) (path, []byte, error) {
	if len(s) == 0 || s[0] != '<' {
		return path{}, s, errBracket
	}
	if len(s) > 1 && s[1] == '>' {
		return path{}, s[2:], nil
	}
	start, err := skipRoute(s, 1)
	if err != nil {
		return path{}, s, err
	}
	at, err := localPart(s, start)
	if err != nil {
		return path{}, s, err
	}
	if at-start > maxLocal {
		return path{}, s, errLocal
	}
	end, p := at, path{local: true}
	if at < len(s) && s[at] == '@' {
		p.local = false
		if end, err = domainPart(s, at+1); err != nil {
			return path{}, s, err
		}
	}
	if end >= len(s) || s[end] != '>' {
		return path{}, s, errSyntax
	}
	if end+1 > maxPath {
		return path{}, s, errPathLen
	}
	addr := s[start:end]
	if p.eightBit = !ascii(addr); p.eightBit && !cleanUTF8(addr) {
		return path{}, s, errUTF8
	}
	if p.local && !bytes.EqualFold(addr, []byte("postmaster")) {
		return path{}, s, errSyntax
	}
	p.addr = string(addr)
	return p, s[end+1:], nil
}

// skipRoute steps over "@a,@b:".
func skipRoute(s []byte, i int) (int, error) {
	for i < len(s) && s[i] == '@' {
		end, err := domainPart(s, i+1)
		if err != nil {
			return i, err
		}
		if end >= len(s) {
			return i, errSyntax
		}
		switch {
		case s[end] == ':':
			return end + 1, nil
		case s[end] == ',' && end+1 < len(s) && s[end+1] == '@':
			i = end + 1
		default:
			return i, errSyntax
		}
	}
	return i, nil
}

// localPart returns the end of the Dot-string or Quoted-string at s[i].
func localPart(s []byte, i int) (int, error) {
	if i < len(s) && s[i] == '"' {
		return quotedString(s, i+1)
	}
	start := i
	for ; i < len(s) && s[i] != '@' && s[i] != '>'; i++ {
		switch ch := s[i]; {
		case ch == '.' && (i == start || s[i-1] == '.'), ch != '.' && !isAtext(ch):
			return i, errSyntax
		}
	}
	if i == start || i == len(s) || s[i-1] == '.' {
		return i, errSyntax
	}
	return i, nil
}

func quotedString(s []byte, i int) (int, error) {
	for ; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '"':
			return i + 1, nil
		case ch == '\\':
			i++
			if i == len(s) || s[i] < ' ' || s[i] > '~' {
				return i, errSyntax
			}
		case ch < ' ', ch == 0x7f:
			return i, errSyntax
		}
	}
	return i, errSyntax
}

// domainPart returns the end of the domain or address literal at s[i].
func domainPart(s []byte, i int) (int, error) {
	if i < len(s) && s[i] == '[' {
		return addressLiteral(s, i)
	}
	start, label := i, i
	for ; i < len(s); i++ {
		ch := s[i]
		if ch == '.' {
			if !validLabel(s[label:i]) {
				return i, errDomain
			}
			label = i + 1
			continue
		}
		if !isLetDig(ch) && ch != '-' && ch < 0x80 {
			break
		}
	}
	if !validLabel(s[label:i]) || i-start > maxDomain {
		return i, errDomain
	}
	return i, nil
}

func validLabel(l []byte) bool {
	return len(l) > 0 && len(l) <= maxLabel && l[0] != '-' && l[len(l)-1] != '-'
}

// addressLiteral takes [192.0.2.1] and [IPv6:2001:db8::1]; no other kind has
// ever been registered.
func addressLiteral(s []byte, i int) (int, error) {
	n := bytes.IndexByte(s[i:], ']')
	if n < 0 {
		return i, errDomain
	}
	text := s[i+1 : i+n]
	const tag = "IPv6:"
	v6 := len(text) > len(tag) && bytes.EqualFold(text[:len(tag)], []byte(tag))
	if v6 {
		text = text[len(tag):]
	}
	addr, err := netip.ParseAddr(string(text))
	if err != nil || addr.Zone() != "" || addr.Is4() == v6 {
		return i, errDomain
	}
	return i + n + 1, nil
}

func isLetDig(ch byte) bool {
	return 'a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || '0' <= ch && ch <= '9'
}

// isAtext is atext of RFC 5322 section 3.2.3, and all of UTF-8 (RFC 6531 section 3.3).
func isAtext(ch byte) bool {
	if isLetDig(ch) || ch >= 0x80 {
		return true
	}
	switch ch {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '/', '=', '?', '^', '_', '`', '{', '|', '}', '~':
		return true
	}
	return false
}

func ascii(b []byte) bool {
	for _, ch := range b {
		if ch >= 0x80 {
			return false
		}
	}
	return true
}

// cleanUTF8 reports whether b is UTF-8 without control characters.
func cleanUTF8(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Zs) && r != ' ' {
			return false
		}
	}
	return true
}
