package cluster

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"time"
)

// State is what a node tells about itself.
type State struct {
	Role     string   // such as mta or proxy; a name
	Link     string   // address of the grant link, host:port; used when the node is not among the configured ones
	Admin    string   // address of the admin API
	Pipeline string   // address at which the pipeline answers other nodes
	Version  string   // of the program
	Load     Load     // how busy it is
	Sources  []string // the sending sources it owns, in any order
	Draining bool     // it takes no new work
}

// Load is how busy a node is.
type Load struct {
	Queued      int64 `json:"queued"`      // messages in its queue
	Connections int   `json:"connections"` // to mail exchangers
}

// Status is what the cluster thinks of a member.
type Status string

// The statuses.
const (
	Alive   Status = "alive"
	Suspect Status = "suspect" // still a member, but nothing new was heard of it for a while
	Dead    Status = "dead"    // it answers nobody
	Left    Status = "left"    // it said goodbye
	Missing Status = "missing" // configured, never seen by this node since it started
)

// Member is one node as this node knows it.
type Member struct {
	Name         string    `json:"name"`
	Self         bool      `json:"self,omitempty"`       // this node
	Configured   bool      `json:"configured,omitempty"` // among the configured nodes
	Status       Status    `json:"status"`
	Addr         string    `json:"addr,omitempty"` // of gossip
	Link         string    `json:"link,omitempty"` // of the grant link
	Admin        string    `json:"admin,omitempty"`
	Pipeline     string    `json:"pipeline,omitempty"`
	Role         string    `json:"role,omitempty"`
	Zone         string    `json:"zone,omitempty"`
	Version      string    `json:"version,omitempty"`
	ConfigDigest string    `json:"config_digest,omitempty"`
	Drift        bool      `json:"drift,omitempty"` // its configuration differs from that of most living members of its role
	Load         Load      `json:"load"`
	Sources      []string  `json:"sources,omitempty"`
	Draining     bool      `json:"draining,omitempty"`
	Seen         time.Time `json:"seen,omitzero"` // when something new was last heard of it
}

// Present reports whether the member takes part: alive or suspect.
func (m Member) Present() bool { return m.Status == Alive || m.Status == Suspect }

// Members lists this node, the members that it knows of, and the configured nodes that it has not seen, by name.
func (c *Cluster) Members() []Member {
	all := []Member{c.self()}
	now := time.Now()
	c.mu.Lock()
	for _, p := range c.peers {
		all = append(all, c.member(p, now))
	}
	for _, n := range c.o.Nodes {
		if n.Name != c.name && c.peers[n.Name] == nil {
			all = append(all, Member{Name: n.Name, Configured: true, Status: Missing, Addr: n.Address, Link: n.Link, Zone: n.Zone})
		}
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	markDrift(all)
	return all
}

// self is this node.
func (c *Cluster) self() Member {
	s := c.ownState()
	_, configured := c.configured(c.name)
	return Member{
		Name: c.name, Self: true, Configured: configured, Status: Alive, Addr: c.Addr(), Link: c.link(s), Admin: s.Admin, Pipeline: s.Pipeline,
		Role: s.Role, Zone: c.zone, Version: s.Version, ConfigDigest: c.configDigest(), Load: s.Load, Sources: s.Sources,
		Draining: s.Draining, Seen: time.Now(),
	}
}

// member is another node. c.mu is held.
func (c *Cluster) member(p *peer, now time.Time) Member {
	m := Member{
		Name: p.name, Addr: net.JoinHostPort(p.addr, strconv.Itoa(int(p.port))), Link: p.meta.Link, Role: p.meta.Role, Zone: p.meta.Zone,
		Admin: p.report.Admin, Pipeline: p.report.Pipeline, Version: p.report.Version, ConfigDigest: p.report.Digest, Load: p.report.Load,
		Draining: p.report.Draining, Sources: p.sources.names, Seen: p.seen,
	}
	if n, ok := c.configured(p.name); ok {
		m.Configured, m.Link, m.Zone = true, cmp.Or(n.Link, m.Link), cmp.Or(m.Zone, n.Zone)
	}
	switch {
	case !p.present && p.report.Leaving:
		m.Status = Left
	case !p.present:
		m.Status = Dead
	case now.Sub(p.seen) > c.pace.suspect:
		m.Status = Suspect
	default:
		m.Status = Alive
	}
	return m
}

// configured finds the entry of a node in the configuration.
func (c *Cluster) configured(name string) (Node, bool) {
	for _, n := range c.o.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// markDrift finds, for each role, the configuration of more than half of the members that are there, and
// marks those that have another one; without such a majority, all. So every node comes to the same view.
func markDrift(all []Member) {
	type group struct {
		total int
		count map[string]int
	}
	roles := map[string]*group{}
	counts := func(m Member) bool { return m.Present() && m.ConfigDigest != "" }
	for _, m := range all {
		if !counts(m) {
			continue
		}
		g := roles[m.Role]
		if g == nil {
			g = &group{count: map[string]int{}}
			roles[m.Role] = g
		}
		g.total++
		g.count[m.ConfigDigest]++
	}
	for i := range all {
		if counts(all[i]) {
			g := roles[all[i].Role]
			all[i].Drift = 2*g.count[all[i].ConfigDigest] <= g.total
		}
	}
}
