package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

const (
	shop  = "shop"  // in New York
	store = "store" // in Kolkata
)

var opened, clicked = fact.DeriveMetric(shop, "api", "Opened"), fact.DeriveMetric(shop, "api", "Clicked")

// town is a log that facts are written to.
type town struct {
	*testing.T
	topic stream.Topic
	n     int64
}

func newTown(t *testing.T) *town {
	topic, err := stream.NewMemory().Topic(t.Context(), "facts", 3)
	if err != nil {
		t.Fatal(err)
	}
	return &town{T: t, topic: topic}
}

// put writes a fact as the next that comes from a partition of the first log.
func (w *town) put(partition int32, f fact.Fact) fact.Fact {
	w.Helper()
	w.n++
	f.From = fact.Origin{Stage: fact.StageIdentity, Offset: w.n, N: 1}
	w.again(partition, f)
	return f
}

// again writes a fact as it is.
func (w *town) again(partition int32, f fact.Fact) {
	w.Helper()
	if _, err := w.topic.Append(w.Context(), []stream.Message{{Partition: partition, Data: f.Append(nil)}}); err != nil {
		w.Fatal(err)
	}
}

func who(name string) fact.ProfileID { return fact.ProfileID{name[0]} }

func happened(tenant, profile, uid, at string, m fact.MetricID, value int64, dims ...fact.Dim) fact.Fact {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err) // a typing error in this file
	}
	e := &fact.Event{Metric: m, Service: "api", Name: "x", Time: t, UID: uid, Value: value, Dims: dims, Properties: []byte("{}")}
	return fact.Fact{Kind: fact.KindEvent, Tenant: tenant, Profile: who(profile), At: t, Event: e}
}

// marker says that one profile becomes part of another one, or is deleted.
func marker(source string, destination fact.ProfileID) fact.Fact {
	return fact.Fact{Kind: fact.KindMarker, Tenant: shop, Profile: who(source), At: time.Unix(1, 0), Merge: &fact.Merge{Source: who(source), Destination: destination}}
}

// live fills the log; liveRows is what it makes.
func (w *town) live() {
	gmail, mobile := fact.Dim{Name: "Provider", Value: "gmail"}, fact.Dim{Name: "Client", Value: "mobile"}
	// In New York it is half past eleven in the evening of 31 May.
	first := w.put(0, happened(shop, "a", "a1", "2026-06-01T03:30:00Z", opened, 5e6, gmail))
	w.again(0, first) // said again after a crash
	w.put(0, happened(shop, "a", "a2", "2026-06-01T04:10:00Z", opened, 7e6, gmail, mobile))
	w.put(0, happened(shop, "a", "a2", "2026-06-01T09:10:00Z", opened, 9e6, gmail)) // a repetition, with another time
	w.again(0, first)                                                               // and once more
	w.put(1, happened(shop, "b", "b1", "2026-06-01T04:50:00Z", opened, -1e6, gmail))
	w.put(1, happened(shop, "b", "a1", "2026-06-01T03:40:00Z", opened, 5e6, gmail)) // what a had too, before they became one
	w.put(1, happened(shop, "b", "a1", "2026-06-01T03:40:00Z", clicked, 0))         // another metric
	w.put(1, marker("b", who("a")))
	w.put(2, happened(shop, "c", "c1", "2026-05-31T12:00:00Z", opened, 0)) // late
	w.put(2, marker("c", fact.ProfileID{}))                                // deleted: it was counted all the same
	w.put(2, happened(shop, "d", "a1", "2026-06-01T04:00:00Z", opened, 1e6))
	w.put(2, happened(store, "e", "e1", "2026-05-31T18:40:00Z", opened, 1)) // ten past midnight of 1 June there
	w.put(2, fact.Fact{Kind: fact.KindChange, Tenant: "quiet", Profile: who("f"), At: time.Unix(1, 0), Change: &fact.Change{}})
}

