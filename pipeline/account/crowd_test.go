package account

import (
	"fmt"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/crowd"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// crowdFacts are the facts of one of four partitions that the benchmarks' world of customers makes: a million profiles, a
// thousand metrics, four dimensions. A tenth of the events of profiles with an external id ends in a merge.
type crowdFacts struct {
	w       *crowd.World
	n       uint64
	offset  int64
	metrics map[int]fact.MetricID
	ids     map[int]fact.ProfileID
	merged  map[int]bool
}

const (
	crowdPartitions = 4
	crowdTenant     = "acme"
	crowdSecond     = 2500 // events of a partition in a second
)

func newCrowd(b *testing.B) *crowdFacts {
	o := crowd.DefaultOptions()
	o.From = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	w, err := crowd.NewWorld(o)
	if err != nil {
		b.Fatal(err)
	}
	return &crowdFacts{w: w, metrics: map[int]fact.MetricID{}, ids: map[int]fact.ProfileID{}, merged: map[int]bool{}}
}

func (c *crowdFacts) profile(n int) fact.ProfileID {
	p, known := c.ids[n]
	if !known {
		p = fact.DeriveProfile(crowdTenant, fact.Identifier{Kind: fact.ByEmail, Value: crowd.EmailOf(n)}, fact.ProfileID{})
		c.ids[n] = p
	}
	return p
}

func (c *crowdFacts) metric(n int) fact.MetricID {
	m, known := c.metrics[n]
	if !known {
		m = fact.DeriveMetric(crowdTenant, "api", crowd.MetricName(n))
		c.metrics[n] = m
	}
	return m
}

// record appends a fact of event n of a profile.
func (c *crowdFacts) record(e crowd.Event, p fact.ProfileID, at time.Time) stream.Record {
	ev := &fact.Event{Metric: c.metric(e.Metric), Service: "api", Name: crowd.MetricName(e.Metric), Time: at, UID: e.UID(), Value: int64(e.Value) * 10_000, HasValue: true,
		Dims: []fact.Dim{
			{Name: crowd.DimURL, Value: "https://shop.test/item/" + strconv.Itoa(e.URL)}, {Name: crowd.DimCampaign, Value: "Campaign " + strconv.Itoa(e.Campaign)},
			{Name: crowd.DimInbox, Value: "Inbox " + strconv.Itoa(e.Inbox)}, {Name: crowd.DimClient, Value: "Client " + strconv.Itoa(e.Client)}},
		Properties: []byte(`{"URL":"https://shop.test/item/12345","Campaign Name":"Campaign 12","Inbox Provider":"Inbox 3","Client Name":"Client 4","Items":["shirt","shoes"],"Order":123456}`)}
	f := fact.Fact{Kind: fact.KindEvent, Tenant: crowdTenant, Profile: p, At: at, Who: []fact.Identifier{{Kind: fact.ByEmail, Value: crowd.EmailOf(e.Profile)}}, Event: ev}
	return c.fact(&f)
}

func (c *crowdFacts) fact(f *fact.Fact) stream.Record {
	c.offset++
	f.From = fact.Origin{Stage: fact.StageIdentity, Offset: c.offset, N: 1, Generation: 1}
	return stream.Record{Offset: c.offset, Data: f.Append(nil)}
}

// next makes so many events of the partition, and the markers between them.
func (c *crowdFacts) next(n int) []stream.Record {
	out := make([]stream.Record, 0, n+n/32)
	for events := 0; events < n; {
		e := c.w.Event(c.n)
		c.n++
		p := c.profile(e.Profile)
		if p.Partition(crowdPartitions) != 0 {
			continue
		}
		at := e.Time.Add(time.Duration(c.offset) * time.Second / crowdSecond)
		if e.External && !e.Email && !c.merged[e.Profile] { // known apart at first
			p[15] ^= 1
		}
		out = append(out, c.record(e, p, at))
		events++
		if e.External && e.Email && !c.merged[e.Profile] {
			c.merged[e.Profile] = true
			out = append(out, c.merge(p, at)...)
		}
	}
	return out
}

// merge is what all partitions of the first log say when a profile's second self joins it.
func (c *crowdFacts) merge(p fact.ProfileID, at time.Time) (out []stream.Record) {
	m := &fact.Merge{Source: p, Destination: p}
	m.Source[15] ^= 1
	copy(m.ID[:], fmt.Sprint("m", c.offset))
	for q := range int32(crowdPartitions) {
		r := c.fact(&fact.Fact{Kind: fact.KindMarker, Tenant: crowdTenant, Profile: m.Source, At: at, Merge: m})
		var f fact.Fact
		_ = f.Parse(r.Data)
		f.From.Partition = q
		r.Data = f.Append(nil)
		out = append(out, r)
	}
	return out
}

// everyone has one event of each profile of the partition.
func (c *crowdFacts) everyone() []stream.Record {
	var out []stream.Record
	for i := range 1_000_000 {
		if p := c.profile(i); p.Partition(crowdPartitions) == 0 {
			e := c.w.Event(uint64(i) + 1<<40)
			out = append(out, c.record(e, p, e.Time.Add(-24*time.Hour)))
		}
	}
	return out
}

// crowdRig drives a processor on a state in memory as a worker does.
type crowdRig struct {
	b     *testing.B
	s     *keyed.Store
	p     *Processor
	facts stream.Topic
	tx    *keyed.Tx

	apply, flush, commit time.Duration
	longest              time.Duration // that records had to wait for a commit
	bytes                int64
}

func newCrowdRig(b *testing.B) *crowdRig {
	cache := pebble.NewCache(192 << 20)
	s, err := keyed.OpenStore("state", keyed.StoreOptions{Merger: Merger{}, Cache: cache, FS: vfs.NewMem(), MemTable: 32 << 20})
	if err != nil {
		b.Fatal(err)
	}
	facts, err := stream.NewMemory().Topic(b.Context(), "facts", crowdPartitions)
	if err != nil {
		b.Fatal(err)
	}
	build, err := NewProcessor(DefaultOptions(), Deps{Facts: facts, Partitions: crowdPartitions})
	if err != nil {
		b.Fatal(err)
	}
	p, err := build(s, stream.Assignment{})
	if err != nil {
		b.Fatal(err)
	}
	r := &crowdRig{b: b, s: s, p: p.(*Processor), facts: facts, tx: s.Begin(stream.Assignment{})}
	b.Cleanup(func() {
		if err := r.tx.Commit(1 << 40); err != nil {
			b.Error(err)
		}
		if err := s.Close(); err != nil {
			b.Error(err)
		}
		cache.Unref()
	})
	return r
}

// thread is the CPU time of this thread.
func thread(b *testing.B) time.Duration {
	const who = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run applies records, a commit for each window of events. Transfers come back at the next reading.
func (r *crowdRig) run(recs []stream.Record, window int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for len(recs) > 0 {
		n := min(window, len(recs))
		for at := 0; at < n; at += 1024 {
			chunk := recs[at:min(n, at+1024)]
			t := thread(r.b)
			if err := r.p.Apply(r.tx, chunk); err != nil {
				r.b.Fatal(err)
			}
			r.apply += thread(r.b) - t
			r.back()
		}
		t := thread(r.b)
		if err := r.p.Flush(r.tx); err != nil {
			r.b.Fatal(err)
		}
		flushed := thread(r.b)
		r.flush += flushed - t
		r.bytes += int64(r.tx.Len())
		if err := r.tx.Commit(recs[n-1].Offset + 1); err != nil {
			r.b.Fatal(err)
		}
		done := thread(r.b)
		r.commit += done - flushed
		r.longest = max(r.longest, done-t)
		recs = recs[n:]
	}
}

// back applies the transfers that were emitted.
func (r *crowdRig) back() {
	for _, msgs := range r.tx.Outputs() {
		for _, m := range msgs {
			t := thread(r.b)
			if err := r.p.Apply(r.tx, []stream.Record{{Data: m.Data}}); err != nil {
				r.b.Fatal(err)
			}
			r.apply += thread(r.b) - t
		}
	}
}

// BenchmarkCrowd is one partition of four. A steady world knows all profiles and has had 500,000 events, a young one begins.
func BenchmarkCrowd(b *testing.B) {
	for _, kind := range []string{"young", "steady"} {
		for _, window := range []int{crowdSecond, 3 * crowdSecond, 5 * crowdSecond} {
			b.Run(fmt.Sprint(kind, "/", window), func(b *testing.B) { benchmarkCrowd(b, kind == "steady", window) })
		}
	}
}

func benchmarkCrowd(b *testing.B, steady bool, window int) {
	r, c := newCrowdRig(b), newCrowd(b)
	if steady {
		r.run(c.everyone(), 50_000)
		r.run(c.next(300_000), window)
	}
	recs := c.next(b.N)
	runtime.GC()
	r.apply, r.flush, r.commit, r.longest, r.bytes = 0, 0, 0, 0, 0
	m := r.p.m
	rows, merges, lookups := read(b, m.rows), read(b, m.merges), read(b, m.lookups)
	used, usage := cpu(b), r.s.Usage()
	b.ResetTimer()
	r.run(recs, window)
	b.StopTimer()
	all := cpu(b) - used
	u, n := r.s.Usage(), float64(b.N)
	b.ReportMetric(float64(all.Nanoseconds())/n, "cpu-ns/event")
	b.ReportMetric(float64(r.apply.Nanoseconds())/n, "apply-ns")
	b.ReportMetric(float64(r.flush.Nanoseconds())/n, "flush-ns")
	b.ReportMetric(float64(r.commit.Nanoseconds())/n, "commit-ns")
	b.ReportMetric(float64(r.longest.Milliseconds()), "longest-commit-ms")
	b.ReportMetric(float64(r.bytes)/n, "B-written/event")
	b.ReportMetric((read(b, m.rows)-rows)/n, "rows/event")
	b.ReportMetric(float64(r.p.numbers.value)/n, "values/event")
	b.ReportMetric((read(b, m.merges)-merges)/n, "merges/event")
	b.ReportMetric((read(b, m.lookups)-lookups)/n, "lookups/event")
	b.ReportMetric((float64(u.Disk+u.Memory)-float64(usage.Disk+usage.Memory))/n, "B-state/event")
}
