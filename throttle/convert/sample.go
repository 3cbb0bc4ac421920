package convert

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// maxPattern and maxSample are what rule files take.
const (
	maxPattern = 1000
	maxSample  = 400
)

// strangers are replies that most rules must not match.
var strangers = [...]string{"550 5.1.1 No such user here", "250 2.0.0 OK queued", "452 4.2.2 Mailbox full", "421 4.4.2 Connection timed out"}

// expression joins the expressions of a rule into one.
func expression(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = "(?:" + s + ")"
	}
	return strings.Join(out, "|")
}

// lookAround finds what other engines have and RE2 does not.
var lookAround = regexp.MustCompile(`\(\?<?[=!]|\\[1-9]`)

// compiles reports why one of the expressions cannot be used: they were written for other engines.
func compiles(pattern string) error {
	if len(pattern) > maxPattern {
		return fmt.Errorf("the expression is longer than %d bytes", maxPattern)
	}
	re, err := regexp.Compile("(?i)" + pattern)
	var bad *syntax.Error
	switch {
	case err != nil && lookAround.MatchString(pattern):
		return errors.New("it looks around ((?=, (?!, (?<=, (?<!) or back (\\1), which Go's expressions (RE2) cannot")
	case errors.As(err, &bad):
		return fmt.Errorf("the expression is not one of Go's (RE2): %s: %s", bad.Code, bad.Expr)
	case err != nil:
		return err
	case re.MatchString(""):
		return errors.New("the expression matches every reply")
	}
	return nil
}

// samples makes replies that the expressions match and that they do not. An
// error means that none could be made: a person must find them.
func samples(list []string) (matches, not []string, err error) {
	re, err := regexp.Compile("(?i)" + expression(list))
	if err != nil {
		return nil, nil, err
	}
	for _, pattern := range list {
		s := sample(pattern)
		if s == "" || !re.MatchString(s) {
			return nil, nil, errors.New("no reply could be made from the expression")
		}
		matches = append(matches, s)
	}
	for _, s := range strangers {
		if !re.MatchString(s) {
			not = append(not, s)
			break
		}
	}
	if len(not) == 0 {
		return nil, nil, errors.New("the expression matches whatever is said")
	}
	return matches, not, nil
}

// sample makes one reply that a pattern matches, beginning with a code; "" when that fails.
func sample(pattern string) string {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	re, err := regexp.Compile("(?i)" + pattern)
	if err != nil {
		return ""
	}
	var b strings.Builder
	if !write(&b, parsed) {
		return ""
	}
	core := b.String()
	for _, s := range []string{strings.TrimSpace(core), core} {
		candidates := []string{"451 4.7.1 " + s, s, s + " 4.7.1 Try again later"}
		if len(s) >= 3 && s[0] >= '2' && s[0] <= '5' && digits(s[:3]) {
			candidates = []string{s, s + " Try again later"}
			if len(s) < 10 { // hardly more than a code
				slices.Reverse(candidates)
			}
		}
		for _, c := range candidates {
			if re.MatchString(c) && len(c) <= maxSample {
				return c
			}
		}
	}
	return ""
}

func digits(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// write writes a short text that x matches. False: too long, or it cannot match.
func write(b *strings.Builder, x *syntax.Regexp) bool {
	if b.Len() > maxSample {
		return false
	}
	switch x.Op {
	case syntax.OpNoMatch:
		return false
	case syntax.OpLiteral:
		for _, r := range x.Rune {
			b.WriteRune(r)
		}
	case syntax.OpCharClass:
		r, ok := member1(x.Rune)
		if ok {
			b.WriteRune(r)
		}
		return ok
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte('x')
	case syntax.OpStar, syntax.OpQuest:
		wild := x.Sub[0].Op == syntax.OpAnyChar || x.Sub[0].Op == syntax.OpAnyCharNotNL
		if x.Op == syntax.OpStar && wild && !strings.HasSuffix(b.String(), " ") {
			b.WriteByte(' ')
		}
	case syntax.OpPlus:
		return write(b, x.Sub[0])
	case syntax.OpRepeat:
		for range x.Min {
			if !write(b, x.Sub[0]) {
				return false
			}
		}
	case syntax.OpCapture:
		return write(b, x.Sub[0])
	case syntax.OpConcat:
		for _, sub := range x.Sub {
			if !write(b, sub) {
				return false
			}
		}
	case syntax.OpAlternate:
		return write(b, x.Sub[0])
	}
	return true
}

// member1 is a character of a class, a readable one if there is.
func member1(ranges []rune) (rune, bool) {
	for _, want := range []rune{'1', ' ', 'a', 'A', '-', '.'} {
		for i := 0; i+1 < len(ranges); i += 2 {
			if ranges[i] <= want && want <= ranges[i+1] {
				return want, true
			}
		}
	}
	for i := 0; i+1 < len(ranges); i += 2 {
		if ranges[i] >= ' ' {
			return ranges[i], true
		}
	}
	return 0, false
}
