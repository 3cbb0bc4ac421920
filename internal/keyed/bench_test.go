package keyed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
)

// BenchmarkEvents is what a stage does for each event: it looks for the row of a unique id, which is new, writes it, and
// raises three counters of a hundred thousand. It reports the time per event and bytes on disk per event.
func BenchmarkEvents(b *testing.B) {
	m := NewMemory(256 << 20)
	defer m.Close()
	s, err := OpenStore(b.TempDir(), StoreOptions{Memory: m, Merger: appending{}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	tx := s.Begin(stream.Assignment{})
	defer func() { _ = tx.drop() }()
	e := eventMaker{rnd: rand.New(rand.NewPCG(1, 1))}
	b.ReportAllocs()
	b.ResetTimer()
	var slowest time.Duration
	cpu := cpuTime(b)
	for i := range b.N {
		if err := e.apply(tx); err != nil {
			b.Fatal(err)
		}
		if i%2000 == 1999 {
			start := time.Now()
			if err := tx.Commit(int64(i)); err != nil {
				b.Fatal(err)
			}
			slowest = max(slowest, time.Since(start))
		}
	}
	b.StopTimer()
	if err := errors.Join(tx.Commit(int64(b.N)), s.Flush()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
	u := s.Usage()
	b.ReportMetric(float64(u.Disk)/float64(b.N), "diskB/op")
	b.ReportMetric(float64(slowest.Microseconds()), "slowest-commit-µs")
	b.ReportMetric(float64(u.Compacts), "compactions")
}

// cpuTime is what the process used, compactions included: on a busy machine the only steady figure.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

type eventMaker struct {
	rnd *rand.Rand
	key []byte
	now int64
}

func (e *eventMaker) apply(tx *Tx) error {
	e.now += 20_000
	profile := e.rnd.Uint64N(1_000_000)
	k := append(e.key[:0], 'e')
	k = binary.BigEndian.AppendUint64(k, 77)                         // tenant
	k = binary.BigEndian.AppendUint64(k, profile*0x9e3779b97f4a7c15) // profile, hashed
	k = binary.BigEndian.AppendUint64(k, e.rnd.Uint64N(100))         // metric
	k = binary.BigEndian.AppendUint64(k, e.rnd.Uint64())             // unique id
	if has, err := tx.Has(k); has || err != nil {
		return fmt.Errorf("has %v: %w", has, err)
	}
	v := binary.AppendVarint(make([]byte, 0, 32), e.now)
	v = binary.AppendVarint(v, int64(e.rnd.IntN(10000)))
	if err := tx.Set(k, v); err != nil {
		return err
	}
	for i := range 3 {
		k := append(e.key[:0], 'c', byte(i))
		k = binary.BigEndian.AppendUint64(k, 77)
		k = binary.BigEndian.AppendUint64(k, e.rnd.Uint64N(100_000)*0x9e3779b97f4a7c15)
		k = binary.BigEndian.AppendUint32(k, uint32(e.now/3_600_000_000))
		var count, sum uint64
		old, err := tx.Get(k)
		if err == nil {
			count, sum = binary.BigEndian.Uint64(old), binary.BigEndian.Uint64(old[8:])
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
		v = binary.BigEndian.AppendUint64(v[:0], count+1)
		v = binary.BigEndian.AppendUint64(v, sum+e.rnd.Uint64N(1000))
		if err := tx.Set(k, v); err != nil {
			return err
		}
		e.key = k
	}
	return nil
}

// BenchmarkOwnWrites is Get and Set of keys that the Tx wrote.
func BenchmarkOwnWrites(b *testing.B) {
	s := memStore(b)
	tx := s.Begin(stream.Assignment{})
	defer func() { _ = tx.drop() }()
	var k [24]byte
	value := make([]byte, 32)
	b.ReportAllocs()
	for i := range b.N {
		binary.BigEndian.PutUint64(k[:], uint64(i%5000)*0x9e3779b97f4a7c15)
		if err := tx.Set(k[:], value); err != nil {
			b.Fatal(err)
		}
		if _, err := tx.Get(k[:]); err != nil {
			b.Fatal(err)
		}
		if i%20000 == 19999 {
			if err := tx.Commit(1); err != nil {
				b.Fatal(err)
			}
		}
	}
}
