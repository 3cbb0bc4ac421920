// Package streamtest holds implementations of stream.Log to its contract.
package streamtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
)

// Kit is one log under test, and what can be done to it.
type Kit struct {
	// Open opens the log. Where Reopens is set, it is called again after Close and finds what was kept.
	Open    func() (stream.Log, error)
	Reopens bool
	// Second opens the log as another process of the same group; nil where there can be no other.
	Second func() (stream.Log, error)
	// Drop drops the oldest records of a topic, as far as retention may; nil if it keeps everything.
	Drop func(log stream.Log, t stream.Topic) error
	// Holds tells that Hold keeps records from being dropped.
	Holds bool
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// Test runs the whole suite; make is called for each part and returns a log without topics.
func Test(t *testing.T, make func(t *testing.T) Kit) {
	parts := []struct {
		name string
		run  func(*suite)
	}{
		{"order", (*suite).order}, {"bounds", (*suite).bounds}, {"sizes", (*suite).sizes}, {"waiting", (*suite).waiting},
		{"refusals", (*suite).refusals}, {"model", (*suite).model}, {"reopen", (*suite).reopen}, {"run", (*suite).run},
		{"run error", (*suite).runError}, {"handover", (*suite).handover}, {"retention", (*suite).retention},
		{"hold", (*suite).hold}, {"sweep", (*suite).sweep}, {"closing", (*suite).closing},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s := &suite{T: t, Kit: make(t), ctx: ctx}
			s.log = s.open(s.Open)
			p.run(s)
		})
	}
}

// suite is one part of the test at work.
type suite struct {
	*testing.T
	Kit
	ctx context.Context
	log stream.Log
}

func (s *suite) open(open func() (stream.Log, error)) stream.Log {
	s.Helper()
	log, err := open()
	s.must(err)
	s.Cleanup(func() {
		if err := log.Close(); err != nil {
			s.Error(err)
		}
	})
	return log
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) topic(partitions int32) stream.Topic {
	s.Helper()
	t, err := s.log.Topic(s.ctx, "things", partitions)
	s.must(err)
	return t
}

func (s *suite) append(t stream.Topic, partition int32, data ...string) []int64 {
	s.Helper()
	msgs := make([]stream.Message, len(data))
	for i, d := range data {
		msgs[i] = stream.Message{Partition: partition, Data: []byte(d)}
	}
	offsets, err := t.Append(s.ctx, msgs)
	s.must(err)
	if len(offsets) != len(data) {
		s.Fatalf("%d offsets for %d messages", len(offsets), len(data))
	}
	return offsets
}

func (s *suite) reader(t stream.Topic, partition int32, from int64) stream.Reader {
	s.Helper()
	r, err := t.Read(s.ctx, partition, from)
	s.must(err)
	s.Cleanup(func() { _ = r.Close() })
	return r
}

// kept is a copy of a record.
type kept struct {
	offset int64
	data   string
}

// read returns copies of the next n records.
func (s *suite) read(r stream.Reader, n, max int) []kept {
	s.Helper()
	var all []kept
	for len(all) < n {
		recs, err := r.Next(s.ctx, max)
		if err != nil {
			s.Fatalf("after %d of %d records: %v", len(all), n, err)
		}
		if len(recs) == 0 || len(recs) > max {
			s.Fatalf("%d records, at most %d were asked for", len(recs), max)
		}
		for _, rec := range recs {
			all = append(all, kept{rec.Offset, string(rec.Data)})
		}
	}
	return all
}

func (s *suite) equal(got, want []kept) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			s.Fatalf("record %d: offset %d %.40q, want offset %d %.40q", i, got[i].offset, got[i].data, want[i].offset, want[i].data)
		}
	}
}

