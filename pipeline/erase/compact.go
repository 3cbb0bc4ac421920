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
func (e *Eraser) compact(ctx context.Context, p *plan) (names []string, err error) {
	var which []Consumer
	for _, c := range e.d.Consumers {
		if c.Compact != nil {
			which, names = append(which, c), append(names, c.Name)
		}
	}
	if len(which) == 0 {
		return nil, nil
	}
	if err := e.caughtUp(ctx, p.Deleted[0]); err != nil { // after a start states are not open at once
		return nil, err
	}
	done := make([]Compaction, len(which))
	for i, c := range which {
		e.doing("compacting " + c.Name)
		if done[i], err = c.Compact(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	e.doing("taking snapshots")
	if err := e.replaceSnapshots(ctx, p.Deleted[0]); err != nil {
		return nil, err
	}
	for i, one := range done {
		if one.Still != nil && !one.Still() {
			return nil, fmt.Errorf("%s: its state was opened again while it was compacted or its snapshots were made; it is tried again", names[i])
		}
	}
	return names, nil
}

// caughtUp waits until the consumers have applied what is in the logs.
func (e *Eraser) caughtUp(ctx context.Context, some who) error {
	e.doing("waiting for the consumers")
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	_, err := e.mark(ctx, some, true)
	return err
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
