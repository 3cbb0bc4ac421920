package desk

import (
	"log/slog"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// Link is the way to an authority. Its methods must not block, and do nothing without contact.
type Link interface {
	Want(w throttle.Want)
	Opened(k throttle.Key, lease uint64)
	Done(k throttle.Key, lease uint64, clean bool)
	Charge(k throttle.Key, n int)
	Unused(k throttle.Key, kind throttle.Kind, n int)
	Observe(k throttle.Key, s throttle.Sample)
	Hold(k throttle.Key, leases []uint64, l throttle.Limits)
}

// DialWithin is how long a link to another node may try to connect. A process that died and came
// back out of our reach must be seen not to be dead before it grants anything.
const DialWithin = 500 * time.Millisecond

// Kind is what is at the other end of a link.
type Kind uint8

// The kinds of links.
const (
	Proxy Kind = iota // a Godwit proxy: the authority of its sources
	Node              // another node
	local             // an authority of this desk
)

// Port is where the desk hears from one authority; its methods are the events of a grant client.
type Port struct {
	d    *Desk
	name string
	kind Kind

	// Under the desk's lock.
	link Link
	up   bool
	lims map[*limiter]struct{} // that are told to this authority
}

// AddLink makes the port for the authority of that name, which for a Node must be a
// configured one. l may be nil, and set by Use before there is contact. There is one port for a name: adding it
// again returns it.
func (d *Desk) AddLink(name string, kind Kind, l Link) *Port {
	d.mu.Lock()
	defer d.unlock()
	var p *Port
	if kind == Proxy {
		if p = d.proxies[name]; p == nil {
			p = &Port{d: d, name: name, kind: Proxy}
			d.proxies[name] = p
		}
	} else if peer := d.peers[name]; peer != nil {
		p = peer.port
	} else {
		p = &Port{d: d, name: name, kind: Node} // of no use to any key
	}
	if l != nil {
		p.link = l
	}
	return p
}

// Use sets the link of a port.
func (p *Port) Use(l Link) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.link = l
}

// Remove forgets the proxy: its limits are out of reach until it is added again.
func (p *Port) Remove() {
	p.contact(false, false)
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.d.proxies[p.name] == p {
		delete(p.d.proxies, p.name)
	}
}

// Contact tells that there is contact, or none; dead: the authority's process is gone.
// When it returns after contact was made, the link was told all that this node holds and wants.
func (p *Port) Contact(up, dead bool) {
	p.contact(up, dead)
	p.d.barrier()
}

func (p *Port) contact(up, dead bool) {
	d := p.d
	d.mu.Lock()
	now := time.Now()
	was := p.up
	p.up = up && p.link != nil
	if was != p.up {
		d.d.Logger.Info("contact of limits", slog.String("authority", p.name), slog.Bool("up", p.up), slog.Bool("dead", dead))
	}
	if p.kind == Proxy {
		d.reached(p, was, now)
	} else if peer := d.peers[p.name]; peer != nil && peer.port == p {
		d.met(peer, was, dead, now)
	}
	d.unlock()
}

// reached deals with contact to a proxy.
func (d *Desk) reached(p *Port, was bool, now time.Time) {
	for _, lim := range d.limiters {
		if lim.proxy == p.name {
			d.place(lim, now)
		}
	}
	if p.up && was { // another contact at once
		for lim := range p.lims {
			d.renew(lim, now)
		}
	}
	if f := d.d.OnReach; f != nil && was != p.up {
		name, up := p.name, p.up
		d.post(func() { f(name, up) })
	}
}

// Reachable reports whether there is contact with a proxy.
func (d *Desk) Reachable(proxy string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.proxies[proxy]
	return p != nil && p.up
}

// Granted tells of permits; born is their instant on our clock.
func (p *Port) Granted(g throttle.Grant, born time.Time) {
	p.d.mu.Lock()
	defer p.d.unlock()
	p.d.granted(p, g, born)
}

// Hinted tells what to expect.
func (p *Port) Hinted(h throttle.Hint) {
	d := p.d
	d.mu.Lock()
	defer d.unlock()
	lim := d.limiters[h.Key]
	if lim != nil && lim.at != p {
		d.answered(lim, p, time.Now())
		return
	}
	if lim == nil || h.Kind != throttle.Connect && h.Kind != throttle.Send {
		return
	}
	l := &lim.lanes[h.Kind-1]
	now := time.Now()
	if h.Reason == "" { // of contention only
		l.hint.Contended = h.Contended
		return
	}
	l.hint, l.hintAt = h, now
	if h.Kind == throttle.Send && h.After >= d.o.Patience {
		l.each(func(w *waiter) {
			w.owner.fail(&LateError{Key: h.Key, After: h.After, Reason: h.Reason}, now)
		})
	}
}

// Changed tells that the closed loop set another rate.
func (p *Port) Changed(c throttle.Change) {
	d := p.d
	d.mu.Lock()
	defer d.unlock()
	if lim := d.limiters[c.Key]; lim != nil && lim.at == p {
		lim.factor = c.Factor
	}
	if f := d.d.OnChange; f != nil && c.Reason != "" { // without: the state, for who comes new
		d.post(func() { f(p.name, c) })
	}
}

// believe is how long a node is believed that it does not own a key.
const believe = 500 * time.Millisecond

// Refused tells that the node is not the owner of the key, as it sees the others: one that we
// cannot reach it can, or the other way round.
func (p *Port) Refused(k throttle.Key) {
	d := p.d
	d.mu.Lock()
	defer d.unlock()
	lim := d.limiters[k]
	if lim == nil {
		return
	}
	now := time.Now()
	if lim.interim == p {
		lim.interim = nil
	}
	if lim.at == p {
		lim.refused = now.Add(believe)
		d.place(lim, now)
		d.wakeAt(now, lim.refused)
	}
}

// Owns reports whether this node owns a key: those that should sooner are dead, as far as it
// knows. A node that believes so for a first time waits until what they granted has lapsed.
func (d *Desk) Owns(k throttle.Key) bool {
	if len(d.o.Nodes) == 0 {
		return true
	}
	order := rank(d.o.Nodes, k)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range order {
		if n == d.o.Node {
			return true
		}
		if d.peers[n].state != isDead {
			return false
		}
	}
	return false
}

// local makes the port to an authority in this process.
func (d *Desk) local(k *throttle.Keeper) *Port {
	p := &Port{d: d, name: d.o.Node, kind: local, up: true}
	p.link = k.Attach(d.o.Node, func(outs []throttle.Out) {
		start := time.Now().Add(-k.Now())
		for i := range outs {
			switch o := &outs[i]; {
			case o.Grant != nil:
				p.Granted(*o.Grant, start.Add(o.Grant.At))
			case o.Hint != nil:
				p.Hinted(*o.Hint)
			case o.Change != nil:
				p.Changed(*o.Change)
			}
		}
	})
	return p
}
