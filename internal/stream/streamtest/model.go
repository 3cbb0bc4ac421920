package streamtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/godwit-mta/godwit/internal/stream"
)

// history is what concurrent appenders know.
type history struct {
	mu    sync.Mutex
	acked []map[int64]string // by partition
}

// model: concurrent appenders and readers. Each reader sees each acknowledged record of its partition once, at the
// offset that Append returned, in rising order, and each appender's records in the order it appended them.
func (s *suite) model() {
	const partitions, appenders, each = 3, 4, 60
	t := s.topic(partitions)
	h := &history{acked: make([]map[int64]string, partitions)}
	for p := range h.acked {
		h.acked[p] = map[int64]string{}
	}
	var readers, writers sync.WaitGroup
	total := make(chan []int, 1) // records of each partition, when all are appended
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	counts := make([]int, partitions)
	var countMu sync.Mutex
	for a := range appenders {
		writers.Go(func() {
			got := s.appendSome(t, h, a, each)
			countMu.Lock()
			defer countMu.Unlock()
			for p, n := range got {
				counts[p] += n
			}
		})
	}
	seen := make([][]map[int64]string, partitions)
	for p := range int32(partitions) {
		seen[p] = make([]map[int64]string, 2)
		for n := range seen[p] {
			readers.Go(func() { seen[p][n] = s.follow(ctx, t, p, total) })
		}
	}
	writers.Wait()
	total <- counts
	readers.Wait()
	for p := range seen {
		for _, got := range seen[p] {
			if len(got) != len(h.acked[p]) {
				s.Errorf("partition %d: %d records, want %d", p, len(got), len(h.acked[p]))
			}
			for offset, data := range h.acked[p] {
				if got[offset] != data {
					s.Fatalf("partition %d, offset %d: %q, want %q", p, offset, got[offset], data)
				}
			}
		}
	}
}

// appendSome appends batches of random size and returns how many records each partition got.
func (s *suite) appendSome(t stream.Topic, h *history, appender, batches int) []int {
	r := rand.New(rand.NewPCG(uint64(appender), 3))
	counts := make([]int, t.Partitions())
	n := 0
	for range batches {
		var msgs []stream.Message
		for range 1 + r.IntN(1+r.IntN(40)) {
			n++
			p := r.Int32N(t.Partitions())
			counts[p]++
			msgs = append(msgs, stream.Message{Partition: p, Data: fmt.Appendf(nil, "%d %d %0*d", appender, n, r.IntN(100), 0)})
		}
		offsets, err := t.Append(s.ctx, msgs)
		if err != nil {
			s.Error(err)
			return counts
		}
		h.mu.Lock()
		for i, m := range msgs {
			if old, ok := h.acked[m.Partition][offsets[i]]; ok {
				s.Errorf("partition %d, offset %d was given to %q and %q", m.Partition, offsets[i], old, m.Data)
			}
			h.acked[m.Partition][offsets[i]] = string(m.Data)
		}
		h.mu.Unlock()
	}
	return counts
}

// follow reads a partition while it grows, until it has all.
func (s *suite) follow(ctx context.Context, t stream.Topic, partition int32, total chan []int) map[int64]string {
	got, last, newest := map[int64]string{}, int64(-1), map[int]int{}
	r, err := t.Read(ctx, partition, 0)
	if err != nil {
		s.Error(err)
		return got
	}
	defer r.Close()
	for want := -1; len(got) != want; {
		select {
		case counts := <-total:
			total <- counts
			if want = counts[partition]; len(got) == want {
				return got
			}
		default:
		}
		recs, err := s.next(ctx, r, 1+len(got)%17)
		if err != nil {
			s.Errorf("partition %d after %d records: %v", partition, len(got), err)
			return got
		}
		for _, rec := range recs {
			var appender, n int
			if _, err := fmt.Sscanf(string(rec.Data), "%d %d", &appender, &n); err != nil || rec.Offset <= last || n <= newest[appender] {
				s.Errorf("partition %d: offset %d after %d, %q after number %d: %v", partition, rec.Offset, last, rec.Data, newest[appender], err)
			}
			got[rec.Offset], last, newest[appender] = string(rec.Data), rec.Offset, n
		}
	}
	return got
}

// next waits for records only for a while, since the reader may have all without knowing it yet.
func (s *suite) next(ctx context.Context, r stream.Reader, max int) ([]stream.Record, error) {
	short, cancel := context.WithTimeout(ctx, pause)
	defer cancel()
	recs, err := r.Next(short, max)
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return recs, err
}
