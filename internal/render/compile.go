package render

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// program is a compiled template. It does not change; any number of runs may
// use it at once.
type program struct {
	items []item
	tree  *tree
	html  bool
	size  int   // of the source: a first guess for the output's
	cost  int64 // estimated bytes of memory
}

// The memory that a tag and a piece of text weigh, besides the source: its item,
// its expression, and pongo2's nodes.
const (
	tagCost  = 400
	textCost = 150
)

// compiler builds one program.
type compiler struct {
	lib        *library
	maxNesting int
	skeleton   strings.Builder
	prog       *program
	text       []string // pending, not yet in the skeleton
	open       []openBlock
	cycles     map[string]*cycleNode
	lastCycle  *cycleNode
	blockNames map[string]bool
}

// openBlock is a block whose end has not come yet.
type openBlock struct {
	name string
	end  string
	t    token
	// next compiles a tag that starts the block's next body; nil if it has one only.
	next func(c *compiler, t *token, words []word) (known bool, err *Error)
	// names are the tags that next knows, for messages.
	names string
}

// compile turns a source into a program, or tells the first thing wrong with it.
func compile(src string, html bool, maxNesting int) (p *program, err *Error) {
	// The cache compiles in a way that a panic could not be caught any more.
	defer func() {
		if v := recover(); v != nil {
			p, err = nil, &Error{Line: 1, Column: 1, Message: "the template could not be processed", internal: fmt.Sprintf("panic: %v", v)}
		}
	}()
	c := &compiler{
		lib:        theLibrary(),
		maxNesting: maxNesting,
		prog:       &program{html: html, size: len(src), items: make([]item, 1)},
		cycles:     make(map[string]*cycleNode),
		blockNames: make(map[string]bool),
	}
	c.skeleton.Grow(len(src) + len(src)/4 + 64)
	c.write("{% " + blockTag + " 0 %}")
	s := newScanner(src)
	for {
		t, ok := s.next()
		if !ok {
			break
		}
		if err := c.token(s, &t); err != nil {
			return nil, err
		}
	}
	if n := len(c.open); n > 0 {
		b := c.open[n-1]
		return nil, b.t.at.errorf("the tag %q is never closed: %q is missing", b.name, b.end)
	}
	c.flush()
	c.write("{% " + endTag + " %}")
	return c.finish()
}

func (c *compiler) finish() (*program, *Error) {
	t, err := parse(c.skeleton.String())
	if err != nil {
		return nil, &Error{Line: 1, Column: 1, Message: "the template could not be processed", internal: err.Error()}
	}
	c.prog.tree = t
	c.prog.cost += int64(c.skeleton.Len())
	return c.prog, nil
}

func (c *compiler) token(s *scanner, t *token) *Error {
	switch t.kind {
	case textToken:
		c.text = append(c.text, t.content)
		return nil
	case variableToken:
		if t.content == "" {
			return t.at.errorf("empty variable tag")
		}
		e, err := c.parseExpr(t, word{t.content, 0})
		if err != nil {
			return err
		}
		c.leaf(t, &showNode{e})
		return nil
	}
	return c.tag(s, t)
}

func (c *compiler) tag(s *scanner, t *token) *Error {
	words := splitWords(t.content)
	if len(words) == 0 {
		return t.at.errorf("empty block tag")
	}
	name := words[0].s
	if n := len(c.open); n > 0 {
		b := &c.open[n-1]
		if name == b.end {
			return c.close(t, words)
		}
		if b.next != nil {
			if known, err := b.next(c, t, words); known || err != nil {
				return err
			}
		}
	}
	if name == "comment" {
		return c.skipComment(s, t)
	}
	def, ok := c.lib.tags[name]
	if !ok {
		return c.unknown(t, words[0])
	}
	return def(c, t, words)
}

// unknown explains a tag that does not exist or is not expected here.
func (c *compiler) unknown(t *token, w word) *Error {
	at := t.place(w.off)
	if why := bannedTags[w.s]; why != "" {
		return at.errorf("the tag %q is not allowed: %s", w.s, why)
	}
	if n := len(c.open); n > 0 {
		b := c.open[n-1]
		return at.errorf("invalid tag %q: the tag %q of line %d is open and wants %s%q", clip(w.s), b.name, b.t.at.line, b.names, b.end)
	}
	return at.errorf("invalid tag %q", clip(w.s))
}

