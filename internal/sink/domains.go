package sink

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// domainSet knows which provider a domain belongs to. Patterns are not
// expanded: a hundred thousand domains cost what one does.
type domainSet struct {
	plain    map[string]domain
	patterns []pattern
	count    int
}

// domain is a place in the list of a provider's domains, patterns expanded.
type domain struct {
	p *provider
	n int
}

// pattern stands for prefix + number + suffix, with numbers from 0 to count-1.
type pattern struct {
	prefix, suffix string
	count          int
	first          domain // number 0
}

// number returns the number in name, if the pattern stands for name.
func (t *pattern) number(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, t.prefix)
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, t.suffix); !ok || digits == "" || len(digits) > 1 && digits[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(digits) {
		c := digits[i] - '0'
		if c > 9 {
			return 0, false
		}
		if n = 10*n + int(c); n >= t.count {
			return 0, false
		}
	}
	return n, true
}

func (t *pattern) name(n int) string { return t.prefix + strconv.Itoa(n) + t.suffix }

// add takes over a provider's domains; one that is taken already is an error.
func (d *domainSet) add(p *provider) error {
	place := 0
	for _, text := range p.Domains {
		text = strings.ToLower(text)
		prefix, suffix, ok := strings.Cut(text, "%d")
		if !ok {
			if other, taken := d.find(text); taken {
				return fmt.Errorf("%q already belongs to %s", text, other.p.Name)
			}
			if d.plain == nil {
				d.plain = map[string]domain{}
			}
			d.plain[text] = domain{p, place}
			place++
			continue
		}
		t := pattern{prefix, suffix, max(1, p.Count), domain{p, place}}
		if name, other := d.overlap(&t); other != nil {
			return fmt.Errorf("%q already belongs to %s", name, other.Name)
		}
		d.patterns = append(d.patterns, t)
		place += t.count
	}
	d.count += place
	return nil
}

// overlap finds a name of t that is known already.
func (d *domainSet) overlap(t *pattern) (string, *provider) {
	for name, other := range d.plain {
		if _, ok := t.number(name); ok {
			return name, other.p
		}
	}
	for i := range d.patterns {
		a, b := t, &d.patterns[i]
		if !oneBegins(a.prefix, b.prefix) || !oneEnds(a.suffix, b.suffix) {
			continue
		}
		if a.count > b.count {
			a, b = b, a
		}
		for n := range a.count {
			if _, ok := b.number(a.name(n)); ok {
				return a.name(n), d.patterns[i].first.p
			}
		}
	}
	return "", nil
}

func oneBegins(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }
func oneEnds(a, b string) bool   { return strings.HasSuffix(a, b) || strings.HasSuffix(b, a) }

// find looks a name in lower case up.
func (d *domainSet) find(name string) (domain, bool) {
	if f, ok := d.plain[name]; ok {
		return f, true
	}
	for i := range d.patterns {
		t := &d.patterns[i]
		if n, ok := t.number(name); ok {
			return domain{t.first.p, t.first.n + n}, true
		}
	}
	return domain{}, false
}

// swallowed tells whether a domain's mail exchanger swallows connects: a share
// of a provider's, at equal distances.
func (f domain) swallowed() bool {
	share := f.p.Swallow
	if share <= 0 {
		return false
	}
	step := func(n int) float64 { return math.Floor(float64(n)*share + 1e-9) }
	return step(f.n+1) > step(f.n)
}

// Swallows tells whether the mail exchanger of a domain swallows connects. It
// depends on the options only, so it may be asked without Start.
func (s *Sink) Swallows(name string) bool {
	f, ok := s.domains.find(strings.ToLower(strings.TrimSuffix(name, ".")))
	return ok && f.swallowed()
}
