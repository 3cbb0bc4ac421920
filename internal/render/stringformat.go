package render

import (
	"math"
	"strconv"
	"strings"
)

// integer formats n in a base.
func (sp *spec) integer(n int64, base int) string {
	digits := strconv.FormatUint(magnitude(n), base)
	if pad := sp.prec - len(digits); pad > 0 {
		digits = strings.Repeat("0", pad) + digits
	}
	prefix := sp.sign(n < 0)
	if sp.alt && base != 10 {
		prefix += map[int]string{16: "0x", 8: "0o"}[base]
	}
	s := sp.pad(prefix, digits, true)
	if sp.verb == 'X' {
		s = strings.ToUpper(s)
	}
	return s
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

func (sp *spec) sign(negative bool) string {
	switch {
	case negative:
		return "-"
	case sp.plus:
		return "+"
	case sp.space:
		return " "
	}
	return ""
}

// float formats f as e, f or g.
func (sp *spec) float(f float64) string {
	prec := sp.prec
	if prec < 0 {
		prec = 6
	}
	s, special := floatSpecial(math.Abs(f))
	if !special {
		verb := sp.verb | 0x20
		if verb == 'g' && prec == 0 {
			prec = 1
		}
		s = strconv.FormatFloat(math.Abs(f), verb, prec, 64)
		if verb == 'g' && sp.alt {
			s = strconv.FormatFloat(math.Abs(f), 'g', prec, 64)
		}
	}
	if sp.verb < 'a' {
		s = strings.ToUpper(s)
	}
	return sp.pad(sp.sign(math.Signbit(f) && !math.IsNaN(f)), s, true)
}

// pad fills up to the width; zeros go between the prefix and a number.
func (sp *spec) pad(prefix, s string, number bool) string {
	n := sp.width - runes(prefix) - runes(s)
	switch {
	case n <= 0:
		return prefix + s
	case sp.minus:
		return prefix + s + strings.Repeat(" ", n)
	case sp.zero && number:
		return prefix + strings.Repeat("0", n) + s
	}
	return strings.Repeat(" ", n) + prefix + s
}
