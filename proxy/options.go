package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// The kinds of proxies.
const (
	KindGodwit  = "godwit"  // tells the connect's result and is the authority for its sources' limits
	KindHAProxy = "haproxy" // takes PROXY v2; what becomes of a connect cannot be known
	KindSOCKS5  = "socks5"  // RFC 1928; chooses the address itself
	KindDirect  = "direct"  // no proxy: this host has the address
)

// DefaultPool is the pool of messages that name none and match no rule.
const DefaultPool = "default"

// Options are where mail leaves from.
type Options struct {
	Proxies      []ProxyOptions `toml:"proxies" doc:"Proxies that sources connect through."`
	Sources      []Source       `toml:"sources" doc:"Sending addresses. Without any, mail leaves from the host's own address."`
	Pools        []Pool         `toml:"pools" doc:"Weighted sets of sources. Without any, the pool named default holds all sources alike."`
	Choose       []Choice       `toml:"choose" doc:"Rules that choose the pool of messages that name none; the first that matches counts."`
	Warmups      []Warmup       `toml:"warmups" doc:"Schedules of daily limits for new addresses."`
	ProxyTimeout units.Duration `toml:"proxy_timeout" doc:"Time to reach a proxy before it counts as down; the time that the provider takes is not in it."`
}

// ProxyOptions are one proxy.
type ProxyOptions struct {
	Name         string `toml:"name" doc:"Name that sources refer to."`
	Kind         string `toml:"kind" doc:"godwit, haproxy, socks5 or direct; empty means godwit."`
	Address      string `toml:"address" doc:"Where it listens, host:port; not for direct."`
	Zone         string `toml:"zone" doc:"Zone it runs in."`
	TLS          TLS    `toml:"tls" doc:"TLS towards a proxy of kind godwit."`
	Username     string `toml:"username" doc:"User name for a SOCKS5 proxy; {source} and {bind} in it stand for the source's name and address, for proxies that choose the address by user."`
	PasswordFile string `toml:"password_file" doc:"File whose first line is the password for a SOCKS5 proxy."`
}

// TLS is how to speak to a proxy of kind godwit.
type TLS struct {
	CAFile   string `toml:"ca_file" doc:"PEM file of the authorities that the proxy's certificate must come from; setting it turns TLS on."`
	CertFile string `toml:"cert_file" doc:"PEM file of our certificate chain, if the proxy wants one."`
	KeyFile  string `toml:"key_file" doc:"PEM file of its private key."`
	Name     string `toml:"name" doc:"Name that the proxy's certificate must have; empty means the host of the address."`
}

// Source is one sending address.
type Source struct {
	Name   string `toml:"name" doc:"Name in pools, limits, events and metrics."`
	Bind   string `toml:"bind" doc:"IPv4 address to connect from, on the proxy's host; empty for none (direct and socks5: whatever the host chooses, if bind6 is empty too)."`
	Bind6  string `toml:"bind6" doc:"IPv6 address to connect from; without it a source with an address makes no IPv6 connections."`
	Public string `toml:"public" doc:"Address that providers see, where it differs from bind; it is only shown."`
	EHLO   string `toml:"ehlo" doc:"Our name in EHLO from this source, which the address's reverse record should have; empty means hostname."`
	Proxy  string `toml:"proxy" doc:"Proxy that has the address; empty means this host."`
	Zone   string `toml:"zone" doc:"Zone; empty means the proxy's."`
	Warmup string `toml:"warmup" doc:"Schedule of daily limits; empty means none."`
}

// Pool is a weighted set of sources.
type Pool struct {
	Name     string   `toml:"name" doc:"Name, as messages and rules give it."`
	Sources  []Member `toml:"sources" doc:"Sources of the pool."`
	Fallback string   `toml:"fallback" doc:"Pool whose sources are used while none of this one can be; empty means wait."`
}

// Member is a source in a pool.
type Member struct {
	Name   string `toml:"name" doc:"Name of the source."`
	Weight int    `toml:"weight" doc:"Share of the pool's messages against the other sources; 0 or left out means 1."`
}

// Choice is one rule that chooses a pool. What is left empty matches all.
type Choice struct {
	Tenant string `toml:"tenant" doc:"Tenant; * in it stands for any characters."`
	Stream string `toml:"stream" doc:"Stream; * in it stands for any characters."`
	Tag    string `toml:"tag" doc:"A tag of the message as name=value; * in the value stands for any characters."`
	Pool   string `toml:"pool" doc:"The pool to use."`
}

// Warmup is a schedule of daily limits.
type Warmup struct {
	Name      string             `toml:"name" doc:"Name that sources refer to."`
	Start     Date               `toml:"start" doc:"First day, as text such as 2026-03-01; days are days of UTC. Before it the first day's limit holds."`
	Days      []int64            `toml:"days" doc:"Messages per source and provider on the first, second … day; after the last there is no limit. Empty means none for providers that are not listed."`
	Providers map[string][]int64 `toml:"providers" doc:"The same for single providers."`
}

// Date is a day of UTC. The zero Date is none.
type Date struct{ t time.Time }

// UnmarshalText reads 2026-03-01.
func (d *Date) UnmarshalText(b []byte) error {
	t, err := time.Parse(time.DateOnly, string(b))
	if err != nil {
		return fmt.Errorf("%q is not a day such as 2026-03-01", b)
	}
	d.t = t
	return nil
}

// MarshalText is the inverse of UnmarshalText; the zero Date is empty.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String prints 2026-03-01.
func (d Date) String() string {
	if d.t.IsZero() {
		return ""
	}
	return d.t.Format(time.DateOnly)
}

// DefaultOptions returns the defaults: mail leaves from the host's own address.
func DefaultOptions() Options {
	return Options{ProxyTimeout: units.Duration(2 * time.Second)}
}

// kind is the kind with its default.
func (p *ProxyOptions) kind() string {
	if p.Kind == "" {
		return KindGodwit
	}
	return p.Kind
}

func (m Member) weight() int { return max(m.Weight, 1) }

// Addresses are the source's local addresses; invalid ones are none.
func (s *Source) Addresses() (v4, v6 netip.Addr) {
	v4, _ = netip.ParseAddr(s.Bind)
	v6, _ = netip.ParseAddr(s.Bind6)
	return v4, v6
}
