package sink

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// The ways in which a provider's SMTP side is run.
const (
	// ModeFull is go-smtp's server: an implementation that is not ours.
	ModeFull = "full"
	// ModeFast is a lean loop of ours, for benchmarks and for capabilities that go-smtp always offers.
	ModeFast = "fast"
)

// Options configure the simulator.
type Options struct {
	Listen    string         `toml:"listen" doc:"SMTP address of providers that name none; port 0 takes a free one."`
	DNS       string         `toml:"dns" doc:"Address of the name server (UDP and TCP); empty for none."`
	HTTP      string         `toml:"http" doc:"Address of the statistics endpoint; empty for none."`
	Zone      string         `toml:"zone" doc:"Domain that holds the MX hosts' names and the special domains (nullmx, nxdomain, servfail, noanswer, nodata, aonly, ipv6only, loopmx, deadmx)."`
	TTL       units.Duration `toml:"ttl" doc:"Time to live of DNS answers."`
	Records   []string       `toml:"records" doc:"Further DNS records, as lines of a zone file."`
	Ledger    string         `toml:"ledger" doc:"File to which every accepted copy is recorded (docs/formats/ledger.md); empty for memory only."`
	Count     bool           `toml:"count_only" doc:"Only count: no records, no body sums. For benchmarks of something else."`
	NoSums    bool           `toml:"no_sums" doc:"Record accepted copies without the sum of their body, which costs about 8 us for 10 KB."`
	Forget    bool           `toml:"forget" doc:"Keep records in the ledger file only, not in memory."`
	Watch     string         `toml:"watch" doc:"File to which every connection and MAIL command is recorded with its source address (docs/formats/watch.md); empty for none."`
	WatchHere bool           `toml:"watch_memory" doc:"Keep that record in memory, for GET /watch without a file."`
	Strict    bool           `toml:"strict" doc:"Refuse a bare CR or LF inside a message (554 5.6.0)."`
	Seed      uint64         `toml:"seed" doc:"Seed of all random decisions; the same seed and recipients give the same decisions."`
	Idle      units.Duration `toml:"idle_timeout" doc:"Time after which a silent connection is closed."`
	Providers []Provider     `toml:"providers" doc:"The providers; recipients of other domains belong to the first."`
}

// Provider is one simulated provider: an SMTP address, its domains and how it behaves.
type Provider struct {
	Name      string    `toml:"name" doc:"Name in statistics and host names: letters, digits and hyphens."`
	Domains   []string  `toml:"domains" doc:"Domains, or patterns with one %d that stands for 0 to count-1, such as d%d.test."`
	Count     int       `toml:"count" doc:"Number of domains of each pattern."`
	Listen    string    `toml:"listen" doc:"SMTP address of its own; port 0 takes the port of the first listener, so that one port serves all. Providers of equal address share a listener, whose mode and limits are those of the first."`
	Mode      string    `toml:"mode" doc:"full (go-smtp's server) or fast (a lean loop)."`
	MX        int       `toml:"mx" doc:"Number of MX hosts, with preferences 10, 20, and so on; all have the provider's address."`
	OwnMX     bool      `toml:"own_mx" doc:"Each domain has MX hosts of its own name, so each is a site of its own."`
	DeadMX    bool      `toml:"dead_mx" doc:"A first MX host (preference 1) at which nobody listens."`
	Swallow   float64   `toml:"swallow" doc:"Share of the domains whose MX hosts swallow connects, which neither succeed nor fail; 0 to 1, spread evenly: of 0.05 every twentieth."`
	Behaviour Behaviour `toml:"behaviour" doc:"What it does to mail."`
}

// DefaultOptions is one provider that accepts all mail of d0.test to d9.test.
func DefaultOptions() Options {
	return Options{
		Listen: "127.0.0.1:0", DNS: "127.0.0.1:0", HTTP: "127.0.0.1:0", Zone: "sink.test",
		TTL: units.Duration(5 * time.Minute), Idle: units.Duration(5 * time.Minute), Strict: true, Seed: 1,
		Providers: []Provider{{Name: "open", Domains: []string{"d%d.test"}, Count: 10, Mode: ModeFast}},
	}
}

