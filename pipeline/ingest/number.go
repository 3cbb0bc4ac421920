package ingest

import (
	"strconv"
	"strings"
	"time"
)

// million is how many parts a unit of Event.Value has, as a power of ten.
const million = 6

// millionths reads a JSON number exactly, without a float between. What is finer than a millionth is
// rounded, halves away from zero. It is false for what does not fit.
func millionths(s string) (int64, bool) {
	s, negative := strings.CutPrefix(s, "-")
	exponent := 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(strings.TrimPrefix(s[i+1:], "+")); err != nil {
			// More digits than an int has: either nothing is left of the value or it does not fit.
			exponent = 1 << 30
			if s[i+1] == '-' {
				exponent = -exponent
			}
		}
		s = s[:i]
	}
	whole, fraction, _ := strings.Cut(s, ".")
	v, ok := shift(whole, fraction, exponent+million)
	if !ok {
		return 0, false
	}
	if negative {
		v = -v
	}
	return v, true
}

// shift is (whole "." fraction) times ten to the power, rounded.
func shift(whole, fraction string, power int) (v int64, ok bool) {
	const most = 1<<63 - 1
	n := len(whole) + len(fraction)
	digit := func(i int) int64 {
		switch {
		case i < len(whole):
			return int64(whole[i] - '0')
		case i < n:
			return int64(fraction[i-len(whole)] - '0')
		}
		return 0
	}
	keep := len(whole) + power // digits before the point afterwards
	for i := 0; i < keep; i++ {
		if i >= n && v == 0 {
			return 0, true
		}
		d := digit(i)
		if v > (most-d)/10 {
			return 0, false
		}
		v = v*10 + d
	}
	if keep >= 0 && digit(keep) >= 5 {
		if v == most {
			return 0, false
		}
		v++
	}
	return v, true
}

// shortest is a JSON number in one form for all that mean the same, but for those with an exponent: no
// zeros behind the last digit of the fraction, no fraction that is empty, no minus before zero.
func shortest(s string) string {
	if strings.ContainsAny(s, "eE") {
		return s
	}
	if strings.Contains(s, ".") {
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	if s == "-0" {
		return "0"
	}
	return s
}

// layouts are the forms of ISO 8601 that are understood beside RFC 3339. Without a zone it is UTC.
var layouts = [...]string{
	"2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z0700",
	"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02",
}

// instant reads a time.
func instant(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, s)
	for i := 0; err != nil && i < len(layouts); i++ {
		t, err = time.Parse(layouts[i], s)
	}
	return t, err == nil
}
