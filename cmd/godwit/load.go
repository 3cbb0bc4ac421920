package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/internal/units"
)

type loadGroup struct {
	Mail   loadCmd       `cmd:"" default:"withargs" help:"Inject mail."`
	Events loadEventsCmd `cmd:"" help:"Send events of a made-up world to the pipeline."`
}

type loadCmd struct {
	Target string `arg:"" optional:"" help:"Where to inject: host:port (SMTP) or http://host:port (HTTP)."`
	Config string `short:"c" type:"existingfile" placeholder:"FILE" help:"TOML file with all options; flags win over it."`

	Count       *int64          `short:"n" placeholder:"N" help:"Messages to inject; 0 for no limit." group:"How much"`
	Duration    *units.Duration `placeholder:"TIME" help:"Time to inject for." group:"How much"`
	Rate        *float64        `placeholder:"N" help:"Messages per second over all connections; as many as go by default." group:"How much"`
	Connections *int            `placeholder:"N" help:"Connections at a time (20)." group:"How much"`
	Recipients  *int            `placeholder:"N" help:"Recipients of one transaction or request (1)." group:"How much"`
	Timeout     *units.Duration `placeholder:"TIME" help:"Limit of one transaction or request (1m)." group:"How much"`
	GiveUp      *units.Duration `placeholder:"TIME" help:"Time without any connection after which a connection's worker ends (30s)." group:"How much"`

	Size        *units.Size `placeholder:"SIZE" help:"Size of each message (10KiB)." group:"What"`
	SameBody    bool        `help:"All bodies are equal; otherwise each is its own." group:"What"`
	EightBit    bool        `name:"8bit" help:"Bodies hold UTF-8 beyond ASCII." group:"What"`
	NoSums      bool        `help:"Record no sums of bodies." group:"What"`
	From        *string     `placeholder:"ADDR" help:"Reverse path and From field (load@source.test)." group:"What"`
	Domains     []string    `placeholder:"PATTERN" help:"Recipient domains; %d stands for 0 to domain-count - 1, =N at the end is a weight (d%d.test)." group:"What"`
	DomainCount *int        `placeholder:"N" help:"Number of domains that %d stands for (10)." group:"What"`
	Locals      []string    `placeholder:"NAME" help:"Beginnings of local parts, with =N as weight; tempfail, greylist and others make the sink misbehave (u)." group:"What"`
	Header      []string    `placeholder:"FIELD" sep:"none" help:"Further header field, as \"Name: value\"." group:"What"`
	Stream      *string     `help:"Stream to send as." group:"What"`
	Tenant      *string     `help:"X-Godwit-Tenant field, by SMTP." group:"What"`
	Pool        *string     `help:"Pool to send from." group:"What"`
	Name        *string     `placeholder:"NAME" help:"Name of the run, the first part of every load id." group:"What"`
	Seed        *uint64     `help:"Seed of the choice of recipients." group:"What"`

	NoPipelining bool    `help:"Wait for each reply, as smtp-source does." group:"SMTP"`
	Messages     *int    `placeholder:"N" help:"Messages per connection; 0 for no limit." group:"SMTP"`
	TLS          *string `name:"tls" enum:"off,starttls,implicit" placeholder:"MODE" help:"off, starttls or implicit; certificates are not verified." group:"SMTP"`
	User         *string `help:"Name for AUTH PLAIN." group:"SMTP"`
	Password     *string `env:"GODWIT_LOAD_PASSWORD" placeholder:"TEXT" help:"Password for AUTH PLAIN." group:"SMTP"`

	Key        *string `env:"GODWIT_LOAD_KEY" placeholder:"KEY" help:"API key." group:"HTTP"`
	Content    *string `enum:"raw,parts,stored" placeholder:"KIND" help:"raw: a complete message in each request. parts: subject and text in each. stored: stored once, then referred to." group:"HTTP"`
	Substitute bool    `help:"The text has template tags, each recipient its own values (with parts and stored)." group:"HTTP"`
	Gzip       bool    `help:"Compress requests." group:"HTTP"`

	Ledger    *string         `type:"path" placeholder:"FILE" help:"Record every acknowledged copy in this file." group:"Report"`
	Sink      *string         `placeholder:"URL" help:"Statistics of a godwit sink: then delivery is measured and the books are reconciled." group:"Report"`
	ResetSink bool            `help:"Make the sink forget everything before the run." group:"Report"`
	Wait      *units.Duration `placeholder:"TIME" help:"Time to wait for the sink while nothing more arrives there (10s)." group:"Report"`
	JSON      bool            `name:"json" help:"Print the report as JSON." group:"Report"`
}

