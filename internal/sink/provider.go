package sink

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// capability is a set of SMTP extensions.
type capability uint16

const (
	capPipelining capability = 1 << iota
	cap8BitMIME
	capSMTPUTF8
	capChunking
	capSize
	capDSN
	capEnhanced
)

// fullCanOmit are the extensions that go-smtp's server can leave out.
const fullCanOmit = capSMTPUTF8 | capDSN

func capabilities() map[string]capability {
	return map[string]capability{
		"PIPELINING": capPipelining, "8BITMIME": cap8BitMIME, "SMTPUTF8": capSMTPUTF8, "CHUNKING": capChunking,
		"SIZE": capSize, "DSN": capDSN, "ENHANCEDSTATUSCODES": capEnhanced,
	}
}

// provider is a running provider. Its Provider is as configured; what is in
// force now tells behaviour.
type provider struct {
	Provider
	caps   capability
	policy *policy
	ear    *ear // of its listener, once bound
	came   sources
	hosts  []string // MX names, without trailing dot; with OwnMX only in certificates and greetings
	addr   string   // of its listener, once bound
	tls    *tls.Config
	counts counts
}

type counts struct {
	connections, refused, secure, transactions  atomic.Int64
	accepted, deferred, bounced, dropped, bytes atomic.Int64
	open, openMax                               atomic.Int64
	firstMail, firstAccept, lastAccept          atomic.Int64 // Unix nanoseconds
}

func newProvider(p Provider, zone string, salt uint64) *provider {
	rt := &provider{Provider: p, policy: newPolicy(p.Behaviour, salt)}
	rt.caps = ^capability(0)
	for _, name := range p.Behaviour.Without {
		rt.caps &^= capabilities()[strings.ToUpper(name)]
	}
	if rt.MX == 0 {
		rt.MX = 1
	}
	for i := range rt.MX {
		rt.hosts = append(rt.hosts, fmt.Sprintf("mx%d.%s.%s", i+1, strings.ToLower(p.Name), zone))
	}
	return rt
}

// behaviour is what is in force now.
func (p *provider) behaviour() *Behaviour { return &p.policy.rules().Behaviour }

// domains lists all domains, patterns expanded, in lower case.
func (p *provider) domains() []string {
	var out []string
	for _, d := range p.Domains {
		d = strings.ToLower(d)
		if !strings.Contains(d, "%d") {
			out = append(out, d)
			continue
		}
		for i := range max(1, p.Count) {
			out = append(out, fmt.Sprintf(d, i))
		}
	}
	return out
}

// ip is the address that its MX hosts resolve to.
func (p *provider) ip() net.IP {
	host, _, _ := net.SplitHostPort(p.addr) // a bound address always has both
	return net.ParseIP(host)
}

func (p *provider) host() string { return p.hosts[0] }

func (p *provider) has(c capability) bool { return p.caps&c != 0 }

// enter counts a connection in; false means there are too many.
func (p *provider) enter() bool {
	p.counts.connections.Add(1)
	open := p.counts.open.Add(1)
	if limit := int64(p.behaviour().MaxConnections); limit > 0 && open > limit {
		p.counts.open.Add(-1)
		p.counts.refused.Add(1)
		return false
	}
	raise(&p.counts.openMax, open)
	return true
}

func (p *provider) leave() { p.counts.open.Add(-1) }

// judged counts a verdict against n recipients.
func (p *provider) judged(v verdict, n int) {
	switch {
	case v.drop:
		p.counts.dropped.Add(int64(n))
	case v.reply.temporary():
		p.counts.deferred.Add(int64(n))
	case v.reply.permanent():
		p.counts.bounced.Add(int64(n))
	}
}

// accepted counts one recipient's copy.
func (p *provider) accepted(at, size int64) {
	p.counts.accepted.Add(1)
	p.counts.bytes.Add(size)
	p.counts.firstAccept.CompareAndSwap(0, at)
	raise(&p.counts.lastAccept, at)
}

func raise(max *atomic.Int64, v int64) {
	for old := max.Load(); v > old; old = max.Load() {
		if max.CompareAndSwap(old, v) {
			return
		}
	}
}

// reset sets all counters but the open connections to zero and forgets earlier attempts.
func (p *provider) reset() {
	c := &p.counts
	for _, n := range []*atomic.Int64{&c.connections, &c.refused, &c.secure, &c.transactions, &c.accepted, &c.deferred,
		&c.bounced, &c.dropped, &c.bytes, &c.firstMail, &c.firstAccept, &c.lastAccept} {
		n.Store(0)
	}
	c.openMax.Store(c.open.Load())
	for _, s := range p.came.all() {
		s.reset()
	}
	p.policy.reset()
}

func (p *provider) stats() ProviderStats {
	c := &p.counts
	return ProviderStats{
		Name: p.Name, Addr: p.addr,
		Accepted: c.accepted.Load(), Deferred: c.deferred.Load(), Bounced: c.bounced.Load(), Dropped: c.dropped.Load(),
		Transactions: c.transactions.Load(), Bytes: c.bytes.Load(),
		Connections: c.connections.Load(), Refused: c.refused.Load(), TLS: c.secure.Load(),
		Open: c.open.Load(), OpenMax: c.openMax.Load(),
		FirstMail: instant(c.firstMail.Load()), FirstAccept: instant(c.firstAccept.Load()), LastAccept: instant(c.lastAccept.Load()),
	}
}

func instant(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	t := time.Unix(0, ns).UTC()
	return &t
}
