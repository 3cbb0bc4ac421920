package throttle

import (
	"container/heap"
	"math"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// unlimited is a count without a limit.
const unlimited = math.MaxInt

// maxSaid bounds the table of distinct limits.
const maxSaid = 10_000

// intern returns the one stored copy of l.
func (a *Authority) intern(l Limits) *Limits {
	if p := a.said[l]; p != nil {
		return p
	}
	if len(a.said) >= maxSaid {
		clear(a.said)
	}
	a.said[l] = &l
	return &l
}

// hear takes what a member says of the limits.
func (a *Authority) hear(k *key, m *member, l Limits, now time.Duration) {
	m.said = now
	if m.limits != nil && *m.limits == l {
		return
	}
	m.limits = a.intern(l)
	a.relimit(k, now)
}

// relimit finds the limits of a key: of each value the least that a member said.
// While configurations differ the strictest holds, so none of them is exceeded.
func (a *Authority) relimit(k *key, now time.Duration) {
	var least *Limits
	for _, m := range k.members {
		switch {
		case m.limits == nil || m.limits == least:
		case least == nil:
			least = m.limits
		default:
			least = a.intern(strictest(*least, *m.limits))
		}
	}
	if least == nil || least == k.limits { // with nobody in contact, what held goes on
		return
	}
	if a.reserved > 0 {
		k.shared = max(k.shared, k.limits.Connections/a.configured)
	}
	k.limits = least
	a.adjustLoop(k, now)
	a.repace(k, now)
	a.wake(k, now)
}

func strictest(x, y Limits) Limits {
	x.Connections = lessSet(x.Connections, y.Connections)
	x.Daily = lessSet(x.Daily, y.Daily)
	x.ConnectRate = lessRate(x.ConnectRate, y.ConnectRate)
	x.MessageRate = lessRate(x.MessageRate, y.MessageRate)
	if !x.Loop.on() || y.Loop.on() && y.Loop.High < x.Loop.High {
		x.Loop = y.Loop
	}
	return x
}

// lessSet is the lesser of two limits of which 0 is none.
func lessSet[T int | int64](x, y T) T {
	if x <= 0 || y > 0 && y < x {
		return y
	}
	return x
}

func lessRate(x, y units.Rate) units.Rate {
	if y.Less(x) {
		return y
	}
	return x
}

// repace sets the pace by limits, factor, share and absents.
func (a *Authority) repace(k *key, now time.Duration) {
	part := a.o.Pace * a.part()
	k.connect.set(intervalOf(k.limits.ConnectRate.PerSecond()*part), now, a.o.CatchUp)
	k.send.set(intervalOf(k.limits.MessageRate.PerSecond()*part*k.factor()), now, a.o.CatchUp)
}

// part is the share of each rate that this authority may grant.
func (a *Authority) part() float64 {
	switch {
	case a.share > 1:
		return 1 / float64(a.share)
	case a.reserved > 0:
		return float64(a.configured-a.reserved) / float64(a.configured)
	}
	return 1
}

// partOf is what this authority may grant of a count; limit <= 0 is none.
func (a *Authority) partOf(limit int) int {
	switch {
	case limit <= 0:
		return unlimited
	case a.share > 1:
		return limit / a.share
	case a.reserved > 0:
		return limit - a.reserved*(limit/a.configured)
	}
	return limit
}

// slots is how many connections the key may have, counting all leases known here.
//
// A node that is absent counts with its share, or with the connections it had here if they
// are more: it keeps them only as far as its share goes, and opens others only below that.
func (a *Authority) slots(k *key) int {
	limit := k.limits.Connections
	if limit <= 0 || a.reserved == 0 || a.share > 1 {
		return a.partOf(limit)
	}
	share := max(limit/a.configured, k.shared)
	reserved := a.reserved * share
	for _, m := range k.members {
		if !m.client.joined {
			reserved -= min(share, len(m.leases))
		}
	}
	return max(limit-max(reserved, 0), 0)
}

// release is a share that was reserved for nodes which are back, and is granted again from a time on.
type release struct {
	nodes int
	at    time.Duration
}

// SetAbsent says how many of the configured nodes are out of contact and may still be
// alive: each may use its share by itself, so that much is not granted. configured 0: there are no such nodes.
// A share is granted again only Options.Expiry and Options.Linger after its node is back or gone: by
// then it told what it holds, or what it held ended.
//
// A client that is counted here must have left, without dead; when it is no longer counted
// because it is gone for good, say so by Leave with dead.
func (a *Authority) SetAbsent(absent, configured int, now time.Duration) {
	absent = min(max(absent, 0), max(configured-1, 0))
	if configured != a.configured { // another cluster: what was reserved means nothing now
		a.releases = nil
	} else if absent < a.absent {
		a.releases = append(a.releases, release{a.absent - absent, now + a.settle()})
	}
	changed := configured != a.configured
	a.absent, a.configured = absent, configured
	a.reserve(changed, now)
}

// settle is how long a node that is back may have connections that nobody knows of: it tells what it
// holds within Expiry, and what ends before it told lingers.
func (a *Authority) settle() time.Duration { return a.o.Expiry + a.o.Linger }

// reserve finds for how many nodes a share is reserved.
func (a *Authority) reserve(changed bool, now time.Duration) {
	n := a.absent
	for _, r := range a.releases {
		n += r.nodes
	}
	n = min(n, max(a.configured-1, 0))
	if n != a.reserved || changed {
		a.reserved = n
		a.repaceAll(now)
	}
}

// releaseDue grants again what was reserved for nodes that are back. Releases are in the order of their time.
func (a *Authority) releaseDue(now time.Duration) {
	if len(a.releases) == 0 || a.releases[0].at > now {
		return
	}
	a.releases = slices.DeleteFunc(a.releases, func(r release) bool { return r.at <= now })
	a.reserve(false, now)
}

// SetShare makes the authority serve one of configured parts of each limit, as a node does that
// is cut off from the owner; 0 or 1: all of it.
func (a *Authority) SetShare(configured int, now time.Duration) {
	if configured == a.share {
		return
	}
	a.share = configured
	a.repaceAll(now)
}

// repaceAll looks at every key: a pace must change at its time, and contacts change rarely. Only keys
// that may get something sooner have their turn earlier; the others find out at their time.
func (a *Authority) repaceAll(now time.Duration) {
	for _, k := range a.keys {
		if a.reserved == 0 {
			k.shared = 0
		}
		a.repace(k, now)
		due := k.due
		switch {
		case k.waiting[Connect-1] > 0 || k.limits.Daily > 0:
			due = now
		case k.waiting[Send-1] > 0:
			due = min(due, max(k.send.next, now))
		}
		if k.index < 0 && due != never {
			a.schedule(k, due)
		}
		k.due = due
	}
	heap.Init(&a.turns)
}
