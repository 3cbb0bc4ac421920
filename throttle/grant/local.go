package grant

import (
	"context"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// Local is the way to an authority in the same process. It is safe for concurrent use.
type Local struct {
	node   string
	keeper *throttle.Keeper
	events Events
	wake   chan struct{}

	mu     sync.Mutex
	handle *throttle.Handle // nil before and after Run
	queue  []throttle.Out
}

// NewLocal returns the way of a node to its own keeper; Run does the work.
func NewLocal(node string, k *throttle.Keeper, events Events) *Local {
	return &Local{node: node, keeper: k, events: events, wake: make(chan struct{}, 1)}
}

// Run attaches to the authority until ctx ends, and calls the events' methods.
func (l *Local) Run(ctx context.Context) {
	start := l.start()
	l.set(l.keeper.Attach(l.node, l.deliver))
	l.events.Contact(true, false)
	var outs []throttle.Out
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.wake:
		}
		l.mu.Lock()
		outs, l.queue = l.queue, outs[:0]
		l.mu.Unlock()
		for i := range outs {
			l.tell(&outs[i], start)
		}
		clear(outs)
	}
	l.set(nil).Leave(false)
	l.events.Contact(false, false)
}

// start is when the authority's clock was 0, or a little before: a while
// between the two readings would make all permits seem older.
func (l *Local) start() time.Time {
	for try := 0; ; try++ {
		before := time.Now()
		clock := l.keeper.Now()
		if try == 100 || time.Since(before) < 100*time.Microsecond {
			return before.Add(-clock)
		}
	}
}

// tell tells one thing.
func (l *Local) tell(o *throttle.Out, start time.Time) {
	switch {
	case o.Grant != nil:
		l.events.Granted(*o.Grant, start.Add(o.Grant.At))
	case o.Hint != nil:
		l.events.Hinted(*o.Hint)
	case o.Change != nil:
		l.events.Changed(*o.Change)
	}
}

// set replaces the handle and returns the one before.
func (l *Local) set(h *throttle.Handle) *throttle.Handle {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.handle
	l.handle = h
	return before
}

func (l *Local) deliver(outs []throttle.Out) {
	l.mu.Lock()
	l.queue = append(l.queue, outs...)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// do calls f with the handle, if there is one.
func (l *Local) do(f func(*throttle.Handle)) {
	l.mu.Lock()
	h := l.handle
	l.mu.Unlock()
	if h != nil {
		f(h)
	}
}

// Want says how many permits of a kind we could use.
func (l *Local) Want(w throttle.Want) { l.do(func(h *throttle.Handle) { h.Want(w) }) }

// Opened says that a lease became a connection.
func (l *Local) Opened(k throttle.Key, lease uint64) {
	l.do(func(h *throttle.Handle) { h.Opened(k, lease) })
}

// Done says that a connection ended, or that a lease will not be used.
func (l *Local) Done(k throttle.Key, lease uint64, clean bool) {
	l.do(func(h *throttle.Handle) { h.Done(k, lease, clean) })
}

// Charge says that n more messages went with the latest permit.
func (l *Local) Charge(k throttle.Key, n int) { l.do(func(h *throttle.Handle) { h.Charge(k, n) }) }

// Unused says that n permits lapsed here.
func (l *Local) Unused(k throttle.Key, kind throttle.Kind, n int) {
	l.do(func(h *throttle.Handle) { h.Unused(k, kind, n) })
}

// Observe says what became of messages.
func (l *Local) Observe(k throttle.Key, s throttle.Sample) {
	l.do(func(h *throttle.Handle) { h.Observe(k, s) })
}

// Hold says that these are all the leases we have for the key.
func (l *Local) Hold(k throttle.Key, leases []uint64, limits throttle.Limits) {
	l.do(func(h *throttle.Handle) { h.Hold(k, leases, limits) })
}
