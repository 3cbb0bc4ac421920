package rules

import (
	"errors"
	"fmt"
	"strings"
)

// Error is one mistake in a rule file.
type Error struct {
	File         string
	Line, Column int    // from 1; 0: not known
	Block        string // such as "provider google", "" outside of blocks
	Rule         string // name of the automation rule, "" if none is concerned
	Key          string
	Message      string
	Hint         string // what to write instead, "" if nothing comes close
}

// Error prints file:line:column, block, rule, key, what is wrong and the hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Block != "" {
		b.WriteString(e.Block)
		if e.Rule != "" {
			b.WriteString(", ")
		} else {
			b.WriteString(": ")
		}
	}
	if e.Rule != "" {
		b.WriteString("rule " + e.Rule + ": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// problems collects mistakes, so that one load reports them all.
type problems []error

func (p *problems) add(e *Error) { *p = append(*p, e) }

func (p problems) err() error { return errors.Join(p...) }

// nearest suggests the known name that is fewest edits away, "" if all are far.
func nearest(name string, known []string) string {
	best, distance := "", len(name)/2+1
	for _, k := range known {
		if d := edits(name, k); d < distance {
			best, distance = k, d
		}
	}
	switch {
	case best != "":
		return "did you mean " + best + "?"
	case len(known) == 0:
		return ""
	}
	return "known here: " + strings.Join(known, ", ")
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
