package accept

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

const (
	maxAddress = 320 // 64 + @ + 255, RFC 5321 §4.5.3.1; longer local parts are common in VERP, so only the sum is held
	maxDomain  = 255
	maxLabel   = 63
)

// CheckAddress checks one address, local@domain, and returns it with its domain
// in lower case; an internationalised domain is kept as given. Addresses with bytes above 127
// need smtputf8 (RFC 6531). The error is an *Error with 501 5.1.3 or 553 5.6.7.
func CheckAddress(address string, smtputf8 bool) (string, error) {
	a, refusal := checkAddress(address, smtputf8)
	if refusal != nil {
		return "", refusal
	}
	return a, nil
}

// CheckReversePath is CheckAddress for MAIL FROM: the empty (null) reverse path is right, and
// the codes are those of a sender (5.1.7).
func CheckReversePath(path string, smtputf8 bool) (string, error) {
	if path == "" {
		return "", nil
	}
	a, refusal := checkAddress(path, smtputf8)
	if refusal != nil {
		if refusal.Enhanced == [3]int{5, 1, 3} {
			refusal.Enhanced = [3]int{5, 1, 7}
		}
		return "", refusal
	}
	return a, nil
}

func badAddress(why string) *Error {
	return refuse(501, 5, 1, 3, "", "Bad address: "+why)
}

func checkAddress(a string, smtputf8 bool) (string, *Error) {
	if len(a) > maxAddress {
		return "", badAddress("too long")
	}
	if !isASCII(a) {
		if !utf8.ValidString(a) {
			return "", badAddress("not UTF-8")
		}
		if !smtputf8 {
			return "", refuse(553, 5, 6, 7, "", "Address has characters that need SMTPUTF8")
		}
	}
	at := strings.LastIndexByte(a, '@')
	if at < 0 {
		return "", badAddress("no domain")
	}
	if why := badLocalPart(a[:at]); why != "" {
		return "", badAddress(why)
	}
	domain := a[at+1:]
	if why := badDomain(domain); why != "" {
		return "", badAddress(why)
	}
	if lower := strings.ToLower(domain); lower != domain {
		return a[:at+1] + lower, nil
	}
	return a, nil
}

// badLocalPart tells what is wrong with a dot-string or quoted-string (RFC 5321
// §4.1.2). Adjacent dots pass: some providers gave out such addresses.
func badLocalPart(s string) string {
	if s == "" {
		return "no local part"
	}
	if s[0] == '"' {
		return badQuoted(s)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7f:
			return "space or control character"
		case strings.IndexByte(`()<>[]:;@\,"`, c) >= 0:
			return "character that needs quoting"
		}
	}
	return ""
}

func badQuoted(s string) string {
	if len(s) < 2 || s[len(s)-1] != '"' {
		return "quoted local part does not end"
	}
	inner := s[1 : len(s)-1]
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case c < ' ' || c == 0x7f:
			return "control character"
		case c == '"':
			return "quote inside quoted local part"
		case c == '\\':
			i++
			if i == len(inner) || inner[i] < ' ' || inner[i] == 0x7f {
				return "bad escape in quoted local part"
			}
		}
	}
	return ""
}

func badDomain(s string) string {
	if s == "" {
		return "no domain"
	}
	if s[0] == '[' {
		return badLiteral(s)
	}
	if len(s) > maxDomain {
		return "domain too long"
	}
	label := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			if label == 0 {
				return "empty label in domain"
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c >= utf8.RuneSelf:
		default:
			return "bad character in domain"
		}
		if label++; label > maxLabel {
			return "label too long in domain"
		}
	}
	if label == 0 {
		return "empty label in domain"
	}
	return ""
}

// badLiteral checks an address literal, RFC 5321 §4.1.3.
func badLiteral(s string) string {
	inner, ok := strings.CutSuffix(s[1:], "]")
	if !ok {
		return "address literal does not end"
	}
	want6 := len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:")
	if want6 {
		inner = inner[5:]
	}
	ip, err := netip.ParseAddr(inner)
	if err != nil || ip.Is4() == want6 || ip.Zone() != "" {
		return "bad address literal"
	}
	return ""
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
