package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/desk"
)

// lease is the permission for one connection from one source to one site. It
// is the queue's Lease, and the Dialer of the session that is opened under it.
type lease struct {
	gate     *Gate
	source   string
	site     string // of the route
	pool     string
	key      string // of the ready queue
	provider string
	plan     *plan

	mu      sync.Mutex
	permits *desk.Lease
	dialled bool
	failed  bool // no session came about
	closed  bool
	gone    chan struct{} // closed when the connection is to end
	revoked bool
	hurry   context.CancelFunc // ends the wait for a message permit
}

// newLease makes a lease of what the desk granted. g.mu is held.
func (g *Gate) newLease(x *demand, r *request, permits *desk.Lease) *lease {
	l := &lease{gate: g, source: r.source, site: x.Site, pool: x.Pool, key: x.Key, provider: x.Provider, plan: r.plan,
		permits: permits, gone: make(chan struct{})}
	g.open[spot{l.source, l.key}]++
	g.leases[l] = struct{}{}
	l.guard(permits)
	return l
}

// guard sees to it that the session hears when the desk wants a connection back.
func (l *lease) guard(permits *desk.Lease) {
	if l.plan.spans && l.gate.clustered {
		go l.watch(permits)
	}
}

// watch passes on that the desk wants a connection back.
func (l *lease) watch(permits *desk.Lease) {
	select {
	case <-permits.Revoked():
		l.revoke()
	case <-l.gone:
	}
}

// revoke asks the session to end after its transaction.
func (l *lease) revoke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.revoked {
		l.revoked = true
		close(l.gone)
		if l.hurry != nil {
			l.hurry()
		}
	}
}

func (l *lease) isRevoked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revoked
}

// Route implements queue.Lease.
func (l *lease) Route(r mail.Route) mail.Route {
	r.Source, r.EHLO, r.Messages = l.source, l.plan.ehlo, l.plan.messages
	return r
}

// Paced implements queue.Lease.
func (l *lease) Paced() bool { return l.plan.paced }

// Slot implements queue.Lease.
func (l *lease) Slot(ctx context.Context, a queue.Asker) (mail.Pass, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	permits, revoked := l.permits, l.revoked
	l.hurry = cancel
	l.mu.Unlock()
	if revoked {
		return nil, desk.ErrRevoked
	}
	pass, err := permits.Slot(ctx, desk.Asker{Priority: a.Priority, Flow: a.Flow, Flows: a.Flows})
	l.mu.Lock()
	l.hurry, revoked = nil, l.revoked
	l.mu.Unlock()
	switch late := (*desk.LateError)(nil); {
	case err == nil && revoked:
		permits.Drop(pass)
		return nil, desk.ErrRevoked
	case errors.As(err, &late): // so far off that an open connection is of no use until then
		l.useless(func(at spot, now time.Time) { l.gate.rest(at, now, late) })
	case errors.Is(err, desk.ErrDown): // the next connection would do no better
		l.useless(func(at spot, now time.Time) { l.gate.fail(spot{at.source, ""}, now, err) }) // once a session: no reason for a pause that grows
	}
	return pass, err
}

// useless keeps the source from another connection to the site for a while.
func (l *lease) useless(f func(at spot, now time.Time)) {
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	f(spot{l.source, l.site}, time.Now())
}

// restBefore is how long before the next permit a connection is asked for.
const restBefore = 2 * time.Second

func (l *lease) current() *desk.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.permits
}

// Drop implements queue.Lease.
func (l *lease) Drop(p mail.Pass) {
	l.current().Drop(p)
}

// Contended implements queue.Lease.
func (l *lease) Contended() bool { return l.current().Contended() }

// Revoked implements queue.Lease.
func (l *lease) Revoked() <-chan struct{} { return l.gone }

// Close implements queue.Lease.
func (l *lease) Close(clean bool) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	permits := l.permits
	if !l.revoked {
		l.revoked = true
		close(l.gone)
	}
	l.mu.Unlock()
	permits.Close(clean)
	l.gate.left(l)
}

// left forgets a lease and lets its ready queue try again.
func (g *Gate) left(l *lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.leases, l)
	at := spot{l.source, l.key}
	if g.open[at]--; g.open[at] <= 0 {
		delete(g.open, at)
	}
	if x := g.demands[l.key]; x != nil && x.N > len(x.requests) {
		g.post(func() { g.again(x) })
	}
}

// Serial implements deliver.Serial: each connection is counted.
func (l *lease) Serial() bool { return l.plan.counted }

