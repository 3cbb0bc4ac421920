package proxy

import (
	"strings"
	"time"
)

// health is whether a source, or a proxy, can be used. What was never told of is up.
type health struct {
	up     bool
	reason string
	since  time.Time
}

// SourceHealth is the state of one source.
type SourceHealth struct {
	Source string    `json:"source"`
	Proxy  string    `json:"proxy,omitempty"`
	Zone   string    `json:"zone,omitempty"`
	Up     bool      `json:"up"`
	Reason string    `json:"reason,omitempty"` // why it is down
	Since  time.Time `json:"since,omitzero"`   // zero: since the start
}

// The two kinds of keys of Pools.health. Names hold no slash.
const (
	ofSource = "source/"
	ofProxy  = "proxy/"
)

func (t *table) knows(key string) bool {
	kind, name, _ := strings.Cut(key, "/")
	if kind+"/" == ofProxy {
		return t.proxies[name] != nil
	}
	return t.sources[name] != nil
}

// SetHealth says whether a source can be used, and why not. A source that is
// down is not picked. It reports whether that is news.
func (p *Pools) SetHealth(source string, up bool, reason string) bool {
	return p.setHealth(ofSource+source, up, reason)
}

// SetProxyHealth says the same of all sources of a proxy. A source is up when both its proxy and itself are.
func (p *Pools) SetProxyHealth(proxy string, up bool, reason string) bool {
	return p.setHealth(ofProxy+proxy, up, reason)
}

func (p *Pools) setHealth(key string, up bool, reason string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.t.Load().knows(key) {
		return false
	}
	h := p.health[key]
	if h == nil {
		h = &health{up: true}
		p.health[key] = h
	}
	if up {
		reason = ""
	}
	h.reason = reason
	if h.up == up {
		return false
	}
	h.up, h.since = up, p.d.Now()
	p.countDowns()
	kind, name, _ := strings.Cut(key, "/")
	if up {
		p.d.Logger.Info("egress is up", kind, name)
	} else {
		p.d.Logger.Warn("egress is down", kind, name, "reason", reason)
	}
	return true
}

// Up reports whether a source can be used, as far as health goes.
func (p *Pools) Up(source string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up(source)
}

func (p *Pools) up(source string) bool {
	s := p.t.Load().sources[source]
	if s == nil {
		return false
	}
	if p.downs == 0 {
		return true
	}
	for _, h := range []*health{p.health[ofSource+source], p.health[ofProxy+s.Proxy]} {
		if h != nil && !h.up {
			return false
		}
	}
	return true
}

func (p *Pools) countDowns() {
	p.downs = 0
	for _, h := range p.health {
		if !h.up {
			p.downs++
		}
	}
}

// Health is the state of every source, in the order of the options.
func (p *Pools) Health() []SourceHealth {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.t.Load()
	out := make([]SourceHealth, 0, len(t.o.Sources))
	for i := range t.o.Sources {
		s := &t.o.Sources[i]
		sh := SourceHealth{Source: s.Name, Proxy: s.Proxy, Zone: s.Zone, Up: true}
		for _, h := range []*health{p.health[ofSource+s.Name], p.health[ofProxy+s.Proxy]} {
			switch {
			case h == nil:
			case !h.up: // the proxy's reason tells more
				sh.Up, sh.Reason, sh.Since = false, h.reason, h.since
			case sh.Up && h.since.After(sh.Since):
				sh.Since = h.since
			}
		}
		out = append(out, sh)
	}
	return out
}
