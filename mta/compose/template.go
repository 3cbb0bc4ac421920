package compose

import (
	"bytes"
	"context"
	netmail "net/mail"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
)

// rawSource is a raw message with template tags, cut in header and body.
type rawSource struct {
	header string // its line ends replaced by lineMark
	lines  int    // of the header and the empty line after it
	body   string
}

// lineMark stands for a line end of the header while that is rendered. A line
// end that the rendered header has beyond these came out of a value: an
// injected header line. A noncharacter: it is not for interchange, and a value
// that has it nevertheless is refused.
const lineMark = "\uFDD0"

func prepareRaw(data []byte, _ mail.ID) (*plan, error) {
	text := crlfLines(string(data))
	header, body := splitMessage(text)
	header = bytes.TrimSuffix(header, []byte("\r\n"))
	source := rawSource{
		header: strings.ReplaceAll(string(header), "\r\n", lineMark),
		lines:  bytes.Count(header, []byte("\r\n")) + 1,
		body:   string(body),
	}
	return &plan{source: source, size: int64(len(source.header)+len(source.body)) + 512}, nil
}

// composeTemplate renders a raw message. What comes out is treated like any raw
// message, except that it is ours: 8-bit header fields are encoded.
func (c *Composer) composeTemplate(ctx context.Context, m *mail.Message) (*mail.Composed, error) {
	p, err := c.plan(ctx, m, prepareRaw)
	if err != nil {
		return nil, err
	}
	r := &rendering{ctx: ctx, c: c, m: m}
	header, err := r.rawHeader(&p.source)
	if err != nil {
		return nil, err
	}
	body, err := r.moved("the message body", p.source.body, false, func(line, column int) (int, int) {
		return line + p.source.lines, column
	})
	if err != nil {
		return nil, err
	}
	w := c.get()
	if w.head, err = r.appendRawHeader(w.head[:0], header); err != nil {
		c.put(w)
		return nil, err
	}
	composed, err := c.finishRaw(m, w, w.head, crlfLines(body), nil)
	if err != nil {
		c.put(w)
		return nil, err
	}
	return composed, nil
}

// rawHeader renders the header to one field per item, still folded by lineMark.
func (r *rendering) rawHeader(source *rawSource) ([]string, error) {
	if hasTags(source.header) {
		vars, err := r.variables()
		if err != nil {
			return nil, err
		}
		if hasMark(vars) {
			return nil, unrenderable("substitutions: U+FDD0 must not occur")
		}
	}
	text, err := r.moved("the message header", source.header, false, func(_, column int) (int, int) {
		return markedPlace(source.header, column)
	})
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(text, "\r\n\x00") {
		return nil, unrenderable("the message header: %s", errFieldBreak)
	}
	var fields []string
	for line := range strings.SplitSeq(text, lineMark) {
		switch {
		case strings.Trim(line, " \t") == "":
			// A line that held only tags. Left in, it would end the header.
		case line[0] != ' ' && line[0] != '\t':
			fields = append(fields, line)
		case len(fields) == 0:
			return nil, unrenderable("the message header begins with a continuation line")
		default:
			fields[len(fields)-1] += lineMark + line
		}
	}
	return fields, nil
}

// markedPlace turns a column of the header on one line into line and column.
func markedPlace(header string, column int) (int, int) {
	line, at := 1, 1
	for i, char := range []rune(header) {
		if i+1 >= column {
			break
		}
		if string(char) == lineMark {
			line, at = line+1, 1
		} else {
			at++
		}
	}
	return line, at
}

// hasMark reports whether a string inside v has lineMark.
func hasMark(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, lineMark)
	case map[string]any:
		for name, item := range v {
			if strings.Contains(name, lineMark) || hasMark(item) {
				return true
			}
		}
	case []any:
		for _, item := range v {
			if hasMark(item) {
				return true
			}
		}
	}
	return false
}

// appendRawHeader writes the rendered fields and those that are missing.
func (r *rendering) appendRawHeader(dst []byte, fields []string) ([]byte, error) {
	var from string
	date, id := false, false
	for _, f := range fields {
		name, value, found := strings.Cut(f, ":")
		name = strings.TrimRight(name, " \t")
		if !found || !validFieldName(name) {
			return nil, unrenderable("the message header: %q is not a header field", oneLine(f[:min(40, len(f))]))
		}
		switch lower := strings.ToLower(name); {
		case lower == "bcc", lower == "resent-bcc", lower == "return-path", strings.HasPrefix(lower, "x-godwit-"):
			continue
		case lower == "date":
			date = true
		case lower == "message-id":
			id = true
		case lower == "from" && from == "":
			from = addressDomain(strings.ReplaceAll(value, lineMark, ""))
		}
		var err error
		if dst, err = appendRawField(dst, name, f, value); err != nil {
			return nil, unrenderable("%s: %s", headerPart(name), oneLine(err.Error()))
		}
	}
	if !date {
		dst = appendDate(dst, r.m.Accepted)
	}
	if !id {
		dst = r.c.appendMessageID(dst, r.m, from)
	}
	return append(dst, '\r', '\n'), nil
}

// appendRawField keeps a field as its author folded it, if SMTP can carry it.
// Addresses are written anew where a value has made them unreadable, such as a
// name with a comma in it.
func appendRawField(dst []byte, name, field, value string) ([]byte, error) {
	start := len(dst)
	if isAddressField(strings.ToLower(name)) {
		plain := strings.ReplaceAll(value, lineMark, "")
		if _, err := netmail.ParseAddressList(plain); err != nil {
			if with, err := appendAddresses(dst, name, strings.Trim(plain, " \t")); err == nil {
				return with, nil
			}
		}
	}
	if asciiString(strings.ReplaceAll(field, lineMark, "")) {
		dst = append(dst, strings.ReplaceAll(field, lineMark, "\r\n")...)
		dst = append(dst, '\r', '\n')
		if !longLine(dst[start:]) {
			return dst, nil
		}
		dst = dst[:start]
	}
	return appendHeader(dst, name, strings.ReplaceAll(value, lineMark, ""))
}
