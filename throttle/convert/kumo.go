package convert

import (
	"fmt"
	"slices"
	"strings"
)

// kumo is a translation of a KumoMTA shaping file under way.
type kumo struct {
	o     Options
	out   ruleFile
	notes notes
	names names // of providers
	used  map[string]string
}

// KumoShaping translates a KumoMTA shaping file (TOML). The error is one of TOML's, with its place.
func KumoShaping(data []byte, o Options) (*Result, error) {
	root, err := parseTOML(o.File, data)
	if err != nil {
		return nil, err
	}
	k := &kumo{o: o, names: names{}, used: map[string]string{}}
	for _, name := range root.keys {
		k.top(name, root.vals[name])
	}
	if len(k.used) > 0 {
		var list []string
		for name := range k.used {
			list = append(list, name)
		}
		slices.Sort(list)
		k.notes.add(place{file: o.File}, "sources", Todo, "the file names the sources %s: declare them under [egress]; KumoMTA has them in its Lua policy", strings.Join(list, ", "))
	}
	return &Result{Rules: k.out.String(oneLine(o.File)), Notes: k.notes.sorted()}, nil
}

func (k *kumo) at(line int) place { return place{k.o.File, line} }

// top is one key of the file: default, provider, or a domain.
func (k *kumo) top(name string, v value) {
	t := v.table()
	switch {
	case t == nil:
		k.notes.add(k.at(v.line), name, Unmapped, "is not a block of shaping")
	case name == "provider":
		for _, p := range t.keys {
			pt := t.vals[p].table()
			if pt == nil {
				k.notes.add(k.at(t.vals[p].line), "provider."+p, Unmapped, "is not a block")
				continue
			}
			k.provider(p, pt)
		}
	case name == "default":
		b := &k.out.def
		b.at = k.at(v.line)
		k.block("default", t, b, &b.limits, nil)
		if len(b.sources) > 0 {
			b.sources = nil
			k.notes.add(k.at(t.vals["sources"].line), "default.sources", Unmapped, "a source has no settings for all sites: give them to providers, sites or domains")
		}
	default:
		k.domain(name, t)
	}
}

func (k *kumo) provider(name string, t *table) {
	b := &block{name: k.names.unique(plain(name)), at: k.at(t.line)}
	if b.name != name {
		k.notes.add(b.at, "provider."+name, Changed, "is called %s: names have no spaces", b.name)
	}
	k.match(name, t, b)
	if len(b.suffix)+len(b.hosts) == 0 && t.vals["match"].v != nil {
		k.notes.add(b.at, "provider."+name, Unmapped, "none of its matches can be told by mail exchangers, so the block is left out")
		return
	}
	k.block("provider."+name, t, b, &b.site, &b.limits)
	if len(b.suffix)+len(b.hosts) == 0 {
		k.notes.add(b.at, "provider."+name, Todo, "has no match of its own: it adds to a provider of this name in an earlier file or a pack, which must exist")
	}
	k.out.providers = append(k.out.providers, b)
}

// match reads what belongs to a provider.
func (k *kumo) match(name string, t *table, b *block) {
	v, ok := t.vals["match"]
	if !ok {
		return
	}
	for _, m := range v.list() {
		mt := m.table()
		if mt == nil || len(mt.keys) != 1 {
			k.notes.add(k.at(m.line), "match", Unmapped, "is not one of MXSuffix, HostName")
			continue
		}
		kind := mt.keys[0]
		s, _ := mt.vals[kind].text()
		host, ok := hostName(s)
		directive := fmt.Sprintf("match %s=%s", kind, s)
		switch {
		case !ok:
			k.notes.add(k.at(m.line), directive, Unmapped, "is not a host name")
		case kind == "MXSuffix":
			if b.suffix = append(b.suffix, "."+host); strings.HasSuffix(s, ".") {
				k.notes.add(k.at(m.line), directive, Changed, "the dot at its end is left out; with it KumoMTA never matched it")
			} else if !strings.HasPrefix(s, ".") {
				k.notes.add(k.at(m.line), directive, Changed, "matches whole labels only: .%s", host)
			}
		case kind == "HostName":
			b.hosts = append(b.hosts, host)
		case kind == "DomainSuffix":
			k.notes.add(k.at(m.line), directive, Unmapped, "a provider is told by mail exchangers, not by the recipient's domain: name the domains in [[domain]] blocks")
		default:
			k.notes.add(k.at(m.line), directive, Unmapped, "is not one of MXSuffix, HostName")
		}
	}
}

