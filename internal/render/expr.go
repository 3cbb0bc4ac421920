package render

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// operand is a literal or a variable.
type operand struct {
	path  []string // of a variable: its name and lookups; nil for a literal
	value any      // of a literal
	text  string   // as written
}

// call is one filter of a chain.
type call struct {
	filter *filter
	arg    *operand // nil without argument
	at     position
}

// expr is an operand with its filters: what stands in {{ }} and in tags.
type expr struct {
	operand
	filters []call
	at      position
}

// exprParser reads an expression out of a token. It mirrors the one regular
// expression that Django uses, including where spaces may stand: around "|" and
// nowhere else. Nothing in an expression nests, so nothing recurses.
type exprParser struct {
	c   *compiler
	t   *token
	s   string
	off int // of s in the token
	i   int // next byte of s
}

// parseExpr compiles an expression that stands at byte offset off of the token.
func (c *compiler) parseExpr(t *token, w word) (*expr, *Error) {
	p := &exprParser{c: c, t: t, s: w.s, off: w.off}
	return p.parse()
}

func (p *exprParser) place() position { return p.t.place(p.off + p.i) }

func (p *exprParser) parse() (*expr, *Error) {
	e := &expr{at: p.place()}
	op, err := p.operand()
	if err != nil {
		return nil, err
	}
	if op == nil {
		return nil, e.at.errorf("cannot parse %q: a variable or a value in quotes must come first", clip(p.s))
	}
	e.operand = *op
	for p.i < len(p.s) {
		ok, err := p.filter(e)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, p.place().errorf("could not parse the remainder: %q from %q", clip(p.s[p.i:]), clip(p.s))
		}
	}
	return e, nil
}

// filter reads "| name" or "| name:argument"; ok is false, and nothing read,
// if there is none.
func (p *exprParser) filter(e *expr) (ok bool, err *Error) {
	start := p.i
	p.spaces()
	if p.i >= len(p.s) || p.s[p.i] != '|' {
		p.i = start
		return false, nil
	}
	p.i++
	p.spaces()
	c := call{at: p.place()}
	name := p.run(isWord)
	if name == "" {
		p.i = start
		return false, nil
	}
	if p.i < len(p.s) && p.s[p.i] == ':' {
		p.i++
		if c.arg, err = p.operand(); err != nil {
			return false, err
		}
		if c.arg == nil {
			p.i--
		}
	}
	if len(e.filters) >= p.c.maxNesting {
		return false, c.at.errorf("more than %d filters in a row", p.c.maxNesting)
	}
	if c.filter, err = p.c.filterNamed(name, &c); err != nil {
		return false, err
	}
	e.filters = append(e.filters, c)
	return true, nil
}

// filterNamed finds a filter and checks the argument as far as it is known.
func (c *compiler) filterNamed(name string, call *call) (*filter, *Error) {
	f, ok := c.lib.filters[name]
	if !ok {
		if why := bannedFilters[name]; why != "" {
			return nil, call.at.errorf("the filter %q is not allowed: %s", name, why)
		}
		return nil, call.at.errorf("invalid filter: %q", name)
	}
	switch {
	case f.arg == noArg && call.arg != nil:
		return nil, call.at.errorf("the filter %q takes no argument", name)
	case f.arg == needsArg && call.arg == nil:
		return nil, call.at.errorf("the filter %q needs an argument", name)
	}
	if f.checkArg != nil && call.arg != nil && call.arg.path == nil {
		if err := f.checkArg(call.arg.value); err != nil {
			return nil, call.at.errorf("%s: %s", name, err)
		}
	}
	return f, nil
}

// operand reads a literal or variable; nil, and nothing read, if there is none.
func (p *exprParser) operand() (*operand, *Error) {
	start := p.i
	if s, ok := p.quoted(); ok {
		return &operand{value: safe(s), text: p.s[start:p.i]}, nil
	}
	text := p.run(func(r rune) bool { return r == '.' || isWord(r) })
	if text == "" {
		text = p.signed()
	}
	if text == "" {
		return nil, nil
	}
	if v, ok, err := number(text); err != nil {
		return nil, p.t.place(p.off+start).errorf("%s", err)
	} else if ok {
		return &operand{value: v, text: text}, nil
	}
	if text[0] == '_' || strings.Contains(text, "._") {
		return nil, p.t.place(p.off+start).errorf("variables and attributes may not begin with underscores: %q", clip(text))
	}
	path := strings.Split(text, ".")
	if len(path) > p.c.maxNesting {
		return nil, p.t.place(p.off+start).errorf("more than %d lookups in a row", p.c.maxNesting)
	}
	return &operand{path: path, text: text}, nil
}

