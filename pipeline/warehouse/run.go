package warehouse

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// run is one time of consuming, from what State said on.
type run struct {
	c      *Consumer
	cancel context.CancelCauseFunc
	ended  chan struct{}

	mu      sync.Mutex
	next    *assembly // what is being collected
	spare   *assembly // one that was stored, for its memory
	since   time.Time // of the first fact in it
	room    chan struct{}
	full    chan struct{}
	parts   map[int32]*part
	origins map[originKey]place
	merges  map[[16]byte]map[int32]bool
}

// part is one partition of the facts.
type part struct {
	read   int64 // what comes next to be read
	stored int64 // what is before it is stored
	times  []mark
	seen   time.Time // when the last record stored was appended
	held   int64
}

// mark says when the records before an offset were appended.
type mark struct {
	offset int64
	at     time.Time
}

type originKey struct {
	partition int32
	stage     fact.Stage
	source    int32
}

type place struct {
	offset int64
	n      int32
}

func newRun(c *Consumer, s *State, cancel context.CancelCauseFunc) *run {
	r := &run{c: c, cancel: cancel, ended: make(chan struct{}), next: new(assembly), room: make(chan struct{}), full: make(chan struct{}, 1),
		parts: map[int32]*part{}, origins: map[originKey]place{}, merges: map[[16]byte]map[int32]bool{}}
	for _, o := range s.Offsets {
		r.parts[o.Partition] = &part{read: o.Next, stored: o.Next}
	}
	for _, o := range s.Origins {
		r.origins[originKey{o.Partition, o.Stage, o.Source}] = place{o.Offset, o.N}
	}
	for _, m := range s.Markers {
		r.markers(m.Merge.ID)[m.Partition] = true
	}
	return r
}

func (r *run) markers(merge [16]byte) map[int32]bool {
	m := r.merges[merge]
	if m == nil {
		m = map[int32]bool{}
		r.merges[merge] = m
	}
	return m
}

// serve reads one partition.
func (r *run) serve(ctx context.Context, a stream.Assignment) error {
	from, err := r.begin(ctx, a.Partition)
	if err != nil {
		return err
	}
	reader, err := r.c.facts.Read(ctx, a.Partition, from)
	if err != nil {
		return fmt.Errorf("warehouse: partition %d from %d: %w", a.Partition, from, err)
	}
	defer func() { _ = reader.Close() }()
	for {
		recs, err := reader.Next(ctx, readAtOnce)
		if err != nil {
			return err
		}
		for len(recs) > 0 {
			n, err := r.add(ctx, a.Partition, recs)
			if err != nil {
				return err
			}
			recs = recs[n:]
		}
	}
}

// all reads all partitions until one of them fails.
func (r *run) all(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	for partition := range r.c.facts.Partitions() {
		all.Go(func() error { return r.serve(ctx, stream.Assignment{Partition: partition}) })
	}
	return all.Wait()
}

