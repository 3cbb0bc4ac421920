// Package proxy decides which address a message leaves from, and connects from there.
//
// A source is one sending address: the IP, the EHLO name that fits it, and the
// proxy that has it. A pool is a weighted set of sources. Pools chooses in two
// steps: For gives the pool of a message when it is queued; Pick gives a
// source of the pool when a connection is to be opened, so that messages per
// provider follow the weights as far as limits, warm-up and health allow.
//
// A Dialer then connects from the source: from this host, or through a proxy
// of one of three kinds. What the kinds can tell of a failure differs:
//
//	godwit   everything: whether the proxy or the provider failed, and how
//	socks5   the same, in fewer words (RFC 1928 §6)
//	haproxy  nothing: refused, timed out and a bad source look like an end before the banner
package proxy

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// Deps is what Pools need from others.
type Deps struct {
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil: time.Now
	// Float returns numbers in [0, 1). It spreads first choices over the sources. Nil: math/rand/v2.
	Float func() float64
}

// Pools are the sources, the pools, and who is to send next. It is safe for concurrent use.
type Pools struct {
	d Deps
	t atomic.Pointer[table]

	mu     sync.Mutex
	warned map[string]bool // pools that messages named and that do not exist
	shares shares
	health map[string]*health // by ofProxy or ofSource and name
	downs  int                // entries of health that are not up
}

// maxWarned bounds what a sender of made-up pool names can fill.
const maxWarned = 1000

// table is what the options say, indexed.
type table struct {
	o       Options
	sources map[string]*Source
	proxies map[string]*ProxyOptions
	warmups map[string]*Warmup
	pools   map[string]*Pool
}

// NewPools checks the options and returns the pools.
func NewPools(o Options, d Deps) (*Pools, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Float == nil {
		d.Float = rand.Float64
	}
	p := &Pools{d: d, warned: map[string]bool{}, health: map[string]*health{}}
	return p, p.Reload(o)
}

// Reload puts o in force. On an error nothing changes. Health is kept; shares begin anew.
func (p *Pools) Reload(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	t := newTable(o)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.t.Store(t)
	p.shares = newShares()
	maps.DeleteFunc(p.health, func(key string, _ *health) bool { return !t.knows(key) })
	p.countDowns()
	return nil
}

func newTable(o Options) *table {
	t := &table{o: o, sources: map[string]*Source{}, proxies: map[string]*ProxyOptions{}, warmups: map[string]*Warmup{}, pools: map[string]*Pool{}}
	for i := range o.Proxies {
		t.proxies[o.Proxies[i].Name] = &o.Proxies[i]
	}
	t.o.Sources = slices.Clone(o.Sources)
	for i := range t.o.Sources {
		s := &t.o.Sources[i]
		if p := t.proxies[s.Proxy]; p != nil && s.Zone == "" {
			s.Zone = p.Zone
		}
		t.sources[s.Name] = s
	}
	for i := range o.Warmups {
		t.warmups[o.Warmups[i].Name] = &o.Warmups[i]
	}
	t.o.Pools = slices.Clone(o.Pools)
	switch {
	case len(o.Sources) == 0: // the host's own address, as a source and a pool without names
		t.sources[""] = &Source{}
		t.o.Pools = []Pool{{Sources: []Member{{}}}}
	case len(o.Pools) == 0:
		all := Pool{Name: DefaultPool}
		for _, s := range o.Sources {
			all.Sources = append(all.Sources, Member{Name: s.Name})
		}
		t.o.Pools = []Pool{all}
	}
	for i := range t.o.Pools {
		t.pools[t.o.Pools[i].Name] = &t.o.Pools[i]
	}
	return t
}

// For is the pool of a message: the one it names, else the one of the first
// rule that matches, else the default. A pool that does not exist counts as none.
func (p *Pools) For(m *mail.Message) string {
	t := p.t.Load()
	if t.pools[""] != nil {
		return ""
	}
	if m.Pool != "" {
		if t.pools[m.Pool] != nil {
			return m.Pool
		}
		p.warn(m)
	}
	for i := range t.o.Choose {
		if c := &t.o.Choose[i]; c.matches(m) {
			return c.Pool
		}
	}
	return DefaultPool
}

