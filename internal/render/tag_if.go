package render

import "github.com/flosch/pongo2/v6"

// ifNode is if with its elifs; a last body more than conditions is else.
type ifNode struct {
	conds    []condition
	at       []position
	seenElse bool
}

func compileIf(c *compiler, t *token, words []word) *Error {
	n := &ifNode{}
	if err := n.add(c, t, words[1:]); err != nil {
		return err
	}
	return c.begin(t, n, openBlock{name: "if", end: "endif", names: `"elif", "else" or `, next: n.next})
}

func (n *ifNode) add(c *compiler, t *token, words []word) *Error {
	cond, err := c.parseCondition(t, words)
	n.conds, n.at = append(n.conds, cond), append(n.at, t.at)
	return err
}

func (n *ifNode) next(c *compiler, t *token, words []word) (bool, *Error) {
	if n.seenElse {
		return false, nil
	}
	switch words[0].s {
	case "elif":
		c.next()
		return true, n.add(c, t, words[1:])
	case "else":
		if len(words) > 1 {
			return true, t.place(words[1].off).errorf("else takes no arguments")
		}
		n.seenElse = true
		c.next()
		return true, nil
	}
	return false, nil
}

func (n *ifNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	for i, cond := range n.conds {
		v, err := cond.test(r)
		if err != nil && !err.missing {
			if err.Line == 0 {
				err.Line, err.Column = n.at[i].line, n.at[i].col
			}
			return err
		}
		if err == nil && truth(v) {
			return r.body(bodies[i], o)
		}
	}
	if n.seenElse {
		return r.body(bodies[len(n.conds)], o)
	}
	return nil
}

// changedNode is ifchanged: a body shown only when it, or a list of values, is
// not as it was in the iteration before.
type changedNode struct {
	watch    []*expr
	seenElse bool
}

func compileIfchanged(c *compiler, t *token, words []word) *Error {
	watch, err := c.exprs(t, words[1:])
	if err != nil {
		return err
	}
	n := &changedNode{watch: watch}
	return c.begin(t, n, openBlock{name: "ifchanged", end: "endifchanged", names: `"else" or `, next: n.next})
}

func (n *changedNode) next(c *compiler, t *token, words []word) (bool, *Error) {
	if n.seenElse || words[0].s != "else" {
		return false, nil
	}
	n.seenElse = true
	c.next()
	return true, nil
}

func (n *changedNode) render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error {
	now, err := n.now(r, bodies[0])
	if err != nil {
		return err
	}
	// The memory is the innermost loop's, so that it starts anew with it.
	seen := &r.changes
	if r.loop != nil {
		seen = &r.loop.changes
	}
	last, known := (*seen)[n]
	same := false
	if known {
		var eerr error
		if same, eerr = r.equal(last, now, 0); eerr != nil {
			return position{}.errorf("%s", eerr)
		}
	}
	switch {
	case same && n.seenElse:
		return r.body(bodies[1], o)
	case same:
		return nil
	}
	if *seen == nil {
		*seen = make(map[*changedNode]any)
	}
	(*seen)[n] = now
	if len(n.watch) == 0 {
		o.WriteString(text(now))
		return nil
	}
	return r.body(bodies[0], o)
}

// now is what is compared: the watched values, or the body's text.
func (n *changedNode) now(r *run, body *pongo2.NodeWrapper) (any, *Error) {
	if len(n.watch) == 0 {
		s, err := r.capture(body)
		return s, err
	}
	values := make([]any, 0, len(n.watch))
	for _, e := range n.watch {
		v, err := e.eval(r, true)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}
