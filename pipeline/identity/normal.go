package identity

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nyaruka/phonenumbers"
	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Errors of identifiers that cannot be used. What wraps them says why, in words for whoever sent it.
var (
	ErrEmail     = errors.New("not an email address")
	ErrPhone     = errors.New("not a phone number in E.164 form")
	ErrExternal  = errors.New("not an external id")
	ErrAnonymous = errors.New("not an anonymous id")
)

// Limits in bytes: those of RFC 5321, 4.5.3.1 for addresses, ours for the rest.
const (
	maxLocal   = 64
	maxAddress = 254
	maxPhone   = 64
	maxOther   = 255
)

// Email returns the form in which an address is known: without white space around it, in
// lower case, the domain in A-labels (RFC 5890). Applied twice it changes nothing.
func Email(s string) (string, error) {
	s = strings.TrimSpace(s)
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%w: it is not UTF-8", ErrEmail)
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", fmt.Errorf("%w: it has no @", ErrEmail)
	}
	local, err := localPart(s[:at])
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrEmail, err)
	}
	domain, err := domainPart(s[at+1:])
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrEmail, err)
	}
	if len(local)+1+len(domain) > maxAddress {
		return "", fmt.Errorf("%w: it is longer than %d bytes", ErrEmail, maxAddress)
	}
	if at == len(local) && s[:at] == local && s[at+1:] == domain {
		return s, nil
	}
	return local + "@" + domain, nil
}

// localPart checks and folds a Dot-string (RFC 5321, 4.1.2; RFC 6531 for what is not ASCII). Quoted ones are refused.
func localPart(s string) (string, error) {
	if !ascii(s) {
		s = norm.NFC.String(strings.ToLower(norm.NFC.String(s)))
	} else {
		s = strings.ToLower(s)
	}
	switch {
	case s == "":
		return "", errors.New("nothing stands before the @")
	case len(s) > maxLocal:
		return "", fmt.Errorf("more than %d bytes stand before the @", maxLocal)
	case s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, ".."):
		return "", errors.New("a dot stands at an end or beside another one")
	}
	for _, r := range s {
		if !inLocal(r) {
			return "", fmt.Errorf("%q must not stand before the @", r)
		}
	}
	return s, nil
}

// inLocal is atext of RFC 5322 and RFC 6531, or a dot.
func inLocal(r rune) bool {
	switch {
	case r >= utf8.RuneSelf:
		return unicode.IsGraphic(r) && !unicode.IsSpace(r)
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.':
		return true
	}
	return strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

// domains maps and checks as UTS #46 says, without its rule on hyphens, which names in use break.
var domains = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.CheckHyphens(false),
	idna.CheckJoiners(true), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

func domainPart(s string) (string, error) {
	plain := ascii(s)
	if plain {
		s = strings.ToLower(s)
	}
	if !plain || strings.Contains(s, "xn--") {
		a, err := domains.ToASCII(s)
		if err != nil {
			return "", errors.New("what stands behind the @ is not a domain name")
		}
		s = a
	}
	if err := hostName(s); err != nil {
		return "", err
	}
	return s, nil
}

// hostName checks a name of two or more labels in lower case (RFC 5321, 2.3.5; RFC 1123, 2.1).
func hostName(s string) error {
	if !strings.Contains(s, ".") {
		return errors.New("the domain has no dot")
	}
	if len(s) > 253 {
		return errors.New("the domain is longer than 253 bytes")
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("the domain has a part that is empty, too long, or has a hyphen at an end")
		}
		for i := range len(label) {
			if c := label[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return fmt.Errorf("%q must not stand in a domain", c)
			}
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return errors.New("the domain ends in a number")
	}
	return nil
}

// Phone returns a number in E.164 form: a plus sign and up to 15 digits. It must come with its country code.
// Numbers of a possible length are taken, as lists of those in use are never up to date.
func Phone(s string) (string, error) {
	s = strings.TrimSpace(s)
	if northAmerican(s) {
		return s, nil
	}
	if len(s) > maxPhone {
		return "", fmt.Errorf("%w: it is longer than %d bytes", ErrPhone, maxPhone)
	}
	out, err := e164(s)
	if err != nil {
		return "", err
	}
	// A few odd numbers lose another prefix when they are read again.
	if again, err := e164(out); err != nil || again != out {
		return "", fmt.Errorf("%w: it can be read in two ways", ErrPhone)
	}
	return out, nil
}

func e164(s string) (string, error) {
	n, err := phonenumbers.Parse(s, "")
	switch {
	case err != nil && !strings.HasPrefix(s, "+"):
		return "", fmt.Errorf("%w: it must begin with + and the country code", ErrPhone)
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrPhone, err)
	case n.GetExtension() != "":
		return "", fmt.Errorf("%w: it has an extension", ErrPhone)
	case !phonenumbers.IsPossibleNumber(n):
		return "", fmt.Errorf("%w: no number of that country has so many digits", ErrPhone)
	}
	return phonenumbers.Format(n, phonenumbers.E164), nil
}

// northAmerican tells the most common numbers in their final form, for which the library is 100 times slower.
func northAmerican(s string) bool {
	if len(s) != 12 || s[:2] != "+1" || s[2] < '2' {
		return false
	}
	for i := 2; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// External returns an id that the tenant's own systems gave. Only white space around it is taken away.
func External(s string) (string, error) { return opaque(s, ErrExternal) }

// Anonymous returns an id that a browser or device was given. Only white space around it is taken away.
func Anonymous(s string) (string, error) { return opaque(s, ErrAnonymous) }

func opaque(s string, kind error) (string, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return "", fmt.Errorf("%w: it is empty", kind)
	case len(s) > maxOther:
		return "", fmt.Errorf("%w: it is longer than %d bytes", kind, maxOther)
	case !utf8.ValidString(s):
		return "", fmt.Errorf("%w: it is not UTF-8", kind)
	case strings.ContainsFunc(s, unicode.IsControl):
		return "", fmt.Errorf("%w: it has a control character", kind)
	}
	return s, nil
}

// Sort puts identifiers in the order that they must have in a record: the strongest first, and those of one kind by
// their value, so that the owner does not depend on the order in which they came.
func Sort(ids []fact.Identifier) {
	slices.SortFunc(ids, func(a, b fact.Identifier) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Value, b.Value))
	})
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
