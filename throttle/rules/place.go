package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// place is where a key stands, from 1.
type place struct{ line, column int }

// places finds keys and blocks in a document. Elements of arrays are numbered:
// "provider[2].rule[0].match".
type places struct {
	at     map[string]place
	counts map[string]int    // elements seen of an array of tables
	names  map[string]string // what a block calls itself, by its path
	blocks []blockAt         // in order of lines
	lines  []int             // offsets at which lines begin
	table  string
	p      unstable.Parser
}

// blockAt is where a block begins.
type blockAt struct {
	line int
	path string
}

// maxDepth bounds the recursion into inline values.
const maxDepth = 8

// findPlaces reads a document up to its first mistake.
func findPlaces(text []byte) *places {
	l := &places{at: map[string]place{}, counts: map[string]int{}, names: map[string]string{}, lines: []int{0}}
	for i, c := range text {
		if c == '\n' {
			l.lines = append(l.lines, i+1)
		}
	}
	l.p.Reset(text)
	for l.p.NextExpression() {
		e := l.p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			parts, at := l.key(e)
			l.table = l.enter(parts, e.Kind == unstable.ArrayTable)
			l.at[l.table] = at
			l.blocks = append(l.blocks, blockAt{at.line, l.table})
		case unstable.KeyValue:
			l.keyValue(l.table, e, 0)
		}
	}
	return l
}

// enter makes the path of a table's header: what was an array means its last element.
func (l *places) enter(parts []string, array bool) string {
	path := ""
	for i, part := range parts {
		path = join(path, part)
		if array && i == len(parts)-1 {
			l.counts[path]++
		}
		if n := l.counts[path]; n > 0 {
			path = element(path, n-1)
		}
	}
	return path
}

func (l *places) keyValue(prefix string, e *unstable.Node, depth int) {
	parts, at := l.key(e)
	path := prefix
	for _, part := range parts {
		path = join(path, part)
		l.at[path] = at
	}
	v := e.Value()
	if leaf := parts[len(parts)-1]; v.Kind == unstable.String && (leaf == "name" || leaf == "match" && l.names[prefix] == "") {
		l.names[prefix] = string(v.Data)
	}
	l.value(path, v, at, depth)
}

func (l *places) value(path string, v *unstable.Node, at place, depth int) {
	if depth > maxDepth {
		return
	}
	switch v.Kind {
	case unstable.Array:
		it := v.Children()
		for i := 0; it.Next(); i++ {
			n := it.Node()
			where := at
			if n.Raw.Length > 0 {
				where = l.of(n)
			}
			l.at[element(path, i)] = where
			l.value(element(path, i), n, where, depth+1)
		}
	case unstable.InlineTable:
		it := v.Children()
		for it.Next() {
			l.keyValue(path, it.Node(), depth+1)
		}
	}
}

func (l *places) key(e *unstable.Node) (parts []string, at place) {
	it := e.Key()
	for it.Next() {
		n := it.Node()
		if len(parts) == 0 {
			at = l.of(n)
		}
		parts = append(parts, string(n.Data))
	}
	return parts, at
}

// of is the place of a node. The parser's own way counts lines from the start for each.
func (l *places) of(n *unstable.Node) place {
	offset := int(n.Raw.Offset)
	line, found := slices.BinarySearch(l.lines, offset)
	if found {
		line++
	}
	return place{line, offset - l.lines[line-1] + 1}
}

// find returns the place of a path, or of what it stands in.
func (l *places) find(path string) place {
	for path != "" {
		if at, ok := l.at[path]; ok {
			return at
		}
		cut := max(strings.LastIndexByte(path, '.'), strings.LastIndexByte(path, '['))
		path = path[:max(cut, 0)]
	}
	return place{}
}

// blockOf returns the path of the block that a line is in.
func (l *places) blockOf(line int) string {
	path := ""
	for _, b := range l.blocks {
		if b.line > line {
			break
		}
		path = b.path
	}
	return path
}

// kinds are the blocks that a document has lists of.
var kinds = [...]string{"provider", "site", "domain", "tenant", "pool"}

// describe puts a path into words: its block and the rule in it.
func (l *places) describe(path string) (block, rule string) {
	if before, after, in := strings.Cut(path, ".rule["); in {
		number, _, _ := strings.Cut(after, "]")
		if rule = l.names[before+".rule["+number+"]"]; rule == "" {
			rule = "without name"
		}
		path = before
	}
	top, rest, _ := strings.Cut(path, ".")
	kind, _, indexed := strings.Cut(top, "[")
	switch {
	case !indexed && kind == "default":
		return kind, rule
	case !indexed || !slices.Contains(kinds[:], kind):
		return "", rule
	}
	block = kind
	if name := l.names[top]; name != "" {
		block += " " + name
	}
	if source, ok := strings.CutPrefix(rest, "sources."); ok {
		block += " source " + withoutKey(source)
	} else if part, _, _ := strings.Cut(rest, "."); part == "pool" || part == "site" {
		block += " " + part
	}
	return block, rule
}

// withoutKey cuts the name of a value off a path. What is before it may have dots of its own.
func withoutKey(path string) string {
	for _, n := range names {
		if before, ok := strings.CutSuffix(path, "."+n); ok {
			return before
		}
	}
	before, _, _ := strings.Cut(path, "."+names[loop]+".")
	return before
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
