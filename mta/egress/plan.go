package egress

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// plan is what holds for connections of one source to one site.
type plan struct {
	bounds   []throttle.Bound
	counted  bool // each connection needs permits of its own
	paced    bool // a bound limits messages
	spans    bool // a bound has its owner among the nodes
	loop     bool // a closed loop wants to know outcomes
	warm     bool // the source is in warm-up
	useful   int  // connections that the message rate can keep busy; 0: any number
	messages int  // on one connection; 0: no limit
	ehlo     string
}

// same reports whether connections under both are alike.
func (p *plan) same(other *plan) bool {
	return p == other || p.messages == other.messages && p.ehlo == other.ehlo && slices.Equal(p.bounds, other.bounds)
}

// route is what a plan is made for.
type route struct{ source, pool, provider, site string }

// mostPlans bounds the plans that are kept. To make one anew costs microseconds.
const mostPlans = 5000

// planFor returns the plan of a source for a demand. It is kept until rules, orders
// or the day change, or there are too many. g.mu is held.
func (g *Gate) planFor(source string, x *demand) *plan {
	key := route{source, x.Pool, x.Provider, x.Site}
	p := g.plans[key]
	if p == nil {
		if len(g.plans) >= mostPlans {
			clear(g.plans)
		}
		p = g.newPlan(source, x, time.Now())
		g.plans[key] = p
	}
	return p
}

// query asks the rules about a source and a ready queue.
func query(source string, x *demand) rules.Query {
	site, domain := splitSite(x.Site)
	return rules.Query{Source: source, Pool: x.Pool, Provider: x.Provider, Site: site, Domain: domain}
}

// splitSite takes apart what the router put together: hosts;tls=mode;domain=name.
func splitSite(s string) (site, domain string) {
	site, rest, _ := strings.Cut(s, ";")
	for part := range strings.SplitSeq(rest, ";") {
		if name, ok := strings.CutPrefix(part, "domain="); ok {
			domain = name
		}
	}
	return site, domain
}

func (g *Gate) newPlan(source string, x *demand, now time.Time) *plan {
	c := g.conf.Load()
	e := g.effective(c, query(source, x), now)
	src, _ := g.pools.Source(source)
	p := &plan{bounds: e.Bounds, messages: e.MessagesPerConnection, ehlo: src.EHLO, warm: src.Warmup != ""}
	rate := math.Inf(1)
	for i := range p.bounds {
		b := &p.bounds[i]
		switch {
		case b.Key.Source != "":
			b.Proxy = g.pools.Authority(source)
		case source == "" && b.Key.Pool == "" && g.clustered:
			b.Key.Source = ownSource + g.o.Node // each node has an address of its own
		}
		l := b.Limits
		p.counted = p.counted || l.Connections > 0 || !l.ConnectRate.IsZero() || b.Proxy != ""
		p.paced = p.paced || !l.MessageRate.IsZero() || l.Daily > 0
		p.spans = p.spans || b.Proxy == ""
		p.loop = p.loop || l.Loop != throttle.Loop{}
		if !l.MessageRate.IsZero() {
			rate = min(rate, l.MessageRate.PerSecond())
		}
	}
	if proxy := g.pools.Authority(source); proxy != "" && !p.asks() {
		// A Godwit proxy wants to see a permit, limit or not.
		p.bounds = append(p.bounds, throttle.Bound{Key: sourceKey(query(source, x)), Limits: throttle.Limits{Connections: unlimited}, Proxy: proxy})
		p.counted = true
	}
	if !math.IsInf(rate, 1) && rate < 1000 {
		p.useful = 1 + int(math.Ceil(busySeconds*rate))
	}
	return p
}

// ownSource begins the name, in keys, of a node's own address.
const ownSource = "@"

// unlimited is a number of connections that no proxy reaches.
const unlimited = 1 << 20

// asks reports whether the plan has a permit of a proxy in it.
func (p *plan) asks() bool {
	for i := range p.bounds {
		if p.bounds[i].Proxy != "" {
			return true
		}
	}
	return false
}

// busySeconds is what a transaction may take, waits included, for its
// connection to be worth having: beyond rate times this, connections only wait.
const busySeconds = 5

// effective is what the rules say, tightened by orders and warm-up.
func (g *Gate) effective(c *conf, q rules.Query, now time.Time) rules.Effective {
	e := c.rules.Resolve(q)
	if n := g.pools.Daily(q.Source, q.Provider, now); n > 0 {
		e.Tighten(sourceKey(q), throttle.Limits{Daily: n}, 0, warmUp)
	}
	g.orders.Tighten(&e, q, now)
	return e
}

// warmUp is how the table of limits names the source's schedule.
var warmUp = rules.Origin{Block: "warm-up of the source"}

// sourceKey is what a source's warm-up counts over.
func sourceKey(q rules.Query) throttle.Key {
	if q.Provider != "" {
		return throttle.Key{Source: q.Source, Provider: q.Provider}
	}
	return throttle.Key{Source: q.Source, Site: q.Site}
}
