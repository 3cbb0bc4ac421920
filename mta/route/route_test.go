package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/dns"
	"github.com/godwit-mta/godwit/mta/dns/dnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zone = `
	one.example.       300 IN MX 10 mx1.provider.example.
	one.example.       300 IN MX 20 MX2.provider.example.
	two.example.       600 IN MX 5 mx2.provider.example.
	two.example.       600 IN MX 7 mx1.provider.example.
	xn--bcher-kva.example. 300 IN MX 5 mx1.other.example.
	mixed.example.     300 IN MX 5 mx1.provider.example.
	mixed.example.     300 IN MX 5 mx1.other.example.
	null.example.      300 IN MX 0 .
	nearlynull.example. 300 IN MX 0 .
	nearlynull.example. 300 IN MX 9 mx1.other.example.
	bare.example.      300 IN A 192.0.2.3
	textonly.example.  300 IN TXT "no mail here"
	backup.example.    300 IN MX 10 mx1.other.example.
	backup.example.    300 IN MX 20 us.godwit.example.
	backup.example.    300 IN MX 20 mx2.provider.example.
	backup.example.    300 IN MX 30 mx1.provider.example.
	ours.example.      300 IN MX 10 us.godwit.example.
	ours.example.      300 IN MX 20 mx1.other.example.
	byaddress.example. 300 IN MX 10 alias-of-us.example.
	byport.example.    300 IN MX 10 otherport.example.
	implicitus.example. 300 IN A 198.51.100.1
	mx1.provider.example. 300 IN A 192.0.2.1
	mx2.provider.example. 300 IN A 192.0.2.2
	mx1.other.example. 300 IN A 192.0.2.4
	us.godwit.example. 300 IN A 198.51.100.1
	alias-of-us.example. 300 IN A 198.51.100.1
	otherport.example. 300 IN A 198.51.100.2
	many.example.      300 IN MX 1 a.provider.example.
