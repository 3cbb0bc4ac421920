package erase

import (
	"context"
	"errors"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
)

// readAtOnce and restFor bound how often a busy log wakes the eraser, which is in no hurry.
const (
	readAtOnce = 1 << 16
	restFor    = 200 * time.Millisecond
	retryAfter = 10 * time.Second
)

// follow collects the deletions of one partition of the second log until ctx ends.
func (e *Eraser) follow(ctx context.Context, partition int32) {
	for ctx.Err() == nil {
		err := e.collect(ctx, partition)
		if ctx.Err() != nil || errors.Is(err, stream.ErrClosed) {
			return
		}
		var lost *stream.LostError
		switch {
		case errors.As(err, &lost):
			e.passed(partition, lost.To)
			continue
		case errors.Is(err, stream.ErrTooOld): // with the markers went what they are about
			e.passed(partition, 0)
			continue
		}
		e.log.Error("erase: deletions could not be read; it is tried again", "partition", partition, "error", err)
		rest(ctx, retryAfter)
	}
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// collect reads on from where it was.
func (e *Eraser) collect(ctx context.Context, partition int32) (err error) {
	e.mu.Lock()
	from := e.st.next[partition]
	e.mu.Unlock()
	r, err := e.d.Facts.Read(ctx, partition, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		recs, err := r.Next(ctx, readAtOnce)
		if err != nil {
			return err
		}
		for i := range recs {
			e.marker(partition, recs[i].Data)
		}
		e.passed(partition, recs[len(recs)-1].Offset+1)
		rest(ctx, restFor)
	}
}

// passed notes that a partition was read up to an offset.
func (e *Eraser) passed(partition int32, next int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.st.next[partition], e.dirty = next, true
}

// marker notes a deletion. One that comes again, because the stage that wrote it had crashed, may be of a profile that was erased long ago.
func (e *Eraser) marker(partition int32, data []byte) {
	m, f := markerIn(data)
	if f == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := source{partition, f.From.Partition}
	if last, met := e.st.origins[s]; met && (f.From.Offset < last.offset || f.From.Offset == last.offset && f.From.N <= last.n) {
		return
	}
	e.st.origins[s] = place{f.From.Offset, f.From.N}
	if !m.to.IsZero() {
		return
	}
	w := e.st.waiting[m.who]
	if w == nil {
		w = &waiting{at: f.At, met: map[int32]bool{}}
		e.st.waiting[m.who] = w
	}
	w.met[f.From.Partition] = true
}
