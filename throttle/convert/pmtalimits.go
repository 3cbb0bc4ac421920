package convert

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// global translates <domain> blocks outside of virtual MTAs.
func (p *pmta) global() {
	for _, q := range p.inOrder(p.domains) {
		l := p.limits(q)
		if q.name == "*" {
			p.out.def.at, p.out.def.limits = q.at, l
			p.bySourceIP(q, nil)
			continue
		}
		for _, b := range p.blocks(q) {
			b.limits = overlay(b.limits, l)
			p.bySourceIP(q, b)
		}
	}
	for _, d := range p.root.lines {
		if d.name == "mx-connection-limit" {
			p.mxLimit(d)
		}
	}
	p.dropEmpty()
}

// dropEmpty removes blocks of single domains that say nothing.
func (p *pmta) dropEmpty() {
	p.out.domains = slices.DeleteFunc(p.out.domains, func(b *block) bool { return b.limits.empty() && len(b.sources) == 0 })
}

// inOrder lists queues as they come in the file.
func (p *pmta) inOrder(m map[string]*queue) []*queue {
	out := make([]*queue, 0, len(m))
	for _, q := range m {
		out = append(out, q)
	}
	slices.SortFunc(out, func(a, b *queue) int {
		return cmp.Or(strings.Compare(a.at.file, b.at.file), cmp.Compare(a.at.line, b.at.line), strings.Compare(a.name, b.name))
	})
	return out
}

// overlay is l over what was there.
func overlay(below, l limits) limits {
	l.fill(below)
	return l
}

// blocks are the blocks that the settings of a queue go to.
func (p *pmta) blocks(q *queue) []*block {
	if b := p.rollups[q.name]; b != nil {
		return []*block{b}
	}
	if d, ok := q.last("queue-to"); ok && d.value != "" {
		return nil // its messages wait in another queue
	}
	list := p.grouped[q.name]
	if len(list) == 0 {
		return []*block{find(&p.out.domains, q.name, q.at)}
	}
	if b := p.together(q, list); b != nil {
		return []*block{b}
	}
	p.notes.add(q.at, "<domain "+q.name+">", Changed,
		"its limits hold for each of the %d domains of the queue, not over all: look up their mail exchangers (--resolve) to make them a provider", len(list))
	var out []*block
	for _, name := range list {
		out = append(out, find(&p.out.domains, name, q.at))
	}
	return out
}

// together makes a provider of the domains of a queue, if their mail exchangers can be looked up.
func (p *pmta) together(q *queue, list []string) *block {
	if p.o.LookupMX == nil {
		return nil
	}
	var hosts []string
	for _, name := range list {
		found, err := exchangers(p.o, name)
		if err != nil || len(found) == 0 {
			p.notes.add(q.at, "<domain "+q.name+">", Todo, "the mail exchangers of %s could not be looked up (%v)", name, err)
			return nil
		}
		hosts = append(hosts, found...)
	}
	slices.Sort(hosts)
	b := find(&p.out.providers, providerName(q.name), q.at)
	b.hosts = slices.Compact(hosts)
	p.rollups[q.name] = b
	return b
}

// limits reads the directives of a queue that are limits and lists those that mean nothing here.
func (p *pmta) limits(q *queue) (l limits) {
	for _, d := range q.lines {
		var err error
		switch d.name {
		case "max-smtp-out":
			l.connections, err = parsed(d.value, boundless(connections))
		case "max-msg-rate":
			l.messageRate, err = parsed(d.value, pmtaRate)
		case "max-msg-per-hour":
			l.messageRate, err = parsed(d.value+"/h", pmtaRate)
		case "max-connect-rate":
			l.connectRate, err = parsed(d.value, pmtaRate)
		case "max-msg-per-connection":
			l.perConn, err = parsed(d.value, boundless(whole))
		default:
			if why := domainLines(d.name); why != "" {
				p.notes.add(d.at, d.name+" "+d.value, Unmapped, "%s", why)
			}
		}
		if err != nil {
			p.notes.add(d.at, d.name+" "+d.value, Unmapped, "%v", err)
		}
	}
	use, hasUse := q.last("use-starttls")
	require, _ := q.last("require-starttls")
	switch {
	case hasUse && !yes(use.value):
		l.tls = "none"
	case yes(require.value):
		l.tls = "required"
	case hasUse || require.name != "":
		l.tls = "opportunistic"
	}
	return l
}

func yes(s string) bool { return strings.EqualFold(s, "yes") || strings.EqualFold(s, "true") }

