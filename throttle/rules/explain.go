package rules

import (
	"slices"

	"github.com/godwit-mta/godwit/throttle"
)

// Line is one block's say in a value, whether it counts or not.
type Line struct {
	Name   string
	Value  string
	Key    throttle.Key // what it would count over
	Origin Origin
	State  State
	// By is the place that overrode it, for Overridden.
	By Origin
}

// State says what became of a value.
type State string

// The states.
const (
	InForce    State = "in force"
	Beside     State = "holds beside" // what the provider, or the site, takes in all, beside a narrower value
	Overridden State = "overridden"
	Idle       State = "without effect" // a closed loop where no message rate is for it to govern
)

// Explain returns every block's say about the source's values, by name and in
// order of precedence: what Resolve decided, with what it decided against.
// Pools and tenants are not among them: nothing overrides those but their own blocks.
func (s *Set) Explain(q Query) []Line {
	list := s.layers(&q)
	inForce := s.Resolve(Query{Source: q.Source, Provider: q.Provider, Site: q.Site, Domain: q.Domain, Hosts: q.Hosts}).Values
	var lines []Line
	for n := range numNames {
		won, wide := winners(list, n)
		for i, l := range list {
			v := l.settings[n]
			if v == nil {
				continue
			}
			line := Line{Name: names[n], Value: v.shown, Origin: v.origin, State: Overridden}
			if n.counts() {
				line.Key = l.scope.key(&q)
			}
			at := slices.IndexFunc(inForce, func(r Value) bool { return r.Name == line.Name && r.Origin == line.Origin })
			switch {
			case n == loop && at < 0 && i == won:
				line.State = Idle
			case i == won || n == loop && at >= 0:
				line.State = InForce
			case at >= 0:
				line.State = Beside
			case wide > i && l.scope == perProvider:
				line.By = list[wide].settings[n].origin
			default:
				line.By = list[won].settings[n].origin
			}
			if at >= 0 {
				line.Key = inForce[at].Key
			}
			lines = append(lines, line)
		}
	}
	return lines
}
