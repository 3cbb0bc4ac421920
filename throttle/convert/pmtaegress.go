package convert

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// sources makes sources of virtual MTAs, and a pool of each, for one is chosen like a pool.
func (p *pmta) sources() {
	for _, s := range p.root.sections {
		if s.tag == "virtual-mta" {
			p.virtualMTA(s)
		}
	}
	p.defaultSources()
	for _, s := range p.root.sections {
		if s.tag == "virtual-mta" {
			p.cold(s)
		}
	}
	for _, s := range p.root.sections {
		if s.tag == "virtual-mta-pool" {
			p.pool(s)
		}
	}
	p.defaultPool()
}

// address is an IP address with a host name, in either order.
func (p *pmta) address(d directive) (ip netip.Addr, host string, ok bool) {
	words := listOf(d.value)
	for _, w := range words {
		if a, err := netip.ParseAddr(strings.Trim(w, "[]")); err == nil {
			ip = a.Unmap()
		} else {
			host = strings.ToLower(w)
		}
	}
	switch {
	case len(words) != 2 && len(words) != 1, !ip.IsValid(), ip.IsUnspecified(), ip.Zone() != "",
		strings.ContainsFunc(host, func(r rune) bool { return r == '/' || r <= ' ' || r >= 0x7f }):
		p.notes.add(d.at, d.name+" "+d.value, Unmapped, "is not one IP address and a host name; ranges are not expanded: name each address")
		return ip, host, false
	}
	return ip, host, true
}

func (p *pmta) add(s source, ip netip.Addr) string {
	s.name = p.names.unique(plain(s.name))
	if s.bind = ip.String(); ip.Is6() {
		s.bind, s.bind6 = "", s.bind
	}
	p.egress.sources = append(p.egress.sources, s)
	return s.name
}

func (p *pmta) virtualMTA(s *section) {
	v := p.vmtas[strings.ToLower(s.arg)]
	if s.arg == "" || v.s != s {
		p.notes.add(s.at, "<virtual-mta "+s.arg+">", Todo, "has no name, or the name of another; the last of a name counts")
		return
	}
	var hosts []directive
	for _, d := range s.lines {
		if d.name == "smtp-source-host" {
			hosts = append(hosts, d)
		}
	}
	through, clients := p.proxyOf(s)
	if len(clients) > 0 {
		hosts = clients
	}
	for i, d := range hosts {
		ip, host, ok := p.address(d)
		if !ok {
			continue
		}
		name := s.arg
		if len(hosts) > 1 {
			name = fmt.Sprintf("%s-%d", s.arg, i+1)
		}
		if own, has := s.last("host-name"); has && host == "" {
			host = strings.ToLower(own.value)
		}
		v.sources = append(v.sources, p.add(source{name: name, ehlo: host, proxy: through, at: d.at}, ip))
	}
	if len(v.sources) == 0 {
		p.notes.add(s.at, "<virtual-mta "+s.arg+">", Todo, "has no address of its own, so no source is made of it")
	} else if len(v.sources) > 1 {
		p.notes.add(s.at, "<virtual-mta "+s.arg+">", Changed, "its limits hold for each of its %d addresses, not over all", len(v.sources))
	}
	for _, d := range s.lines {
		switch d.name {
		case "smtp-source-host", "host-name", "use-proxy", "cold-virtual-mta", "auto-cold-virtual-mta":
		default:
			p.notes.add(d.at, d.name+" "+d.value, Unmapped, "%s", cmp.Or(vmtaLines[d.name], "has no counterpart in a source"))
		}
	}
	if len(v.sources) > 0 {
		p.addPool(s.arg, v.sources, s.at)
	}
}

// vmtaLines says where the like of a directive of a virtual MTA or pool is here.
var vmtaLines = map[string]string{
	"domain-key": "keys are told by [dkim]", "max-smtp-out": "a source has no limit over all sites: give it one at each provider",
	"max-smtp-msg-rate": "a source has no limit over all sites: give it one at each provider", "include-headers-from": "headers are not added",
	"max-smtp-data-volume-rate": "limits count messages, not bytes", "rewrite-list": "addresses are not rewritten",
}

