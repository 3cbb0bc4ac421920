package load

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// The ways to inject.
const (
	ModeSMTP = "smtp"
	ModeHTTP = "http"
)

// The ways to use TLS by SMTP. Certificates are not verified: the targets are test servers.
const (
	TLSOff      = "off"
	TLSStart    = "starttls"
	TLSImplicit = "implicit"
)

// What an HTTP request carries.
const (
	ContentRaw    = "raw"    // a complete message in each request
	ContentParts  = "parts"  // subject and text in each request
	ContentStored = "stored" // subject and text, stored once, then referred to
)

// Options configure a run.
type Options struct {
	Target      string         `toml:"target" doc:"Where to inject: host:port for smtp, the base URL for http."`
	Mode        string         `toml:"mode" doc:"smtp or http."`
	Connections int            `toml:"connections" doc:"Connections at a time."`
	Rate        float64        `toml:"rate" doc:"Messages (copies) per second over all connections; 0 for as many as go."`
	Count       int64          `toml:"count" doc:"Messages (copies) to inject; 0 for no limit."`
	Duration    units.Duration `toml:"duration" doc:"Time to inject for; 0 for no limit."`
	Recipients  int            `toml:"recipients" doc:"Recipients of one transaction or request."`
	Timeout     units.Duration `toml:"timeout" doc:"Limit of one transaction or request."`
	GiveUp      units.Duration `toml:"give_up" doc:"Time without any connection after which a worker ends; until then it tries again."`

	Size     units.Size `toml:"size" doc:"Bytes of each message with its header, as near as its header allows."`
	SameBody bool       `toml:"same_body" doc:"All bodies are equal, only headers differ; otherwise each holds its id in several places."`
	EightBit bool       `toml:"eight_bit" doc:"Bodies hold UTF-8 text beyond ASCII. The target must offer 8BITMIME."`
	NoSums   bool       `toml:"no_sums" doc:"Record no sums of bodies, which cost about 8 us for 10 KB."`

	From        string   `toml:"from" doc:"Reverse path and From field."`
	Domains     []string `toml:"domains" doc:"Recipient domains, or patterns with one %d; with =weight at the end, 1 if absent."`
	DomainCount int      `toml:"domain_count" doc:"Number of domains that a pattern stands for, from 0."`
	Locals      []string `toml:"locals" doc:"Beginnings of the recipients' local parts, with =weight at the end; a number follows. tempfail and others make the provider simulator misbehave."`
	Stream      string   `toml:"stream" doc:"Stream to send as; empty for none."`
	Tenant      string   `toml:"tenant" doc:"X-Godwit-Tenant field, by smtp; empty for none."`
	Pool        string   `toml:"pool" doc:"Pool to send from; empty for none."`
	Headers     []string `toml:"headers" doc:"Further header fields, as Name: value."`
	Seed        uint64   `toml:"seed" doc:"Seed of the choice of domains and local parts."`
	Run         string   `toml:"run" doc:"Name of the run, the first part of every load id; empty makes one. Letters, digits and dots."`

	Ledger    string         `toml:"ledger" doc:"File to which every acknowledged copy is recorded (docs/formats/ledger.md); empty for none."`
	Keep      bool           `toml:"keep" doc:"Keep acknowledgements in memory even without a simulator to compare with."`
	Sink      string         `toml:"sink" doc:"Base URL of the provider simulator's statistics; with it the report covers delivery. Empty for none."`
	ResetSink bool           `toml:"reset_sink" doc:"Make the simulator forget everything before the run."`
	Wait      units.Duration `toml:"wait" doc:"Time to wait for the simulator while nothing more arrives there."`

	SMTP SMTPOptions `toml:"smtp" doc:"Injection by SMTP."`
	HTTP HTTPOptions `toml:"http" doc:"Injection by HTTP."`
}

// SMTPOptions are about mode smtp.
type SMTPOptions struct {
	Messages   int    `toml:"messages" doc:"Messages per connection; 0 for no limit."`
	Pipelining bool   `toml:"pipelining" doc:"Send MAIL, RCPT and DATA together; otherwise wait for each reply, as smtp-source does."`
	TLS        string `toml:"tls" doc:"off, starttls or implicit. Certificates are not verified."`
	User       string `toml:"user" doc:"Name for AUTH PLAIN; empty for none."`
	Password   string `toml:"password" doc:"Password for AUTH PLAIN." secret:"true"`
	Hello      string `toml:"hello" doc:"Name to say in EHLO."`
}

