package compose

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"
)

// sevenBit rewrites a message so that no byte above 127 is left: each leaf part
// that needs it becomes quoted-printable or base64, with the same content once
// decoded; all else keeps its bytes. ok is false, and the message must go as it
// is, where that cannot be done without guessing or without harm:
//
//   - 8-bit header fields (RFC 6532), preambles and epilogues;
//   - multipart/signed and a forwarded message with a DKIM signature, which the
//     conversion would break;
//   - malformed MIME: a missing boundary or closing delimiter, a field that is
//     there twice, an encoding that contradicts the bytes or is unknown.
func sevenBit(header, body []byte) (converted []byte, ok bool) {
	c := converter{out: make([]byte, 0, len(header)+len(body)+len(body)/8+512)}
	if !c.entity(header, body, entityContext{top: true, media: "text/plain"}) {
		return nil, false
	}
	return c.out, true
}

// maxDepth bounds nesting; real mail has less than ten levels.
const maxDepth = 32

type converter struct{ out []byte }

// entityContext is what an entity inherits.
type entityContext struct {
	depth int
	top   bool   // a whole message: MIME-Version is needed
	media string // the type without a Content-Type field
}

// entity is a MIME entity's header as far as it matters here.
type entity struct {
	media    string
	params   map[string]string
	encoding string // lower case, "" if there is no field
	typed    bool   // has a Content-Type field
	version  bool   // has a MIME-Version field
	signed   bool   // has a DKIM-Signature
}

// needs reports whether part of a message must be rewritten.
func needs(b []byte) bool { return !ascii(b) || longLine(b) }

// entity appends one entity, converted. header includes its empty line.
func (c *converter) entity(header, body []byte, in entityContext) bool {
	if !ascii(header) || in.depth > maxDepth {
		return false
	}
	if !needs(body) {
		c.out = append(append(c.out, header...), body...)
		return true
	}
	e, ok := readEntity(header, in.media)
	if !ok {
		return false
	}
	major, minor, _ := strings.Cut(e.media, "/")
	switch {
	case major == "multipart":
		return c.multipart(header, body, e, in)
	case e.media == "message/rfc822" || e.media == "message/news":
		return c.message(header, body, e, in)
	case major == "message" && !strings.HasPrefix(minor, "global"):
		return false // delivery-status, partial: 7 bits by definition
	}
	return c.leaf(header, body, e, in)
}

// identity reports whether an encoding leaves bytes as they are, the only kind
// that composite types may have (RFC 2045 §6.4).
func identity(encoding string) bool {
	switch encoding {
	case "", "7bit", "8bit", "binary":
		return true
	}
	return false
}

// readEntity reads the fields that decide. A field that occurs twice, or cannot
// be read, makes the entity malformed.
func readEntity(header []byte, media string) (e entity, ok bool) {
	e.media = media
	for len(header) > 0 {
		var name, raw []byte
		name, raw, header = nextField(header)
		switch {
		case is(name, "content-type"):
			if e.typed {
				return e, false
			}
			e.typed = true
			var err error
			e.media, e.params, err = mime.ParseMediaType(unfold(raw))
			if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || !strings.Contains(e.media, "/") {
				return e, false
			}
		case is(name, "content-transfer-encoding"):
			if e.encoding != "" {
				return e, false
			}
			if e.encoding = strings.ToLower(unfold(raw)); e.encoding == "" {
				return e, false
			}
		case is(name, "mime-version"):
			e.version = true
		case is(name, "dkim-signature"):
			e.signed = true
		}
	}
	return e, true
}

// header appends the fields with another encoding, and what a message that was no MIME
// message lacks.
func (c *converter) header(header []byte, e entity, in entityContext, encoding string, added string) {
	written := false
	for len(header) > 0 {
		name, raw, rest := nextField(header)
		header = rest
		if string(raw) == "\r\n" {
			break
		}
		if is(name, "content-transfer-encoding") {
			c.encodingField(encoding)
			written = true
			continue
		}
		c.out = append(c.out, raw...)
	}
	if in.top && !e.version {
		c.out = append(c.out, "MIME-Version: 1.0\r\n"...)
	}
	c.out = append(c.out, added...)
	if !written {
		c.encodingField(encoding)
	}
	c.out = append(c.out, '\r', '\n')
}

