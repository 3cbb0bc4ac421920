package render

// condition is what stands in an if or elif tag.
type condition interface {
	// test returns the value. The error is one that Django raises out of the tag;
	// inside of an operator any failure counts as false.
	test(r *run) (any, *Error)
}

// operator of a condition, by Django's names.
type operator struct {
	name  string
	power int // how strongly it binds
	apply func(r *run, a, b any) (bool, error)
}

// The ways in which operators bind, loosest first.
const (
	powerOr = iota + 1
	powerAnd
	powerNot
	powerIn
	powerCompare
)

func operators() map[string]*operator {
	order := func(ok func(c int) bool) func(*run, any, any) (bool, error) {
		return func(r *run, a, b any) (bool, error) {
			c, err := r.compare(a, b, 0)
			return err == nil && ok(c), err
		}
	}
	ops := []*operator{
		{"or", powerOr, nil},
		{"and", powerAnd, nil},
		{"not", powerNot, nil},
		{"in", powerIn, func(r *run, a, b any) (bool, error) { return r.contains(b, a) }},
		{"not in", powerIn, func(r *run, a, b any) (bool, error) {
			ok, err := r.contains(b, a)
			return !ok && err == nil, err
		}},
		{"is", powerCompare, func(_ *run, a, b any) (bool, error) { return same(a, b), nil }},
		{"is not", powerCompare, func(_ *run, a, b any) (bool, error) { return !same(a, b), nil }},
		{"==", powerCompare, func(r *run, a, b any) (bool, error) { return r.equal(a, b, 0) }},
		{"!=", powerCompare, func(r *run, a, b any) (bool, error) {
			ok, err := r.equal(a, b, 0)
			return !ok && err == nil, err
		}},
		{"<", powerCompare, order(func(c int) bool { return c < 0 })},
		{"<=", powerCompare, order(func(c int) bool { return c <= 0 })},
		{">", powerCompare, order(func(c int) bool { return c > 0 })},
		{">=", powerCompare, order(func(c int) bool { return c >= 0 })},
	}
	m := make(map[string]*operator, len(ops))
	for _, op := range ops {
		m[op.name] = op
	}
	return m
}

// term is an expression as a condition.
type term struct{ e *expr }

func (t term) test(r *run) (any, *Error) { return t.e.eval(r, true) }

// operation is an operator with its operands; left is nil for not.
type operation struct {
	op          *operator
	left, right condition
}

func (o *operation) test(r *run) (any, *Error) {
	ok, err := o.decide(r)
	if err != nil && r.over() {
		return nil, err
	}
	return ok && err == nil, nil
}

func (o *operation) decide(r *run) (bool, *Error) {
	if o.op.power == powerNot {
		v, err := o.right.test(r)
		return !truth(v), err
	}
	a, err := o.left.test(r)
	if err != nil {
		return false, err
	}
	switch o.op.power {
	case powerOr:
		if truth(a) {
			return true, nil
		}
	case powerAnd:
		if !truth(a) {
			return false, nil
		}
	}
	b, err := o.right.test(r)
	if err != nil {
		return false, err
	}
	if o.op.apply == nil {
		return truth(b), nil
	}
	ok, aerr := o.op.apply(r, a, b)
	if aerr != nil {
		return false, position{}.errorf("%s", aerr)
	}
	return ok, nil
}

// conditionParser is an operator-precedence parser. Its recursion is as deep as
// operators are many, and those are counted first.
type conditionParser struct {
	c     *compiler
	t     *token
	words []word
	i     int
}

func (c *compiler) parseCondition(t *token, words []word) (condition, *Error) {
	p := &conditionParser{c: c, t: t, words: words}
	count := 0
	for _, w := range words {
		if _, ok := c.lib.operators[w.s]; !ok {
			continue
		}
		if count++; count > c.maxNesting {
			return nil, t.place(w.off).errorf("more than %d operators in one condition", c.maxNesting)
		}
	}
	cond, err := p.expression(0)
	if err != nil {
		return nil, err
	}
	if p.i < len(p.words) {
		w := p.words[p.i]
		return nil, t.place(w.off).errorf("unused %q at the end of the condition", clip(w.s))
	}
	return cond, nil
}

// operator returns the operator at the current word and how many words it takes.
func (p *conditionParser) operator() (*operator, int) {
	if p.i >= len(p.words) {
		return nil, 0
	}
	name := p.words[p.i].s
	if p.i+1 < len(p.words) {
		if two := name + " " + p.words[p.i+1].s; two == "is not" || two == "not in" {
			return p.c.lib.operators[two], 2
		}
	}
	return p.c.lib.operators[name], 1
}

func (p *conditionParser) expression(power int) (condition, *Error) {
	left, err := p.first()
	if err != nil {
		return nil, err
	}
	for {
		op, n := p.operator()
		if op == nil || power >= op.power {
			return left, nil
		}
		if op.name == "not" {
			return nil, p.unexpected()
		}
		p.i += n
		right, err := p.expression(op.power)
		if err != nil {
			return nil, err
		}
		left = &operation{op, left, right}
	}
}

// first reads an operand, with the nots before it.
func (p *conditionParser) first() (condition, *Error) {
	if p.i >= len(p.words) {
		return nil, p.t.at.errorf("unexpected end of the condition")
	}
	op, n := p.operator()
	switch {
	case op == nil:
		w := p.words[p.i]
		p.i++
		e, err := p.c.parseExpr(p.t, w)
		if err != nil {
			return nil, err
		}
		return term{e}, nil
	case op.name == "not":
		p.i += n
		right, err := p.expression(op.power)
		if err != nil {
			return nil, err
		}
		return &operation{op: op, right: right}, nil
	}
	return nil, p.unexpected()
}

func (p *conditionParser) unexpected() *Error {
	w := p.words[p.i]
	return p.t.place(w.off).errorf("not expecting %q in this place of the condition", clip(w.s))
}
