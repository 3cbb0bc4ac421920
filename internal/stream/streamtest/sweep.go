package streamtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
)

// sweep: Sweep gives what is there of some partitions and ends, at once, also when the oldest or all records are gone.
func (s *suite) sweep() {
	t := s.topic(4)
	s.swept(t, nil, nil, nil, nil)
	var all [4][]kept
	for i := range 2500 { // more than is read at once
		if i%500 == 0 {
			all[2] = append(all[2], kept{s.append(t, 2, fmt.Sprint("two ", i))[0], fmt.Sprint("two ", i)})
		}
		if i%50 == 0 {
			var data []string
			for n := range 50 {
				data = append(data, fmt.Sprint("zero ", i+n))
			}
			for n, offset := range s.append(t, 0, data...) {
				all[0] = append(all[0], kept{offset, data[n]})
			}
		}
	}
	s.swept(t, all[0], nil, all[2], nil)
	enough, calls := errors.New("enough"), 0
	err := stream.Sweep(s.ctx, t, []int32{0}, func(int32, stream.Record) error { calls++; return enough })
	if !errors.Is(err, enough) || calls != 1 {
		s.Errorf("%d calls, %v", calls, err)
	}
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	if err := stream.Sweep(ended, t, []int32{0}, func(int32, stream.Record) error { return nil }); !errors.Is(err, context.Canceled) {
		s.Errorf("under a context that has ended: %v", err)
	}
	if err := stream.Sweep(s.ctx, t, []int32{4}, func(int32, stream.Record) error { return nil }); err == nil {
		s.Error("there is no partition 4")
	}
	if s.Drop == nil {
		return
	}
	s.must(s.Drop(s.log, t))
	for p := range all {
		start, _ := s.bound(t, int32(p))
		for len(all[p]) > 0 && all[p][0].offset < start {
			all[p] = all[p][1:]
		}
	}
	s.swept(t, all[0], nil, all[2], nil)
}

// swept checks what a sweep of partitions 0, 1 and 2, and one of 3, give, and that they do not wait.
func (s *suite) swept(t stream.Topic, want ...[]kept) {
	s.Helper()
	got := make([][]kept, len(want))
	begin := time.Now()
	for _, some := range [][]int32{{2, 0, 1}, {3}} {
		s.must(stream.Sweep(s.ctx, t, some, func(p int32, r stream.Record) error {
			if r.Appended.IsZero() {
				return fmt.Errorf("offset %d has no time", r.Offset)
			}
			got[p] = append(got[p], kept{r.Offset, string(r.Data)})
			return nil
		}))
	}
	if took := time.Since(begin); took > 9*time.Second { // it waits for 10 s when it cannot find the end
		s.Errorf("it took %v", took)
	}
	for p := range want {
		s.equal(got[p], want[p])
	}
}