// domain is a block of a domain, or of its site when it is rolled up.
func (k *kumo) domain(name string, t *table) {
	at := k.at(t.line)
	host, ok := hostName(name)
	if !ok {
		k.notes.add(at, name, Unmapped, "is not a domain name")
		return
	}
	rollup := true
	if v, ok := t.vals["mx_rollup"]; ok {
		rollup, _ = v.v.(bool)
	}
	if rollup && k.o.LookupMX != nil {
		hosts, err := exchangers(k.o, host)
		if err == nil && len(hosts) > 0 {
			b := &block{name: k.names.unique(plain(host)), at: at, hosts: hosts}
			k.block(name, t, b, &b.limits, nil)
			k.out.providers = append(k.out.providers, b)
			return
		}
		k.notes.add(at, name, Todo, "its mail exchangers could not be looked up (%v)", err)
	}
	b := &block{name: host, at: at}
	k.block(name, t, b, &b.limits, nil)
	if rollup {
		k.notes.add(at, name, Changed, "holds for this domain alone, not for all domains with its mail exchangers: name those in a provider, or look them up (--resolve)")
	}
	for _, r := range b.rules {
		k.notes.add(r.at, name+".automation", Unmapped, "rules belong to providers: %s can be one once its mail exchangers are known (--resolve)", host)
	}
	if b.rules = nil; !b.limits.empty() || len(b.sources) > 0 {
		k.out.domains = append(k.out.domains, b)
	}
}

// block reads the settings of a block. plain ones go to values; those that
// begin with provider_ to whole, which is nil where they mean nothing.
func (k *kumo) block(name string, t *table, b *block, values, whole *limits) {
	for _, key := range t.keys {
		v := t.vals[key]
		at := k.at(v.line)
		switch key {
		case "match", "mx_rollup":
		case "replace_base":
			if yes, _ := v.v.(bool); yes {
				k.notes.add(at, name+".replace_base", Unmapped, "a block adds to those of earlier files value by value: set there what must not hold (0 or \"\" lifts a limit)")
			}
		case "automation":
			for _, a := range v.list() {
				if at := a.table(); at != nil {
					k.automation(b, at)
				}
			}
		case "sources":
			k.sources(name, v, b, whole != nil)
		default:
			k.setting(name, key, v, at, values, whole)
		}
	}
	if whole != nil { // these do not count: they are about the provider as well as about each of its sites
		whole.perConn, whole.tls = b.site.perConn, b.site.tls
		b.site.perConn, b.site.tls = nil, ""
	}
}

func (k *kumo) sources(name string, v value, b *block, provider bool) {
	t := v.table()
	if t == nil {
		k.notes.add(k.at(v.line), name+".sources", Unmapped, "is not a table")
		return
	}
	for _, source := range t.keys {
		st := t.vals[source].table()
		if st == nil {
			continue
		}
		called := plain(source)
		k.used[called] = source
		if called != source {
			k.notes.add(k.at(st.line), "sources."+source, Changed, "is called %s: names have no spaces", called)
		}
		var each, all limits
		for _, key := range st.keys {
			v := st.vals[key]
			var whole *limits
			if provider {
				whole = &all
			}
			k.setting(name+".sources."+source, key, v, k.at(v.line), &each, whole)
		}
		if provider && (each.connections != nil || each.messageRate != nil || each.connectRate != nil) {
			k.notes.add(k.at(st.line), name+".sources."+source, Changed, "counts over all sites of the provider, in KumoMTA over each of them")
		}
		all.fill(each)
		b.setSource(called, all)
	}
}

