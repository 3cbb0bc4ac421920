package render

import "strings"

// entity returns what an HTML escape of c is, "" if c stays. Django writes the
// apostrophe in hexadecimal.
func entity(c byte) string {
	switch c {
	case '&':
		return "&amp;"
	case '<':
		return "&lt;"
	case '>':
		return "&gt;"
	case '"':
		return "&quot;"
	case '\'':
		return "&#x27;"
	}
	return ""
}

// escape makes text safe for HTML.
func escape(s string) string {
	if !strings.ContainsAny(s, `&<>"'`) {
		return s
	}
	o := out{r: &run{maxOutput: 6*len(s) + 1}}
	o.writeEscaped(s)
	return o.b.String()
}

// writeEscaped writes text escaped for HTML.
func (o *out) writeEscaped(s string) {
	from := 0
	for i := range len(s) {
		if e := entity(s[i]); e != "" {
			o.WriteString(s[from:i])
			o.WriteString(e)
			from = i + 1
		}
	}
	o.WriteString(s[from:])
}

// conditional escapes a value's text unless it is safe already.
func (r *run) conditional(v any) (string, error) {
	if s, ok := v.(safe); ok {
		return string(s), nil
	}
	s, err := r.str(v)
	return escape(s), err
}
