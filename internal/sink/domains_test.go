package sink

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// TestDomainsAgainstNaive holds the patterns against the expanded names.
func TestDomainsAgainstNaive(t *testing.T) {
	part := rapid.SampledFrom([]string{"", "d", "1", "x1", "0", "d%d"})
	rapid.Check(t, func(t *rapid.T) {
		expanded := map[string]string{}
		var set domainSet
		for i := range rapid.IntRange(1, 3).Draw(t, "providers") {
			p := Provider{Name: fmt.Sprint("p", i), Count: rapid.IntRange(0, 30).Draw(t, "count")}
			for range rapid.IntRange(1, 2).Draw(t, "domains") {
				d := part.Draw(t, "prefix") + part.Draw(t, "number") + part.Draw(t, "suffix") + ".test"
				if strings.Count(d, "%d") < 2 {
					p.Domains = append(p.Domains, d)
				}
			}
			rt := newProvider(p, "sink.test", 0)
			names := rt.domains()
			taken := len(slices.Compact(slices.Sorted(slices.Values(names)))) < len(names) ||
				slices.ContainsFunc(names, func(n string) bool { return expanded[n] != "" })
			if err := set.add(rt); (err != nil) != taken {
				t.Fatalf("%v: error %v, taken %v", p.Domains, err, taken)
			}
			if taken {
				return
			}
			for n, name := range names {
				expanded[name] = p.Name
				if got, ok := set.find(name); !ok || got.p != rt || got.n != n {
					t.Fatalf("%s: %+v %v, want place %d of %s", name, got, ok, n, p.Name)
				}
			}
		}
		if set.count != len(expanded) {
			t.Fatalf("%d names, want %d", set.count, len(expanded))
		}
		name := part.Draw(t, "a") + fmt.Sprint(rapid.IntRange(0, 400).Draw(t, "b")) + part.Draw(t, "c") + ".test"
		if got, ok := set.find(name); ok != (expanded[name] != "") || ok && got.p.Name != expanded[name] {
			t.Fatalf("%s: %v, want %q", name, ok, expanded[name])
		}
	})
}

// TestSwallowShare: the share is kept to the domain, and evenly.
func TestSwallowShare(t *testing.T) {
	for _, tt := range []struct {
		share float64
		want  int
	}{{0, 0}, {0.05, 5000}, {0.07, 7000}, {0.3, 30000}, {1.0 / 3, 33333}, {1, 100000}} {
		o := DefaultOptions()
		o.Providers = []Provider{{Name: "many", Domains: []string{"s%d.test"}, Count: 100_000, OwnMX: true, Swallow: tt.share}}
		s, err := New(o, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		n, early := 0, 0
		for i := range 100_000 {
			if s.Swallows(fmt.Sprintf("S%d.test.", i)) {
				n++
				if i < 50_000 {
					early++
				}
			}
		}
		if n != tt.want || early < n/2-1 || early > n/2+1 {
			t.Errorf("share %v: %d swallow, %d of them in the first half, want %d", tt.share, n, early, tt.want)
		}
	}
}

// TestManyDomainsAreCheap: a hundred thousand sites are known by a rule, not by a list.
func TestManyDomainsAreCheap(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := start(t, Provider{Name: "many", Domains: []string{"s%d.test"}, Count: 100_000, OwnMX: true, Mode: ModeFast, Swallow: 0.05})
	for _, name := range []string{"s0.test", "s99999.test"} {
		if _, got := ask(t, s, "udp", name+".", dns.TypeMX); got != "NOERROR 300 IN MX 10 mx1."+name+"." {
			t.Error(got)
		}
	}
	if after := heap(); after > before+2<<20 {
		t.Errorf("%d KiB for the domains", (after-before)>>10)
	}
	for name, want := range map[string]string{
		"mx1.s18.test.": "NOERROR 300 IN A 127.0.0.1", "mx1.s19.test.": "NOERROR 300 IN A 127.254.0.4", "mx1.s39.test.": "NOERROR 300 IN A 127.254.0.8",
		"mx2.s1.test.": "NXDOMAIN ", "mx01.s1.test.": "NXDOMAIN ", "s100000.test.": "NXDOMAIN ", "mx1.s100000.test.": "NXDOMAIN ", "s007.test.": "NXDOMAIN ",
	} {
		if _, got := ask(t, s, "udp", name, dns.TypeA); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if st := s.Stats(); st.Domains != 100_000 {
		t.Errorf("%d domains", st.Domains)
	}
}

// TestSwallowWithSharedHosts: without hosts of their own the swallowed domains are a site of their own.
func TestSwallowWithSharedHosts(t *testing.T) {
	s := start(t, Provider{Name: "half", Domains: []string{"h%d.test"}, Count: 4, MX: 2, Mode: ModeFast, Swallow: 0.5})
	for name, want := range map[string]string{
		"h0.test.": "NOERROR 300 IN MX 10 mx1.half.sink.test.; 300 IN MX 20 mx2.half.sink.test.",
		"h1.test.": "NOERROR 300 IN MX 10 swallow.mx1.half.sink.test.; 300 IN MX 20 swallow.mx2.half.sink.test.",
	} {
		if _, got := ask(t, s, "udp", name, dns.TypeMX); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, got := ask(t, s, "udp", "swallow.mx2.half.sink.test.", dns.TypeA); got != "NOERROR 300 IN A 127.254.0.1" {
		t.Error(got)
	}
}

func BenchmarkAnswer(b *testing.B) {
	o := DefaultOptions()
	o.Providers = []Provider{{Name: "many", Domains: []string{"s%d.test"}, Count: 100_000, OwnMX: true, Swallow: 0.05}}
	s, err := New(o, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	s.providers[0].addr = "127.0.0.1:25"
	z, err := newZone(s.opts, &s.domains, s.providers)
	if err != nil {
		b.Fatal(err)
	}
	n := &nameServer{zone: z}
	w := &lostWriter{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("s%d.test.", i%100_000)
		n.ServeDNS(w, new(dns.Msg).SetQuestion(name, dns.TypeMX))
		n.ServeDNS(w, new(dns.Msg).SetQuestion("mx1."+name, dns.TypeA))
	}
}

// lostWriter packs answers and throws them away.
type lostWriter struct{ dns.ResponseWriter }

func (w *lostWriter) RemoteAddr() net.Addr { return &net.UDPAddr{} }
func (w *lostWriter) WriteMsg(m *dns.Msg) error {
	_, err := m.Pack()
	return err
}
