package load

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// targets picks a recipient for each number. The choice depends on the seed
// and the number only, whichever connection sends it.
type targets struct {
	domains, locals weighted
	seed            uint64
}

// weighted is a list to pick from.
type weighted struct {
	names []string
	upto  []float64 // sums of weights up to and with each name; nil when all are equal
}

func newTargets(o Options) (*targets, error) {
	t := &targets{seed: o.Seed}
	for _, d := range o.Domains {
		name, weight, err := cutWeight(d)
		if err != nil {
			return nil, fmt.Errorf("domains: %w", err)
		}
		if n := strings.Count(name, "%"); n > 1 || n != strings.Count(name, "%d") {
			return nil, fmt.Errorf("domains: %q may hold one %%d and no other %%", d)
		}
		if !strings.Contains(name, "%d") {
			t.domains.add(name, weight)
			continue
		}
		for i := range max(1, o.DomainCount) {
			t.domains.add(fmt.Sprintf(name, i), weight)
		}
	}
	for _, l := range o.Locals {
		name, weight, err := cutWeight(l)
		if err != nil {
			return nil, fmt.Errorf("locals: %w", err)
		}
		t.locals.add(name, weight)
	}
	if len(t.domains.names) == 0 {
		return nil, errors.New("domains: at least one is needed")
	}
	if len(t.locals.names) == 0 {
		return nil, errors.New("locals: at least one is needed")
	}
	t.domains.simplify()
	t.locals.simplify()
	return t, nil
}

// cutWeight splits "name=weight".
func cutWeight(s string) (name string, weight float64, err error) {
	name, text, ok := strings.Cut(s, "=")
	weight = 1
	if ok {
		if weight, err = strconv.ParseFloat(text, 64); err != nil || !(weight > 0) || weight > 1e12 {
			return "", 0, fmt.Errorf("%q: the weight must be a positive number", s)
		}
	}
	if name == "" || strings.ContainsAny(name, "<>@ \r\n") {
		return "", 0, fmt.Errorf("%q is not usable in an address", s)
	}
	return name, weight, nil
}

func (w *weighted) add(name string, weight float64) {
	w.names = append(w.names, name)
	sum := weight
	if n := len(w.upto); n > 0 {
		sum += w.upto[n-1]
	}
	w.upto = append(w.upto, sum)
}

// simplify drops the weights when all are equal: then names are taken in turn.
func (w *weighted) simplify() {
	for i := 1; i < len(w.upto); i++ {
		if w.upto[i]-w.upto[i-1] != w.upto[0] {
			return
		}
	}
	w.upto = nil
}

// pick returns a name: in turn when weights are equal, else by the random number r.
func (w *weighted) pick(n int64, r uint64) string {
	switch {
	case len(w.names) == 1:
		return w.names[0]
	case w.upto == nil:
		return w.names[n%int64(len(w.names))]
	}
	x := float64(r>>11) / (1 << 53) * w.upto[len(w.upto)-1]
	return w.names[min(sort.SearchFloat64s(w.upto, x), len(w.names)-1)]
}

// address appends the address of the n-th copy to b.
func (t *targets) address(b []byte, n int64) []byte {
	r := mix(t.seed ^ uint64(n))
	b = append(b, t.locals.pick(n, r)...)
	b = strconv.AppendInt(b, n, 10)
	b = append(b, '@')
	return append(b, t.domains.pick(n, mix(r))...)
}

// mix turns consecutive numbers into ones that look random (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
