package egress

import (
	"fmt"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/proxy"
)

func TestWarmupOverflowsAndNewDay(t *testing.T) {
	inTime(t, func(t *testing.T) { // the bubble begins at midnight
		e := sources("cold", "warm")
		e.Sources[0].Warmup = "w"
		var day proxy.Date
		if err := day.UnmarshalText([]byte(time.Now().UTC().Format(time.DateOnly))); err != nil {
			t.Fatal(err)
		}
		e.Warmups = []proxy.Warmup{{Name: "w", Start: day, Days: []int64{10, 50}}}
		w := newWorld(t, e, `
[default]
connections = 2
messages_per_connection = 5
`)
		defer w.close()
		s := w.site("default", "p", "mx.p.test", 300).start()
		until(t, time.Minute, "all sent", func() bool { return w.count("*") == 300 })
		if n := w.count("cold"); n != 10 {
			t.Errorf("the cold source sent %d on its first day", n)
		}
		if n := w.connsAt(spot{"cold", "p"}); n > 12 {
			t.Errorf("%d connections by a source whose day is full", n)
		}
		time.Sleep(23 * time.Hour)
		s.add(100)
		time.Sleep(time.Minute)
		if n := w.count("cold"); n != 10 {
			t.Errorf("the cold source sent %d on its first day, after a pause", n)
		}
		time.Sleep(time.Hour)
		s.add(300)
		until(t, time.Minute, "all sent", func() bool { return w.count("*") == 700 })
		if n := w.count("cold"); n != 60 {
			t.Errorf("the cold source sent %d in two days", n)
		}
	})
}

// TestDayPasses: what waits for the next day goes then.
func TestDayPasses(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 2
daily = 20
`)
		defer w.close()
		for i := range 30 {
			w.site("default", "p", fmt.Sprintf("mx%d.p.test", i), 1).start()
		}
		time.Sleep(23 * time.Hour)
		if n, c := w.count("a"), w.connsAt(spot{"a", "p"}); n != 20 || c > 40 {
			t.Errorf("%d sent on the first day, by %d connections", n, c)
		}
		time.Sleep(2 * time.Hour)
		if n := w.count("a"); n != 30 {
			t.Errorf("%d sent by the second day", n)
		}
	})
}

// TestSlowRateRests: connections are not kept, nor made, for permits that are far off.
func TestSlowRateRests(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 2
message_rate = "1/min"
`)
		defer w.close()
		for i := range 20 {
			w.site("default", "p", fmt.Sprintf("mx%d.p.test", i), 1).start()
		}
		time.Sleep(10*time.Minute + time.Second)
		n, c := w.count("a"), w.connsAt(spot{"a", "p"})
		if n < 10 || n > 11 {
			t.Errorf("%d sent in 10 minutes", n)
		}
		t.Logf("%d sent, %d connections", n, c)
		if c > 6*n {
			t.Errorf("%d connections for %d messages", c, n)
		}
		time.Sleep(12 * time.Minute)
		if n := w.count("a"); n != 20 {
			t.Errorf("%d sent in 22 minutes", n)
		}
	})
}
