package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/dns"
	"github.com/godwit-mta/godwit/mta/dns/dnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zone = `
	example.com.        300 IN MX 20 mx2.Example.com.
	example.com.        300 IN MX 10 mx1.example.com.
	example.com.        300 IN TXT "v=spf1 " "-all"
	mx1.example.com.    300 IN A 192.0.2.1
	mx1.example.com.    300 IN AAAA 2001:db8::1
	mx2.example.com.    300 IN A 192.0.2.2
	v6.example.com.     300 IN AAAA 2001:db8::6
	null.example.       300 IN MX 0 .
	bare.example.       300 IN A 192.0.2.3
	alias.example.      300 IN CNAME mx1.example.com.
	dangling.example.   300 IN CNAME gone.example.
	*.wild.example.     300 IN A 192.0.2.9
	xn--bcher-kva.example. 300 IN MX 5 mx1.example.com.
	_dmarc.example.com. 300 IN TXT "v=DMARC1"
	1.2.0.192.in-addr.arpa. 300 IN PTR mx1.Example.com.
`

func start(t *testing.T, edit func(*dns.Options)) (*dns.Resolver, *dnstest.Server) {
	t.Helper()
	srv, err := dnstest.Start(zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	o := dns.DefaultOptions()
	o.Servers = []string{srv.Addr()}
	o.Timeout = units.Duration(2 * time.Second)
	if edit != nil {
		edit(&o)
	}
	r, err := dns.New(o, dns.Deps{Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, srv
}

func addrs(s ...string) []netip.Addr {
	out := make([]netip.Addr, len(s))
	for i := range s {
		out[i] = netip.MustParseAddr(s[i])
	}
	return out
}

func TestAnswers(t *testing.T) {
	r, srv := start(t, nil)
	ctx := context.Background()
	for name, want := range map[string]any{
		"MX example.com":         []dns.MX{{Host: "mx1.example.com", Preference: 10}, {Host: "mx2.example.com", Preference: 20}},
		"MX EXAMPLE.com.":        []dns.MX{{Host: "mx1.example.com", Preference: 10}, {Host: "mx2.example.com", Preference: 20}},
		"MX bücher.example":      []dns.MX{{Host: "mx1.example.com", Preference: 5}},
		"MX BÜCHER.example":      []dns.MX{{Host: "mx1.example.com", Preference: 5}},
		"MX null.example":        []dns.MX{{Host: "", Preference: 0}},
		"MX bare.example":        dns.ErrNoData,
		"MX nowhere.example":     dns.ErrNotFound,
		"MX ":                    dns.ErrNotFound,
		"MX a..example":          dns.ErrNotFound,
		"A bare.example":         addrs("192.0.2.3"),
		"A alias.example":        addrs("192.0.2.1"),
		"A dangling.example":     dns.ErrNotFound,
		"A x.wild.example":       addrs("192.0.2.9"),
		"AAAA alias.example":     addrs("2001:db8::1"),
		"AAAA bare.example":      dns.ErrNoData,
		"ADDR mx1.example.com":   addrs("2001:db8::1", "192.0.2.1"),
		"ADDR bare.example":      addrs("192.0.2.3"),
		"ADDR v6.example.com":    addrs("2001:db8::6"),
		"ADDR null.example":      dns.ErrNoData,
		"ADDR nowhere.example":   dns.ErrNotFound,
		"TXT example.com":        []string{"v=spf1 -all"},
		"TXT _dmarc.example.com": []string{"v=DMARC1"},
		"PTR 192.0.2.1":          []string{"mx1.example.com"},
		"PTR 192.0.2.77":         dns.ErrNotFound,
	} {
		t.Run(name, func(t *testing.T) {
			var kind, arg string
			fmt.Sscan(name, &kind, &arg)
			var got any
			var err error
			for range 2 { // the second time from the cache
				switch kind {
				case "MX":
					var x dns.Exchangers
					x, err = r.MX(ctx, arg)
					got = x.MX
				case "A":
					got, err = r.A(ctx, arg)
				case "AAAA":
					got, err = r.AAAA(ctx, arg)
				case "ADDR":
					var a dns.Addresses
					a, err = r.Addresses(ctx, arg)
					got = a.IPs
				case "TXT":
					got, err = r.TXT(ctx, arg)
				case "PTR":
					got, err = r.PTR(ctx, netip.MustParseAddr(arg))
				}
				if wantErr, ok := want.(error); ok {
					if !errors.Is(err, wantErr) {
						t.Fatalf("error %v, want %v", err, wantErr)
					}
					continue
				}
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Fatalf("got %v, %v, want %v", got, err, want)
				}
			}
		})
	}
	if n := srv.Queries("null.example", "MX"); n != 1 {
		t.Errorf("the second lookup was not answered from the cache: %d queries", n)
	}
	if n := srv.Queries("nowhere.example", "MX"); n != 1 {
		t.Errorf("NXDOMAIN was not cached: %d queries", n)
	}
	if x, _ := r.MX(ctx, "null.example"); !x.Null() {
		t.Error("null MX not seen")
	}
}

func TestErrorIsANetDNSError(t *testing.T) {
	r, srv := start(t, nil)
	srv.Fail("failing.example", dnstest.ServFail)
	for name, notFound := range map[string]bool{"nowhere.example": true, "bare.example": true, "failing.example": false} {
		_, err := r.LookupTXT(context.Background(), name)
		var e *net.DNSError
		if !errors.As(err, &e) || e.IsNotFound != notFound || e.IsTemporary == notFound || e.Name != name {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestPrefer(t *testing.T) {
	for prefer, want := range map[string][]netip.Addr{
		dns.PreferIPv4: addrs("192.0.2.1", "2001:db8::1"),
		dns.PreferIPv6: addrs("2001:db8::1", "192.0.2.1"),
		dns.OnlyIPv4:   addrs("192.0.2.1"),
		dns.OnlyIPv6:   addrs("2001:db8::1"),
	} {
		r, _ := start(t, func(o *dns.Options) { o.Prefer = prefer })
		got, err := r.Addresses(context.Background(), "mx1.example.com")
		if err != nil || !reflect.DeepEqual(got.IPs, want) {
			t.Errorf("%s: %v, %v", prefer, got.IPs, err)
		}
	}
}

func TestFailures(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		failure dnstest.Failure
		want    error
		queries int
	}{
		{dnstest.ServFail, dns.ErrTemporary, 2},
		{dnstest.Refuse, dns.ErrTemporary, 2},
		{dnstest.Timeout, dns.ErrTemporary, 2},
		{dnstest.Truncate, nil, 2},
		{dnstest.Spoof, nil, 1},
		{dnstest.NoEDNS, nil, 2},
	} {
		r, srv := start(t, func(o *dns.Options) {
			if c.failure == dnstest.Timeout {
				o.Timeout = units.Duration(50 * time.Millisecond)
			}
		})
		srv.Fail("example.com", c.failure)
		_, err := r.MX(ctx, "example.com")
		if !errors.Is(err, c.want) {
			t.Errorf("failure %d: %v, want %v", c.failure, err, c.want)
		}
		if n := srv.Queries("example.com", "MX"); n != c.queries {
			t.Errorf("failure %d: %d queries, want %d", c.failure, n, c.queries)
		}
		srv.Fail("example.com", dnstest.None)
		_, err = r.MX(ctx, "example.com")
		if !errors.Is(err, c.want) {
			t.Errorf("failure %d was not remembered: %v", c.failure, err)
		}
	}
}

func TestSecondServer(t *testing.T) {
	_, srv := start(t, nil)
	srv.Fail("", dnstest.ServFail)
	_, other := start(t, nil)
	o := dns.DefaultOptions()
	o.Servers = []string{srv.Addr(), other.Addr()}
	r, err := dns.New(o, dns.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.MX(context.Background(), "example.com"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.A(context.Background(), "bare.example"); err != nil {
		t.Fatal(err)
	}
	if n := srv.Queries("bare.example", "A"); n != 0 {
		t.Error("the failing server was asked first again")
	}
}

func TestLongAnswerByTCP(t *testing.T) {
	r, srv := start(t, nil)
	zone := ""
	for i := range 200 {
		zone += fmt.Sprintf("many.example. 300 IN MX %d a-rather-long-host-name-%d.example.\n", 200-i, i)
	}
	if err := srv.Set(zone); err != nil {
		t.Fatal(err)
	}
	x, err := r.MX(context.Background(), "many.example")
	if err != nil || len(x.MX) != 200 || x.MX[0].Preference != 1 {
		t.Fatalf("%d records, %v", len(x.MX), err)
	}
}

func TestEqualPreferencesAreShuffled(t *testing.T) {
	srv, err := dnstest.Start("e.example. IN MX 10 a.example.\ne.example. IN MX 10 b.example.\ne.example. IN MX 5 z.example.\ne.example. IN MX 10 c.example.\n")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	o := dns.DefaultOptions()
	o.Servers = []string{srv.Addr()}
	var sizes []int
	r, err := dns.New(o, dns.Deps{Shuffle: func(n int, swap func(i, j int)) { sizes = append(sizes, n); swap(0, n-1) }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	hosts := func() (h []string) {
		x, err := r.MX(context.Background(), "e.example")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range x.MX {
			h = append(h, m.Host)
		}
		return h
	}
	first, second := hosts(), hosts()
	if !slices.Equal(first, []string{"z.example", "c.example", "b.example", "a.example"}) || !slices.Equal(first, second) || !slices.Equal(sizes, []int{3, 3}) {
		t.Fatalf("%v, %v, shuffled %v: the cached order must not change", first, second, sizes)
	}
}

// fake is an Exchanger for virtual time.
type fake struct {
	calls  atomic.Int64
	mu     sync.Mutex
	delay  time.Duration
	answer func(q mdns.Question) (*mdns.Msg, error)
}

func (f *fake) Exchange(ctx context.Context, q *mdns.Msg, _ string) (*mdns.Msg, error) {
	f.calls.Add(1)
	f.mu.Lock()
	delay, answer := f.delay, f.answer
	f.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m, err := answer(q.Question[0])
	if m != nil {
		m.Question = q.Question
	}
	return m, err
}

func records(lines ...string) func(mdns.Question) (*mdns.Msg, error) {
	return func(mdns.Question) (*mdns.Msg, error) {
		m := new(mdns.Msg)
		for _, l := range lines {
			rr, err := mdns.NewRR(l)
			if err != nil {
				return nil, err
			}
			if rr.Header().Rrtype == mdns.TypeSOA {
				m.Ns = append(m.Ns, rr)
			} else {
				m.Answer = append(m.Answer, rr)
			}
		}
		return m, nil
	}
}

func withFake(t *testing.T, f *fake, edit func(*dns.Options)) *dns.Resolver {
	o := dns.DefaultOptions()
	o.Servers = []string{"192.0.2.53"}
	if edit != nil {
		edit(&o)
	}
	r, err := dns.New(o, dns.Deps{Exchanger: f})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTTLs(t *testing.T) {
	for name, c := range map[string]struct {
		answer []string
		keep   time.Duration
	}{
		"as given":           {[]string{"x.example. 100 IN A 192.0.2.1"}, 100 * time.Second},
		"least of the chain": {[]string{"x.example. 200 IN CNAME y.example.", "y.example. 3600 IN A 192.0.2.1"}, 200 * time.Second},
		"least of the set":   {[]string{"x.example. 90 IN A 192.0.2.1", "x.example. 80 IN A 192.0.2.2"}, 80 * time.Second},
		"raised":             {[]string{"x.example. 0 IN A 192.0.2.1"}, 30 * time.Second},
		"lowered":            {[]string{"x.example. 2000000 IN A 192.0.2.1"}, 6 * time.Hour},
		"no data, soa":       {[]string{"example. 120 IN SOA ns. h. 1 1 1 1 240"}, 120 * time.Second},
		"no data, soa min":   {[]string{"example. 900 IN SOA ns. h. 1 1 1 1 70"}, 70 * time.Second},
		"no data, lowered":   {[]string{"example. 86400 IN SOA ns. h. 1 1 1 1 86400"}, 5 * time.Minute},
		"no data, no soa":    {nil, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{answer: records(c.answer...)}
				r := withFake(t, f, nil)
				defer r.Close()
				lookup := func() { _, _ = r.A(t.Context(), "x.example") }
				lookup()
				time.Sleep(c.keep - time.Second)
				lookup()
				if n := f.calls.Load(); n != 1 {
					t.Errorf("forgotten early")
				}
				time.Sleep(time.Second)
				lookup()
				if n := f.calls.Load(); n != 2 {
					t.Errorf("kept too long")
				}
			})
		})
	}
}

func TestStaleAnswerServesUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: records("x.example. 60 IN A 192.0.2.1")}
		r := withFake(t, f, nil)
		defer r.Close()
		if _, err := r.A(t.Context(), "x.example"); err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		f.answer = func(mdns.Question) (*mdns.Msg, error) { return nil, errors.New("unreachable") }
		f.mu.Unlock()
		for range 10 { // each asks again and falls back; the end must not move
			time.Sleep(5 * time.Minute)
			if ips, err := r.A(t.Context(), "x.example"); err != nil || len(ips) != 1 {
				t.Fatalf("stale answer not served: %v", err)
			}
		}
		time.Sleep(12 * time.Minute)
		if _, err := r.A(t.Context(), "x.example"); !errors.Is(err, dns.ErrTemporary) {
			t.Fatalf("an answer older than the limit was served: %v", err)
		}
	})
}

func TestLookupsAtOnceShareOneQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: records("x.example. 60 IN A 192.0.2.1"), delay: time.Second}
		r := withFake(t, f, nil)
		defer r.Close()
		hurried, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var failed, done atomic.Int32
		for i := range 50 {
			go func() {
				ctx := t.Context()
				if i == 0 {
					ctx = hurried // one caller that gives up must not take the others with it
				}
				if _, err := r.A(ctx, "X.example"); err != nil {
					failed.Add(1)
				}
				done.Add(1)
			}()
		}
		time.Sleep(2 * time.Second)
		if f.calls.Load() != 1 || failed.Load() != 1 || done.Load() != 50 {
			t.Fatalf("%d queries, %d failed, %d done", f.calls.Load(), failed.Load(), done.Load())
		}
	})
}

func TestChainOverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(q mdns.Question) (*mdns.Msg, error) {
			switch q.Name {
			case "a.example.":
				return records("a.example. 60 IN CNAME b.example.")(q)
			case "b.example.":
				return records("b.example. 60 IN A 192.0.2.1")(q)
			}
			return records(q.Name + " 60 IN CNAME x" + q.Name)(q) // never ends
		}}
		r := withFake(t, f, nil)
		defer r.Close()
		if ips, err := r.A(t.Context(), "a.example"); err != nil || len(ips) != 1 {
			t.Fatalf("%v, %v", ips, err)
		}
		if _, err := r.A(t.Context(), "endless.example"); !errors.Is(err, dns.ErrTemporary) {
			t.Fatalf("%v", err)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(q mdns.Question) (*mdns.Msg, error) { return records(q.Name + " 60 IN A 192.0.2.1")(q) }}
		r := withFake(t, f, func(o *dns.Options) { o.CacheEntries = 16 })
		defer r.Close()
		ask := func(i int) { _, _ = r.A(t.Context(), fmt.Sprintf("n%d.example", i)) }
		for i := range 17 {
			ask(0) // stays recent
			ask(i)
		}
		before := f.calls.Load()
		ask(0)
		if f.calls.Load() != before {
			t.Error("the most used entry was dropped")
		}
		ask(1)
		if f.calls.Load() != before+1 {
			t.Error("the least used entry was kept: the cache has no bound")
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: records(), delay: time.Hour}
		r := withFake(t, f, func(o *dns.Options) { o.Timeout = units.Duration(2 * time.Hour) })
		result := make(chan error)
		go func() {
			_, err := r.A(t.Context(), "x.example")
			result <- err
		}()
		synctest.Wait()
		r.Close()
		r.Close()
		if err := <-result; !errors.Is(err, dns.ErrTemporary) {
			t.Fatal(err)
		}
		if _, err := r.A(t.Context(), "y.example"); !errors.Is(err, dns.ErrTemporary) {
			t.Fatal(err)
		}
	})
}

func TestValidate(t *testing.T) {
	if err := dns.DefaultOptions().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, edit := range map[string]func(*dns.Options){
		"servers:":       func(o *dns.Options) { o.Servers = []string{"dns.example:53"} },
		"timeout:":       func(o *dns.Options) { o.Timeout = 0 },
		"attempts:":      func(o *dns.Options) { o.Attempts = 0 },
		"cache_entries:": func(o *dns.Options) { o.CacheEntries = 1 },
		"min_ttl:":       func(o *dns.Options) { o.MinTTL = -1 },
		"max_ttl:":       func(o *dns.Options) { o.MaxTTL = 1 },
		"negative_ttl:":  func(o *dns.Options) { o.NegativeTTL = -1 },
		"failure_ttl:":   func(o *dns.Options) { o.FailureTTL = -1 },
		"stale:":         func(o *dns.Options) { o.Stale = -1 },
		"prefer:":        func(o *dns.Options) { o.Prefer = "v6" },
	} {
		o := dns.DefaultOptions()
		edit(&o)
		if err := o.Validate(); err == nil || err.Error()[:len(key)] != key {
			t.Errorf("%s %v", key, err)
		}
	}
}

func FuzzASCII(f *testing.F) {
	for _, s := range []string{"example.com", "bücher.example.", "xn--bcher-kva.example", "", ".", "a..b", "\xff", "ß.example", "x_y.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := dns.ASCII(s)
		if err != nil {
			return
		}
		for i := range len(got) {
			if got[i] >= 0x80 || got[i] >= 'A' && got[i] <= 'Z' {
				t.Fatalf("ASCII(%q) = %q", s, got)
			}
		}
	})
}
