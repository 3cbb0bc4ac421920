package render

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// moment is a date or time of day that a template formats.
type moment struct {
	t time.Time
	// zoned: the text told an offset from UTC; without one it is taken as UTC.
	zoned bool
	// timeOnly: it is a time of day.
	timeOnly bool
}

// layouts of ISO 8601 that are read, after "T" has become a space.
var (
	dateLayouts = []string{"2006-01-02 15:04:05.999999999", "2006-01-02 15:04", "2006-01-02", "20060102 150405", "20060102"}
	timeLayouts = []string{"15:04:05.999999999", "15:04"}
	zoneLayouts = []string{"Z07:00", "Z0700", "Z07"}
)

// toMoment reads a date: ISO 8601 text or a time.
func toMoment(v any) (m moment, ok bool) {
	switch v := v.(type) {
	case time.Time:
		return moment{t: v, zoned: true}, true
	case string, safe:
		return parseMoment(text(v))
	}
	return m, false
}

func parseMoment(s string) (m moment, ok bool) {
	s = strings.TrimSpace(s)
	if len(s) < 5 || len(s) > 48 || !isDigit(s[0]) {
		return m, false
	}
	s = strings.Replace(strings.Replace(s, "T", " ", 1), "z", "Z", 1)
	for _, layout := range dateLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return moment{t: t}, true
		}
		if !strings.Contains(layout, " ") {
			continue
		}
		for _, zone := range zoneLayouts {
			if t, err := time.Parse(layout+zone, s); err == nil {
				return moment{t: t, zoned: true}, true
			}
		}
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return moment{t: t, timeOnly: true}, true
		}
	}
	return m, false
}

// namedFormats are Django's formats of the locale "en".
var namedFormats = map[string]string{
	"DATE_FORMAT":           "N j, Y",
	"TIME_FORMAT":           "P",
	"DATETIME_FORMAT":       "N j, Y, P",
	"YEAR_MONTH_FORMAT":     "F Y",
	"MONTH_DAY_FORMAT":      "F j",
	"SHORT_DATE_FORMAT":     "m/d/Y",
	"SHORT_DATETIME_FORMAT": "m/d/Y P",
}

func dateFilters() []filter {
	return []filter{
		{name: "date", arg: mayArg, fn: func(r *run, in, arg any) (any, error) {
			m, ok := toMoment(in)
			if !ok || m.timeOnly {
				return "", nil
			}
			return r.dateText(m, arg, "DATE_FORMAT")
		}},
		{name: "time", arg: mayArg, fn: func(r *run, in, arg any) (any, error) {
			m, ok := toMoment(in)
			if !ok {
				return "", nil
			}
			return r.dateText(m, arg, "TIME_FORMAT")
		}},
		{name: "timesince", arg: mayArg, fn: func(r *run, in, arg any) (any, error) { return r.between(in, arg, false) }},
		{name: "timeuntil", arg: mayArg, fn: func(r *run, in, arg any) (any, error) { return r.between(in, arg, true) }},
	}
}

func (r *run) dateText(m moment, arg any, format string) (any, error) {
	if _, none := arg.(absent); !none && truth(arg) {
		s, err := r.str(arg)
		if err != nil {
			return nil, err
		}
		format = s
	}
	if f, ok := namedFormats[format]; ok {
		format = f
	}
	if len(format) > maxWidth {
		return nil, fmt.Errorf("the format has more than %d characters", maxWidth)
	}
	return formatDate(m, format), nil
}

// nowVariable is the time that filters compare with when they are not given one.
// The clock is not read: a message must be the same at each attempt.
const nowVariable = "now"

var errNow = errors.New(`needs the time to compare with, as argument or as variable "now"`)

// now returns the time to compare with: arg, or else the variable.
func (r *run) now(arg any) (moment, error) {
	if _, none := arg.(absent); none || !truth(arg) {
		v, ok := r.lookup(nowVariable)
		if !ok {
			return moment{}, errNow
		}
		arg = v
	}
	m, ok := toMoment(arg)
	if !ok {
		return moment{}, errNow
	}
	return m, nil
}

// between is timesince and timeuntil; "" for a value that is no date.
func (r *run) between(in, arg any, until bool) (any, error) {
	m, ok := toMoment(in)
	if !ok || m.timeOnly {
		return "", nil
	}
	now, err := r.now(arg)
	if err != nil {
		return nil, err
	}
	if until {
		return since(now.t, m.t), nil
	}
	return since(m.t, now.t), nil
}

// since tells the time from one moment to another in its two largest units:
// "2 weeks, 3 days". Leap days do not count, so that a year is a year.
func since(from, to time.Time) string {
	const space = "\u00a0"
	y1, y2 := from.Year(), to.Year()
	leap := leapDays(y1, y2)
	if leap != 0 {
		if isLeap(y1) {
			leap--
		} else if isLeap(y2) {
			leap++
		}
	}
	// Unix seconds do not overflow for years 0 to 9999, a Duration would.
	rest := to.Unix() - from.Unix() - int64(leap)*86400
	if to.Nanosecond() < from.Nanosecond() {
		rest--
	}
	units := []struct {
		seconds int64
		name    string
	}{{365 * 86400, "year"}, {30 * 86400, "month"}, {7 * 86400, "week"}, {86400, "day"}, {3600, "hour"}, {60, "minute"}}
	var parts []string
	for _, u := range units {
		n := rest / u.seconds
		if n <= 0 {
			if len(parts) > 0 {
				break
			}
			continue
		}
		rest -= n * u.seconds
		part := itoa(n) + space + u.name
		if n != 1 {
			part += "s"
		}
		if parts = append(parts, part); len(parts) == 2 {
			break
		}
	}
	if len(parts) == 0 {
		return "0" + space + "minutes"
	}
	return strings.Join(parts, ", ")
}

// leapDays counts the leap years from y1 up to, but without, y2.
func leapDays(y1, y2 int) int {
	before := func(y int) int { y--; return y/4 - y/100 + y/400 }
	return before(y2) - before(y1)
}

func isLeap(y int) bool { return y%4 == 0 && (y%100 != 0 || y%400 == 0) }

// isoFormat is Python's isoformat().
func isoFormat(m moment) string {
	s := m.t.Format("2006-01-02T15:04:05")
	if us := m.t.Nanosecond() / 1000; us != 0 {
		s += fmt.Sprintf(".%06d", us)
	}
	if m.zoned {
		s += m.t.Format("-07:00")
	}
	return s
}