// DemoProviders is a small world for demonstrations: an easy provider and
// several that make trouble, each on a loopback address of its own and on one port.
func DemoProviders() []Provider {
	ms := func(n int) units.Duration { return units.Duration(time.Duration(n) * time.Millisecond) }
	return []Provider{
		{Name: "easymail", Domains: []string{"easy%d.test"}, Count: 5, Listen: "127.0.0.11:0", Mode: ModeFast, MX: 2,
			Behaviour: Behaviour{TLS: TLSOn}},
		{Name: "bigmail", Domains: []string{"big%d.test"}, Count: 3, Listen: "127.0.0.12:0", MX: 4,
			Behaviour: Behaviour{Bounce: 0.02, Defer: 0.03, Texts: "gmail", TLS: TLSOn, MaxMessages: 100, LimitCode: 421}},
		{Name: "blueoffice", Domains: []string{"blue%d.test"}, Count: 3, Listen: "127.0.0.13:0",
			Behaviour: Behaviour{Bounce: 0.02, MaxConnections: 4, Texts: "outlook", AtData: true, TLS: TLSOn}},
		{Name: "greymail", Domains: []string{"grey.test"}, Listen: "127.0.0.14:0",
			Behaviour: Behaviour{Greylist: ms(2000)}},
		{Name: "tarpit", Domains: []string{"tar.test"}, Listen: "127.0.0.15:0",
			Behaviour: Behaviour{BannerDelay: ms(300), ReplyDelay: ms(20), DotDelay: ms(50), Texts: "yahoo"}},
		{Name: "oldhost", Domains: []string{"old.test"}, Listen: "127.0.0.16:0", Mode: ModeFast,
			Behaviour: Behaviour{Without: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN"}}},
		{Name: "badtls", Domains: []string{"badtls.test"}, Listen: "127.0.0.17:0", Mode: ModeFast, DeadMX: true,
			Behaviour: Behaviour{TLS: TLSFail}},
	}
}

// Validate checks o; the error begins with the key that is wrong.
func (o Options) Validate() error {
	for _, a := range []struct{ key, addr string }{{"listen", o.Listen}, {"dns", o.DNS}, {"http", o.HTTP}} {
		if err := checkAddr(a.addr); err != nil && a.addr != "" {
			return fmt.Errorf("%s: %w", a.key, err)
		}
	}
	switch {
	case o.Zone == "":
		return errors.New("zone: must not be empty")
	case o.TTL < 0:
		return errors.New("ttl: must not be negative")
	case o.Idle <= 0:
		return errors.New("idle_timeout: must be positive")
	case o.Forget && o.Ledger == "":
		return errors.New("forget: needs a ledger file")
	case len(o.Providers) == 0:
		return errors.New("providers: at least one is needed")
	}
	names := map[string]bool{}
	for i, p := range o.Providers {
		key := fmt.Sprintf("providers[%d]", i)
		if names[p.Name] {
			return fmt.Errorf("%s.name: %q is used twice", key, p.Name)
		}
		names[p.Name] = true
		if p.Listen == "" && o.Listen == "" {
			return fmt.Errorf("%s.listen: neither the provider nor listen has an address", key)
		}
		if err := p.validate(key); err != nil {
			return err
		}
	}
	return nil
}

func (p Provider) validate(key string) error {
	if p.Name == "" || strings.Trim(strings.ToLower(p.Name), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%s.name: must be letters, digits and hyphens, not %q", key, p.Name)
	}
	if err := checkAddr(p.Listen); err != nil && p.Listen != "" {
		return fmt.Errorf("%s.listen: %w", key, err)
	}
	if p.Mode != "" && p.Mode != ModeFull && p.Mode != ModeFast {
		return fmt.Errorf("%s.mode: must be %s or %s, not %q", key, ModeFull, ModeFast, p.Mode)
	}
	if p.Count < 0 || p.MX < 0 {
		return fmt.Errorf("%s.count: count and mx must not be negative", key)
	}
	if !(p.Swallow >= 0 && p.Swallow <= 1) {
		return fmt.Errorf("%s.swallow: must be between 0 and 1", key)
	}
	if n := p.hostCount(); p.OwnMX && p.Behaviour.TLS == TLSOn && n > maxCertNames {
		return fmt.Errorf("%s.own_mx: with tls = %q a certificate would have to name %d hosts, and at most %d fit", key, TLSOn, n, maxCertNames)
	}
	for _, d := range p.Domains {
		if n := strings.Count(d, "%"); n > 1 || n != strings.Count(d, "%d") {
			return fmt.Errorf("%s.domains: %q may hold one %%d and no other %%", key, d)
		}
	}
	return p.Behaviour.validate(key+".behaviour", p.Mode != ModeFast)
}

// maxCertNames is how many names a certificate may have; clients take 256 KiB of them at most.
const maxCertNames = 4000

// hostCount is the number of MX hosts of all domains together, if each has its own.
func (p Provider) hostCount() int {
	n := 0
	for _, d := range p.Domains {
		if strings.Contains(d, "%d") {
			n += max(1, p.Count)
		} else {
			n++
		}
	}
	return n * max(1, p.MX)
}

func checkAddr(s string) error {
	host, _, err := net.SplitHostPort(s)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%q is not a loopback address", host)
	}
	return nil
}
