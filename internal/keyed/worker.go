package keyed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
)

// Worker is one consumer: it keeps the state of each partition that is assigned to it. It is safe for concurrent use.
type Worker struct {
	log    stream.Log
	o      Options
	s      Spec
	logger *slog.Logger
	memory *Memory
	ours   bool // memory is this worker's own
	m      *metrics
	parts  []*part
	sent   sent

	snapping sync.Mutex // one partition makes a snapshot at a time

	mu      sync.Mutex
	wanted  bool
	changed chan struct{} // closed and renewed when wanted changes
	running bool          // partitions may be open
	idle    chan struct{} // closed and renewed when running ends
}

// NewWorker returns a worker that Run starts.
func NewWorker(log stream.Log, o Options, s Spec, d Deps) (*Worker, error) {
	if err := errors.Join(o.Validate(), s.validate()); err != nil {
		return nil, fmt.Errorf("keyed: %w", err)
	}
	o.setDefaults()
	o.MemTable *= units.Size(max(s.Heavy, 1))
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{
		log: log, o: o, s: s, memory: d.Memory, logger: d.Logger.With("consumer", s.Name),
		wanted: true, changed: make(chan struct{}), idle: make(chan struct{}),
	}
	for p := range s.Input.Partitions() {
		w.parts = append(w.parts, newPart(w, p))
	}
	w.m = newMetrics(s.Name)
	if d.Registerer != nil {
		if err := d.Registerer.Register(collector{w}); err != nil {
			return nil, fmt.Errorf("keyed: %s: %w", s.Name, err)
		}
	}
	return w, nil
}

// Run consumes until ctx ends, and returns nil then. It may be called once. What goes wrong with one partition is logged, shown by
// Status, and tried again; only the end of the log itself (stream.ErrClosed) ends Run with an error.
func (w *Worker) Run(ctx context.Context) error {
	if w.memory == nil {
		w.memory, w.ours = NewMemory(w.o.Cache), true
	}
	if w.ours {
		defer w.memory.Close()
	}
	pause := newBackoff(w.o.Retry.D())
	for ctx.Err() == nil {
		err := w.runOnce(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, errStopped):
			pause.reset()
		case errors.Is(err, stream.ErrClosed):
			return fmt.Errorf("keyed: %s: %w", w.s.Name, err)
		default:
			w.logger.Error("consumer: log failed", "err", err)
			pause.wait(ctx)
		}
	}
	return nil
}

var errStopped = errors.New("keyed: stopped")

// runOnce waits until the consumer is wanted and runs it until it is not.
func (w *Worker) runOnce(ctx context.Context) error {
	changed, ok := w.begin()
	if !ok {
		select {
		case <-changed:
		case <-ctx.Done():
		}
		return errStopped
	}
	defer w.end()
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-changed: // Stop is the only change while it runs
			cancel(errStopped)
		case <-stop:
		}
	})
	defer watch.Wait()
	defer close(stop)
	err := w.log.Run(run, w.s.Name, w.s.Input, w.serve)
	if cause := context.Cause(run); errors.Is(cause, errStopped) {
		return errStopped
	}
	return err
}

func (w *Worker) begin() (changed chan struct{}, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = w.wanted
	return w.changed, w.wanted
}

func (w *Worker) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	close(w.idle)
	w.idle = make(chan struct{})
}

// Start makes a worker that was stopped consume again. A new one is started.
func (w *Worker) Start() { w.want(true) }

// Stop ends consuming until Start, and waits until the state is written out and closed, or ctx ends. Other consumers are not affected.
func (w *Worker) Stop(ctx context.Context) error {
	w.want(false)
	w.mu.Lock()
	running, idle := w.running, w.idle
	w.mu.Unlock()
	if !running {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *Worker) want(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted != on {
		w.wanted = on
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// Started reports whether the worker is to consume.
func (w *Worker) Started() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wanted
}

// part returns a partition, or nil.
func (w *Worker) part(partition int32) *part {
	if partition < 0 || int(partition) >= len(w.parts) {
		return nil
	}
	return w.parts[partition]
}

// Store returns the state of a partition while it is open here. It may be closed at any time, and then returns ErrClosed.
func (w *Worker) Store(partition int32) (*Store, bool) {
	p := w.part(partition)
	if p == nil {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.store, p.store != nil
}

// Processor returns the processor of a partition while it is open here. It belongs to the partition's goroutine: only what it
// makes safe for concurrent use may be called. An error of Apply replaces it.
func (w *Worker) Processor(partition int32) (Processor, bool) {
	p := w.part(partition)
	if p == nil {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proc, p.proc != nil
}

// Applied is an offset that all records before it are applied, and their outputs appended, though perhaps not committed. It falls
// back when records are applied again after an error.
func (w *Worker) Applied(partition int32) int64 {
	if p := w.part(partition); p != nil {
		return p.applied.Load()
	}
	return 0
}

// Committed is an offset that the effect of all records before it is visible in the Store. It falls back when a snapshot is restored.
func (w *Worker) Committed(partition int32) int64 {
	if p := w.part(partition); p != nil {
		return p.committed.Load()
	}
	return 0
}

// Sent is the offset of the last record that this worker appended to a partition of a topic, or -1 if it appended none since it was
// made. So who waits for what became of an input record waits for that to be committed here, and then at the next consumer for Sent.
func (w *Worker) Sent(t stream.Topic, partition int32) int64 { return w.sent.last(t, partition) }

// Wait returns when the record at an offset of a partition is committed, or ctx ends.
func (w *Worker) Wait(ctx context.Context, partition int32, offset int64) error {
	p := w.part(partition)
	if p == nil {
		return fmt.Errorf("keyed: %s: there is no partition %d", w.s.Name, partition)
	}
	if p.committed.Load() > offset {
		return nil
	}
	reached := p.await(offset)
	select {
	case <-reached.done:
		return nil
	case <-ctx.Done():
		p.forget(reached)
		return ctx.Err()
	}
}

// sent remembers the last outputs.
type sent struct {
	mu      sync.Mutex
	offsets map[outlet]int64
}

type outlet struct {
	topic     string
	partition int32
}

func (s *sent) note(t stream.Topic, msgs []stream.Message, offsets []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.offsets == nil {
		s.offsets = map[outlet]int64{}
	}
	o := outlet{topic: t.Name()}
	seen := make([]bool, t.Partitions())
	for i := len(msgs) - 1; i >= 0; i-- {
		if o.partition = msgs[i].Partition; !seen[o.partition] { // the last of a partition is its highest
			seen[o.partition] = true
			if before, ok := s.offsets[o]; !ok || before < offsets[i] {
				s.offsets[o] = offsets[i]
			}
		}
	}
}

func (s *sent) last(t stream.Topic, partition int32) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.offsets[outlet{t.Name(), partition}]; ok {
		return at
	}
	return -1
}

// backoff is a pause that doubles up to 64 times the first.
type backoff struct{ first, next time.Duration }

func newBackoff(first time.Duration) *backoff { return &backoff{first, first} }

func (b *backoff) reset() { b.next = b.first }

// wait pauses, and returns early when ctx ends or wake has something.
func (b *backoff) wait(ctx context.Context, wake ...<-chan struct{}) {
	t := time.NewTimer(b.next)
	defer t.Stop()
	b.next = min(2*b.next, 64*b.first)
	var w <-chan struct{}
	if len(wake) > 0 {
		w = wake[0]
	}
	select {
	case <-t.C:
	case <-w:
	case <-ctx.Done():
	}
}
