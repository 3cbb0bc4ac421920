package peer

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/godwit-mta/godwit/internal/keyed"
)

// Remote is a partition of a consumer, wherever it is at the time of each question. It returns an error that wraps
// keyed.ErrClosed when no node has it.
type Remote struct {
	f   *Finder
	at  Spot
	ctx context.Context // of reads, for which nobody gives one
}

// Partition returns a partition of a consumer.
func (f *Finder) Partition(consumer string, partition int32) *Remote {
	return &Remote{f, Spot{consumer, partition}, context.Background()}
}

// Within makes reads end with ctx, if that is sooner than they would give up.
func (r *Remote) Within(ctx context.Context) *Remote {
	return &Remote{r.f, r.at, ctx}
}

// store is the state here.
func (r *Remote) store() (Store, error) {
	s, ok := r.f.d.Local.Store(r.at.Consumer, r.at.Partition)
	if !ok {
		return nil, keyed.ErrClosed
	}
	return s, nil
}

// reading bounds a read.
func (r *Remote) reading() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, patience+readWithin)
}

// Get returns a value, or keyed.ErrNotFound.
func (r *Remote) Get(key []byte) (v []byte, err error) {
	ctx, cancel := r.reading()
	defer cancel()
	err = r.f.at(ctx, r.at, func() error {
		s, err := r.store()
		if err == nil {
			v, err = s.Get(key)
		}
		return err
	}, func(ctx context.Context, n Node) error {
		b, err := r.f.client.call(ctx, readWithin, n, pathGet, r.at.query(), key)
		if err == nil {
			v, err = parseValue(b)
		}
		return err
	})
	return v, read(err)
}

// Page returns rows: see keyed.Store.Page.
func (r *Remote) Page(from, to []byte, back bool, size int) (rows []keyed.Row, more bool, err error) {
	ctx, cancel := r.reading()
	defer cancel()
	q := r.at.query()
	q.Set("size", strconv.Itoa(min(size, maxPage)))
	if back {
		q.Set("back", "1")
	}
	err = r.f.at(ctx, r.at, func() error {
		s, err := r.store()
		if err == nil {
			rows, more, err = s.Page(from, to, back, size)
		}
		return err
	}, func(ctx context.Context, n Node) error {
		b, err := r.f.client.call(ctx, readWithin, n, pathPage, q, bounds(from, to))
		if err == nil {
			rows, more, err = parsePage(b)
		}
		return err
	})
	return rows, more, read(err)
}

// read says of a read that took too long that nobody answers.
func read(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrNobody, err)
	}
	return err
}

// Ask asks whoever has the partition.
func (r *Remote) Ask(ctx context.Context, question []byte) (answer []byte, err error) {
	err = r.f.at(ctx, r.at, func() error {
		answer, err = r.f.d.Local.Ask(ctx, r.at.Consumer, r.at.Partition, question)
		return err
	}, func(ctx context.Context, n Node) error {
		answer, err = r.f.client.call(ctx, askWithin, n, pathAsk, r.at.query(), question)
		return err
	})
	return answer, err
}

// Wait returns when a record of the partition is applied, at whoever has it then.
func (r *Remote) Wait(ctx context.Context, offset int64) (p Progress, err error) {
	for reached := false; err == nil && !reached; {
		err = r.f.at(ctx, r.at, func() error {
			slice, cancel := context.WithTimeout(ctx, waitSlice)
			defer cancel()
			p, err = r.f.d.Local.Wait(slice, r.at.Consumer, r.at.Partition, offset)
			if reached = err == nil; slice.Err() != nil {
				err = nil // not yet; perhaps it is not here any more
			}
			return err
		}, func(ctx context.Context, n Node) error {
			w, err := r.f.client.wait(ctx, n, r.at, offset)
			p, reached = w.Progress, w.Reached
			return err
		})
		if err == nil && !reached {
			err = ctx.Err()
		}
	}
	return p, err
}

// Answer asks a node that answers questions of a kind.
func (f *Finder) Answer(ctx context.Context, what string, question []byte) ([]byte, error) {
	last := ErrNoAnswer
	for _, n := range f.answering(what) {
		var b []byte
		err := n.call(ctx, func(ctx context.Context, n Node) (err error) {
			b, err = f.client.call(ctx, askWithin, n, pathAnswer, url.Values{"what": {what}}, question)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil, !errors.Is(err, errUnreachable) && !errors.Is(err, ErrNoAnswer):
			return b, err
		}
		last = fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return nil, last
}
