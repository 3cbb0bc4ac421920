package convert

import "slices"

// limits are the values of one block; nil or "" is not set.
type limits struct {
	connections *int64
	connectRate *string // "" lifts the limit
	messageRate *string
	perConn     *int64
	tls         string
}

func (l *limits) empty() bool { return *l == limits{} }

// fill takes from other what l does not set.
func (l *limits) fill(other limits) {
	if l.connections == nil {
		l.connections = other.connections
	}
	if l.connectRate == nil {
		l.connectRate = other.connectRate
	}
	if l.messageRate == nil {
		l.messageRate = other.messageRate
	}
	if l.perConn == nil {
		l.perConn = other.perConn
	}
	if l.tls == "" {
		l.tls = other.tls
	}
}

// rule is an automation rule.
type rule struct {
	at          place
	name        string
	match       string
	action      string
	messageRate string
	connectRate string
	connections int64
	perConn     int64
	threshold   int64
	window      string
	holds       string // for; "" for bounce
	perSite     bool
	matches     []string
	not         []string
	todo        string // why it must be a comment; "" when it can be loaded
}

// block is a provider, site or domain, or the default.
type block struct {
	limits
	at      place
	name    string // provider's, domain's, or what a site matches
	suffix  []string
	hosts   []string
	site    limits            // of each site of a provider
	sources map[string]limits // by source
	rules   []rule
}

func (b *block) source(name string) limits { return b.sources[name] }

func (b *block) setSource(name string, l limits) {
	if l.empty() {
		return
	}
	if b.sources == nil {
		b.sources = map[string]limits{}
	}
	b.sources[name] = l
}

// ruleFile is a rule file to be written.
type ruleFile struct {
	def       block
	providers []*block
	sites     []*block
	domains   []*block
}

func (f *ruleFile) empty() bool {
	return f.def.limits.empty() && len(f.def.rules) == 0 && len(f.providers)+len(f.sites)+len(f.domains) == 0
}

// find returns the block of a name in a list, added if it is not there.
func find(list *[]*block, name string, at place) *block {
	for _, b := range *list {
		if b.name == name {
			return b
		}
	}
	b := &block{name: name, at: at}
	*list = append(*list, b)
	return b
}

type source struct {
	name, bind, bind6, ehlo, proxy, warmup string
	at                                     place
}

type member struct {
	source string
	weight int
}

type pool struct {
	name    string
	members []member
	at      place
}

type warmup struct {
	name      string
	start     string
	days      []int64
	providers map[string][]int64
	at        place
}

type relay struct {
	name, address string
	at            place
}

// egress is an [egress] section to be written.
type egress struct {
	proxies []relay
	sources []source
	pools   []pool
	warmups []warmup
}

func (e *egress) empty() bool { return len(e.sources)+len(e.pools)+len(e.proxies) == 0 }

func (e *egress) pool(name string) *pool {
	i := slices.IndexFunc(e.pools, func(p pool) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return &e.pools[i]
}
