package accept

import (
	"bytes"
	"strconv"
)

// span is a range of offsets into the bytes being scanned.
type span struct{ from, to int }

// field is an X-Godwit-* field: where its name and its (still folded) value are.
type field struct{ name, value span }

// header is the state of one pass over a header block. Offsets, not slices,
// so that the buffer may move while it grows.
type header struct {
	pos  int // start of the first line not looked at yet
	line int // number of that line, minus one
	done bool
	// end is where the fields end, body where the body begins: two bytes later, after
	// the blank line, or at the end of a message that has none.
	end, body int
	open      bool // the message ended inside a header line: CR LF is missing

	received  int
	date      bool
	messageID bool
	cut       []span  // removed fields, in order
	ours      []field // those of them that are X-Godwit-*
	cutting   bool    // the field of the present line is being removed
	started   bool    // a field has begun: continuation lines may follow
}

// scan looks at the complete lines of b from where the last call stopped, and
// at eof also at an incomplete last one. h.done is set at the end of the header block.
func (h *header) scan(b []byte, eof bool) *Error {
	for !h.done {
		rest := b[h.pos:]
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			if !eof {
				return nil
			}
			return h.last(b)
		}
		h.line++
		if n == 0 || rest[n-1] != '\r' {
			return h.bad("bare LF in header")
		}
		if n == 1 {
			h.end, h.body, h.done = h.pos, h.pos+2, true
			break
		}
		if err := h.one(b, span{h.pos, h.pos + n - 1}, h.pos+n+1); err != nil {
			return err
		}
	}
	return nil
}

// last ends a header block that has no blank line after it.
func (h *header) last(b []byte) *Error {
	if h.pos < len(b) {
		h.line++
		h.open = true
		if err := h.one(b, span{h.pos, len(b)}, len(b)); err != nil {
			return err
		}
	}
	h.end, h.body, h.done = len(b), len(b), true
	return nil
}

// one looks at one line, its line end excluded; next is where the following one starts.
func (h *header) one(b []byte, line span, next int) *Error {
	text := b[line.from:line.to]
	if bytes.IndexByte(text, '\r') >= 0 {
		return h.bad("bare CR in header")
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return h.bad("NUL in header")
	}
	h.pos = next
	if text[0] == ' ' || text[0] == '\t' {
		if !h.started {
			return h.bad("header begins with a continuation line")
		}
		h.extend(line.to, next)
		return nil
	}
	colon := bytes.IndexByte(text, ':')
	if colon <= 0 {
		return h.bad("header line without a field name")
	}
	name := bytes.TrimRight(text[:colon], " \t") // WSP before the colon: RFC 5322 §4.5
	if !isFieldName(name) {
		return h.bad("bad field name")
	}
	h.started = true
	h.begin(name, line, colon, next)
	return nil
}

// extend adds a continuation line to the field it belongs to.
func (h *header) extend(end, next int) {
	if !h.cutting {
		return
	}
	h.cut[len(h.cut)-1].to = next
	if n := len(h.ours); n > 0 && h.cut[len(h.cut)-1].from == h.ours[n-1].name.from {
		h.ours[n-1].value.to = end
	}
}

// begin notes what a new field is. Field names compare without case.
func (h *header) begin(name []byte, line span, colon, next int) {
	h.cutting = false
	switch name[0] | 0x20 {
	case 'r':
		if is(name, "received") {
			h.received++
		} else if is(name, "resent-bcc") {
			h.remove(line.from, next)
		}
	case 'd':
		h.date = h.date || is(name, "date")
	case 'm':
		h.messageID = h.messageID || is(name, "message-id")
	case 'b':
		if is(name, "bcc") {
			h.remove(line.from, next)
		}
	case 'x':
		if len(name) > len(prefixOurs) && is(name[:len(prefixOurs)], prefixOurs) {
			h.remove(line.from, next)
			h.ours = append(h.ours, field{
				name:  span{line.from, line.from + len(name)},
				value: span{line.from + colon + 1, line.to},
			})
		}
	}
}

func (h *header) remove(from, to int) {
	h.cut = append(h.cut, span{from, to})
	h.cutting = true
}

func (h *header) bad(what string) *Error {
	return refuse(550, 5, 6, 0, "", "Malformed message: "+what+", line "+strconv.Itoa(h.line))
}

// kept is the number of header bytes that stay.
func (h *header) kept() int {
	n := h.end
	for _, c := range h.cut {
		n -= c.to - c.from
	}
	return n
}

// appendKept appends the fields that stay, and the blank line.
func (h *header) appendKept(dst, b []byte) []byte {
	from := 0
	for _, c := range h.cut {
		dst = append(dst, b[from:c.from]...)
		from = c.to
	}
	dst = append(dst, b[from:h.end]...)
	if h.open && !h.cutting { // a removed last line needs no line end
		dst = append(dst, "\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// is compares a field name with one in lower case.
func is(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// isFieldName holds for one or more printable ASCII characters but colon (RFC 5322 §2.2).
func isFieldName(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(b) > 0
}
