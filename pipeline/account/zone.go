package account

import (
	"fmt"
	"time"
)

const (
	hourSeconds = 3600
	daySeconds  = 24 * hourSeconds
	// farthest is more than any local time is away from UTC.
	farthest = 16 * hourSeconds
)

// bucket is where an event counts in its tenant's zone. Hours are those of the clock on the wall: one
// that comes twice is two buckets, and one that a change of the clock cuts is shorter.
type bucket struct {
	month uint16 // of the calendar, counted from January of year 0
	day   uint8  // of the month
	slot  uint32 // the hour's start, as a row has it
}

// span is an hour of the clock on the wall.
type span struct {
	start, end int64 // Unix seconds
	bucket
}

// hourOf returns the hour that an instant is in.
func hourOf(zone *time.Location, at int64) span {
	t := time.Unix(at, 0).In(zone)
	_, offset := t.Zone()
	start := at - floorMod(at+int64(offset), hourSeconds)
	end := start + hourSeconds
	from, to := t.ZoneBounds()
	if f := from.Unix(); !from.IsZero() && f > start && offsetAt(zone, f-1) != offset {
		start = f
	}
	if e := to.Unix(); !to.IsZero() && e < end && offsetAt(zone, e) != offset {
		end = e
	}
	y, m, d := t.Date()
	month := monthOf(y, m)
	return span{start, end, bucket{month: month, day: uint8(d), slot: slotOf(month, start)}}
}

func offsetAt(zone *time.Location, at int64) int {
	_, offset := time.Unix(at, 0).In(zone).Zone()
	return offset
}

func floorMod(a, b int64) int64 { return ((a % b) + b) % b }

func floorDiv(a, b int64) int64 { return (a - floorMod(a, b)) / b }

// monthOf numbers the months of the calendar.
func monthOf(year int, month time.Month) uint16 { return uint16(year*12 + int(month) - 1) }

// nominal is when a month begins in UTC.
func nominal(month uint16) int64 {
	return time.Date(int(month/12), time.Month(month%12)+1, 1, 0, 0, 0, 0, time.UTC).Unix()
}

// slotOf is an hour's start, counted in seconds from the day before its month, so that it is never 0.
func slotOf(month uint16, start int64) uint32 { return uint32(start - nominal(month) + daySeconds) }

// startOf is the inverse of slotOf.
func startOf(month uint16, slot uint32) int64 { return nominal(month) - daySeconds + int64(slot) }

// The times that are counted: others are counted at the nearer end.
const (
	minTime = -62_000_000_000 // in the year 5
	maxTime = 95_000_000_000  // in the year 4980
)

// clock finds hours of one zone. It remembers the last ones.
type clock struct {
	zone *time.Location
	last [64]span
}

func (c *clock) at(t int64) bucket {
	t = min(max(t, minTime), maxTime)
	h := &c.last[uint64(t>>11)%uint64(len(c.last))]
	if t < h.start || t >= h.end {
		*h = hourOf(c.zone, t)
	}
	return h.bucket
}

// dateOf numbers the days of the calendar, 0 is 1970-01-01.
func dateOf(zone *time.Location, at int64) int64 {
	return floorDiv(at+int64(offsetAt(zone, at)), daySeconds)
}

// midnight is the first instant of a day. Where the clocks skip midnight, it is later by the clock.
func midnight(zone *time.Location, date int64) int64 {
	at := date*daySeconds - int64(offsetAt(zone, date*daySeconds))
	for dateOf(zone, at) < date {
		at += 900
	}
	for dateOf(zone, at-900) == date {
		at -= 900
	}
	return at
}

// firstDate is the number of a month's first day.
func firstDate(month uint16) int64 { return nominal(month) / daySeconds }

// monthAt is the month that an instant is in.
func monthAt(zone *time.Location, at int64) uint16 {
	t := time.Unix(at, 0).In(zone)
	return monthOf(t.Year(), t.Month())
}

// congruent reports whether the hours of two zones begin at the same instants within [from, to).
func congruent(a, b *time.Location, from, to int64) bool {
	if a.String() == b.String() {
		return true
	}
	for at := from; at < to; {
		if (offsetAt(a, at)-offsetAt(b, at))%hourSeconds != 0 {
			return false
		}
		at = min(nextChange(a, at), nextChange(b, at))
	}
	return true
}

func nextChange(zone *time.Location, at int64) int64 {
	_, end := time.Unix(at, 0).In(zone).ZoneBounds()
	if end.IsZero() {
		return maxTime + 1
	}
	return end.Unix()
}

// zones knows the zones of tenants.
type zones struct {
	fallback *time.Location
	tenants  map[string]*time.Location
}

func newZones(o Options) (*zones, error) {
	fallback, err := time.LoadLocation(o.Zone)
	if err != nil {
		return nil, fmt.Errorf("account: zone: %w", err)
	}
	z := &zones{fallback: fallback, tenants: map[string]*time.Location{}}
	for tenant, name := range o.Zones {
		if z.tenants[tenant], err = time.LoadLocation(name); err != nil {
			return nil, fmt.Errorf("account: zones.%s: %w", tenant, err)
		}
	}
	return z, nil
}

func (z *zones) of(tenant string) *time.Location {
	if l := z.tenants[tenant]; l != nil {
		return l
	}
	return z.fallback
}
