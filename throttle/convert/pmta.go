package convert

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// pmta is a translation of a PowerMTA configuration under way.
type pmta struct {
	o       Options
	notes   notes
	root    *section
	macros  macros
	out     ruleFile
	egress  egress
	names   names               // of sources and pools
	vmtas   map[string]*vmta    // by name in lower case
	domains map[string]*queue   // global <domain> settings, by name
	rollups map[string]*block   // providers, by the name of their queue
	grouped map[string][]string // domains that queue-to puts into a queue, by its name
	lists   map[string]listing  // smtp-pattern-lists
	star    *queue              // <domain *>
}

// vmta is a virtual-mta and the sources it became.
type vmta struct {
	s       *section
	sources []string
	cold    []string   // sources that are warmed up beside them
	pools   []*section // that have it
}

// queue is the settings of one domain.
type queue struct {
	at    place
	name  string
	lines []directive
}

func (q *queue) last(name string) (directive, bool) {
	if q == nil {
		return directive{}, false
	}
	s := section{lines: q.lines}
	return s.last(name)
}

// listing is an smtp-pattern-list.
type listing struct {
	s    *section
	used bool
}

// PowerMTA translates a PowerMTA configuration file. It never fails: what cannot be read is in the notes.
func PowerMTA(data []byte, o Options) *Result {
	if o.Today.IsZero() {
		o.Today = time.Now().UTC()
	}
	p := &pmta{o: o, names: names{}, vmtas: map[string]*vmta{}, domains: map[string]*queue{}, rollups: map[string]*block{},
		grouped: map[string][]string{}, lists: map[string]listing{}}
	p.root = parsePMTA(data, o, &p.notes)
	p.macros = readMacros(p.root)
	p.collect()
	p.sources()
	p.rollup()
	p.global()
	p.perSource()
	p.rulesOf()
	p.leftovers()
	return &Result{Rules: p.out.String(oneLine(o.File)), Egress: p.egress.String(oneLine(o.File)), Notes: p.notes.sorted()}
}

// skipped are the tags that are not about sending, with where their like is here.
var skipped = map[string]string{
	"source": "who may inject is told by [smtp] and [http]", "smtp-user": "who may inject is told by [smtp] and [http]",
	"source-group": "who may inject is told by [smtp]", "smtp-listener": "listeners are told by [smtp]",
	"spool": "the spool is told by [queue]", "acct-file": "what happens is in the event log and in [events_file]",
	"bounce-processor": "bounces by mail are not read by this program yet", "feedback-loop-processor": "complaints by mail are not read by this program yet",
	"bounce-category-patterns": "bounces are classified by the program itself", "pattern-list": "pools are chosen by tenant, stream or tag: egress.choose",
	"address-list": "there are no lists of addresses here", "dns": "the resolver is told by [dns]", "rewrite-list": "addresses are not rewritten",
	"domain-key-list": "keys are told by [dkim]", "transmissions-api": "injection by HTTP is told by [http]", "signals": "there is no such service here",
}

// collect finds the parts that refer to each other.
func (p *pmta) collect() {
	for _, s := range p.root.sections {
		switch s.tag {
		case "virtual-mta":
			p.vmtas[strings.ToLower(s.arg)] = &vmta{s: s}
		case "smtp-pattern-list":
			l := p.lists[strings.ToLower(s.arg)]
			if l.s != nil { // two of a name are one
				l.s.lines = append(l.s.lines, s.lines...)
				continue
			}
			p.lists[strings.ToLower(s.arg)] = listing{s: s}
		case "domain":
			for _, name := range p.domainNames(s) {
				p.merge(p.domains, s, name)
			}
		case "virtual-mta-pool", "proxy", "mx-rollup-list", "mx-rollup":
		default:
			why := skipped[s.tag]
			p.notes.add(s.at, strings.TrimSpace("<"+s.tag+" "+s.arg)+">", Unmapped, "%s", cmp.Or(why, "has no counterpart"))
		}
	}
	p.star = p.domains["*"]
	p.group(p.root)
}

// group finds the domains that queue-to puts together, wherever it stands.
func (p *pmta) group(in *section) {
	for _, s := range in.sections {
		if d, ok := s.last("queue-to"); s.tag == "domain" && ok && d.value != "" {
			to := strings.ToLower(d.value)
			for _, name := range p.domainNames(s) {
				if name != to && name != "*" && !slices.Contains(p.grouped[to], name) {
					p.grouped[to] = append(p.grouped[to], name)
				}
			}
		}
		p.group(s)
	}
}

// merge adds the lines of a <domain> to what is known of one name. A name that is
// listed itself takes precedence over one that a macro makes.
func (p *pmta) merge(into map[string]*queue, s *section, name string) {
	q := into[name]
	if q == nil {
		q = &queue{at: s.at, name: name}
		into[name] = q
	}
	if strings.Contains(s.arg, "$") {
		q.lines = append(slices.Clone(s.lines), q.lines...)
		return
	}
	q.at = s.at
	q.lines = append(q.lines, s.lines...)
}

