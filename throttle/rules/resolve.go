package rules

import (
	"strings"

	"github.com/godwit-mta/godwit/throttle"
)

// scope is what the values of a layer count over.
type scope uint8

const (
	perSite scope = iota
	perProvider
	perDomain
)

// key is what a value of the scope counts over.
func (c scope) key(q *Query) throttle.Key {
	switch c {
	case perProvider:
		return throttle.Key{Source: q.Source, Provider: q.Provider}
	case perDomain:
		return throttle.Key{Source: q.Source, Domain: q.Domain}
	}
	return throttle.Key{Source: q.Source, Site: q.Site}
}

// layer is the values of one block that applies.
type layer struct {
	scope scope
	*settings
}

// layers are in order of precedence: a later one overrides an earlier one. The first is the default.
type layers []layer

// layers collects the blocks that apply.
func (s *Set) layers(q *Query) layers {
	list := make(layers, 1, 10)
	list[0] = layer{perSite, &s.def}
	add := func(c scope, v *settings) {
		if v != nil {
			list = append(list, layer{c, v})
		}
	}
	if p := s.byName[q.Provider]; p != nil {
		add(perProvider, &p.settings)
		add(perProvider, p.source(q.Source))
		add(perSite, &p.each)
	}
	sites := s.sitesOf(q)
	for _, t := range sites {
		add(perSite, &t.settings)
	}
	d := s.domainOf(q)
	if d != nil {
		add(perDomain, &d.settings)
	}
	for _, t := range sites {
		add(perSite, t.source(q.Source))
	}
	if d != nil {
		add(perDomain, d.source(q.Source))
	}
	return list
}

func (s *Set) domainOf(q *Query) *block {
	if len(s.domains) == 0 || q.Domain == "" {
		return nil
	}
	return s.domains[domainKey(q.Domain)]
}

// sitesOf finds the site blocks that apply, the weakest first: suffixes that all
// hosts have, then names that one of them has.
func (s *Set) sitesOf(q *Query) []*site {
	if len(s.sites) == 0 {
		return nil
	}
	hosts := q.Hosts
	if hosts == nil {
		hosts = hostsOf(q.Site)
	}
	if len(hosts) == 0 {
		return nil
	}
	var list []*site
	suffix := func(match string) {
		if t := s.sites[match]; t != nil && (Provider{MXSuffix: []string{match}}).Covers(hosts) {
			list = append(list, t)
		}
	}
	// A suffix must cover all hosts, so only the first one's come into question. The shortest is the weakest.
	first := hosts[0]
	for dot := strings.LastIndexByte(first, '.'); dot >= 0; dot = strings.LastIndexByte(first[:dot], '.') {
		suffix(first[dot:])
	}
	suffix("." + first)
	for _, h := range hosts {
		if t := s.sites[h]; t != nil {
			list = append(list, t)
		}
	}
	return list
}

// hostsOf reads the hosts out of a site's text: names or name:port, joined by
// commas, then perhaps ";tls=mode". Of a site too long for that, only the first host is there: "name+3-digest".
func hostsOf(text string) []string {
	text, _, _ = strings.Cut(text, ";")
	if text == "" {
		return nil
	}
	hosts := strings.Split(text, ",")
	for i, h := range hosts {
		h, _, _ = strings.Cut(h, "+")
		if at := strings.LastIndexByte(h, ':'); at >= 0 && strings.IndexByte(h, ':') == at {
			h = h[:at]
		}
		hosts[i] = h
	}
	return hosts
}

// Resolve returns what holds for mail of a source to a domain.
//
// The limits over a key are the same whoever asks: the authority of a key has one
// set of them. So a domain with a limit of its own takes the default's others along to its own
// key, and where a site's block limits something that the domain's does not,
// the site's limits hold beside, all of them.
func (s *Set) Resolve(q Query) Effective {
	list := s.layers(&q)
	e := Effective{Values: make([]Value, 0, numNames+4), Bounds: make([]throttle.Bound, 0, 3)}
	alone, siteHolds := apart(list)
	for n := range loop {
		won, wide := winners(list, n)
		if won < 0 {
			continue
		}
		v := list[won].settings[n]
		e.set(n, v)
		e.add(n, v, list.scopeOf(won, alone).key(&q))
		if wide >= 0 {
			e.add(n, list[wide].settings[n], perProvider.key(&q))
		}
		if !siteHolds || !n.counts() {
			continue
		}
		if i := list.siteWinner(n); i >= 0 && i != won {
			e.add(n, list[i].settings[n], perSite.key(&q))
		} else if i == 0 && alone { // the default's, which the domain has taken along
			e.add(n, v, perSite.key(&q))
		}
	}
	if alone && !siteHolds {
		e.aside = list.aside(&q)
	}
	e.loops(list, &q)
	s.spans(&e, &q)
	s.tenant(&e, &q)
	return e
}

