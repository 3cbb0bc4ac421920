// Package units reads the durations and sizes that configuration files hold:
// "90s", "72h", "7d", "512KiB", "10MB".
package units

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that reads Go's syntax and whole days ("7d").
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n < 36500 {
			*d = Duration(n * 24 * float64(time.Hour))
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration (write 500ms, 30s, 5m, 72h or 7d)", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String prints whole days as "7d", else as time.Duration does.
func (d Duration) String() string {
	const day = 24 * time.Hour
	t := time.Duration(d)
	if t >= 2*day && t%day == 0 {
		return strconv.Itoa(int(t/day)) + "d"
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// D is the plain duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// Size is a number of bytes that reads "512KiB", "10MB", "1GiB" or plain bytes.
type Size int64

var sizeUnits = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *Size) UnmarshalText(b []byte) error {
	s := strings.TrimSpace(string(b))
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.factor {
			break
		}
		*z = Size(n * u.factor)
		return nil
	}
	return fmt.Errorf("%q is not a size (write 4096, 512KiB, 50MiB or 10GiB)", s)
}

// MarshalText implements encoding.TextMarshaler.
func (z Size) MarshalText() ([]byte, error) { return []byte(z.String()), nil }

// String prints the largest binary unit that divides it.
func (z Size) String() string {
	for _, u := range []struct {
		suffix string
		factor int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if z != 0 && int64(z)%u.factor == 0 {
			return strconv.FormatInt(int64(z)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(z), 10)
}

// Rate is a number of things per time: "10/s", "100/min", "5000/h", "50000/d"
// or with any duration, "3/10s". The zero Rate is no limit and is written "".
type Rate struct {
	Count int64
	Per   time.Duration
}

var rateUnits = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"sec", time.Second}, {"m", time.Minute}, {"min", time.Minute}, {"h", time.Hour}, {"hour", time.Hour},
	{"d", 24 * time.Hour}, {"day", 24 * time.Hour}}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(b []byte) error {
	s := strings.TrimSpace(string(b))
	if s == "" {
		*r = Rate{}
		return nil
	}
	count, per, ok := strings.Cut(s, "/")
	n, err := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
	if !ok || err != nil || n <= 0 {
		return fmt.Errorf("%q is not a rate (write 10/s, 100/min, 5000/h or 50000/d)", s)
	}
	per = strings.TrimSpace(per)
	for _, u := range rateUnits {
		if per == u.name {
			*r = Rate{n, u.per}
			return nil
		}
	}
	var d Duration
	if d.UnmarshalText([]byte(per)) != nil || d <= 0 {
		return fmt.Errorf("%q is not a rate (write 10/s, 100/min, 5000/h or 50000/d)", s)
	}
	*r = Rate{n, d.D()}
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// String prints what UnmarshalText reads.
func (r Rate) String() string {
	switch r.Per {
	case 0:
		return ""
	case time.Second:
		return strconv.FormatInt(r.Count, 10) + "/s"
	case time.Minute:
		return strconv.FormatInt(r.Count, 10) + "/min"
	case time.Hour:
		return strconv.FormatInt(r.Count, 10) + "/h"
	case 24 * time.Hour:
		return strconv.FormatInt(r.Count, 10) + "/d"
	}
	return strconv.FormatInt(r.Count, 10) + "/" + Duration(r.Per).String()
}

// IsZero reports whether r is no limit.
func (r Rate) IsZero() bool { return r.Count == 0 || r.Per == 0 }

// PerSecond is the rate as a number; 0 when it is no limit.
func (r Rate) PerSecond() float64 {
	if r.IsZero() {
		return 0
	}
	return float64(r.Count) / r.Per.Seconds()
}

// Less reports whether r allows less than other; no limit allows most.
func (r Rate) Less(other Rate) bool {
	switch {
	case r.IsZero():
		return false
	case other.IsZero():
		return true
	}
	return r.PerSecond() < other.PerSecond()
}