// setting is one key of a block.
func (k *kumo) setting(block, key string, v value, at place, values, whole *limits) {
	directive := block + "." + key
	to, plainKey := values, key
	if rest, ok := strings.CutPrefix(key, "provider_"); ok && whole != nil {
		to, plainKey = whole, strings.TrimPrefix(rest, "max_")
		plainKey = map[string]string{"connection_limit": "connection_limit", "connection_rate": "max_connection_rate", "message_rate": "max_message_rate"}[plainKey]
	}
	raw, ok := v.text()
	if local, is := strings.CutPrefix(raw, "local:"); is {
		raw = local
		k.notes.add(at, directive, Changed, "local: counts in each node, here limits hold for the whole cluster")
	}
	err := error(nil)
	switch {
	case !ok && unmappedKeys[key] == "" && plainKey != "":
		k.notes.add(at, directive, Unmapped, "%s", unknownKey(key))
		return
	case plainKey == "connection_limit":
		to.connections, err = parsed(raw, connections)
	case plainKey == "max_deliveries_per_connection":
		to.perConn, err = parsed(raw, whole64)
	case plainKey == "max_connection_rate":
		to.connectRate, err = parsed(k.burst(at, directive, raw), rate)
	case plainKey == "max_message_rate":
		to.messageRate, err = parsed(k.burst(at, directive, raw), rate)
	case plainKey == "enable_tls":
		if to.tls = kumoTLS[raw]; raw == "Opportunistic" {
			k.notes.add(at, directive, Changed, "a certificate that is not valid is put up with; KumoMTA does not deliver then")
		}
		if to.tls == "" {
			err = fmt.Errorf("%q is not a mode of TLS", raw)
		}
	default:
		k.notes.add(at, directive, Unmapped, "%s", unknownKey(key))
	}
	if err != nil {
		k.notes.add(at, directive, Unmapped, "%v", err)
	}
}

// exchangers looks up the mail exchangers of a domain and leaves out what is no host name.
func exchangers(o Options, domain string) (out []string, err error) {
	found, err := o.LookupMX(domain)
	for _, h := range found {
		if h, ok := hostName(h); ok && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return out, err
}

func whole64(s string) (int64, error) { return whole(s) }

// parsed is a pointer to what parse makes of s, nil after an error.
func parsed[T any](s string, parse func(string) (T, error)) (*T, error) {
	v, err := parse(s)
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// burst takes max_burst= off a rate.
func (k *kumo) burst(at place, directive, s string) string {
	r, burst, ok := strings.Cut(s, ",max_burst")
	if !ok {
		return s
	}
	k.notes.add(at, directive, Changed, "max_burst%s is left out: slots are spread evenly", burst)
	return r
}

// kumoTLS maps enable_tls. KumoMTA's Required wants a certificate that is valid.
var kumoTLS = map[string]string{"Opportunistic": "opportunistic", "OpportunisticInsecure": "opportunistic",
	"Required": "verify", "RequiredInsecure": "required", "Disabled": "none"}

// unmappedKeys says for known options why they are not in rule files.
var unmappedKeys = map[string]string{
	"connect_timeout": "timeouts are the same for all sites: [deliver]", "ehlo_timeout": "timeouts are the same for all sites: [deliver]",
	"data_timeout": "timeouts are the same for all sites: [deliver]", "data_dot_timeout": "timeouts are the same for all sites: [deliver]",
	"idle_timeout": "timeouts are the same for all sites: [deliver]", "mail_from_timeout": "timeouts are the same for all sites: [deliver]",
	"rcpt_to_timeout": "timeouts are the same for all sites: [deliver]", "starttls_timeout": "timeouts are the same for all sites: [deliver]",
	"rset_timeout": "timeouts are the same for all sites: [deliver]", "banner_timeout": "timeouts are the same for all sites: [deliver]",
	"ehlo_domain": "the name in EHLO belongs to a source: egress.sources.ehlo",
	"smtp_port":   "the port is the same for all sites: [route]",
	"max_ready":   "queues are bounded as a whole: [queue]",
	"consecutive_connection_failures_before_delay": "a site that cannot be reached is held by [queue] after its first failures",
	"enable_mta_sts":                    "MTA-STS is the same for all sites: [route]",
	"enable_dane":                       "DANE is the same for all sites: [route]",
	"source_selection_rate":             "warm-up is a schedule of the source: egress.warmups",
	"provider_source_selection_rate":    "warm-up is a schedule of the source: egress.warmups",
	"additional_connection_limits":      "limits over other groups: use [[pool]] or [[tenant]]",
	"additional_message_rate_throttles": "limits over other groups: use [[pool]] or [[tenant]]",
	"additional_source_selection_rates": "warm-up is a schedule of the source: egress.warmups",
}

func unknownKey(key string) string {
	if why := unmappedKeys[key]; why != "" {
		return why
	}
	return "has no counterpart in rule files"
}
