package load

import (
	"fmt"
	"math/bits"
	"time"
)

const (
	subBits = 6 // 64 buckets for each power of two: values are off by 1.6 % at most
	buckets = (64 - subBits + 1) << subBits
)

// histogram counts durations in buckets whose width grows with the value. It is not safe for concurrent use.
type histogram struct {
	counts [buckets]int64
	n      int64
	sum    time.Duration
	max    time.Duration
}

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	e := bits.Len64(v) - subBits - 1
	if e <= 0 {
		return int(v)
	}
	return e<<subBits + int(v>>e)
}

// upperEnd is the largest value of a bucket.
func upperEnd(b int) time.Duration {
	e := b>>subBits - 1
	if e <= 0 {
		return time.Duration(b)
	}
	return time.Duration((uint64(b)-uint64(e)<<subBits+1)<<e - 1)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.n++
	h.sum += d
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// quantile is the value below which the share q of all values lies.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int64(q*float64(h.n) + 0.5)
	for b, seen := 0, int64(0); b < buckets; b++ {
		if seen += h.counts[b]; seen >= max(1, rank) {
			return min(upperEnd(b), h.max)
		}
	}
	return h.max
}

// Latency sums up a distribution. All times are in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

func (h *histogram) latency() Latency {
	if h.n == 0 {
		return Latency{}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return Latency{Count: h.n, Mean: ms(h.sum / time.Duration(h.n)), P50: ms(h.quantile(0.5)), P90: ms(h.quantile(0.9)),
		P99: ms(h.quantile(0.99)), P999: ms(h.quantile(0.999)), Max: ms(h.max)}
}

// String is the one-line form.
func (l Latency) String() string {
	return fmt.Sprintf("p50 %.2f ms, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.2f, mean %.2f (%d)", l.P50, l.P90, l.P99, l.P999, l.Max, l.Mean, l.Count)
}
