package desk

import (
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// Mode is how a key's limits are kept.
type Mode uint8

// The modes.
const (
	Owner  Mode = iota // this node is the authority
	Remote             // a proxy or another node is
	Lost               // the owner was just lost, or does not think that it is: nothing is granted yet
	Share              // the owner cannot be reached: this node uses its share
	Cut                // the owner cannot be reached for too long
	Down               // the proxy cannot be reached
)

// String returns the mode in a word.
func (m Mode) String() string {
	return [...]string{"owner", "remote", "lost", "share", "cut off", "down"}[m]
}

// rank orders nodes by who should own the key: the highest random weight first.
// All nodes and versions must agree on it.
func rank(nodes []string, k throttle.Key) []string {
	if len(nodes) < 2 {
		return nodes
	}
	type weighed struct {
		name   string
		weight uint64
	}
	text := k.String()
	all := make([]weighed, len(nodes))
	for i, n := range nodes {
		h := fnv.New64a()
		_, _ = io.WriteString(h, n)
		_, _ = io.WriteString(h, "\x00")
		_, _ = io.WriteString(h, text)
		all[i] = weighed{n, mix(h.Sum64())}
	}
	slices.SortFunc(all, func(a, b weighed) int {
		if a.weight != b.weight {
			if a.weight > b.weight {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	order := make([]string, len(all))
	for i, w := range all {
		order[i] = w.name
	}
	return order
}

// mix spreads the bits of an FNV hash, whose high ones hardly depend on the last bytes (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// home is where a key's wants belong now.
func (d *Desk) home(lim *limiter, now time.Time) (*Port, Mode) {
	if lim.proxy != "" {
		if p := d.proxies[lim.proxy]; p != nil && p.up {
			return p, Remote
		}
		return nil, Down
	}
	for i, n := range lim.order {
		if n == d.o.Node {
			return d.own, Owner
		}
		peer := d.peers[n]
		switch {
		case peer.state == isDead:
			continue
		case peer.state == isMet && now.Before(lim.refused):
			return nil, Lost
		case peer.state == isMet:
			return peer.port, Remote
		case lim.interim != nil && lim.interim == d.next(lim.order[i+1:]):
			return lim.interim, Remote
		case peer.state == isShared:
			return d.share, Share
		case peer.state == isLost:
			return nil, Lost
		}
		return nil, Cut
	}
	return d.own, Owner // alone
}

// next is the node in contact that would own a key if those before it were dead; nil: none.
func (d *Desk) next(order []string) *Port {
	for _, n := range order {
		if n == d.o.Node {
			return nil
		}
		switch p := d.peers[n]; p.state {
		case isDead:
		case isMet:
			return p.port
		default:
			return nil
		}
	}
	return nil
}

// probe asks the node that would own a key in place of one which is out of our reach
// whether it does: it may know that one to be dead, and then counts on us. Its answer
// is a grant or a hint, or that it refuses.
func (d *Desk) probe(lim *limiter, now time.Time) {
	var to *Port
	for i, n := range lim.order {
		if n == d.o.Node || d.peers[n].state == isMet {
			return // we are next, or it will serve us
		}
		if d.peers[n].state != isDead {
			to = d.next(lim.order[i+1:])
			break
		}
	}
	if to == nil || to == lim.at {
		return
	}
	d.wakeAt(now, now.Add(believe))
	if now.Sub(lim.probed) < believe {
		return
	}
	lim.probed = now
	w := throttle.Want{Key: lim.key, Kind: throttle.Connect, Limits: lim.limits, N: 1}
	d.post(func() { to.link.Want(w) })
}

// answered notes that a node which does not limit the key acts as its owner.
func (d *Desk) answered(lim *limiter, by *Port, now time.Time) {
	if by.kind == Node && by.up && lim.proxy == "" && (lim.mode == Lost || lim.mode == Share || lim.mode == Cut) {
		lim.interim = by
		d.place(lim, now)
	}
}

// authority tells who limits a key and, if nobody does, why.
func (d *Desk) authority(lim *limiter) (name string, mode Mode, why string) {
	if lim.at != nil {
		name = lim.at.name
	}
	first := d.first(lim)
	switch lim.mode {
	case Down:
		why = "no contact with proxy " + lim.proxy
	case Lost:
		why = "no agreement yet on the owner of the limit, " + first
	case Cut:
		why = "cut off from " + first + ", the owner of the limit, for longer than cut_off_for"
		if !d.peers[first].known {
			why = "no contact since the start with " + first + ", the owner of the limit"
		}
	case Share:
		if lim.lanes[throttle.Connect-1].n > 0 && lim.limits.Connections > 0 && lim.kept == 0 {
			why = "cut off from " + first + ", the owner of the limit, with no connection open that it counts for this node"
		}
	}
	return name, lim.mode, why
}

// place moves a key to where it belongs.
func (d *Desk) place(lim *limiter, now time.Time) {
	port, mode := d.home(lim, now)
	if port == lim.at && mode == lim.mode && port != nil {
		return
	}
	was := lim.mode
	if port != lim.at {
		d.move(lim, port)
	}
	lim.mode = mode
	if mode == Lost && was != Lost && was != Share {
		lim.kept = len(lim.held)
	}
	if port != nil {
		d.renew(lim, now)
	}
	if mode == Share || mode == Cut || mode == Lost && d.reborn(lim) {
		d.trim(lim)
	}
	if mode == Down || mode == Cut {
		d.fail(lim, ErrDown)
	}
}

// reborn reports whether the node that should own the key is a new process, out of our reach: it counts
// on our using no more than our share from its start on.
func (d *Desk) reborn(lim *limiter) bool {
	p := d.peers[d.first(lim)]
	return p != nil && p.reborn
}

// first is the node that should own the key, of those that are not dead.
func (d *Desk) first(lim *limiter) string {
	for _, n := range lim.order {
		if n == d.o.Node || d.peers[n].state != isDead {
			return n
		}
	}
	return ""
}

// move takes a key from its authority.
func (d *Desk) move(lim *limiter, to *Port) {
	if from := lim.at; from != nil {
		delete(from.lims, lim)
		if from.up {
			d.forsake(lim, from)
		}
	}
	for i := range lim.lanes {
		l := &lim.lanes[i]
		d.giveUp(l, len(l.bank))
		l.told, l.hint = throttle.Want{}, throttle.Hint{}
	}
	lim.at, lim.factor = to, 1
	if to != nil {
		if to.lims == nil {
			to.lims = make(map[*limiter]struct{})
		}
		to.lims[lim] = struct{}{}
	}
}

// forsake tells an authority that is in contact that another one took its place. It goes on
// counting the connections until they end: it may be the owner again before that.
func (d *Desk) forsake(lim *limiter, from *Port) {
	link, key := from.link, lim.key
	for i := range lim.lanes {
		if w := lim.lanes[i].told; w.N > 0 {
			d.post(func() { link.Want(throttle.Want{Key: key, Kind: w.Kind, Limits: w.Limits}) })
		}
	}
	for _, h := range lim.held {
		if !slices.Contains(h.also, from) {
			h.also = append(h.also, from)
		}
	}
}

// renew tells an authority all about a key.
func (d *Desk) renew(lim *limiter, now time.Time) {
	if len(lim.held) > 0 {
		link, key, ids, limits := lim.at.link, lim.key, lim.leases(), lim.limits
		if lim.mode == Share {
			limits.Connections, _ = d.shareable(lim, 0)
		}
		d.post(func() { link.Hold(key, ids, limits) })
	}
	for i := range lim.lanes {
		lim.lanes[i].told = throttle.Want{}
		d.settle(&lim.lanes[i], now)
	}
}

// fail ends waits for which there is no hope: those for a proxy's keys all, as another source may do;
// those for other keys only when a connection is held up by them.
func (d *Desk) fail(lim *limiter, err error) {
	now := time.Now()
	for i := range lim.lanes {
		if lim.proxy == "" && lim.lanes[i].kind == throttle.Connect && err == ErrDown {
			continue
		}
		lim.lanes[i].each(func(w *waiter) { w.owner.fail(err, now) })
	}
}

// unreachable is the error for a wait that has no hope.
func (d *Desk) unreachable(l *lane) error {
	switch lim := l.lim; {
	case d.closed:
		return errClosed
	case lim.mode == Down, lim.mode == Cut && l.kind == throttle.Send:
		return ErrDown
	}
	return nil
}