// boundless reads unlimited as 0.
func boundless(parse func(string) (int64, error)) func(string) (int64, error) {
	return func(s string) (int64, error) {
		if strings.EqualFold(s, "unlimited") {
			return 0, nil
		}
		return parse(s)
	}
}

// pmtaRate reads N/[M]PERIOD, unlimited or 0.
func pmtaRate(s string) (string, error) {
	s = strings.ReplaceAll(s, " ", "")
	if strings.EqualFold(s, "unlimited") || s == "0" || strings.HasPrefix(s, "0/") {
		return "", nil
	}
	return rate(s)
}

// read elsewhere: rules, sources, queues, warm-ups.
var elsewhere = []string{"smtp-pattern-list", "backoff-max-msg-rate", "backoff-max-smtp-out", "backoff-max-connect-rate", "backoff-to-normal-after",
	"backoff-to-normal-after-delivery", "reenable-source-ip-after", "queue-to", "max-cold-virtual-mta-msg", "source-ip-max-smtp-out",
	"max-smtp-out-per-source-ip", "source-ip-max-msg-rate", "source-ip-max-connect-rate", "use-starttls", "require-starttls"}

// domainLines says why a directive of a domain is not in rule files; "" when it is read elsewhere.
func domainLines(name string) string {
	if slices.Contains(elsewhere, name) {
		return ""
	}
	for _, p := range []struct{ part, why string }{
		{"timeout", "timeouts are the same for all sites: [deliver]"}, {"dkim-", "signatures are told by [dkim]"}, {"dk-sign", "signatures are told by [dkim]"},
		{"log-", "what happens is in the event log"}, {"retry-", "the retry schedule is the same for all domains: [queue]"},
		{"backoff-retry-after", "the retry schedule is the same for all domains: [queue]"}, {"bounce-after", "how long messages are retried is told by [queue]"},
		{"smtp-hosts", "routes are told by [route]"}, {"route", "routes are told by [route]"}, {"default-smtp-port", "routes are told by [route]"},
		{"reroute", "pools are chosen by tenant, stream or tag, and have fallbacks: [egress]"}, {"data-volume", "limits count messages, not bytes"},
		{"queue-priority", "priority is a message's own"}, {"notify", "events and metrics tell it"}, {"bounce-upon", "what is permanent is decided by the reply"},
		{"smtp-out-rampup", "new connections have a rate: connect_rate"}, {"use-dane", "DANE is the same for all sites: [route]"},
	} {
		if strings.Contains(name, p.part) {
			return p.why
		}
	}
	return "has no counterpart in rule files"
}

// bySourceIP reads the limits of single addresses, for the sources that have them.
func (p *pmta) bySourceIP(q *queue, b *block) {
	for _, d := range q.lines {
		if !strings.HasPrefix(d.name, "source-ip-max-") && d.name != "max-smtp-out-per-source-ip" || strings.Contains(d.name, "data-volume") {
			continue
		}
		words := strings.Fields(d.value)
		if d.name == "max-smtp-out-per-source-ip" {
			words = append([]string{"0/0"}, words...)
		}
		whole := d.name + " " + d.value
		if len(words) != 2 || b == nil {
			p.notes.add(d.at, whole, Unmapped, "limits of single addresses need a domain or provider of their own")
			continue
		}
		var l limits
		var err error
		switch d.name {
		case "source-ip-max-msg-rate":
			l.messageRate, err = parsed(words[1], pmtaRate)
		case "source-ip-max-connect-rate":
			l.connectRate, err = parsed(words[1], pmtaRate)
		default:
			l.connections, err = parsed(words[1], boundless(connections))
		}
		within, ok := network(words[0])
		if err != nil || !ok {
			p.notes.add(d.at, whole, Unmapped, "is not a network and a limit")
			continue
		}
		found := false
		for _, s := range p.egress.sources {
			if a, err := netip.ParseAddr(cmp.Or(s.bind, s.bind6)); err == nil && within(a) {
				b.setSource(s.name, overlay(b.source(s.name), l))
				found = true
			}
		}
		if !found {
			p.notes.add(d.at, whole, Unmapped, "no source has such an address")
		}
	}
}

// network reads 10/8, 1.2.3.4 or 1.2.3.0/24.
func network(s string) (within func(netip.Addr) bool, ok bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return func(b netip.Addr) bool { return a == b }, true
	}
	ip, bits, _ := strings.Cut(s, "/")
	if n := strings.Count(ip, "."); n < 3 && !strings.Contains(ip, ":") {
		ip += strings.Repeat(".0", 3-n)
	}
	prefix, err := netip.ParsePrefix(ip + "/" + bits)
	if err != nil {
		return nil, false
	}
	return prefix.Masked().Contains, true
}

