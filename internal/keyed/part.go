package keyed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
)

// part is what a worker knows of one partition, assigned or not.
type part struct {
	w         *Worker
	id        int32
	dir       string // of the state
	snaps     string // of the snapshots; "" if none are made
	logger    *slog.Logger
	applied   atomic.Int64
	committed atomic.Int64
	waits     atomic.Bool // all that was read is committed, and it waits for more

	assigned atomic.Pointer[assigned] // nil: it is not

	careful int64 // records up to this offset are applied one by one, since one of them failed

	hand atomic.Int64 // when the first of the records was appended that were read last, as Unix milliseconds; 0: none were

	files sync.Mutex // the folder of snapshots has one user at a time; taken before mu

	mu       sync.Mutex
	store    *Store
	proc     Processor
	waiters  []*waiter
	state    State
	err      error     // the last one, until the next progress
	errAt    int64     // offset of the record that could not be applied, or -1
	oldest   time.Time // when the oldest record was appended that is read but not committed; zero: none is
	idle     time.Time // when the last commit was, or it began
	snapshot Snapshot  // the newest
	asked    []chan error
	cancel   context.CancelCauseFunc // interrupts consuming; nil while nothing is open
}

// waiter waits for a commit behind an offset.
type waiter struct {
	offset int64
	done   chan struct{}
}

func newPart(w *Worker, id int32) *part {
	p := &part{
		w: w, id: id, logger: w.logger.With("partition", id), careful: -1, errAt: -1,
		dir: filepath.Join(w.o.Dir, w.s.Name, strconv.Itoa(int(id))),
	}
	if w.o.Snapshots != "" {
		p.snaps = filepath.Join(w.o.Snapshots, w.s.Name, strconv.Itoa(int(id)))
	}
	return p
}

// Reasons for which consuming ends and the state is replaced.
var (
	errRebuild = errors.New("keyed: rebuild was asked for")
	errDamaged = errors.New("keyed: state is damaged")
)

// serve keeps one assigned partition going until ctx ends.
func (w *Worker) serve(ctx context.Context, a stream.Assignment) error {
	p := w.parts[a.Partition]
	defer p.set(StateAway, nil)
	defer p.answer(ErrClosed)
	p.assigned.Store(newAssigned(ctx, a))
	defer p.assigned.Store(nil)
	pause := newBackoff(w.o.Retry.D())
	var replace error
	for ctx.Err() == nil {
		store, err := p.open(ctx, replace)
		replace = nil
		if err == nil {
			err = p.use(ctx, a, store, pause)
		} else {
			p.answer(err)
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, stream.ErrClosed):
			return err
		case replaces(err):
			replace = err
		default:
			p.failed(err, pause)
			pause.wait(ctx)
		}
	}
	return ctx.Err()
}

// replaces reports whether the state has to be replaced for an error to go away, and may be.
func replaces(err error) bool {
	return !errors.Is(err, errNoSource) &&
		(errors.Is(err, errRebuild) || errors.Is(err, errDamaged) || errors.Is(err, stream.ErrTooOld))
}

// failed logs an error that is tried again after a pause.
func (p *part) failed(err error, pause *backoff) {
	p.w.m.failed(p.id, err)
	p.set(StateFailing, err)
	p.logger.Error("consumer failed; it tries again", "err", err, "pause", pause.next)
}

// use consumes with an open state until ctx ends or the state has to be replaced.
func (p *part) use(ctx context.Context, a stream.Assignment, store *Store, pause *backoff) error {
	from, err := store.Offset()
	if err != nil {
		return errors.Join(errDamaged, err, store.Close())
	}
	run, cancel := context.WithCancelCause(ctx)
	p.publish(store, from, cancel)
	p.answer(nil)
	var beside sync.WaitGroup
	beside.Go(func() { p.keepSnapshots(run, store) })
	beside.Go(func() {
		select {
		case <-store.damaged: // perhaps a reader found it, while there is no input
			cancel(errDamaged)
		case <-run.Done():
		}
	})
	defer func() {
		cancel(nil)
		beside.Wait()
		p.close(store, ctx.Err() != nil)
	}()
	for {
		err := p.consume(run, a, store, pause)
		if d := store.Damage(); d != nil {
			return fmt.Errorf("%w: %w", errDamaged, d)
		}
		switch cause := context.Cause(run); {
		case errors.Is(cause, errRebuild):
			return errRebuild
		case cause != nil:
			return cause
		case errors.Is(err, stream.ErrClosed), errors.Is(err, stream.ErrTooOld):
			return err
		}
		p.failed(err, pause)
		pause.wait(run)
	}
}

// publish lets readers find an open state, and know up to where it goes: it may have fallen back.
func (p *part) publish(s *Store, from int64, cancel context.CancelCauseFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake(from)
	p.store, p.cancel = s, cancel
}

// close takes the state away from readers and closes it. A clean end writes it out, so that the next start has less to do again.
func (p *part) close(s *Store, clean bool) {
	p.mu.Lock()
	p.store, p.proc, p.cancel = nil, nil, nil
	p.mu.Unlock()
	if clean {
		if err := s.Flush(); err != nil {
			p.logger.Warn("state was not written out; the log makes it again", "err", err)
		}
	}
	if err := s.Close(); err != nil {
		p.logger.Warn("state was not closed well; the log makes it again", "err", err)
	}
}

// set notes how the partition is doing. An offset of the error is noted if there is one.
func (p *part) set(s State, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.err, p.errAt = s, err, -1
	var at *ApplyError
	if errors.As(err, &at) {
		p.errAt = at.First
	}
	if s == StateAway {
		p.oldest, p.idle = time.Time{}, time.Time{}
		p.hand.Store(0)
	}
}

// await adds a waiter.
func (p *part) await(offset int64) *waiter {
	wt := &waiter{offset: offset, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.committed.Load() > offset {
		close(wt.done)
		return wt
	}
	p.waiters = append(p.waiters, wt)
	return wt
}

func (p *part) forget(gone *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, wt := range p.waiters {
		if wt == gone {
			last := len(p.waiters) - 1
			p.waiters[i], p.waiters[last] = p.waiters[last], nil
			p.waiters = p.waiters[:last]
			return
		}
	}
}

// reached notes a commit.
func (p *part) reached(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.oldest, p.idle = time.Time{}, time.Now()
	p.state, p.err, p.errAt = StateRunning, nil, -1
	p.wake(next)
}

// wake sets the committed offset and wakes those that waited for it. mu is held.
func (p *part) wake(next int64) {
	p.committed.Store(next)
	kept := p.waiters[:0]
	for _, wt := range p.waiters {
		if next > wt.offset {
			close(wt.done)
		} else {
			kept = append(kept, wt)
		}
	}
	clear(p.waiters[len(kept):])
	p.waiters = kept
}

// answer tells those who asked for a rebuild how it ended.
func (p *part) answer(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.asked {
		c <- err
	}
	p.asked = nil
}