// Help teaches by example.
func (loadCmd) Help() string {
	return `Injects mail and reports accept rate and latency; with --sink also delivery, and
whether everything acknowledged arrived unaltered. Exit code 1 when anything was
not acknowledged, or is missing.

Examples:
  godwit load 127.0.0.1:2525 -n 10000 --connections 50
  godwit load 127.0.0.1:2525 --duration 30s --rate 500 --sink http://127.0.0.1:8027
  godwit load http://127.0.0.1:8025 -n 100000 --recipients 10000 --content stored --substitute --key "$KEY"`
}

// Run injects and reports.
func (c *loadCmd) Run(e *env) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	l, err := load.New(o, load.Deps{Log: slog.New(slog.NewTextHandler(e.errOut, nil)), Progress: e.errOut})
	if err != nil {
		return err
	}
	report, err := l.Run(e.ctx)
	if report == nil || report.Acked+report.Refused+report.Unknown == 0 && err != nil {
		return fmt.Errorf("%w; does anything listen at %s?", err, o.Target)
	}
	if c.JSON {
		err = joined(show.JSON(e.out, report), err)
	} else {
		err = joined(report.WriteText(e.out), err)
	}
	if err != nil {
		return err
	}
	return verdict(report)
}

func joined(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// verdict turns a report that is not OK into an error that says why.
func verdict(r *load.Report) error {
	switch {
	case r.OK():
		return nil
	case r.Refused+r.Unknown > 0:
		return fmt.Errorf("load: %s not acknowledged", show.Plural(r.Refused+r.Unknown, "message"))
	case r.Acked == 0:
		return fmt.Errorf("load: nothing was injected")
	}
	b := r.Delivery.Books
	return fmt.Errorf("load: of %d acknowledged %d are missing and %d altered; bounced ones count as missing here", b.Acked, len(b.Missing), len(b.Altered))
}

// options are the file's, with the flags over them.
func (c *loadCmd) options() (load.Options, error) {
	o := load.DefaultOptions()
	if c.Config != "" {
		if err := readOptions(c.Config, &o); err != nil {
			return o, err
		}
	}
	if c.Target != "" {
		o.Target = c.Target
		o.Mode = load.ModeSMTP
		if strings.HasPrefix(o.Target, "http://") || strings.HasPrefix(o.Target, "https://") {
			o.Mode = load.ModeHTTP
		}
		o.Target = strings.TrimPrefix(o.Target, "smtp://")
	}
	if o.Target == "" {
		return o, usageError{fmt.Errorf("load: no target: give host:port or http://host:port")}
	}
	c.amount(&o)
	c.message(&o)
	c.way(&o)
	if o.Count == 0 && o.Duration == 0 {
		return o, usageError{fmt.Errorf("load: without end: give --count or --duration")}
	}
	if err := o.Validate(); err != nil {
		return o, usageError{fmt.Errorf("load: %w", err)}
	}
	return o, nil
}

func (c *loadCmd) amount(o *load.Options) {
	set(&o.Count, c.Count)
	set(&o.Duration, c.Duration)
	set(&o.Rate, c.Rate)
	set(&o.Connections, c.Connections)
	set(&o.Recipients, c.Recipients)
	set(&o.Timeout, c.Timeout)
	set(&o.GiveUp, c.GiveUp)
	set(&o.Ledger, c.Ledger)
	set(&o.Sink, c.Sink)
	set(&o.Wait, c.Wait)
	o.ResetSink = o.ResetSink || c.ResetSink
}

func (c *loadCmd) message(o *load.Options) {
	set(&o.Size, c.Size)
	set(&o.From, c.From)
	set(&o.DomainCount, c.DomainCount)
	set(&o.Stream, c.Stream)
	set(&o.Tenant, c.Tenant)
	set(&o.Pool, c.Pool)
	set(&o.Run, c.Name)
	set(&o.Seed, c.Seed)
	o.SameBody = o.SameBody || c.SameBody
	o.EightBit = o.EightBit || c.EightBit
	o.NoSums = o.NoSums || c.NoSums
	if len(c.Domains) > 0 {
		o.Domains = c.Domains
	}
	if len(c.Locals) > 0 {
		o.Locals = c.Locals
	}
	o.Headers = append(o.Headers, c.Header...)
}

func (c *loadCmd) way(o *load.Options) {
	set(&o.SMTP.Messages, c.Messages)
	set(&o.SMTP.TLS, c.TLS)
	set(&o.SMTP.User, c.User)
	set(&o.SMTP.Password, c.Password)
	o.SMTP.Pipelining = o.SMTP.Pipelining && !c.NoPipelining
	set(&o.HTTP.Key, c.Key)
	set(&o.HTTP.Content, c.Content)
	o.HTTP.Substitute = o.HTTP.Substitute || c.Substitute
	o.HTTP.Gzip = o.HTTP.Gzip || c.Gzip
}
