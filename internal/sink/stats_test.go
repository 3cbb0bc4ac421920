package sink

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/units"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestEndpoint(t *testing.T) {
	o := DefaultOptions()
	o.Ledger = filepath.Join(t.TempDir(), "sink.ledger")
	s := startWith(t, o)
	dial(t, s.Addr("open")).script(hello + transaction("u@d1.test", "250", "250"))

	var st Stats
	_, body := get(t, s.URL()+"/stats")
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	if st.Total.Accepted != 1 || st.Providers[0].Name != "open" || st.Port != s.Port() || st.Domains != 10 || st.DNS == "" {
		t.Errorf("%s", body)
	}
	if _, text := get(t, s.URL()+"/stats?format=text"); !strings.Contains(text, "open") || !strings.Contains(text, "total") {
		t.Error(text)
	}
	_, raw := get(t, s.URL()+"/ledger")
	_, got, err := ledger.Read(strings.NewReader(raw))
	if err != nil || len(got) != 1 || got[0].Recipient != "u@d1.test" {
		t.Errorf("%v %v", got, err)
	}
	if _, lines := get(t, s.URL()+"/ledger?format=ndjson"); !strings.HasPrefix(lines, `{"kind":"delivery"`) {
		t.Error(lines)
	}
	if code, _ := get(t, s.URL()+"/healthz"); code != 200 {
		t.Error("healthz", code)
	}
	s.Stop()
	s.Stop()
	if _, got, err := ledger.ReadFile(o.Ledger); err != nil || len(got) != 1 {
		t.Errorf("file: %v %v", got, err)
	}
}

func TestCountOnly(t *testing.T) {
	o := DefaultOptions()
	o.Count = true
	s := startWith(t, o)
	dial(t, s.Addr("open")).script(hello + transaction("u@d1.test", "250", "250"))
	if s.Stats().Total.Accepted != 1 || s.Deliveries() != nil {
		t.Error("count_only records, or does not count")
	}
	if code, _ := get(t, s.URL()+"/ledger"); code != http.StatusNotFound {
		t.Error("ledger:", code)
	}
	if err := s.Reset(); err != nil {
		t.Error(err)
	}
}

func TestRunEndsWithContext(t *testing.T) {
	s, err := New(DefaultOptions(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestDemoProvidersStart(t *testing.T) {
	s := start(t, DemoProviders()...)
	for _, p := range s.providers {
		if !strings.HasSuffix(p.addr, strings.TrimPrefix(s.Addr("easymail"), "127.0.0.11")) {
			t.Errorf("%s listens on %s: another port than the first", p.Name, p.addr)
		}
		dial(t, p.addr).script("< 220")
	}
	if e := s.Endpoints(); e.Port != s.Port() || len(e.Providers) != len(DemoProviders()) || e.Providers["tarpit"] == "" || e.HTTP == "" || e.DNS == "" {
		t.Errorf("%+v", e)
	}
}

func TestStartFailsCleanly(t *testing.T) {
	s := start(t)
	o := DefaultOptions()
	o.Listen = s.Addr("open")
	other, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err == nil || !strings.HasPrefix(err.Error(), "providers[0].listen: ") {
		t.Errorf("error %v", err)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		want   string // start of the error
		change func(*Options)
	}{
		{"", func(*Options) {}},
		{"", func(o *Options) { o.Providers = DemoProviders() }},
		{"listen: ", func(o *Options) { o.Listen = "0.0.0.0:25" }},
		{"dns: ", func(o *Options) { o.DNS = "localhost" }},
		{"zone: ", func(o *Options) { o.Zone = "" }},
		{"ttl: ", func(o *Options) { o.TTL = -1 }},
		{"idle_timeout: ", func(o *Options) { o.Idle = 0 }},
		{"forget: ", func(o *Options) { o.Forget = true }},
		{"providers: ", func(o *Options) { o.Providers = nil }},
		{"providers[0].listen: ", func(o *Options) { o.Listen = "" }},
		{"providers[0].name: ", func(o *Options) { o.Providers[0].Name = "a b" }},
		{"providers[1].name: ", func(o *Options) { o.Providers = append(o.Providers, o.Providers[0]) }},
		{"providers[0].mode: ", func(o *Options) { o.Providers[0].Mode = "quick" }},
		{"providers[0].count: ", func(o *Options) { o.Providers[0].Count = -1 }},
		{"providers[0].domains: ", func(o *Options) { o.Providers[0].Domains = []string{"%s.test"} }},
		{"providers[0].behaviour.bounce: ", func(o *Options) { o.Providers[0].Behaviour.Bounce = 1.1 }},
		{"providers[0].behaviour.rate: ", func(o *Options) { o.Providers[0].Behaviour.Rate = -1 }},
		{"providers[0].behaviour.limit_code: ", func(o *Options) { o.Providers[0].Behaviour.LimitCode = 450 }},
		{"providers[0].behaviour.tls: ", func(o *Options) { o.Providers[0].Behaviour.TLS = "yes" }},
		{"providers[0].behaviour.require_tls: ", func(o *Options) { o.Providers[0].Behaviour.RequireTLS = true }},
		{"providers[0].behaviour.texts: ", func(o *Options) { o.Providers[0].Behaviour.Texts = "x" }},
		{"providers[0].behaviour.defer_replies", func(o *Options) { o.Providers[0].Behaviour.DeferReplies = []string{"later"} }},
		{"providers[0].behaviour.without: ", func(o *Options) { o.Providers[0].Behaviour.Without = []string{"FOO"} }},
		{"providers[0].behaviour.without: ", func(o *Options) {
			o.Providers[0].Mode = ModeFull
			o.Providers[0].Behaviour.Without = []string{"PIPELINING"}
		}},
	}
	for _, tt := range tests {
		o := DefaultOptions()
		tt.change(&o)
		err := o.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if _, err := New(Options{}, Deps{}); err == nil {
		t.Error("New takes invalid options")
	}
	o := DefaultOptions()
	o.Providers = append(o.Providers, Provider{Name: "b", Domains: []string{"D3.test"}})
	if _, err := New(o, Deps{}); err == nil || !strings.HasPrefix(err.Error(), "providers[1].domains: ") {
		t.Errorf("a domain of two providers: %v", err)
	}
}

func TestOptionsAreTOML(t *testing.T) {
	const file = "listen = '127.0.0.1:2525'\nttl = '1m'\n[[providers]]\nname = 'x'\n[providers.behaviour]\ngreylist = '2s'\nmax_size = '1MiB'\n"
	o := DefaultOptions()
	if err := toml.NewDecoder(strings.NewReader(file)).DisallowUnknownFields().Decode(&o); err != nil {
		t.Fatal(err)
	}
	if b := o.Providers[0].Behaviour; b.MaxSize != 1<<20 || b.Greylist.D().Seconds() != 2 || o.TTL != units.Duration(60e9) {
		t.Errorf("%+v", o)
	}
}
