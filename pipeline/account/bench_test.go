package account

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// load makes facts of one of four partitions: a million profiles in all, a thousand metrics of a hundred tenants, all with
// a power law; four dimensions, one of 100,000 values.
type load struct {
	r       *rand.Rand
	tenants []string
	metric  []*fact.Event
	tenant  []string
	ids     []fact.ProfileID
	zipf    func(n int, s float64) int
	n       int64
	now     time.Time
}

func newLoad(profiles int) *load {
	l := &load{r: rand.New(rand.NewPCG(1, 2)), now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	for i := range 100 {
		l.tenants = append(l.tenants, fmt.Sprint("tenant-", i))
	}
	l.zipf = func(n int, s float64) int { // by inversion of the continuous law
		u := l.r.Float64()
		return min(n-1, int(math.Pow(u*(math.Pow(float64(n+1), 1-s)-1)+1, 1/(1-s)))-1)
	}
	for i := range 1000 {
		t := l.tenants[l.zipf(len(l.tenants), 1.05)]
		name := fmt.Sprint("Metric ", i)
		l.tenant = append(l.tenant, t)
		l.metric = append(l.metric, &fact.Event{Metric: fact.DeriveMetric(t, "api", name), Service: "api", Name: name})
	}
	l.ids = make([]fact.ProfileID, profiles)
	for i := range l.ids {
		l.ids[i] = fact.DeriveProfile("t", fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(i)}, fact.ProfileID{})
	}
	return l
}

func (l *load) event(b []byte, perSecond int) []byte {
	l.n++
	m := l.zipf(len(l.metric), 0.9)
	e := *l.metric[m]
	e.UID = fmt.Sprintf("%016x-%08x", l.n*7919, l.r.Uint32())
	e.Time = l.now.Add(time.Duration(l.n) * time.Second / time.Duration(perSecond))
	if l.r.IntN(100) < 2 {
		e.Time = e.Time.Add(-time.Duration(l.r.IntN(72)) * time.Hour) // late
	}
	e.Value, e.HasValue = int64(l.r.IntN(1e9)), true
	e.Dims = []fact.Dim{
		{Name: "$value_currency", Value: []string{"EUR", "USD", "GBP"}[l.r.IntN(3)]},
		{Name: "Inbox Provider", Value: fmt.Sprint("Provider ", l.zipf(20, 1.1))},
		{Name: "Campaign Name", Value: fmt.Sprint("Campaign of the week ", l.zipf(50, 1.0001))},
		{Name: "URL", Value: fmt.Sprint("https://shop.example/p/", l.r.IntN(100_000))},
	}
	e.Properties = []byte(`{"Items":["a","b"],"Total":12.5,"Order":"2026-1123412","URL":"https://shop.example/p/"}`)
	f := fact.Fact{Kind: fact.KindEvent, Tenant: l.tenant[m], Profile: l.ids[l.zipf(len(l.ids), 0.6)], At: e.Time, Event: &e,
		From: fact.Origin{Stage: fact.StageIdentity, Offset: l.n, N: 1, Generation: 1}}
	return f.Append(b)
}

// BenchmarkEvents is one partition of four at 50,000 events a second in all, committed every window of that time.
func BenchmarkEvents(b *testing.B) {
	for _, window := range []time.Duration{20 * time.Millisecond, 200 * time.Millisecond, time.Second, 3 * time.Second, 5 * time.Second} {
		b.Run(window.String(), func(b *testing.B) { benchmarkEvents(b, window) })
	}
}

// rig is one partition.
type rig struct {
	b       *testing.B
	s       *keyed.Store
	p       *Processor
	tx      *keyed.Tx
	l       *load
	window  int // events of one commit
	pending int
	offset  int64

	apply, flush, commit time.Duration
}

const perSecond = 12_500

func newRig(b *testing.B, window time.Duration) *rig {
	cache := pebble.NewCache(128 << 20)
	s, err := keyed.OpenStore(b.TempDir(), keyed.StoreOptions{Merger: Merger{}, Cache: cache})
	if err != nil {
		b.Fatal(err)
	}
	r := &rig{b: b, s: s, l: newLoad(250_000), window: int(perSecond * window.Seconds()), tx: s.Begin(stream.Assignment{})}
	r.start()
	b.Cleanup(func() {
		if err := errors.Join(r.tx.Commit(r.offset), s.Close()); err != nil {
			b.Error(err)
		}
		cache.Unref()
	})
	return r
}

