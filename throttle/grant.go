package throttle

import "time"

const (
	// fairCredit is how many permits a client that had no want for a moment may have
	// fallen behind and still make up.
	fairCredit = 4
	// fairDebt is how many permits a client makes up that it did not get while others were more urgent.
	fairDebt = 8
)

// Tick grants what is due at now. It returns what to tell the clients, in order, and
// when to call again: never before another call if next is negative. It need not be called more
// often than each 2 ms; what is due meanwhile comes in one Grant.
func (a *Authority) Tick(now time.Duration) (out []Out, next time.Duration) {
	a.daily.turn(a.o.Wall())
	a.releaseDue(now)
	a.expire(now)
	for len(a.turns) > 0 && a.turns[0].due <= now {
		a.serve(a.turns[0], now)
	}
	out, a.out = a.out, nil
	return out, a.Next()
}

// Next is when Tick should be called, as Tick returns it.
func (a *Authority) Next() time.Duration {
	next := never
	if len(a.releases) > 0 {
		next = a.releases[0].at
	}
	if len(a.turns) > 0 {
		next = min(next, a.turns[0].due)
	}
	if len(a.ends) > 0 {
		next = min(next, a.ends[0].at)
	}
	if next == never {
		return -1
	}
	return next
}

// serve is a key's turn.
func (a *Authority) serve(k *key, now time.Duration) {
	a.dropIdle(k, now)
	if len(k.members) == 0 && a.forget(k, now) {
		return
	}
	if !a.draining && now >= a.pausedTill {
		a.grantConnects(k, now)
		a.grantSends(k, now)
		for _, m := range k.members {
			a.flush(k, m, Connect)
			a.flush(k, m, Send)
		}
	}
	a.contend(k, now)
	a.hint(k, now)
	a.schedule(k, max(a.nextTurn(k, now), now+1))
}

func (a *Authority) grantConnects(k *key, now time.Duration) {
	if k.waiting[Connect-1] == 0 {
		return
	}
	for slots := a.slots(k); k.waiting[Connect-1] > 0 && k.count < slots; {
		at, ok := k.connect.slot(now, a.o.CatchUp)
		if !ok {
			return
		}
		k.connect.take(at)
		a.permit(k, Connect, at)
	}
}

func (a *Authority) grantSends(k *key, now time.Duration) {
	if k.waiting[Send-1] == 0 {
		return
	}
	for left := a.dailyLeft(k); k.waiting[Send-1] > 0 && left > 0; left-- {
		at, ok := k.send.slot(now, a.o.CatchUp)
		if !ok {
			return
		}
		k.send.take(at)
		a.permit(k, Send, at)
		a.daily.add(k, 1)
	}
}

// permit gives one permit to the client whose turn it is.
func (a *Authority) permit(k *key, kind Kind, at time.Duration) {
	i := kind - 1
	m := k.pick(kind)
	m.wants[i].n--
	k.waiting[i]--
	if m.pending[i].n > 0 && at-m.pending[i].at > mergeSpan {
		a.flush(k, m, kind)
	}
	if m.pending[i].n == 0 {
		m.pending[i].at = at
	}
	m.pending[i].n++
	if kind == Connect {
		a.add(k, m, &lease{state: granted, until: a.lapse(at)})
	}
}

// flush puts a member's new permits into an Out.
func (a *Authority) flush(k *key, m *member, kind Kind) {
	p := &m.pending[kind-1]
	if p.n == 0 {
		return
	}
	g := &Grant{Key: k.id, Kind: kind, N: p.n, At: p.at}
	if kind == Connect {
		g.Lease = a.nextLease
		for _, l := range m.leases[len(m.leases)-p.n:] { // those of this turn are the latest
			a.name(l, a.nextLease)
			a.nextLease++
		}
	}
	a.out = append(a.out, Out{Client: m.client.name, Grant: g})
	m.hinted[kind-1] = hinted{}
	*p = pending{}
}

// pick chooses the client whose turn it is and moves it back in the fair queue. Those with
// the most urgent message come first. Among them: for messages, who was served least for its
// flows; for connections, who holds least for its flows, then who was served least.
func (k *key) pick(kind Kind) *member {
	i := kind - 1
	var best *member
	for _, m := range k.members {
		if m.wants[i].n > 0 && (best == nil || m.before(best, kind)) {
			best = m
		}
	}
	w := &best.wants[i]
	k.virtual[i] = max(k.virtual[i], w.virtual)
	for _, m := range k.members {
		if x := &m.wants[i]; x.n > 0 && x.priority < w.priority { // who has to wait for more urgent ones is not owed all of it
			x.virtual = max(x.virtual, w.virtual-fairDebt/float64(x.flows))
		}
	}
	w.virtual += 1 / float64(w.flows)
	return best
}

func (m *member) before(other *member, kind Kind) bool {
	x, y := &m.wants[kind-1], &other.wants[kind-1]
	if x.priority != y.priority {
		return x.priority > y.priority
	}
	if kind == Connect {
		held, others := len(m.leases)*y.flows, len(other.leases)*x.flows
		if held != others {
			return held < others
		}
	}
	return x.virtual < y.virtual
}

// nextTurn is when the key needs a turn though nothing happens before.
func (a *Authority) nextTurn(k *key, now time.Duration) time.Duration {
	due := never
	switch {
	case a.draining || k.waiting[Send-1] == 0:
	case a.dailyLeft(k) <= 0:
		due = now + a.daily.untilNext(a.o.Wall())
	default:
		due = max(k.send.next, a.pausedTill)
	}
	if !a.draining && k.waiting[Connect-1] > 0 && k.count < a.slots(k) {
		due = min(due, max(k.connect.next, a.pausedTill))
	}
	for _, m := range k.members {
		if m.told {
			due = min(due, k.contendedAt+calmAfter)
		}
		if m.limits != nil && len(m.leases) == 0 && !m.waits() {
			due = min(due, m.said+forgetAfter)
		}
	}
	if len(k.members) == 0 && k.count == 0 {
		due = min(due, k.forgetAt())
	}
	return due
}

// dropIdle drops the members that have wanted nothing for long: what they said of the limits may be old.
func (a *Authority) dropIdle(k *key, now time.Duration) {
	dropped := false
	for i := len(k.members) - 1; i >= 0; i-- {
		m := k.members[i]
		if m.limits != nil && len(m.leases) == 0 && !m.waits() && m.said+forgetAfter <= now {
			m.limits = nil
			a.drop(k, m)
			dropped = true
		}
	}
	if dropped {
		a.relimit(k, now)
	}
}

// forgetAt is when a key without members can go: a new one would be the same.
func (k *key) forgetAt() time.Duration {
	at := max(k.seen+forgetAfter, k.send.next, k.connect.next)
	if k.factor() < 1 {
		at = max(at, k.seen+rememberFactor)
	} else if k.loop != nil {
		at = max(at, k.seen+staleWindows*k.limits.Loop.Window)
	}
	return at
}

// forget removes the key if it is time.
func (a *Authority) forget(k *key, now time.Duration) bool {
	if k.count > 0 || now < k.forgetAt() {
		return false
	}
	a.schedule(k, never)
	delete(a.keys, k.id)
	return true
}
