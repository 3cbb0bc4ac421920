package rules

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// compiler merges files into a set. What can only be judged when all are read
// (a provider without suffixes, a rule without samples) is judged by finish.
type compiler struct {
	bad       *problems
	set       *Set
	providers map[string]*draft
	order     []string
	def       drafts
	refers    []reference
}

// draft is a provider that more files may add to.
type draft struct {
	provider
	rules  drafts
	source *source
	path   string // of the block that named it last
}

// reference is a block that names a provider.
type reference struct {
	provider string
	source   *source
	path     string
}

func newCompiler(bad *problems) *compiler {
	return &compiler{bad: bad, providers: map[string]*draft{}, set: &Set{
		byName: map[string]*provider{}, domains: map[string]*block{}, sites: map[string]*site{},
		tenants: map[span]*settings{}, pools: map[span]*settings{}}}
}

// take adds one file.
func (c *compiler) take(s *source) {
	c.limits(s, "default", &s.doc.Default.limitsText, &c.set.def)
	c.def.take(s, "default", "", s.doc.Default.Rule, c.bad)
	seen := map[string]string{}
	for i := range s.doc.Provider {
		c.provider(s, element("provider", i), &s.doc.Provider[i], seen)
	}
	for i := range s.doc.Site {
		c.site(s, element("site", i), &s.doc.Site[i], seen)
	}
	for i := range s.doc.Domain {
		c.domain(s, element("domain", i), &s.doc.Domain[i], seen)
	}
	for i := range s.doc.Tenant {
		t, path := &s.doc.Tenant[i], element("tenant", i)
		if c.spanning(s, path, span{t.Name, t.Provider}, seen) {
			c.span(s, path, span{t.Name, t.Provider}, c.set.tenants, t.limits)
		}
	}
	for i := range s.doc.Pool {
		p, path := &s.doc.Pool[i], element("pool", i)
		if c.spanning(s, path, span{p.Name, p.Provider}, seen) {
			c.span(s, path, span{p.Name, p.Provider}, c.set.pools, p.limits)
		}
	}
}

// limits reads the values at path and lets them override into.
func (c *compiler) limits(s *source, path string, l interface{ limits(*reader) }, into *settings) {
	r := reader{s: s, path: path, bad: c.bad}
	l.limits(&r)
	into.override(&r.out)
}

// twice reports a second block for the same thing in one file.
func (c *compiler) twice(s *source, path, what string, seen map[string]string) bool {
	if first, ok := seen[what]; ok {
		e := s.fail(path, fmt.Sprintf("the block is in this file twice, first in line %d", s.where.find(first).line))
		c.bad.add(e)
		return true
	}
	seen[what] = path
	return false
}

// badName tells what is wrong with the name of a thing, "" if nothing is.
func badName(s string) string {
	switch {
	case s == "":
		return "must be given"
	case len(s) > 200:
		return "must not be longer than 200 bytes"
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd || r == 0x85 || r == 0xa0 }):
		return "must not hold spaces or control characters"
	}
	return ""
}

func (c *compiler) name(s *source, path, key, value string) bool {
	message := badName(value)
	if message != "" {
		c.bad.add(s.fail(join(path, key), message))
	}
	return message == ""
}

func (c *compiler) provider(s *source, path string, p *providerBlock, seen map[string]string) {
	if !c.name(s, path, "name", p.Name) || c.twice(s, path, "provider "+p.Name, seen) {
		return
	}
	d := c.providers[p.Name]
	if d == nil {
		d = &draft{}
		d.Name = p.Name
		c.providers[p.Name] = d
		c.order = append(c.order, p.Name)
	}
	d.source, d.path = s, path
	if p.MXSuffix != nil {
		d.MXSuffix = c.hostList(s, join(path, "mx_suffix"), p.MXSuffix, ".")
	}
	if p.Hosts != nil {
		d.Hosts = c.hostList(s, join(path, "hosts"), p.Hosts, "")
	}
	c.limits(s, path, &p.limitsText, &d.settings)
	c.limits(s, join(path, "site"), &p.Site, &d.each)
	c.limits(s, join(path, "pool"), &p.Pool, &d.pool)
	c.sources(s, path, p.Sources, &d.block)
	d.rules.take(s, path, p.Name, p.Rule, c.bad)
}

