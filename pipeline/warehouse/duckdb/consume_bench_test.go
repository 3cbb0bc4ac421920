//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// shopWorld makes the facts that the identity stage makes of a shop's events: four dimensions, few profiles with most of the events, one
// profile in five known by an external id beside its email. Those two are profiles of their own until an
// event gives both; then all of the email's moves to the other by a merge.
type shopWorld struct {
	r        *rand.Rand
	profiles int
	skew     float64
	parts    int32
	metrics  []fact.MetricID
	joined   map[int]bool // the identifiers of profiles that have two
	apart    map[int]bool // emails with a profile of their own that will be merged
	offset   int64
	n        int
	merges   int
	out      []stream.Message
}

func newShopWorld(profiles int, parts int32) *shopWorld {
	w := &shopWorld{r: rand.New(rand.NewSource(1)), profiles: profiles, skew: 3, parts: parts, joined: map[int]bool{}, apart: map[int]bool{}}
	for i := range 1000 {
		w.metrics = append(w.metrics, fact.DeriveMetric("bench", "api", "Metric "+strconv.Itoa(i)))
	}
	return w
}

func (w *shopWorld) pick(n int) int {
	return min(int(float64(n)*math.Pow(w.r.Float64(), w.skew)), n-1)
}

func (w *shopWorld) put(f *fact.Fact) {
	w.offset++
	f.Tenant, f.At = "bench", time.UnixMilli(1_790_000_000_000+w.offset/25)
	f.From.Stage, f.From.Offset, f.From.N = fact.StageIdentity, w.offset, 1
	w.out = append(w.out, stream.Message{Partition: f.Profile.Partition(w.parts), Data: f.Append(nil)})
}

// event is one of a profile, with the identifiers that come with it by chance, or with both.
func (w *shopWorld) event(person int, both bool) {
	w.n++
	email := fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprintf("p%d@crowd.test", person)}
	external := fact.Identifier{Kind: fact.ByExternal, Value: fmt.Sprintf("x%d", person)}
	who := []fact.Identifier{email}
	if hashed := uint64(person+1) * 0x9e3779b97f4a7c15; hashed>>32%5 == 0 { // has both
		switch f := w.r.Float64(); {
		case both || f > 0.5 && f < 0.6:
			who = []fact.Identifier{external, email}
		case f >= 0.6:
			who = []fact.Identifier{external}
		}
	}
	owner := fact.DeriveProfile("bench", who[0], fact.ProfileID{})
	mine := fact.DeriveProfile("bench", email, fact.ProfileID{})
	switch {
	case len(who) == 2 && !w.joined[person]:
		w.joined[person] = true
		if w.apart[person] {
			w.merges++
			for q := range w.parts {
				w.put(&fact.Fact{Kind: fact.KindMarker, Profile: mine, From: fact.Origin{Partition: q},
					Merge: &fact.Merge{ID: [16]byte{byte(person >> 16), byte(person >> 8), byte(person)}, Source: mine, Destination: owner}})
			}
		}
	case who[0].Kind == fact.ByEmail && w.joined[person]:
		owner = fact.DeriveProfile("bench", external, fact.ProfileID{})
	case who[0].Kind == fact.ByEmail:
		w.apart[person] = true
	}
	m := w.pick(len(w.metrics))
	url, campaign, inbox, client := w.pick(100_000), w.pick(50), w.r.Intn(8), w.r.Intn(12)
	cents := w.r.Intn(20_000)
	w.put(&fact.Fact{Kind: fact.KindEvent, Profile: owner, Who: who, Event: &fact.Event{
		Metric: w.metrics[m], Service: "api", Name: "Metric " + strconv.Itoa(m), Time: time.UnixMilli(1_790_000_000_000 + int64(w.n)/25), UID: "c" + strconv.FormatInt(int64(w.n), 36),
		Value: int64(cents) * 10_000, HasValue: true,
		Dims: []fact.Dim{{Name: "URL", Value: fmt.Sprint("https://shop.test/item/", url)}, {Name: "Campaign Name", Value: fmt.Sprint("Campaign ", campaign)},
			{Name: "Inbox Provider", Value: fmt.Sprint("Inbox ", inbox)}, {Name: "Client Name", Value: fmt.Sprint("Client ", client)}},
		Properties: fmt.Appendf(nil, `{"URL":"https://shop.test/item/%d","Campaign Name":"Campaign %d","Inbox Provider":"Inbox %d","Client Name":"Client %d","Items":["shirt","shoes"],"Order":%d}`, url, campaign, inbox, client, w.n),
	}})
}

