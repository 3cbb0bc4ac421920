package warehouse

import (
	"fmt"
	"math/rand"
	"testing"
	"time"
)

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "America/Sao_Paulo", "Pacific/Apia", "Africa/Cairo", "Asia/Beirut", "America/St_Johns"}

// TestCalendar checks what a bucket is: all instants that the zone's clock shows in the same hour, day, week or month, and
// for hours with the same offset.
func TestCalendar(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for _, name := range zones {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		var around []time.Time // changes of the clock
		for at := time.Date(1990, 1, 1, 0, 0, 0, 0, zone); at.Year() < 2030; {
			_, end := at.ZoneBounds()
			if end.IsZero() {
				break
			}
			around = append(around, end)
			at = end
		}
		around = append(around, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
		for _, interval := range []Interval{Hour, Day, Week, Month} {
			c := Calendar{interval, zone}
			for range 300 {
				at := around[r.Intn(len(around))].Add(time.Duration(r.Intn(200_000)-100_000) * time.Second)
				other := at.Add(time.Duration(r.Intn(20_000)-10_000) * time.Second)
				if got, want := c.Start(at).Equal(c.Start(other)), label(c, at) == label(c, other); got != want {
					t.Fatalf("%s %v: %v and %v in one bucket: %v, want %v", name, interval, at.In(zone), other.In(zone), got, want)
				}
				start := c.Start(at)
				if start.After(at) || label(c, start) != label(c, at) || label(c, start.Add(-time.Second)) == label(c, at) {
					t.Fatalf("%s %v: %v starts at %v", name, interval, at.In(zone), start)
				}
				to := at.Add(time.Duration(r.Intn(100)) * time.Hour)
				starts := c.Starts(at, to)
				for i, s := range starts {
					next := to
					if i+1 < len(starts) {
						next = starts[i+1]
					}
					if !c.Start(s).Equal(s) || i > 0 && !c.Start(next.Add(-time.Second)).Equal(s) {
						t.Fatalf("%s %v: from %v: %v", name, interval, at.In(zone), starts)
					}
				}
			}
		}
	}
}

func label(c Calendar, at time.Time) string {
	at = at.In(c.Zone)
	_, offset := at.Zone()
	switch c.Interval {
	case Hour:
		return fmt.Sprint(at.Format("2006-01-02 15"), offset)
	case Day:
		return at.Format("2006-01-02")
	case Week:
		y, w := at.ISOWeek()
		return fmt.Sprint(y, w)
	}
	return at.Format("2006-01")
}