// proxyOf makes the proxy that a virtual MTA uses and returns its name and the addresses behind it.
func (p *pmta) proxyOf(s *section) (name string, clients []directive) {
	use, ok := s.last("use-proxy")
	if !ok {
		if use, ok = p.root.last("use-proxy"); !ok {
			return "", nil
		}
	}
	list := listOf(use.value)
	if len(list) > 1 {
		p.notes.add(use.at, "use-proxy "+use.value, Changed, "a source has one proxy, the first; put a source of each into the pool")
	}
	for _, x := range p.root.sections {
		if x.tag != "proxy" || len(list) == 0 || !strings.EqualFold(x.arg, list[0]) {
			continue
		}
		server, _ := x.last("server")
		if _, port, err := net.SplitHostPort(server.value); err != nil || port == "" {
			break
		}
		name = plain(x.arg)
		if !slices.ContainsFunc(p.egress.proxies, func(o relay) bool { return o.name == name }) {
			p.egress.proxies = append(p.egress.proxies, relay{name, server.value, x.at})
		}
		for _, d := range x.lines {
			switch d.name {
			case "client":
				clients = append(clients, d)
			case "server":
			default:
				p.notes.add(d.at, d.name+" "+d.value, Unmapped, "has no counterpart in a proxy")
			}
		}
		return name, clients
	}
	p.notes.add(use.at, "use-proxy "+use.value, Todo, "there is no such proxy, or its server is not host:port")
	return "", nil
}

// addPool makes a pool of sources with equal weights.
func (p *pmta) addPool(name string, sources []string, at place) {
	x := pool{name: plain(name), at: at}
	if have := p.egress.pool(x.name); have != nil {
		p.notes.add(at, name, Todo, "there are two pools of this name; the first is used")
		return
	}
	for _, s := range sources {
		x.members = append(x.members, member{s, 1})
	}
	p.egress.pools = append(p.egress.pools, x)
}

// defaultSources are the addresses outside of virtual MTAs.
func (p *pmta) defaultSources() {
	var out []string
	for _, d := range p.root.lines {
		if d.name != "smtp-source-host" {
			continue
		}
		if ip, host, ok := p.address(d); ok {
			out = append(out, p.add(source{name: "default", ehlo: host, at: d.at}, ip))
		}
	}
	if len(out) > 0 {
		p.addPool("default", out, place{})
	}
}

// cold gives a virtual MTA's pool the sources that are being warmed up.
func (p *pmta) cold(s *section) {
	v := p.vmtas[strings.ToLower(s.arg)]
	to := p.egress.pool(plain(s.arg))
	if v.s != s {
		return
	}
	var cold []string
	var at place
	for _, d := range s.lines {
		switch d.name {
		case "auto-cold-virtual-mta":
			if ip, host, ok := p.address(d); ok {
				cold, at = append(cold, p.add(source{name: s.arg + "-cold", ehlo: host, at: d.at}, ip)), d.at
			}
		case "cold-virtual-mta":
			other := p.vmtas[strings.ToLower(d.value)]
			if other == nil || len(other.sources) == 0 {
				p.notes.add(d.at, d.name+" "+d.value, Unmapped, "there is no such virtual MTA with an address")
				continue
			}
			cold, at = append(cold, other.sources...), d.at
		}
	}
	if len(cold) == 0 {
		return
	}
	schedule := p.schedule(s, at)
	if schedule == "" { // without a limit they would take a full share
		return
	}
	if to == nil {
		p.addPool(s.arg, nil, s.at)
		to = p.egress.pool(plain(s.arg))
	}
	v.cold = cold
	for _, name := range cold {
		if !slices.ContainsFunc(to.members, func(m member) bool { return m.source == name }) {
			to.members = append(to.members, member{name, 1})
		}
		i := slices.IndexFunc(p.egress.sources, func(x source) bool { return x.name == name })
		if have := p.egress.sources[i].warmup; have != "" && have != schedule {
			p.notes.add(at, "cold-virtual-mta", Todo, "source %s is warmed up by two virtual MTAs; it follows %s", name, have)
			continue
		}
		p.egress.sources[i].warmup = schedule
	}
	p.notes.add(at, "cold-virtual-mta", Changed, "the sources %s are members of pool %s; their daily limits hold at each provider, what is above them goes by the others", strings.Join(cold, ", "), plain(s.arg))
}

