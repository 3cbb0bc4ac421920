package keyed

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-mta/godwit/internal/stream"
)

// ApplyError is a failure of a processor. It names the records that it was given.
type ApplyError struct {
	Partition   int32
	First, Last int64 // offsets; equal once the record at fault is found
	Err         error
}

func (e *ApplyError) Error() string {
	if e.First == e.Last {
		return fmt.Sprintf("keyed: partition %d, record at offset %d: %v", e.Partition, e.First, e.Err)
	}
	return fmt.Sprintf("keyed: partition %d, a record at offsets %d to %d: %v", e.Partition, e.First, e.Last, e.Err)
}

// Unwrap gives the processor's error.
func (e *ApplyError) Unwrap() error { return e.Err }

// consumer is one run of a processor over a state, from the committed offset until something fails.
type consumer struct {
	p      *part
	tx     *Tx
	proc   Processor
	reader stream.Reader
	next   int64     // records before it are applied
	first  int64     // the first record that is applied and not committed
	dirty  bool      // something is applied and not committed
	opened time.Time // when the first of them was
	rate   float64   // of records a second, in the window before
	due    time.Time
	window context.Context // ends when due
	cancel context.CancelFunc
	pause  *backoff
}

// consume makes a processor and applies records to it until ctx ends or something fails.
// What is not committed then is lost, and done again.
func (p *part) consume(ctx context.Context, a stream.Assignment, store *Store, pause *backoff) error {
	from, err := store.Offset()
	if err != nil {
		return err
	}
	p.applied.Store(from)
	if err := p.behindEnd(ctx, from); err != nil {
		return err
	}
	proc, err := p.w.s.New(store, a)
	if err != nil {
		return fmt.Errorf("keyed: partition %d: %w", p.id, err)
	}
	reader, err := p.w.s.Input.Read(ctx, p.id, from)
	if err != nil {
		return fmt.Errorf("keyed: partition %d, from offset %d: %w", p.id, from, err)
	}
	defer reader.Close()
	c := &consumer{p: p, tx: store.Begin(a), proc: proc, reader: reader, next: from, pause: pause, cancel: func() {}}
	defer func() {
		c.cancel()
		_ = c.tx.drop()
	}()
	p.begun(proc)
	return c.loop(ctx)
}

// behindEnd refuses a state that has seen records that the log does not have.
func (p *part) behindEnd(ctx context.Context, from int64) error {
	end, err := p.w.s.Input.End(ctx, p.id)
	if err != nil {
		return fmt.Errorf("keyed: partition %d: %w", p.id, err)
	}
	if from > end {
		return fmt.Errorf("keyed: partition %d: the state is of offset %d, but %s ends at %d: the log was replaced or lost what it had acknowledged. "+
			"If it was replaced on purpose, delete %s and its snapshots", p.id, from, p.w.s.Input.Name(), end, p.dir)
	}
	if a := p.assigned.Load(); a != nil {
		a.goal.CompareAndSwap(noGoal, end)
	}
	return nil
}

func (p *part) begun(proc Processor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proc = proc
	if p.err == nil { // otherwise it has to get behind what failed first
		p.state = StateRunning
	}
	if p.idle.IsZero() {
		p.idle = time.Now()
	}
}

func (c *consumer) loop(ctx context.Context) error {
	for {
		recs, err := c.read(ctx)
		if err != nil {
			return err
		}
		if len(recs) > 0 {
			if err := c.apply(ctx, recs); err != nil {
				return err
			}
		}
		if c.isDue() {
			if err := c.commit(ctx); err != nil {
				return err
			}
		}
	}
}

// read waits for records, but not beyond the end of the window: then it returns none.
func (c *consumer) read(ctx context.Context) ([]stream.Record, error) {
	most := c.p.w.o.Records
	if c.next <= c.p.careful {
		most = 1
	}
	if !c.dirty {
		c.p.waits.Store(true)
		defer c.p.waits.Store(false)
		return c.reader.Next(ctx, most)
	}
	recs, err := c.reader.Next(c.window, most)
	if err != nil && c.window.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return recs, err
}

// apply hands records to the processor and appends what it emits.
func (c *consumer) apply(ctx context.Context, recs []stream.Record) error {
	first, last := recs[0], recs[len(recs)-1]
	c.p.hand.Store(first.Appended.UnixMilli())
	if now := time.Now(); now.Sub(last.Appended) > behindMost {
		c.p.w.memory.hurry.Store(now.Add(hurryFor).UnixNano())
	}
	if !c.dirty {
		c.dirty, c.first = true, first.Offset
		c.p.begins(first.Appended)
		c.opened = time.Now()
		if w := c.length(); w > 0 {
			c.due = c.opened.Add(w)
			c.window, c.cancel = context.WithDeadline(ctx, c.due)
		}
	}
	if err := c.inTurn(ctx, func() error { return c.proc.Apply(c.tx, recs) }); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return c.blame(first.Offset, last.Offset, err)
	}
	if err := c.emit(ctx); err != nil {
		return err
	}
	c.next = last.Offset + 1
	c.p.applied.Store(c.next)
	c.p.w.m.applied(c.p.id, len(recs))
	return nil
}