func (c *compiler) sources(s *source, path string, m map[string]limitsText, into *block) {
	for _, name := range sortedKeys(m) {
		if message := badName(name); message != "" {
			c.bad.add(s.fail(path+".sources."+name, "the name of a source "+message))
			continue
		}
		if into.sources == nil {
			into.sources = map[string]*settings{}
		}
		if into.sources[name] == nil {
			into.sources[name] = &settings{}
		}
		l := m[name]
		c.limits(s, path+".sources."+name, &l, into.sources[name])
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// hostList normalises host names, or suffixes when prefix is a dot.
func (c *compiler) hostList(s *source, path string, list []string, prefix string) []string {
	out := make([]string, 0, len(list))
	for i, v := range list {
		host, err := hostName(strings.TrimPrefix(v, prefix))
		if err != nil {
			c.bad.add(s.fail(element(path, i), err.Error()))
			continue
		}
		out = append(out, prefix+host)
	}
	return out
}

// hostName is the form in which host and domain names are compared.
func hostName(v string) (string, error) {
	name := strings.TrimSuffix(domainKey(v), ".")
	if name == "" || len(name) > 253 || strings.HasPrefix(name, ".") || strings.Contains(name, "..") ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`,;:/@*"'\[]`, r) }) {
		return "", fmt.Errorf("%q is not a domain name", v)
	}
	if _, err := idna.Punycode.ToUnicode(name); err != nil {
		return "", fmt.Errorf("%q is not a domain name: %w", v, err)
	}
	return name, nil
}

func (c *compiler) site(s *source, path string, b *siteBlock, seen map[string]string) {
	if !c.name(s, path, "match", b.Match) {
		return
	}
	match, err := hostName(strings.TrimPrefix(b.Match, "."))
	if err != nil {
		c.bad.add(s.fail(join(path, "match"), err.Error()))
		return
	}
	if strings.HasPrefix(b.Match, ".") {
		match = "." + match
	}
	if c.twice(s, path, "site "+match, seen) {
		return
	}
	t := c.set.sites[match]
	if t == nil {
		t = &site{match: match}
		c.set.sites[match] = t
	}
	c.limits(s, path, &b.limitsText, &t.settings)
	c.sources(s, path, b.Sources, &t.block)
}

func (c *compiler) domain(s *source, path string, b *domainBlock, seen map[string]string) {
	if !c.name(s, path, "name", b.Name) {
		return
	}
	name, err := hostName(b.Name)
	if err != nil {
		c.bad.add(s.fail(join(path, "name"), err.Error()))
		return
	}
	if c.twice(s, path, "domain "+name, seen) {
		return
	}
	d := c.set.domains[name]
	if d == nil {
		d = &block{}
		c.set.domains[name] = d
	}
	c.limits(s, path, &b.limitsText, &d.settings)
	c.sources(s, path, b.Sources, d)
}

// spanning checks the head of a tenant's or pool's block.
func (c *compiler) spanning(s *source, path string, of span, seen map[string]string) bool {
	kind, _, _ := strings.Cut(path, "[")
	if !c.name(s, path, "name", of.name) || c.twice(s, path, kind+" "+of.name+" "+of.provider, seen) {
		return false
	}
	if of.provider != "" {
		c.refers = append(c.refers, reference{of.provider, s, join(path, "provider")})
	}
	return true
}

func (c *compiler) span(s *source, path string, of span, into map[span]*settings, read func(*reader)) {
	r := reader{s: s, path: path, bad: c.bad}
	read(&r)
	if into[of] == nil {
		into[of] = &settings{}
	}
	into[of].override(&r.out)
}

// finish checks what needs all files and makes the set.
func (c *compiler) finish() *Set {
	slices.Reverse(c.order)
	for _, name := range c.order {
		d := c.providers[name]
		if len(d.MXSuffix) == 0 && len(d.Hosts) == 0 {
			e := d.source.fail(d.path, "neither mx_suffix nor hosts say which sites belong to it")
			e.Hint = nearest(name, slices.DeleteFunc(sortedKeys(c.providers), func(n string) bool { return n == name }))
			c.bad.add(e)
			continue
		}
		p := d.provider
		p.rules = newMatcher(d.rules.finish(c.bad))
		c.set.providers = append(c.set.providers, &p)
		c.set.byName[name] = &p
	}
	for _, r := range c.refers {
		if c.providers[r.provider] == nil {
			e := r.source.fail(r.path, fmt.Sprintf("there is no provider %q", r.provider))
			e.Hint = nearest(r.provider, sortedKeys(c.providers))
			c.bad.add(e)
		}
	}
	c.set.fallback = newMatcher(c.def.finish(c.bad))
	return c.set
}
