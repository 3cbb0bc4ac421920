package rules

import (
	"bytes"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Match returns the automation rules that claim a reply of a provider, written
// as "421 4.7.28 text": those of the provider, or else, when none of them
// does, those of the default. A provider that is not known has the default's only.
func (s *Set) Match(provider, reply string) []Rule {
	var own *matcher
	if p := s.byName[provider]; p != nil {
		own = p.rules
	}
	if own.empty() && s.fallback.empty() {
		return nil
	}
	r := newReply(reply)
	if list := own.match(r); len(list) > 0 {
		return list
	}
	return s.fallback.match(r)
}

// matcher is the automation rules of one block.
type matcher struct {
	rules []*automation
}

func newMatcher(list []*automation) *matcher { return &matcher{list} }

func (m *matcher) empty() bool { return m == nil || len(m.rules) == 0 }

func (m *matcher) all() []Rule {
	if m == nil {
		return nil
	}
	list := make([]Rule, len(m.rules))
	for i, a := range m.rules {
		list[i] = a.Rule
	}
	return list
}

func (m *matcher) match(r *reply) []Rule {
	var list []Rule
	if m == nil {
		return nil
	}
	for _, a := range m.rules {
		if a.claims(r) {
			list = append(list, a.Rule)
		}
	}
	return list
}

// reply is a reply with what its examination needs more than once.
type reply struct {
	text  string
	plain bool   // ASCII only
	lower []byte // in lower case, when plain
}

func newReply(text string) *reply {
	r := &reply{text: text, plain: true, lower: make([]byte, len(text))}
	for i := range len(text) {
		c := text[i]
		if c >= utf8.RuneSelf {
			r.plain = false
			break
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		r.lower[i] = c
	}
	return r
}

// claims reports whether the rule matches. Nearly always a look for a few
// bytes says no, and the expression is not tried.
func (a *automation) claims(r *reply) bool {
	if r.plain && len(a.any) > 0 {
		found := false
		for _, text := range a.any {
			if bytes.Contains(r.lower, text) {
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	return a.re.MatchString(r.text)
}

// maxAlternatives bounds the texts that are looked for before an expression is tried.
const maxAlternatives = 16

// literals finds texts one of which occurs in every ASCII text that the
// pattern matches, whatever its case; nil when there are none worth looking for.
func literals(pattern string) [][]byte {
	re, err := syntax.Parse("(?i)"+pattern, syntax.Perl)
	if err != nil {
		return nil
	}
	var list [][]byte
	for _, s := range required(re) {
		list = append(list, []byte(strings.ToLower(s)))
	}
	return list
}

// required returns texts one of which must occur, in the case of the pattern.
func required(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpLiteral:
		return asciiLiteral(re.Rune)
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0])
		}
	case syntax.OpConcat:
		return bestOf(re.Sub)
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			list := required(sub)
			if len(list) == 0 {
				return nil
			}
			all = append(all, list...)
		}
		if len(all) <= maxAlternatives {
			return all
		}
	}
	return nil
}

// asciiLiteral takes a literal whose characters have no other form in ASCII text than
// their two cases. Folded literals are in the parser's form, which may be upper case.
func asciiLiteral(runes []rune) []string {
	for _, r := range runes {
		if r >= utf8.RuneSelf {
			return nil
		}
	}
	return []string{string(runes)}
}

// bestOf picks of the parts that must all occur the one that says most: the longest shortest text.
func bestOf(subs []*syntax.Regexp) []string {
	var best []string
	length := 0
	for _, sub := range subs {
		list := required(sub)
		shortest := 0
		for i, s := range list {
			if i == 0 || len(s) < shortest {
				shortest = len(s)
			}
		}
		if shortest > length {
			best, length = list, shortest
		}
	}
	return best
}
