package jsonapi

import (
	"fmt"
	"slices"
	"strings"
)

// Op is an operator of a filter.
type Op string

// The operators. And, Or and Not take filters, Has a field, the others a field and a value.
const (
	And            Op = "and"
	Or             Op = "or"
	Not            Op = "not"
	Has            Op = "has"
	Equals         Op = "equals"
	Any            Op = "any"
	Contains       Op = "contains"
	ContainsAny    Op = "contains-any"
	ContainsAll    Op = "contains-all"
	StartsWith     Op = "starts-with"
	EndsWith       Op = "ends-with"
	GreaterThan    Op = "greater-than"
	GreaterOrEqual Op = "greater-or-equal"
	LessThan       Op = "less-than"
	LessOrEqual    Op = "less-or-equal"
)

// Bounds of a filter: more than any program writes, little enough to be read at once.
const (
	maxFilter  = 64 << 10 // bytes
	maxTerms   = 200
	maxNesting = 8
	maxValues  = 1000
)

// Filter is one term: Args for And, Or and Not; Field, and Values unless it is Has, for others.
type Filter struct {
	Op     Op
	Field  string
	Values []Value
	Args   []*Filter
}

// ParseFilter reads a filter:
//
//	filter = term *( "," term )                            ; all of them hold
//	term   = ( "and" / "or" / "not" ) "(" filter ")"
//	       / "has(" field ")"
//	       / op "(" field "," value ")"
//	value  = scalar / "[" scalar *( "," scalar ) "]"
//	scalar = a string in quotes with \ escapes, or bare: true, false, a number, a time
//
// Several terms become one And. The error tells the place; it is not an *Error, since
// a filter may stand in the query or in the body.
func ParseFilter(s string) (*Filter, error) {
	if len(s) > maxFilter {
		return nil, fmt.Errorf("is longer than %d bytes", maxFilter)
	}
	p := &filterParser{s: s}
	args, err := p.terms(0)
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.s) {
		return nil, p.fail("want , or the end")
	}
	if len(args) == 1 {
		return args[0], nil
	}
	return &Filter{Op: And, Args: args}, nil
}

// String writes f in the form that ParseFilter reads.
func (f *Filter) String() string {
	var b strings.Builder
	f.write(&b)
	return b.String()
}

func (f *Filter) write(b *strings.Builder) {
	b.WriteString(string(f.Op))
	b.WriteByte('(')
	b.WriteString(f.Field)
	for i, a := range f.Args {
		if i > 0 {
			b.WriteByte(',')
		}
		a.write(b)
	}
	switch {
	case f.isList():
		b.WriteString(",[")
		for i, v := range f.Values {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(v.String())
		}
		b.WriteByte(']')
	case len(f.Values) == 1:
		b.WriteByte(',')
		b.WriteString(f.Values[0].String())
	}
	b.WriteByte(')')
}

func (f *Filter) isList() bool {
	return len(f.Values) > 1 || slices.Contains([]Op{Any, ContainsAny, ContainsAll}, f.Op)
}

// Allow lists the operators that a field takes. And, Or and Not go with all of them.
type Allow map[string][]Op

// Check tells which part of f is not allowed. A nil f is.
func (f *Filter) Check(allow Allow) error {
	if f == nil {
		return nil
	}
	for _, a := range f.Args {
		if err := a.Check(allow); err != nil {
			return err
		}
	}
	if len(f.Args) > 0 {
		return nil
	}
	ops, known := allow[f.Field]
	if !known {
		return fmt.Errorf("field %q cannot be filtered by here; %s can", f.Field, list(allow))
	}
	if !slices.Contains(ops, f.Op) {
		return fmt.Errorf("field %q does not take %s here, but %v", f.Field, f.Op, ops)
	}
	return nil
}

func list(allow Allow) string {
	names := make([]string, 0, len(allow))
	for name := range allow {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Match decides f by what leaf says of its terms. A nil f holds.
func (f *Filter) Match(leaf func(*Filter) bool) bool {
	if f == nil {
		return true
	}
	switch f.Op {
	case And:
		for _, a := range f.Args {
			if !a.Match(leaf) {
				return false
			}
		}
		return true
	case Or:
		for _, a := range f.Args {
			if a.Match(leaf) {
				return true
			}
		}
		return false
	case Not:
		return !f.Args[0].Match(leaf)
	}
	return leaf(f)
}

// Leaves yields the terms of f that are about a field.
func (f *Filter) Leaves(yield func(*Filter) bool) {
	if f != nil {
		f.leaves(yield)
	}
}

func (f *Filter) leaves(yield func(*Filter) bool) bool {
	if len(f.Args) == 0 {
		return yield(f)
	}
	for _, a := range f.Args {
		if !a.leaves(yield) {
			return false
		}
	}
	return true
}
