package keyed

import (
	"context"
	"sync/atomic"

	"github.com/godwit-mta/godwit/internal/stream"
)

// assigned is the assignment under which a partition is served.
type assigned struct {
	ctx        context.Context // of serve
	generation int64
	goal       atomic.Int64 // end of the input when consuming began, or noGoal
}

const noGoal = -1

func newAssigned(ctx context.Context, a stream.Assignment) *assigned {
	out := &assigned{ctx: ctx, generation: a.Generation}
	out.goal.Store(noGoal)
	return out
}

// Serving reports whether the state of a partition here is the one to answer questions from where several processes consume: the partition is
// assigned to this one, no other can have got it meanwhile, and all shows that was in the log when it was
// assigned. So whoever asked the process that had it before sees nothing older now. Of two that say so, the one with the
// higher generation is right.
func (w *Worker) Serving(partition int32) (generation int64, ok bool) {
	p := w.part(partition)
	if p == nil {
		return 0, false
	}
	a := p.assigned.Load()
	if a == nil {
		return 0, false
	}
	goal, shows := a.goal.Load(), p.committed.Load()
	if w.s.Early {
		shows = p.applied.Load()
	}
	if goal == noGoal || shows < goal || stream.Held(a.ctx) != nil {
		return 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return a.generation, p.store != nil && p.proc != nil
}
