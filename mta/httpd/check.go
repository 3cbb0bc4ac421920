package httpd

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/mail"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta/accept"
	"github.com/godwit-mta/godwit/mta/injectapi"
)

// maxFaults bounds how many errors one response lists.
const maxFaults = 50

// faults collects what is wrong with a request, so that the client learns all of it at once.
type faults []wire.Error

func (f *faults) add(pointer, code, detail string) {
	if len(*f) < maxFaults {
		*f = append(*f, wire.Error{Code: code, Title: wire.Title(code), Detail: detail,
			Pointer: pointer, Field: lastToken(pointer)})
	}
}

// problem is nil when nothing was found.
func (f faults) problem() *wire.Problem {
	if len(f) == 0 {
		return nil
	}
	return &wire.Problem{Status: http.StatusUnprocessableEntity, Errors: f}
}

// lastToken is the innermost field name of a pointer: "name" of /headers/3/name.
func lastToken(pointer string) string {
	for {
		at := strings.LastIndexByte(pointer, '/')
		if at < 0 {
			return pointer
		}
		if _, err := strconv.Atoi(pointer[at+1:]); err != nil {
			return pointer[at+1:]
		}
		pointer = pointer[:at]
	}
}

// line holds a text to one line of at most max bytes. It reports whether it is.
func (f *faults) line(pointer, s string, max int) bool {
	code, detail := badLine(s, max)
	if code != "" {
		f.add(pointer, code, detail)
	}
	return code == ""
}

// badLine tells why s cannot stand in a header field or label.
func badLine(s string, max int) (code, detail string) {
	if len(s) > max {
		return injectapi.CodeTooLong, fmt.Sprintf("has %d bytes, at most %d are allowed", len(s), max)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\r' || c == '\n' || c == 0:
			return injectapi.CodeLineBreak, "must not contain CR, LF or NUL"
		case c < ' ' && c != '\t' || c == 0x7f:
			return wire.CodeInvalidValue, "must not contain control characters"
		}
	}
	return "", ""
}

// hasTags reports whether s may hold template syntax.
func hasTags(s string) bool {
	return strings.Contains(s, "{{") || strings.Contains(s, "{%") || strings.Contains(s, "{#")
}

// anyCharset lets encoded words pass whatever their charset: only addresses are read here.
func anyCharset() *mail.AddressParser {
	return &mail.AddressParser{WordDecoder: &mime.WordDecoder{CharsetReader: passCharset}}
}

// fromAddress is the address in a From header field of one mailbox (RFC 5322
// §3.6.2). With template tags in the display name only the address is read.
func fromAddress(s string, templates bool) (string, error) {
	address := ""
	if templates && hasTags(s) {
		open, end := strings.LastIndexByte(s, '<'), strings.LastIndexByte(s, '>')
		if open < 0 || end < open || strings.TrimSpace(s[end+1:]) != "" {
			return "", errors.New("with template tags, write it as Name <address>")
		}
		if address = s[open+1 : end]; hasTags(address) {
			return "", errors.New("the address must not hold template tags")
		}
	} else {
		parsed, err := anyCharset().Parse(s)
		if err != nil {
			return "", errors.New("must be one address or Name <address>")
		}
		address = parsed.Address
	}
	checked, err := accept.CheckAddress(address, true)
	if err != nil || checked == "" {
		return "", fmt.Errorf("%q is not an address that can send mail", address)
	}
	return checked, nil
}

// checkReplyTo holds a Reply-To value to an address list.
func checkReplyTo(s string, templates bool) error {
	if templates && hasTags(s) {
		return nil
	}
	if _, err := anyCharset().ParseList(s); err != nil {
		return errors.New("must be one or more addresses, separated by commas")
	}
	return nil
}
