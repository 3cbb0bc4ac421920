package render

import (
	"fmt"
	"strings"
	"unicode"
)

// maxWidth bounds every width, precision and number of places that a template
// can ask for: "x"|ljust:900000000 would take a gigabyte.
const maxWidth = 10_000

func paddingFilters() []filter {
	pad := func(name string, fn func(s string, width, n int) string) filter {
		return filter{name: name, arg: needsArg, text: true, safe: true, checkArg: checkWidth,
			fn: func(_ *run, in, arg any) (any, error) {
				width, err := widthOf(arg)
				if err != nil {
					return nil, err
				}
				s := text(in)
				if n := width - runes(s); n > 0 {
					return fn(s, width, n), nil
				}
				return s, nil
			}}
	}
	return []filter{
		pad("ljust", func(s string, _, n int) string { return s + strings.Repeat(" ", n) }),
		pad("rjust", func(s string, _, n int) string { return strings.Repeat(" ", n) + s }),
		pad("center", func(s string, width, n int) string {
			left := n/2 + n&width&1
			return strings.Repeat(" ", left) + s + strings.Repeat(" ", n-left)
		}),
		{name: "wordwrap", arg: needsArg, text: true, safe: true, fn: wordwrap},
		{name: "stringformat", arg: needsArg, safe: true, fn: stringformat, checkArg: checkFormat},
	}
}

func widthOf(arg any) (int, error) {
	n, err := toInt(arg)
	switch {
	case err != nil:
		return 0, err
	case n > maxWidth:
		return 0, fmt.Errorf("the width %d is more than %d", n, maxWidth)
	}
	return int(max(n, 0)), nil
}

func checkWidth(arg any) error {
	_, err := widthOf(arg)
	return err
}

// wordwrap breaks lines at spaces so that they have at most so many characters;
// longer words stay whole.
func wordwrap(r *run, in, arg any) (any, error) {
	width, err := toInt(arg)
	if err != nil {
		return nil, err
	}
	if width <= 0 {
		return nil, fmt.Errorf("invalid width %d (must be > 0)", width)
	}
	e := expand{r: r}
	for i, line := range splitLines(text(in)) {
		if i > 0 {
			e.add("\n")
		}
		wrapLine(&e, line, int(min(width, 1<<30)))
	}
	return e.b.String(), e.err
}

// splitLines is Python's splitlines().
func splitLines(s string) []string {
	var lines []string
	s = strings.ReplaceAll(s, "\r\n", "\n")
	for s != "" {
		i := strings.IndexAny(s, "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if i < 0 {
			return append(lines, s)
		}
		lines = append(lines, s[:i])
		_, after := cutRune(s[i:])
		s = after
	}
	return lines
}

func cutRune(s string) (first rune, rest string) {
	for i, c := range s {
		if i > 0 {
			return first, s[i:]
		}
		first = c
	}
	return first, ""
}

// wrapLine writes one line in pieces. Spaces where it breaks are dropped, those
// at its start are not.
func wrapLine(e *expand, line string, width int) {
	line = expandTabs(line)
	used, lines, pending := 0, 0, ""
	for line != "" && e.err == nil {
		n := strings.IndexFunc(line, func(c rune) bool { return isBlank(c) != isBlank(rune(line[0])) })
		if n < 0 {
			n = len(line)
		}
		chunk, size := line[:n], runes(line[:n])
		line = line[n:]
		if isBlank(rune(chunk[0])) {
			chunk = strings.Repeat(" ", size)
			if used > 0 || lines == 0 {
				pending = chunk
			}
			continue
		}
		if used+len(pending)+size > width && (used > 0 || pending != "") {
			if used > 0 {
				e.add("\n")
				lines++
			}
			used, pending = 0, ""
		}
		e.add(pending, chunk)
		used += len(pending) + size
		pending = ""
	}
}

func isBlank(c rune) bool { return c < 0x80 && strings.ContainsRune(" \t\n\v\f\r", c) }

func expandTabs(s string) string {
	if strings.IndexByte(s, '\t') < 0 {
		return s
	}
	var b strings.Builder
	col := 0
	for _, c := range s {
		if c != '\t' {
			b.WriteRune(c)
			col++
			continue
		}
		n := 8 - col%8
		b.WriteString(strings.Repeat(" ", n))
		col += n
	}
	return b.String()
}

