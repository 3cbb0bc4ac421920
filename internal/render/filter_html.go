package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

func htmlFilters() []filter {
	return []filter{
		{name: "escape", text: true, safe: true, fn: func(r *run, in, _ any) (any, error) {
			s, err := r.conditional(in)
			return safe(s), err
		}},
		{name: "force_escape", text: true, safe: true, fn: func(_ *run, in, _ any) (any, error) { return safe(escape(text(in))), nil }},
		{name: "safe", text: true, safe: true, fn: func(_ *run, in, _ any) (any, error) { return safe(text(in)), nil }},
		{name: "safeseq", safe: true, fn: safeseq},
		{name: "escapejs", text: true, fn: func(_ *run, in, _ any) (any, error) { return safe(escapeJS(text(in))), nil }},
		{name: "json_script", arg: needsArg, safe: true, fn: jsonScript},
		{name: "linebreaks", text: true, safe: true, fn: linebreaks},
		{name: "linebreaksbr", text: true, safe: true, fn: linebreaksbr},
		{name: "linenumbers", text: true, safe: true, fn: linenumbers},
		{name: "striptags", text: true, safe: true, fn: striptags},
	}
}

func safeseq(r *run, in, _ any) (any, error) {
	list, err := r.items(in)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(list))
	for i, v := range list {
		if out[i], err = r.markSafe(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// escapeJS writes the characters that can end a JavaScript string or the script
// around it as \u escapes.
func escapeJS(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c < 32 || strings.ContainsRune("\\'\"><&=-;`\u2028\u2029", c) {
			fmt.Fprintf(&b, `\u%04X`, c)
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

func normalizeNewlines(s string) string {
	if strings.IndexByte(s, '\r') < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
}

// escaping reports whether a filter that makes HTML must escape its input.
func (r *run) escaping(in any) bool {
	_, ok := in.(safe)
	return r.escape && !ok
}

func linebreaks(r *run, in, _ any) (any, error) {
	s := normalizeNewlines(text(in))
	e := expand{r: r}
	for i, p := range paragraphs(s) {
		if i > 0 {
			e.add("\n\n")
		}
		if r.escaping(in) {
			p = escape(p)
		}
		e.add("<p>", strings.ReplaceAll(p, "\n", "<br>"), "</p>")
	}
	return safe(e.b.String()), e.err
}

// paragraphs splits at runs of two line ends or more.
func paragraphs(s string) []string {
	var list []string
	for {
		i := strings.Index(s, "\n\n")
		if i < 0 {
			return append(list, s)
		}
		list = append(list, s[:i])
		s = strings.TrimLeft(s[i:], "\n")
	}
}

func linebreaksbr(r *run, in, _ any) (any, error) {
	s := normalizeNewlines(text(in))
	if r.escaping(in) {
		s = escape(s)
	}
	return safe(strings.ReplaceAll(s, "\n", "<br>")), nil
}

func linenumbers(r *run, in, _ any) (any, error) {
	lines := strings.Split(text(in), "\n")
	width := len(itoa(int64(len(lines))))
	e := expand{r: r}
	for i, line := range lines {
		if i > 0 {
			e.add("\n")
		}
		if r.escaping(in) {
			line = escape(line)
		}
		if !e.add(fmt.Sprintf("%0*d. ", width, i+1), line) {
			break
		}
	}
	return safe(e.b.String()), e.err
}

// jsonScript puts a value as JSON into a script element.
func jsonScript(r *run, in, arg any) (any, error) {
	e := expand{r: r}
	id, err := r.conditional(arg)
	if err != nil {
		return nil, err
	}
	e.add(`<script id="`, id, `" type="application/json">`)
	if err := r.json(&e, in, 0); err != nil {
		return nil, err
	}
	e.add(`</script>`)
	return safe(e.b.String()), e.err
}

// json writes a value as Python's json.dumps does: ", " and ": " between, ASCII only.
func (r *run) json(e *expand, v any, depth int) error {
	if depth > maxDepth {
		return errors.New("the value is nested too deeply")
	}
	if err := r.tick(1); err != nil {
		return err
	}
	switch v := v.(type) {
	case string, safe:
		e.add(jsonString(text(v)))
	case nil:
		e.add("null")
	case bool:
		b, _ := json.Marshal(v)
		e.add(string(b))
	case []any:
		e.add("[")
		for i, item := range v {
			if i > 0 {
				e.add(", ")
			}
			if err := r.json(e, item, depth+1); err != nil {
				return err
			}
		}
		e.add("]")
	case map[string]any:
		e.add("{")
		for i, k := range keys(v) {
			if i > 0 {
				e.add(", ")
			}
			e.add(jsonString(k), ": ")
			if err := r.json(e, v[k], depth+1); err != nil {
				return err
			}
		}
		e.add("}")
	case *grouped:
		return r.json(e, []any{v.grouper, v.list}, depth+1)
	case *loop:
		return r.json(e, v.fields(), depth+1)
	case int64, float64:
		s, _ := r.str(v)
		e.add(s)
	default:
		s, err := r.str(v)
		if err != nil {
			return err
		}
		e.add(jsonString(strings.Replace(s, " ", "T", 1)))
	}
	return e.err
}

func jsonString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\b':
			b.WriteString(`\b`)
		case c == '\f':
			b.WriteString(`\f`)
		case c == '<' || c == '>' || c == '&':
			fmt.Fprintf(&b, `\u%04X`, c)
		case c >= 0x20 && c < 0x7f:
			b.WriteRune(c)
		case c > 0xffff:
			hi, lo := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
