package convert

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// printer writes TOML.
type printer struct {
	b       strings.Builder
	comment bool // every line is commented out
}

func (p *printer) line(format string, args ...any) {
	if p.comment {
		p.b.WriteString("# ")
	}
	fmt.Fprintf(&p.b, format, args...)
	p.b.WriteByte('\n')
}

// head begins a table, with the place it comes from.
func (p *printer) head(header string, at place) {
	p.b.WriteByte('\n')
	if at.line > 0 {
		header += fmt.Sprintf(" # %s:%d", oneLine(at.file), at.line)
	}
	p.line("%s", header)
}

// quote writes a TOML string: literal where that is easier to read.
func quote(s string) string {
	if strings.ContainsAny(s, `\"`) && !strings.ContainsAny(s, "'") && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func quoteAll(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = quote(s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// key writes a key, quoted unless it is bare.
func key(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) {
		return s
	}
	return quote(s)
}

func (p *printer) limits(l *limits) {
	if l.connections != nil {
		p.line("connections = %d", *l.connections)
	}
	if l.connectRate != nil {
		p.line("connect_rate = %s", quote(*l.connectRate))
	}
	if l.messageRate != nil {
		p.line("message_rate = %s", quote(*l.messageRate))
	}
	if l.perConn != nil {
		p.line("messages_per_connection = %d", *l.perConn)
	}
	if l.tls != "" {
		p.line("tls = %s", quote(l.tls))
	}
}

// String writes the file.
func (f *ruleFile) String(from string) string {
	if f.empty() {
		return ""
	}
	p := &printer{}
	p.line("# Translated from %s by godwit import. See docs/formats/rules.md.", from)
	p.line("version = 1")
	if !f.def.limits.empty() {
		p.head("[default]", f.def.at)
		p.limits(&f.def.limits)
	}
	p.rules("default", f.def.rules)
	for _, b := range f.providers {
		p.provider(b)
	}
	for _, b := range f.sites {
		p.head("[[site]]", b.at)
		p.line("match = %s", quote(b.name))
		p.limits(&b.limits)
		p.sources("site", b)
	}
	for _, b := range f.domains {
		p.head("[[domain]]", b.at)
		p.line("name = %s", quote(b.name))
		p.limits(&b.limits)
		p.sources("domain", b)
	}
	return p.b.String()
}

func (p *printer) provider(b *block) {
	p.head("[[provider]]", b.at)
	p.line("name = %s", quote(b.name))
	if len(b.suffix) > 0 {
		p.line("mx_suffix = %s", quoteAll(b.suffix))
	}
	if len(b.hosts) > 0 {
		p.line("hosts = %s", quoteAll(b.hosts))
	}
	p.limits(&b.limits)
	if !b.site.empty() {
		p.head("[provider.site]", place{})
		p.limits(&b.site)
	}
	p.sources("provider", b)
	p.rules("provider", b.rules)
}

func (p *printer) sources(block string, b *block) {
	for _, name := range slices.Sorted(maps.Keys(b.sources)) {
		l := b.sources[name]
		p.head(fmt.Sprintf("[%s.sources.%s]", block, key(name)), place{})
		p.limits(&l)
	}
}

func (p *printer) rules(block string, list []rule) {
	for i := range list {
		r := &list[i]
		if r.todo != "" {
			p.b.WriteString("\n# TODO: " + r.todo)
			p.comment = true
		}
		p.head(fmt.Sprintf("[[%s.rule]]", block), r.at)
		p.rule(r)
		p.comment = false
	}
}

func (p *printer) rule(r *rule) {
	p.line("name = %s", quote(r.name))
	p.line("match = %s", quote(r.match))
	p.line("action = %s", quote(r.action))
	for _, v := range []struct{ key, value string }{{"message_rate", r.messageRate}, {"connect_rate", r.connectRate}} {
		if v.value != "" {
			p.line("%s = %s", v.key, quote(v.value))
		}
	}
	for _, v := range []struct {
		key   string
		value int64
	}{{"connections", r.connections}, {"messages_per_connection", r.perConn}, {"threshold", r.threshold}} {
		if v.value > 0 {
			p.line("%s = %d", v.key, v.value)
		}
	}
	if r.window != "" {
		p.line("window = %s", quote(r.window))
	}
	if r.holds != "" {
		p.line("for = %s", quote(r.holds))
	}
	if r.perSite {
		p.line("scope = %s", quote("site"))
	}
	p.line("# The samples were made from the expression: put real replies in their place.")
	p.line("matches = %s", quoteAll(r.matches))
	p.line("not = %s", quoteAll(r.not))
}

// String writes the section.
func (e *egress) String(from string) string {
	if e.empty() {
		return ""
	}
	p := &printer{}
	p.line("# Translated from %s by godwit import. It belongs into the configuration file.", from)
	p.line("[egress]")
	for _, x := range e.proxies {
		p.head("[[egress.proxies]]", x.at)
		p.pairs("name", x.name, "kind", "haproxy", "address", x.address)
	}
	for _, x := range e.sources {
		p.head("[[egress.sources]]", x.at)
		p.pairs("name", x.name, "bind", x.bind, "bind6", x.bind6, "ehlo", x.ehlo, "proxy", x.proxy, "warmup", x.warmup)
	}
	for _, x := range e.pools {
		p.head("[[egress.pools]]", x.at)
		var members []string
		for _, m := range x.members {
			members = append(members, fmt.Sprintf("{ name = %s, weight = %d }", quote(m.source), m.weight))
		}
		p.pairs("name", x.name)
		p.line("sources = [%s]", strings.Join(members, ", "))
	}
	for _, x := range e.warmups {
		p.head("[[egress.warmups]]", x.at)
		p.pairs("name", x.name)
		p.line("start = %s # TODO: the day on which the source sent its first message", quote(x.start))
		p.line("days = %s", numbers(x.days))
		if len(x.providers) > 0 {
			p.head("[egress.warmups.providers]", place{})
			for _, name := range slices.Sorted(maps.Keys(x.providers)) {
				p.line("%s = %s", key(name), numbers(x.providers[name]))
			}
		}
	}
	return p.b.String()
}

func (p *printer) pairs(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			p.line("%s = %s", pairs[i], quote(pairs[i+1]))
		}
	}
}

func numbers(list []int64) string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = strconv.FormatInt(n, 10)
	}
	return "[" + strings.Join(out, ", ") + "]"
}