// liveRows is counted by hand. Intervals are named by the time on the wall.
const liveRows = `
shop hour total 2026-05-31T08: 1 0 1
shop hour total 2026-05-31T23: 1 5 1
shop hour total 2026-06-01T00: 3 7 2
shop hour Provider=gmail 2026-05-31T23: 1 5 1
shop hour Provider=gmail 2026-06-01T00: 2 6 1
shop hour Client=mobile 2026-06-01T00: 1 7 1
shop day total 2026-05-31: 2 5 2
shop day total 2026-06-01: 3 7 2
shop day Provider=gmail 2026-05-31: 1 5 1
shop day Provider=gmail 2026-06-01: 2 6 1
shop day Client=mobile 2026-06-01: 1 7 1
shop month total 2026-05: 2 5 2
shop month total 2026-06: 3 7 2
shop month Provider=gmail 2026-05: 1 5 1
shop month Provider=gmail 2026-06: 2 6 1
shop month Client=mobile 2026-06: 1 7 1
shop hour total 2026-05-31T23: 1 0 1 clicked
shop day total 2026-05-31: 1 0 1 clicked
shop month total 2026-05: 1 0 1 clicked
store hour total 2026-06-01T00: 1 .000001 1
store day total 2026-06-01: 1 .000001 1
store month total 2026-06: 1 .000001 1
`

func zone(tenant string) *time.Location {
	name := map[string]string{shop: "America/New_York", store: "Asia/Kolkata"}[tenant]
	l, err := time.LoadLocation(name)
	if err != nil {
		panic(err) // the tests' own tables have no zone
	}
	return l
}

// handMade is an account level that has the rows it is told.
type handMade map[place][]Row

type place struct {
	tenant   string
	metric   fact.MetricID
	interval Interval
}

func (h handMade) Metrics(_ context.Context, tenant string) (ids []fact.MetricID, _ error) {
	for p := range h {
		if p.tenant == tenant {
			ids = append(ids, p.metric)
		}
	}
	return ids, nil
}

