package account

import (
	"math/rand/v2"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// TestHoursAreThoseOfTheWall holds hours against stepping through time minute by minute.
func TestHoursAreThoseOfTheWall(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, name := range []string{"UTC", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Africa/Cairo", "America/Havana", "Pacific/Apia", "Pacific/Chatham"} {
		z := zone(t, name)
		c := clock{zone: z}
		for range 1500 {
			at := time.Unix(946684800+r.Int64N(27*365*86400), 0).In(z)
			if r.IntN(2) == 0 { // near a change of the clock
				if _, end := at.ZoneBounds(); !end.IsZero() {
					at = end.Add(time.Duration(r.IntN(4*3600)-2*3600) * time.Second)
				}
			}
			l, start, end := label(Hour, at), at.Truncate(time.Minute), at.Truncate(time.Minute)
			for label(Hour, start.Add(-time.Minute)) == l {
				start = start.Add(-time.Minute)
			}
			for label(Hour, end) == l {
				end = end.Add(time.Minute)
			}
			h := hourOf(z, at.Unix())
			if h.start != start.Unix() || h.end != end.Unix() {
				t.Fatalf("%v: hour of %v to %v, want %v to %v", name, time.Unix(h.start, 0).In(z), time.Unix(h.end, 0).In(z), start, end)
			}
			if b := c.at(at.Unix()); b != h.bucket || startOf(b.month, b.slot) != h.start || int(b.day) != at.Day() || b.month != monthOf(at.Year(), at.Month()) {
				t.Fatalf("%v: bucket of %v is %+v, hour %+v", name, at, b, h)
			}
		}
	}
}

func TestDaysBeginWithTheirFirstInstant(t *testing.T) {
	for _, c := range []struct {
		zone, day, start string
		hours            float64
	}{
		{"America/New_York", "2026-03-08", "2026-03-08T00:00:00-05:00", 23},
		{"America/New_York", "2026-11-01", "2026-11-01T00:00:00-04:00", 25},
		{"Australia/Lord_Howe", "2026-04-05", "2026-04-05T00:00:00+11:00", 24.5},
		{"Australia/Lord_Howe", "2026-10-04", "2026-10-04T00:00:00+10:30", 23.5},
		{"Asia/Kathmandu", "2026-10-04", "2026-10-04T00:00:00+05:45", 24},
		{"Africa/Cairo", "2026-04-24", "2026-04-24T01:00:00+03:00", 23}, // midnight is skipped
		{"America/Havana", "2026-11-01", "2026-11-01T00:00:00-04:00", 25},
	} {
		z := zone(t, c.zone)
		day, err := time.ParseInLocation(time.DateOnly+" 15", c.day+" 12", z)
		if err != nil {
			t.Fatal(err)
		}
		date := dateOf(z, day.Unix())
		start := midnight(z, date)
		if got := time.Unix(start, 0).In(z).Format(time.RFC3339); got != c.start {
			t.Errorf("%s: %s begins %s, want %s", c.zone, c.day, got, c.start)
		}
		if got := float64(midnight(z, date+1)-start) / hourSeconds; got != c.hours {
			t.Errorf("%s: %s has %v hours, want %v", c.zone, c.day, got, c.hours)
		}
	}
}

func TestFarTimesAreCountedAtTheEnds(t *testing.T) {
	c := clock{zone: zone(t, "America/New_York")}
	for _, at := range []int64{-1 << 62, minTime, 0, maxTime, 1 << 62} {
		b := c.at(at)
		want := min(max(at, minTime), maxTime)
		if s := startOf(b.month, b.slot); s > want || s < want-hourSeconds {
			t.Errorf("%d is counted at %d", at, s)
		}
	}
}

func TestCongruentZones(t *testing.T) {
	year := func(y int) int64 { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC).Unix() }
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"UTC", "America/New_York", true}, {"Asia/Kolkata", "UTC", false}, {"Asia/Kolkata", "Asia/Kathmandu", false},
		{"Australia/Lord_Howe", "UTC", false}, {"Australia/Lord_Howe", "Australia/Lord_Howe", true}, {"Asia/Kolkata", "Australia/Darwin", true},
	} {
		if got := congruent(zone(t, c.a), zone(t, c.b), year(2026), year(2027)); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
	summer := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC).Unix()
	if !congruent(zone(t, "Australia/Lord_Howe"), time.UTC, summer, summer+daySeconds) {
		t.Error("Lord Howe in summer has whole hours")
	}
}