// warn tells once of each pool that does not exist.
func (p *Pools) warn(m *mail.Message) {
	p.mu.Lock()
	told := p.warned[m.Pool] || len(p.warned) >= maxWarned
	if !told {
		p.warned[strings.Clone(m.Pool)] = true
	}
	p.mu.Unlock()
	if !told {
		p.d.Logger.Warn("messages name a pool that is not configured, rules choose another", "pool", m.Pool, "tenant", m.Tenant, "message", m.ID)
	}
}

func (c *Choice) matches(m *mail.Message) bool {
	if !glob(c.Tenant, m.Tenant) || !glob(c.Stream, m.Stream) {
		return false
	}
	if c.Tag == "" {
		return true
	}
	name, value, _ := strings.Cut(c.Tag, "=")
	return slices.ContainsFunc(m.Tags, func(t mail.Tag) bool {
		return strings.EqualFold(t.Name, name) && (t.Value == value || value != "" && glob(value, t.Value))
	})
}

// glob matches * with any characters. An empty pattern matches all.
func glob(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, last)
}

// Source returns a source with its zone filled in. The host's own address is the source "".
func (p *Pools) Source(name string) (Source, bool) {
	s := p.t.Load().sources[name]
	if s == nil {
		return Source{}, false
	}
	return *s, true
}

// Sources are all of them, in the order of the options.
func (p *Pools) Sources() []Source { return slices.Clone(p.t.Load().o.Sources) }

// Members are the sources of a pool, without those of its fallback, with the weights that count.
func (p *Pools) Members(pool string) []Member {
	def := p.t.Load().pools[pool]
	if def == nil {
		return nil
	}
	out := slices.Clone(def.Sources)
	for i := range out {
		out[i].Weight = out[i].weight()
	}
	return out
}

// List is every pool, in the order of the options.
func (p *Pools) List() []Pool { return slices.Clone(p.t.Load().o.Pools) }

// Authority is the proxy that owns a source's limits; "" for sources whose limits a node owns.
func (p *Pools) Authority(source string) string {
	t := p.t.Load()
	if s := t.sources[source]; s != nil {
		if via := t.proxies[s.Proxy]; via != nil && via.kind() == KindGodwit {
			return s.Proxy
		}
	}
	return ""
}

// Daily is how many messages a source may send to a provider on the day of now,
// by its warm-up schedule. 0 is no limit.
func (p *Pools) Daily(source, provider string, now time.Time) int64 {
	t := p.t.Load()
	s := t.sources[source]
	if s == nil || s.Warmup == "" {
		return 0
	}
	return t.warmups[s.Warmup].limit(provider, now)
}

// Day is the day of a source's warm-up, from 1; 0 means that it has none, or that it is over for every provider.
func (p *Pools) Day(source string, now time.Time) int {
	t := p.t.Load()
	s := t.sources[source]
	if s == nil || s.Warmup == "" {
		return 0
	}
	w := t.warmups[s.Warmup]
	longest := len(w.Days)
	for _, days := range w.Providers {
		longest = max(longest, len(days))
	}
	if day := w.day(now); day < longest {
		return day + 1
	}
	return 0
}

// day is the index of the day of now; days before the start count as the first.
func (w *Warmup) day(now time.Time) int {
	return max(int(now.UTC().Truncate(24*time.Hour).Sub(w.Start.t)/(24*time.Hour)), 0)
}

func (w *Warmup) limit(provider string, now time.Time) int64 {
	days, ok := w.Providers[provider]
	if !ok {
		days = w.Days
	}
	if i := w.day(now); i < len(days) {
		return days[i]
	}
	return 0
}

// errNoSource is for names that are in no configuration.
func errNoSource(name string) error { return fmt.Errorf("proxy: there is no source %q", name) }
