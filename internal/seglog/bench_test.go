package seglog

import (
	"bytes"
	"context"
	"fmt"
	"testing"
)

// BenchmarkAppend is the accept path: 10 KB records in three parts, by the number of concurrent callers.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 20, 100} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			l := open(b, b.TempDir(), DefaultOptions(), nil)
			envelope, body := make([]byte, 300), bytes.Repeat([]byte("0123456789abcdef"), 640)
			b.SetBytes(int64(len(envelope) + len(body)))
			b.ReportAllocs()
			done := make(chan error, callers)
			b.ResetTimer()
			for c := range callers {
				go func() {
					var err error
					for i := c; i < b.N && err == nil; i += callers {
						var pos Pos
						pos, err = l.Append(context.Background(), 1, envelope, body)
						if c == 0 && pos.Seg > 8 { // keep the disk from filling
							for _, s := range l.Segments() {
								if s.Seq+8 < pos.Seg {
									_ = l.Free(s.Seq)
								}
							}
						}
					}
					done <- err
				}()
			}
			for range callers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			st := l.Stats()
			b.ReportMetric(float64(st.Syncs)/float64(st.Records), "syncs/record")
			b.ReportMetric(float64(l.count.inline.Load()), "inline")
		})
	}
}

// BenchmarkScan is recovery: how fast a log is read and verified.
func BenchmarkScan(b *testing.B) {
	l := open(b, b.TempDir(), DefaultOptions(), nil)
	body := bytes.Repeat([]byte("0123456789abcdef"), 640)
	for range 500 {
		if _, err := l.Append(context.Background(), 1, body); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(500 * int64(len(body)))
	for b.Loop() {
		n := 0
		for _, err := range l.Scan(Pos{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 500 {
			b.Fatal(n)
		}
	}
}
