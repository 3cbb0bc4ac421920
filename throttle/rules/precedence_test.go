package rules_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// world is a random set of files: for each the values of its blocks, by the block's header.
type world []map[string]map[string]int

// valueNames are the values that the test sets; 0 lifts a limit.
var valueNames = []string{"connections", "connect_rate", "message_rate", "daily", "messages_per_connection"}

// headers are the blocks that the test writes, with what makes them one.
var headers = []string{
	"default", "provider p", "provider p source s", "provider p site", "provider p pool", "provider q", "provider q source s",
	"site .example", "site .example source s", "site mx.example", "site mx.example source s",
	"domain d.test", "domain d.test source s", "pool main", "pool main p", "tenant *", "tenant t", "tenant t p", "tenant * p",
}

func (w world) toml(i int) string {
	var b strings.Builder
	b.WriteString("version = 1\n")
	for _, h := range headers {
		values, ok := w[i][h]
		if !ok {
			continue
		}
		f := strings.Fields(h)
		switch {
		case h == "default":
			b.WriteString("[default]\n")
		case len(f) > 2 && (f[2] == "site" || f[2] == "pool"):
			fmt.Fprintf(&b, "[%s.%s]\n", f[0], f[2])
		case len(f) > 2 && f[2] == "source":
			fmt.Fprintf(&b, "[%s.sources.%s]\n", f[0], f[3])
		case f[0] == "provider":
			fmt.Fprintf(&b, "[[provider]]\nname = %q\nmx_suffix = [%q]\n", f[1], f[1]+".test")
		case f[0] == "site":
			fmt.Fprintf(&b, "[[site]]\nmatch = %q\n", f[1])
		default:
			fmt.Fprintf(&b, "[[%s]]\nname = %q\n", f[0], f[1])
			if len(f) > 2 {
				fmt.Fprintf(&b, "provider = %q\n", f[2])
			}
		}
		for _, n := range valueNames {
			if v, ok := values[n]; ok && strings.HasSuffix(n, "rate") {
				fmt.Fprintf(&b, "%s = %q\n", n, rateOf(v))
			} else if ok {
				fmt.Fprintf(&b, "%s = %d\n", n, v)
			}
		}
		if values["messages_per_connection"] == 3 { // a closed loop in some, each another
			fmt.Fprintf(&b, "loop = { least = %d }\n", 1+slices.Index(headers, h))
		}
	}
	return b.String()
}

func rateOf(v int) string {
	if v == 0 {
		return ""
	}
	return strconv.Itoa(v) + "/min"
}

// may reports whether a block can set a value.
func may(header, name string) bool {
	switch f := strings.Fields(header); {
	case f[0] == "tenant":
		return name == "message_rate" || name == "daily"
	case f[0] == "pool" || strings.HasSuffix(header, " pool"):
		return name != "messages_per_connection"
	}
	return true
}

// parentOf is the block that must stand before a sub-block in the same file.
func parentOf(h string) string {
	if f := strings.Fields(h); len(f) > 2 && (f[2] == "source" || f[0] == "provider") {
		return f[0] + " " + f[1]
	}
	return ""
}

func drawWorld(t *rapid.T) world {
	w := make(world, rapid.IntRange(1, 3).Draw(t, "files"))
	for i := range w {
		w[i] = map[string]map[string]int{}
		for _, h := range headers {
			must := i == 0 && (h == "provider p" || h == "provider q")
			if !must && !rapid.Bool().Draw(t, "has "+h) {
				continue
			}
			w[i][h] = map[string]int{}
			for _, n := range valueNames {
				if may(h, n) && rapid.Bool().Draw(t, n) {
					w[i][h][n] = rapid.IntRange(0, 5).Draw(t, "value")
				}
			}
			if p := parentOf(h); p != "" && w[i][p] == nil {
				w[i][p] = map[string]int{}
			}
		}
	}
	return w
}

// last is the value that the last file gives.
func (w world) last(header, name string) (int, bool) {
	for i := len(w) - 1; i >= 0; i-- {
		if v, ok := w[i][header][name]; ok {
			return v, true
		}
	}
	return 0, false
}