`

func options() Options {
	o := DefaultOptions()
	o.Routes = []Static{
		{Domain: "static.example", Hosts: []string{"relay.example:2525", "[2001:db8::1]:26", "192.0.2.9"}},
		{Domain: ".sub.example", Hosts: []string{"suffix.example"}, TLS: "verify"},
		{Domain: ".deep.sub.example", Hosts: []string{"deep.example"}},
		{Domain: "bücher-static.example", Hosts: []string{"10.0.0.1:25"}},
	}
	o.Providers = []Provider{{Name: "big", MXSuffix: []string{".provider.example", "big.example"}}, {Name: "any", MXSuffix: []string{"example"}}}
	o.TLSDomains = map[string]string{"two.example": "required", ".secret.example": "verify", "static.example": "none"}
	return o
}

func start(t testing.TB, o Options) (*Router, *dnstest.Server) {
	t.Helper()
	srv, err := dnstest.Start(zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	do := dns.DefaultOptions()
	do.Servers = []string{srv.Addr()}
	res, err := dns.New(do, dns.Deps{Shuffle: func(int, func(i, j int)) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(res.Close)
	r, err := New(o, Deps{Resolver: res, Hostname: "US.godwit.example",
		Listeners: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:25"), netip.MustParseAddrPort("198.51.100.2:587")}})
	if err != nil {
		t.Fatal(err)
	}
	return r, srv
}

func describe(r mail.Route) string {
	var b strings.Builder
	for _, h := range r.Hosts {
		fmt.Fprintf(&b, "%d %s", h.Preference, h.Name)
		if h.Port != 0 {
			fmt.Fprintf(&b, ":%d", h.Port)
		}
		b.WriteString(", ")
	}
	fmt.Fprintf(&b, "site=%s provider=%s tls=%s", r.Site, r.Provider, tlsName(r.TLS))
	return b.String()
}

func TestRoute(t *testing.T) {
	for domain, want := range map[string]string{
		"one.example":           "10 mx1.provider.example, 20 mx2.provider.example, site=mx1.provider.example,mx2.provider.example provider=big tls=opportunistic",
		"ONE.example":           "10 mx1.provider.example, 20 mx2.provider.example, site=mx1.provider.example,mx2.provider.example provider=big tls=opportunistic",
		"two.example":           "5 mx2.provider.example, 7 mx1.provider.example, site=mx1.provider.example,mx2.provider.example;tls=required provider=big tls=required",
		"bücher.example":        "5 mx1.other.example, site=mx1.other.example provider=any tls=opportunistic",
		"mixed.example":         "5 mx1.provider.example, 5 mx1.other.example, site=mx1.other.example,mx1.provider.example provider=any tls=opportunistic",
		"nearlynull.example":    "9 mx1.other.example, site=mx1.other.example provider=any tls=opportunistic",
		"bare.example":          "0 bare.example, site=bare.example provider=any tls=opportunistic",
		"backup.example":        "10 mx1.other.example, site=mx1.other.example provider=any tls=opportunistic",
		"byport.example":        "10 otherport.example, site=otherport.example provider=any tls=opportunistic",
		"static.example":        "0 relay.example:2525, 1 2001:db8::1:26, 2 192.0.2.9, site=192.0.2.9,2001:db8::1:26,relay.example:2525;tls=none provider= tls=none",
		"x.sub.example":         "0 suffix.example, site=suffix.example;tls=verify provider=any tls=verify",
		"x.y.deep.sub.example":  "0 deep.example, site=deep.example provider=any tls=opportunistic",
		"BÜCHER-static.example": "0 10.0.0.1:25, site=10.0.0.1:25 provider= tls=opportunistic",
		"null.example":          "bounced dns 556 5.1.10",
		"nowhere.invalid":       "bounced dns 550 5.1.2",
		"textonly.example":      "bounced dns 550 5.1.2",
		"a..example":            "bounced dns 550 5.1.2",
		"ours.example":          "bounced policy 554 5.4.6",
		"byaddress.example":     "bounced policy 554 5.4.6",
		"implicitus.example":    "bounced policy 554 5.4.6",
		"":                      "bounced policy 553 5.1.3",
		"[192.0.2.7]":           "bounced policy 550 5.1.2",
		"failing.example":       "deferred dns 451 4.4.3",
	} {
		t.Run(domain, func(t *testing.T) {
			r, srv := start(t, options())
			srv.Fail("failing.example", dnstest.ServFail)
			m := &mail.Message{Recipient: "user@" + domain, Pool: "p1"}
			for range 2 {
				got, err := r.Route(context.Background(), m)
				var o *mail.OutcomeError
				if errors.As(err, &o) {
					if s := fmt.Sprintf("%s %s %d %s", o.Outcome.Kind, o.Outcome.Class, o.Outcome.Reply.Code, o.Outcome.Reply.Enhanced); s != want {
						t.Fatalf("got %s, want %s (%v)", s, want, err)
					}
					continue
				}
				if err != nil || describe(got) != want {
					t.Fatalf("got  %s, %v\nwant %s", describe(got), err, want)
				}
				if got.Pool != "p1" || got.Port != 25 || !got.Expires.After(time.Now()) {
					t.Errorf("%+v", got)
				}
				m.Pool = "p1"
			}
		})
	}
}

func TestLiterals(t *testing.T) {
	o := options()
	o.AllowLiterals, o.Port = true, 25
	r, _ := start(t, o)
	for domain, want := range map[string]string{
		"[192.0.2.7]":         "192.0.2.7",
		"[IPv6:2001:db8::7]":  "2001:db8::7",
		"[2001:db8::7]":       "553",
		"[IPv6:192.0.2.7]":    "553",
		"[192.0.2.7":          "553",
		"[IPv6:fe80::1%eth0]": "553",
		"[]":                  "553",
		"[198.51.100.1]":      "554",
	} {
		got, err := r.Route(context.Background(), &mail.Message{Recipient: "u@" + domain})
		var oe *mail.OutcomeError
		if errors.As(err, &oe) {
			if fmt.Sprint(oe.Outcome.Reply.Code) != want {
				t.Errorf("%s: %v", domain, err)
			}
		} else if got.Hosts[0].Name != want {
			t.Errorf("%s: %+v", domain, got)
		}
	}
}

func TestCatchAllTakesEverything(t *testing.T) {
	o := options()
	o.Routes = append(o.Routes, Static{Domain: "*", Hosts: []string{"smart.example"}})
	r, srv := start(t, o)
	srv.Fail("", dnstest.ServFail)
	for _, domain := range []string{"one.example", "[192.0.2.7]", "null.example"} {
		got, err := r.Route(context.Background(), &mail.Message{Recipient: "u@" + domain})
		if err != nil || got.Hosts[0].Name != "smart.example" {
			t.Errorf("%s: %v %v", domain, got, err)
		}
	}
}

type countingResolver struct {
	asked   int
	expires time.Time
}

func (c *countingResolver) MX(context.Context, string) (dns.Exchangers, error) {
	c.asked++
	return dns.Exchangers{MX: []dns.MX{{Host: "mx.example"}}, Expires: c.expires}, nil
}

func (c *countingResolver) Addresses(context.Context, string) (dns.Addresses, error) {
	return dns.Addresses{}, dns.ErrNoData
}

func TestExpiryIsBounded(t *testing.T) {
	for ttl, keep := range map[time.Duration]time.Duration{
		time.Second:      time.Minute,
		10 * time.Minute: 10 * time.Minute,
		100 * time.Hour:  time.Hour,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &countingResolver{expires: time.Now().Add(ttl)}
			r, err := New(DefaultOptions(), Deps{Resolver: c})
			if err != nil {
				t.Fatal(err)
			}
			m := &mail.Message{Recipient: "u@x.example"}
			ask := func() { _, _ = r.Route(t.Context(), m) }
			ask()
			time.Sleep(keep - time.Nanosecond)
			ask()
			if c.asked != 1 {
				t.Errorf("ttl %v: forgotten early", ttl)
			}
			time.Sleep(time.Nanosecond)
			ask()
			if c.asked != 2 {
				t.Errorf("ttl %v: kept too long", ttl)
			}
			if err := r.Reload(DefaultOptions()); err != nil {
				t.Fatal(err)
			}
			ask()
			if c.asked != 3 {
				t.Errorf("a reload kept the old route")
			}
		})
	}
}

func TestCacheIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	c := newCache(16)
	now := time.Now()
	live := &mail.Route{Expires: now.Add(time.Hour)}
	c.put("used", live)
	for i := range 1000 {
		c.put(fmt.Sprint(i), live)
		if c.get("used", now) == nil {
			t.Fatal("the most used entry was dropped")
		}
		if c.len() > 18 {
			t.Fatalf("%d entries", c.len())
		}
	}
	if c.get("1", now) != nil {
		t.Error("an unused entry was kept")
	}
}

func TestSite(t *testing.T) {
	hosts := func(n int, order bool) (h []mail.Host) {
		for i := range n {
			if order {
				i = n - 1 - i
			}
			h = append(h, mail.Host{Name: fmt.Sprintf("mx%d.some-provider.example", i), Preference: uint16(i)})
		}
		return h
	}
	if a, b := siteOf(hosts(9, false)), siteOf(hosts(9, true)); a != b || len(a) > maxSiteLength {
		t.Errorf("%q, %q", a, b)
	}
	if siteOf(hosts(9, false)) == siteOf(hosts(10, false)) {
		t.Error("different sets share a site")
	}
	if got := siteOf(append(hosts(1, false), hosts(1, false)...)); got != "mx0.some-provider.example" {
		t.Error(got)
	}
}

func TestOwn(t *testing.T) {
	o := DefaultOptions()
	o.OwnAddresses = []string{"192.0.2.1", "192.0.2.2:26"}
	r, err := New(o, Deps{Listeners: []netip.AddrPort{netip.MustParseAddrPort("[::]:2525"), netip.MustParseAddrPort("203.0.113.1:25")}})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"192.0.2.1:25": true, "192.0.2.1:99": true, "192.0.2.2:26": true, "192.0.2.2:25": false,
		"127.0.0.1:2525": true, "127.0.0.1:2526": false, "[::ffff:192.0.2.1]:25": true,
		"203.0.113.1:25": true, "203.0.113.1:26": false,
	} {
		if got := r.Own(netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Fatal(err)
	}
	if err := options().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, edit := range map[string]func(*Options){
		"port:":                   func(o *Options) { o.Port = 0 },
		"tls:":                    func(o *Options) { o.TLS = "" },
		"tls_domains:":            func(o *Options) { o.TLSDomains = map[string]string{"a b": "none"} },
		"min_age:":                func(o *Options) { o.MinAge = -1 },
		"max_age:":                func(o *Options) { o.MaxAge = units.Duration(time.Second) },
		"cache_entries:":          func(o *Options) { o.CacheEntries = 0 },
		"own_addresses:":          func(o *Options) { o.OwnAddresses = []string{"host"} },
		"routes[4].hosts:":        func(o *Options) { o.Routes = append(o.Routes, Static{Domain: "x.example"}) },
		"routes[4].domain:":       func(o *Options) { o.Routes = append(o.Routes, Static{Domain: "static.example", Hosts: []string{"h"}}) },
		"routes[4].tls:":          func(o *Options) { o.Routes = append(o.Routes, Static{Domain: "x", Hosts: []string{"h"}, TLS: "yes"}) },
		"routes[0].hosts:":        func(o *Options) { o.Routes[0].Hosts = []string{"host:0"} },
		"providers[0].name:":      func(o *Options) { o.Providers[0].Name = "" },
		"providers[1].mx_suffix:": func(o *Options) { o.Providers[1].MXSuffix = []string{"."} },
	} {
		o := options()
		edit(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s got %v", key, err)
		}
	}
}

func FuzzHostPort(f *testing.F) {
	for _, s := range []string{"a.example:25", "[::1]:25", "::1", "1.2.3.4:65535", "[::1", "a:b:c", ":25", "a:0", "*.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, port, err := hostPort(s)
		if err != nil {
			return
		}
		again := name
		if strings.Contains(name, ":") {
			again = "[" + name + "]"
		}
		if port != 0 {
			again = fmt.Sprintf("%s:%d", again, port)
		}
		name2, port2, err := hostPort(again)
		if err != nil || !reflect.DeepEqual([]any{name, port}, []any{name2, port2}) {
			t.Fatalf("%q gives %q %d, %q gives %q %d (%v)", s, name, port, again, name2, port2, err)
		}
	})
}

func TestCachedRouteAllocatesNothing(t *testing.T) {
	r, _ := start(t, options())
	m := &mail.Message{Recipient: "user@one.example", Pool: "p"}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Route(context.Background(), m) }); n > 0 {
		t.Errorf("%v allocations for a cached route", n)
	}
}

func BenchmarkCached(b *testing.B) {
	r, _ := start(b, options())
	m := &mail.Message{Recipient: "user@one.example"}
	for b.Loop() {
		if _, err := r.Route(context.Background(), m); err != nil {
			b.Fatal(err)
		}
	}
}
