package cluster

import (
	"bytes"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is how memberlist carries our messages. Its methods must not block.
type delegate Cluster

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte {
	c := (*Cluster)(d)
	s := c.ownState()
	return meta{Version: wireVersion, Role: s.Role, Zone: c.zone, Link: c.link(s)}.encode()
}

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg(b []byte) { (*Cluster)(d).arrived(b) }

// MergeRemoteState implements memberlist.Delegate: the other side's half of a comparison has come.
func (d *delegate) MergeRemoteState(b []byte, _ bool) { (*Cluster)(d).arrived(b) }

// LocalState implements memberlist.Delegate: our half of a comparison.
func (d *delegate) LocalState(bool) []byte {
	c := (*Cluster)(d)
	s := comparison{from: c.name, digest: c.d.Records.Digest(), reports: c.reports()}
	return s.encode()
}

// GetBroadcasts implements memberlist.Delegate.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return (*Cluster)(d).queue.GetBroadcasts(overhead, limit)
}

// arrived queues a message for the receiver. What finds no room comes again with the next comparison.
func (c *Cluster) arrived(b []byte) {
	select {
	case c.inbound <- bytes.Clone(b):
	default:
		c.metrics.dropped.Inc()
	}
}

// events is how memberlist tells who comes and goes. It holds its locks meanwhile.
type events Cluster

// NotifyJoin implements memberlist.EventDelegate.
func (e *events) NotifyJoin(n *memberlist.Node) { (*Cluster)(e).note(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (e *events) NotifyUpdate(n *memberlist.Node) { (*Cluster)(e).note(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (e *events) NotifyLeave(n *memberlist.Node) { (*Cluster)(e).note(n, false) }

// NotifyConflict implements memberlist.ConflictDelegate.
func (e *events) NotifyConflict(existing, other *memberlist.Node) {
	c := (*Cluster)(e)
	c.metrics.conflicts.Inc()
	c.log.Error("two members have the same name: give one of them another", "name", existing.Name, "first", existing.Address(), "second", other.Address())
}

// note writes down that a member is, or is no longer, there.
func (c *Cluster) note(n *memberlist.Node, present bool) {
	if n.Name == c.name {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, now := c.peers[n.Name], time.Now()
	if p == nil {
		p = &peer{name: n.Name}
		c.peers[n.Name] = p
	}
	switch {
	case present && !p.present:
		c.present.Add(1)
		p.since, p.seen = now, now
	case !present && p.present:
		c.present.Add(-1)
		p.since = now
	}
	p.present, p.addr, p.port, p.meta = present, n.Addr.String(), n.Port, parseMeta(n.Meta)
	c.mayHaveChanged()
}
