package render

// cycleNode is cycle: one of its values after the other, each time it is met.
type cycleNode struct {
	values []*expr
	name   string
	silent bool
	at     position
}

func compileCycle(c *compiler, t *token, words []word) *Error {
	if len(words) < 2 {
		return t.at.errorf("cycle needs a value at least")
	}
	if len(words) == 2 {
		return c.reuseCycle(t, words[1])
	}
	n := &cycleNode{at: t.at}
	list := words[1:]
	if last := len(list) - 1; len(words) > 4 && list[last-1].s == "as" {
		list, n.name = list[:last-1], list[last].s
	} else if len(words) > 4 && list[last-2].s == "as" {
		if list[last].s != "silent" {
			return t.place(list[last].off).errorf("cycle: only \"silent\" may follow the name, not %q", clip(list[last].s))
		}
		list, n.name, n.silent = list[:last-2], list[last-1].s, true
	}
	var err *Error
	if n.values, err = c.exprs(t, list); err != nil {
		return err
	}
	if len(n.values) == 0 {
		return t.at.errorf("cycle needs a value at least")
	}
	if n.name != "" {
		c.cycles[n.name] = n
	}
	c.lastCycle = n
	c.leaf(t, n)
	return nil
}

// reuseCycle is {% cycle name %}: the next value of a cycle met before.
func (c *compiler) reuseCycle(t *token, w word) *Error {
	n, ok := c.cycles[w.s]
	if !ok {
		return t.place(w.off).errorf("cycle: no cycle is named %q", clip(w.s))
	}
	c.lastCycle = n
	c.leaf(t, n)
	return nil
}

func (n *cycleNode) render(r *run, o *out) *Error {
	i := r.cycles[n]
	if r.cycles == nil {
		r.cycles = make(map[*cycleNode]int)
	}
	r.cycles[n] = (i + 1) % len(n.values)
	v, err := n.values[i].eval(r, false)
	if err != nil {
		return err
	}
	if n.name != "" {
		r.rebind(n.name, v)
	}
	if n.silent {
		return nil
	}
	return r.output(o, n.at, v, "")
}

// resetNode starts a cycle anew.
type resetNode struct{ cycle *cycleNode }

func compileResetcycle(c *compiler, t *token, words []word) *Error {
	n := c.lastCycle
	if len(words) > 2 {
		return t.at.errorf("resetcycle takes one name at most")
	}
	if len(words) == 2 {
		n = c.cycles[words[1].s]
	}
	if n == nil {
		return t.at.errorf("resetcycle: there is no such cycle before it")
	}
	c.leaf(t, &resetNode{n})
	return nil
}

func (n *resetNode) render(r *run, _ *out) *Error {
	delete(r.cycles, n.cycle)
	return nil
}
