package jsonapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Value is a scalar of a filter.
type Value struct {
	Text   string // without quotes
	Quoted bool
}

// String writes v in the form that it is read in.
func (v Value) String() string {
	if !v.Quoted {
		return v.Text
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range v.Text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == utf8.RuneError:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// layouts are the forms of a time; without an offset it is in UTC.
var layouts = [...]string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02"}

// Time reads v as a time of ISO 8601, in quotes or bare.
func (v Value) Time() (time.Time, error) {
	s := v.Text
	// In a query a + that was not escaped arrives as a space: 2026-01-01T00:00:00 01:00.
	if n := len(s); n > len("2006-01-02T") && strings.Contains(s, "T") && s[n-6] == ' ' && s[n-3] == ':' {
		s = s[:n-6] + "+" + s[n-5:]
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-01-02T15:04:05Z", v.Text)
}

// Int reads v as a whole number.
func (v Value) Int() (int64, error) { return strconv.ParseInt(v.Text, 10, 64) }

// filterParser reads a filter from its begin to its end.
type filterParser struct {
	s     string
	pos   int
	count int
}

func (p *filterParser) fail(format string, args ...any) error {
	return fmt.Errorf("at character %d: %s", p.pos+1, fmt.Sprintf(format, args...))
}

func (p *filterParser) space() {
	for p.pos < len(p.s) && (p.s[p.pos] == ' ' || p.s[p.pos] == '\t') {
		p.pos++
	}
}

func (p *filterParser) take(c byte) bool {
	p.space()
	if p.pos < len(p.s) && p.s[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

func (p *filterParser) terms(depth int) ([]*Filter, error) {
	if depth > maxNesting {
		return nil, p.fail("more than %d levels of nesting", maxNesting)
	}
	var out []*Filter
	for {
		f, err := p.term(depth)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
		if !p.take(',') {
			p.space()
			return out, nil
		}
	}
}

func (p *filterParser) term(depth int) (*Filter, error) {
	if p.count++; p.count > maxTerms {
		return nil, p.fail("more than %d terms", maxTerms)
	}
	p.space()
	start := p.pos
	for p.pos < len(p.s) && (p.s[p.pos] >= 'a' && p.s[p.pos] <= 'z' || p.s[p.pos] == '-') {
		p.pos++
	}
	f := &Filter{Op: Op(p.s[start:p.pos])}
	if !slices.Contains(ops[:], f.Op) {
		p.pos = start
		return nil, p.fail("want one of the operators %v", ops)
	}
	if !p.take('(') {
		return nil, p.fail("want ( after %s", f.Op)
	}
	if err := p.operands(f, depth); err != nil {
		return nil, err
	}
	if !p.take(')') {
		return nil, p.fail("want ) at the end of %s", f.Op)
	}
	return f, nil
}

var ops = [...]Op{And, Or, Not, Has, Equals, Any, Contains, ContainsAny, ContainsAll, StartsWith, EndsWith,
	GreaterThan, GreaterOrEqual, LessThan, LessOrEqual}

func (p *filterParser) operands(f *Filter, depth int) (err error) {
	switch f.Op {
	case And, Or, Not:
		if f.Args, err = p.terms(depth + 1); err == nil && f.Op == Not && len(f.Args) != 1 {
			return p.fail("not takes one term")
		}
		return err
	}
	if f.Field, err = p.field(); err != nil || f.Op == Has {
		return err
	}
	if !p.take(',') {
		return p.fail("want , and a value after the field")
	}
	p.space()
	if f.Op != Any && f.Op != ContainsAny && f.Op != ContainsAll && !(f.Op == Equals && strings.HasPrefix(p.s[p.pos:], "[")) {
		v, err := p.scalar()
		f.Values = []Value{v}
		return err
	}
	f.Values, err = p.values()
	return err
}

// field reads the name of a field: names of dimensions have spaces in them.
func (p *filterParser) field() (string, error) {
	p.space()
	end := strings.IndexAny(p.s[p.pos:], `,()[]"'\`)
	if end < 0 {
		end = len(p.s) - p.pos
	}
	name := strings.TrimRight(p.s[p.pos:p.pos+end], " \t")
	if name == "" {
		return "", p.fail("want the name of a field")
	}
	p.pos += end
	return name, nil
}

// values reads a list; one scalar is one of one.
func (p *filterParser) values() ([]Value, error) {
	if !p.take('[') {
		v, err := p.scalar()
		return []Value{v}, err
	}
	var out []Value
	for {
		if len(out) == maxValues {
			return nil, p.fail("more than %d values", maxValues)
		}
		v, err := p.scalar()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		if p.take(']') {
			return out, nil
		}
		if !p.take(',') {
			return nil, p.fail("want , or ]")
		}
	}
}

func (p *filterParser) scalar() (Value, error) {
	p.space()
	if p.pos < len(p.s) && (p.s[p.pos] == '"' || p.s[p.pos] == '\'') {
		return p.quoted()
	}
	end := strings.IndexAny(p.s[p.pos:], `,()[]"'\`)
	if end < 0 {
		end = len(p.s) - p.pos
	}
	text := strings.TrimRight(p.s[p.pos:p.pos+end], " \t")
	if text == "" {
		return Value{}, p.fail("want a value")
	}
	if !utf8.ValidString(text) {
		return Value{}, p.fail("value is not UTF-8")
	}
	p.pos += end
	return Value{Text: text}, nil
}

// quoted reads a string in " or ', with the escapes of JSON.
func (p *filterParser) quoted() (Value, error) {
	quote, start := p.s[p.pos], p.pos
	for i := p.pos + 1; i < len(p.s); i++ {
		switch p.s[i] {
		case '\\':
			i++
		case quote:
			text, err := unquote(p.s[start+1:i], quote)
			if err != nil {
				return Value{}, p.fail("%v", err)
			}
			p.pos = i + 1
			return Value{Text: text, Quoted: true}, nil
		}
	}
	return Value{}, p.fail("the string does not end")
}

func unquote(s string, quote byte) (string, error) {
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("string is not UTF-8")
	}
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	if quote == '\'' {
		s = strings.ReplaceAll(strings.ReplaceAll(s, `\'`, `'`), `"`, `\"`)
	}
	var out string
	if err := json.Unmarshal([]byte(`"`+s+`"`), &out); err != nil {
		return "", fmt.Errorf("string has an escape that JSON does not know")
	}
	return out, nil
}
