package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-mta/godwit/internal/seglog"
)

// LostError tells which acknowledged records cannot be read any more. It is an ErrLost.
type LostError struct {
	Topic    string
	From, To int64 // the offsets from From to before To are lost; a new Read at To goes on behind them
	Err      error // what is known of the damage; nil: the log only has a gap
}

// Error implements error.
func (e *LostError) Error() string {
	s := fmt.Sprintf("%v: topic %s, offsets %d to %d", ErrLost, e.Topic, e.From, e.To-1)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes it an ErrLost.
func (e *LostError) Unwrap() []error { return []error{ErrLost, e.Err} }

// reader reads one partition: from memory at the tail, else from the segments.
type reader struct {
	t         *topic
	partition int32
	next      int64 // offset to go on at

	pending []Record // read and not yet returned, in recs
	recs    []Record
	arena   []byte // data of recs that came from the disk
	err     error
}

// readBytes is about how much a reader takes from the disk at once.
const readBytes = 256 << 10

// Read implements Topic. It returns ErrTooOld also when such records were dropped while damaged.
func (t *topic) Read(_ context.Context, partition int32, from int64) (Reader, error) {
	if err := checkPartition(t, partition); err != nil {
		return nil, err
	}
	if from < 0 {
		return nil, fmt.Errorf("stream: topic %s: offset %d is negative", t.name, from)
	}
	r := &reader{t: t, partition: partition, next: from}
	if from == 0 {
		r.next = t.begin()
	} else if r.tooOld() {
		return nil, r.err
	}
	return r, nil
}

// begin is the offset at which what is kept begins.
func (t *topic) begin() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.kept.dropped
}

// tooOld reports whether records of the partition from next on were dropped.
func (r *reader) tooOld() bool {
	r.t.mu.RLock()
	gone := r.t.kept.gone[r.partition]
	r.t.mu.RUnlock()
	if r.next >= gone {
		return false
	}
	r.err = fmt.Errorf("%w: topic %s, partition %d, offset %d", ErrTooOld, r.t.name, r.partition, r.next)
	return true
}

// Close implements Reader.
func (r *reader) Close() error {
	r.pending, r.recs, r.arena, r.err = nil, nil, nil, ErrClosed
	return nil
}

// Next implements Reader. After ErrLost and ErrTooOld it returns the same again. The
// data of the records is shared with other readers and must not be changed.
func (r *reader) Next(ctx context.Context, max int) ([]Record, error) {
	for len(r.pending) == 0 {
		if err := r.fill(ctx, max); err != nil {
			return nil, err
		}
	}
	n := min(len(r.pending), max)
	if n < 1 {
		n = 1
	}
	out := r.pending[:n:n]
	r.pending = r.pending[n:]
	return out, nil
}

// fill waits for records and reads some; perhaps none yet.
func (r *reader) fill(ctx context.Context, max int) error {
	if r.err != nil {
		return r.err
	}
	select {
	case <-r.t.done:
		return ErrClosed
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.recs, r.arena = r.recs[:0], r.arena[:0]
	at, waiting := r.t.wait(r.partition, r.next)
	if waiting == nil {
		return r.take(at, max)
	}
	select {
	case <-waiting.ready:
		if waiting.base > r.next {
			r.next = waiting.base
		}
		return nil
	case <-r.t.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns what a reader that has seen all waits for. For one that has not, it returns the batch at its offset
// if that is in memory, nil if not.
func (t *topic) wait(partition int32, next int64) (*batch, *waiter) {
	if b, behind := t.inMemory(next); behind {
		return b, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if next < t.end {
		if n, ok := t.recent.find(next); ok {
			return t.recent.at(n), nil
		}
		return nil, nil
	}
	if t.waits[partition] == nil {
		t.waits[partition] = &waiter{ready: make(chan struct{})}
	}
	return nil, t.waits[partition]
}

// inMemory returns the batch with an offset, nil if it is not in memory; behind is false at the end of the log.
func (t *topic) inMemory(next int64) (b *batch, behind bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if next >= t.end {
		return nil, false
	}
	if n, ok := t.recent.find(next); ok {
		return t.recent.at(n), true
	}
	return nil, true
}

// take reads up to about max records, from memory as far as it goes, else from the disk.
func (r *reader) take(b *batch, max int) (err error) {
	if b == nil {
		err = r.fromDisk(max)
	}
	for b != nil && err == nil && len(r.recs) < max {
		if r.recs, err = b.records(r.recs, r.partition, r.next); err == nil {
			r.next = b.end()
			b, _ = r.t.inMemory(r.next)
		}
	}
	r.pending = r.recs
	if len(r.recs) > 0 {
		return nil // an error comes again at the next call
	}
	return err
}

// fromDisk reads some records of the piece that next lies in.
func (r *reader) fromDisk(max int) error {
	p, limit := r.t.locate(r.next)
	if p == nil {
		return r.before(limit)
	}
	full := false
	damage, err := r.t.scan(p, r.next, func(s stored) (bool, error) {
		if s.end() <= r.next {
			r.t.mu.Lock()
			p.mark(s.base, s.at)
			r.t.mu.Unlock()
			return true, nil
		}
		if s.base > r.next {
			return false, nil // a gap
		}
		var err error
		before := len(r.recs)
		if r.recs, r.arena, err = s.records(r.recs, r.arena, r.partition, r.next); err != nil {
			r.recs = r.recs[:before]
			return false, nil // what should be here is missing
		}
		r.next = s.end()
		full = len(r.recs) >= max || len(r.arena) >= readBytes
		return !full && r.next < limit, nil
	})
	switch {
	case errors.Is(err, seglog.ErrFreed):
		return nil // dropped or rewritten meanwhile: look again
	case errors.Is(err, seglog.ErrClosed):
		return ErrClosed
	case err != nil:
		return fmt.Errorf("stream: topic %s: %w", r.t.name, err)
	case full || r.next >= limit || len(r.recs) > 0:
		return nil
	}
	return r.lost(p, limit, damage)
}

// before goes on from where there is no piece yet, up to the first one.
func (r *reader) before(first int64) error {
	if r.tooOld() {
		return r.err
	}
	if begin := r.t.begin(); r.next < begin {
		r.next = begin // nothing of this partition lies between
		return nil
	}
	r.err = &LostError{Topic: r.t.name, From: r.next, To: first}
	return r.err
}

// lost finds how far what is missing from next on reaches.
func (r *reader) lost(p *piece, limit int64, damage error) error {
	to := limit
	_, err := r.t.scan(p, r.next, func(s stored) (bool, error) {
		if s.end() <= r.next {
			return true, nil
		}
		to = s.base
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("stream: topic %s: %w", r.t.name, err)
	}
	if to <= r.next {
		return fmt.Errorf("stream: topic %s: segment %d at offset %d: %w", r.t.name, p.seg, r.next, ErrLost)
	}
	r.err = &LostError{Topic: r.t.name, From: r.next, To: to, Err: damage}
	return r.err
}

// first returns the offset of the next record before end, or end. It steps over what is lost.
func (r *reader) first(ctx context.Context, end int64) (int64, error) {
	for r.next < end {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		r.recs, r.arena = r.recs[:0], r.arena[:0]
		b, _ := r.t.inMemory(r.next)
		err := r.take(b, 1)
		var lost *LostError
		switch {
		case errors.As(err, &lost):
			r.next, r.err = lost.To, nil
		case errors.Is(err, ErrTooOld):
			r.next = r.t.begin()
			r.err = nil
		case err != nil:
			return 0, err
		case len(r.recs) > 0:
			return r.recs[0].Offset, nil
		}
	}
	return end, nil
}
