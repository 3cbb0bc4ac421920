package pipeline

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/erase"
	"github.com/godwit-mta/godwit/pipeline/identity"
)

// openErase makes what takes deleted profiles out of the logs, where the logs are ours.
func (p *Pipeline) openErase() (err error) {
	log, ours := p.logs.(*stream.Embedded)
	if !ours {
		p.log.Warn("the logs are in Kafka: records of deleted profiles are not erased there but stay until the brokers drop them; "+
			"the retention of both topics must not be longer than what is promised to those who are deleted", "topics", []string{topicIntake, topicFacts})
		return nil
	}
	if p.o.Log.Spares > 0 {
		p.log.Warn("segment files are used again (pipeline.log.spares): what was erased stays readable in them until it is written over; 0 avoids that")
	}
	d := erase.Deps{Log: log, Intake: p.intake, Facts: p.facts, Logger: p.d.Logger, Registerer: p.d.Registerer, Now: p.d.now, Seal: identity.Seal}
	for _, c := range p.consumers() {
		input := topicFacts
		if c.name == consumerIdentity {
			input = topicIntake
		}
		one := erase.Consumer{Name: c.name, Input: input,
			Committed: func(context.Context) ([]int64, error) { return committed(c.worker, p.intake.Partitions()), nil },
			Renew:     func(ctx context.Context) error { return snapshots(ctx, c.worker, p.intake.Partitions()) }}
		// The rows of the others name nobody: hashes of identifiers, which stay on purpose, and of events what the erased log has too.
		if c.name == consumerCustomer {
			one.Compact = func(ctx context.Context) (erase.Compaction, error) {
				return compact(ctx, c.worker, p.intake.Partitions())
			}
		}
		d.Consumers = append(d.Consumers, one)
	}
	if p.filler != nil {
		one := erase.Consumer{Name: consumerWarehouse, Input: topicFacts, Committed: p.stored}
		if house, can := p.house.(interface {
			Erase(ctx context.Context) error
		}); can {
			one.Compact = func(ctx context.Context) (erase.Compaction, error) { return erase.Compaction{}, house.Erase(ctx) }
		}
		d.Consumers = append(d.Consumers, one)
	}
	p.eraser, err = erase.New(filepath.Join(p.o.Path, "erase"), p.o.Erase, d)
	return err
}

// committed is how far a worker's state is, by partition.
func committed(w *keyed.Worker, partitions int32) []int64 {
	out := make([]int64, partitions)
	for q := range partitions {
		out[q] = w.Committed(q)
	}
	return out
}

// snapshots takes one of each partition.
func snapshots(ctx context.Context, w *keyed.Worker, partitions int32) error {
	var errs []error
	for q := range partitions {
		errs = append(errs, w.Snapshot(ctx, q))
	}
	return errors.Join(errs...)
}

// compact rewrites the state of each partition.
func compact(ctx context.Context, w *keyed.Worker, partitions int32) (erase.Compaction, error) {
	states := make([]*keyed.Store, partitions)
	for q := range partitions {
		states[q], _ = w.Store(q)
		if err := w.Compact(ctx, q); err != nil {
			return erase.Compaction{}, err
		}
	}
	return erase.Compaction{Still: func() bool {
		for q := range partitions {
			if now, open := w.Store(q); !open || now != states[q] {
				return false
			}
		}
		return true
	}}, nil
}

// stored is how far the warehouse is, by partition.
func (p *Pipeline) stored(ctx context.Context) ([]int64, error) {
	all, err := p.filler.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	out := make([]int64, len(all))
	for i, s := range all {
		out[i] = s.Stored
	}
	return out, nil
}

// Erasure tells how the erasing of deleted profiles from the logs is doing; nil where the logs are in Kafka.
func (p *Pipeline) Erasure() *erase.Status {
	if p.eraser == nil {
		return nil
	}
	s := p.eraser.Status()
	return &s
}