// apart reports whether the domain has a limit of its own, and whether the
// site's block then still limits something.
func apart(list layers) (alone, siteHolds bool) {
	for n := range loop {
		if won, _ := winners(list, n); won > 0 && n.counts() {
			alone = alone || list[won].scope == perDomain
			siteHolds = siteHolds || list[won].scope == perSite
		}
	}
	return alone, alone && siteHolds
}

// scopeOf is what the value of a layer counts over.
func (l layers) scopeOf(i int, alone bool) scope {
	if i == 0 && alone {
		return perDomain
	}
	return l[i].scope
}

// siteWinner finds the layer whose value counts over the site for domains
// without one of their own, -1 if none does.
func (l layers) siteWinner(n name) int {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].settings[n] == nil || l[i].scope == perDomain {
			continue
		}
		if l[i].scope == perProvider {
			return -1
		}
		return i
	}
	return -1
}

// winners finds the layer whose value counts, or -1, and the one whose limit
// on the whole provider keeps holding beside it, or -1.
func winners(list layers, n name) (won, wide int) {
	won, wide = -1, -1
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].settings[n] == nil {
			continue
		}
		if won < 0 {
			won = i
			if !n.counts() || list[i].scope == perProvider {
				break
			}
		} else if list[i].scope == perProvider {
			wide = i
			break
		}
	}
	return won, wide
}

// loops puts the closed loop under each message rate of the source. A rate is
// governed by the last block that is not narrower than what the rate counts over.
func (e *Effective) loops(list layers, q *Query) {
	for _, c := range [...]scope{perDomain, perSite, perProvider} {
		b := e.find(c.key(q))
		if b == nil || b.Limits.MessageRate.IsZero() {
			continue
		}
		if v := list.loop(c); v != nil {
			b.Limits.Loop = v.loop
			e.row(loop, v, b.Key)
		}
	}
}

// loop finds the closed loop of rates that count over c, nil if there is none.
func (l layers) loop(c scope) *setting {
	for i := len(l) - 1; i >= 0; i-- {
		if v := l[i].settings[loop]; v != nil && (i == 0 || within(c, l[i].scope)) {
			return v
		}
	}
	return nil
}

// aside makes the limits of the site as others have them, for a domain that does
// not share them: should something else limit the site, they come with it.
func (l layers) aside(q *Query) *throttle.Bound {
	b := &throttle.Bound{Key: perSite.key(q)}
	for n := range loop {
		if i := l.siteWinner(n); i >= 0 && n.counts() {
			tighten(&b.Limits, l[i].settings[n].limits(n))
		}
	}
	if v := l.loop(perSite); v != nil && !b.Limits.MessageRate.IsZero() {
		b.Limits.Loop = v.loop
	}
	return b
}

// within reports whether what c counts over lies inside of what wider counts over, or is the same.
func within(c, wider scope) bool {
	return c == wider || wider == perProvider || c == perDomain
}

// spans adds the limits of the pool.
func (s *Set) spans(e *Effective, q *Query) {
	if p := s.byName[q.Provider]; p != nil {
		v := p.pool
		if own := s.pools[span{q.Pool, q.Provider}]; own != nil {
			v.override(own)
		}
		e.all(&v, throttle.Key{Pool: q.Pool, Provider: q.Provider})
	}
	if v := s.pools[span{q.Pool, ""}]; v != nil {
		e.all(v, throttle.Key{Pool: q.Pool})
	}
}

// tenant adds the limits of the tenant.
func (s *Set) tenant(e *Effective, q *Query) {
	if q.Tenant == "" || len(s.tenants) == 0 {
		return
	}
	bounds := e.Bounds
	e.Bounds = nil
	for _, provider := range [...]string{"", q.Provider} {
		var v settings
		for _, tenant := range [...]string{anyone, q.Tenant} {
			if own := s.tenants[span{tenant, provider}]; own != nil {
				v.override(own)
			}
		}
		e.all(&v, throttle.Key{Tenant: q.Tenant, Provider: provider})
		if q.Provider == "" {
			break
		}
	}
	e.Tenant, e.Bounds = e.Bounds, bounds
}
