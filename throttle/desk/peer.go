package desk

import (
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// peer is another configured node, seen from both sides of the two links.
//
// As an authority, by our link to it:
//
//	(start) unheard --contact--> met --lost--> lost --1 s--> shared --CutOffFor--> cut
//	any --connection refused--> dead --not refused any more--> lost
//
// As a client, by its link to us: present; absent and reserved for; absent for so long that it must have stopped.
type peer struct {
	name   string
	port   *Port
	state  peerState
	lostAt time.Time
	known  bool // there was contact, or it was dead: it heard of us, or began after us
	dead   bool
	reborn bool // it was dead and is so no more: its new process does not know what we hold

	here     bool      // it is in contact as a client
	hereAt   time.Time // when that changed
	forgiven bool      // it is absent, and was told to the keeper to be gone
}

type peerState uint8

const (
	isUnheard peerState = iota
	isMet
	isLost
	isShared
	isCut
	isDead
)

// shareAfter is how long after the loss of contact a share is used: by then the owner
// has noticed the loss, too.
const shareAfter = time.Second

// cutOffMargin is how much longer an owner reserves a share than a node uses it.
const cutOffMargin = 2 * time.Second

// met deals with contact to another node.
func (d *Desk) met(p *peer, was, dead bool, now time.Time) {
	if was && !p.port.up || p.dead && !dead {
		p.lostAt = now
	}
	p.known = p.known || p.port.up || dead
	p.reborn = !p.port.up && !dead && (p.reborn || p.dead)
	p.dead = dead && !p.port.up
	if p.port.up && !was {
		// Who has not told an owner of its connections is not counted: ask again at once.
		for _, lim := range d.limiters {
			lim.refused = time.Time{}
		}
	}
	d.review(now)
	if p.port.up && was {
		for lim := range p.port.lims {
			d.renew(lim, now)
		}
	}
}

// NodeContact tells that another node is in contact with this one's Keeper, or no more; it
// is the OnContact of the server.
func (d *Desk) NodeContact(node string, up bool) {
	d.mu.Lock()
	defer d.unlock()
	if p := d.peers[node]; p != nil && p.here != up {
		p.here, p.hereAt, p.forgiven = up, time.Now(), false
		d.review(p.hereAt)
	}
}

// judge is the state of a peer, and when it changes by itself (zero: never).
func (d *Desk) judge(p *peer, now time.Time) (peerState, time.Time) {
	gone := now.Sub(p.lostAt)
	switch {
	case p.port.up:
		return isMet, time.Time{}
	case p.dead:
		return isDead, time.Time{}
	case !p.known:
		return isUnheard, time.Time{}
	case gone < shareAfter:
		return isLost, p.lostAt.Add(shareAfter)
	case gone >= d.o.CutOffFor.D():
		return isCut, time.Time{}
	}
	return isShared, p.lostAt.Add(d.o.CutOffFor.D())
}

// review brings everything in line with who is in contact, and sets the timer for
// when that has to be looked at again.
func (d *Desk) review(now time.Time) {
	if d.closed {
		return
	}
	changed, owners, shared := false, false, false
	for _, p := range d.peers {
		state, until := d.judge(p, now)
		d.wakeAt(now, until)
		if state != p.state {
			changed = true
			owners = owners || state == isDead || p.state == isDead
			p.state = state
		}
		shared = shared || p.state == isShared
	}
	d.reserve(now)
	if owners {
		d.keeper.Pause()
		if f := d.d.OnOwners; f != nil {
			d.post(f)
		}
	}
	if shared && d.share == nil {
		d.openShare()
	}
	for _, lim := range d.limiters {
		if lim.proxy != "" {
			continue
		}
		if changed || lim.mode == Lost {
			d.place(lim, now)
		}
		if lim.mode == Lost || lim.mode == Share || lim.mode == Cut {
			d.probe(lim, now)
		}
		if now.Before(lim.refused) {
			d.wakeAt(now, lim.refused)
		}
	}
	if !shared && d.share != nil {
		d.share, d.shares = nil, d.closeShare()
	}
}

// openShare starts the authority of this node's shares.
func (d *Desk) openShare() {
	o := d.o.Throttle
	o.Expiry = 0 // shareAfter was enough
	d.shares = throttle.NewKeeper(o)
	d.shares.SetShare(len(d.o.Nodes))
	d.share = d.local(d.shares)
}

// closeShare ends it. Its goroutine may be waiting for the desk's lock.
func (d *Desk) closeShare() *throttle.Keeper {
	shares := d.shares
	d.share.up = false
	d.post(func() { go shares.Close() })
	return nil
}

// reserve tells the own keeper how many nodes may use their share of its limits.
func (d *Desk) reserve(now time.Time) {
	if len(d.peers) == 0 {
		return
	}
	absent := 0
	for _, p := range d.peers {
		switch stopped := p.hereAt.Add(d.o.CutOffFor.D() + cutOffMargin); {
		case p.here:
			// It stopped its share before it told what it holds, and only then it counts as here.
		case p.state == isDead:
			d.forgive(p)
		case now.Before(stopped):
			absent++
			d.wakeAt(now, stopped)
		default:
			d.forgive(p)
		}
	}
	if absent != d.absent {
		d.absent = absent
		d.keeper.SetAbsent(absent, len(d.o.Nodes))
	}
}

// forgive tells the keeper that a node that left is gone for good.
func (d *Desk) forgive(p *peer) {
	if !p.forgiven {
		p.forgiven = true
		d.keeper.Gone(p.name)
	}
}

// wakeAt makes sure that review runs at a time.
func (d *Desk) wakeAt(now, at time.Time) {
	if at.IsZero() || d.closed || !d.timerAt.IsZero() && !at.Before(d.timerAt) {
		return
	}
	d.timerAt = at
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer = time.AfterFunc(max(at.Sub(now), 0), func() {
		d.mu.Lock()
		defer d.unlock()
		d.timerAt = time.Time{}
		d.review(time.Now())
	})
}