func (h handMade) Each(_ context.Context, tenant string, metric fact.MetricID, interval Interval, f func(Row) error) error {
	for _, r := range h[place{tenant, metric, interval}] {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// parse reads rows.
func parse(t *testing.T, text string) handMade {
	t.Helper()
	out := handMade{}
	for l := range strings.Lines(strings.TrimSpace(text)) {
		words := strings.Fields(l)
		p := place{words[0], opened, map[string]Interval{"hour": Hour, "day": Day, "month": Month}[words[1]]}
		if slices.Contains(words, "clicked") {
			p.metric = clicked
		}
		at, err := time.ParseInLocation([]string{"2006-01-02T15:", "2006-01-02:", "2006-01:"}[p.interval], words[3], zone(p.tenant))
		if err != nil {
			t.Fatal(err)
		}
		r := Row{Bucket: at.Unix()}
		r.Dim, r.Value, _ = strings.Cut(words[2], "=")
		if r.Dim == "total" {
			r.Dim = ""
		}
		var sum float64
		if _, err := fmt.Sscan(strings.Join(words[4:7], " "), &r.Count, &sum, &r.Unique); err != nil {
			t.Fatal(err)
		}
		r.Sum.add(int64(sum * 1e6))
		out[p] = append(out[p], r)
	}
	return out
}

// compare counts in so many shards and returns all differences.
func (w *town) compare(counts Counts, shards uint64, o Options) (total Recount, all Compared, err error) {
	o.Zone, o.Shards = zone, shards
	for o.Shard = range shards {
		r, err := Count(w.Context(), w.topic, o)
		if err != nil {
			return total, all, err
		}
		c, err := r.Compare(w.Context(), counts, 100)
		if err != nil {
			return total, all, err
		}
		distinct := total.Distinct + r.Distinct
		total = *r
		total.Distinct = distinct
		all.Counts, all.Different = all.Counts+c.Counts, all.Different+c.Different
		all.First = append(all.First, c.First...)
	}
	return total, all, nil
}

// TestWorld: a small world comes to the rows that were counted by hand, whole and in shards.
func TestWorld(t *testing.T) {
	w := newTown(t)
	w.live()
	counts := parse(t, liveRows)
	for _, shards := range []uint64{1, 2, 7} {
		r, c, err := w.compare(counts, shards, Options{Wanted: map[string]bool{"shop a1": true, "shop a9": true, "store e1": true}})
		if err != nil || c.Different != 0 || c.Counts != 22 {
			t.Errorf("%d shards: %d counts, %v, %v", shards, c.Counts, c.First, err)
		}
		if r.Facts != 14 || r.Events != 9 || r.Distinct != 7 || r.Merges != 1 || !slices.Equal(r.Tenants(), []string{shop, store}) {
			t.Errorf("%d shards: %d facts, %d events, %d count, %d merges of %v", shards, r.Facts, r.Events, r.Distinct, r.Merges, r.Tenants())
		}
		if !r.Has("shop a1") || !r.Has("store e1") || r.Has("shop a9") {
			t.Error("Has is wrong")
		}
	}
}

// TestDifferences: each row that is wrong, missing or too much is found, and what was taken back is not one.
func TestDifferences(t *testing.T) {
	w := newTown(t)
	w.live()
	for at, rows := range parse(t, liveRows) {
		for i := range rows {
			for name, change := range map[string]func(*Row, *[]Row){
				"count":  func(r *Row, _ *[]Row) { r.Count++ },
				"sum":    func(r *Row, _ *[]Row) { r.Sum.add(-1) },
				"high":   func(r *Row, _ *[]Row) { r.Sum.Hi++ },
				"unique": func(r *Row, _ *[]Row) { r.Unique-- },
				"gone":   func(_ *Row, all *[]Row) { *all = slices.Delete(*all, i, i+1) },
				"zero":   func(r *Row, _ *[]Row) { r.Count, r.Sum, r.Unique = 0, Sum{}, 0 },
				"moved":  func(r *Row, all *[]Row) { *all = append(*all, Row{r.Dim, r.Value, r.Bucket + 1, 1, Sum{}, 1}) },
				"value":  func(r *Row, all *[]Row) { *all = append(*all, Row{"Provider", "nobody", r.Bucket, 1, Sum{}, 1}) },
			} {
				counts := parse(t, liveRows)
				all := counts[at]
				change(&all[i], &all)
				counts[at] = all
				_, c, err := w.compare(counts, 2, Options{})
				if err != nil || c.Different != 1 || len(c.First) != 1 {
					t.Fatalf("%v, row %d, %s: %v, %v", at, i, name, c.First, err)
				}
				if k := c.First[0].Key; k.Tenant != at.tenant || k.Metric != at.metric || k.Interval != at.interval {
					t.Errorf("%v, row %d, %s: %v", at, i, name, c.First)
				}
			}
		}
	}
	counts := parse(t, liveRows)
	other := place{shop, fact.DeriveMetric(shop, "api", "Other"), Day}
	counts[other] = []Row{{Bucket: 5}} // taken back
	if _, c, err := w.compare(counts, 1, Options{}); err != nil || c.Different != 0 {
		t.Errorf("%v, %v", c.First, err)
	}
	counts[other] = []Row{{Bucket: 5, Count: 2}}
	_, c, err := w.compare(counts, 3, Options{})
	if err != nil || c.Different != 1 || !strings.Contains(c.First[0].Error(), "count is 2, the log says 0") {
		t.Errorf("%v, %v", c.First, err)
	}
	twice := place{shop, opened, Day}
	counts[twice] = append(counts[twice], counts[twice][0])
	if _, _, err := w.compare(counts, 1, Options{}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a row that is there twice: %v", err)
	}
	if _, _, err := w.compare(handMade{}, 1, Options{}); err != nil {
		t.Error(err)
	}
	r, err := Count(t.Context(), w.topic, Options{Zone: zone})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := r.Compare(t.Context(), handMade{}, 5); err != nil || c.Different != 22 || len(c.First) != 5 {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestSkipped: what the account level was not given is left out, and a merge that lacks a marker is not made; what is no
// fact is an error otherwise.
func TestSkipped(t *testing.T) {
	w := newTown(t)
	w.put(0, happened(shop, "a", "1", "2026-06-01T03:30:00Z", opened, 0))
	w.put(0, happened(shop, "a", "2", "2026-06-01T03:30:00Z", opened, 0))
	w.put(1, happened(shop, "b", "1", "2026-06-01T03:30:00Z", opened, 0))
	w.put(1, marker("b", who("a")))
	if _, err := w.topic.Append(t.Context(), []stream.Message{{Partition: 2, Data: []byte("no fact")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Count(t.Context(), w.topic, Options{Zone: zone}); !errors.Is(err, fact.ErrFormat) {
		t.Errorf("what is no fact: %v", err)
	}
	skip := map[[2]int64]bool{{2, 0}: true}
	o := Options{Zone: zone, Skip: func(p int32, offset int64) bool { return skip[[2]int64{int64(p), offset}] }}
	for _, c := range []struct {
		also             [2]int64
		distinct, merges int
	}{{[2]int64{2, 0}, 2, 1}, {[2]int64{0, 1}, 1, 1}, {[2]int64{1, 1}, 3, 0}} {
		now := maps.Clone(skip)
		now[c.also] = true
		o.Skip = func(p int32, offset int64) bool { return now[[2]int64{int64(p), offset}] }
		r, err := Count(t.Context(), w.topic, o)
		if err != nil || r.Distinct != int64(c.distinct) || r.Merges != c.merges || r.Skipped != int64(len(now)) || r.Facts != 5 {
			t.Errorf("%v skipped: %+v, %v", c.also, r, err)
		}
	}
}

// TestMany: more events than a gatherer enters at once, in chains of merges.
func TestMany(t *testing.T) {
	w := newTown(t)
	const n = 3*enterAt + 5
	for i := range n {
		w.put(int32(i%3), happened(shop, string(rune('A'+i%4)), fmt.Sprint(i/4), "2026-06-01T12:30:00Z", opened, 1<<62))
	}
	w.put(0, marker("B", who("C"))) // C becomes A: A and B are one in the end, D remains
	w.put(0, marker("C", who("A")))
	r, err := Count(t.Context(), w.topic, Options{Zone: zone})
	if err != nil {
		t.Fatal(err)
	}
	want := int64(n/4+1) + n/4 // uids of A, B and C; uids of D
	lines := r.world.tenants[shop].metrics[opened].lines(Day)
	sum := new(big.Int).Mul(big.NewInt(1<<62), big.NewInt(want))
	if r.Distinct != want || len(lines) != 1 || lines[0].count != want || lines[0].unique != 2 || lines[0].sum.String() != sum.String() {
		t.Errorf("%d of %d count: %+v, want %d", r.Distinct, r.Events, lines, want)
	}
}

// TestSum: sums are those of math/big.
func TestSum(t *testing.T) {
	var s Sum
	want := new(big.Int)
	for i, v := range []int64{1 << 62, 1 << 62, 1 << 62, -5, -1 << 63, -1 << 63, -1 << 63, -1, 7, 1<<63 - 1, 1<<63 - 1} {
		s.add(v)
		if want.Add(want, big.NewInt(v)); s.String() != want.String() {
			t.Errorf("after %d values: %v, want %v", i+1, s, want)
		}
	}
}

// TestCalendar: what is remembered by the minute is what comes out without.
func TestCalendar(t *testing.T) {
	for name, around := range map[string]string{
		"America/New_York": "2026-11-01T05:00:00Z", "Australia/Lord_Howe": "2026-04-04T15:00:00Z", "America/Sao_Paulo": "2018-11-04T03:00:00Z",
		"Asia/Kolkata": "2026-01-31T18:30:00Z", "Europe/Amsterdam": "1900-06-01T00:00:00Z",
	} {
		l, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		from, err := time.Parse(time.RFC3339, around)
		if err != nil {
			t.Fatal(err)
		}
		c := newCalendar(l)
		for at := from.Add(-26 * time.Hour); at.Before(from.Add(26 * time.Hour)); at = at.Add(17 * time.Second) {
			local := at.In(l)
			want := moment{startOfHour(local).Unix(), startOfDay(local).Unix(), startOfMonth(local).Unix()}
			if got := c.moments[c.number(at)]; got != want {
				t.Fatalf("%s, %v: %v, want %v", name, local, got, want)
			}
		}
	}
}
