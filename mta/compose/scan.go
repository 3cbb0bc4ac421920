package compose

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// ascii reports whether no byte of b is above 127. It runs over every body that
// goes out, so it looks at 32 bytes at once.
func ascii(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 32 {
		x := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if x&high != 0 {
			return false
		}
		b = b[32:]
	}
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// asciiString is ascii for the short texts of a header.
func asciiString(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// maxLine is the longest line RFC 5322 §2.1.1 allows, without its CR LF.
const maxLine = 998

// longLine reports whether a line of b is longer than SMTP can carry.
func longLine(b []byte) bool {
	for len(b) > maxLine {
		n := bytes.IndexByte(b, '\n')
		if n < 0 {
			return true
		}
		if n > maxLine+1 {
			return true
		}
		b = b[n+1:]
	}
	return false
}

// splitMessage cuts a message behind the empty line that ends its header.
func splitMessage(data []byte) (header, body []byte) {
	if bytes.HasPrefix(data, []byte("\r\n")) {
		return data[:2], data[2:]
	}
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return data, nil
	}
	return data[:end+4], data[end+4:]
}

// nextField cuts the first field, with its folded lines, off a header block.
// name is "" for the empty line at the end and for a line that is no field.
func nextField(header []byte) (name, raw, rest []byte) {
	at := 0
	for {
		n := bytes.IndexByte(header[at:], '\n')
		if n < 0 {
			at = len(header)
			break
		}
		at += n + 1
		if at == len(header) || header[at] != ' ' && header[at] != '\t' || header[0] == '\r' {
			break
		}
	}
	raw, rest = header[:at], header[at:]
	if colon := bytes.IndexByte(raw, ':'); colon > 0 && raw[0] != ' ' && raw[0] != '\t' {
		name = bytes.TrimRight(raw[:colon], " \t")
	}
	return name, raw, rest
}

// is compares a field name; want is in lower case.
func is(name []byte, want string) bool {
	return len(name) == len(want) && strings.EqualFold(string(name), want)
}

// hasField reports whether a header block has a field; want is in lower case.
func hasField(header []byte, want string) bool {
	for len(header) > 0 {
		var name []byte
		name, _, header = nextField(header)
		if is(name, want) {
			return true
		}
	}
	return false
}

// unfold returns the value of a field on one line, without white space at its ends.
func unfold(raw []byte) string {
	value := raw[bytes.IndexByte(raw, ':')+1:]
	out := make([]byte, 0, len(value))
	for _, c := range value {
		if c != '\r' && c != '\n' {
			out = append(out, c)
		}
	}
	return string(bytes.Trim(out, " \t"))
}

// crlfLines returns s with CR LF line ends, whatever they were.
func crlfLines(s string) []byte {
	extra := strings.Count(s, "\n") + strings.Count(s, "\r") - 2*strings.Count(s, "\r\n")
	if extra == 0 {
		return []byte(s)
	}
	out := make([]byte, 0, len(s)+extra)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\r' && i+1 < len(s) && s[i+1] == '\n':
			out = append(out, '\r', '\n')
			i++
		case c == '\r' || c == '\n':
			out = append(out, '\r', '\n')
		default:
			out = append(out, c)
		}
	}
	return out
}
