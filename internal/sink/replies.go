package sink

import (
	"fmt"
	"strconv"
	"strings"
)

// reply is one SMTP reply. Lines of text are separated by line feeds.
type reply struct {
	code     int
	enhanced string // such as 4.7.1; may be empty
	text     string
}

func (r reply) temporary() bool { return r.code >= 400 && r.code < 500 }
func (r reply) permanent() bool { return r.code >= 500 }

// append writes the reply in wire form (RFC 5321 §4.2.1, RFC 2034 §4: the enhanced code stands on every line).
func (r reply) append(b []byte, enhanced bool) []byte {
	for rest, more := r.text, true; more; {
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		b = strconv.AppendInt(b, int64(r.code), 10)
		if more {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if enhanced && r.enhanced != "" {
			b = append(b, r.enhanced...)
			b = append(b, ' ')
		}
		b = append(b, line...)
		b = append(b, "\r\n"...)
	}
	return b
}

// parseReply reads "451 4.7.1 text"; the enhanced code may be absent, "\n" in the text separates lines.
func parseReply(s string) (reply, error) {
	code, text, _ := strings.Cut(s, " ")
	n, err := strconv.Atoi(code)
	if err != nil || n < 200 || n > 599 {
		return reply{}, fmt.Errorf("%q does not begin with a reply code", s)
	}
	r := reply{code: n, text: text}
	if first, rest, _ := strings.Cut(text, " "); isEnhanced(first) {
		r.enhanced, r.text = first, rest
	}
	if strings.ContainsRune(r.text, '\r') {
		return reply{}, fmt.Errorf("%q holds a CR", s)
	}
	return r, nil
}

func isEnhanced(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return false
	}
	for _, p := range parts {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 999 {
			return false
		}
	}
	return true
}

// forPeer fills in the peer's address.
func (r reply) forPeer(ip string) reply {
	if strings.Contains(r.text, "{ip}") {
		r.text = strings.ReplaceAll(r.text, "{ip}", ip)
	}
	return r
}
