package accept

import (
	"net/netip"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// trace is what the fields that accept adds are made of.
type trace struct {
	peerName string
	peer     netip.Addr
	hostname string
	protocol string // with clause, upper case
	tls      string
	id       mail.ID
	rcpt     string // for clause; "" when there are more recipients than one
	at       time.Time
}

// appendFields appends Received and, where h lacks them, Date and Message-ID.
func (t *trace) appendFields(dst []byte, h *header) []byte {
	dst = t.appendReceived(dst)
	if !h.date {
		dst = append(dst, "Date: "...)
		dst = t.at.AppendFormat(dst, time.RFC1123Z)
		dst = append(dst, "\r\n"...)
	}
	if !h.messageID {
		dst = append(dst, "Message-ID: <"...)
		dst, _ = t.id.AppendText(dst)
		dst = append(dst, '@')
		dst = append(dst, t.hostname...)
		dst = append(dst, ">\r\n"...)
	}
	return dst
}

// appendReceived writes the trace field of RFC 5321 §4.4, folded.
func (t *trace) appendReceived(dst []byte) []byte {
	dst = append(dst, "Received: "...)
	if t.peer.IsValid() {
		dst = append(dst, "from "...)
		literal := appendLiteral(make([]byte, 0, 64), t.peer)
		if t.peerName == "" {
			dst = append(dst, literal...)
		} else {
			dst = appendClean(dst, t.peerName)
		}
		dst = append(dst, " ("...)
		dst = append(dst, literal...)
		dst = append(dst, ")\r\n\t"...)
	}
	dst = append(dst, "by "...)
	dst = append(dst, t.hostname...)
	dst = append(dst, " (Godwit) with "...)
	dst = append(dst, t.protocol...)
	if t.tls != "" {
		dst = append(dst, " ("...)
		dst = appendClean(dst, t.tls)
		dst = append(dst, ')')
	}
	dst = append(dst, "\r\n\tid "...)
	dst, _ = t.id.AppendText(dst)
	if t.rcpt != "" {
		dst = append(dst, "\r\n\tfor <"...)
		dst = append(dst, t.rcpt...)
		dst = append(dst, '>')
	}
	dst = append(dst, ";\r\n\t"...)
	dst = t.at.AppendFormat(dst, time.RFC1123Z)
	return append(dst, "\r\n"...)
}

func appendLiteral(dst []byte, a netip.Addr) []byte {
	a = a.Unmap().WithZone("")
	dst = append(dst, '[')
	if a.Is6() {
		dst = append(dst, "IPv6:"...)
	}
	dst = a.AppendTo(dst)
	return append(dst, ']')
}

// appendClean appends what a peer said of itself without anything that has a
// meaning in a header or a template.
func appendClean(dst []byte, s string) []byte {
	for i := range min(len(s), 255) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '.', c == '-', c == '_', c == ':', c == '[', c == ']', c == ' ' && i > 0:
			dst = append(dst, c)
		default:
			dst = append(dst, '?')
		}
	}
	return dst
}

// protocolName is the with clause: RFC 3848, or RFC 6531 §4.3 with SMTPUTF8.
func protocolName(protocol string, smtputf8 bool) string {
	switch protocol {
	case "http":
		return "HTTP"
	case "esmtps":
		return pick(smtputf8, "UTF8SMTPS", "ESMTPS")
	case "esmtpa":
		return pick(smtputf8, "UTF8SMTPA", "ESMTPA")
	case "esmtpsa":
		return pick(smtputf8, "UTF8SMTPSA", "ESMTPSA")
	case "smtp":
		return "SMTP"
	}
	return pick(smtputf8, "UTF8SMTP", "ESMTP")
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}
