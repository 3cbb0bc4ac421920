package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/godwit-mta/godwit/internal/records"
)

const (
	// fewRecords is how many go by gossip; more at a time go to every member over TCP, for
	// gossip carries some four at a time.
	fewRecords = 16
	// maxQueued bounds the messages waiting to be gossiped.
	maxQueued = 4096
	// maxPending bounds the records waiting to be sent to one member over TCP.
	maxPending = 100_000
)

// broadcast is a message to be gossiped. One of the same name replaces it.
type broadcast struct {
	name string
	b    []byte
}

func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.name == b.name
}
func (b *broadcast) Name() string    { return b.name }
func (b *broadcast) Message() []byte { return b.b }
func (b *broadcast) Finished()       {}

// gossip queues a message to be passed on from node to node.
func (c *Cluster) gossip(name string, b []byte) {
	c.queue.QueueBroadcast(&broadcast{name: name, b: b})
	if c.queue.NumQueued() > maxQueued {
		c.queue.Prune(maxQueued)
	}
}

// send takes a record written here, to be sent to the others.
func (c *Cluster) send(r records.Record) {
	c.mu.Lock()
	c.outgoing = append(c.outgoing, r)
	c.mu.Unlock()
	poke(c.outbound)
}

// poke makes the reader of a channel look again.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sender sends the records written here.
func (c *Cluster) sender() {
	for {
		select {
		case <-c.stop:
			return
		case <-c.outbound:
		}
		c.mu.Lock()
		recs := c.outgoing
		c.outgoing = nil
		c.mu.Unlock()
		if c.spread(recs) {
			continue
		}
		for _, n := range c.presentPeers() {
			c.post(n.Name, nil, recs)
		}
	}
}

// spread gossips records if they are few and small.
func (c *Cluster) spread(recs []records.Record) bool {
	if len(recs) > fewRecords {
		return false
	}
	var messages [][]byte
	for i := range recs {
		b := recs[i].Append([]byte{wireVersion, kindRecords})
		if len(b) > maxPacket {
			return false
		}
		messages = append(messages, b)
	}
	for _, b := range messages {
		c.gossip("record "+string(b), b) // no two are the same, and none replaces another
	}
	return true
}

// post sends a report, records or both to one member over TCP, in the background. What waits
// for the message before it goes as one. What cannot be sent is given up: the
// next comparison finds what the member lacks.
func (c *Cluster) post(name string, report []byte, recs []records.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[name]
	if p == nil || c.stopping || len(p.records)+len(recs) > maxPending {
		return
	}
	if report != nil {
		p.message = report // it replaces an earlier one
	}
	p.records = append(p.records, recs...)
	if !p.sending {
		p.sending = true
		c.wg.Go(func() { c.deliver(p) })
	}
}

// deliver sends what is pending for p.
func (c *Cluster) deliver(p *peer) {
	for {
		c.mu.Lock()
		recs, report, to := p.records, p.message, p.node()
		p.records, p.message = nil, nil
		if len(recs) == 0 && report == nil || !p.present || c.stopping {
			p.sending = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		messages := encodeRecords(recs)
		if report != nil {
			messages = append(messages, report)
		}
		for _, b := range messages {
			if err := c.list.SendReliable(to, b); err != nil {
				c.log.Debug("sending to a member failed", "member", to.Name, "bytes", len(b), "error", err)
				break
			}
		}
	}
}

// receiver handles what arrives.
func (c *Cluster) receiver() {
	for {
		select {
		case <-c.stop:
			return
		case b := <-c.inbound:
			if err := c.handle(b); err != nil {
				c.log.Debug("a message of another member was not understood", "error", err)
			}
		}
	}
}

// handle handles one message. Messages of other versions and kinds are passed over.
func (c *Cluster) handle(b []byte) error {
	if len(b) < 2 || b[0] != wireVersion {
		return nil
	}
	switch kind, b := b[1], b[2:]; kind {
	case kindReport:
		r, err := parseReport(b)
		if err != nil {
			return err
		}
		c.hear(r, true)
	case kindRecords:
		recs, err := parseRecords(b)
		c.merge(recs)
		return err
	case kindSync:
		return c.compare(b)
	}
	return nil
}

// hear takes a report and passes it on if it was new and came by gossip.
func (c *Cluster) hear(r report, gossiped bool) {
	if c.absorb(r) && gossiped {
		r.Sources = nil
		if b := r.encode(); len(b) <= maxPacket {
			c.gossip("report "+r.Name, b)
		}
	}
}

// merge takes records and passes on those that were news.
func (c *Cluster) merge(recs []records.Record) {
	news, err := c.d.Records.Merge(recs)
	if err != nil {
		c.log.Debug("records of other members were not written to disk", "error", err)
	}
	c.spread(news) // many came over TCP, and went to everybody
}

// compare takes the other half of a comparison and sends that member the records it lacks.
func (c *Cluster) compare(b []byte) error {
	s, err := parseComparison(b)
	for _, r := range s.reports {
		c.hear(r, false)
	}
	if err != nil {
		return err
	}
	if lacks := c.d.Records.Delta(s.digest); len(lacks) > 0 {
		c.post(s.from, nil, lacks)
	}
	return nil
}

// Refresh tells the others this node's state now rather than within two seconds: for
// changes that matter, such as draining.
func (c *Cluster) Refresh() { poke(c.refresh) }

// reporter tells this node's state at every turn.
func (c *Cluster) reporter() {
	tick := time.NewTicker(c.pace.report)
	defer tick.Stop()
	for {
		c.tell()
		c.forget(time.Now())
		c.mayHaveChanged()
		select {
		case <-c.stop:
			return
		case <-tick.C:
		case <-c.refresh:
		}
	}
}

// tell gossips a report; one with other sources than the last goes whole to everybody.
func (c *Cluster) tell() {
	r, sources, changed := c.makeReport(false)
	b := r.encode()
	if len(b) <= maxPacket {
		c.gossip("report "+c.name, b)
	}
	if changed || len(b) > maxPacket {
		r.Sources = &sources
		b = r.encode()
		for _, n := range c.presentPeers() {
			c.post(n.Name, b, nil)
		}
	}
}

// sayGoodbye tells everybody that this node leaves of its own will: memberlist does
// not say whether a member left or died.
func (c *Cluster) sayGoodbye(ctx context.Context) {
	r, _, _ := c.makeReport(true)
	b := r.encode()
	var wg sync.WaitGroup
	for _, to := range c.presentPeers() {
		wg.Go(func() {
			if err := c.list.SendReliable(to, b); err != nil {
				c.log.Debug("goodbye was not heard", "member", to.Name, "error", err)
			}
		})
	}
	said := make(chan struct{})
	c.wg.Go(func() { wg.Wait(); close(said) })
	select {
	case <-said:
	case <-ctx.Done():
	}
}