// order: what is appended comes back in order with the offsets that Append returned, whatever was appended with it.
func (s *suite) order() {
	t := s.topic(3)
	want := make([][]kept, 3)
	began := time.Now().Add(-time.Millisecond)
	buf := make([]byte, 0, 64)
	for n := range 40 {
		var msgs []stream.Message
		for i := range 1 + n%7 {
			at := len(buf)
			buf = fmt.Appendf(buf, "%d.%d", n, i)
			msgs = append(msgs, stream.Message{Partition: int32((n*5 + i*i) % 3), Data: buf[at:]})
		}
		offsets, err := t.Append(s.ctx, msgs)
		s.must(err)
		for i, m := range msgs {
			want[m.Partition] = append(want[m.Partition], kept{offsets[i], string(m.Data)})
		}
		clear(buf) // the data may be used again
		buf = buf[:0]
	}
	for p := range want {
		for _, max := range []int{1, 3, 1000} {
			s.equal(s.read(s.reader(t, int32(p), 0), len(want[p]), max), want[p])
		}
		for i := range want[p] {
			if i > 0 && want[p][i].offset <= want[p][i-1].offset {
				s.Fatalf("offset %d after %d", want[p][i].offset, want[p][i-1].offset)
			}
			if i%5 == 0 {
				s.equal(s.read(s.reader(t, int32(p), want[p][i].offset), 1, 1), want[p][i:i+1])
			}
		}
		recs, err := s.reader(t, int32(p), 0).Next(s.ctx, 10)
		s.must(err)
		for _, rec := range recs {
			if rec.Appended.Before(began.Add(-time.Second)) || rec.Appended.After(time.Now().Add(time.Second)) {
				s.Fatalf("appended at %v, now is %v", rec.Appended, time.Now())
			}
		}
	}
}

// bounds: Start and End enclose what there is.
func (s *suite) bounds() {
	t := s.topic(2)
	for p := range int32(2) {
		start, end := s.bound(t, p)
		if start != end {
			s.Fatalf("an empty partition begins at %d and ends at %d", start, end)
		}
	}
	offsets := s.append(t, 1, "a", "b", "c")
	start, end := s.bound(t, 1)
	if start != offsets[0] || end != offsets[2]+1 {
		s.Fatalf("start %d, end %d, offsets %v", start, end, offsets)
	}
	if start, end = s.bound(t, 0); start != end {
		s.Fatalf("the other partition begins at %d and ends at %d", start, end)
	}
	more := s.append(t, 1, "d")
	if more[0] < end {
		s.Fatalf("offset %d lies before an end of %d", more[0], end)
	}
	got := s.read(s.reader(t, 1, offsets[2]+1), 1, 5)
	s.equal(got, []kept{{more[0], "d"}})
}

func (s *suite) bound(t stream.Topic, partition int32) (start, end int64) {
	s.Helper()
	start, err := t.Start(s.ctx, partition)
	s.must(err)
	end, err = t.End(s.ctx, partition)
	s.must(err)
	return start, end
}

// sizes: no data and much data.
func (s *suite) sizes() {
	t := s.topic(2)
	want := []string{"", "x", string(bytes.Repeat([]byte("large"), 60_000)), ""}
	offsets := s.append(t, 1, want...)
	for i, got := range s.read(s.reader(t, 1, 0), len(want), 10) {
		if got.data != want[i] || got.offset != offsets[i] {
			s.Fatalf("record %d: %d bytes at %d, want %d at %d", i, len(got.data), got.offset, len(want[i]), offsets[i])
		}
	}
	if offsets, err := t.Append(s.ctx, nil); err != nil || len(offsets) != 0 {
		s.Fatalf("appending nothing: %v, %v", offsets, err)
	}
}

// waiting: a reader at the end gets what comes, and only of its partition; one whose context ends may go on.
func (s *suite) waiting() {
	t := s.topic(2)
	r := s.reader(t, 0, 0)
	short, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
	defer cancel()
	if recs, err := r.Next(short, 10); !errors.Is(err, context.DeadlineExceeded) {
		s.Fatalf("%v, %v", recs, err)
	}
	got := make(chan []kept, 1)
	go func() {
		recs, err := r.Next(s.ctx, 10)
		if err != nil {
			s.Error(err)
		}
		var all []kept
		for _, rec := range recs {
			all = append(all, kept{rec.Offset, string(rec.Data)})
		}
		got <- all
	}()
	s.append(t, 1, "not for it")
	offsets := s.append(t, 0, "for it")
	s.equal(<-got, []kept{{offsets[0], "for it"}})
	end, err := t.End(s.ctx, 1)
	s.must(err)
	r = s.reader(t, 1, end)
	offsets = s.append(t, 1, "later")
	s.equal(s.read(r, 1, 10), []kept{{offsets[0], "later"}})
}

