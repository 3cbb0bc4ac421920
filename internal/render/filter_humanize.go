package render

import (
	"strings"
	"time"
)

// humanizeFilters are those of django.contrib.humanize; {% load humanize %} is
// accepted, and not needed.
func humanizeFilters() []filter {
	return []filter{
		{name: "ordinal", safe: true, fn: ordinal},
		{name: "intcomma", arg: mayArg, safe: true, fn: intcomma},
		{name: "intword", fn: intword},
		{name: "apnumber", safe: true, fn: apnumber},
		{name: "naturalday", arg: mayArg, fn: naturalday},
		{name: "naturaltime", fn: naturaltime},
	}
}

// integer is int() for the filters that let anything else through.
func integer(in any) (n int64, ok bool) {
	n, err := toInt(in)
	return n, err == nil
}

func ordinal(_ *run, in, _ any) (any, error) {
	n, ok := integer(in)
	if !ok {
		return in, nil
	}
	return safe(itoa(n) + ordinalEnding(n)), nil
}

func intcomma(r *run, in, _ any) (any, error) {
	if f, ok := in.(float64); ok {
		return group(floatShown(f)), nil
	}
	if n, ok := integer(in); ok {
		return safe(group(itoa(n))), nil
	}
	s, err := r.str(in)
	if err != nil {
		return nil, err
	}
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	return sign + group(s[:i]) + s[i:], nil
}

func intword(_ *run, in, _ any) (any, error) {
	n, ok := integer(in)
	if !ok {
		return in, nil
	}
	size := magnitude(n)
	if size < 1e6 {
		return n, nil
	}
	unit := uint64(1e6)
	for _, name := range []string{"million", "billion", "trillion", "quadrillion", "quintillion"} {
		if size/1000 < unit {
			d := parseDecimal(floatDigits(float64(n) / float64(unit)))
			s := d.round(1)
			return s + " " + name, nil
		}
		unit *= 1000
	}
	return n, nil
}

func apnumber(_ *run, in, _ any) (any, error) {
	n, ok := integer(in)
	if !ok {
		return in, nil
	}
	words := []string{"one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
	if n < 1 || n > 9 {
		return n, nil
	}
	return words[n-1], nil
}

func naturalday(r *run, in, arg any) (any, error) {
	m, ok := toMoment(in)
	if !ok || m.timeOnly {
		return in, nil
	}
	now, err := r.now(absent{})
	if err != nil {
		return nil, err
	}
	today := now.t
	if m.zoned {
		today = today.In(m.t.Location())
	}
	switch daysBetween(today, m.t) {
	case 0:
		return "today", nil
	case 1:
		return "tomorrow", nil
	case -1:
		return "yesterday", nil
	}
	return r.dateText(m, arg, "DATE_FORMAT")
}

// daysBetween counts the days of the calendar from a to b.
func daysBetween(a, b time.Time) int64 {
	day := func(t time.Time) int64 {
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC).Unix() / 86400
	}
	return day(b) - day(a)
}

func naturaltime(r *run, in, _ any) (any, error) {
	m, ok := toMoment(in)
	if !ok || m.timeOnly {
		return in, nil
	}
	now, err := r.now(absent{})
	if err != nil {
		return nil, err
	}
	past := m.t.Before(now.t)
	from, to, tail := now.t, m.t, " from now"
	if past {
		from, to, tail = m.t, now.t, " ago"
	}
	seconds := to.Unix() - from.Unix()
	if to.Nanosecond() < from.Nanosecond() {
		seconds--
	}
	switch {
	case seconds >= 86400:
		return since(from, to) + tail, nil
	case seconds == 0:
		return "now", nil
	case seconds < 60:
		return countOf(seconds, "a second", "seconds") + tail, nil
	case seconds < 3600:
		return countOf(seconds/60, "a minute", "minutes") + tail, nil
	}
	return countOf(seconds/3600, "an hour", "hours") + tail, nil
}

func countOf(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return itoa(n) + "\u00a0" + many
}