// skipComment drops everything up to endcomment, whatever it is.
func (c *compiler) skipComment(s *scanner, open *token) *Error {
	for {
		t, ok := s.next()
		if !ok {
			return open.at.errorf("the tag %q is never closed: %q is missing", "comment", "endcomment")
		}
		if t.kind == tagToken && t.content == "endcomment" {
			return nil
		}
	}
}

// close ends the innermost block.
func (c *compiler) close(t *token, words []word) *Error {
	b := c.open[len(c.open)-1]
	if b.name == "if" && len(words) > 1 {
		return t.place(words[1].off).errorf("endif takes no arguments")
	}
	c.open = c.open[:len(c.open)-1]
	c.flush()
	c.write("{% " + endTag + " %}")
	return nil
}

// next starts the next body of the innermost block.
func (c *compiler) next() {
	c.flush()
	c.write("{% " + nextTag + " %}")
}

// leaf adds a tag without body.
func (c *compiler) leaf(t *token, n leaf) {
	c.flush()
	c.number(leafTag, item{leaf: n, at: t.at})
}

// begin adds a tag with a body and waits for its end.
func (c *compiler) begin(t *token, n block, b openBlock) *Error {
	if len(c.open) >= c.maxNesting {
		return t.at.errorf("blocks are nested deeper than %d", c.maxNesting)
	}
	c.flush()
	c.number(blockTag, item{block: n, at: t.at})
	b.t = *t
	c.open = append(c.open, b)
	return nil
}

func (c *compiler) number(tag string, it item) {
	c.write("{% " + tag + " " + strconv.Itoa(len(c.prog.items)) + " %}")
	c.prog.items = append(c.prog.items, it)
	c.prog.cost += tagCost
}

// flush writes the pending text. Text that pongo2 would not take as text becomes
// an item: tag syntax in it (from verbatim, or never closed), a brace at the end
// that would join the next tag, and U+0001, which pongo2's lexer takes for the end.
func (c *compiler) flush() {
	if len(c.text) == 0 {
		return
	}
	s := c.text[0]
	if len(c.text) > 1 {
		s = strings.Join(c.text, "")
	}
	c.text = c.text[:0]
	c.prog.cost += textCost
	if strings.HasSuffix(s, "{") || strings.IndexByte(s, 1) >= 0 ||
		strings.Contains(s, "{{") || strings.Contains(s, "{%") || strings.Contains(s, "{#") {
		c.number(leafTag, item{leaf: textNode(s), at: position{1, 1}})
		return
	}
	c.write(s)
}

func (c *compiler) write(s string) { c.skeleton.WriteString(s) }

// render executes the program.
func (p *program) render(ctx context.Context, opts *Options, vars map[string]any, start time.Time) (text string, err *Error) {
	for name, v := range vars {
		if aerr := admit(v, 0); aerr != nil {
			return "", position{1, 1}.errorf("the variable %q %s", clip(name), aerr)
		}
	}
	r := &run{
		prog: p, ctx: ctx, vars: vars, escape: p.html,
		deadline: start.Add(opts.Deadline.D()), maxOutput: int(opts.MaxOutput), maxIterations: opts.MaxIterations,
	}
	// A bug in our tags or filters must cost one message, not the process.
	defer func() {
		if v := recover(); v != nil {
			text, err = "", &Error{Line: 1, Column: 1, Message: "the template could not be rendered", internal: fmt.Sprintf("panic: %v", v)}
		}
	}()
	o := &out{r: r}
	o.b.Grow(min(p.size+64, int(opts.MaxOutput)))
	if err := r.body(p.tree.body, o); err != nil {
		err.temporary = errors.Is(r.stop, errDeadline)
		return "", err
	}
	if r.tooMuch {
		return "", position{1, 1}.errorf("%s", r.tooLarge())
	}
	return o.b.String(), nil
}
