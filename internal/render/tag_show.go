package render

import (
	"math"
	"slices"
	"strings"
)

// showNode is {{ expression }}.
type showNode struct{ e *expr }

func (n *showNode) render(r *run, o *out) *Error {
	v, err := n.e.eval(r, false)
	if err != nil {
		return err
	}
	if serr := r.show(o, v); serr != nil {
		return n.e.at.errorf("%s", serr)
	}
	return nil
}

// textNode is text that pongo2 would not take as such.
type textNode string

func (n textNode) render(_ *run, o *out) *Error {
	o.WriteString(string(n))
	return nil
}

// tags are Django's built-in tags, as far as a message can use them.
func tags() map[string]tagFunc {
	return map[string]tagFunc{
		"autoescape":  compileAutoescape,
		"block":       compileBlock,
		"cycle":       compileCycle,
		"filter":      compileFilter,
		"firstof":     compileFirstof,
		"for":         compileFor,
		"if":          compileIf,
		"ifchanged":   compileIfchanged,
		"load":        compileLoad,
		"regroup":     compileRegroup,
		"resetcycle":  compileResetcycle,
		"spaceless":   compileSpaceless,
		"templatetag": compileTemplatetag,
		"trans":       compileTrans,
		"translate":   compileTrans,
		"verbatim":    compileVerbatim,
		"widthratio":  compileWidthratio,
		"with":        compileWith,
	}
}

// asName splits "… as name" off the end of a tag.
func asName(words []word) (rest []word, name string) {
	if n := len(words); n >= 2 && words[n-2].s == "as" {
		return words[:n-2], words[n-1].s
	}
	return words, ""
}

func (c *compiler) exprs(t *token, words []word) ([]*expr, *Error) {
	list := make([]*expr, 0, len(words))
	for _, w := range words {
		e, err := c.parseExpr(t, w)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// output shows a value, or binds what would be shown if there is a name.
func (r *run) output(o *out, at position, v any, name string) *Error {
	if name == "" {
		if err := r.show(o, v); err != nil {
			return at.errorf("%s", err)
		}
		return nil
	}
	s, err := r.shownSafe(v)
	if err != nil {
		return at.errorf("%s", err)
	}
	r.bind(name, s)
	return nil
}

type firstofNode struct {
	list []*expr
	name string
	at   position
}

func compileFirstof(c *compiler, t *token, words []word) *Error {
	rest, name := words[1:], ""
	if len(rest) >= 2 {
		rest, name = asName(rest)
	}
	if len(words) < 2 {
		return t.at.errorf("firstof needs a value at least")
	}
	list, err := c.exprs(t, rest)
	if err == nil {
		c.leaf(t, &firstofNode{list, name, t.at})
	}
	return err
}

func (n *firstofNode) render(r *run, o *out) *Error {
	for _, e := range n.list {
		v, err := e.eval(r, true)
		if err != nil {
			return err
		}
		if truth(v) {
			return r.output(o, n.at, v, n.name)
		}
	}
	return r.output(o, n.at, safe(""), n.name)
}

// widthratioNode computes value / max * width, rounded.
type widthratioNode struct {
	value, max, width *expr
	name              string
	at                position
}

func compileWidthratio(c *compiler, t *token, words []word) *Error {
	n := &widthratioNode{at: t.at}
	rest := words[1:]
	if len(rest) == 5 {
		if rest[3].s != "as" {
			return t.place(rest[3].off).errorf("widthratio: \"as\" expected")
		}
		rest, n.name = rest[:3], rest[4].s
	}
	if len(rest) != 3 {
		return t.at.errorf("widthratio needs three values")
	}
	list, err := c.exprs(t, rest)
	if err != nil {
		return err
	}
	n.value, n.max, n.width = list[0], list[1], list[2]
	c.leaf(t, n)
	return nil
}

func (n *widthratioNode) render(r *run, o *out) *Error {
	s, err := n.ratio(r)
	if err != nil {
		if !err.missing {
			return err
		}
		s = ""
	}
	return r.output(o, n.at, safe(s), n.name)
}

func (n *widthratioNode) ratio(r *run) (string, *Error) {
	value, err := n.value.eval(r, false)
	if err != nil {
		return "", err
	}
	limit, err := n.max.eval(r, false)
	if err != nil {
		return "", err
	}
	width, err := n.width.eval(r, false)
	if err != nil {
		return "", err
	}
	w, werr := toInt(width)
	if werr != nil {
		return "", n.width.at.errorf("widthratio: the last value must be a number")
	}
	v, verr := toFloat(value)
	m, merr := toFloat(limit)
	if verr != nil || merr != nil {
		return "", nil
	}
	if m == 0 {
		return "0", nil
	}
	ratio := math.RoundToEven(v / m * float64(w))
	if math.IsNaN(ratio) || math.IsInf(ratio, 0) || math.Abs(ratio) >= math.MaxInt64 {
		return "", nil
	}
	return itoa(int64(ratio)), nil
}

func compileTemplatetag(c *compiler, t *token, words []word) *Error {
	if len(words) != 2 {
		return t.at.errorf("templatetag needs one argument")
	}
	pieces := map[string]string{
		"openblock": "{%", "closeblock": "%}", "openvariable": "{{", "closevariable": "}}",
		"openbrace": "{", "closebrace": "}", "opencomment": "{#", "closecomment": "#}",
	}
	s, ok := pieces[words[1].s]
	if !ok {
		return t.place(words[1].off).errorf("templatetag: invalid argument %q", clip(words[1].s))
	}
	c.text = append(c.text, s)
	return nil
}

// compileLoad accepts the libraries whose tags and filters are here anyway.
func compileLoad(_ *compiler, t *token, words []word) *Error {
	known := []string{"humanize", "i18n", "l10n", "tz", "static", "cache"}
	libs := words[1:]
	if n := len(words); n >= 4 && words[n-2].s == "from" {
		libs = words[n-1:]
	}
	for _, w := range libs {
		if !slices.Contains(known, w.s) {
			return t.place(w.off).errorf("load: %q is not a library of templates here (known: %s)", clip(w.s), strings.Join(known, ", "))
		}
	}
	return nil
}

// compileTrans takes {% trans "text" %} as what it is without translations: the text.
func compileTrans(c *compiler, t *token, words []word) *Error {
	rest, name := asName(words[1:])
	if n := len(rest); n > 1 && rest[n-1].s == "noop" {
		rest = rest[:n-1]
	}
	if len(rest) != 1 {
		return t.at.errorf("trans takes one text")
	}
	list, err := c.exprs(t, rest)
	if err == nil {
		c.leaf(t, &transNode{list[0], name, t.at})
	}
	return err
}

type transNode struct {
	e    *expr
	name string
	at   position
}

func (n *transNode) render(r *run, o *out) *Error {
	v, err := n.e.eval(r, false)
	if err != nil {
		return err
	}
	return r.output(o, n.at, v, n.name)
}
