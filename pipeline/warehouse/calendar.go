package warehouse

import "time"

// Calendar is how time is cut into buckets in a zone.
type Calendar struct {
	Interval Interval
	Zone     *time.Location
}

// Start is when the bucket of t begins. Hours are those of the zone's clock, so in a zone of +05:45 they
// begin at a quarter past the hours of UTC; the hour that a clock goes through twice is two buckets, and one that a change
// of the clock cuts is shorter.
func (c Calendar) Start(t time.Time) time.Time {
	t = t.In(c.Zone)
	y, m, d := t.Date()
	switch c.Interval {
	case Hour:
		_, off := t.Zone()
		at := t.Unix()
		start := time.Unix(at-((at+int64(off))%3600+3600)%3600, 0).In(c.Zone)
		if change, _ := t.ZoneBounds(); change.After(start) {
			return change.In(c.Zone)
		}
		return start
	case Week:
		return c.midnight(y, m, d-(int(t.Weekday())+6)%7)
	case Month:
		return c.midnight(y, m, 1)
	}
	return c.midnight(y, m, d)
}

// midnight is when a day begins: where the clock is put forward over 0:00, that is later than 0:00.
func (c Calendar) midnight(y int, m time.Month, d int) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, c.Zone)
	want := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	start, end := t.ZoneBounds()
	_, off := t.Zone()
	switch shown := t.Add(time.Duration(off) * time.Second).UTC(); { // the clock's reading
	case shown.Before(want): // Date stopped before the gap
		return end.In(c.Zone)
	case shown.After(want): // or went behind it
		return start.In(c.Zone)
	}
	// A clock put back over 0:00 shows it twice; the day begins with the first.
	if earlier := t.Add(-time.Hour); earlier.Day() == want.Day() {
		return earlier
	}
	return t
}

// Starts lists the buckets that have a part in [from, to).
func (c Calendar) Starts(from, to time.Time) []time.Time {
	var out []time.Time
	for t := c.Start(from); t.Before(to); t = c.next(t) {
		out = append(out, t)
	}
	return out
}

// next is the start of the bucket behind the one that starts at t.
func (c Calendar) next(t time.Time) time.Time {
	y, m, d := t.Date()
	switch c.Interval {
	case Week:
		return c.midnight(y, m, d+7)
	case Month:
		return c.midnight(y, m+1, 1)
	case Day:
		return c.midnight(y, m, d+1)
	}
	_, off := t.Zone()
	n := t.Add(time.Duration(3600-((t.Unix()+int64(off))%3600+3600)%3600) * time.Second)
	if _, change := t.ZoneBounds(); !change.IsZero() && change.Before(n) {
		return change.In(c.Zone)
	}
	return n
}

// Shift is an offset of a zone from UTC, from an instant on.
type Shift struct {
	From    time.Time
	Seconds int
}

// Shifts lists the offsets of the zone in [from, to), the first of which holds at from.
func (c Calendar) Shifts(from, to time.Time) []Shift {
	var out []Shift
	for t := from.In(c.Zone); t.Before(to); {
		_, off := t.Zone()
		out = append(out, Shift{t, off})
		_, end := t.ZoneBounds()
		if end.IsZero() {
			break
		}
		t = end
	}
	return out
}

// At is when a bucket begins that a database calls by its start: for hours an instant, otherwise a date in the
// zone's calendar, as if it were in UTC.
func (c Calendar) At(start time.Time) time.Time {
	if c.Interval == Hour {
		return start.In(c.Zone)
	}
	y, m, d := start.UTC().Date()
	return c.midnight(y, m, d)
}