// take returns what was made and forgets it.
func (w *shopWorld) take() []stream.Message {
	out := w.out
	w.out = nil
	return out
}

func threadTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_THREAD, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func envInt(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// house is a warehouse with its consumer and the log that it reads.
type house struct {
	b     *testing.B
	d     *DB
	facts stream.Topic
	c     *warehouse.Consumer
}

func startHouse(b *testing.B, parts int32) *house {
	b.Helper()
	ctx := context.Background()
	o := benchOptions()
	d, err := open(ctx, b.TempDir(), o, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	log := stream.NewMemory()
	facts, err := log.Topic(ctx, "facts", parts)
	if err != nil {
		b.Fatal(err)
	}
	c, err := warehouse.NewConsumer(d, facts, log, o, warehouse.Deps{Sources: parts})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-ended
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	})
	return &house{b, d, facts, c}
}

// feed appends records at a rate, and waits until they are stored. 0 is as fast as may be.
func (h *house) feed(records []stream.Message, perSecond int) {
	h.b.Helper()
	ctx := context.Background()
	began := time.Now()
	for i := 0; i < len(records); i += 1000 {
		if _, err := h.facts.Append(ctx, records[i:min(i+1000, len(records))]); err != nil {
			h.b.Fatal(err)
		}
		if perSecond > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))))
		}
	}
	for p := range h.facts.Partitions() {
		if end, err := h.facts.End(ctx, p); err != nil || end > 0 && h.c.Wait(ctx, p, end-1) != nil {
			h.b.Fatal(err)
		}
	}
}

// measure feeds records and reports the CPU time of an event, until it is stored and until it is sorted.
func (h *house) measure(records []stream.Message, events, perSecond int) {
	h.b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	runtime.GC()
	if path := os.Getenv("GODWIT_TEST_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			h.b.Fatal(err)
		}
		_ = pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	per := func(t time.Duration) float64 { return float64(t.Nanoseconds()) / 1e3 / float64(events) }
	cpu, own, wall := cpuTime(), threadTime(), time.Now()
	h.feed(records, perSecond)
	h.b.ReportMetric(per(cpuTime()-cpu-threadTime()+own), "stored-µs/event")
	h.b.ReportMetric(float64(events)/time.Since(wall).Seconds(), "events/s")
	if err := h.d.Sort(context.Background()); err != nil {
		h.b.Fatal(err)
	}
	h.b.ReportMetric(per(cpuTime()-cpu-threadTime()+own), "cpu-µs/event")
}

// BenchmarkConsumeYoung fills an empty warehouse: a quarter of the events are the first of a profile, six in a thousand join two.
// GODWIT_TEST_RATE and GODWIT_TEST_EVENTS say how fast and how many.
func BenchmarkConsumeYoung(b *testing.B) {
	const parts = 2
	n := envInt("GODWIT_TEST_EVENTS", 500_000)
	for b.Loop() {
		w := newShopWorld(1_000_000, parts)
		for range n {
			w.event(w.pick(w.profiles), false)
		}
		h := startHouse(b, parts)
		h.measure(w.take(), n, envInt("GODWIT_TEST_RATE", 25_000))
		b.Logf("%d merges", w.merges)
	}
}

// BenchmarkConsumeSteady adds to a warehouse that knows nearly all profiles: two events in a hundred are the first of one.
func BenchmarkConsumeSteady(b *testing.B) {
	const parts = 2
	n := envInt("GODWIT_TEST_EVENTS", 500_000)
	for b.Loop() {
		w := newShopWorld(300_000, parts)
		for i := range w.profiles {
			w.event(i, i%20 > 0) // of one in twenty the identifiers are still apart
		}
		h := startHouse(b, parts)
		h.feed(w.take(), 0)
		if err := h.d.Sort(context.Background()); err != nil {
			b.Fatal(err)
		}
		w.merges = 0
		for i := range n {
			if i%50 == 0 {
				w.event(w.profiles+i, true)
			} else {
				w.event(w.pick(w.profiles), false)
			}
		}
		h.measure(w.take(), n, envInt("GODWIT_TEST_RATE", 50_000))
		b.Logf("%d merges", w.merges)
	}
}
