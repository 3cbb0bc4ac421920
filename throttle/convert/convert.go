// Package convert translates the configuration of other mail servers into rule
// files (docs/formats/rules.md) and an [egress] section: KumoMTA's shaping files and
// PowerMTA's configuration.
//
// Nothing is dropped in silence: what has no counterpart, what means something
// else here, and what a person must finish comes back as a list of notes with
// lines. What is written can be loaded as it is; a rule that cannot be completed is
// written as a comment.
package convert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/idna"
)

// Kind is what a note is about.
type Kind string

// The kinds of notes.
const (
	Unmapped Kind = "unmapped" // has no counterpart and is left out
	Changed  Kind = "changed"  // is there and means something a little different
	Todo     Kind = "todo"     // is written and needs a person's eye
)

// Note is one thing that did not map as it was.
type Note struct {
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Directive string `json:"directive"`
	Kind      Kind   `json:"kind"`
	Reason    string `json:"reason"`
}

// String is file:line: directive: kind: reason.
func (n Note) String() string {
	at := n.File
	if n.Line > 0 {
		at += fmt.Sprintf(":%d", n.Line)
	}
	return fmt.Sprintf("%s: %s: %s: %s", at, n.Kind, n.Directive, n.Reason)
}

// Result is a translation.
type Result struct {
	Rules  string // a rule file; "" when there is nothing for one
	Egress string // an [egress] section for the configuration file; "" when there is nothing for it
	Notes  []Note // by file and line
}

// Options say how to translate.
type Options struct {
	// File names the input in notes.
	File string
	// LookupMX returns the mail exchangers of a domain, which tells what a rollup
	// covers. Nil: rollups that need it become blocks of single domains.
	LookupMX func(domain string) ([]string, error)
	// Include returns the files that an include directive of PowerMTA names; nil: they are listed as left out.
	Include func(pattern string) ([]Input, error)
	// Today is the start of warm-up schedules, which PowerMTA does not name. Zero: the clock tells.
	Today time.Time
}

// Input is a file to read.
type Input struct {
	Name string
	Data []byte
}

// notes collects notes; a note that repeats another is left out.
type notes struct {
	list []Note
	seen map[Note]bool
}

func (n *notes) add(at place, directive string, kind Kind, format string, args ...any) {
	note := Note{File: at.file, Line: at.line, Directive: oneLine(directive), Kind: kind, Reason: fmt.Sprintf(format, args...)}
	if n.seen[note] {
		return
	}
	if n.seen == nil {
		n.seen = map[Note]bool{}
	}
	n.seen[note] = true
	n.list = append(n.list, note)
}

func (n *notes) sorted() []Note {
	slices.SortStableFunc(n.list, func(a, b Note) int { return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return n.list
}

// place is where something was set.
type place struct {
	file string
	line int
}

// oneLine shortens a directive for a list.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && !unicode.IsSpace(r) {
			return '?'
		}
		return r
	}, strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " "))
	if r := []rune(s); len(r) > 80 {
		s = string(r[:79]) + "…"
	}
	return s
}

// names keeps names apart that must be unique.
type names map[string]bool

// unique returns s, or s with a number.
func (n names) unique(s string) string {
	out := s
	for i := 2; n[out]; i++ {
		out = fmt.Sprintf("%s-%d", s, i)
	}
	n[out] = true
	return out
}

// maxName leaves room for a number in the 64 bytes that a name may have.
const maxName = 56

// plain makes a name that our files take: without spaces, control characters and those that keys need.
func plain(s string) string {
	out := strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f || r == 0x85 || r == 0xa0 || r == 0xfffd || strings.ContainsRune(`"=,/*`, r) {
			return '-'
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(s, "-")))
	if len(out) > maxName {
		out = strings.ToValidUTF8(out[:maxName], "")
	}
	return cmp.Or(out, "unnamed")
}

// hostName is a name as rule files compare it: in lower case, without dots around
// it, in ASCII. False: it is none.
func hostName(s string) (string, bool) {
	s = strings.ToLower(strings.Trim(strings.TrimSpace(s), "."))
	if strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }) {
		ascii, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", false
		}
		s = ascii
	}
	bad := s == "" || len(s) > 253 || strings.Contains(s, "..") || strings.HasPrefix(s, ".") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("*?,;:/@\"'\\[]{}$<>", r) })
	if _, err := idna.Punycode.ToUnicode(s); err != nil || bad {
		return "", false
	}
	return s, true
}

// slug makes the name of a rule from its expression: the words in it.
func slug(pattern string) string {
	var words []string
	for w := range strings.FieldsFuncSeq(unescape(pattern), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) {
		if len(words) < 5 {
			words = append(words, strings.ToLower(w))
		}
	}
	s := strings.Join(words, "-")
	if len(s) > 40 {
		s = strings.TrimRight(s[:40], "-")
	}
	return cmp.Or(s, "rule")
}

// unescape takes classes such as \d out, so that they do not look like words.
func unescape(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
			b.WriteByte(' ')
			continue
		}
		b.WriteByte(pattern[i])
	}
	return b.String()
}
