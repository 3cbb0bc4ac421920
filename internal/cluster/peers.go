package cluster

import (
	"net"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/godwit-mta/godwit/internal/records"
)

// peer is another member. Cluster.mu guards it.
type peer struct {
	name    string
	addr    string
	port    uint16
	meta    meta
	present bool      // memberlist counts it as a member
	since   time.Time // present, or not
	seen    time.Time
	report  report // the latest; without its sources
	sources struct {
		epoch int64
		seq   uint64
		names []string
	}
	records []records.Record // to be sent over TCP
	message []byte           // a report to be sent over TCP
	sending bool             // somebody is sending them
}

// absorb takes what was heard about a member and reports whether it was new.
func (c *Cluster) absorb(r report) (fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Name == c.name {
		c.outdo(r)
		return false
	}
	p := c.peers[r.Name]
	if p == nil {
		return false // memberlist does not know it yet; the next comparison brings this again
	}
	if r.Sources != nil && newer(r.Epoch, r.SourcesSeq, p.sources.epoch, p.sources.seq) {
		p.sources.epoch, p.sources.seq, p.sources.names = r.Epoch, r.SourcesSeq, *r.Sources
		c.mayHaveChanged()
	}
	if !newer(r.Epoch, r.Seq, p.report.Epoch, p.report.Seq) {
		return false
	}
	r.Sources = nil
	p.report, p.seen = r, time.Now()
	c.mayHaveChanged()
	return true
}

// outdo makes the next report of this node later than one from an earlier life of it, when
// the clock was ahead. c.mu is held.
func (c *Cluster) outdo(r report) {
	if newer(r.Epoch, r.Seq, c.own.Epoch, c.own.Seq) {
		c.own.Epoch = r.Epoch + 1
		c.Refresh()
	}
}

// makeReport asks this node's state and returns the report of it without its sources, those, and whether they changed.
func (c *Cluster) makeReport(leaving bool) (r report, sources []string, changed bool) {
	s, digest := c.ownState(), c.configDigest()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own.Seq++
	if c.own.SourcesSeq == 0 || !slices.Equal(c.ownNames, s.Sources) {
		c.own.SourcesSeq, c.ownNames, changed = c.own.Seq, s.Sources, true
	}
	c.own.Name, c.own.Leaving = c.name, c.own.Leaving || leaving
	c.own.Admin, c.own.Version, c.own.Digest, c.own.Load, c.own.Draining = s.Admin, s.Version, digest, s.Load, s.Draining
	c.own.Pipeline = s.Pipeline
	return c.own, c.ownNames, changed
}

// reports are what this node knows, for a comparison: its own report and those of the members that are there.
func (c *Cluster) reports() []report {
	c.mu.Lock()
	defer c.mu.Unlock()
	own, names := c.own, c.ownNames
	own.Sources = &names
	all := []report{own}
	for _, p := range c.peers {
		if !p.present || p.report.Name == "" {
			continue
		}
		r := p.report
		if p.sources.epoch == r.Epoch && p.sources.seq == r.SourcesSeq {
			names := p.sources.names
			r.Sources = &names
		}
		all = append(all, r)
	}
	return all
}

// presentPeers lists the members that are there, as memberlist wants them.
func (c *Cluster) presentPeers() []*memberlist.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var nodes []*memberlist.Node
	for _, p := range c.peers {
		if p.present {
			nodes = append(nodes, p.node())
		}
	}
	return nodes
}

// node is what memberlist needs to send to p. Cluster.mu is held.
func (p *peer) node() *memberlist.Node {
	return &memberlist.Node{Name: p.name, Addr: net.ParseIP(p.addr), Port: p.port}
}

// forget drops members that went long ago.
func (c *Cluster) forget(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, p := range c.peers {
		if _, configured := c.configured(name); !p.present && !configured && now.Sub(p.since) > c.pace.forget {
			delete(c.peers, name)
			c.mayHaveChanged()
		}
	}
}
