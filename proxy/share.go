package proxy

import (
	"math"
	"time"
)

// shareKey is what the weights of a pool hold over: each provider for itself.
type shareKey struct{ pool, provider string }

// lane is where one source stands. Its position is messages sent, divided by
// its weight; whoever is behind goes next (start-time fair queueing).
type lane struct {
	begun    bool
	position float64
	// prepaid are picks whose messages were not told yet. A pick is charged as
	// one message at once, so that ten connections opened together spread.
	prepaid int
}

// share is the state of one pool at one provider.
type share struct {
	clock float64 // position of the source picked last: nobody who returns may be behind it
	lanes []lane  // of the pool's members, in their order
}

// shares holds the state of many, in two generations: what is used moves to the young one;
// when that is full the old one is forgotten, whose shares then begin anew.
type shares struct {
	young, old map[shareKey]*share
}

const (
	maxShares  = 10_000 // in a generation
	maxPrepaid = 16
	maxStart   = 3  // messages, how far sources can be apart at the beginning
	aheadBy    = 20 // messages over its share that Ahead lets pass
)

func newShares() shares {
	return shares{young: map[shareKey]*share{}, old: map[shareKey]*share{}}
}

func (s *shares) get(def *Pool, provider string) *share {
	key := shareKey{def.Name, provider}
	if sh := s.young[key]; sh != nil {
		return sh
	}
	sh := s.old[key]
	if sh == nil {
		sh = &share{lanes: make([]lane, len(def.Sources))}
	}
	if len(s.young) >= maxShares {
		s.old, s.young = s.young, map[shareKey]*share{}
	}
	s.young[key] = sh
	return sh
}

// Pick chooses the source for one more connection: of those that are up and for
// which usable is true, the one that is most behind its share of the messages
// to the provider. If there is none, the fallback pools are asked in turn.
// A nil usable takes all. usable is called under a lock and must not call back.
//
// What a source did not send while it could not be used is not made up for.
func (p *Pools) Pick(pool, provider string, _ time.Time, usable func(source string) bool) (source string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.t.Load()
	for def := t.pools[pool]; def != nil; def = t.pools[def.Fallback] {
		if source, ok := p.pick(def, provider, usable); ok {
			return source, true
		}
		if def.Fallback == "" {
			break
		}
	}
	return "", false
}

func (p *Pools) pick(def *Pool, provider string, usable func(string) bool) (string, bool) {
	sh := p.shares.get(def, provider)
	var best *lane
	var member Member
	for i, m := range def.Sources {
		if !p.up(m.Name) || usable != nil && !usable(m.Name) {
			continue
		}
		l := &sh.lanes[i]
		if !l.begun {
			l.begun, l.position = true, sh.clock+p.start()/float64(m.weight())
		}
		l.position = max(l.position, sh.clock)
		if best == nil || l.position < best.position {
			best, member = l, m
		}
	}
	if best == nil {
		return "", false
	}
	sh.clock = best.position
	if best.prepaid++; best.prepaid > maxPrepaid {
		best.prepaid = maxPrepaid // picks that came to nothing: it is not owed more than that
	}
	best.position += 1 / float64(member.weight())
	return member.Name, true
}

// Unpick takes a Pick back of which no connection came.
func (p *Pools) Unpick(pool, provider, source string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, _, weight := p.lane(pool, provider, source); l != nil && l.prepaid > 0 {
		l.prepaid--
		l.position -= 1 / float64(weight)
	}
}

// CanPick reports whether Pick would find a source. It charges nobody.
func (p *Pools) CanPick(pool string, usable func(source string) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.t.Load()
	for def := t.pools[pool]; def != nil; def = t.pools[def.Fallback] {
		for _, m := range def.Sources {
			if p.up(m.Name) && (usable == nil || usable(m.Name)) {
				return true
			}
		}
		if def.Fallback == "" {
			break
		}
	}
	return false
}

// start is how many messages a source seems to have sent before its first. It
// is exponentially distributed: the first pick then falls on each source as
// its weight says, so that the weights hold too over many sites with one message each.
func (p *Pools) start() float64 {
	return min(-math.Log1p(-p.d.Float()), maxStart)
}

// Sent tells of n more messages that a source sent, or is about to send, to a provider for a pool.
func (p *Pools) Sent(pool, provider, source string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, sh, weight := p.lane(pool, provider, source)
	if l == nil {
		return
	}
	if !l.begun { // its share was forgotten, or it is picked by other ways
		l.begun, l.position = true, sh.clock
	}
	paid := min(n, l.prepaid)
	l.prepaid -= paid
	l.position += float64(n-paid) / float64(weight)
}

// Ahead reports whether a source has sent notably more than its share, so that
// a session of it may end in favour of another source. Ask Pick which: if the
// others cannot be used, it gives the same source again, which is then not ahead any more.
func (p *Pools) Ahead(pool, provider, source string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, sh, weight := p.lane(pool, provider, source)
	return l != nil && len(sh.lanes) > 1 && (l.position-sh.clock)*float64(weight) > aheadBy
}

// lane finds a source in a pool or, failing that, in its fallbacks.
func (p *Pools) lane(pool, provider, source string) (*lane, *share, int) {
	t := p.t.Load()
	for def := t.pools[pool]; def != nil; def = t.pools[def.Fallback] {
		for i, m := range def.Sources {
			if m.Name == source {
				sh := p.shares.get(def, provider)
				return &sh.lanes[i], sh, m.weight()
			}
		}
		if def.Fallback == "" {
			break
		}
	}
	return nil, nil, 0
}
