package render

import (
	"fmt"
	"math"
	"strings"
)

func numberFilters() []filter {
	return []filter{
		{name: "floatformat", arg: mayArg, safe: true, fn: floatformat, checkArg: checkPlaces},
		{name: "filesizeformat", safe: true, fn: filesizeformat},
	}
}

// decimal is a number in digits: sign, digits before and behind the point.
type decimal struct {
	negative    bool
	whole, frac string
}

// parseDecimal reads digits with a point, as 'f' formatting writes them.
func parseDecimal(s string) decimal {
	d := decimal{negative: strings.HasPrefix(s, "-")}
	d.whole, d.frac, _ = strings.Cut(strings.TrimLeft(s, "-+"), ".")
	return d
}

// fraction reports whether there is anything but zeros behind the point.
func (d decimal) fraction() bool { return strings.Trim(d.frac, "0") != "" }

// round returns the number with so many places, a half rounded away from zero.
func (d decimal) round(places int) string {
	digits := []byte(d.whole + d.frac)
	keep := len(d.whole) + places
	if keep < len(digits) {
		up := digits[keep] >= '5'
		digits = digits[:keep]
		for i := keep - 1; up && i >= 0; i-- {
			if digits[i]++; digits[i] > '9' {
				digits[i] = '0'
				continue
			}
			up = false
		}
		if up {
			digits = append([]byte{'1'}, digits...)
		}
	} else {
		digits = append(digits, strings.Repeat("0", keep-len(digits))...)
	}
	point := len(digits) - places
	s := string(digits[:point])
	if s == "" {
		s = "0"
	}
	if places > 0 {
		s += "." + string(digits[point:])
	}
	if d.negative && strings.Trim(s, "0.") != "" {
		s = "-" + s
	}
	return s
}

// floatformat rounds to so many places; a negative number of places leaves them
// out when there is nothing behind the point. "g" behind it groups thousands.
func floatformat(r *run, in, arg any) (any, error) {
	places, grouped, ok, err := parsePlaces(arg)
	if err != nil {
		return nil, err
	}
	f, ferr := toFloat(in)
	if ferr != nil {
		return "", nil
	}
	var b strings.Builder
	if err := r.repr(&b, in, 0); err != nil {
		return nil, err
	}
	if !ok {
		return b.String(), nil
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return b.String(), nil
	}
	plain := floatDigits(f)
	if i, isInt := in.(int64); isInt {
		plain = itoa(i)
	}
	if len(plain) > 200 {
		return b.String(), nil
	}
	d := parseDecimal(plain)
	n := places
	if places < 0 {
		n = -places
		if !d.fraction() {
			n = 0
		}
	}
	s := d.round(n)
	if grouped {
		s = group(s)
	}
	return safe(s), nil
}

// parsePlaces reads floatformat's argument; ok is false for one that is no number.
func parsePlaces(arg any) (places int, grouped, ok bool, err error) {
	places = -1
	if _, none := arg.(absent); none {
		return places, false, true, nil
	}
	if isText(arg) && strings.HasSuffix(text(arg), "g") {
		grouped = true
		arg = strings.TrimSuffix(text(arg), "g")
		if arg == "" {
			return places, true, true, nil
		}
	}
	n, nerr := toInt(arg)
	switch {
	case nerr == errValue:
		return 0, grouped, false, nil
	case nerr != nil:
		return 0, grouped, false, nerr
	case n > maxWidth || n < -maxWidth:
		return 0, grouped, false, fmt.Errorf("%d places are more than %d", n, maxWidth)
	}
	return int(n), grouped, true, nil
}

func checkPlaces(arg any) error {
	_, _, _, err := parsePlaces(arg)
	return err
}

// floatDigits writes a float without exponent, with the fewest digits.
func floatDigits(f float64) string { return strings.TrimSuffix(floatPlain(f), ".0") }

func filesizeformat(_ *run, in, _ any) (any, error) {
	const space = "\u00a0"
	n, err := toInt(in)
	if err != nil && err != errRange {
		return "0" + space + "bytes", nil
	}
	size, sign := float64(n), ""
	if err == errRange {
		size, _ = toFloat(in)
	}
	if size < 0 {
		size, sign = -size, "-"
	}
	if size < 1024 {
		unit := "bytes"
		if size == 1 {
			unit = "byte"
		}
		return sign + itoa(int64(size)) + space + unit, nil
	}
	units := []string{"KB", "MB", "GB", "TB", "PB"}
	size /= 1024
	for len(units) > 1 && size >= 1024 {
		size /= 1024
		units = units[1:]
	}
	return sign + fmt.Sprintf("%.1f", size) + space + units[0], nil
}
