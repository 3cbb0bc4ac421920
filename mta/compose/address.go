package compose

import (
	"errors"
	"fmt"
	netmail "net/mail"
	"strings"

	"golang.org/x/net/idna"
)

// fromDomain returns the domain of the first address of the From field, in lower
// case, "" if there is none. It decides by which key a message is signed, so it
// finds the address where a strict parser gives up, and it is not fooled by an
// address inside a display name or a comment.
func fromDomain(header []byte) string {
	for len(header) > 0 {
		var name, raw []byte
		name, raw, header = nextField(header)
		if is(name, "from") {
			return addressDomain(unfold(raw))
		}
	}
	return ""
}

// addressDomain returns the domain of the first address of a list.
func addressDomain(list string) string {
	address := firstAddress(list)
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return ""
	}
	domain := strings.ToLower(strings.Trim(address[at+1:], " \t."))
	if strings.ContainsAny(domain, " \t\"<>()[]\\,;:") {
		return ""
	}
	return domain
}

// firstAddress walks an address list (RFC 5322 §3.4) and returns the first
// addr-spec: what is in the first angle brackets, or what stands before the first
// comma when there are none. Comments are dropped; text in quotes counts only
// as part of a local part.
func firstAddress(list string) string {
	var plain strings.Builder
	for i := 0; i < len(list); i++ {
		switch c := list[i]; c {
		case '"':
			end := quotedEnd(list, i)
			plain.WriteString(list[i:end])
			i = end - 1
		case '(':
			i = commentEnd(list, i) - 1
		case '<':
			if inside, ok := angle(list[i+1:]); ok {
				return inside
			}
		case ':':
			plain.Reset() // a group's name
		case ',', ';':
			if strings.Contains(plain.String(), "@") {
				return strings.TrimSpace(plain.String())
			}
			plain.Reset()
		default:
			plain.WriteByte(c)
		}
	}
	return strings.TrimSpace(plain.String())
}

// angle returns what stands before the closing bracket, without an obsolete
// source route (@a,@b:user@c).
func angle(s string) (inside string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			i = quotedEnd(s, i) - 1
		case '>':
			inside = s[:i]
			if strings.HasPrefix(inside, "@") {
				_, inside, _ = strings.Cut(inside, ":")
			}
			return inside, strings.Contains(inside, "@")
		}
	}
	return "", false
}

// quotedEnd is the index behind the quoted string that begins at i.
func quotedEnd(s string, i int) int {
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// commentEnd is the index behind the comment, which may nest, that begins at i.
func commentEnd(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

var errNoAddress = errors.New("a group without members")

// parseAddresses reads an address list as people write it. What net/mail does
// not take is given one more chance as a display name that should have been
// quoted, such as: Acme, Inc. <news@example.com>
func parseAddresses(list string) ([]*netmail.Address, error) {
	addresses, err := netmail.ParseAddressList(list)
	if err == nil && len(addresses) > 0 {
		return addresses, nil
	}
	if err == nil {
		return nil, errNoAddress
	}
	open := strings.LastIndexByte(list, '<')
	if open < 0 || !strings.HasSuffix(list, ">") {
		return nil, err
	}
	address, bare := netmail.ParseAddress(list[open:])
	if bare != nil {
		return nil, err
	}
	name := strings.TrimSpace(list[:open])
	if strings.Contains(name, "@") && strings.ContainsAny(name, "<>,;") {
		return nil, err // more than one address, and none that is certain
	}
	if len(name) > 1 && name[0] == '"' && name[len(name)-1] == '"' {
		name = name[1 : len(name)-1]
	}
	address.Name = name
	return []*netmail.Address{address}, nil
}

// addrSpec returns the address as it stands in a header. A domain that is not
// ASCII gets its A-labels if that makes the whole address ASCII; a local part that is
// not stays as it is (SMTPUTF8, RFC 6532).
func addrSpec(a *netmail.Address) string {
	spec := (&netmail.Address{Address: a.Address}).String()
	spec = strings.TrimSuffix(strings.TrimPrefix(spec, "<"), ">")
	at := strings.LastIndexByte(spec, '@')
	if asciiString(spec) || at < 0 || !asciiString(spec[:at]) {
		return spec
	}
	if domain, err := idna.Lookup.ToASCII(spec[at+1:]); err == nil {
		return spec[:at+1] + domain
	}
	return spec
}

// phrase returns a display name in header form, with the space that follows it.
func phrase(name string) string {
	switch {
	case name == "":
		return ""
	case !asciiString(name) || strings.Contains(name, "=?") || strings.ContainsFunc(name, isControl):
		return encodedWords(name, 0) + " "
	case strings.ContainsFunc(name, func(r rune) bool { return !isAtomText(r) && r != ' ' }):
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `" `
	}
	return name + " "
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// isAtomText is RFC 5322 §3.2.3 atext.
func isAtomText(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

// appendAddresses appends a header field with an address list.
func appendAddresses(dst []byte, name, list string) ([]byte, error) {
	addresses, err := parseAddresses(list)
	if err != nil {
		return nil, fmt.Errorf("%s: not an address: %w", strings.ToLower(name), err)
	}
	l := startLine(dst, name)
	for i, a := range addresses {
		spec := addrSpec(a)
		text := phrase(a.Name)
		if text != "" {
			spec = "<" + spec + ">"
		}
		if i < len(addresses)-1 {
			spec += ","
		}
		l.words(text + spec)
	}
	return l.end(), nil
}

// isAddressField reports whether a header field holds addresses, so that only
// their display names may be encoded. name is in lower case.
func isAddressField(name string) bool {
	switch name {
	case "from", "to", "cc", "reply-to", "sender", "resent-from", "resent-to", "resent-cc", "resent-sender",
		"errors-to", "disposition-notification-to", "return-receipt-to":
		return true
	}
	return false
}
