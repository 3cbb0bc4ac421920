package crowd

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// benchWorld is the world of the benchmarks, at a time that stays.
func benchWorld(t testing.TB, change func(*Options)) *World {
	t.Helper()
	o := DefaultOptions()
	o.From, o.Span = time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC), units.Duration(time.Hour)
	if change != nil {
		change(&o)
	}
	w, err := NewWorld(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The figures of benchmarks can be compared as long as their world is the same one.
func TestBenchmarkWorldIsTheSame(t *testing.T) {
	w := benchWorld(t, nil)
	single, bulk := sha256.New(), sha256.New()
	var b []byte
	var events []Event
	for n := range uint64(10_000) {
		e := w.Event(n)
		b = e.AppendEvent(b[:0])
		single.Write(b)
		if events = append(events, e); len(events) == 1000 {
			b = AppendBulk(b[:0], events)
			bulk.Write(b)
			events = events[:0]
		}
	}
	if got := hex.EncodeToString(single.Sum(nil)); got != "92734fb294b977dce0dedb70d65499bcd8b7a54d8d9327b10002647298c9a132" {
		t.Errorf("single events: %s", got)
	}
	if got := hex.EncodeToString(bulk.Sum(nil)); got != "a57bf31803360bf410d2d02abd2937ed1a9be184a9a764e1066929ad187ce654" {
		t.Errorf("bulk jobs: %s", got)
	}
}

func TestPowerIsThatOfTheLibrary(t *testing.T) {
	d := dice(7)
	for range 1_000_000 {
		x := d.float()
		for _, y := range []float64{1, 2, 3, 3.5} {
			if got, want := power(x, y), math.Pow(x, y); got != want {
				t.Fatalf("power(%v, %v) = %v, not %v", x, y, got, want)
			}
		}
	}
	for _, x := range []float64{0, 1.0 / (1 << 53), 1 - 1.0/(1<<53)} {
		if power(x, 3) != math.Pow(x, 3) || power(x, 2) != math.Pow(x, 2) {
			t.Errorf("of %v", x)
		}
	}
}

func TestAppendTime(t *testing.T) {
	d := dice(7)
	check := func(at time.Time) {
		t.Helper()
		if got, want := string(appendTime(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Fatalf("%s, not %s", got, want)
		}
	}
	for range 200_000 {
		check(time.UnixMilli(int64(d.next() % 10_000_000_000_000))) // until 2286
	}
	for day := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2402; day = day.AddDate(0, 0, 1) {
		check(day)
		check(day.Add(-time.Millisecond).Add(24 * time.Hour))
	}
}

func BenchmarkEvent(b *testing.B) {
	w := benchWorld(b, nil)
	b.ReportAllocs()
	for i := range b.N {
		_ = w.Event(uint64(i))
	}
}

// BenchmarkBulk is what the source does for each event.
func BenchmarkBulk(b *testing.B) {
	w := benchWorld(b, nil)
	b.ReportAllocs()
	events := make([]Event, 0, 1000)
	var body []byte
	for i := 0; i < b.N; i += 1000 {
		events = events[:0]
		for n := range 1000 {
			events = append(events, w.Event(uint64(i+n)))
		}
		body = AppendBulk(body[:0], events)
	}
	b.SetBytes(int64(len(body) / 1000))
}

func BenchmarkBulkWithMail(b *testing.B) {
	w := benchWorld(b, func(o *Options) { o.Mail = 0.5 })
	b.ReportAllocs()
	events := make([]Event, 0, 1000)
	var body []byte
	for i := 0; i < b.N; i += 1000 {
		events = events[:0]
		for n := range 1000 {
			events = append(events, w.Event(uint64(i+n)))
		}
		body = AppendBulk(body[:0], events)
	}
}
