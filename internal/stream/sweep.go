package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/seglog"
)

// Sweep calls f for every record of some partitions that is durable at the call, those of one partition in the order of
// their offsets, until f fails. Unlike a Reader it knows where the log ends and does not wait there, wherever records were
// dropped or erased. Data is valid during the call of f. It returns ErrLost for what is damaged.
func Sweep(ctx context.Context, t Topic, partitions []int32, f func(partition int32, r Record) error) error {
	for _, p := range partitions {
		if err := checkPartition(t, p); err != nil {
			return err
		}
	}
	if own, is := t.(*topic); is { // all partitions are in the same files, which are read once
		return own.sweep(ctx, partitions, f)
	}
	for _, p := range partitions {
		if err := sweepOne(ctx, t, p, f); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return nil
}

// sweepBatch is how many records are asked for at once.
const sweepBatch = 1024

// sweepOne reads one partition up to its end.
func sweepOne(ctx context.Context, t Topic, partition int32, f func(int32, Record) error) (err error) {
	end, err := t.End(ctx, partition)
	if err != nil {
		return err
	}
	next, err := t.Start(ctx, partition)
	if err != nil || next >= end {
		return err
	}
	reader, err := t.Read(ctx, partition, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for next < end {
		recs, err := nextBefore(ctx, t, partition, reader)
		if err != nil || len(recs) == 0 {
			return err
		}
		for _, r := range recs {
			if next = r.Offset + 1; r.Offset >= end {
				break
			}
			if err := f(partition, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepSilence is after how long without a record the offsets before the end are taken for those that a broker has used for
// itself, if it still answers.
const sweepSilence = 10 * time.Second

// nextBefore returns the next records of a log that has some, none if it seems to have none after all.
func nextBefore(ctx context.Context, t Topic, partition int32, reader Reader) ([]Record, error) {
	patient, cancel := context.WithTimeout(ctx, sweepSilence)
	defer cancel()
	recs, err := reader.Next(patient, sweepBatch)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		_, err = t.End(ctx, partition)
		return nil, err
	}
	return recs, err
}

// sweep reads the pieces one after the other.
func (t *topic) sweep(ctx context.Context, partitions []int32, f func(int32, Record) error) error {
	wanted := make([]bool, t.partitions)
	for _, p := range partitions {
		wanted[p] = true
	}
	t.mu.RLock()
	next, end := t.kept.dropped, t.end
	t.mu.RUnlock()
	for next < end {
		p, limit := t.locate(next)
		if p == nil {
			if next < t.begin() {
				return fmt.Errorf("%w: topic %s, offset %d was dropped meanwhile", ErrTooOld, t.name, next)
			}
			return &LostError{Topic: t.name, From: next, To: limit}
		}
		limit = min(limit, end)
		to, damage, err := t.sweepPiece(ctx, p, next, limit, wanted, f)
		next = to
		switch {
		case errors.Is(err, seglog.ErrFreed): // dropped or rewritten meanwhile: look again
		case errors.Is(err, seglog.ErrClosed):
			return ErrClosed
		case err != nil:
			return fmt.Errorf("stream: topic %s: %w", t.name, err)
		case next < limit && t.isPiece(p, next):
			return &LostError{Topic: t.name, From: next, To: limit, Err: damage}
		}
	}
	return nil
}

// isPiece reports whether an offset still lies in a piece: it was not dropped or rewritten while it was read.
func (t *topic) isPiece(p *piece, offset int64) bool {
	now, _ := t.locate(offset)
	return now == p
}

// sweepPiece calls f for what a piece has from an offset on and before another one, and returns how far it came.
func (t *topic) sweepPiece(ctx context.Context, p *piece, next, limit int64, wanted []bool, f func(int32, Record) error) (int64, error, error) {
	damage, err := t.scan(p, next, func(s stored) (bool, error) {
		switch err := t.goOn(ctx); {
		case err != nil:
			return false, err
		case s.end() <= next:
			return true, nil
		case s.base > next:
			return false, nil // a gap
		}
		next = s.end()
		return next < limit, s.each(func(partition int32, offset int64, data []byte) error {
			if data == nil || int(partition) >= len(wanted) || !wanted[partition] {
				return nil
			}
			return f(partition, Record{Offset: offset, Appended: s.header.at, Data: data})
		})
	})
	return next, damage, err
}
