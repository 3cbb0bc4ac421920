package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// Consumer is how far a consumer is.
type Consumer struct {
	Name       string
	Running    bool
	Partitions []keyed.PartitionStatus
}

// Path is the folder of everything.
func (p *Pipeline) Path() string { return p.o.Path }

// Status tells of all consumers, in the order in which records pass them.
func (p *Pipeline) Status() []Consumer {
	var out []Consumer
	for _, c := range p.consumers() {
		out = append(out, Consumer{c.name, c.worker.Started(), c.worker.Status()})
	}
	if p.filler != nil {
		c, err := p.fillerStatus(context.Background())
		if err != nil {
			p.log.Warn("state of the warehouse not known", "error", err)
		}
		out = append(out, c)
	}
	return out
}

// ErrRefused is wrapped by what cannot be done to a consumer.
var ErrRefused = errors.New("cannot be done")

// consumer finds one by name.
func (p *Pipeline) consumer(name string) (*keyed.Worker, error) {
	all := p.consumers()
	i := slices.IndexFunc(all, func(c named) bool { return c.name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: there is no consumer %q here", ErrRefused, name)
	}
	return all[i].worker, nil
}

// StopConsumer ends one consumer until StartConsumer; what comes in waits in the log. It is not remembered over a restart.
func (p *Pipeline) StopConsumer(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if name == consumerWarehouse && p.filler != nil {
		return p.filler.Stop(ctx)
	}
	w, err := p.consumer(name)
	if err != nil {
		return err
	}
	return w.Stop(ctx)
}

// StartConsumer starts one that was stopped.
func (p *Pipeline) StartConsumer(name string) error {
	if name == consumerWarehouse && p.filler != nil {
		p.filler.Start()
		return nil
	}
	w, err := p.consumer(name)
	if err != nil {
		return err
	}
	w.Start()
	return nil
}

// each calls f for a partition, or for all with partition nil.
func (p *Pipeline) each(name string, partition *int, f func(w *keyed.Worker, partition int32) error) error {
	w, err := p.consumer(name)
	if err != nil {
		return err
	}
	for part := range int32(p.o.Partitions) {
		if partition == nil || int(part) == *partition {
			if e := f(w, part); e != nil {
				err = errors.Join(err, fmt.Errorf("%w: partition %d: %w", ErrRefused, part, e))
			}
		}
	}
	if partition != nil && (*partition < 0 || *partition >= p.o.Partitions) {
		return fmt.Errorf("%w: there is no partition %d; they are 0 to %d", ErrRefused, *partition, p.o.Partitions-1)
	}
	return err
}

// snapshotPatience bounds how long a snapshot or rebuild may be waited for.
const snapshotPatience = 5 * time.Minute

// SnapshotConsumer takes a snapshot of a partition's state, or of all.
func (p *Pipeline) SnapshotConsumer(ctx context.Context, name string, partition *int) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotPatience)
	defer cancel()
	return p.each(name, partition, func(w *keyed.Worker, part int32) error { return w.Snapshot(ctx, part) })
}

// RebuildConsumer throws a partition's state away and makes it again from the newest snapshot and the log.
func (p *Pipeline) RebuildConsumer(ctx context.Context, name string, partition *int) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotPatience)
	defer cancel()
	return p.each(name, partition, func(w *keyed.Worker, part int32) error { return w.Rebuild(ctx, part) })
}
