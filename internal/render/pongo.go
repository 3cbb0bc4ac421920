package render

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/flosch/pongo2/v6"
)

// The skeleton language. compile writes a source for pongo2 that holds nothing
// but plain text and these four tags:
//
//	{% godwit 7 %}                            item 7
//	{% godwitblock 3 %} … {% godwitend %}     item 3 around a body
//	… {% godwitnext %} …                      its next body (else, elif, empty)
const (
	leafTag  = "godwit"
	blockTag = "godwitblock"
	nextTag  = "godwitnext"
	endTag   = "godwitend"
)

// registered makes the registration happen once. pongo2 v6 keeps its tags in one
// map for the whole process, so there is no way to register for one engine only.
// The names above collide with no tag of pongo2 or Django, none of pongo2's own
// is changed, and what is registered has no state, so nothing else in the process
// can notice; registering happens in New, before any template is parsed.
var registered = sync.OnceValue(func() error {
	return errors.Join(
		pongo2.RegisterTag(leafTag, parseLeaf),
		pongo2.RegisterTag(blockTag, parseBlock),
	)
})

func registerTags() error { return registered() }

// leaf is a tag without body: it shows a variable or sets one.
type leaf interface {
	render(r *run, o *out) *Error
}

// block is a tag with one body or more.
type block interface {
	render(r *run, o *out, bodies []*pongo2.NodeWrapper) *Error
}

// item is a parsed tag: one of the two.
type item struct {
	leaf  leaf
	block block
	at    position
}

// stopped tells pongo2 to stop; the error itself is handed over beside it.
type stopped struct{ err *Error }

func (s *stopped) Error() string { return s.err.Error() }

func stopWith(err *Error) *pongo2.Error { return &pongo2.Error{OrigError: &stopped{err}} }

// leafNode and blockNode are the nodes of pongo2's tree. They hold the number
// of an item only; the program that a run executes has the items.
type leafNode struct{ n int }

type blockNode struct {
	n      int
	bodies []*pongo2.NodeWrapper
}

// Execute implements pongo2.INode. All writers are ours, see program.render.
func (n *leafNode) Execute(_ *pongo2.ExecutionContext, w pongo2.TemplateWriter) *pongo2.Error {
	o := w.(*out)
	it := &o.r.prog.items[n.n]
	err := it.leaf.render(o.r, o)
	return o.r.after(it, err)
}

// Execute implements pongo2.INode. A writer that is not ours is that of parse.
func (n *blockNode) Execute(ctx *pongo2.ExecutionContext, w pongo2.TemplateWriter) *pongo2.Error {
	o, ok := w.(*out)
	if !ok {
		if t, ok := ctx.Public[treeKey].(*tree); ok {
			t.body = n.bodies[0]
		}
		return nil
	}
	it := &o.r.prog.items[n.n]
	err := it.block.render(o.r, o, n.bodies)
	return o.r.after(it, err)
}

// after checks the meters behind each tag and gives errors without a place the tag's.
func (r *run) after(it *item, err *Error) *pongo2.Error {
	if err == nil {
		if r.tooMuch {
			err = it.at.errorf("%s", r.tooLarge())
		} else if serr := r.tick(0); serr != nil {
			err = it.at.errorf("%s", serr)
		} else {
			return nil
		}
	}
	if err.Line == 0 {
		err.Line, err.Column = it.at.line, it.at.col
	}
	return stopWith(err)
}

// body executes one body of a block.
func (r *run) body(b *pongo2.NodeWrapper, o *out) *Error {
	if perr := b.Execute(nil, o); perr != nil {
		return cause(perr)
	}
	return nil
}

func cause(perr *pongo2.Error) *Error {
	if s, ok := perr.OrigError.(*stopped); ok {
		return s.err
	}
	return &Error{Line: 1, Column: 1, Message: "the template could not be processed", internal: perr.Error()}
}

func parseLeaf(_ *pongo2.Parser, _ *pongo2.Token, args *pongo2.Parser) (pongo2.INodeTag, *pongo2.Error) {
	n, err := itemNumber(args)
	return &leafNode{n}, err
}

// parseBlock collects the bodies up to the end. Its recursion, by way of
// WrapUntilTag, is as deep as blocks nest; compile has bounded that.
func parseBlock(doc *pongo2.Parser, _ *pongo2.Token, args *pongo2.Parser) (pongo2.INodeTag, *pongo2.Error) {
	n, err := itemNumber(args)
	if err != nil {
		return nil, err
	}
	node := &blockNode{n: n}
	for {
		body, _, err := doc.WrapUntilTag(nextTag, endTag)
		if err != nil {
			return nil, err
		}
		node.bodies = append(node.bodies, body)
		if body.Endtag == endTag {
			return node, nil
		}
	}
}

func itemNumber(args *pongo2.Parser) (int, *pongo2.Error) {
	t := args.MatchType(pongo2.TokenNumber)
	if t == nil {
		return 0, args.Error("item number expected", nil)
	}
	n, err := strconv.Atoi(t.Val)
	if err != nil {
		return 0, args.Error(err.Error(), t)
	}
	return n, nil
}

// tree is pongo2's node tree below the block around the whole skeleton.
type tree struct{ body *pongo2.NodeWrapper }

// treeKey is where the tree is asked for, see parse.
const treeKey = "tree"

// parse builds the node tree of a skeleton, whose outermost block is item 0.
//
// The template is executed once, only to get hold of the tree: the program keeps
// that and lets go of pongo2.Template, whose tokens weigh some 300 bytes a tag.
// A set is made for each template because pongo2 writes to it without a lock.
func parse(skeleton string) (t *tree, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic in pongo2: %v", v)
		}
	}()
	set := pongo2.NewSet("godwit", noFiles{})
	for _, name := range foreignTags {
		if err := set.BanTag(name); err != nil {
			return nil, err
		}
	}
	tpl, err := set.FromString(skeleton)
	if err != nil {
		return nil, err
	}
	t = &tree{}
	if err := tpl.ExecuteWriterUnbuffered(pongo2.Context{treeKey: t}, io.Discard); err != nil {
		return nil, err
	}
	if t.body == nil {
		return nil, errors.New("pongo2 did not execute the outermost block")
	}
	return t, nil
}

// foreignTags are pongo2's own. A skeleton cannot hold one; banning them as well
// keeps a mistake in compile from becoming a way to read files.
var foreignTags = [...]string{
	"autoescape", "block", "comment", "cycle", "extends", "filter", "firstof", "for", "if", "ifchanged", "ifequal",
	"ifnotequal", "import", "include", "lorem", "macro", "now", "set", "spaceless", "ssi", "templatetag", "widthratio", "with",
}

// noFiles is the loader that pongo2 demands. It has nothing.
type noFiles struct{}

// Abs implements pongo2.TemplateLoader.
func (noFiles) Abs(_, name string) string { return name }

// Get implements pongo2.TemplateLoader.
func (noFiles) Get(string) (io.Reader, error) { return nil, errors.New("templates have no files") }
