package render

import (
	"slices"
	"strings"

	"github.com/flosch/pongo2/v6"
)

// loop is the variable forloop.
type loop struct {
	i, n    int
	parent  *loop
	changes map[*changedNode]any
}

func (l *loop) member(name string) (any, bool) {
	switch name {
	case "counter":
		return int64(l.i + 1), true
	case "counter0":
		return int64(l.i), true
	case "revcounter":
		return int64(l.n - l.i), true
	case "revcounter0":
		return int64(l.n - l.i - 1), true
	case "first":
		return l.i == 0, true
	case "last":
		return l.i == l.n-1, true
	case "parentloop":
		if l.parent == nil {
			return map[string]any{}, true
		}
		return l.parent, true
	}
	return nil, false
}

// fields are the members as a map, for printing.
func (l *loop) fields() map[string]any {
	m := make(map[string]any)
	for _, name := range []string{"counter", "counter0", "revcounter", "revcounter0", "first", "last", "parentloop"} {
		m[name], _ = l.member(name)
	}
	return m
}

// forNode is for. It is the only way to repeat anything, so it counts the iterations.
type forNode struct {
	names    []string
	seq      *expr
	reversed bool
	at       position
	hasEmpty bool
}

func compileFor(c *compiler, t *token, words []word) *Error {
	n := &forNode{at: t.at}
	rest := words[1:]
	if len(words) < 4 {
		return t.at.errorf("for should have four words at least: {%% for x in list %%}")
	}
	if rest[len(rest)-1].s == "reversed" {
		n.reversed = true
		rest = rest[:len(rest)-1]
	}
	if len(rest) < 2 || rest[len(rest)-2].s != "in" {
		return t.at.errorf("for should be written: {%% for x in list %%} or {%% for x, y in list %%}")
	}
	if err := n.parseNames(t, rest[:len(rest)-2]); err != nil {
		return err
	}
	var err *Error
	if n.seq, err = c.parseExpr(t, rest[len(rest)-1]); err != nil {
		return err
	}
	return c.begin(t, n, openBlock{name: "for", end: "endfor", names: `"empty" or `, next: n.next})
}

func (n *forNode) parseNames(t *token, words []word) *Error {
	var parts []string
	for _, w := range words {
		parts = append(parts, w.s)
	}
	for _, name := range strings.Split(strings.Join(parts, " "), ",") {
		name = strings.Trim(name, " ")
		if name == "" || strings.ContainsAny(name, " \"'|") {
			return t.at.errorf("for: invalid name %q", clip(name))
		}
		n.names = append(n.names, name)
	}
	return nil
}

func (n *forNode) next(c *compiler, t *token, words []word) (bool, *Error) {
	if n.hasEmpty || words[0].s != "empty" {
		return false, nil
	}
	n.hasEmpty = true
	c.next()
	return true, nil
}

func (n *forNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	v, err := n.seq.eval(r, true)
	if err != nil {
		return err
	}
	var list []any
	if v != nil {
		var lerr error
		if list, lerr = r.items(v); lerr != nil {
			return n.seq.at.errorf("for: %s", lerr)
		}
	}
	if len(list) == 0 {
		if n.hasEmpty {
			return r.body(bodies[1], o)
		}
		return nil
	}
	if n.reversed {
		if cerr := r.charge(16 * len(list)); cerr != nil {
			return n.at.errorf("%s", cerr)
		}
		list = slices.Clone(list)
		slices.Reverse(list)
	}
	return n.loop(r, o, bodies[0], list)
}

func (n *forNode) loop(r *run, o *out, body *pongo2.NodeWrapper, list []any) *Error {
	r.push()
	defer r.pop()
	r.loop = &loop{n: len(list), parent: r.loop}
	defer func() { r.loop = r.loop.parent }()
	// A name that a tag binds in the body lives as long as the loop, names
	// unpacked from an item for one iteration, as in Django.
	for i, v := range list {
		if ierr := r.iterate(); ierr != nil {
			return n.at.errorf("%s", ierr)
		}
		r.loop.i = i
		if err := n.iteration(r, o, body, v); err != nil {
			return err
		}
	}
	return nil
}

func (n *forNode) iteration(r *run, o *out, body *pongo2.NodeWrapper, v any) *Error {
	if len(n.names) == 1 {
		r.bind(n.names[0], v)
		return r.body(body, o)
	}
	size, ok := length(v)
	if !ok {
		size = 1
	}
	if size != len(n.names) {
		return n.at.errorf("for: need %d values to unpack; got %d", len(n.names), size)
	}
	parts, err := r.items(v)
	if err != nil {
		return n.at.errorf("for: %s", err)
	}
	r.push()
	defer r.pop()
	for i, name := range n.names {
		r.bind(name, parts[i])
	}
	return r.body(body, o)
}

// regroupNode makes groups of the neighbours in a list that share a value.
type regroupNode struct {
	list *expr
	by   *expr
	name string
	at   position
}

func compileRegroup(c *compiler, t *token, words []word) *Error {
	if len(words) != 6 || words[2].s != "by" || words[4].s != "as" {
		return t.at.errorf("regroup should be written: {%% regroup list by key as name %%}")
	}
	list, err := c.parseExpr(t, words[1])
	if err != nil {
		return err
	}
	n := &regroupNode{list: list, name: words[5].s, at: t.at}
	// The key may have filters, so it is an expression on the bound item.
	by := token{content: n.name + "." + words[3].s, inner: t.place(words[3].off)}
	by.inner.col -= runes(n.name) + 1
	if n.by, err = c.parseExpr(&by, word{by.content, 0}); err != nil {
		return err
	}
	c.leaf(t, n)
	return nil
}

func (n *regroupNode) render(r *run, _ *out) *Error {
	v, err := n.list.eval(r, true)
	if err != nil {
		return err
	}
	groups, err := n.groups(r, v)
	if err != nil {
		return err
	}
	if cerr := r.charge(64 * len(groups)); cerr != nil {
		return n.at.errorf("%s", cerr)
	}
	r.bind(n.name, groups)
	return nil
}

func (n *regroupNode) groups(r *run, v any) ([]any, *Error) {
	if v == nil {
		return nil, nil
	}
	list, ierr := r.items(v)
	if ierr != nil {
		return nil, n.list.at.errorf("regroup: %s", ierr)
	}
	var groups []any
	var last *grouped
	for _, item := range list {
		r.bind(n.name, item)
		by, err := n.by.eval(r, true)
		if err != nil {
			return nil, err
		}
		same := false
		if last != nil {
			if same, ierr = r.equal(last.grouper, by, 0); ierr != nil {
				return nil, n.at.errorf("%s", ierr)
			}
		}
		if !same {
			last = &grouped{grouper: by}
			groups = append(groups, last)
		}
		last.list = append(last.list, item)
		if cerr := r.charge(16); cerr != nil {
			return nil, n.at.errorf("%s", cerr)
		}
	}
	return groups, nil
}