// quoted reads "text", 'text' or either in _( ), Django's mark for translation.
func (p *exprParser) quoted() (string, bool) {
	i := p.i
	marked := strings.HasPrefix(p.s[i:], "_(")
	if marked {
		i += 2
	}
	if i >= len(p.s) || !isQuote(p.s[i]) {
		return "", false
	}
	q := quotes{s: p.s}
	end := q.end(i)
	if end < 0 {
		return "", false
	}
	s := literal(p.s[i:end])
	if marked {
		if end >= len(p.s) || p.s[end] != ')' {
			return "", false
		}
		end++
	}
	p.i = end
	return s, true
}

// signed reads a number that starts with a sign.
func (p *exprParser) signed() string {
	rest := p.s[p.i:]
	if len(rest) < 2 || (rest[0] != '-' && rest[0] != '+') || rest[1] < '0' || rest[1] > '9' {
		return ""
	}
	start := p.i
	p.i += 2
	p.run(func(r rune) bool { return r == '.' || r == 'e' || (r >= '0' && r <= '9') })
	return p.s[start:p.i]
}

// run reads characters while ok.
func (p *exprParser) run(ok func(rune) bool) string {
	start := p.i
	for p.i < len(p.s) {
		r, n := utf8.DecodeRuneInString(p.s[p.i:])
		if !ok(r) {
			break
		}
		p.i += n
	}
	return p.s[start:p.i]
}

func (p *exprParser) spaces() { p.run(unicode.IsSpace) }

func isWord(r rune) bool {
	return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsNumber(r)
}

// number reads a literal as Django does: a "." or an "e" makes a float. ok is
// false if text is a name.
func number(text string) (v any, ok bool, err error) {
	if strings.ContainsAny(text, ".eE") {
		if strings.HasSuffix(text, ".") {
			return nil, false, nil
		}
		f, ok := parseFloat(text)
		return f, ok, nil
	}
	if text[0] != '-' && text[0] != '+' && (text[0] < '0' || text[0] > '9') {
		return nil, false, nil
	}
	i, perr := parseInt(text)
	switch perr {
	case nil:
		return i, true, nil
	case errRange:
		return nil, false, fmt.Errorf("the number %s has more than 64 bits", clip(text))
	}
	return nil, false, nil
}

// clip shortens a piece of source for a message.
func clip(s string) string {
	const limit = 60
	if len(s) <= limit {
		return s
	}
	n := limit
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// resolve returns an operand's value; ok is false if a variable is missing.
func (o *operand) resolve(r *run) (v any, ok bool) {
	if o.path == nil {
		return o.value, true
	}
	return r.variable(o.path)
}

// eval returns the expression's value. A missing variable is an empty string, or
// nil where absent is "none" (conditions and the like), as in Django.
func (e *expr) eval(r *run, none bool) (any, *Error) {
	v, ok := e.resolve(r)
	if !ok {
		v = any("")
		if none {
			v = nil
		}
	}
	for i := range e.filters {
		var err *Error
		if v, err = e.filters[i].apply(r, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// apply runs one filter.
func (c *call) apply(r *run, in any) (any, *Error) {
	var arg any = absent{}
	if c.arg != nil {
		v, ok := c.arg.resolve(r)
		if !ok {
			err := c.at.errorf("%s: the variable %q does not exist", c.filter.name, clip(c.arg.text))
			err.missing = true
			return nil, err
		}
		arg = v
	}
	_, wasSafe := in.(safe)
	if c.filter.text {
		if !isText(in) {
			s, err := r.str(in)
			if err != nil {
				return nil, c.fail(err)
			}
			in = s
		}
	}
	out, err := c.filter.fn(r, in, arg)
	if err != nil {
		return nil, c.fail(err)
	}
	if wasSafe && c.filter.safe {
		if out, err = r.markSafe(out); err != nil {
			return nil, c.fail(err)
		}
	}
	if err := r.made(out); err != nil {
		return nil, c.fail(err)
	}
	return out, nil
}

func (c *call) fail(err error) *Error {
	if e, ok := err.(*Error); ok {
		return e
	}
	return c.at.errorf("%s: %s", c.filter.name, err)
}

// absent stands for the argument that a filter was not given.
type absent struct{}

func isText(v any) bool {
	switch v.(type) {
	case string, safe:
		return true
	}
	return false
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
