package rules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/throttle/rules"
)

// TestSites: which site blocks apply, from the text that route gives a site.
func TestSites(t *testing.T) {
	s, err := rules.Parse(text(`version = 1
[default]
connections = 1
[[site]]
match = ".example"
connections = 2
[[site]]
match = ".mx.example"
connections = 3
[[site]]
match = "A.mx.example"
connections = 4
[[site]]
match = "192.0.2.1"
connections = 5
`))
	if err != nil {
		t.Fatal(err)
	}
	for site, want := range map[string]int{
		"": 1, "mx.test": 1, "notexample": 1, "example": 2, "b.example": 2, "b.example,c.mx.example": 2,
		"mx.example": 3, "b.mx.example,c.mx.example": 3, "b.mx.example:2525": 3, "a.mx.example": 4, "a.mx.example,mx.test": 4,
		"b.mx.example,mx.test": 1, "a.mx.example;tls=none": 4, "b.mx.example+12-0123456789abcdef": 3, "192.0.2.1": 5, "192.0.2.1:2525": 5, "2001:db8::1": 1,
	} {
		if got := s.Resolve(rules.Query{Site: site}).Connections; got != want {
			t.Errorf("%q: %d connections, want those of %d", site, got, want)
		}
	}
	q := rules.Query{Site: "b.mx.example+1-0123456789abcdef", Hosts: []string{"b.mx.example", "mx.test"}}
	if got := s.Resolve(q).Connections; got != 1 {
		t.Errorf("given hosts do not count: %d", got)
	}
}

func TestHasDomain(t *testing.T) {
	s, err := rules.Parse(text("version = 1\n[[domain]]\nname = \"bücher.example\"\nconnections = 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	for domain, want := range map[string]bool{"bücher.example": true, "xn--bcher-kva.example": true, "XN--bcher-kva.Example": true, "example": false, "": false} {
		if s.HasDomain(domain) != want {
			t.Errorf("%q: %v", domain, !want)
		}
		if got := s.Resolve(rules.Query{Domain: domain}).Connections == 3; got != want {
			t.Errorf("%q: its limit applies: %v", domain, got)
		}
	}
}

// TestLoops: a closed loop governs each message rate, by the block that is not narrower than the rate.
func TestLoops(t *testing.T) {
	s, err := rules.Parse(text(`version = 1
[default]
message_rate = "100/s"
loop = { high = 0.5 }
[[provider]]
name = "p"
mx_suffix = ["p.test"]
message_rate = "50/s"
[[site]]
match = "mx.p.test"
message_rate = "20/s"
loop = { high = 0.4 }
[[domain]]
name = "d.test"
loop = { off = true }
[[domain]]
name = "e.test"
message_rate = "1/s"
loop = { high = 0.3 }
`))
	if err != nil {
		t.Fatal(err)
	}
	for q, want := range map[string]string{
		"mx.test x.test":       "site=mx.test 0.5",
		"mx.p.test x.test":     "site=mx.p.test 0.4, provider=p 0.5",
		"mx.p.test d.test":     "site=mx.p.test 0.4, provider=p 0.5",
		"mx.p.test e.test":     "domain=e.test 0.3, provider=p 0.5",
		"mx2.p.test x.test":    "provider=p 0.5",
		"mx2.p.test e.test":    "domain=e.test 0.3, provider=p 0.5",
		"mx3.test e.test":      "domain=e.test 0.3",
		"mx.other.test d.test": "site=mx.other.test 0.5",
	} {
		site, domain, _ := strings.Cut(q, " ")
		provider := ""
		if strings.HasSuffix(site, ".p.test") {
			provider = "p"
		}
		var got []string
		for _, b := range s.Resolve(rules.Query{Provider: provider, Site: site, Domain: domain}).Bounds {
			got = append(got, fmt.Sprint(b.Key, " ", b.Limits.Loop.High))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %v, want %s", q, got, want)
		}
	}
}

// TestManyBlocks: loading is not quadratic, in lines or in blocks.
func TestManyBlocks(t *testing.T) {
	var b strings.Builder
	b.WriteString("version = 1\n")
	for i := range 5_000 {
		fmt.Fprintf(&b, "[[domain]]\nname = \"d%d.test\"\nconnections = 3\n[[site]]\nmatch = \"mx%d.test\"\nconnections = 2\n", i, i)
	}
	s, err := rules.Parse(text(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	e := s.Resolve(rules.Query{Source: "s", Site: "mx4999.test", Domain: "d4999.test"})
	if want := "r.toml:29998 (domain d4999.test)"; e.Values[0].Origin.String() != want {
		t.Errorf("origin %s, want %s", e.Values[0].Origin, want)
	}
}