// domainNames are the names that a <domain> is about.
func (p *pmta) domainNames(s *section) []string {
	var out []string
	for _, arg := range listOf(strings.ToLower(s.arg)) {
		list, ok := p.macros.expand(arg, 0)
		if !ok {
			p.notes.add(s.at, "<domain "+arg+">", Unmapped, "the macro is not defined, or goes in circles")
			continue
		}
		for _, name := range list {
			if name = p.plainDomain(s, strings.Trim(name, "\"'")); name != "" && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// plainDomain is the domain of a pattern; "" when it is not one.
func (p *pmta) plainDomain(s *section, name string) string {
	directive := "<domain " + name + ">"
	switch {
	case name == "*":
		return name
	case strings.HasPrefix(name, "[*.]"):
		p.notes.add(s.at, directive, Changed, "holds for the domain itself; its subdomains keep the default")
		name = name[4:]
	case strings.HasPrefix(name, "*."):
		p.notes.add(s.at, directive, Unmapped, "blocks name whole domains; what shares mail exchangers can be a provider")
		return ""
	case strings.HasPrefix(name, "{"), strings.HasPrefix(name, "["):
		p.notes.add(s.at, directive, Unmapped, "is not a recipient's domain")
		return ""
	}
	host, ok := hostName(name)
	if !ok {
		p.notes.add(s.at, directive, Unmapped, "is not a domain name")
	}
	return host
}

// providerName is what the provider of a queue is called.
func providerName(queue string) string {
	return plain(strings.TrimSuffix(strings.TrimSuffix(queue, ".rollup"), ".queue"))
}

// rollup makes providers of mx-rollup lists.
func (p *pmta) rollup() {
	for _, s := range p.root.sections {
		if s.tag != "mx-rollup-list" && s.tag != "mx-rollup" {
			continue
		}
		for _, d := range s.lines {
			words := listOf(strings.ToLower(d.value))
			if d.name != "mx" { // without its keyword: PATTERN QUEUE
				words = append([]string{d.name}, words...)
			}
			p.rollupLine(d, words)
		}
	}
	for _, d := range p.root.lines {
		if d.name == "mx-rollup" {
			p.rollupLine(d, listOf(strings.ToLower(d.value)))
		}
	}
}

func (p *pmta) rollupLine(d directive, words []string) {
	whole := strings.TrimSpace(d.name + " " + d.value)
	if len(words) != 2 {
		p.notes.add(d.at, whole, Unmapped, "is not a pattern of mail exchangers and a queue")
		return
	}
	pattern, name := strings.TrimSuffix(words[0], "."), words[1]
	suffix, wild := strings.CutPrefix(pattern, "*.")
	if both, ok := strings.CutPrefix(pattern, "[*.]"); ok {
		suffix, wild = both, true
	}
	suffix, ok := hostName(suffix)
	if !ok {
		p.notes.add(d.at, whole, Unmapped, "mail exchangers are told by whole names or by a suffix")
		return
	}
	b := p.rollups[name]
	if b == nil {
		b = find(&p.out.providers, providerName(name), d.at)
		p.rollups[name] = b
	}
	if wild {
		b.suffix = append(b.suffix, "."+suffix)
	} else {
		b.hosts = append(b.hosts, suffix)
	}
}

// leftovers lists what nobody asked for.
func (p *pmta) leftovers() {
	for _, d := range p.root.lines {
		switch d.name {
		case "domain-macro", "mx-rollup", "smtp-source-host", "use-proxy", "mx-connection-limit":
		default:
			p.notes.add(d.at, d.name+" "+d.value, Unmapped, "%s", cmp.Or(globals[d.name], "has no counterpart"))
		}
	}
	for name, l := range p.lists {
		if !l.used && l.s != nil {
			p.notes.add(l.s.at, "<smtp-pattern-list "+name+">", Unmapped, "no domain that was translated uses it")
		}
	}
}

// globals says where the like of a global directive is here.
var globals = map[string]string{
	"host-name": "the name of the host is hostname at the top of the configuration file", "postmaster": "there is none to tell",
	"smtp-listener": "listeners are told by [smtp]", "spool": "the spool is told by [queue]", "log-file": "the log goes to standard error: [log]",
	"http-mgmt-port": "the admin API is told by [admin]", "http-access": "the admin API is told by [admin]", "http-api-key": "the admin API is told by [admin]",
	"relay-domain": "who may inject is told by [smtp]", "domain-key": "keys are told by [dkim]", "total-max-smtp-out": "connections have no limit over all sites",
	"total-max-smtp-in": "the number of clients is told by [smtp]", "sync-msg-create": "every message is durable before it is accepted",
	"sync-msg-update": "every outcome is durable", "name-server": "the resolver is told by [dns]", "run-as-root": "the service manager decides that",
	"ip-connection-limit": "limits are about sites, not about addresses of mail exchangers", "pickup": "there is no pickup directory",
}
