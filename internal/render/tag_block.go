package render

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/flosch/pongo2/v6"
)

// plainNode shows its body: verbatim, and block without inheritance.
type plainNode struct{}

func (plainNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	return r.body(bodies[0], o)
}

// compileVerbatim: the scanner has made text of everything inside already.
func compileVerbatim(c *compiler, t *token, _ []word) *Error {
	return c.begin(t, plainNode{}, openBlock{name: "verbatim", end: "endverbatim"})
}

// compileBlock shows a block where it stands: without extends that is all it does.
func compileBlock(c *compiler, t *token, words []word) *Error {
	if len(words) != 2 {
		return t.at.errorf("block needs a name")
	}
	name := words[1].s
	if c.blockNames[name] {
		return t.place(words[1].off).errorf("a block named %q exists already", clip(name))
	}
	c.blockNames[name] = true
	return c.begin(t, plainNode{}, openBlock{name: "block", end: "endblock"})
}

type autoescapeNode struct{ on bool }

func compileAutoescape(c *compiler, t *token, words []word) *Error {
	if len(words) != 2 || (words[1].s != "on" && words[1].s != "off") {
		return t.at.errorf("autoescape needs one argument, on or off")
	}
	return c.begin(t, &autoescapeNode{words[1].s == "on"}, openBlock{name: "autoescape", end: "endautoescape"})
}

func (n *autoescapeNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	old := r.escape
	r.escape = n.on
	defer func() { r.escape = old }()
	return r.body(bodies[0], o)
}

// filterNode sends its body through filters.
type filterNode struct {
	e  *expr // its operand is not used
	at position
}

func compileFilter(c *compiler, t *token, words []word) *Error {
	if len(words) < 2 {
		return t.at.errorf("filter needs a filter's name")
	}
	from := words[1].off
	tok := token{content: "x|" + t.content[from:], inner: t.place(from)}
	tok.inner.col -= 2
	e, err := c.parseExpr(&tok, word{tok.content, 0})
	if err != nil {
		return err
	}
	for _, f := range e.filters {
		if name := f.filter.name; name == "escape" || name == "safe" {
			return f.at.errorf("filter %q is not permitted here; use the autoescape tag", name)
		}
	}
	return c.begin(t, &filterNode{e, t.at}, openBlock{name: "filter", end: "endfilter"})
}

func (n *filterNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	s, err := r.capture(bodies[0])
	if err != nil {
		return err
	}
	v := any(safe(s))
	for i := range n.e.filters {
		if v, err = n.e.filters[i].apply(r, v); err != nil {
			return err
		}
	}
	if !isText(v) {
		plain, serr := r.str(v)
		if serr != nil {
			return n.at.errorf("%s", serr)
		}
		v = plain
	}
	o.WriteString(text(v))
	return nil
}

type spacelessNode struct{}

func compileSpaceless(c *compiler, t *token, _ []word) *Error {
	return c.begin(t, spacelessNode{}, openBlock{name: "spaceless", end: "endspaceless"})
}

func (spacelessNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	s, err := r.capture(bodies[0])
	if err != nil {
		return err
	}
	o.WriteString(betweenTags(strings.TrimSpace(s)))
	return nil
}

// betweenTags removes white space that stands between two tags.
func betweenTags(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '>')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i+1])
		s = s[i+1:]
		if rest := strings.TrimLeftFunc(s, isSpace); strings.HasPrefix(rest, "<") {
			s = rest
		}
	}
}

// isSpace is what Python's regular expressions take for white space.
func isSpace(c rune) bool { return unicode.IsSpace(c) || c >= 0x1c && c <= 0x1f }

// withNode binds names for its body.
type withNode struct {
	names []string
	exprs []*expr
}

// argument of with: name=value.
var withArgument = regexp.MustCompile(`^([\pL\pN_]+)=(.+)$`)

func compileWith(c *compiler, t *token, words []word) *Error {
	n := &withNode{}
	rest, err := n.assignments(c, t, words[1:])
	if err == nil && len(n.names) == 0 {
		rest, err = n.oldForm(c, t, rest)
	}
	if err != nil {
		return err
	}
	switch {
	case len(n.names) == 0:
		return t.at.errorf("with needs a variable at least: {%% with name=value %%}")
	case len(rest) > 0:
		return t.place(rest[0].off).errorf("with: unexpected %q", clip(rest[0].s))
	}
	return c.begin(t, n, openBlock{name: "with", end: "endwith"})
}

// assignments reads name=value … and returns what follows.
func (n *withNode) assignments(c *compiler, t *token, words []word) ([]word, *Error) {
	for len(words) > 0 {
		m := withArgument.FindStringSubmatch(words[0].s)
		if m == nil {
			break
		}
		if err := n.add(c, t, m[1], word{m[2], words[0].off + len(m[1]) + 1}); err != nil {
			return nil, err
		}
		words = words[1:]
	}
	return words, nil
}

// oldForm reads value as name and value as name …
func (n *withNode) oldForm(c *compiler, t *token, words []word) ([]word, *Error) {
	for len(words) >= 3 && words[1].s == "as" {
		if err := n.add(c, t, words[2].s, words[0]); err != nil {
			return nil, err
		}
		words = words[3:]
		if len(words) == 0 || words[0].s != "and" {
			break
		}
		words = words[1:]
	}
	return words, nil
}

func (n *withNode) add(c *compiler, t *token, name string, w word) *Error {
	e, err := c.parseExpr(t, w)
	if i := slices.Index(n.names, name); i >= 0 {
		n.exprs[i] = e
		return err
	}
	n.names, n.exprs = append(n.names, name), append(n.exprs, e)
	return err
}

func (n *withNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	values := make([]any, len(n.exprs))
	for i, e := range n.exprs {
		v, err := e.eval(r, false)
		if err != nil {
			return err
		}
		values[i] = v
	}
	r.push()
	defer r.pop()
	for i, name := range n.names {
		r.bind(name, values[i])
	}
	return r.body(bodies[0], o)
}
