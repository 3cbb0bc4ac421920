package render

import (
	"errors"
	"strings"
)

func logicFilters() []filter {
	return []filter{
		{name: "default", arg: needsArg, fn: func(_ *run, in, arg any) (any, error) {
			if truth(in) {
				return in, nil
			}
			return arg, nil
		}},
		{name: "default_if_none", arg: needsArg, fn: func(_ *run, in, arg any) (any, error) {
			if in == nil {
				return arg, nil
			}
			return in, nil
		}},
		{name: "divisibleby", arg: needsArg, fn: divisibleby},
		{name: "yesno", arg: mayArg, fn: yesno},
		{name: "pluralize", arg: mayArg, fn: pluralize},
		{name: "add", arg: needsArg, fn: add},
		{name: "get_digit", arg: needsArg, fn: getDigit},
	}
}

func divisibleby(_ *run, in, arg any) (any, error) {
	a, err := toInt(in)
	if err != nil {
		return nil, err
	}
	b, err := toInt(arg)
	switch {
	case err != nil:
		return nil, err
	case b == 0:
		return nil, errors.New("division by zero")
	case b == -1:
		return true, nil
	}
	return a%b == 0, nil
}

func yesno(_ *run, in, arg any) (any, error) {
	words := []string{"yes", "no", "maybe"}
	if _, ok := arg.(absent); !ok && arg != nil {
		if !isText(arg) {
			return nil, errType
		}
		words = strings.Split(text(arg), ",")
	}
	switch {
	case len(words) < 2:
		return in, nil
	case in == nil && len(words) == 3:
		return words[2], nil
	case truth(in):
		return words[0], nil
	}
	return words[1], nil
}

// pluralize returns the ending for one, or for any other number. A list counts
// by its length.
func pluralize(_ *run, in, arg any) (any, error) {
	one, many := "", "s"
	if _, ok := arg.(absent); !ok {
		if !isText(arg) {
			return nil, errType
		}
		parts := strings.Split(text(arg), ",")
		switch len(parts) {
		case 1:
			many = parts[0]
		case 2:
			one, many = parts[0], parts[1]
		default:
			return "", nil
		}
	}
	f, err := toFloat(in)
	if err == errType {
		n, ok := length(in)
		if !ok {
			return "", nil
		}
		f, err = float64(n), nil
	}
	switch {
	case err != nil:
		return "", nil
	case f == 1:
		return one, nil
	}
	return many, nil
}

// add adds integers, and joins texts or lists that are not.
func add(r *run, in, arg any) (any, error) {
	a, aerr := toInt(in)
	b, berr := toInt(arg)
	if aerr == nil && berr == nil {
		sum := a + b
		if (sum > a) != (b > 0) && b != 0 {
			return nil, errRange
		}
		return sum, nil
	}
	if isText(in) && isText(arg) {
		_, safeIn := in.(safe)
		_, safeArg := arg.(safe)
		if err := r.room(len(text(in)) + len(text(arg))); err != nil {
			return nil, err
		}
		if safeIn && safeArg {
			return safe(text(in) + text(arg)), nil
		}
		return text(in) + text(arg), nil
	}
	if x, ok := in.([]any); ok {
		if y, ok := arg.([]any); ok {
			return r.concatLists(x, y)
		}
	}
	// Numbers of more than 64 bits.
	xf, xok := asFloat(in)
	yf, yok := asFloat(arg)
	if xok && yok {
		return xf + yf, nil
	}
	return "", nil
}

// room refuses a value that would be larger than the output may be.
func (r *run) room(n int) error {
	if n > r.maxOutput {
		return r.tooLarge()
	}
	return nil
}

func (r *run) concatLists(x, y []any) (any, error) {
	if err := r.room(16 * (len(x) + len(y))); err != nil {
		return nil, err
	}
	list := make([]any, 0, len(x)+len(y))
	return append(append(list, x...), y...), nil
}

func getDigit(_ *run, in, arg any) (any, error) {
	n, err := toInt(arg)
	if err == errValue {
		return in, nil
	}
	if err != nil {
		return nil, err
	}
	v, err := toInt(in)
	if err == errValue {
		return in, nil
	}
	if err != nil {
		return nil, err
	}
	if n < 1 {
		return v, nil
	}
	digits := itoa(v)
	if n > int64(len(digits)) {
		return int64(0), nil
	}
	c := digits[int64(len(digits))-n]
	if c == '-' {
		return nil, errValue
	}
	return int64(c - '0'), nil
}
