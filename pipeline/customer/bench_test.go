package customer

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// rig is one partition with profiles in it, and events to come.
type rig struct {
	dir   string
	store *keyed.Store
	proc  keyed.Processor
	tx    *keyed.Tx
	next  int64
	rng   *rand.Rand
	zipf  *rand.Zipf
	props []byte
}

const benchProfiles = 1_000_000

func newRig(b *testing.B, keep bool) *rig {
	b.Helper()
	cache := pebble.NewCache(64 << 20)
	b.Cleanup(cache.Unref)
	dir := b.TempDir()
	store, err := keyed.OpenStore(dir, keyed.StoreOptions{Cache: cache, MemTable: 8 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	topic, err := stream.NewMemory().Topic(b.Context(), "facts", 1)
	if err != nil {
		b.Fatal(err)
	}
	o := DefaultOptions()
	o.KeepProperties = keep
	open, err := NewProcessor(o, Deps{Facts: topic, Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	proc, err := open(store, stream.Assignment{})
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	return &rig{dir: dir, store: store, proc: proc, tx: store.Begin(stream.Assignment{}), rng: rng, zipf: rand.NewZipf(rng, 1.1, 50, benchProfiles-1),
		props: []byte(`{"$event_id":"12345678","url":"https://shop.example/products/4711","items":["4711","4712"],"brand":"acme","campaign":"spring","device":"mobile"}`)}
}

// profileOf spreads numbers like hashes.
func profileOf(n uint64) (p fact.ProfileID) {
	return fact.DeriveProfile("tenant", fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprintf("p%d@example.com", n)}, p)
}

func (r *rig) apply(b *testing.B, recs []stream.Record) {
	if err := r.proc.Apply(r.tx, recs); err != nil {
		b.Fatal(err)
	}
	if err := r.proc.Flush(r.tx); err != nil {
		b.Fatal(err)
	}
	if err := r.tx.Commit(r.next); err != nil {
		b.Fatal(err)
	}
}

func (r *rig) record(f *fact.Fact) stream.Record {
	r.next++
	return stream.Record{Offset: r.next, Data: f.Append(nil)}
}

// benchStart is the time of the first record.
const benchStart = 1_750_000_000_000

func (r *rig) event(n uint64) *fact.Fact {
	id := fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprintf("p%d@example.com", n)}
	now := at(benchStart + r.next/10)
	return &fact.Fact{Kind: fact.KindEvent, Tenant: "tenant", Profile: profileOf(n), At: now, Who: []fact.Identifier{id},
		From: fact.Origin{Stage: fact.StageIdentity, Partition: 1, Offset: r.next, N: 1, Generation: 1},
		Event: &fact.Event{Metric: fact.MetricID(1 + r.rng.Uint64N(1000)), Service: "api", Name: "Viewed Product", Time: now, UID: fmt.Sprintf("%d-%d", n, r.next),
			Value: 1_990_000, HasValue: true, Currency: "EUR",
			Dims:       []fact.Dim{{Name: "$flow", Value: "f1"}, {Name: "URL", Value: "https://shop.example/1"}, {Name: "brand", Value: "acme"}, {Name: "device", Value: "mobile"}},
			Properties: r.props}}
}

// fill makes all profiles, with one event each.
func (r *rig) fill(b *testing.B, profiles uint64) {
	recs := make([]stream.Record, 0, 5000)
	for n := range profiles {
		recs = append(recs, r.record(r.event(n)))
		if len(recs) == cap(recs) {
			r.apply(b, recs)
			recs = recs[:0]
		}
	}
	r.apply(b, recs)
}

// BenchmarkEvents is the path of an event of a profile that is known, in commits of 1,000, with compactions
// that it causes in the background. Each operation is one event. cpu-ns is all processor time, B/event what the state grew by.
func BenchmarkEvents(b *testing.B) {
	for _, keep := range []bool{false, true} {
		r := newRig(b, keep)
		before := cpuTime(b)
		r.fill(b, benchProfiles)
		r.settle(b)
		b.Logf("%.0f cpu-ns for each new profile with an event, its record included", float64((cpuTime(b)-before).Nanoseconds())/benchProfiles)
		b.Run(fmt.Sprintf("properties=%t", keep), func(b *testing.B) {
			recs := make([]stream.Record, b.N)
			for i := range recs {
				recs[i] = r.record(r.event(r.zipf.Uint64()))
			}
			b.ReportAllocs()
			before, size := cpuTime(b), r.size(b)
			b.ResetTimer()
			for i := 0; i < len(recs); i += 1000 {
				r.apply(b, recs[i:min(i+1000, len(recs))])
			}
			b.StopTimer()
			r.settle(b)
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(r.size(b)-size)/float64(b.N), "B/event")
		})
	}
}

// settle waits until compactions have nothing to do.
func (r *rig) settle(b *testing.B) {
	for last := int64(-1); ; time.Sleep(500 * time.Millisecond) {
		now := r.size(b)
		if now == last {
			return
		}
		last = now
	}
}

// size is the bytes of the state's files.
func (r *rig) size(b *testing.B) (n int64) {
	all, err := os.ReadDir(r.dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range all {
		if i, err := e.Info(); err == nil && filepath.Ext(e.Name()) == ".sst" {
			n += i.Size()
		}
	}
	return n
}

// BenchmarkSummary asks for three windows of a profile's metric.
func BenchmarkSummary(b *testing.B) {
	r := newRig(b, false)
	const n = 100_000
	r.fill(b, n)
	for range 500 {
		recs := make([]stream.Record, 1000)
		for i := range recs {
			recs[i] = r.record(r.event(r.rng.Uint64N(n)))
		}
		r.apply(b, recs)
	}
	reader := NewReader(func(int32) (*keyed.Store, bool) { return r.store, true }, 1)
	windows := []time.Duration{24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour}
	for b.Loop() {
		id := profileOf(r.rng.Uint64N(n))
		if _, err := reader.Summary("tenant", id, fact.MetricID(1+r.rng.Uint64N(1000)), windows, at(benchStart+1e9)); err != nil {
			b.Fatal(err)
		}
	}
}