// Dial implements deliver.Dialer: it connects from the source. A second
// connection under the same lease, after the first was given up, needs permits of its own.
func (l *lease) Dial(ctx context.Context, _ mail.Route, addr netip.AddrPort) (net.Conn, error) {
	if l.isRevoked() {
		return nil, errNoPermit
	}
	if err := l.prepare(ctx); err != nil {
		return nil, err
	}
	conn, err := l.dial(ctx, addr)
	if errors.Is(err, proxy.ErrNoLease) && l.renew(ctx) == nil {
		conn, err = l.dial(ctx, addr)
	}
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, proxy.ErrProxyDown):
		l.gate.proxyFailed(l.source, err)
		return nil, err
	}
	if _, there := l.gate.pools.Source(l.source); !there { // a reload took it away
		return nil, fmt.Errorf("%w: %w", errNoPermit, err)
	}
	return nil, err // one that wraps mail.ErrNotTried goes to another source
}

func (l *lease) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	permits := l.current()
	if !permits.Opened() {
		return nil, proxy.ErrNoLease
	}
	r := proxy.Request{Source: l.source, Addr: addr, RequestID: l.gate.ids.New(time.Now())}
	for _, id := range permits.IDs() {
		if id.Proxy != "" {
			r.Leases = append(r.Leases, id.ID)
		}
	}
	return l.gate.dial(ctx, r)
}

// prepare makes sure that this connection has permits that no other one has used.
func (l *lease) prepare(ctx context.Context) error {
	l.mu.Lock()
	again := l.dialled
	l.dialled = true
	l.mu.Unlock()
	if !again || !l.plan.counted {
		return nil
	}
	return l.renew(ctx)
}

// renew gives the permits back and waits for others.
func (l *lease) renew(ctx context.Context) error {
	l.current().Close(false)
	came := make(chan *desk.Lease, 1)
	ask := l.gate.desk.Ask(l.plan.bounds, desk.Asker{Priority: mail.Urgent, Flow: "again", Flows: 1}, func(p *desk.Lease) { came <- p })
	ctx, cancel := context.WithTimeout(ctx, renewPatience)
	defer cancel()
	select {
	case p := <-came:
		if p == nil {
			return errNoPermit
		}
		l.mu.Lock()
		l.permits = p
		l.mu.Unlock()
		l.guard(p)
		return nil
	case <-ctx.Done():
		if !ask.Cancel() {
			if p := <-came; p != nil {
				p.Close(true)
			}
		}
		return fmt.Errorf("%w: %w", errNoPermit, ctx.Err())
	}
}

// errNoPermit says that a connection was not made since it may not be: neither source nor site have failed.
var errNoPermit = fmt.Errorf("no permit for a connection (%w)", mail.ErrNotTried)

// renewPatience is how long a second connection may wait for its permits.
const renewPatience = 10 * time.Second

// Failed implements queue.Lease.
func (l *lease) Failed(err error) (another bool) {
	g := l.gate
	revoked := l.isRevoked()
	l.mu.Lock()
	l.failed = true
	l.mu.Unlock()
	another = g.failed(l, revoked, err)
	// What a host said instead of a greeting counts for the rules. Without another source
	// the queue has it judged with a message.
	var answer *mail.OutcomeError
	if another && errors.As(err, &answer) && answer.Outcome.Class == mail.ClassSMTP {
		g.feed(l, &mail.Message{}, &answer.Outcome)
	}
	return another
}

func (g *Gate) failed(l *lease, revoked bool, err error) (another bool) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case revoked && errors.Is(err, mail.ErrNotTried):
	case errors.Is(err, proxy.ErrNoLease), errors.Is(err, errNoPermit):
		g.fail(spot{l.source, l.site}, now, err)
	case errors.Is(err, mail.ErrNotTried):
		g.fail(spot{l.source, ""}, now, err)
	default:
		return g.failedAt(l, now, err)
	}
	return true
}

// Judge implements queue.Lease.
func (l *lease) Judge(msgs []*mail.Message, outcomes []mail.Outcome) {
	var s throttle.Sample
	for i := range outcomes {
		o := &outcomes[i]
		if o.Class != mail.ClassSMTP {
			continue // not the provider's decision
		}
		if o.Kind != mail.Delivered {
			l.gate.feed(l, msgs[min(i, len(msgs)-1)], o)
		}
		if o.Kind == mail.Deferred {
			s.Deferred++
		} else {
			s.Delivered++
		}
	}
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	if s != (throttle.Sample{}) && !failed {
		l.gate.succeeded(l)
		l.gate.pools.Sent(l.pool, accountOf(l.provider, l.site), l.source, len(outcomes))
		l.gate.tally.add(l.pool, accountOf(l.provider, l.site), l.source, len(outcomes), l.plan.warm, time.Now())
		if l.plan.loop {
			l.current().Observe(s)
		}
	}
}