// turnWait is how long a stage waits for its turn at most: one that hangs in its own must not stop the others.
const turnWait = 100 * time.Millisecond

// behindMost is how old a record may be before its stage is behind. Then all of them use, for hurryFor, the CPU that is otherwise left to
// requests: these come in no faster than they are applied.
const (
	behindMost = 200 * time.Millisecond
	hurryFor   = 500 * time.Millisecond
)

const (
	// slowRate is of records a second in a partition, up to which a window is as long as it is set.
	slowRate = 6000
	// longest is how many times as long it is at most.
	longest = 3
)

// length is how long changes are collected. The more come, the longer, since that saves work, and while a stage is behind; otherwise the
// commit itself is to be short, for records wait for it.
func (c *consumer) length() time.Duration {
	w := c.p.w
	if w.memory.Behind() {
		return w.s.Window * longest
	}
	return time.Duration(float64(w.s.Window) * min(max(1, c.rate/slowRate), longest))
}

// inTurn calls f when one of the turns of the process is free: what is applied must leave a CPU to requests, or each of them waits until
// the scheduler takes one from a stage. Turns go in the order in which they were asked for.
func (c *consumer) inTurn(ctx context.Context, f func() error) error {
	turns := c.p.w.memory.turns
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
		return f()
	default:
	}
	var extra chan struct{} // nil is never free
	if m := c.p.w.memory; m.Behind() {
		extra = m.extra
	}
	late := time.NewTimer(turnWait)
	defer late.Stop()
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case extra <- struct{}{}:
		defer func() { <-extra }()
	case <-late.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return f()
}

// blame makes an error of the processor, and sees to it that next time the records come one by one.
func (c *consumer) blame(first, last int64, err error) error {
	c.p.careful = max(c.p.careful, last)
	return &ApplyError{Partition: c.p.id, First: first, Last: last, Err: err}
}

func (p *part) begins(appended time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.oldest.IsZero() || appended.Before(p.oldest) {
		p.oldest = appended
	}
}

// emit appends what the processor emitted, to all topics at once.
func (c *consumer) emit(ctx context.Context) error {
	if c.tx.emitted == 0 {
		return nil
	}
	outputs := c.tx.Outputs()
	if len(outputs) == 1 {
		for t, msgs := range outputs {
			return c.append(ctx, t, msgs)
		}
	}
	var all errgroup.Group
	for t, msgs := range outputs {
		all.Go(func() error { return c.append(ctx, t, msgs) })
	}
	return all.Wait()
}

func (c *consumer) append(ctx context.Context, t stream.Topic, msgs []stream.Message) error {
	offsets, err := t.Append(ctx, msgs)
	if err != nil {
		return fmt.Errorf("keyed: partition %d, outputs to %s: %w", c.p.id, t.Name(), err)
	}
	c.p.w.sent.note(t, msgs, offsets)
	return nil
}

// isDue reports whether what is applied is to be committed now.
func (c *consumer) isDue() bool {
	switch {
	case !c.dirty:
		return false
	case c.p.w.s.Window == 0, c.tx.Len() > c.p.w.o.largest(), c.next <= c.p.careful+1:
		return true
	}
	return !time.Now().Before(c.due)
}

// largest is the size of a Tx from which it is committed at once. Pebble treats one of half a memtable as a table of its own.
func (o *Options) largest() int { return int(o.MemTable) / 4 }

func (c *consumer) commit(ctx context.Context) error {
	start := time.Now()
	if err := c.inTurn(ctx, func() error { return c.proc.Flush(c.tx) }); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return c.blame(c.first, c.next-1, err)
	}
	if err := c.emit(ctx); err != nil {
		return err
	}
	if err := c.inTurn(ctx, func() error { return c.tx.Commit(c.next) }); err != nil {
		return err
	}
	c.rate = float64(c.next-c.first) / max(time.Since(c.opened), time.Millisecond).Seconds()
	c.cancel()
	c.dirty, c.window, c.cancel = false, nil, func() {}
	c.p.reached(c.next)
	c.pause.reset()
	c.p.w.m.committed(c.p.id, time.Since(start))
	return nil
}