// HTTPOptions are about mode http.
type HTTPOptions struct {
	Key        string `toml:"key" doc:"API key, sent as a bearer token." secret:"true"`
	Gzip       bool   `toml:"gzip" doc:"Compress requests."`
	Content    string `toml:"content" doc:"raw (a complete message in each request), parts (subject and text in each) or stored (stored once, then referred to)."`
	Substitute bool   `toml:"substitute" doc:"With parts and stored: the text has template tags, each recipient has its own values."`
}

// DefaultOptions inject by pipelined SMTP over 20 connections, 10 KB messages to ten domains.
func DefaultOptions() Options {
	return Options{
		Mode: ModeSMTP, Connections: 20, Recipients: 1, Size: 10 << 10,
		Timeout: units.Duration(time.Minute), GiveUp: units.Duration(30 * time.Second), Wait: units.Duration(10 * time.Second),
		From: "load@source.test", Domains: []string{"d%d.test"}, DomainCount: 10, Locals: []string{"u"}, Seed: 1,
		SMTP: SMTPOptions{Pipelining: true, TLS: TLSOff, Hello: "load.source.test"},
		HTTP: HTTPOptions{Content: ContentRaw},
	}
}

// Validate checks o; the error begins with the key that is wrong.
func (o Options) Validate() error {
	if err := o.validateTarget(); err != nil {
		return err
	}
	switch {
	case o.Connections < 1:
		return errors.New("connections: must be positive")
	case !(o.Rate >= 0):
		return errors.New("rate: must not be negative")
	case o.Count < 0:
		return errors.New("count: must not be negative")
	case o.Duration < 0:
		return errors.New("duration: must not be negative")
	case o.Recipients < 1:
		return errors.New("recipients: must be positive")
	case o.Timeout <= 0:
		return errors.New("timeout: must be positive")
	case o.GiveUp <= 0:
		return errors.New("give_up: must be positive")
	case o.Size < 0 || o.Size > 1<<30:
		return errors.New("size: must be between 0 and 1GiB")
	case !strings.Contains(o.From, "@") || strings.ContainsAny(o.From, "<>\r\n "):
		return fmt.Errorf("from: %q is not an address", o.From)
	case o.DomainCount < 0:
		return errors.New("domain_count: must not be negative")
	case strings.Trim(o.Run, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.") != "":
		return fmt.Errorf("run: %q has other characters than letters, digits and dots", o.Run)
	case o.Wait <= 0:
		return errors.New("wait: must be positive")
	}
	for _, h := range append([]string{"Stream: " + o.Stream, "Tenant: " + o.Tenant, "Pool: " + o.Pool}, o.Headers...) {
		if name, _, ok := strings.Cut(h, ":"); !ok || name == "" || strings.ContainsAny(h, "\r\n") {
			return fmt.Errorf("headers: %q is not a header field", h)
		}
	}
	if _, err := newTargets(o); err != nil {
		return err
	}
	return o.validateModes()
}

func (o Options) validateTarget() error {
	switch o.Mode {
	case ModeSMTP:
		if _, _, err := net.SplitHostPort(o.Target); err != nil {
			return fmt.Errorf("target: %w", err)
		}
	case ModeHTTP:
		if u, err := url.Parse(o.Target); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("target: %q is not a URL", o.Target)
		}
	default:
		return fmt.Errorf("mode: must be %s or %s, not %q", ModeSMTP, ModeHTTP, o.Mode)
	}
	return nil
}

func (o Options) validateModes() error {
	switch o.SMTP.TLS {
	case TLSOff, TLSStart, TLSImplicit:
	default:
		return fmt.Errorf("smtp.tls: must be off, starttls or implicit, not %q", o.SMTP.TLS)
	}
	if o.SMTP.Messages < 0 {
		return errors.New("smtp.messages: must not be negative")
	}
	if o.SMTP.Hello == "" || strings.ContainsAny(o.SMTP.Hello, "\r\n ") {
		return errors.New("smtp.hello: must be a host name")
	}
	switch o.HTTP.Content {
	case ContentRaw, ContentParts, ContentStored:
	default:
		return fmt.Errorf("http.content: must be raw, parts or stored, not %q", o.HTTP.Content)
	}
	if o.HTTP.Substitute && o.HTTP.Content == ContentRaw {
		return errors.New("http.substitute: needs content = parts or stored")
	}
	return nil
}
