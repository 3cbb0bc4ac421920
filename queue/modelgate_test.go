package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// fickle is a gate that does all that a gate may do, at random: it gives leases at once,
// late, or takes them back; permits for messages come slowly, are too far off, or lapse; flows have to
// wait. What it must never see is checked: too many leases or flows that ask twice.
// What it gave has to come back in the end.
type fickle struct {
	t    testing.TB
	most int // connections of a ready queue

	mu      sync.Mutex
	r       *rand.Rand
	calm    bool // no trouble from now on
	open    map[string]int
	wanted  map[string]*Demand
	leases  map[*fickleLease]struct{}
	passes  int // given, and neither used nor dropped
	waiting map[fickleFlow]int
	wrong   []string
}

// fickleFlow is one flow of one process; calls of Admit that wait are counted by it.
type fickleFlow struct{ f Flow }

func newFickle(t testing.TB, r *rand.Rand, most int) *fickle {
	return &fickle{t: t, most: most, r: rand.New(rand.NewPCG(r.Uint64(), 2)), open: map[string]int{}, wanted: map[string]*Demand{},
		leases: map[*fickleLease]struct{}{}, waiting: map[fickleFlow]int{}}
}

// chance is true once in n times, never when calm.
func (g *fickle) chance(n int) bool { return !g.calm && g.r.IntN(n) == 0 }

// delay is up to most, or a tenth of it when calm.
func (g *fickle) delay(most time.Duration) time.Duration {
	if g.calm {
		most /= 10
	}
	return time.Duration(g.r.Int64N(int64(most) + 1))
}

// Seek implements Gate.
func (g *fickle) Seek(d Demand) (leases []Lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d.N == 0 {
		delete(g.wanted, d.Key)
		return nil
	}
	x := &d
	g.wanted[d.Key] = x
	for x.N > 0 && g.open[d.Key] < g.most && g.r.IntN(2) == 0 {
		leases = append(leases, g.lease(x))
	}
	g.later(x)
	return leases
}

// later grants what is wanted after a while.
func (g *fickle) later(x *Demand) {
	if x.N > 0 {
		time.AfterFunc(g.delay(3*time.Second), func() { g.grant(x) })
	}
}

func (g *fickle) grant(x *Demand) {
	g.mu.Lock()
	if g.wanted[x.Key] != x || x.N == 0 || g.open[x.Key] >= g.most {
		g.mu.Unlock() // a lease that ends looks again
		return
	}
	l := g.lease(x)
	g.later(x)
	g.mu.Unlock()
	x.Take(l)
}

func (g *fickle) lease(x *Demand) *fickleLease {
	if x.N--; x.N == 0 {
		delete(g.wanted, x.Key)
	}
	g.open[x.Key]++
	l := &fickleLease{g: g, key: x.Key, paced: g.r.IntN(2) == 0, gone: make(chan struct{})}
	g.leases[l] = struct{}{}
	if g.chance(3) {
		time.AfterFunc(g.delay(5*time.Second), l.revoke)
	}
	return l
}

// Limited implements Gate: one tenant's mail is.
func (g *fickle) Limited(f Flow) bool { return f.Tenant == "u" }

// Admit implements Gate.
func (g *fickle) Admit(f Flow, ready func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := fickleFlow{f}
	if n := g.waiting[key]; n > 0 {
		g.wrong = append(g.wrong, fmt.Sprintf("%v asks again while it waits", f))
	}
	if !g.chance(3) {
		return true
	}
	g.waiting[key]++
	time.AfterFunc(g.delay(4*time.Second), func() {
		g.mu.Lock()
		g.waiting[key]--
		g.mu.Unlock()
		ready()
	})
	return false
}

// check reports what went wrong, and at the end what did not come back.
func (g *fickle) check(end bool) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range g.wrong {
		g.t.Error(w)
	}
	g.wrong = nil
	if end && len(g.leases)+g.passes+len(g.wanted) > 0 {
		g.t.Errorf("%d leases and %d passes not given back, wanted still: %v", len(g.leases), g.passes, g.wanted)
	}
}

type fickleLease struct {
	g     *fickle
	key   string
	paced bool

	once   sync.Once
	gone   chan struct{}
	closed bool
}

func (l *fickleLease) revoke()                             { l.once.Do(func() { close(l.gone) }) }
func (l *fickleLease) Route(r mail.Route) mail.Route       { return r }
func (l *fickleLease) Paced() bool                         { return l.paced }
func (l *fickleLease) Revoked() <-chan struct{}            { return l.gone }
func (*fickleLease) Judge([]*mail.Message, []mail.Outcome) {}

func (l *fickleLease) Contended() bool {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return l.g.chance(10)
}

var errFarOff = errors.New("permits are far off")

// Slot implements Lease.
func (l *fickleLease) Slot(ctx context.Context, _ Asker) (mail.Pass, error) {
	l.g.mu.Lock()
	wait, far := l.g.delay(2*time.Second), l.g.chance(8)
	if l.g.chance(20) {
		wait = time.Minute // longer than a session waits
	}
	l.g.mu.Unlock()
	if far {
		return nil, errFarOff
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	l.g.passes++
	return &ficklePass{l: l}, nil
}

// Drop implements Lease.
func (l *fickleLease) Drop(p mail.Pass) { p.(*ficklePass).over() }

// Failed implements Lease.
func (l *fickleLease) Failed(err error) bool {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return errors.Is(err, mail.ErrNotTried) || l.g.chance(3)
}

// Close implements Lease.
func (l *fickleLease) Close(bool) {
	g := l.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	delete(g.leases, l)
	g.open[l.key]--
	if x := g.wanted[l.key]; x != nil {
		g.later(x)
	}
}

// ficklePass is the permit of one message.
type ficklePass struct {
	l    *fickleLease
	done bool
	n    int
}

func (p *ficklePass) over() {
	p.l.g.mu.Lock()
	defer p.l.g.mu.Unlock()
	if !p.done {
		p.done = true
		p.l.g.passes--
	}
}

// Use implements mail.Pass.
func (p *ficklePass) Use(context.Context) error {
	p.l.g.mu.Lock()
	wait, lapsed := p.l.g.delay(500*time.Millisecond), p.l.g.chance(6)
	p.l.g.mu.Unlock()
	time.Sleep(wait)
	p.over()
	if lapsed {
		return errFarOff
	}
	return nil
}

// Charge implements mail.Pass.
func (p *ficklePass) Charge(n int) { p.n += n }