// blocksOf lists, as the documentation does, the blocks that can set a source's
// value, the strongest first, each with what it counts over.
func blocksOf(q rules.Query) (list []string, over map[string]throttle.Key) {
	over = map[string]throttle.Key{}
	put := func(k throttle.Key, headers ...string) {
		for _, h := range headers {
			list, over[h] = append(list, h), k
		}
	}
	bySite := throttle.Key{Source: q.Source, Site: q.Site}
	byProvider := throttle.Key{Source: q.Source, Provider: q.Provider}
	byDomain := throttle.Key{Source: q.Source, Domain: q.Domain}
	var sites []string
	if q.Site == "mx.example" {
		sites = append(sites, "site mx.example")
	}
	if strings.HasSuffix(q.Site, ".example") {
		sites = append(sites, "site .example")
	}
	put(byDomain, "domain "+q.Domain+" source "+q.Source)
	for _, s := range sites {
		put(bySite, s+" source "+q.Source)
	}
	put(byDomain, "domain "+q.Domain)
	put(bySite, sites...)
	if q.Provider != "" {
		put(bySite, "provider "+q.Provider+" site")
		put(byProvider, "provider "+q.Provider+" source "+q.Source, "provider "+q.Provider)
	}
	put(bySite, "default")
	return list, over
}

// naive is the model: what each value must be, and what each key is bound by.
func naive(w world, q rules.Query) (values map[string]int, bounds, tenants map[throttle.Key]map[string]int) {
	values, bounds, tenants = map[string]int{}, map[throttle.Key]map[string]int{}, map[throttle.Key]map[string]int{}
	bind := func(m map[throttle.Key]map[string]int, k throttle.Key, n string, v int) {
		if v == 0 || n == "messages_per_connection" {
			return
		}
		if m[k] == nil {
			m[k] = map[string]int{}
		}
		m[k][n] = v
	}
	list, over := blocksOf(q)
	strongestOf := func(n string, without string) string {
		for _, h := range list {
			if _, ok := w.last(h, n); ok && (without == "" || !strings.HasPrefix(h, without)) {
				return h
			}
		}
		return ""
	}
	bySite, alone, siteHolds := throttle.Key{Source: q.Source, Site: q.Site}, false, false
	for _, n := range valueNames[:4] {
		h := strongestOf(n, "")
		alone = alone || strings.HasPrefix(h, "domain")
		siteHolds = siteHolds || h != "" && h != "default" && over[h] == bySite
	}
	if alone { // what the default gives counts over the domain
		over["default"] = throttle.Key{Source: q.Source, Domain: q.Domain}
		for _, n := range valueNames[:4] {
			h := strongestOf(n, "domain")
			if v, _ := w.last(h, n); siteHolds && h != "" && (h == "default" || over[h] == bySite) {
				bind(bounds, bySite, n, v)
			}
		}
	}
	for _, n := range valueNames {
		first := true
		for _, h := range list {
			v, ok := w.last(h, n)
			if !ok {
				continue
			}
			if first {
				values[n] = v
				bind(bounds, over[h], n, v)
				first = false
				if over[h].Provider != "" {
					break
				}
			} else if over[h].Provider != "" { // the cap keeps holding
				bind(bounds, over[h], n, v)
				break
			}
		}
		strongest := func(m map[throttle.Key]map[string]int, k throttle.Key, headers ...string) {
			for _, h := range headers {
				if v, ok := w.last(h, n); ok {
					bind(m, k, n, v)
					return
				}
			}
		}
		strongest(bounds, throttle.Key{Pool: q.Pool}, "pool "+q.Pool)
		strongest(tenants, throttle.Key{Tenant: q.Tenant}, "tenant "+q.Tenant, "tenant *")
		if q.Provider != "" {
			strongest(bounds, throttle.Key{Pool: q.Pool, Provider: q.Provider}, "pool "+q.Pool+" "+q.Provider, "provider "+q.Provider+" pool")
			strongest(tenants, throttle.Key{Tenant: q.Tenant, Provider: q.Provider}, "tenant "+q.Tenant+" "+q.Provider, "tenant * "+q.Provider)
		}
	}
	return values, bounds, tenants
}

