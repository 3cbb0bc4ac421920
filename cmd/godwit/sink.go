package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
)

type sinkCmd struct {
	Config string `short:"c" type:"existingfile" placeholder:"FILE" help:"TOML file with all options and any number of providers; flags win over it."`
	World  string `default:"plain" enum:"plain,demo" help:"plain: equal providers made by the flags below. demo: a small world of providers that make trouble."`

	Listen *string `placeholder:"ADDR" help:"SMTP address; port 0 takes a free one (127.0.0.1:0)." group:"Addresses"`
	DNS    *string `name:"dns" placeholder:"ADDR" help:"Address of the name server; empty for none (127.0.0.1:0)." group:"Addresses"`
	HTTP   *string `name:"http" placeholder:"ADDR" help:"Address of the statistics endpoint; empty for none (127.0.0.1:0)." group:"Addresses"`
	Ports  string  `type:"path" placeholder:"FILE" help:"Write the addresses that were bound to this file, as JSON." group:"Addresses"`

	Domains   string  `default:"d%d.test" placeholder:"PATTERN" help:"Domains; %d stands for 0 to count-1." group:"Providers"`
	Count     int     `default:"10" help:"How many domains." group:"Providers"`
	Providers int     `default:"1" help:"How many providers share the domains; each has its own MX hosts." group:"Providers"`
	Mode      string  `default:"fast" enum:"fast,full" help:"fast: a lean loop of ours, for load. full: go-smtp's server, an implementation that is not ours." group:"Providers"`
	OwnMX     bool    `name:"own-mx" help:"Each domain has MX hosts of its own, so each is a site." group:"Providers"`
	Swallow   float64 `placeholder:"SHARE" help:"Share of domains whose MX hosts swallow connects, which neither succeed nor fail." group:"Providers"`

	Defer             float64        `placeholder:"SHARE" help:"Share of attempts that is deferred, 0 to 1." group:"Behaviour"`
	Bounce            float64        `placeholder:"SHARE" help:"Share of recipients that do not exist, 0 to 1." group:"Behaviour"`
	Drop              float64        `placeholder:"SHARE" help:"Share of messages whose connection is closed instead of a reply to the final dot." group:"Behaviour"`
	Greylist          units.Duration `placeholder:"TIME" help:"First attempts are deferred; accepted after this time." group:"Behaviour"`
	ReplyDelay        units.Duration `placeholder:"TIME" help:"Time before each reply to MAIL and RCPT." group:"Behaviour"`
	DotDelay          units.Duration `placeholder:"TIME" help:"Time before the reply to the final dot." group:"Behaviour"`
	MaxConnections    int            `placeholder:"N" help:"Connections at a time; more are answered 421." group:"Behaviour"`
	MaxMessages       int            `placeholder:"N" help:"Messages per connection." group:"Behaviour"`
	Rate              float64        `placeholder:"N" help:"Recipients per second; above it they are deferred." group:"Behaviour"`
	SourceConnections int            `placeholder:"N" help:"Connections at a time from one address; more are turned away." group:"Behaviour"`
	SourceConnectRate units.Rate     `placeholder:"RATE" help:"New connections from one address, such as 10/s." group:"Behaviour"`
	SourceRate        units.Rate     `placeholder:"RATE" help:"MAIL commands from one address, such as 100/s; more are refused." group:"Behaviour"`
	BlockAfter        int            `placeholder:"N" help:"Puts an address on the block list after so many hits of these limits within a minute." group:"Behaviour"`
	BlockFor          units.Duration `placeholder:"TIME" help:"Time on the block list (1m)." group:"Behaviour"`
	TLS               string         `name:"tls" default:"off" enum:"off,on,fail" help:"STARTTLS: off, on (self-signed) or fail (the handshake breaks)." group:"Behaviour"`
	Texts             string         `default:"generic" enum:"generic,gmail,outlook,microsoft365,yahoo,icloud,comcast,orange,gmx,qq,163" help:"Whose reply texts to use." group:"Behaviour"`

	Ledger    *string `type:"path" placeholder:"FILE" help:"Record every accepted copy in this file." group:"Records"`
	Watch     *string `type:"path" placeholder:"FILE" help:"Record every connection and MAIL command with its source address in this file." group:"Records"`
	Forget    bool    `help:"Keep records in the ledger file only, not in memory." group:"Records"`
	CountOnly bool    `help:"Only count: no records, no body sums." group:"Records"`
	NoSums    bool    `help:"Record without the sum of each body." group:"Records"`
	Seed      *uint64 `help:"Seed of all random decisions." group:"Records"`
	JSON      bool    `name:"json" help:"Print addresses and statistics as JSON lines." group:"Records"`
	Verbose   bool    `short:"v" help:"Log connections." group:"Records"`
}

// Help teaches by example.
func (sinkCmd) Help() string {
	return `Plays the mail exchangers of many domains on loopback, with a name server that
leads to them. Point dns.servers and route.port of the configuration at it. The
statistics endpoint answers /stats, /ledger, /watch and /reset, and changes a
provider while it runs: /providers/NAME/ and behaviour, block, unblock, deaf or
hear; * means all. A recipient's local part can ask for a behaviour: tempfail, permfail, full, greylist, slow-2s, drop,
reply-452-4.2.2 and others.

Examples:
  godwit sink --count 100 --defer 0.05 --bounce 0.02
  godwit sink --listen 127.0.0.1:2526 --dns 127.0.0.1:5354 --http 127.0.0.1:8027
  godwit sink --world demo --ledger sink.ledger --ports ports.json
  godwit sink --texts yahoo --source-rate 100/s --source-connections 5 --watch sink.watch
  curl 'http://127.0.0.1:8027/stats?format=text'
  curl -d 'source_rate = "10/s"' http://127.0.0.1:8027/providers/open/behaviour
  curl -d '' 'http://127.0.0.1:8027/providers/open/block?source=127.0.0.2&for=5m'`
}

