package render

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// The reasons why a value does not become a number. Filters tell them apart
// because Django's do: some pass a wrong text through and fail for a wrong type.
var (
	errValue = errors.New("not a number")
	errType  = errors.New("the value has the wrong type")
	errRange = errors.New("the number has more than 64 bits")
)

// parseInt reads a decimal integer: spaces around, a sign, "_" between digits.
func parseInt(s string) (int64, error) {
	digits, ok := plainDigits(strings.TrimSpace(s))
	if !ok {
		return 0, errValue
	}
	i, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errRange
	case err != nil:
		return 0, errValue
	}
	return i, nil
}

// parseFloat reads a decimal number, "inf" or "nan". Too large is infinite.
func parseFloat(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	digits, ok := plainDigits(s)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return f, true
}

// plainDigits removes single "_" between digits; ok is false if one stands elsewhere.
func plainDigits(s string) (digits string, ok bool) {
	if strings.IndexByte(s, '_') < 0 {
		return s, s != ""
	}
	for i := range len(s) {
		if s[i] == '_' && (i == 0 || i == len(s)-1 || !isDigit(s[i-1]) || !isDigit(s[i+1])) {
			return "", false
		}
	}
	return strings.ReplaceAll(s, "_", ""), true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// toInt is Python's int(): floats are cut, texts read.
func toInt(v any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case bool:
		return boolInt(v), nil
	case float64:
		return floatInt(v)
	case string:
		return parseInt(v)
	case safe:
		return parseInt(string(v))
	}
	return 0, errType
}

func floatInt(f float64) (int64, error) {
	switch {
	case math.IsNaN(f):
		return 0, errValue
	case f >= math.MaxInt64 || f <= math.MinInt64:
		return 0, errRange
	}
	return int64(f), nil
}

// toFloat is Python's float().
func toFloat(v any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int64:
		return float64(v), nil
	case bool:
		return float64(boolInt(v)), nil
	case string, safe:
		if f, ok := parseFloat(text(v)); ok {
			return f, nil
		}
		return 0, errValue
	}
	return 0, errType
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// asInt returns v if it is an integer; True and False are 1 and 0.
func asInt(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		return boolInt(v), true
	}
	return 0, false
}

// asFloat returns v if it is a number.
func asFloat(v any) (float64, bool) {
	if f, ok := v.(float64); ok {
		return f, true
	}
	i, ok := asInt(v)
	return float64(i), ok
}

// floatRepr prints a float as Python does: the fewest digits that read back the
// same, with ".0" or an exponent so that it cannot be taken for an integer.
func floatRepr(f float64) string {
	if s, special := floatSpecial(f); special {
		return s
	}
	if large(f) {
		s := strconv.FormatFloat(f, 'e', -1, 64)
		mantissa, exp, _ := strings.Cut(s, "e")
		if len(exp) == 2 {
			exp = exp[:1] + "0" + exp[1:]
		}
		return mantissa + "e" + exp
	}
	return floatPlain(f)
}

// floatShown prints a float as a template shows it: without exponent, unless
// there were more than 200 digits.
func floatShown(f float64) string {
	if s, special := floatSpecial(f); special {
		return s
	}
	if !large(f) {
		return floatPlain(f)
	}
	s := floatRepr(f)
	mantissa, exp, _ := strings.Cut(s, "e")
	digits := len(strings.TrimLeft(strings.ReplaceAll(mantissa, ".", ""), "-"))
	shift, _ := strconv.Atoi(exp)
	if abs(shift-digits+1)+digits > 200 {
		return mantissa + "e" + exp[:1] + strings.TrimLeft(exp[1:], "0")
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// large reports whether Python prints f with an exponent.
func large(f float64) bool {
	a := math.Abs(f)
	return a != 0 && (a < 1e-4 || a >= 1e16)
}

func floatSpecial(f float64) (string, bool) {
	switch {
	case math.IsNaN(f):
		return "nan", true
	case math.IsInf(f, 1):
		return "inf", true
	case math.IsInf(f, -1):
		return "-inf", true
	}
	return "", false
}

func floatPlain(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if strings.IndexByte(s, '.') < 0 {
		s += ".0"
	}
	return s
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

// group puts a comma between thousands of the integer part of a decimal number.
func group(s string) string {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	whole, frac, dot := strings.Cut(s, ".")
	var b strings.Builder
	b.WriteString(sign)
	for i := range len(whole) {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteByte(whole[i])
	}
	if dot {
		b.WriteByte('.')
		b.WriteString(frac)
	}
	return b.String()
}