func count(r units.Rate) int {
	if !r.IsZero() && r.Per != time.Minute {
		return -1
	}
	return int(r.Count)
}

func asMaps(list []throttle.Bound) map[throttle.Key]map[string]int {
	out := map[throttle.Key]map[string]int{}
	for _, b := range list {
		m := map[string]int{"connections": b.Limits.Connections, "connect_rate": count(b.Limits.ConnectRate),
			"message_rate": count(b.Limits.MessageRate), "daily": int(b.Limits.Daily)}
		maps.DeleteFunc(m, func(_ string, v int) bool { return v == 0 })
		if _, twice := out[b.Key]; twice {
			m["twice"] = 1
		}
		out[b.Key] = m
	}
	return out
}

// TestPrecedence holds Resolve against the model, and Explain against Resolve.
func TestPrecedence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		var texts []rules.Text
		for i := range w {
			texts = append(texts, rules.Text{Name: fmt.Sprint(i), Data: []byte(w.toml(i))})
		}
		s, err := rules.Parse(texts...)
		if err != nil {
			t.Fatalf("%v\n%s", err, w.toml(0))
		}
		for range 5 {
			q := rules.Query{
				Source:   rapid.SampledFrom([]string{"s", "other"}).Draw(t, "source"),
				Pool:     rapid.SampledFrom([]string{"main", "second"}).Draw(t, "pool"),
				Tenant:   rapid.SampledFrom([]string{"t", "u"}).Draw(t, "tenant"),
				Provider: rapid.SampledFrom([]string{"", "p", "q"}).Draw(t, "provider"),
				Site:     rapid.SampledFrom([]string{"mx.example", "mx2.example", "mx.test"}).Draw(t, "site"),
				Domain:   rapid.SampledFrom([]string{"d.test", "e.test"}).Draw(t, "domain"),
			}
			check(t, s, w, q)
			sameForAll(t, s, q)
		}
	})
}

// sameForAll: the limits over a key are the same for all domains, also when something else lowers them.
func sameForAll(t *rapid.T, s *rules.Set, q rules.Query) {
	limits := map[throttle.Key]throttle.Limits{}
	lower := rapid.Bool().Draw(t, "lower")
	for _, q.Domain = range []string{"d.test", "e.test"} {
		e := s.Resolve(q)
		if lower {
			e.Tighten(throttle.Key{Source: q.Source, Site: q.Site}, throttle.Limits{Daily: 1}, 0, rules.Origin{})
		}
		for _, b := range e.Bounds {
			if before, ok := limits[b.Key]; ok && before != b.Limits {
				t.Fatalf("%v: %+v for one domain, %+v for %s", b.Key, before, b.Limits, q.Domain)
			}
			limits[b.Key] = b.Limits
		}
	}
}

func check(t *rapid.T, s *rules.Set, w world, q rules.Query) {
	e := s.Resolve(q)
	values, bounds, tenants := naive(w, q)
	got := map[string]int{"connections": e.Connections, "connect_rate": count(e.ConnectRate), "message_rate": count(e.MessageRate),
		"daily": int(e.Daily), "messages_per_connection": e.MessagesPerConnection}
	for _, n := range valueNames {
		if got[n] != values[n] {
			t.Fatalf("%+v: %s is %d, want %d\n%s", q, n, got[n], values[n], e)
		}
	}
	same := func(what string, got, want map[throttle.Key]map[string]int) {
		if !maps.EqualFunc(got, want, maps.Equal[map[string]int, map[string]int]) {
			t.Fatalf("%+v: %s %v, want %v\n%s", q, what, got, want, e)
		}
	}
	same("bounds", asMaps(e.Bounds), bounds)
	same("tenant bounds", asMaps(e.Tenant), tenants)
	for _, l := range s.Explain(q) {
		shown := slices.ContainsFunc(e.Values, func(v rules.Value) bool { return v.Name == l.Name && v.Origin == l.Origin && v.Key == l.Key })
		if shown != (l.State == rules.InForce || l.State == rules.Beside) || (l.State == rules.Overridden) != (l.By != rules.Origin{}) {
			t.Fatalf("%+v: %+v is among the values: %v\n%s", q, l, shown, e)
		}
	}
}
