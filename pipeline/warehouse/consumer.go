package warehouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/stream"
)

// Name is what the consumer is known by to the log.
const Name = "warehouse"

const (
	readAtOnce = 2048
	// holdEvery is how often the log is told what it need not keep any more.
	holdEvery = 10 * time.Second
	retryMin  = 200 * time.Millisecond
	retryMax  = 15 * time.Second
)

// Deps is what a Consumer needs.
type Deps struct {
	// Sources is how many partitions the first log has: so many markers complete a merge.
	Sources int32
	// All makes the consumer read all partitions whoever else consumes the log, where it would otherwise be given its share of them: a
	// warehouse is one node's, so it has to have everything, and must not miss what came while another had a partition.
	All        bool
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: not registered
	// Behind reports whether the levels that people wait for are behind, so that they need the CPU more. Nil is never.
	Behind func() bool
}

// Consumer stores the facts of a log in a warehouse. It collects them for a window and stores
// what came together with the offsets it came from, in one transaction.
type Consumer struct {
	sink  Sink
	facts stream.Topic
	log   stream.Log
	o     Options
	d     Deps
	m     *metrics

	mu      sync.Mutex
	run     *run // nil while stopped
	paused  bool // by Stop
	wake    chan struct{}
	failure error
}

// NewConsumer makes one. Nothing is read before Run.
func NewConsumer(w Sink, facts stream.Topic, log stream.Log, o Options, d Deps) (*Consumer, error) {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Behind == nil {
		d.Behind = func() bool { return false }
	}
	if d.Sources <= 0 {
		d.Sources = facts.Partitions()
	}
	c := &Consumer{sink: w, facts: facts, log: log, o: o, d: d, wake: make(chan struct{}, 1)}
	var err error
	if c.m, err = newMetrics(d.Registerer); err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	return c, nil
}

// Run consumes until ctx ends. What fails is tried again: the warehouse may be slow or its disk full for a while,
// and nobody else waits for it.
func (c *Consumer) Run(ctx context.Context) error {
	pause := retryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := c.consume(ctx)
		c.note(err)
		if err == nil || ctx.Err() != nil {
			if !c.await(ctx) {
				return ctx.Err()
			}
			continue
		}
		if time.Since(began) > time.Minute {
			pause = retryMin
		}
		c.d.Logger.Error("the warehouse stopped taking facts; it is tried again", "error", err, "after", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, retryMax)
	}
	return ctx.Err()
}

// await waits while the consumer is stopped. It is false when ctx ended.
func (c *Consumer) await(ctx context.Context) bool {
	for ctx.Err() == nil {
		c.mu.Lock()
		paused := c.paused
		c.mu.Unlock()
		if !paused {
			return true
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		}
	}
	return false
}

func (c *Consumer) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		c.failure = err
	}
}

// consume reads and stores until it is stopped, which is no error, or something fails.
func (c *Consumer) consume(ctx context.Context) error {
	state, err := c.sink.State(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := newRun(c, state, cancel)
	c.mu.Lock()
	if c.paused {
		c.mu.Unlock()
		return nil
	}
	c.run = r
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.run = nil
		c.mu.Unlock()
		close(r.ended)
	}()
	var storing sync.WaitGroup
	storing.Go(func() { cancel(r.store(ctx)) })
	if c.d.All {
		err = r.all(ctx)
	} else {
		err = c.log.Run(ctx, Name, c.facts, r.serve)
	}
	cancel(err)
	storing.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, errStopped) {
		return cause
	}
	return nil
}

var errStopped = errors.New("warehouse: stopped")

// Start lets a stopped consumer go on.
func (c *Consumer) Start() {
	c.mu.Lock()
	c.paused = false
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Stop ends consuming until Start, and returns when nothing is written any more. Others go on.
func (c *Consumer) Stop(ctx context.Context) error {
	c.mu.Lock()
	c.paused = true
	r := c.run
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel(errStopped)
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Started reports whether the consumer is to run: it is, unless Stop was called last.
func (c *Consumer) Started() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.paused
}
