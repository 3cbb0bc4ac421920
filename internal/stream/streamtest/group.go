package streamtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
)

// pause is a wait after which something is looked at again.
const pause = 50 * time.Millisecond

// table is who serves what.
type table struct {
	mu      sync.Mutex
	owner   map[int32]string
	newest  map[int32]int64 // generation
	changed chan struct{}
	err     error
}

func newTable() *table {
	return &table{owner: map[int32]string{}, newest: map[int32]int64{}, changed: make(chan struct{})}
}

// enter notes that who serves a partition from now on; nobody else may.
func (b *table) enter(who string, a stream.Assignment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other := b.owner[a.Partition]; other != "" {
		b.err = fmt.Errorf("partition %d is served by %s and %s", a.Partition, other, who)
	}
	if a.Generation <= b.newest[a.Partition] {
		b.err = fmt.Errorf("partition %d: generation %d after %d", a.Partition, a.Generation, b.newest[a.Partition])
	}
	b.owner[a.Partition], b.newest[a.Partition] = who, a.Generation
	b.wake()
}

func (b *table) leave(p int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owner[p] = ""
	b.wake()
}

func (b *table) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// await waits until each has served so many partitions at once.
func (s *suite) await(b *table, want map[string]int) {
	s.Helper()
	for {
		b.mu.Lock()
		have := map[string]int{}
		for _, who := range b.owner {
			have[who]++
		}
		err, changed := b.err, b.changed
		b.mu.Unlock()
		s.must(err)
		fits := true
		for who, n := range want {
			fits = fits && have[who] == n
		}
		if fits {
			return
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			s.Fatalf("partitions are served so: %v, want %v", have, want)
		}
	}
}

// serve serves until its context ends.
func (b *table) serve(who string) func(context.Context, stream.Assignment) error {
	return func(ctx context.Context, a stream.Assignment) error {
		b.enter(who, a)
		defer b.leave(a.Partition)
		<-ctx.Done()
		return ctx.Err()
	}
}

// run: one process is assigned all partitions, and Run returns when all have ended.
func (s *suite) run() {
	t := s.topic(3)
	b := newTable()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.log.Run(ctx, "group", t, b.serve("one")) }()
	s.await(b, map[string]int{"one": 3})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		s.Errorf("Run ended with %v", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, who := range b.owner {
		if who != "" {
			s.Errorf("Run returned while partition %d was served", p)
		}
	}
}

// runError: an error of one partition ends all.
func (s *suite) runError() {
	t := s.topic(3)
	wrong := errors.New("wrong")
	err := s.log.Run(s.ctx, "group", t, func(ctx context.Context, a stream.Assignment) error {
		if a.Partition == 1 {
			return wrong
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, wrong) {
		s.Errorf("Run ended with %v", err)
	}
}

// handover: a second process gets a part, never while the first still serves it; what the first then appends for it is fenced;
// when the second goes the first gets all back.
func (s *suite) handover() {
	if s.Second == nil {
		s.Skip("there is only one process")
	}
	t := s.topic(4)
	b := newTable()
	fenced := make(chan error, 16)
	serve := b.serve("one")
	first, stopFirst := context.WithCancel(s.ctx)
	defer stopFirst()
	done := make(chan error, 2)
	go func() {
		done <- s.log.Run(first, "group", t, func(ctx context.Context, a stream.Assignment) error {
			if _, err := t.Append(ctx, []stream.Message{{Partition: a.Partition, Data: []byte("mine")}}); err != nil {
				fenced <- fmt.Errorf("while it was served: %w", err)
			}
			err := serve(ctx, a)
			if first.Err() == nil {
				_, err := t.Append(ctx, []stream.Message{{Partition: a.Partition, Data: []byte("late")}})
				fenced <- err
			}
			return err
		})
	}()
	s.await(b, map[string]int{"one": 4})
	other := s.open(s.Second)
	same, err := other.Topic(s.ctx, "things", 4)
	s.must(err)
	second, stopSecond := context.WithCancel(s.ctx)
	defer stopSecond()
	go func() { done <- other.Run(second, "group", same, b.serve("two")) }()
	s.await(b, map[string]int{"one": 2, "two": 2})
	for range 2 {
		if err := <-fenced; !errors.Is(err, stream.ErrFenced) {
			s.Errorf("append for a partition that was taken away: %v", err)
		}
	}
	stopSecond()
	<-done
	s.await(b, map[string]int{"one": 4})
	stopFirst()
	<-done
	b.mu.Lock()
	defer b.mu.Unlock()
	s.must(b.err)
}

// fill appends until Drop has dropped something of partition 0, and returns the records.
func (s *suite) fill(t stream.Topic) []kept {
	s.Helper()
	var all []kept
	for n := range 200 {
		data := fmt.Sprintf("%d %0500d", n, 0)
		all = append(all, kept{s.append(t, 0, data)[0], data})
	}
	return all
}

// retention: what was dropped is gone, and reading it says so; what is left is whole.
func (s *suite) retention() {
	if s.Drop == nil {
		s.Skip("keeps everything")
	}
	t := s.topic(2)
	all := s.fill(t)
	s.must(s.Drop(s.log, t))
	start, end := s.bound(t, 0)
	if start <= all[1].offset || end != all[len(all)-1].offset+1 {
		s.Fatalf("start %d, end %d after dropping", start, end)
	}
	for _, old := range []int64{1, all[1].offset, start - 1} {
		if _, err := t.Read(s.ctx, 0, old); !errors.Is(err, stream.ErrTooOld) {
			s.Errorf("reading at %d: %v", old, err)
		}
	}
	left := all
	for len(left) > 0 && left[0].offset < start {
		left = left[1:]
	}
	if len(left) > 0 {
		s.equal(s.read(s.reader(t, 0, 0), len(left), 50), left)
		s.equal(s.read(s.reader(t, 0, start), len(left), 50), left)
	}
	next := s.append(t, 0, "next")[0]
	s.equal(s.read(s.reader(t, 0, end), 1, 50), []kept{{next, "next"}})
}

// hold: what a group holds is not dropped, over a restart too, until it holds less or releases it.
func (s *suite) hold() {
	t := s.topic(2)
	all := s.fill(t)
	middle := all[len(all)/2].offset
	s.must(s.log.Hold(s.ctx, "slow", t, 0, all[0].offset))
	s.must(s.log.Hold(s.ctx, "fast group", t, 0, middle))
	if !s.Holds {
		s.must(s.log.Release(s.ctx, "slow", t))
		return
	}
	s.must(s.Drop(s.log, t))
	s.equal(s.read(s.reader(t, 0, all[0].offset), len(all), 50), all)
	s.must(s.log.Close())
	s.log = s.open(s.Open)
	t = s.topic(2)
	s.must(s.Drop(s.log, t))
	s.equal(s.read(s.reader(t, 0, all[0].offset), len(all), 50), all)
	s.must(s.log.Release(s.ctx, "slow", t))
	s.must(s.Drop(s.log, t))
	if start, _ := s.bound(t, 0); start <= all[1].offset || start > middle {
		s.Fatalf("start %d with %d held", start, middle)
	}
	s.equal(s.read(s.reader(t, 0, middle), len(all)-len(all)/2, 50), all[len(all)/2:])
	s.must(s.log.Release(s.ctx, "fast group", t))
	s.must(s.Drop(s.log, t))
	if start, _ := s.bound(t, 0); start <= middle {
		s.Fatalf("start %d with nothing held", start)
	}
}