// Run serves until it is told to stop, then prints what came.
func (c *sinkCmd) Run(e *env) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelDebug
	}
	s, err := sink.New(o, sink.Deps{Log: slog.New(slog.NewTextHandler(e.errOut, &slog.HandlerOptions{Level: level}))})
	if err != nil {
		return usageError{fmt.Errorf("sink: %w", err)}
	}
	if err := s.Start(); err != nil {
		return fmt.Errorf("sink: %w; port 0 takes a free one", err)
	}
	defer s.Stop()
	if err := c.announce(e, s, &o); err != nil {
		return err
	}
	<-e.ctx.Done()
	s.Stop()
	return c.summary(e, s)
}

// options are the file's, with the flags over them.
func (c *sinkCmd) options() (sink.Options, error) {
	o := sink.DefaultOptions()
	switch {
	case c.Config != "":
		o.Providers = nil
		if err := readOptions(c.Config, &o); err != nil {
			return o, err
		}
		if len(o.Providers) == 0 {
			o.Providers = c.providers()
		}
	case c.World == "demo":
		o.Providers = sink.DemoProviders()
	default:
		o.Providers = c.providers()
	}
	set(&o.Listen, c.Listen)
	set(&o.DNS, c.DNS)
	set(&o.HTTP, c.HTTP)
	set(&o.Ledger, c.Ledger)
	set(&o.Watch, c.Watch)
	set(&o.Seed, c.Seed)
	o.Forget = o.Forget || c.Forget
	o.Count = o.Count || c.CountOnly
	o.NoSums = o.NoSums || c.NoSums
	if err := o.Validate(); err != nil {
		return o, usageError{fmt.Errorf("sink: %w", err)}
	}
	return o, nil
}

// providers are equal ones that share the domains in turn.
func (c *sinkCmd) providers() []sink.Provider {
	b := sink.Behaviour{Defer: c.Defer, Bounce: c.Bounce, Drop: c.Drop, Greylist: c.Greylist, ReplyDelay: c.ReplyDelay,
		DotDelay: c.DotDelay, MaxConnections: c.MaxConnections, MaxMessages: c.MaxMessages, Rate: c.Rate, TLS: c.TLS, Texts: c.Texts,
		SourceConnections: c.SourceConnections, SourceConnectRate: c.SourceConnectRate, SourceRate: c.SourceRate,
		BlockAfter: c.BlockAfter, BlockFor: c.BlockFor}
	if c.Providers <= 1 {
		return []sink.Provider{{Name: "open", Domains: []string{c.Domains}, Count: c.Count, Mode: c.Mode, OwnMX: c.OwnMX, Swallow: c.Swallow, Behaviour: b}}
	}
	list := make([]sink.Provider, c.Providers)
	for i := range list {
		list[i] = sink.Provider{Name: fmt.Sprintf("provider%d", i), Mode: c.Mode, OwnMX: c.OwnMX, Swallow: c.Swallow, Behaviour: b}
	}
	for i := range c.Count {
		p := &list[i%len(list)]
		p.Domains = append(p.Domains, strings.Replace(c.Domains, "%d", fmt.Sprint(i), 1))
	}
	return slices.DeleteFunc(list, func(p sink.Provider) bool { return len(p.Domains) == 0 })
}

// sinkPorts is what sink --ports writes.
type sinkPorts struct {
	SMTPPort  int               `json:"smtp_port"`
	DNS       string            `json:"dns"`
	HTTP      string            `json:"http"`
	Providers map[string]string `json:"providers"`
	PID       int               `json:"pid"`
}

func (c *sinkCmd) announce(e *env, s *sink.Sink, o *sink.Options) error {
	p := sinkPorts{SMTPPort: s.Port(), DNS: s.DNSAddr(), HTTP: s.URL(), Providers: map[string]string{}, PID: os.Getpid()}
	for _, one := range o.Providers {
		p.Providers[one.Name] = s.Addr(one.Name)
	}
	if c.Ports != "" {
		if err := writeJSONFile(c.Ports, p); err != nil {
			return err
		}
	}
	if c.JSON {
		return show.JSON(e.out, p)
	}
	page := show.New(e.out)
	page.Printf("%s on port %d; Ctrl-C ends\n", show.Plural(int64(len(o.Providers)), "provider"), p.SMTPPort)
	for _, one := range o.Providers {
		page.Printf("  %-12s %-21s %s\n", one.Name, p.Providers[one.Name], show.Clean(strings.Join(one.Domains[:min(3, len(one.Domains))], " ")))
	}
	page.Printf("to deliver here, configure:\n  [dns]\n  servers = [%q]\n  [route]\n  port = %d\n", p.DNS, p.SMTPPort)
	if p.HTTP != "" {
		page.Printf("statistics: curl '%s/stats?format=text'\n", p.HTTP)
	}
	return nil
}

func (c *sinkCmd) summary(e *env, s *sink.Sink) error {
	st := s.Stats()
	if c.JSON {
		return show.JSON(e.out, st)
	}
	fmt.Fprintln(e.out)
	if err := st.WriteText(e.out); err != nil {
		return err
	}
	t := st.Total
	_, err := fmt.Fprintf(e.out, "sink: accepted %s (%.0f/s), deferred %s, bounced %s, dropped %s, %s, %s DNS queries\n",
		show.Count(t.Accepted), t.Rate(), show.Count(t.Deferred), show.Count(t.Bounced), show.Count(t.Dropped),
		show.Plural(t.Connections, "connection"), show.Count(st.Queries))
	return err
}
