package account

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// feed puts events of one metric into the log: one for each value of a dimension given, so many times.
func feed(w *world, tenant string, at time.Time, values map[string]int) fact.MetricID {
	m := fact.DeriveMetric(tenant, "api", "Opened")
	for v, n := range values {
		for i := range n {
			p := fact.DeriveProfile(tenant, fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(i)}, fact.ProfileID{})
			w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: tenant, Profile: p, Event: &fact.Event{Metric: m, Service: "api", Name: "Opened",
				Time: at.Add(time.Duration(i) * time.Hour), UID: fmt.Sprint(v, i), Value: 1_500_000, HasValue: true, Dims: []fact.Dim{{Name: "Color", Value: v}}}})
		}
	}
	w.drain()
	return m
}

var morning = time.Date(2026, 5, 4, 6, 0, 0, 0, time.UTC)

func day(m fact.MetricID, tenant string) Query {
	return Query{Tenant: tenant, Metric: m, Measurements: []string{Count, SumValue, Unique}, Interval: Day,
		From: time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 5, 6, 0, 0, 0, 0, time.UTC)}
}

func TestRowsComeInOrderAndInPages(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "utc", morning, map[string]int{"red": 3, "green": 1, "blue": 2, "black": 2})
	for sort, want := range map[string][]string{
		"": {"black", "blue", "green", "red"}, "-Color": {"red", "green", "blue", "black"},
		"count": {"green", "black", "blue", "red"}, "-sum_value": {"red", "blue", "black", "green"}, "-unique": {"red", "blue", "black", "green"},
	} {
		for _, size := range []int{0, 1, 3, 4} {
			q := day(m, "utc")
			q.By, q.Sort, q.Size = []string{"Color"}, sort, size
			var got []string
			for {
				r, err := w.reader().Query(context.Background(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, row := range r.Rows {
					got = append(got, row.Dimensions...)
				}
				if q.Cursor = r.Next; q.Cursor == "" {
					break
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("sort %q, size %d: %v, want %v", sort, size, got, want)
			}
		}
	}
}

func TestNoMoreCountsThanAreToBeHeld(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "utc", morning, map[string]int{"red": 3, "green": 1, "blue": 2, "black": 2}) // so many hours each
	for most, want := range map[int]error{0: nil, 8: nil, 7: ErrTooMany, 1: ErrTooMany} {
		n := 0
		err := w.reader().EachBy(t.Context(), "utc", m, Hour, "Color", most, func(Final) error { n++; return nil })
		if !errors.Is(err, want) || (err == nil) != (n == 8) || err != nil && n != 0 {
			t.Errorf("at most %d: %d counts, %v", most, n, err)
		}
	}
}

func TestQuestionsForTheWarehouse(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "utc", morning, map[string]int{"red": 3})
	for name, change := range map[string]func(*Query){
		"two dimensions":   func(q *Query) { q.By = []string{"Color", "Size"} },
		"another filter":   func(q *Query) { q.By, q.Values = []string{"Color"}, map[string][]string{"Size": {"1"}} },
		"two filters":      func(q *Query) { q.Values = map[string][]string{"Size": {"1"}, "Color": {"red"}} },
		"half an hour":     func(q *Query) { q.From = q.From.Add(30 * time.Minute) },
		"less than second": func(q *Query) { q.To = q.To.Add(time.Nanosecond) },
		"other hours":      func(q *Query) { q.Zone = zone(t, "Asia/Kolkata") },
	} {
		q := day(m, "utc")
		change(&q)
		if _, err := w.reader().Query(context.Background(), q); !errors.Is(err, ErrNeedsWarehouse) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuestionsThatCannotBeUsed(t *testing.T) {
	w := newWorld(t, 1)
	for field, change := range map[string]func(*Query){
		"measurements": func(q *Query) { q.Measurements = []string{"mean"} },
		"interval":     func(q *Query) { q.Interval = "decade" },
		"to":           func(q *Query) { q.To = q.From.AddDate(1, 0, 2) },
		"sort":         func(q *Query) { q.Sort = "-Size" },
		"cursor":       func(q *Query) { q.Cursor = "?" },
		"by":           func(q *Query) { q.By = []string{""} },
		"size":         func(q *Query) { q.Size = -1 },
		"values":       func(q *Query) { q.Values = map[string][]string{"": nil} },
	} {
		q := day(1, "utc")
		change(&q)
		var invalid *Invalid
		if _, err := w.reader().Query(context.Background(), q); !errors.As(err, &invalid) || invalid.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestTenantsSeeOnlyTheirOwn(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "utc", morning, map[string]int{"red": 3})
	r := w.reader()
	ctx := context.Background()
	got, err := r.Query(ctx, day(m, "ny"))
	if err != nil || len(got.Rows) != 1 || got.Rows[0].Count[0] != 0 {
		t.Errorf("another tenant's metric: %+v %v", got, err)
	}
	if all, err := r.Metrics(ctx, "ny"); err != nil || len(all) != 0 {
		t.Errorf("another tenant's metrics: %+v %v", all, err)
	}
	if _, found, err := r.Metric(ctx, "ny", m); found || err != nil {
		t.Errorf("another tenant's metric is found: %v", err)
	}
	got, err = r.Query(ctx, day(m, "utc"))
	if err != nil || got.Rows[0].Count[0] != 3 || got.Rows[0].Sum[0].String() != "4.5" || got.Rows[0].Unique[0] != 3 {
		t.Errorf("own: %+v %v", got, err)
	}
}

func TestMetricsAreKnownBeforeTheCommitAndAfter(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "utc", morning, map[string]int{"red": 30})
	want := Metric{ID: m, Name: "Opened", Service: "api", Created: time.UnixMilli(1_780_000_100_000).UTC()}
	for _, commit := range []bool{false, true} {
		if commit {
			for _, p := range w.parts {
				w.commit(p)
				w.crash(p, true)
			}
		}
		got, found, err := w.reader().Metric(context.Background(), "utc", m)
		if err != nil || !found {
			t.Fatal(found, err)
		}
		if got.Updated.Before(got.Created) {
			t.Errorf("updated %v", got.Updated)
		}
		if got.Updated = (time.Time{}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func TestAPartitionThatIsNotThere(t *testing.T) {
	r, err := NewReader(testOptions(), func(int32) (keyed.Processor, bool) { return nil, false }, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Query(context.Background(), day(1, "utc")); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// TestNumbersNeverFallWhileCommitsGoOn reads while events are applied and committed.
func TestNumbersNeverFallWhileCommitsGoOn(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "utc", morning, map[string]int{"red": 1})
	r := w.reader()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 3 {
		readers.Go(func() {
			last := [2]int64{}
			for {
				q := day(m, "utc")
				switch i {
				case 1:
					q.By = []string{"Color"}
				case 2:
					q.Values = map[string][]string{"Color": {"0", "1", "3"}}
				}
				got, err := r.Query(context.Background(), q)
				if err != nil {
					t.Error(err)
					return
				}
				now := [2]int64{}
				for _, row := range got.Rows {
					now[0] += row.Count[0] + row.Count[1]
					now[1] += row.Unique[0] + row.Unique[1]
				}
				if now[0] < last[0] || now[1] < last[1] {
					t.Errorf("from %v to %v", last, now)
					return
				}
				last = now
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 1500 {
		p := fact.DeriveProfile("utc", fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(random.IntN(200))}, fact.ProfileID{})
		w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: "utc", Profile: p, Event: &fact.Event{Metric: m, Service: "api", Name: "Opened",
			Time: morning.Add(time.Duration(i) * time.Second), UID: fmt.Sprint(i), Dims: []fact.Dim{{Name: "Color", Value: fmt.Sprint(random.IntN(5))}}}})
		w.drain()
		if i%7 == 0 {
			for _, p := range w.parts {
				w.commit(p)
			}
		}
	}
	close(stop)
	readers.Wait()
	got, err := r.Query(context.Background(), day(m, "utc"))
	if err != nil || got.Rows[0].Count[0] != 1501 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestStateKeepsItsZone(t *testing.T) {
	w := newWorld(t, 1)
	m := feed(w, "ny", morning, map[string]int{"red": 5})
	for _, p := range w.parts {
		w.commit(p)
	}
	w.o.Zones = map[string]string{"ny": "Asia/Kolkata"}
	for _, p := range w.parts {
		w.crash(p, true)
	}
	feed(w, "ny", morning, map[string]int{"blue": 5})
	q := day(m, "ny")
	q.Zone = time.UTC
	w.o.Zones = nil
	got, err := w.reader().Query(context.Background(), q)
	if err != nil || got.Rows[0].Count[0] != 10 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestOptionsNameTheirKeys(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
	for key, change := range map[string]func(*Options){
		"account: zone: ": func(o *Options) { o.Zone = "Nowhere" }, "account: zones.a: ": func(o *Options) { o.Zones = map[string]string{"a": "b"} },
		"account: filter: ": func(o *Options) { o.Filter = 1 }, "account: pending: ": func(o *Options) { o.Pending = 1 },
		"account: profiles: ": func(o *Options) { o.Profiles = 1 }, "account: values: ": func(o *Options) { o.Values = 1 },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || len(err.Error()) < len(key) || err.Error()[:len(key)] != key {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// FuzzTransfer takes any bytes for a transfer: what is none is an error.
func FuzzTransfer(f *testing.F) {
	f.Add([]byte{transferVersion})
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 9, 2, 3, 'a', 'p', 'i', 1, 'm', 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 4, 8, 1, 1, 'c', 1, 'd'})
	f.Fuzz(func(t *testing.T, data []byte) {
		w := &world{node: newNode(t, testOptions())}
		p := w.parts[0]
		err := p.proc.unpack(p.tx, &fact.Fact{Tenant: "utc", Transfer: &fact.Transfer{Data: data}}, profile{dense: 1})
		if err == nil && len(data) == 0 {
			t.Error("nothing is a transfer")
		}
	})
}