// schedule makes a warm-up of max-cold-virtual-mta-msg; "" when none is set.
func (p *pmta) schedule(s *section, at place) string {
	w := warmup{name: plain(s.arg), start: p.o.Today.Format("2006-01-02"), at: at, providers: map[string][]int64{}}
	set := func(q *queue) {
		d, ok := q.last("max-cold-virtual-mta-msg")
		if !ok {
			return
		}
		days, good := dailyLimits(d.value)
		switch {
		case !good:
			p.notes.add(d.at, d.name+" "+d.value, Unmapped, "is not a list of N/day")
		case q.name == "*":
			w.days = days
		case p.isRollup(q.name):
			w.providers[providerName(q.name)] = days
		default:
			p.notes.add(d.at, d.name+" "+d.value, Unmapped, "warm-up limits are per provider, not for the domain %s", q.name)
		}
		if good {
			p.notes.add(d.at, d.name+" "+d.value, Changed, "after the last day there is no limit; PowerMTA goes on with the last one")
		}
	}
	set(p.star)
	own := map[string]*queue{}
	for _, x := range s.sections {
		if x.tag == "domain" {
			for _, name := range p.domainNames(x) {
				p.merge(own, x, name)
				set(own[name])
			}
		}
	}
	if len(w.days) == 0 && len(w.providers) == 0 {
		p.notes.add(at, "cold-virtual-mta", Todo, "no max-cold-virtual-mta-msg says how much goes by it: give the source a warm-up and put it into pool %s", w.name)
		return ""
	}
	p.egress.warmups = append(p.egress.warmups, w)
	p.notes.add(at, "cold-virtual-mta", Todo, "PowerMTA does not tell when the warm-up began: set the start of warm-up %s", w.name)
	return w.name
}

// isRollup reports whether an mx-rollup list names the queue. The lists are read later.
func (p *pmta) isRollup(name string) bool {
	for _, s := range p.root.sections {
		if s.tag == "mx-rollup-list" || s.tag == "mx-rollup" {
			for _, d := range s.lines {
				if words := listOf(strings.ToLower(d.value)); len(words) > 0 && words[len(words)-1] == name {
					return true
				}
			}
		}
	}
	return false
}

func dailyLimits(s string) (out []int64, ok bool) {
	for _, part := range listOf(s) {
		count, per, _ := strings.Cut(part, "/")
		n, err := whole(count)
		if d, known := splitPeriod(per); err != nil || !known || d != periods["day"] || n == 0 {
			return nil, false
		}
		out = append(out, n)
	}
	return out, len(out) > 0
}

func (p *pmta) pool(s *section) {
	var out []string
	for _, d := range s.lines {
		if d.name != "virtual-mta" {
			p.notes.add(d.at, d.name+" "+d.value, Unmapped, "%s", cmp.Or(vmtaLines[d.name], "has no counterpart in a pool"))
			continue
		}
		v := p.vmtas[strings.ToLower(d.value)]
		if v == nil || len(v.sources) == 0 {
			p.notes.add(d.at, "virtual-mta "+d.value, Unmapped, "there is no such virtual MTA with an address")
			continue
		}
		v.pools = append(v.pools, s)
		for _, name := range slices.Concat(v.sources, v.cold) {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	if s.arg != "" && len(out) > 0 {
		p.addPool(s.arg, out, s.at)
	}
}

// defaultPool is the one of messages that name none: what <source> blocks choose, if they agree.
func (p *pmta) defaultPool() {
	if p.egress.empty() || p.egress.pool("default") != nil {
		return
	}
	var name string
	for _, s := range p.root.sections {
		if d, ok := s.last("default-virtual-mta"); ok && s.tag == "source" {
			if name != "" && !strings.EqualFold(name, d.value) {
				name = ""
				break
			}
			name = d.value
		}
	}
	from := p.egress.pool(plain(name))
	if len(p.egress.pools) == 0 {
		return
	}
	if from == nil {
		from = &p.egress.pools[0]
		p.notes.add(place{file: p.o.File}, "pools", Todo, "messages that name no pool go by default, a copy of pool %s: put into it what they shall go by", from.name)
	}
	p.egress.pools = append(p.egress.pools, pool{name: "default", members: from.members})
}