// refusals: what cannot be is an error that says why.
func (s *suite) refusals() {
	t := s.topic(2)
	if again := s.topic(2); again != t {
		s.Error("one topic has two handles")
	}
	if _, err := s.log.Topic(s.ctx, "things", 3); err == nil || !bytes.Contains([]byte(err.Error()), []byte("2 partitions, not 3")) {
		s.Errorf("another number of partitions: %v", err)
	}
	for _, name := range []string{"", "a/b", "..", "sp ace"} {
		if _, err := s.log.Topic(s.ctx, name, 1); err == nil {
			s.Errorf("topic %q was made", name)
		}
	}
	for _, p := range []int32{-1, 2} {
		_, appending := t.Append(s.ctx, []stream.Message{{Partition: 0}, {Partition: p}})
		_, reading := t.Read(s.ctx, p, 0)
		_, starting := t.Start(s.ctx, p)
		_, ending := t.End(s.ctx, p)
		for _, err := range []error{appending, reading, starting, ending} {
			if err == nil {
				s.Errorf("partition %d was taken", p)
			}
		}
	}
	if _, end := s.bound(t, 0); end != 0 {
		s.Error("a refused append left records")
	}
	if _, err := t.Read(s.ctx, 0, -1); err == nil {
		s.Error("a negative offset was taken")
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := t.Append(ctx, []stream.Message{{}}); !errors.Is(err, context.Canceled) {
		s.Error(err)
	}
}

// reopen: after Close and Open all is as it was.
func (s *suite) reopen() {
	if !s.Reopens {
		s.Skip("keeps nothing")
	}
	var want []kept
	for round := range 4 {
		t := s.topic(2)
		for n := range 5 + round {
			data := fmt.Sprintf("%d/%d", round, n)
			s.append(t, 0, "other")
			want = append(want, kept{s.append(t, 1, data)[0], data})
		}
		s.equal(s.read(s.reader(t, 1, 0), len(want), 7), want)
		s.must(s.log.Close())
		s.log = s.open(s.Open)
	}
	t := s.topic(2)
	s.equal(s.read(s.reader(t, 1, want[7].offset), len(want)-7, 7), want[7:])
	s.append(t, 0, "last")
	if _, end := s.bound(t, 1); end != want[len(want)-1].offset+1 {
		s.Fatalf("end %d, last offset %d", end, want[len(want)-1].offset)
	}
	if _, err := s.log.Topic(s.ctx, "things", 5); err == nil {
		s.Error("the number of partitions was forgotten")
	}
}

// closing: Close ends what waits, and nothing works after it.
func (s *suite) closing() {
	t := s.topic(2)
	s.append(t, 0, "a")
	r := s.reader(t, 1, 0)
	var waiting sync.WaitGroup
	ended := make(chan error, 2)
	waiting.Go(func() {
		_, err := r.Next(s.ctx, 1)
		ended <- err
	})
	served := make(chan bool)
	waiting.Go(func() {
		ended <- s.log.Run(s.ctx, "group", t, func(ctx context.Context, a stream.Assignment) error {
			if a.Partition == 0 {
				close(served)
			}
			r, err := t.Read(ctx, a.Partition, 0)
			for err == nil {
				_, err = r.Next(ctx, 10)
			}
			return err
		})
	})
	select {
	case <-served:
	case <-s.ctx.Done():
		s.Fatal("nothing was assigned")
	}
	s.must(s.log.Close())
	s.must(s.log.Close())
	waiting.Wait()
	for range 2 {
		if err := <-ended; !errors.Is(err, stream.ErrClosed) {
			s.Errorf("what waited ended with %v", err)
		}
	}
	if _, err := t.Append(s.ctx, []stream.Message{{}}); !errors.Is(err, stream.ErrClosed) {
		s.Errorf("append after close: %v", err)
	}
}