func (c *converter) encodingField(encoding string) {
	c.out = append(c.out, "Content-Transfer-Encoding: "...)
	c.out = append(c.out, encoding...)
	c.out = append(c.out, '\r', '\n')
}

// leaf appends a part that is not made of parts.
func (c *converter) leaf(header, body []byte, e entity, in entityContext) bool {
	switch {
	case e.encoding == quotedPrintableCTE:
		// 8-bit bytes in it are themselves: a template's value, mostly.
		decoded, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
		if err != nil {
			return false
		}
		body = decoded
	case !identity(e.encoding):
		return false
	}
	added := ""
	if !e.typed && e.media == "text/plain" {
		added = "Content-Type: text/plain; charset=" + guessCharset(body) + "\r\n"
	}
	encoding := chooseEncoding(body)
	if encoding == sevenBitCTE {
		encoding = quotedPrintableCTE // it was quoted before, and its lines broken
	}
	c.header(header, e, in, encoding, added)
	c.out = appendEncoded(c.out, body, encoding)
	return true
}

// guessCharset names the charset of text that does not tell. unknown-8bit is
// RFC 1428's name for bytes that are no UTF-8.
func guessCharset(text []byte) string {
	switch {
	case ascii(text):
		return "us-ascii"
	case utf8.Valid(text):
		return "utf-8"
	}
	return "unknown-8bit"
}

// message appends an embedded message, converted inside.
func (c *converter) message(header, body []byte, e entity, in entityContext) bool {
	if !identity(e.encoding) {
		return false
	}
	innerHeader, innerBody := splitMessage(body)
	if hasField(innerHeader, "dkim-signature") {
		return false
	}
	c.header(header, e, in, sevenBitCTE, "")
	return c.entity(innerHeader, innerBody, entityContext{depth: in.depth + 1, top: true, media: "text/plain"})
}

// multipart appends a multipart entity with each of its parts converted.
func (c *converter) multipart(header, body []byte, e entity, in entityContext) bool {
	boundary := e.params["boundary"]
	if !identity(e.encoding) || boundary == "" || len(boundary) > 200 || e.media == "multipart/signed" {
		return false
	}
	c.header(header, e, in, sevenBitCTE, "")
	part := entityContext{depth: in.depth + 1, media: "text/plain"}
	if e.media == "multipart/digest" {
		part.media = "message/rfc822"
	}
	delimiter := []byte("--" + boundary)
	at, start := 0, -1 // of the line looked at, of the part being in
	for {
		from, to, closing, found := nextDelimiter(body, at, delimiter)
		if !found || to-from > maxLine {
			return false
		}
		if start < 0 {
			if needs(body[:from]) {
				return false
			}
			c.out = append(c.out, body[:from]...)
		} else {
			if from-2 < start {
				return false // no line end between two delimiters
			}
			if !c.part(body[start:from-2], part) {
				return false
			}
			c.out = append(c.out, '\r', '\n')
		}
		c.out = append(c.out, body[from:to]...)
		if closing {
			c.out = append(c.out, body[to:]...)
			return start >= 0 && !needs(body[to:])
		}
		at, start = to, to
	}
}

// part appends one body part, which may have no header at all.
func (c *converter) part(part []byte, in entityContext) bool {
	if !needs(part) {
		c.out = append(c.out, part...)
		return true
	}
	header, body := splitMessage(part)
	return c.entity(header, body, in)
}

// nextDelimiter finds the next delimiter line at or after at, which is the start
// of a line (RFC 2046 §5.1.1). to is behind its line end.
func nextDelimiter(body []byte, at int, delimiter []byte) (from, to int, closing, found bool) {
	for at < len(body) {
		end := len(body)
		if n := bytes.IndexByte(body[at:], '\n'); n >= 0 {
			end = at + n + 1
		}
		if rest, ok := bytes.CutPrefix(body[at:end], delimiter); ok {
			rest, closing = bytes.CutPrefix(rest, []byte("--"))
			if len(bytes.Trim(rest, " \t\r\n")) == 0 {
				return at, end, closing, true
			}
		}
		at = end
	}
	return 0, 0, false, false
}
