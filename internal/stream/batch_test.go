package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"
)

var errNoSpace = errors.Join(syscall.ENOSPC)

// FuzzBatch feeds any bytes to the reading side as a batch.
func FuzzBatch(f *testing.F) {
	body, _ := encodeRuns([]Message{{Partition: 2, Data: []byte("a")}, {Partition: 0}, {Partition: 2, Data: []byte("bc")}}, 3)
	f.Add(append(header{base: 7, entries: 3, at: time.UnixMilli(5)}.appendTo(nil), body...))
	f.Add(append(header{base: 7, entries: 1}.appendTo(nil), 1, 2, 2, 0, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, body, err := parseBatch(data)
		if err != nil {
			return
		}
		s := stored{h, body, 0}
		for p := range int32(4) {
			recs, arena, err := s.records(nil, nil, p, h.base)
			if len(arena) > len(body) || len(recs) > len(body) {
				t.Fatalf("%d records, %d bytes of %d", len(recs), len(arena), len(body))
			}
			var size int
			for _, r := range recs {
				size += len(r.Data)
			}
			if err == nil && size > len(body) {
				t.Fatalf("%d bytes of %d", size, len(body))
			}
		}
		_ = s.ends(make([]int64, 3))
		if frame, err := appendFrame(nil, s, func(_ int32, _ int64, data []byte) ([]byte, bool) { return data, len(data)%2 == 0 }); err == nil {
			var buf []byte
			if _, err := readFrame(bytes.NewReader(frame), int64(len(frame)), &buf); err != nil {
				t.Fatal(err)
			}
		}
		_, _, _ = parseRewritten(data)
		_, _ = parseKept(data, 3)
	})
}

func TestEncodeRuns(t *testing.T) {
	for n := range 40 {
		var msgs []Message
		for i := range n + 1 {
			msgs = append(msgs, Message{Partition: int32(i * i % 5), Data: bytes.Repeat([]byte{byte(i)}, i*17%300)})
		}
		body, index := encodeRuns(msgs, 5)
		b := &batch{header: header{base: 100, entries: int64(len(msgs))}, bodies: [][]byte{body}}
		got := map[int64]string{}
		for p := range int32(5) {
			recs, err := b.records(nil, p, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				got[r.Offset] = fmt.Sprint(p, r.Data)
			}
		}
		for i, m := range msgs {
			if got[100+index[i]] != fmt.Sprint(m.Partition, m.Data) {
				t.Fatalf("message %d of %d is not at its offset", i, len(msgs))
			}
		}
		if len(got) != len(msgs) {
			t.Fatalf("%d records, want %d", len(got), len(msgs))
		}
	}
}

func messages(n, size int) []Message {
	msgs := make([]Message, n)
	for i := range msgs {
		msgs[i] = Message{Partition: int32(i * 7 % 4), Data: bytes.Repeat([]byte{byte(i)}, size)}
	}
	return msgs
}

func benchTopic(b *testing.B) *topic {
	e := openLog(b, b.TempDir(), Options{KeepBytes: 1 << 30}, Deps{})
	top, err := e.Topic(context.Background(), "facts", 4)
	if err != nil {
		b.Fatal(err)
	}
	return top.(*topic)
}

// BenchmarkEncode is the work on an append besides checksum, write and sync.
func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			msgs := messages(n, 300)
			b.ReportAllocs()
			for b.Loop() {
				encodeRuns(msgs, 4)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
		})
	}
}

// BenchmarkAppend appends 300 byte messages, by how many an append has and how many callers there are.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ entries, callers int }{{1, 1}, {1, 200}, {1000, 1}, {1000, 8}} {
		b.Run(fmt.Sprintf("%dx%d", c.entries, c.callers), func(b *testing.B) {
			top, msgs := benchTopic(b), messages(c.entries, 300)
			done := make(chan error, c.callers)
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range c.callers {
				go func() {
					var err error
					for n := i; n < b.N && err == nil; n += c.callers {
						_, err = top.Append(context.Background(), msgs)
					}
					done <- err
				}()
			}
			for range c.callers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(b.N*c.entries), "cpu-ns/entry")
			b.ReportMetric(float64(b.N*c.entries)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkReadTail reads what lies in memory; BenchmarkReadDisk what does not.
func BenchmarkReadTail(b *testing.B) { benchRead(b, 64<<20) }

func BenchmarkReadDisk(b *testing.B) { benchRead(b, 1) }

func benchRead(b *testing.B, recent int64) {
	o := DefaultOptions()
	o.Recent = 1
	if recent > 1 {
		o.Recent = 64 << 20
	}
	e := openLog(b, b.TempDir(), o, Deps{})
	top, err := e.Topic(context.Background(), "facts", 4)
	if err != nil {
		b.Fatal(err)
	}
	for range 100 {
		if _, err := top.Append(context.Background(), messages(1000, 300)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		r, err := top.Read(context.Background(), 1, 1)
		if err != nil {
			b.Fatal(err)
		}
		for n := 0; n < 25_000-1; {
			recs, err := r.Next(context.Background(), 1000)
			if err != nil {
				b.Fatal(err)
			}
			n += len(recs)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/25_000, "ns/record")
}
