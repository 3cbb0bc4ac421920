// Package dns is the caching resolver of the engine: MX, A, AAAA, TXT and PTR
// with typed answers and typed errors, over any list of servers.
//
// A lookup takes these steps:
//
//  1. The name becomes lower case A-labels (RFC 5891); a name that can be no
//     domain is "not found" without a query.
//  2. The cache answers what it holds, positive and negative (RFC 2308). It is
//     bounded by entries, least recently used first.
//  3. Lookups of one name and type that happen at once share one query.
//  4. The servers are asked in turn, the last good one first, for Attempts
//     rounds: UDP with EDNS0 (RFC 6891), TCP when the answer is truncated. A
//     packet that does not match the query is ignored, not believed.
//  5. If no server answers, an expired entry not older than Stale serves
//     (RFC 8767); a failure itself is remembered for a few seconds (RFC 9520).
//
// Errors unwrap to ErrNotFound, ErrNoData or ErrTemporary: the first two are
// facts about the domain, the third says nothing about it.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options is what a configuration file can set.
type Options struct {
	Servers      []string       `toml:"servers" doc:"DNS servers to ask, each ip:port or ip; empty means those of /etc/resolv.conf"`
	Timeout      units.Duration `toml:"timeout" doc:"time to wait for one server's answer to one query"`
	Attempts     int            `toml:"attempts" doc:"rounds over all servers before a lookup fails"`
	CacheEntries int            `toml:"cache_entries" doc:"number of answers kept in memory, least recently used dropped first"`
	MinTTL       units.Duration `toml:"min_ttl" doc:"shortest time an answer is kept, whatever its TTL says"`
	MaxTTL       units.Duration `toml:"max_ttl" doc:"longest time an answer is kept, whatever its TTL says"`
	NegativeTTL  units.Duration `toml:"negative_ttl" doc:"longest time that \"no such name\" and \"no such record\" are kept"`
	FailureTTL   units.Duration `toml:"failure_ttl" doc:"time for which a failed lookup is not repeated"`
	Stale        units.Duration `toml:"stale" doc:"time after expiry for which an answer still serves when no server answers; 0 turns it off"`
	Prefer       string         `toml:"prefer" doc:"address family tried first, or the only one: ipv6, ipv4, ipv6_only or ipv4_only"`
}

// The values of Options.Prefer.
const (
	PreferIPv6 = "ipv6"
	PreferIPv4 = "ipv4"
	OnlyIPv6   = "ipv6_only"
	OnlyIPv4   = "ipv4_only"
)

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{
		Timeout:      units.Duration(3 * time.Second),
		Attempts:     2,
		CacheEntries: 20_000,
		MinTTL:       units.Duration(30 * time.Second),
		MaxTTL:       units.Duration(6 * time.Hour),
		NegativeTTL:  units.Duration(5 * time.Minute),
		FailureTTL:   units.Duration(5 * time.Second),
		Stale:        units.Duration(time.Hour),
		Prefer:       PreferIPv6,
	}
}

// Validate reports the first bad value; the error begins with its key.
func (o Options) Validate() error {
	if _, err := serverAddresses(o.Servers); err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	switch {
	case o.Timeout <= 0:
		return errors.New("timeout: must be positive")
	case o.Attempts < 1 || o.Attempts > 10:
		return errors.New("attempts: must be 1 to 10")
	case o.CacheEntries < 16:
		return errors.New("cache_entries: must be 16 or more")
	case o.MinTTL < 0:
		return errors.New("min_ttl: must not be negative")
	case o.MaxTTL < o.MinTTL || o.MaxTTL <= 0:
		return errors.New("max_ttl: must be positive and not below min_ttl")
	case o.NegativeTTL < 0:
		return errors.New("negative_ttl: must not be negative")
	case o.FailureTTL < 0:
		return errors.New("failure_ttl: must not be negative")
	case o.Stale < 0:
		return errors.New("stale: must not be negative")
	}
	switch o.Prefer {
	case PreferIPv6, PreferIPv4, OnlyIPv6, OnlyIPv4:
		return nil
	}
	return fmt.Errorf("prefer: %q is none of ipv6, ipv4, ipv6_only, ipv4_only", o.Prefer)
}

// serverAddresses checks and completes ip or ip:port to ip:port.
func serverAddresses(servers []string) ([]string, error) {
	out := make([]string, 0, len(servers))
	for _, s := range servers {
		if ip, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(ip, 53).String())
			continue
		}
		if _, err := netip.ParseAddrPort(s); err != nil {
			return nil, fmt.Errorf("%q is not ip:port or ip", s)
		}
		out = append(out, s)
	}
	return out, nil
}

// Exchanger sends one query to one server and returns its answer. The answer
// has been matched to the query; its RCODE has not been looked at.
type Exchanger interface {
	Exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error)
}

// Deps is what a Resolver needs from others. All fields may be nil.
type Deps struct {
	// Exchanger is nil for UDP and TCP by this package.
	Exchanger Exchanger
	// Shuffle orders equal MX preferences; nil for math/rand/v2's Shuffle.
	Shuffle    func(n int, swap func(i, j int))
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Resolver is a caching resolver, safe for concurrent use.
type Resolver struct {
	o       Options
	servers []string
	good    atomic.Uint32 // index of the server that answered last
	ex      Exchanger
	shuffle func(n int, swap func(i, j int))
	log     *slog.Logger
	m       *metrics

	life context.Context // ends with Close
	stop context.CancelFunc
	busy sync.WaitGroup

	mu      sync.Mutex
	cache   *cache
	flights map[key]*flight
	closed  bool
}

// New returns a resolver. Close ends its running queries.
func New(o Options, d Deps) (*Resolver, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	servers, err := serverAddresses(o.Servers)
	if err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		servers = systemServers()
	}
	m, err := newMetrics(d.Registerer)
	if err != nil {
		return nil, err
	}
	r := &Resolver{o: o, servers: servers, ex: d.Exchanger, shuffle: d.Shuffle, log: d.Logger, m: m,
		cache: newCache(o.CacheEntries), flights: make(map[key]*flight)}
	if r.ex == nil {
		r.ex = &network{timeout: o.Timeout.D()}
	}
	if r.shuffle == nil {
		r.shuffle = rand.Shuffle
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.life, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// systemServers reads /etc/resolv.conf; without one, the local host is asked (resolv.conf(5)).
func systemServers() []string {
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(conf.Servers) == 0 {
		return []string{"127.0.0.1:53"}
	}
	out := make([]string, len(conf.Servers))
	for i, s := range conf.Servers {
		out[i] = net.JoinHostPort(s, conf.Port)
	}
	return out
}

// Servers returns the servers in use, as ip:port.
func (r *Resolver) Servers() []string { return append([]string(nil), r.servers...) }

// Flush forgets every cached answer.
func (r *Resolver) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cache = newCache(r.o.CacheEntries)
}

// Close ends running queries and waits for them. Later lookups that need a
// query fail with ErrTemporary. A second call does nothing.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.busy.Wait()
}
