package proxy

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const example = `
proxy_timeout = "2s"
proxies = [
  { name = "p1", kind = "godwit", address = "10.0.0.1:5000", zone = "a" },
  { name = "p2", kind = "haproxy", address = "10.0.1.1:5000", zone = "b" },
  { name = "here", kind = "direct", zone = "c" },
]
sources = [
  { name = "s1", bind = "192.0.2.1", ehlo = "s1.example", proxy = "p1", warmup = "new" },
  { name = "s2", bind = "192.0.2.2", bind6 = "2001:db8::2", proxy = "p2", zone = "b2" },
  { name = "s3", bind = "192.0.2.3", proxy = "here" },
  { name = "s4" },
]
pools = [
  { name = "default", sources = [{ name = "s3" }] },
  { name = "bulk", sources = [{ name = "s1", weight = 3 }, { name = "s2" }], fallback = "default" },
  { name = "news", sources = [{ name = "s2" }] },
]
choose = [
  { tenant = "acme", stream = "news*", pool = "news" },
  { tag = "class=bulk", pool = "bulk" },
  { tenant = "*-bulk", pool = "bulk" },
  { tag = "Kind=a*z", pool = "news" },
]
[[warmups]]
name = "new"
start = "2026-03-01"
days = [50, 100, 500]
providers = { google = [10, 20], yahoo = [5, 5, 5, 5] }
`

func parse(t *testing.T, text string) Options {
	t.Helper()
	o := DefaultOptions()
	if err := toml.NewDecoder(strings.NewReader(text)).DisallowUnknownFields().Decode(&o); err != nil {
		t.Fatal(err)
	}
	return o
}

