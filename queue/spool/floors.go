package spool

import (
	"sync"

	"github.com/godwit-mta/godwit/internal/seglog"
)

// floors knows below which position every record has been registered by its
// Put and told of in the event log. Puts overlap: a record may be durable while its
// owner has not yet put it into the queue, and a checkpoint must not pass it.
// Nor may it pass one whose injected events could still be lost, since recovery
// makes them up only for the records that it reads.
type floors struct {
	mu   sync.Mutex
	open []*floor // in order of position
}

type floor struct {
	Horizon
	done bool
}

// Horizon is a pair of places in the two logs: every record before Records is
// registered with the queue and its injected events are logged, and whatever the event log has about records at
// or after Records stands at or after Events.
type Horizon struct{ Records, Events seglog.Pos }

// enter notes that a record at or after the log's tail is on its way.
func (f *floors) enter(tails func() Horizon) *floor {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &floor{Horizon: tails()}
	f.open = append(f.open, t)
	return t
}

func (f *floors) leave(t *floor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.done = true
	n := 0
	for n < len(f.open) && f.open[n].done {
		n++
	}
	if n > 0 {
		f.open = append(f.open[:0], f.open[n:]...)
	}
}

// lowest is the horizon below which everything is registered.
func (f *floors) lowest(tails func() Horizon) Horizon {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open) > 0 {
		return f.open[0].Horizon
	}
	return tails()
}
