package dkim

import "bytes"

// field is one header field, pointing into the message.
type field struct {
	name []byte // as written, without white space before the colon
	raw  []byte // the whole field with its line ends
	prev int32  // the field of the same name above this one, -1 if none
}

// value is what follows the colon, line ends included.
func (f field) value() []byte {
	return f.raw[bytes.IndexByte(f.raw, ':')+1:]
}

// splitFields appends the fields of a header block to dst. It stops at the empty
// line; a line that is no field (no colon, or a continuation of nothing) is
// skipped, as a verifier skips it.
func splitFields(dst []field, header []byte) []field {
	for len(header) > 0 {
		end := fieldEnd(header)
		raw := header[:end]
		header = header[end:]
		if len(raw) == 2 && raw[0] == '\r' {
			break
		}
		colon := bytes.IndexByte(raw, ':')
		if colon <= 0 || raw[0] == ' ' || raw[0] == '\t' {
			continue
		}
		name := bytes.TrimRight(raw[:colon], " \t")
		dst = append(dst, field{name: name, raw: raw, prev: -1})
	}
	return dst
}

// fieldEnd is the length of the first field of header with its folded lines.
func fieldEnd(header []byte) int {
	at := 0
	for {
		n := bytes.IndexByte(header[at:], '\n')
		if n < 0 {
			return len(header)
		}
		at += n + 1
		empty := at == 2 && header[0] == '\r'
		if empty || at == len(header) || header[at] != ' ' && header[at] != '\t' {
			return at
		}
	}
}

// appendField appends the canonical form of a field, CR LF included.
func appendField(dst []byte, f field, mode canonicalization) []byte {
	if mode == simple {
		dst = append(dst, f.raw...)
		if !bytes.HasSuffix(f.raw, crlf) {
			dst = append(dst, '\r', '\n')
		}
		return dst
	}
	dst = appendLower(dst, f.name)
	dst = append(dst, ':')
	dst = appendRelaxed(dst, f.value())
	return append(dst, '\r', '\n')
}

// appendRelaxed appends a field value unfolded, its white space runs reduced to
// one space and none at either end (RFC 6376 §3.4.2).
func appendRelaxed(dst, value []byte) []byte {
	start := len(dst)
	gap := false
	for _, c := range value {
		switch c {
		case ' ', '\t', '\r', '\n':
			gap = true
		default:
			if gap && len(dst) > start {
				dst = append(dst, ' ')
			}
			gap = false
			dst = append(dst, c)
		}
	}
	return dst
}

func appendLower(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