func newPools(t *testing.T, o Options, d Deps) *Pools {
	t.Helper()
	p, err := NewPools(o, d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFor(t *testing.T) {
	var log bytes.Buffer
	p := newPools(t, parse(t, example), Deps{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for _, tt := range []struct {
		name string
		m    mail.Message
		want string
	}{
		{"nothing", mail.Message{}, "default"},
		{"its own", mail.Message{Pool: "bulk", Tenant: "acme", Stream: "news"}, "bulk"},
		{"unknown", mail.Message{Pool: "gone"}, "default"},
		{"unknown again", mail.Message{Pool: "gone"}, "default"},
		{"unknown, but a rule", mail.Message{Pool: "gone2", Tenant: "x-bulk"}, "bulk"},
		{"tenant and stream", mail.Message{Tenant: "acme", Stream: "newsletter"}, "news"},
		{"tenant only", mail.Message{Tenant: "acme", Stream: "receipts"}, "default"},
		{"pattern", mail.Message{Tenant: "-bulk"}, "bulk"},
		{"pattern does not match", mail.Message{Tenant: "x-bulks"}, "default"},
		{"tag", mail.Message{Tags: []mail.Tag{{Name: "x", Value: "y"}, {Name: "Class", Value: "bulk"}}}, "bulk"},
		{"tag of another value", mail.Message{Tags: []mail.Tag{{Name: "class", Value: "bulky"}}}, "default"},
		{"tag pattern", mail.Message{Tags: []mail.Tag{{Name: "kind", Value: "a-to-z"}}}, "news"},
		{"first rule counts", mail.Message{Tenant: "acme", Stream: "news", Tags: []mail.Tag{{Name: "class", Value: "bulk"}}}, "news"},
	} {
		if got := p.For(&tt.m); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if n := strings.Count(log.String(), "not configured"); n != 2 {
		t.Errorf("%d warnings for two names:\n%s", n, &log)
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "x", true}, {"*", "", true}, {"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "a-b-b-c", true}, {"a*b*c", "a-c-b", false}, {"**", "x", true},
	} {
		if got := glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("%q %q: %v", tt.pattern, tt.s, got)
		}
	}
}

func TestLookups(t *testing.T) {
	p := newPools(t, parse(t, example), Deps{})
	for name, zone := range map[string]string{"s1": "a", "s2": "b2", "s3": "c", "s4": ""} {
		if s, ok := p.Source(name); !ok || s.Zone != zone {
			t.Errorf("%s: %+v, %v", name, s, ok)
		}
	}
	if _, ok := p.Source("s9"); ok {
		t.Error("s9 exists")
	}
	if got := p.Members("bulk"); !slices.Equal(got, []Member{{"s1", 3}, {"s2", 1}}) {
		t.Errorf("%v", got)
	}
	if p.Authority("s1") != "p1" || p.Authority("s2") != "" || p.Authority("s3") != "" || p.Authority("s9") != "" {
		t.Error("authorities")
	}
	if len(p.List()) != 3 || len(p.Sources()) != 4 || p.Members("gone") != nil {
		t.Error("lists")
	}
}

func TestNothingConfigured(t *testing.T) {
	p := newPools(t, DefaultOptions(), Deps{})
	if pool := p.For(&mail.Message{Pool: "bulk"}); pool != "" {
		t.Errorf("pool %q", pool)
	}
	if s, ok := p.Pick("", "google", time.Now(), nil); s != "" || !ok {
		t.Errorf("%q %v", s, ok)
	}
	if s, ok := p.Pick("", "google", time.Now(), func(string) bool { return false }); ok {
		t.Errorf("%q", s)
	}
	if p.Sent("", "google", "", 100); p.Ahead("", "google", "") || !p.Up("") || p.Daily("", "google", time.Now()) != 0 {
		t.Error("the host's own address has limits")
	}
	if _, ok := p.Pick("default", "google", time.Now(), nil); ok {
		t.Error("a pool that does not exist was picked from")
	}
}

func TestSourcesWithoutPools(t *testing.T) {
	o := parse(t, example)
	o.Pools, o.Choose = nil, nil
	p := newPools(t, o, Deps{})
	if pool := p.For(&mail.Message{}); pool != DefaultPool || len(p.Members(pool)) != 4 {
		t.Errorf("%q %v", pool, p.Members(pool))
	}
}

func TestDaily(t *testing.T) {
	p := newPools(t, parse(t, example), Deps{})
	for _, tt := range []struct {
		source, provider, at string
		want                 int64
		day                  int
	}{
		{"s1", "", "2026-03-01T00:00:00Z", 50, 1},
		{"s1", "", "2026-03-01T23:59:59Z", 50, 1},
		{"s1", "", "2026-03-02T00:00:00Z", 100, 2},
		{"s1", "", "2026-03-02T01:00:00+02:00", 50, 1}, // still the first day of UTC
		{"s1", "", "2026-03-01T23:00:00-02:00", 100, 2},
		{"s1", "other", "2026-03-03T12:00:00Z", 500, 3},
		{"s1", "other", "2026-03-04T00:00:00Z", 0, 4}, // yahoo has four days
		{"s1", "google", "2026-03-02T12:00:00Z", 20, 2},
		{"s1", "google", "2026-03-03T12:00:00Z", 0, 3},
		{"s1", "yahoo", "2026-03-04T12:00:00Z", 5, 4},
		{"s1", "yahoo", "2026-03-05T00:00:00Z", 0, 0},
		{"s1", "", "2026-02-01T12:00:00Z", 50, 1},
		{"s1", "", "2030-01-01T00:00:00Z", 0, 0},
		{"s2", "", "2026-03-01T00:00:00Z", 0, 0},
		{"s9", "", "2026-03-01T00:00:00Z", 0, 0},
	} {
		now, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		if got, day := p.Daily(tt.source, tt.provider, now), p.Day(tt.source, now); got != tt.want || day != tt.day {
			t.Errorf("%s %s at %s: %d on day %d, want %d on day %d", tt.source, tt.provider, tt.at, got, day, tt.want, tt.day)
		}
	}
}

func TestHealth(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	p := newPools(t, parse(t, example), Deps{Now: func() time.Time { return now }})
	up := func(want string) {
		t.Helper()
		var got []string
		for _, h := range p.Health() {
			if h.Up != p.Up(h.Source) {
				t.Errorf("%s: %v and not", h.Source, h.Up)
			}
			if h.Up {
				got = append(got, h.Source)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("up: %q, want %q", s, want)
		}
	}
	up("s1 s2 s3 s4")
	if !p.SetProxyHealth("p1", false, "refused") || p.SetProxyHealth("p1", false, "no answer") {
		t.Error("the second time is no news")
	}
	if h := p.Health()[0]; h.Reason != "no answer" || !h.Since.Equal(now) || h.Proxy != "p1" || h.Zone != "a" {
		t.Errorf("%+v", h)
	}
	up("s2 s3 s4")
	p.SetHealth("s3", false, "blocklisted")
	up("s2 s4")
	p.SetProxyHealth("p1", true, "")
	if err := p.Reload(parse(t, example)); err != nil { // is kept
		t.Fatal(err)
	}
	up("s1 s2 s4")
	if p.SetHealth("s9", false, "") || p.SetProxyHealth("", false, "") {
		t.Error("health of what does not exist")
	}
	up("s1 s2 s4")
	if p.SetHealth("s4", true, "") {
		t.Error("it was up")
	}
	o := parse(t, example)
	o.ProxyTimeout = 0
	if p.Reload(o) == nil {
		t.Error("bad options were taken")
	}
	up("s1 s2 s4")
}

func TestValidate(t *testing.T) {
	if err := parse(t, example).Validate(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"timeout":              {func(o *Options) { o.ProxyTimeout = 0 }, "proxy_timeout: "},
		"proxy name":           {func(o *Options) { o.Proxies[0].Name = "a b" }, "proxies[0].name: "},
		"proxy twice":          {func(o *Options) { o.Proxies[1].Name = "p1" }, "proxies[1].name: "},
		"kind":                 {func(o *Options) { o.Proxies[0].Kind = "squid" }, "proxies[0].kind: "},
		"address":              {func(o *Options) { o.Proxies[0].Address = "10.0.0.1" }, "proxies[0].address: "},
		"direct with address":  {func(o *Options) { o.Proxies[2].Address = "10.0.0.1:1" }, "proxies[2].address: "},
		"tls for haproxy":      {func(o *Options) { o.Proxies[1].TLS.CAFile = "x" }, "proxies[1].tls: "},
		"tls without ca":       {func(o *Options) { o.Proxies[0].TLS.Name = "x" }, "proxies[0].tls.ca_file: "},
		"tls without key":      {func(o *Options) { o.Proxies[0].TLS = TLS{CAFile: "x", CertFile: "y"} }, "proxies[0].tls.cert_file: "},
		"password for godwit":  {func(o *Options) { o.Proxies[0].PasswordFile = "x" }, "proxies[0].username: "},
		"user alone":           {func(o *Options) { o.Proxies[0].Kind, o.Proxies[0].Username = "socks5", "x" }, "proxies[0].username: "},
		"source name":          {func(o *Options) { o.Sources[0].Name = "" }, "sources[0].name: "},
		"star in a name":       {func(o *Options) { o.Sources[0].Name = "s*" }, "sources[0].name: "},
		"source twice":         {func(o *Options) { o.Sources[1].Name = "s1" }, "sources[1].name: "},
		"unknown proxy":        {func(o *Options) { o.Sources[0].Proxy = "p9" }, "sources[0].proxy: "},
		"no bind":              {func(o *Options) { o.Sources[0].Bind = "" }, "sources[0].bind: "},
		"bind of IPv6":         {func(o *Options) { o.Sources[0].Bind = "2001:db8::1" }, "sources[0].bind: "},
		"bind6 of IPv4":        {func(o *Options) { o.Sources[0].Bind6 = "192.0.2.1" }, "sources[0].bind6: "},
		"any address":          {func(o *Options) { o.Sources[0].Bind = "0.0.0.0" }, "sources[0].bind: "},
		"public":               {func(o *Options) { o.Sources[0].Public = "here" }, "sources[0].public: "},
		"ehlo":                 {func(o *Options) { o.Sources[0].EHLO = "a b" }, "sources[0].ehlo: "},
		"unknown warm-up":      {func(o *Options) { o.Sources[0].Warmup = "old" }, "sources[0].warmup: "},
		"warm-up name":         {func(o *Options) { o.Warmups[0].Name = "" }, "warmups[0].name: "},
		"no start":             {func(o *Options) { o.Warmups[0].Start = Date{} }, "warmups[0].start: "},
		"zero day":             {func(o *Options) { o.Warmups[0].Days[1] = 0 }, "warmups[0].days[1]: "},
		"zero day of provider": {func(o *Options) { o.Warmups[0].Providers["google"][0] = -1 }, "warmups[0].providers.google[0]: "},
		"pool name":            {func(o *Options) { o.Pools[1].Name = "" }, "pools[1].name: "},
		"pool twice":           {func(o *Options) { o.Pools[1].Name = "default" }, "pools[1].name: "},
		"empty pool":           {func(o *Options) { o.Pools[1].Sources = nil }, "pools[1].sources: "},
		"unknown source":       {func(o *Options) { o.Pools[1].Sources[1].Name = "s9" }, "pools[1].sources[1].name: "},
		"source twice in pool": {func(o *Options) { o.Pools[1].Sources[1].Name = "s1" }, "pools[1].sources[1].name: "},
		"weight":               {func(o *Options) { o.Pools[1].Sources[0].Weight = -1 }, "pools[1].sources[0].weight: "},
		"no default":           {func(o *Options) { o.Pools, o.Choose = o.Pools[2:], nil }, "pools: "},
		"unknown fallback":     {func(o *Options) { o.Pools[1].Fallback = "gone" }, "pools[1].fallback: "},
		"itself":               {func(o *Options) { o.Pools[1].Fallback = "bulk" }, "pools[1].fallback: "},
		"circle":               {func(o *Options) { o.Pools[0].Fallback = "bulk" }, "pools[0].fallback: "},
		"leads into a circle": {func(o *Options) {
			o.Pools[0].Fallback, o.Pools[1].Fallback, o.Pools[2].Fallback = "bulk", "news", "bulk"
		}, "pools[0].fallback: "},
		"unknown choice": {func(o *Options) { o.Choose[0].Pool = "gone" }, "choose[0].pool: "},
		"tag":            {func(o *Options) { o.Choose[0].Tag = "bulk" }, "choose[0].tag: "},
	} {
		o := parse(t, example)
		tt.change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s…", name, err, tt.want)
		}
	}
}

func TestDate(t *testing.T) {
	var d Date
	if b, err := d.MarshalText(); err != nil || len(b) != 0 {
		t.Errorf("%q %v", b, err)
	}
	if err := d.UnmarshalText([]byte("1.3.2026")); err == nil {
		t.Error(d)
	}
	o := parse(t, example)
	if o.Warmups[0].Start.String() != "2026-03-01" {
		t.Error(o.Warmups[0].Start)
	}
}
