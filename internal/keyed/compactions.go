package keyed

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// compactions lets the stores of a process compact by turns. Each has its own idea of how much it may do; a dozen of them
// at once would leave two cores nothing for the consumers.
//
// Lock order: a database's own locks before mu. So a database is asked and told to compact (by the one
// goroutine of run) without mu; asking keeps it from going away meanwhile.
type compactions struct {
	most int
	wait func() bool   // others need the CPU more, but than those of a store that is far behind
	poke chan struct{} // has an element when there may be something to grant
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	settled sync.Cond // signalled when asking ends
	running int
	turns   []*turn
}

// turn is one store's part of it: a pebble.CompactionScheduler, and the handle of all its compactions.
type turn struct {
	c       *compactions
	db      pebble.DBForCompaction
	running int
	asking  bool // run is in a call of db
	gone    bool
}

// lookAgain is how often waiting compactions are looked for without a reason.
const lookAgain = 100 * time.Millisecond

func newCompactions(most int, wait func() bool) *compactions {
	c := &compactions{most: most, wait: wait, poke: make(chan struct{}, 1), stop: make(chan struct{})}
	c.settled.L = &c.mu
	c.done.Go(c.run)
	return c
}

func (c *compactions) close() {
	close(c.stop)
	c.done.Wait()
}

func (c *compactions) turn() *turn { return &turn{c: c} }

// Register implements pebble.CompactionScheduler.
func (t *turn) Register(_ int, db pebble.DBForCompaction) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.db = db
	t.c.turns = append(t.c.turns, t)
}

// Unregister implements pebble.CompactionScheduler. It may be called twice.
func (t *turn) Unregister() {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.gone = true
	for i, other := range t.c.turns {
		if other == t {
			t.c.turns = append(t.c.turns[:i:i], t.c.turns[i+1:]...)
			break
		}
	}
	for t.asking {
		t.c.settled.Wait()
	}
}

// TrySchedule implements pebble.CompactionScheduler.
func (t *turn) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	if !t.may() {
		return false, nil
	}
	t.take(1)
	return true, t
}

// may reports whether the store may start a compaction. One that is so far behind that Pebble would run two
// does not have to wait for others: its writes would stall. mu is held.
func (t *turn) may() bool {
	if t.gone {
		return false
	}
	allowed := t.db.GetAllowedWithoutPermission()
	return t.running < allowed && (t.c.running < t.c.most && !t.c.wait() || allowed > 1)
}

func (t *turn) take(n int) {
	t.running += n
	t.c.running += n
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (t *turn) UpdateGetAllowedWithoutPermission() { t.c.look() }

// Started implements pebble.CompactionGrantHandle.
func (t *turn) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (t *turn) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (t *turn) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done implements pebble.CompactionGrantHandle.
func (t *turn) Done() {
	t.c.mu.Lock()
	t.take(-1)
	t.c.mu.Unlock()
	t.c.look()
}

func (c *compactions) look() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

func (c *compactions) run() {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.poke:
		case <-c.stop:
			return
		}
		for c.grant() {
		}
	}
}

// grant starts the most urgent of the compactions that wait, and reports whether it did.
func (c *compactions) grant() bool {
	asked := c.ask()
	var best *turn
	var want pebble.WaitingCompaction
	for _, t := range asked {
		if waits, w := t.db.GetWaitingCompaction(); waits && (best == nil || urgent(w, want)) {
			best, want = t, w
		}
	}
	started := best != nil && best.db.Schedule(best)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range asked {
		t.asking = false
		if t != best || !started {
			t.take(-1)
		}
	}
	c.settled.Broadcast()
	return started
}

// ask keeps the databases that may start a compaction, and reserves one for each so that they cannot start it themselves meanwhile.
func (c *compactions) ask() []*turn {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*turn
	for _, t := range c.turns {
		if t.may() {
			out = append(out, t)
		}
	}
	for _, t := range out {
		t.asking = true
		t.take(1)
	}
	return out
}

func urgent(a, b pebble.WaitingCompaction) bool {
	switch {
	case a.Optional != b.Optional:
		return b.Optional
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	}
	return a.Score > b.Score
}