// spec is one conversion of Python's % operator.
type spec struct {
	minus, plus, space, zero, alt bool
	width, prec                   int // prec -1: none
	verb                          byte
}

// stringformat formats a value with "%" and the argument, as Python's % does.
func stringformat(r *run, in, arg any) (any, error) {
	format, err := r.str(arg)
	if err != nil {
		return nil, err
	}
	format = "%" + format
	var b strings.Builder
	used := false
	for format != "" {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			b.WriteString(format)
			break
		}
		b.WriteString(format[:i])
		format = format[i+1:]
		var sp spec
		if format, err = sp.parse(format); err != nil {
			if err == errValue {
				return "", nil
			}
			return nil, err
		}
		if sp.verb == '%' {
			b.WriteByte('%')
			continue
		}
		if used {
			return "", nil
		}
		used = true
		s, ok, err := sp.format(r, in)
		if err != nil || !ok {
			return "", err
		}
		b.WriteString(s)
	}
	switch in.(type) {
	case map[string]any, []any:
		// Python takes these for a mapping, of which nothing must be used.
		used = true
	}
	if !used {
		return "", nil
	}
	return b.String(), nil
}

func checkFormat(arg any) error {
	if !isText(arg) {
		return nil
	}
	var sp spec
	if _, err := sp.parse(text(arg)); err != nil && err != errValue {
		return err
	}
	return nil
}

// parse reads what stands behind "%"; errValue is a format that Python refuses.
func (sp *spec) parse(s string) (rest string, err error) {
	for s != "" && strings.IndexByte("#0- +", s[0]) >= 0 {
		switch s[0] {
		case '#':
			sp.alt = true
		case '0':
			sp.zero = true
		case '-':
			sp.minus = true
		case ' ':
			sp.space = true
		case '+':
			sp.plus = true
		}
		s = s[1:]
	}
	sp.prec = -1
	if sp.width, s, err = leadingInt(s); err != nil {
		return "", err
	}
	if strings.HasPrefix(s, ".") {
		if sp.prec, s, err = leadingInt(s[1:]); err != nil {
			return "", err
		}
	}
	for s != "" && strings.IndexByte("hlL", s[0]) >= 0 {
		s = s[1:]
	}
	if s == "" {
		return "", errValue
	}
	sp.verb = s[0]
	return s[1:], nil
}

func leadingInt(s string) (n int, rest string, err error) {
	for s != "" && isDigit(s[0]) {
		if n = n*10 + int(s[0]-'0'); n > maxWidth {
			return 0, "", fmt.Errorf("a width or precision of more than %d", maxWidth)
		}
		s = s[1:]
	}
	return n, s, nil
}

// format converts a value; ok is false where Python raises TypeError or ValueError.
func (sp *spec) format(r *run, v any) (s string, ok bool, err error) {
	switch sp.verb {
	case 's', 'r', 'a':
		if sp.verb == 's' {
			s, err = r.str(v)
		} else {
			var b strings.Builder
			err = r.repr(&b, v, 0)
			s = b.String()
		}
		if err != nil {
			return "", false, err
		}
		if c := []rune(s); sp.prec >= 0 && len(c) > sp.prec {
			s = string(c[:sp.prec])
		}
		return sp.pad("", s, false), true, nil
	case 'c':
		if isText(v) && runes(text(v)) == 1 {
			return sp.pad("", text(v), false), true, nil
		}
		if n, isInt := asInt(v); isInt && n >= 0 && n <= unicode.MaxRune {
			return sp.pad("", string(rune(n)), false), true, nil
		}
		return "", false, nil
	case 'd', 'i', 'u':
		if _, isNumber := asFloat(v); !isNumber {
			return "", false, nil
		}
		n, ierr := toInt(v)
		if ierr != nil {
			return "", false, ierr
		}
		return sp.integer(n, 10), true, nil
	case 'x', 'X', 'o':
		n, isInt := asInt(v)
		if !isInt {
			return "", false, nil
		}
		return sp.integer(n, map[byte]int{'x': 16, 'X': 16, 'o': 8}[sp.verb]), true, nil
	case 'e', 'E', 'f', 'F', 'g', 'G':
		f, isNumber := asFloat(v)
		if !isNumber {
			return "", false, nil
		}
		return sp.float(f), true, nil
	}
	return "", false, nil
}