// begin is where to read a partition from. What was read of one that was away meanwhile is stored first.
func (r *run) begin(ctx context.Context, partition int32) (int64, error) {
	for {
		r.mu.Lock()
		p := r.parts[partition]
		if p == nil {
			p = new(part)
			r.parts[partition] = p
		}
		room := r.room
		read, stored := p.read, p.stored
		r.mu.Unlock()
		if read == stored {
			return read, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-room:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// add collects records until the batch is full, and returns how many it took.
func (r *run) add(ctx context.Context, partition int32, recs []stream.Record) (int, error) {
	r.mu.Lock()
	for r.next.full(r.c.o) {
		room := r.room
		r.mu.Unlock()
		select {
		case r.full <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-room:
		}
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	p := r.parts[partition]
	if r.next.empty() {
		r.since = time.Now()
	}
	for i := range recs {
		if i > 0 && r.next.full(r.c.o) {
			return i, nil
		}
		r.take(partition, &recs[i])
		r.next.offset(partition, p.read, recs[i].Offset+1)
		p.read = recs[i].Offset + 1
	}
	last := recs[len(recs)-1]
	p.times = append(p.times, mark{last.Offset + 1, last.Appended})
	return len(recs), nil
}

// take puts one record into the batch. What is no fact is left out: nothing could ever make it one.
func (r *run) take(partition int32, rec *stream.Record) {
	r.c.m.facts.Inc()
	var f fact.Fact
	if err := f.Parse(rec.Data); err != nil {
		r.c.m.damaged.Inc()
		r.c.d.Logger.Error("a record of the log is not a fact; it is left out", "partition", partition, "offset", rec.Offset, "error", err)
		return
	}
	if f.From.N > 0 && !r.first(partition, &f.From) {
		r.c.m.repeated.Inc()
		return
	}
	switch {
	case f.Kind == fact.KindMarker && f.Merge != nil:
		r.marker(&f)
	case f.Kind == fact.KindEvent || f.Kind == fact.KindChange:
		r.next.add(&f, partition, rec.Offset, len(rec.Data))
	}
}

// first notes the origin of a fact. It is false for one that came before, which a stage that crashed repeats.
func (r *run) first(partition int32, o *fact.Origin) bool {
	k := originKey{partition, o.Stage, o.Partition}
	last, known := r.origins[k]
	if known && (o.Offset < last.offset || o.Offset == last.offset && o.N <= last.n) {
		return false
	}
	r.origins[k] = place{o.Offset, o.N}
	r.next.origin(k, place{o.Offset, o.N})
	return true
}

// marker counts the partitions of the first log that send nothing more for a profile. With the last one it leaves.
func (r *run) marker(f *fact.Fact) {
	m := r.markers(f.Merge.ID)
	if m[f.From.Partition] {
		return
	}
	m[f.From.Partition] = true
	if len(m) < int(r.c.d.Sources) {
		r.next.marker(f)
		return
	}
	delete(r.merges, f.Merge.ID)
	r.next.merge(f)
	r.c.m.merges.Inc()
}

const (
	// soon is how long facts are collected if few come, as far as the window is not shorter.
	soon = 200 * time.Millisecond
	// many facts wait for the whole window: then each costs the least.
	many = 5000
)

// collectFor is how long so many facts are worth waiting for more. The fewer come, the sooner they are stored: there is no backlog then, and
// somebody may be looking.
func collectFor(window time.Duration, facts int) time.Duration {
	return min(window, soon+window*time.Duration(min(facts, many))/many)
}

// due is how long it takes until what was collected is to be stored.
func (r *run) due() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next.empty() {
		return soon
	}
	return collectFor(r.c.o.Window.D(), r.next.records) - time.Since(r.since)
}

// store writes what was collected, once in a window or when it is enough.
func (r *run) store(ctx context.Context) error {
	held := time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		full := false
		t.Reset(max(min(r.due(), soon), time.Millisecond))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		case <-r.full:
			full = true
		}
		if full || r.due() <= 0 {
			r.giveWay(ctx)
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
		if time.Since(held) > holdEvery {
			held = time.Now()
			if err := r.hold(ctx); err != nil {
				return err
			}
		}
	}
}

// giveWay waits while others need the CPU more, but not for ever.
func (r *run) giveWay(ctx context.Context) {
	const look = 20 * time.Millisecond
	for began := time.Now(); r.c.d.Behind() && time.Since(began) < r.c.o.Yield.D(); {
		select {
		case <-ctx.Done():
			return
		case <-time.After(look):
		}
	}
}

func (r *run) flush(ctx context.Context) error {
	r.mu.Lock()
	a := r.next
	if a.empty() {
		r.mu.Unlock()
		return nil
	}
	r.next, r.spare = r.spare, nil
	if r.next == nil {
		r.next = new(assembly)
	}
	close(r.room)
	r.room = make(chan struct{})
	r.mu.Unlock()
	b := a.batch()
	began := time.Now()
	// A write that began is not to be broken off half way: it takes a moment, and what it wrote would be read again.
	if err := r.c.sink.Append(context.WithoutCancel(ctx), b); err != nil {
		return err
	}
	r.c.m.stored(time.Since(began), len(b.Events))
	offsets := b.Offsets
	a.reset()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare = a
	for _, o := range offsets {
		r.parts[o.Partition].settle(o.Next)
	}
	r.c.settled()
	return nil
}

// settle notes that all before an offset is stored.
func (p *part) settle(next int64) {
	p.stored = next
	for len(p.times) > 0 && p.times[0].offset <= next {
		p.seen = p.times[0].at
		p.times = p.times[1:]
	}
}

// hold tells the log what to keep: all that a crash could take back.
func (r *run) hold(ctx context.Context) error {
	if r.c.d.All {
		return nil // it would be one name for the warehouses of all nodes
	}
	r.mu.Lock()
	at := map[int32]int64{}
	for _, o := range r.c.sink.Safe() {
		if p := r.parts[o.Partition]; p != nil && p.held != o.Next {
			at[o.Partition] = o.Next
			p.held = o.Next
		}
	}
	r.mu.Unlock()
	for id, offset := range at {
		if err := r.c.log.Hold(ctx, Name, r.c.facts, id, offset); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("warehouse: hold: %w", err)
		}
	}
	return nil
}
