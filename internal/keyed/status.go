package keyed

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// State is how a partition is doing.
type State uint8

// States of a partition. They change in this order; from any, an error leads to failing and
// then to running or restoring, and the end of the assignment to away.
const (
	StateAway      State = iota // not assigned to this process, or the worker is stopped
	StateOpening                // its state is being opened
	StateRestoring              // its state is being made from a snapshot, or anew
	StateRunning                // it consumes
	StateFailing                // the last try ended with an error; the next comes after a pause
)

var stateNames = [...]string{"away", "opening", "restoring", "running", "failing"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PartitionStatus is how one partition of a consumer is doing.
type PartitionStatus struct {
	Partition int32         `json:"partition"`
	State     State         `json:"state"`
	Applied   int64         `json:"applied"`   // see Worker.Applied
	Committed int64         `json:"committed"` // see Worker.Committed
	End       int64         `json:"end"`       // of the input; -1 if it could not be asked
	Lag       int64         `json:"lag"`       // records to go: End less Committed, so too many where offsets have gaps; 0 if it waits for more
	Behind    time.Duration `json:"behind"`    // since the oldest record that is not committed was appended; 0 if all are
	Waiting   time.Duration `json:"waiting"`   // about how long the oldest record that is not applied has been in the input; 0 if all are
	Snapshot  Snapshot      `json:"snapshot"`  // the newest; zero if there is none
	Error     string        `json:"error,omitempty"`
	ErrorAt   int64         `json:"error_at"` // offset of the first of the records that could not be applied, or -1
	Usage     Usage         `json:"usage"`
}

// endTimeout bounds how long a status waits for the log.
const endTimeout = time.Second

// Status tells of all partitions of the input, in order. Those away have neither lag nor error.
func (w *Worker) Status() []PartitionStatus {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	out := make([]PartitionStatus, len(w.parts))
	var all sync.WaitGroup
	for i, p := range w.parts {
		all.Go(func() { out[i] = p.status(ctx) })
	}
	all.Wait()
	return out
}

func (p *part) status(ctx context.Context) PartitionStatus {
	p.mu.Lock()
	away, store := p.state == StateAway, p.store
	p.mu.Unlock()
	var usage Usage
	if store != nil {
		usage = store.Usage()
	}
	end := int64(-1)
	if !away {
		end = p.end(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := PartitionStatus{
		Partition: p.id, State: p.state, Applied: p.applied.Load(), Committed: p.committed.Load(),
		End: end, Snapshot: p.snapshot, ErrorAt: p.errAt, Usage: usage,
	}
	if p.err != nil {
		out.Error = p.err.Error()
	}
	if end > out.Committed && !p.waits.Load() {
		out.Lag = end - out.Committed
		out.Behind = p.behind(time.Now())
		if end > out.Applied {
			out.Waiting = p.waiting(time.Now())
		}
	}
	return out
}

// end asks the log, and gives -1 if it does not answer.
func (p *part) end(ctx context.Context) int64 {
	end, err := p.w.s.Input.End(ctx, p.id)
	if err != nil {
		return -1
	}
	return end
}

// behind is the age of the oldest record that is not committed. One that is not read yet is not older than
// the moment at which there was nothing more to read.
func (p *part) behind(now time.Time) time.Duration {
	since := p.oldest
	if since.IsZero() {
		since = p.idle
	}
	if since.IsZero() {
		return 0
	}
	return max(0, now.Sub(since))
}

// waiting is the age of the records that the stage has in its hands: the oldest that are not applied, or those just before them.
func (p *part) waiting(now time.Time) time.Duration {
	since := p.idle
	if hand := p.hand.Load(); hand != 0 {
		since = time.UnixMilli(hand)
	}
	if since.IsZero() {
		return 0
	}
	return max(0, now.Sub(since))
}