// mxLimit is mx-connection-limit: a site's limit for each source.
func (p *pmta) mxLimit(d directive) {
	words := strings.Fields(strings.ToLower(d.value))
	whole := d.name + " " + d.value
	if len(words) != 2 {
		p.notes.add(d.at, whole, Unmapped, "is not a mail exchanger and a number")
		return
	}
	n, err := connections(words[1])
	name, wild := strings.CutPrefix(words[0], "*.")
	name, ok := hostName(name)
	if err != nil || !ok {
		p.notes.add(d.at, whole, Unmapped, "is not a mail exchanger and a number")
		return
	}
	if wild {
		name = "." + name
	}
	find(&p.out.sites, name, d.at).connections = &n
	p.notes.add(d.at, whole, Changed, "holds for a source at each site, that is a set of mail exchangers, not for each of them")
}

// perSource translates <domain> blocks in virtual MTAs and their pools.
func (p *pmta) perSource() {
	stars := map[string]limits{}
	var lines []directive
	for _, s := range p.root.sections {
		v := p.vmtas[strings.ToLower(s.arg)]
		if s.tag != "virtual-mta" || v == nil || v.s != s {
			continue
		}
		for _, q := range p.inOrder(p.queuesOf(v)) {
			l := p.limits(q)
			if q.name == "*" {
				for _, name := range v.sources {
					stars[name] = l
				}
				lines = append(lines, q.lines...)
				continue
			}
			for _, b := range p.blocks(q) {
				for _, name := range v.sources {
					b.setSource(name, overlay(b.source(name), l))
				}
				p.bySourceIP(q, b)
			}
		}
	}
	p.promote(stars, lines)
	p.dropEmpty()
}

// queuesOf are the <domain> blocks of a virtual MTA, over those of its pools.
func (p *pmta) queuesOf(v *vmta) map[string]*queue {
	own := map[string]*queue{}
	for _, from := range append(slices.Clone(v.pools), v.s) {
		for _, s := range from.sections {
			if s.tag != "domain" {
				p.notes.add(s.at, "<"+s.tag+" "+s.arg+">", Unmapped, "has no counterpart in a source")
				continue
			}
			for _, name := range p.domainNames(s) {
				p.merge(own, s, name)
			}
		}
	}
	return own
}

// promote makes defaults of what every source has under <domain *>: rule files
// have no default of a source.
func (p *pmta) promote(stars map[string]limits, lines []directive) {
	if len(stars) == 0 {
		return
	}
	var all limits
	same := map[string]bool{}
	each := func(name string, show func(*limits) (string, bool), set func(from *limits)) {
		first, agreed := "", len(stars) == len(p.egress.sources)
		for _, s := range p.egress.sources {
			l := stars[s.name]
			v, given := show(&l)
			if first == "" {
				first = fmt.Sprint(v)
			}
			agreed = agreed && given && fmt.Sprint(v) == first
		}
		if same[name] = agreed; agreed {
			l := stars[p.egress.sources[0].name]
			set(&l)
		}
	}
	each("max-smtp-out", func(l *limits) (string, bool) { return shown(l.connections) }, func(l *limits) { all.connections = l.connections })
	each("max-msg-rate", func(l *limits) (string, bool) { return shown(l.messageRate) }, func(l *limits) { all.messageRate = l.messageRate })
	each("max-connect-rate", func(l *limits) (string, bool) { return shown(l.connectRate) }, func(l *limits) { all.connectRate = l.connectRate })
	each("max-msg-per-connection", func(l *limits) (string, bool) { return shown(l.perConn) }, func(l *limits) { all.perConn = l.perConn })
	each("require-starttls", func(l *limits) (string, bool) { return l.tls, l.tls != "" }, func(l *limits) { all.tls = l.tls })
	p.out.def.limits = overlay(p.out.def.limits, all)
	for _, d := range lines {
		name := d.name
		switch name {
		case "max-msg-per-hour":
			name = "max-msg-rate"
		case "use-starttls":
			name = "require-starttls"
		}
		if agreed, limit := same[name]; limit && !agreed {
			p.notes.add(d.at, "<domain *> "+d.name+" "+d.value, Unmapped, "a source has no default for all sites, and the sources differ: give it to providers, sites or domains")
		}
	}
}

// shown is a value for comparing, and whether it is given. The first comes with a mark, as "" is a value too.
func shown[T any](v *T) (string, bool) {
	if v == nil {
		return "-", false
	}
	return fmt.Sprint("=", *v), true
}
