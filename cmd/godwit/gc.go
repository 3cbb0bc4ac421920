package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// gcFloor is how far the heap may grow before the garbage collector runs at
// all. A relay has a small live heap and allocates about 20 KB a message: at
// Go's default the collector takes a tenth of the CPU for memory that is not
// worth it. Above the floor the default of twice the live heap holds, up to
// the ceiling of garbage: large live heaps are tables without pointers, which
// cost the collector nothing, and as much memory again would be wasted.
const (
	gcFloor   = 96 << 20
	gcCeiling = 320 << 20
	gcLeast   = 20 // percent of the live heap
)

// gcTuner keeps GOGC such that the floor holds whatever the live heap is.
type gcTuner struct {
	percent int
	sample  []metrics.Sample
}

// gcMark is garbage whose finalizer runs after each collection.
type gcMark struct {
	tuner *gcTuner
	_     [16]byte // not a tiny object: those share a block and may never be collected
}

// tuneGC sets the floor, unless GOGC says what the operator wants.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := &gcTuner{percent: 100, sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	t.watch()
}

func (t *gcTuner) watch() {
	runtime.SetFinalizer(&gcMark{tuner: t}, func(m *gcMark) {
		m.tuner.adjust()
		m.tuner.watch()
	})
}

func (t *gcTuner) adjust() {
	metrics.Read(t.sample)
	p := gcPercent(t.sample[0].Value.Uint64())
	if d := p - t.percent; d > t.percent/5 || d < -t.percent/5 {
		debug.SetGCPercent(p)
		t.percent = p
	}
}

// gcPercent is the GOGC with which the next collection comes at the floor, or
// at twice the live heap if that is more, but after no more garbage than the ceiling.
func gcPercent(live uint64) int {
	if live > gcCeiling {
		return max(gcLeast, int(gcCeiling*100/live))
	}
	return max(100, min(int(gcFloor*100/max(live, 1<<20))-100, 1000))
}
