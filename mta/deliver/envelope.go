package deliver

import (
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/dns"
)

// asciiOnly reports whether s has no byte above 127.
func asciiOnly[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// wellFormed reports whether an address can stand between angle brackets
// without changing the command around it. Accept has checked addresses
// properly; this is the last door before the wire.
func wellFormed(address string) bool {
	quoted := strings.HasPrefix(address, `"`)
	for i := range len(address) {
		switch c := address[i]; {
		case c < ' ' || c == 0x7f:
			return false
		case (c == ' ' || c == '<' || c == '>') && !quoted:
			return false
		}
	}
	return true
}

// wireAddress is the address as it goes into MAIL and RCPT: a non-ASCII domain
// as A-labels unless the local part needs SMTPUTF8 anyway. needs tells that it does.
func wireAddress(address string) (out string, needs bool) {
	if asciiOnly(address) {
		return address, false
	}
	at := strings.LastIndexByte(address, '@')
	if at < 0 || !asciiOnly(address[:at]) {
		return address, true
	}
	domain, err := dns.ASCII(address[at+1:])
	if err != nil {
		return address, true
	}
	return address[:at+1] + domain, false
}

// appendMail appends the MAIL command.
func (t *transaction) appendMail(b []byte) []byte {
	m, c := t.msgs[0], &t.s.caps
	b = append(b, "MAIL FROM:<"...)
	b = append(b, t.reversePath...)
	b = append(b, '>')
	if c.size {
		b = append(b, " SIZE="...)
		b = strconv.AppendInt(b, t.content.Size, 10)
	}
	if c.eightBit && t.content.EightBit {
		b = append(b, " BODY=8BITMIME"...)
	}
	if t.utf8 {
		b = append(b, " SMTPUTF8"...)
	}
	if c.dsn {
		if m.DSN.Ret == "FULL" || m.DSN.Ret == "HDRS" {
			b = append(append(b, " RET="...), m.DSN.Ret...)
		}
		if m.DSN.EnvelopeID != "" {
			b = appendXtext(append(b, " ENVID="...), m.DSN.EnvelopeID)
		}
	}
	return append(b, crlf...)
}

// appendRcpt appends the RCPT command for one message.
func (t *transaction) appendRcpt(b []byte, m *mail.Message) []byte {
	address, _ := wireAddress(m.Recipient)
	b = append(b, "RCPT TO:<"...)
	b = append(b, address...)
	b = append(b, '>')
	if t.s.caps.dsn {
		b = appendNotify(b, m.DSN.Notify)
		if kind, original, ok := strings.Cut(m.DSN.OriginalRecipient, ";"); ok && wellFormed(kind) && asciiOnly(kind) {
			b = append(append(b, " ORCPT="...), kind...)
			if b = append(b, ';'); strings.EqualFold(kind, "utf-8") {
				b = appendUTF8Xtext(b, original)
			} else {
				b = appendXtext(b, original)
			}
		}
	}
	return append(b, crlf...)
}

// appendNotify appends the NOTIFY parameter (RFC 3461 §4.1); nothing when none was given.
func appendNotify(b []byte, n mail.Notify) []byte {
	if n == 0 {
		return b
	}
	b = append(b, " NOTIFY="...)
	if n&mail.NotifyNever != 0 {
		return append(b, "NEVER"...)
	}
	for _, v := range []struct {
		flag mail.Notify
		name string
	}{{mail.NotifySuccess, "SUCCESS,"}, {mail.NotifyFailure, "FAILURE,"}, {mail.NotifyDelay, "DELAY,"}} {
		if n&v.flag != 0 {
			b = append(b, v.name...)
		}
	}
	return b[:len(b)-1]
}

// appendXtext appends s as RFC 3461 §4 xtext.
func appendXtext(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '+' && c != '=' {
			b = append(b, c)
		} else {
			b = append(b, '+', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// appendUTF8Xtext appends s as RFC 6533 §3 utf-8-addr-xtext, which peers without SMTPUTF8 take too.
func appendUTF8Xtext(b []byte, s string) []byte {
	for _, r := range s {
		if r > ' ' && r < 0x7f && r != '+' && r != '=' && r != '\\' {
			b = append(b, byte(r))
			continue
		}
		b = append(b, `\x{`...)
		if r < 0x10 {
			b = append(b, '0')
		}
		b = append(b, strings.ToUpper(strconv.FormatInt(int64(r), 16))...)
		b = append(b, '}')
	}
	return b
}

// check is what can be decided before a word is said: one outcome for all, or
// outcomes for single recipients, which then leave todo.
func (t *transaction) check() *mail.Outcome {
	c, m := &t.s.caps, t.msgs[0]
	if c.maxSize > 0 && t.content.Size > c.maxSize {
		return refuse(552, "5.3.4", "message of "+strconv.FormatInt(t.content.Size, 10)+" bytes exceeds the limit of "+strconv.FormatInt(c.maxSize, 10)+" that "+t.s.host+" states")
	}
	if !wellFormed(m.ReversePath) {
		return refuse(553, "5.1.7", "reverse path is not an address")
	}
	var needs bool
	t.reversePath, needs = wireAddress(m.ReversePath)
	t.utf8 = c.utf8 && (needs || m.SMTPUTF8)
	if !c.utf8 && (needs || m.SMTPUTF8 && !headerASCII(t.content.Parts)) {
		return noUTF8(t.s.host)
	}
	keep := t.todo[:0]
	for _, i := range t.todo {
		_, needs := wireAddress(t.msgs[i].Recipient)
		switch {
		case !wellFormed(t.msgs[i].Recipient) || t.msgs[i].Recipient == "":
			t.out[i] = *refuse(553, "5.1.3", "recipient is not an address")
		case needs && !c.utf8:
			t.out[i] = *noUTF8(t.s.host)
		case t.content.EightBit && !c.eightBit: // after SMTPUTF8, which a peer without it lacks for good
			t.out[i] = *refuse(554, "5.6.3", t.s.host+" does not offer 8BITMIME and the message needs it")
		default:
			t.utf8 = t.utf8 || needs
			keep = append(keep, i)
		}
	}
	t.todo = keep
	return nil
}

func refuse(code int, enhanced, text string) *mail.Outcome {
	o := local(mail.Bounced, mail.ClassPolicy, code, enhanced, text, nil)
	o.Command = "MAIL"
	return &o
}

func noUTF8(host string) *mail.Outcome {
	return refuse(553, "5.6.7", host+" does not offer SMTPUTF8 and the address or the header needs it")
}
