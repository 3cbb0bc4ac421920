package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/dkim"
)

const (
	demoSender = "news.demo.test" // domain of the sender: its provider gets the delivery reports
	demoZone   = "sink.test"      // domain of the MX hosts
)

// demoProvider is a provider of the demo's world and how its behaviour is told.
type demoProvider struct {
	about  string
	weight float64 // share of the mail
	sink.Provider
}

// demoProviders are the world: each on a loopback address of its own.
func demoProviders() []demoProvider {
	list := []demoProvider{
		{"greylists some, 100 messages a connection", 30, sink.Provider{Name: "gmail-like", Domains: []string{"gee.test", "goo.test"}, MX: 3,
			Behaviour: sink.Behaviour{Texts: "gmail", Bounce: 0.01, TLS: sink.TLSOn, MaxMessages: 100, LimitCode: 421}}},
		{"defers one attempt in eight", 20, sink.Provider{Name: "yahoo-like", Domains: []string{"why.test"}, MX: 2, Mode: sink.ModeFast,
			Behaviour: sink.Behaviour{Texts: "yahoo", Defer: 0.125, TLS: sink.TLSOn}}},
		{"bounces after the final dot", 20, sink.Provider{Name: "outlook-like", Domains: []string{"lookout.test", "live.test"},
			Behaviour: sink.Behaviour{Texts: "outlook", Bounce: 0.04, AtData: true, TLS: sink.TLSOn}}},
		{"insists on STARTTLS", 15, sink.Provider{Name: "corporate", Domains: []string{"corp.test"}, Mode: sink.ModeFast,
			Behaviour: sink.Behaviour{TLS: sink.TLSOn, RequireTLS: true}}},
		{"no extensions, first MX is dead", 8, sink.Provider{Name: "old-host", Domains: []string{"old.test"}, Mode: sink.ModeFast, DeadMX: true,
			Behaviour: sink.Behaviour{Without: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN"}}}},
		{"hangs up after the final dot now and then", 5, sink.Provider{Name: "flaky", Domains: []string{"flaky.test"}, Mode: sink.ModeFast,
			Behaviour: sink.Behaviour{Drop: 0.1, DotDelay: units.Duration(5 * time.Millisecond)}}},
		{"takes the delivery reports", 0, sink.Provider{Name: "sender", Domains: []string{demoSender}, Mode: sink.ModeFast}},
	}
	for i := range list {
		list[i].Listen = fmt.Sprintf("127.0.0.%d:0", 11+i)
	}
	return list
}

// demoKey is one DKIM key.
type demoKey struct {
	*dkim.Generated
	selector, file string
}

func (d *demo) makeKeys() ([]demoKey, error) {
	var keys []demoKey
	for _, k := range []struct{ selector, algorithm string }{{"rsa", dkim.RSA2048}, {"ed", dkim.Ed25519}} {
		g, err := dkim.Generate(k.algorithm, demoSender, k.selector)
		if err != nil {
			return nil, err
		}
		file := d.path(k.selector + ".pem")
		if err := os.WriteFile(file, g.Private, 0o600); err != nil {
			return nil, err
		}
		keys = append(keys, demoKey{g, k.selector, file})
	}
	return keys, nil
}

// demoSink configures the simulator; the keys are published in its DNS.
func demoSink(keys []demoKey) sink.Options {
	o := sink.DefaultOptions()
	o.Zone = demoZone
	o.Providers = nil
	for _, p := range demoProviders() {
		o.Providers = append(o.Providers, p.Provider)
	}
	for _, k := range keys {
		o.Records = append(o.Records, k.Zone)
	}
	return o
}

// writeConfig writes godwit.toml and returns the API key of the HTTP sources.
func (d *demo) writeConfig(keys []demoKey) (apiKey string, err error) {
	apiKey = rand.Text()
	if err := os.WriteFile(d.path("rules.toml"), []byte("version = 1\n\n[default]\nconnections = 8\n"), 0o600); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(apiKey))
	var b strings.Builder
	fmt.Fprintf(&b, `# written by godwit demo
hostname = "mta.demo.test"

[log]
level = "info"

[ops]
listen = "127.0.0.1:0"

[admin]
listen = [%q]

[queue]
path = %q

[queue.retry]       # minutes in real life
first = "1s"
factor = 1.5
max = "3s"

[queue.spool]
segment_size = "8MiB"
spare_segments = 1
min_free = "64MiB"

[queue.events]
segment_size = "4MiB"

[[smtp.listeners]]
address = "127.0.0.1:0"

[[smtp.relay_from]] # nothing relays without this or AUTH
network = "127.0.0.1"
tenant = "demo"

[http]
listen = ["127.0.0.1:0"]

[[http.keys]]
name = "demo"
tenant = "demo"
sha256 = %q

[dns]               # the simulator's name server
servers = [%q]

[route]
port = %d           # of the simulated providers, instead of 25

[throttle]          # the simulated providers have limits of their own
packs = []
files = [%q]

[dkim]
check_dns = true

[events_file]
path = %q
`, "unix:"+d.path("admin.sock"), d.path("spool"), hex.EncodeToString(sum[:]), d.sink.DNSAddr(), d.sink.Port(), d.path("rules.toml"), d.path("events.ndjson"))
	for _, p := range demoProviders() {
		suffixes := []string{p.Name + "." + demoZone}
		if p.DeadMX {
			suffixes = append(suffixes, "dead."+demoZone)
		}
		fmt.Fprintf(&b, "\n[[route.providers]]\nname = %q\nmx_suffix = [\"%s\"]\n", p.Name, strings.Join(suffixes, `", "`))
	}
	for _, k := range keys {
		fmt.Fprintf(&b, "\n[[dkim.keys]]\ndomain = %q\nselector = %q\nfile = %q\n", demoSender, k.selector, k.file)
	}
	return apiKey, os.WriteFile(d.path("godwit.toml"), []byte(b.String()), 0o600)
}

// makeSources splits the messages: most by SMTP, the others by HTTP.
func (d *demo) makeSources() []*source {
	smtp := d.source("smtp", "distinct bodies by SMTP", d.cmd.Messages*6/10)
	smtp.o.Mode, smtp.o.Target = load.ModeSMTP, d.server.engine.SMTP().Addrs()[0].String()
	smtp.o.Size = 6 << 10

	url := "http://" + d.server.engine.HTTP().Addrs()[0].String()
	raw := d.source("raw", "complete messages by HTTP", d.cmd.Messages/10)
	raw.o.Mode, raw.o.Target = load.ModeHTTP, url
	raw.o.HTTP.Key, raw.o.HTTP.Content = d.key, load.ContentRaw
	raw.o.Size = 4 << 10

	batch := d.source("batch", "stored template by HTTP, 100 recipients a request", d.cmd.Messages-smtp.o.Count-raw.o.Count)
	batch.o.Mode, batch.o.Target = load.ModeHTTP, url
	batch.o.HTTP.Key, batch.o.HTTP.Content, batch.o.HTTP.Substitute, batch.o.HTTP.Gzip = d.key, load.ContentStored, true, true
	batch.o.Recipients, batch.o.Connections = 100, 2
	batch.o.Size = 20 << 10

	var list []*source
	for _, s := range []*source{smtp, raw, batch} {
		if s.o.Count > 0 {
			list = append(list, s)
		}
	}
	return list
}

func (d *demo) source(id, name string, count int64) *source {
	o := load.DefaultOptions()
	o.Duration = d.cmd.Limit
	o.Count, o.Connections, o.From, o.Stream = count, 6, "offers@"+demoSender, id
	o.SMTP.Hello = "app.demo.test"
	o.Ledger = d.path("source-" + id + ".ledger")
	o.Timeout = units.Duration(20 * time.Second)
	o.GiveUp = units.Duration(5 * time.Second)
	// Every recipient occurs once: the local part's number is unique within a
	// source and its beginning among sources. The simulator greylists the second kind.
	o.Locals = []string{id + "=19", "greylist+" + id + "=1"}
	o.Domains = nil
	for _, p := range demoProviders() {
		for _, domain := range p.Domains {
			if p.weight > 0 {
				o.Domains = append(o.Domains, fmt.Sprintf("%s=%g", domain, p.weight/float64(len(p.Domains))))
			}
		}
	}
	o.Domains = append(o.Domains, "nullmx."+demoZone+"=1", "nxdomain."+demoZone+"=1")
	return &source{name: name, o: o}
}
