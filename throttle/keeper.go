package throttle

import (
	"sync"
	"time"
)

// coalesce is the least time between two turns of a Keeper: at high rates
// what is due in between goes out together.
const coalesce = 2 * time.Millisecond

// beats is how many turns a Keeper with clients takes at least in the time of Options.Stall.
const beats = 5

// Keeper runs an Authority in a process: it gives it a clock and a lock, and tells
// clients what is for them as soon as it is due.
//
// All calls of deliver come from one goroutine and under no lock, so a client may call back.
type Keeper struct {
	start time.Time
	stall time.Duration
	wake  chan struct{} // holds one: the loop is to look again. Closed by Close
	done  chan struct{} // closed when the loop ended
	stats *stats

	mu        sync.Mutex
	closed    bool
	authority *Authority
	handles   map[string]*Handle
	earliest  time.Duration // the loop turns no sooner
	turning   time.Duration // when it turns next; never
	beat      time.Duration // latest sign that the process runs
	stalls    uint64
}

// NewKeeper starts a Keeper; Close ends it. As of every authority, nothing is granted before Options.Expiry.
func NewKeeper(o Options) *Keeper {
	k := &Keeper{
		start:     time.Now(),
		stall:     o.Stall,
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
		authority: NewAuthority(o),
		handles:   make(map[string]*Handle),
		turning:   never,
	}
	k.stats = newStats(k)
	go k.run()
	return k
}

// Now is the authority's clock, by which Grant.At is told: the time since it started.
func (k *Keeper) Now() time.Duration { return time.Since(k.start) }

// Attach joins a client and returns its handle. deliver gets what is for it, in order; it must not
// block, or all clients wait. An earlier handle of the same client does nothing from
// then on. A call of deliver may still be under way when Leave of the handle returns.
func (k *Keeper) Attach(client string, deliver func([]Out)) *Handle {
	h := &Handle{keeper: k, client: client, deliver: deliver}
	k.call(func(a *Authority, now time.Duration) {
		k.handles[client] = h
		a.Join(client, now)
	})
	return h
}

// Gone says that the process of a client that left is gone; see Authority.Leave. It does nothing for one that is attached.
func (k *Keeper) Gone(client string) {
	k.call(func(a *Authority, now time.Duration) {
		if k.handles[client] == nil {
			a.Leave(client, true, now)
		}
	})
}

// Claim turns a lease into a connection; see Authority.Claim.
func (k *Keeper) Claim(lease uint64) (key Key, ok bool) {
	k.call(func(a *Authority, now time.Duration) { key, ok = a.Claim(lease, now) })
	return key, ok
}

// Release says that a claimed connection ended.
func (k *Keeper) Release(lease uint64, clean bool) {
	k.call(func(a *Authority, now time.Duration) { a.Release(lease, clean, now) })
}

// SetAbsent says how many of the configured nodes may be alive out of contact; see Authority.SetAbsent.
func (k *Keeper) SetAbsent(absent, configured int) {
	k.call(func(a *Authority, now time.Duration) { a.SetAbsent(absent, configured, now) })
}

// SetShare makes it serve one of configured parts of each limit; 0 or 1: all.
func (k *Keeper) SetShare(configured int) {
	k.call(func(a *Authority, now time.Duration) { a.SetShare(configured, now) })
}

// Pause grants nothing for Options.Expiry; call it when this process becomes the owner of keys of another.
func (k *Keeper) Pause() { k.call((*Authority).Pause) }

// Drain sets whether nothing is granted any more because the process is about to end.
func (k *Keeper) Drain(on bool) {
	k.call(func(a *Authority, now time.Duration) { a.Drain(on, now) })
}

// Status returns the state of all keys in order.
func (k *Keeper) Status() (all []KeyStatus) {
	k.call(func(a *Authority, now time.Duration) { all = a.Status(now) })
	return all
}

// Stalls is how often the process was found to have been stopped for Options.Stall.
func (k *Keeper) Stalls() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stalls
}

// Save returns the daily counts, to be stored now and then and on Close.
func (k *Keeper) Save() (b []byte, err error) {
	k.call(func(a *Authority, _ time.Duration) { b, err = a.Save() })
	return b, err
}

// Restore adds stored daily counts.
func (k *Keeper) Restore(b []byte) (err error) {
	k.call(func(a *Authority, _ time.Duration) { err = a.Restore(b) })
	return err
}

// Close ends the Keeper: no deliver is called after it. It must not be called from one. Calls do nothing then.
func (k *Keeper) Close() {
	k.mu.Lock()
	if !k.closed {
		k.closed = true
		close(k.wake)
	}
	k.mu.Unlock()
	<-k.done
}

// call runs f on the authority and wakes the loop if its next turn is sooner now.
func (k *Keeper) call(f func(*Authority, time.Duration)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	now := k.Now()
	k.look(now)
	f(k.authority, now)
	if next := k.nextTurn(now); next < k.turning {
		k.turning = next
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
}

// look finds out whether the process was stopped since the last sign that it runs. Then clients
// may take us for gone, and others may have taken our place.
func (k *Keeper) look(now time.Duration) {
	if k.stall > 0 && len(k.handles) > 0 && now-k.beat > k.stall {
		k.stalls++
		k.authority.Pause(now)
	}
	k.beat = now
}

// nextTurn is when the loop is to turn next.
func (k *Keeper) nextTurn(now time.Duration) time.Duration {
	next := k.authority.Next()
	if next < 0 {
		next = never
	}
	if k.stall > 0 && len(k.handles) > 0 {
		next = min(next, now+k.stall/beats)
	}
	return max(next, k.earliest)
}

// run turns the authority when it is time, until Close.
func (k *Keeper) run() {
	defer close(k.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case _, open := <-k.wake:
			if !open {
				return
			}
		}
		k.turn()
		timer.Reset(k.untilTurn())
	}
}

// turn lets the authority grant what is due and delivers it, if it is time.
func (k *Keeper) turn() {
	k.mu.Lock()
	now := k.Now()
	if k.closed || now < k.turning && k.turning != never {
		k.mu.Unlock()
		return
	}
	k.look(now)
	late := now - k.turning
	out, _ := k.authority.Tick(now)
	k.earliest = now + coalesce
	k.turning = k.nextTurn(now)
	parts := k.split(out)
	k.mu.Unlock()
	k.stats.turned(out, late)
	for _, p := range parts {
		p.handle.deliver(p.out)
	}
}

// untilTurn is how long the loop may sleep.
func (k *Keeper) untilTurn() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.turning == never {
		return time.Hour
	}
	return max(k.turning-k.Now(), 0)
}

type part struct {
	handle *Handle
	out    []Out
}

// split parts out by client, each in order. What is for a client that is not attached is dropped.
func (k *Keeper) split(out []Out) []part {
	var parts []part
next:
	for _, o := range out {
		for i := range parts {
			if parts[i].handle.client == o.Client {
				parts[i].out = append(parts[i].out, o)
				continue next
			}
		}
		if h := k.handles[o.Client]; h != nil {
			parts = append(parts, part{h, []Out{o}})
		}
	}
	return parts
}
