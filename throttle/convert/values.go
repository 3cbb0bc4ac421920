package convert

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/godwit-mta/godwit/internal/units"
)

// maxCount and maxConnections are what rule files take.
const (
	maxCount       = 1_000_000_000_000
	maxConnections = 1_000_000
	maxHold        = 30 * 24 * time.Hour
	maxWindow      = 7 * 24 * time.Hour
)

var periods = map[string]time.Duration{"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hrs": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour, "w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour}

// whole reads a count such as 10,000 or 5_000.
func whole(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.NewReplacer(",", "", "_", "").Replace(strings.TrimSpace(s)), 10, 64)
	if err != nil || n < 0 || n > maxCount {
		return 0, fmt.Errorf("%q is not a number", oneLine(s))
	}
	return n, nil
}

// connections reads a number of connections.
func connections(s string) (int64, error) {
	n, err := whole(s)
	if err == nil && n > maxConnections {
		err = fmt.Errorf("%d connections are more than can be", n)
	}
	return n, err
}

// splitPeriod reads 10m or hr: a number, 1 if there is none, and a unit.
func splitPeriod(s string) (time.Duration, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		return 0, false
	}
	n := int64(1)
	if i > 0 {
		var err error
		if n, err = strconv.ParseInt(s[:i], 10, 32); err != nil {
			return 0, false
		}
	}
	unit, ok := periods[strings.TrimSpace(s[i:])]
	if !ok || n <= 0 || time.Duration(n) > 366*24*time.Hour/unit {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// rate reads N/PERIOD and writes it as rule files have it.
func rate(s string) (string, error) {
	count, per, ok := strings.Cut(s, "/")
	n, err := whole(count)
	d, known := splitPeriod(per)
	if !ok || err != nil || !known || n == 0 {
		return "", fmt.Errorf("%q is not a rate", oneLine(s))
	}
	return units.Rate{Count: n, Per: d}.String(), nil
}

// duration reads 1w2d12h, "2 hours 30 min" or a number of seconds.
func duration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a time", oneLine(s))
	if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32); err == nil && n > 0 {
		return time.Duration(n) * time.Second, nil
	}
	var total time.Duration
	rest := strings.ToLower(strings.TrimSpace(s))
	for rest != "" {
		end := strings.IndexFunc(rest, func(r rune) bool { return !unicode.IsDigit(r) })
		if end <= 0 {
			return 0, bad
		}
		tail := strings.TrimLeft(rest[end:], " ")
		stop := strings.IndexFunc(tail, func(r rune) bool { return r < 'a' || r > 'z' })
		if stop < 0 {
			stop = len(tail)
		}
		d, ok := splitPeriod(rest[:end] + tail[:stop])
		if !ok || total > 10*365*24*time.Hour {
			return 0, bad
		}
		total += d
		rest = strings.TrimLeft(tail[stop:], " ,")
	}
	if total <= 0 {
		return 0, bad
	}
	return total, nil
}

// hold is a duration for a rule, in our bounds. changed tells that it was cut.
func hold(d time.Duration) (s string, changed bool) {
	cut := max(time.Second, min(d, maxHold))
	return units.Duration(cut).String(), cut != d
}
