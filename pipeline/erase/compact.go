package erase

import (
	"context"
	"fmt"
)

// Compaction is of one consumer's state, and done. Still reports whether the state is the one that was compacted, and not one that was put in
// its place from an older snapshot.
type Compaction struct{ Still func() bool }

// compact takes what is deleted out of the files of states and out of their snapshots. It comes after the logs: from then on a state that is made anew from
// them never had it. States go first, and then two snapshots of each replace those that are kept. It returns the consumers whose state had it.
func (e *Eraser) compact(ctx context.Context, p *plan) ([]string, error) {
	var names []string
	var done []Compaction
	for _, c := range e.d.Consumers {
		if c.Compact == nil {
			continue
		}
		e.doing("compacting " + c.Name)
		one, err := c.Compact(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		names, done = append(names, c.Name), append(done, one)
	}
	if len(names) == 0 {
		return nil, nil
	}
	e.doing("taking snapshots")
	if err := e.replaceSnapshots(ctx, p.Deleted[0]); err != nil {
		return nil, err
	}
	for i, one := range done {
		if one.Still != nil && !one.Still() {
			return nil, fmt.Errorf("%s: its state was opened again while snapshots of it were to be made; they are made again", names[i])
		}
	}
	return names, nil
}

// replaceSnapshots leaves none from before it of what can be compacted. A snapshot is made only of a state that changed since the last one.
func (e *Eraser) replaceSnapshots(ctx context.Context, some who) error {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for range snapshotsKept {
		if _, err := e.mark(ctx, some, true); err != nil {
			return err
		}
		if err := e.renew(ctx, func(c *Consumer) bool { return c.Compact != nil }); err != nil {
			return err
		}
	}
	return nil
}
