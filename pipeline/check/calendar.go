package check

import "time"

// moment is where the intervals begin that an event is in, as Unix seconds.
type moment [intervals]int64

// calendar finds the moments of a tenant's zone, and gives them numbers. It remembers what it found for each minute.
type calendar struct {
	zone    *time.Location
	minutes map[int64]uint32
	numbers map[moment]uint32
	moments []moment // by number
}

func newCalendar(zone *time.Location) *calendar {
	return &calendar{zone: zone, minutes: map[int64]uint32{}, numbers: map[moment]uint32{}}
}

// number is that of the moment which an instant belongs to.
func (c *calendar) number(at time.Time) uint32 {
	at = at.In(c.zone)
	minute := at.Truncate(time.Minute).Unix()
	if n, known := c.minutes[minute]; known {
		return n
	}
	m := moment{startOfHour(at).Unix(), startOfDay(at).Unix(), startOfMonth(at).Unix()}
	n, known := c.numbers[m]
	if !known {
		n = uint32(len(c.moments))
		c.numbers[m] = n
		c.moments = append(c.moments, m)
	}
	if _, offset := at.Zone(); offset%60 == 0 { // in the odd zones of old times, days begin within minutes
		c.minutes[minute] = n
	}
	return n
}

// startOfHour walks back minute by minute while the clock on the wall shows the same hour: nothing that
// could go wrong with zones of odd offsets or with hours that come twice.
func startOfHour(at time.Time) time.Time {
	at = at.Truncate(time.Minute)
	_, offset := at.Zone()
	for at.Minute() != 0 {
		before := at.Add(-time.Minute)
		if _, o := before.Zone(); o != offset {
			break
		}
		at = before
	}
	return at
}

func startOfDay(at time.Time) time.Time {
	return firstInstant(at, time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, at.Location()))
}

func startOfMonth(at time.Time) time.Time {
	return firstInstant(at, time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, at.Location()))
}

// firstInstant is the first instant of a local date: where the clocks skip midnight, time.Date names one of the day before.
func firstInstant(at, start time.Time) time.Time {
	for start.Day() != at.Day() && start.Before(at) && start.Hour() == 23 {
		start = start.Add(30 * time.Minute)
	}
	return start
}
