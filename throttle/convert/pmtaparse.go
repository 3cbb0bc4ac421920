package convert

import (
	"strings"
)

// Bounds of PowerMTA's files, against loops of includes and of macros.
const (
	maxNesting  = 20
	maxIncludes = 200
	maxExpanded = 10_000
)

// directive is one line: a keyword and what follows.
type directive struct {
	at    place
	name  string // in lower case
	value string
}

// section is a <tag argument> with what is inside; the file itself has no tag.
type section struct {
	at       place
	tag      string // in lower case
	arg      string
	lines    []directive
	sections []*section
}

// last is the value of the last directive of a name; PowerMTA lets later ones win.
func (s *section) last(name string) (directive, bool) {
	for i := len(s.lines) - 1; i >= 0; i-- {
		if s.lines[i].name == name {
			return s.lines[i], true
		}
	}
	return directive{}, false
}

// pmtaParser reads lines into sections. It takes everything: what is not in order becomes a note.
type pmtaParser struct {
	o        Options
	notes    *notes
	stack    []*section
	includes int
}

func parsePMTA(data []byte, o Options, n *notes) *section {
	p := &pmtaParser{o: o, notes: n, stack: []*section{{at: place{file: o.File}}}}
	p.file(Input{Name: o.File, Data: data}, 0)
	for len(p.stack) > 1 {
		p.notes.add(p.top().at, "<"+p.top().tag+">", Todo, "is not closed; the end of the file was taken for its end")
		p.stack = p.stack[:len(p.stack)-1]
	}
	return p.stack[0]
}

func (p *pmtaParser) top() *section { return p.stack[len(p.stack)-1] }

func (p *pmtaParser) file(in Input, depth int) {
	line := 0
	for text := range strings.SplitSeq(string(in.Data), "\n") {
		line++
		p.line(place{in.Name, line}, text, depth)
	}
}

func (p *pmtaParser) line(at place, text string, depth int) {
	text, _, _ = strings.Cut(text, "#")
	if text = strings.TrimSpace(strings.Trim(text, "\ufeff\r")); text == "" {
		return
	}
	if strings.HasPrefix(text, "<") {
		p.tag(at, text)
		return
	}
	// A pattern may begin a nested list in the same line.
	nested := strings.HasSuffix(text, "<pattern-list>")
	text = strings.TrimSpace(strings.TrimSuffix(text, "<pattern-list>"))
	name, value := text, ""
	if i := strings.IndexAny(text, " \t"); i > 0 {
		name, value = text[:i], strings.TrimSpace(text[i:])
	}
	d := directive{at, strings.ToLower(name), unquote(value)}
	if d.name == "include" {
		p.include(d, depth)
		return
	}
	s := p.top()
	s.lines = append(s.lines, d)
	if nested {
		p.open(at, "pattern-list", "")
	}
}

// unquote takes quotes off a value that is one quoted text.
func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' && strings.Count(s, `"`) == 2 {
		return s[1 : len(s)-1]
	}
	return s
}

// tag is <name argument> or </name>.
func (p *pmtaParser) tag(at place, text string) {
	inner, rest, closed := strings.Cut(strings.TrimPrefix(text, "<"), ">")
	if !closed || strings.TrimSpace(rest) != "" {
		p.notes.add(at, text, Todo, "is not a tag that can be read; it is left out")
		return
	}
	closing, isClosing := strings.CutPrefix(strings.TrimSpace(inner), "/")
	if !isClosing {
		name, arg := strings.TrimSpace(inner), ""
		if i := strings.IndexAny(name, " \t"); i > 0 {
			name, arg = name[:i], strings.TrimSpace(name[i:])
		}
		p.open(at, strings.ToLower(name), unquote(arg))
		return
	}
	words := strings.Fields(strings.ToLower(closing))
	for i := len(p.stack) - 1; i > 0 && len(words) > 0; i-- {
		if p.stack[i].tag != words[0] {
			continue
		}
		for j := len(p.stack) - 1; j > i; j-- {
			p.notes.add(p.stack[j].at, "<"+p.stack[j].tag+">", Todo, "is not closed before line %d", at.line)
		}
		p.stack = p.stack[:i]
		return
	}
	p.notes.add(at, text, Todo, "closes nothing")
}

func (p *pmtaParser) open(at place, tag, arg string) {
	s := &section{at: at, tag: tag, arg: arg}
	parent := p.top()
	parent.sections = append(parent.sections, s)
	if len(p.stack) < maxNesting {
		p.stack = append(p.stack, s)
		return
	}
	p.notes.add(at, "<"+tag+">", Todo, "is nested too deep")
}

func (p *pmtaParser) include(d directive, depth int) {
	if p.o.Include == nil {
		p.notes.add(d.at, "include "+d.value, Unmapped, "was not followed: translate the file too, or put all into one")
		return
	}
	if depth >= maxNesting || p.includes >= maxIncludes {
		p.notes.add(d.at, "include "+d.value, Todo, "was not followed: files include each other too often")
		return
	}
	files, err := p.o.Include(d.value)
	if err != nil || len(files) == 0 {
		p.notes.add(d.at, "include "+d.value, Todo, "could not be read: %v", err)
		return
	}
	for _, f := range files {
		p.includes++
		p.file(f, depth+1)
	}
}

// macros are the domain-macro directives of a file.
type macros map[string][]string

// readMacros takes them from the file's own lines.
func readMacros(root *section) macros {
	m := macros{}
	for _, d := range root.lines {
		if d.name != "domain-macro" {
			continue
		}
		name, rest, _ := strings.Cut(strings.ReplaceAll(d.value, "\t", " "), " ")
		m[strings.ToLower(name)] = append(m[strings.ToLower(name)], listOf(rest)...)
	}
	return m
}

// listOf splits at commas and blanks.
func listOf(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// expand replaces $name by each of its values. False: a macro is not known, or they go in circles.
func (m macros) expand(s string, depth int) ([]string, bool) {
	i := strings.IndexByte(s, '$')
	if i < 0 {
		return []string{s}, true
	}
	end := i + 1
	for end < len(s) && (s[end] == '_' || s[end] >= '0' && s[end] <= '9' || s[end] >= 'a' && s[end] <= 'z' || s[end] >= 'A' && s[end] <= 'Z') {
		end++
	}
	values, known := m[strings.ToLower(s[i+1:end])]
	if !known || depth > maxNesting {
		return nil, false
	}
	var out []string
	for _, v := range values {
		list, ok := m.expand(s[:i]+v+s[end:], depth+1)
		if !ok || len(out)+len(list) > maxExpanded {
			return nil, false
		}
		out = append(out, list...)
	}
	return out, true
}
