package egress

import (
	"sync"
	"time"
)

// inbox holds what the gate's goroutine is to do.
type inbox struct {
	mu   sync.Mutex
	list []func()
	wake chan struct{}
}

// add notes a call.
func (b *inbox) add(f func()) {
	b.mu.Lock()
	b.list = append(b.list, f)
	b.mu.Unlock()
	signal(b.wake)
}

// do makes the calls.
func (b *inbox) do() {
	for {
		b.mu.Lock()
		list := b.list
		b.list = nil
		b.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for _, f := range list {
			f()
		}
	}
}

// post has f called by the gate's goroutine, without a lock. It may be called under any lock.
func (g *Gate) post(f func()) { g.inbox.add(f) }

// every is how often the gate looks at what time alone changes.
const every = 500 * time.Millisecond

// loop is the gate's goroutine.
func (g *Gate) loop() {
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.inbox.wake:
		case <-timer.C:
		}
		now := time.Now()
		g.expire(now)
		g.look(now)
		g.inbox.do()
		timer.Reset(g.untilLook())
	}
}

// storeLoop writes records, so that nobody waits for the disk. What is there at the end is written still.
func (g *Gate) storeLoop() {
	for {
		select {
		case <-g.ctx.Done():
			g.stores.do()
			return
		case <-g.stores.wake:
			g.stores.do()
		}
	}
}

// sweepEvery is how often old failures are looked for.
const sweepEvery = 10 * time.Second

// expire looks at what time alone changes.
func (g *Gate) expire(now time.Time) {
	day := now.UTC().YearDay()
	g.mu.Lock()
	if now.Sub(g.expired) < every {
		g.mu.Unlock()
		return
	}
	g.expired = now
	sweep := now.Sub(g.swept) >= sweepEvery
	if sweep {
		g.swept = now
		g.forgetFailures(now)
	}
	newDay := g.day != day
	g.day = day
	g.mu.Unlock()
	if sweep {
		g.admissions.sweep(now)
	}
	if newDay {
		g.refresh(&change{day: true})
	}
	for _, o := range g.orders.Expire(now) {
		g.tellLifted(o, now, "its time is over")
		g.orderIsNews(o)
	}
}
