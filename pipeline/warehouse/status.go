package warehouse

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Status is how far a partition of the facts is stored.
type Status struct {
	Partition int32
	Stored    int64         // records before it are stored
	End       int64         // of the log
	Lag       time.Duration // age of the oldest record that is not stored; 0 if all are
	Err       error         // of the last attempt, nil when it worked
	Stopped   bool
}

// Status tells of all partitions, in order.
func (c *Consumer) Status(ctx context.Context) ([]Status, error) {
	c.mu.Lock()
	r, failure, paused := c.run, c.failure, c.paused
	c.mu.Unlock()
	stored := map[int32]part{}
	if r != nil {
		r.mu.Lock()
		for id, p := range r.parts {
			stored[id] = part{stored: p.stored, seen: p.seen, times: slices.Clone(p.times)}
		}
		r.mu.Unlock()
	} else {
		s, err := c.sink.State(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range s.Offsets {
			stored[o.Partition] = part{stored: o.Next}
		}
	}
	out := make([]Status, c.facts.Partitions())
	for i := range out {
		p := stored[int32(i)]
		end, err := c.facts.End(ctx, int32(i))
		if err != nil {
			return nil, fmt.Errorf("warehouse: %w", err)
		}
		out[i] = Status{Partition: int32(i), Stored: p.stored, End: end, Lag: p.lag(end), Err: failure, Stopped: paused}
	}
	return out, nil
}

// lag is the age of the oldest record known to be missing; what was not read yet is younger than what was read last.
func (p *part) lag(end int64) time.Duration {
	switch {
	case end <= p.stored:
		return 0
	case len(p.times) > 0:
		return max(time.Since(p.times[0].at), time.Millisecond)
	case !p.seen.IsZero():
		return max(time.Since(p.seen), time.Millisecond)
	}
	return time.Millisecond
}

// settled notes that something was stored.
func (c *Consumer) settled() {
	c.mu.Lock()
	c.failure = nil
	c.mu.Unlock()
}

// Wait waits until the records of a partition up to an offset are stored.
func (c *Consumer) Wait(ctx context.Context, partition int32, offset int64) error {
	for {
		c.mu.Lock()
		r := c.run
		c.mu.Unlock()
		var next <-chan struct{}
		if r != nil {
			r.mu.Lock()
			p := r.parts[partition]
			if p != nil && p.stored > offset {
				r.mu.Unlock()
				return nil
			}
			next = r.room
			r.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		case <-time.After(10 * time.Millisecond):
		}
	}
}