// start makes a new processor, as after a restart.
func (r *rig) start() {
	facts, err := stream.NewMemory().Topic(r.b.Context(), "facts", 4)
	if err != nil {
		r.b.Fatal(err)
	}
	build, err := NewProcessor(DefaultOptions(), Deps{Facts: facts, Partitions: 4})
	if err != nil {
		r.b.Fatal(err)
	}
	made, err := build(r.s, stream.Assignment{})
	if err != nil {
		r.b.Fatal(err)
	}
	r.p = made.(*Processor)
}

// records makes events.
func (r *rig) records(n int) []stream.Record {
	recs, data := make([]stream.Record, n), make([]byte, 0, 420*n)
	for i := range recs {
		at := len(data)
		data = r.l.event(data, perSecond)
		r.offset++
		recs[i] = stream.Record{Offset: r.offset, Data: data[at:]}
	}
	return recs
}

// run applies records and commits in between.
func (r *rig) run(recs []stream.Record) {
	for len(recs) > 0 {
		n := min(len(recs), 512, r.window-r.pending)
		t := time.Now()
		if err := r.p.Apply(r.tx, recs[:n]); err != nil {
			r.b.Fatal(err)
		}
		r.apply += time.Since(t)
		recs, r.pending = recs[n:], r.pending+n
		if r.pending < r.window {
			continue
		}
		r.pending = 0
		t = time.Now()
		if err := r.p.Flush(r.tx); err != nil {
			r.b.Fatal(err)
		}
		r.flush += time.Since(t)
		t = time.Now()
		if err := r.tx.Commit(behind(recs, r.offset)); err != nil {
			r.b.Fatal(err)
		}
		r.commit += time.Since(t)
	}
}

// behind is the offset of the first record that is not applied.
func behind(rest []stream.Record, last int64) int64 {
	if len(rest) > 0 {
		return rest[0].Offset
	}
	return last + 1
}

func benchmarkEvents(b *testing.B, window time.Duration) {
	r := newRig(b, window)
	measure(b, r)
}

// BenchmarkEventsAfterRestart is the same with a state of 400,000 events whose profiles are not in memory.
func BenchmarkEventsAfterRestart(b *testing.B) {
	r := newRig(b, time.Second)
	r.run(r.records(400_000))
	r.start()
	measure(b, r)
}

func measure(b *testing.B, r *rig) {
	recs := r.records(b.N)
	r.apply, r.flush, r.commit = 0, 0, 0
	rows, lookups := read(b, r.p.m.rows), read(b, r.p.m.lookups)
	used, before := cpu(b), r.s.Usage()
	b.ResetTimer()
	r.run(recs)
	b.StopTimer()
	total := cpu(b) - used
	u, events := r.s.Usage(), float64(b.N)
	b.ReportMetric(float64(total.Microseconds())/events, "cpu-µs/event")
	b.ReportMetric(float64(r.apply.Nanoseconds())/events, "apply-ns")
	b.ReportMetric(float64(r.flush.Nanoseconds())/events, "flush-ns")
	b.ReportMetric(float64(r.commit.Nanoseconds())/events, "commit-ns")
	b.ReportMetric((read(b, r.p.m.rows)-rows)/events, "rows/event")
	b.ReportMetric((read(b, r.p.m.lookups)-lookups)/events, "lookups/event")
	b.ReportMetric((float64(u.Disk+u.Memory)-float64(before.Disk+before.Memory))/events, "B/event")
	b.ReportMetric(float64(u.Compacts-before.Compacts), "compactions")
}

// BenchmarkQuery asks a state of 400,000 events, the last second of which is not committed.
func BenchmarkQuery(b *testing.B) {
	r := newRig(b, time.Second)
	r.run(r.records(400_000))
	r.run(r.records(r.window - 1))
	reader, err := NewReader(DefaultOptions(), func(int32) (keyed.Processor, bool) { return r.p, true }, 1)
	if err != nil {
		b.Fatal(err)
	}
	q := Query{Tenant: r.l.tenant[0], Metric: r.l.metric[0].Metric, Measurements: []string{Count, SumValue, Unique},
		From: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}
	for name, change := range map[string]func(*Query){
		"hours-of-month": func(q *Query) { q.Interval = Hour },
		"month":          func(q *Query) { q.Interval = Month },
		"days-by-20":     func(q *Query) { q.Interval, q.By = Day, []string{"Inbox Provider"} },
		"days-by-100000": func(q *Query) { q.Interval, q.By = Day, []string{"URL"} },
		"year-of-one-link": func(q *Query) {
			q.Interval, q.Values, q.From = Month, map[string][]string{"URL": {"https://shop.example/p/1"}}, q.To.AddDate(-1, 0, 0)
		},
	} {
		b.Run(name, func(b *testing.B) {
			q := q
			change(&q)
			for b.Loop() {
				if _, err := reader.Query(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
