//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode"
)

// step is one line of a script with the indented lines below it.
type step struct {
	line int
	text string // without the comment and the space around it
	body string // one tab taken off each line, LF line ends; "" when there are none
}

// functions of the << >> templates in scripts and of the {{ }} ones in configurations.
func functions() template.FuncMap {
	return template.FuncMap{
		"repeat": strings.Repeat,
		"future": func(after string) (string, error) {
			d, err := time.ParseDuration(after)
			return time.Now().Add(d).UTC().Format(time.RFC3339), err
		},
		"seq": func(n int) []int {
			out := make([]int, n)
			for i := range out {
				out[i] = i
			}
			return out
		},
	}
}

// readScript expands and parses a script file.
func readScript(path string) ([]step, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := template.New(path).Delims("<<", ">>").Funcs(functions()).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		return nil, err
	}
	return parseSteps(b.String(), 1)
}

// parseSteps splits a script; first is the number of its first line.
func parseSteps(text string, first int) ([]step, error) {
	var steps []step
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "\t") {
			if len(steps) == 0 {
				return nil, fmt.Errorf("line %d: indented, and there is no step above", first+i)
			}
			steps[len(steps)-1].body += line[1:] + "\n"
			continue
		}
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		steps = append(steps, step{line: first + i, text: line})
	}
	return steps, nil
}

var variable = regexp.MustCompile(`\$\{(\w+)\}`)

// expand replaces ${name}; an unknown name is an error.
func (r *run) expand(s string) (string, error) {
	var missing error
	out := variable.ReplaceAllStringFunc(s, func(m string) string {
		v, ok := r.vars[m[2:len(m)-1]]
		if !ok {
			missing = fmt.Errorf("no variable %s", m)
		}
		return v
	})
	return out, missing
}

// match holds a text against a regular expression and takes its named groups as variables.
func (r *run) match(expression, text string) error {
	re, err := regexp.Compile(expression)
	if err != nil {
		return err
	}
	m := re.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("%q does not match %s", shorten(text), expression)
	}
	for i, name := range re.SubexpNames() {
		if name != "" {
			r.vars[name] = m[i]
		}
	}
	return nil
}

func shorten(s string) string {
	if len(s) > 1500 {
		return s[:1000] + " ... " + s[len(s)-400:]
	}
	return s
}

// cut splits the first word off.
func cut(s string) (word, rest string) {
	i := strings.IndexFunc(s, unicode.IsSpace)
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// goStrings reads "a" "b"*3 into bytes.
func goStrings(s string) ([]byte, error) {
	var out []byte
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, shorten(s))
		}
		text, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, err
		}
		s = s[len(quoted):]
		times := 1
		if rest, ok := strings.CutPrefix(s, "*"); ok {
			number, _ := cut(rest)
			if times, err = strconv.Atoi(number); err != nil {
				return nil, err
			}
			s = rest[len(number):]
		}
		out = append(out, strings.Repeat(text, times)...)
	}
	return out, nil
}

// compare is what stands behind a value in a step: = TEXT, ~ REGEXP, !~ REGEXP.
func (r *run) compare(got, condition string) error {
	op, want := cut(condition)
	switch op {
	case "=":
		if got != want {
			return fmt.Errorf("is %q, not %q", shorten(got), want)
		}
		return nil
	case "~":
		return r.match(want, got)
	case "!~":
		if r.match(want, got) == nil {
			return fmt.Errorf("%q matches %s", shorten(got), want)
		}
		return nil
	}
	return fmt.Errorf("%q is none of = ~ !~", op)
}
