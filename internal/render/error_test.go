package render

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestErrorPosition: the place must be exact, for users look for the mistake there.
func TestErrorPosition(t *testing.T) {
	vars := map[string]any{"n": int64(5), "s": "text", "l": []any{int64(1), "a"}}
	tests := []struct {
		src       string
		line, col int
		message   string // a part of it
	}{
		{"{{ }}", 1, 1, "empty variable tag"},
		{"ab\ncd {{ }}", 2, 4, "empty variable tag"},
		{"{% %}", 1, 1, "empty block tag"},
		{"{{ n|nosuch }}", 1, 6, `invalid filter: "nosuch"`},
		{"é {{ n|nosuch }}", 1, 8, `invalid filter: "nosuch"`},
		{"日本\n語 {{ n | upper|nosuch }}", 2, 16, `invalid filter: "nosuch"`},
		{"{{ n n }}", 1, 5, `could not parse the remainder: " n" from "n n"`},
		{"{{n+1}}", 1, 4, `could not parse the remainder: "+1"`},
		{"{{ (n) }}", 1, 4, `cannot parse "(n)"`},
		{"{{ n|add }}", 1, 6, `the filter "add" needs an argument`},
		{"{{ s|upper:1 }}", 1, 6, `the filter "upper" takes no argument`},
		{"{{ s._x }}", 1, 4, "underscores"},
		{"{{ s|default:_x }}", 1, 14, "underscores"},
		{"{{ s|random }}", 1, 6, "not allowed"},
		{"{{ s|ljust:900000000 }}", 1, 6, "ljust: the width 900000000 is more than 10000"},
		{"a\nb\n  {% include 'x' %}", 3, 6, `the tag "include" is not allowed`},
		{"{%   nosuch %}", 1, 6, `invalid tag "nosuch"`},
		{"\n\n {% if n %}x", 3, 2, `the tag "if" is never closed: "endif" is missing`},
		{"{% if n %}{% for x in l %}{% endif %}", 1, 30, `the tag "for" of line 1 is open and wants "empty" or "endfor"`},
		{"{% endif %}", 1, 4, `invalid tag "endif"`},
		{"x {% if n and %}{% endif %}", 1, 3, "unexpected end"},
		{"{% if n == 1 n %}{% endif %}", 1, 14, `unused "n"`},
		{"{% if and n %}{% endif %}", 1, 7, `not expecting "and"`},
		{"{% if n %}\n{% elif n|nosuch %}{% endif %}", 2, 11, "invalid filter"},
		{"{% for x of l %}{% endfor %}", 1, 1, "for should be written"},
		{"{% for x in l|nosuch %}{% endfor %}", 1, 15, "invalid filter"},
		{"{% with a=1 b=s|nosuch %}{% endwith %}", 1, 17, "invalid filter"},
		{"{% filter upper|nosuch %}{% endfilter %}", 1, 17, "invalid filter"},
		{"{% regroup l by a|nosuch as x %}", 1, 19, "invalid filter"},
		{"{% load humanize nosuch %}", 1, 18, "not a library"},
		{"{% comment %}\n{{ n }}", 1, 1, `"comment" is never closed`},
		{"{% verbatim %}\n{{ n }}", 1, 1, `"verbatim" is never closed`},
		{strings.Repeat("{% if n %}\n", 101), 101, 1, "blocks are nested deeper than 100"},
		{"{{ s" + strings.Repeat("|upper", 101) + " }}", 1, 606, "more than 100 filters"},
		{"{% if n" + strings.Repeat(" or n", 101) + " %}{% endif %}", 1, 509, "more than 100 operators"},
		{"{{ n" + strings.Repeat(".a", 100) + " }}", 1, 4, "more than 100 lookups"},
		// while rendering
		{"a\n {{ s|ljust:s }}", 2, 7, "ljust: not a number"},
		{"{{ s|default:'' }}{{ n|add:nosuch }}", 1, 24, `add: the variable "nosuch" does not exist`},
		{"\n{% for x in n %}{% endfor %}", 2, 13, "for: the value cannot be iterated: int"},
		{"\n {% for x, y in l %}{% endfor %}", 2, 2, "for: need 2 values to unpack; got 1"},
		{"{% if n %}\n{{ s }} {{ n|divisibleby:0 }}{% endif %}", 2, 14, "divisibleby: division by zero"},
		{"{% if n|divisibleby:0 %}{% endif %}", 1, 9, "divisibleby: division by zero"},
		{"x\n{{ s|timesince }}", 2, 6, ""},
	}
	e := testEngine(t)
	for _, tt := range tests {
		_, err := e.Render(context.Background(), tt.src, vars, true)
		if tt.message == "" {
			if err != nil {
				t.Errorf("%.60q: %v", tt.src, err)
			}
			continue
		}
		var re *Error
		if !errors.As(err, &re) {
			t.Errorf("%.60q: error %v, want an *Error", tt.src, err)
			continue
		}
		if line, col := re.Position(); line != tt.line || col != tt.col || !strings.Contains(re.Message, tt.message) {
			t.Errorf("%.60q:\n got: %v\nwant: line %d, column %d: %s", tt.src, re, tt.line, tt.col, tt.message)
		}
	}
}

// TestCheck: what can be known without variables is known by Check.
func TestCheck(t *testing.T) {
	e := testEngine(t)
	for _, src := range []string{"{{ }}", "{% include 'x' %}", "{% if x %}", "{{ x|rjust:99999 }}", strings.Repeat("{% if 1 %}", 101) + strings.Repeat("{% endif %}", 101), strings.Repeat("x", 513<<10)} {
		err := e.Check(src, true)
		var re *Error
		if !errors.As(err, &re) {
			t.Errorf("Check(%.40q) = %v, want an *Error", src, err)
		}
	}
	for _, src := range []string{"", "{{ x.y.z|default:'a' }}", "{% for a in b %}{% endfor %}", strings.Repeat("{% if 1 %}", 100) + strings.Repeat("{% endif %}", 100)} {
		if err := e.Check(src, false); err != nil {
			t.Errorf("Check(%.40q) = %v", src, err)
		}
	}
}
