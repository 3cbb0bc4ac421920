package sink

import (
	"fmt"
	"slices"
	"strings"

	"github.com/godwit-mta/godwit/internal/units"
)

// The TLS behaviours of a provider.
const (
	TLSOff  = "off"  // STARTTLS is not offered
	TLSOn   = "on"   // a self-signed certificate for the provider's hosts
	TLSFail = "fail" // STARTTLS is offered, the handshake fails
)

// Behaviour says how a provider treats mail. The zero value accepts everything.
type Behaviour struct {
	Greylist       units.Duration `toml:"greylist" doc:"The first attempt of a (reverse path, recipient) is deferred; accepted after this time."`
	Defer          float64        `toml:"defer" doc:"Share of attempts that is deferred, 0 to 1."`
	Bounce         float64        `toml:"bounce" doc:"Share of recipients that do not exist, 0 to 1."`
	Drop           float64        `toml:"drop" doc:"Share of messages after whose final dot the connection is closed without a reply, 0 to 1."`
	AtData         bool           `toml:"at_data" doc:"Deferrals and bounces are answered to the final dot instead of to RCPT."`
	Texts          string         `toml:"texts" doc:"Whose reply texts to use: generic, gmail, outlook, microsoft365, yahoo, icloud, comcast, orange, gmx, qq or 163."`
	DeferReplies   []string       `toml:"defer_replies" doc:"Replies of deferrals instead of the texts', such as 451 4.7.1 try later. A 421 closes the connection."`
	BounceReplies  []string       `toml:"bounce_replies" doc:"Replies of bounces instead of the texts', such as 550 5.1.1 no such user."`
	BannerDelay    units.Duration `toml:"banner_delay" doc:"Tarpit: time before the banner."`
	ReplyDelay     units.Duration `toml:"reply_delay" doc:"Tarpit: time before each reply to MAIL and RCPT."`
	DotDelay       units.Duration `toml:"dot_delay" doc:"Time before the reply to the final dot."`
	MaxConnections int            `toml:"max_connections" doc:"Connections at a time; more are answered 421. 0 for no limit."`
	MaxMessages    int            `toml:"max_messages" doc:"Messages per connection; the next MAIL is refused with limit_code. 0 for no limit."`
	LimitCode      int            `toml:"limit_code" doc:"421 (closes the connection) or 451 for max_messages."`
	Rate           float64        `toml:"rate" doc:"Recipients per second; above it they are deferred as rate limited. 0 for no limit."`

	SourceConnections int            `toml:"source_connections" doc:"Connections at a time from one address; more are turned away in the provider's words. 0 for no limit."`
	SourceConnectRate units.Rate     `toml:"source_connect_rate" doc:"New connections from one address in any such time, such as 10/s."`
	SourceRate        units.Rate     `toml:"source_rate" doc:"MAIL commands from one address in any such time, such as 100/s; more are refused in the provider's words. Only what is accepted uses it up."`
	BlockAfter        int            `toml:"block_after" doc:"Puts an address on the block list when it went above these limits so often within block_window; 0 for never."`
	BlockWindow       units.Duration `toml:"block_window" doc:"Time within which block_after counts; 1m by default."`
	BlockFor          units.Duration `toml:"block_for" doc:"Time after which a blocked address is good again; 1m by default."`
	BlockAt           string         `toml:"block_at" doc:"When a blocked address is told: at mail, or at connect, which turns new connections away."`

	MaxSize       units.Size `toml:"max_size" doc:"Largest message; 0 for no limit."`
	MaxRecipients int        `toml:"max_recipients" doc:"Recipients per message; more are answered 452 4.5.3. 0 for no limit."`
	TLS           string     `toml:"tls" doc:"off, on (self-signed certificate) or fail (the handshake fails)."`
	RequireTLS    bool       `toml:"require_tls" doc:"MAIL before STARTTLS is answered 530 5.7.0."`
	Without       []string   `toml:"without" doc:"Extensions not offered: PIPELINING, 8BITMIME, SMTPUTF8, CHUNKING, SIZE, DSN, ENHANCEDSTATUSCODES. full mode can only leave out SMTPUTF8 and DSN."`
}

func (b Behaviour) validate(key string, full bool) error {
	for _, s := range []struct {
		key   string
		share float64
	}{{"defer", b.Defer}, {"bounce", b.Bounce}, {"drop", b.Drop}} {
		if !(s.share >= 0 && s.share <= 1) {
			return fmt.Errorf("%s.%s: must be between 0 and 1", key, s.key)
		}
	}
	if err := b.validateSources(key); err != nil {
		return err
	}
	switch {
	case b.Rate < 0:
		return fmt.Errorf("%s.rate: must not be negative", key)
	case b.LimitCode != 0 && b.LimitCode != 421 && b.LimitCode != 451:
		return fmt.Errorf("%s.limit_code: must be 421 or 451", key)
	case b.TLS != "" && b.TLS != TLSOff && b.TLS != TLSOn && b.TLS != TLSFail:
		return fmt.Errorf("%s.tls: must be off, on or fail, not %q", key, b.TLS)
	case b.RequireTLS && b.TLS != TLSOn:
		return fmt.Errorf("%s.require_tls: needs tls = %q", key, TLSOn)
	case b.Texts != "" && !slices.Contains(textNames(), b.Texts):
		return fmt.Errorf("%s.texts: must be one of %s", key, strings.Join(textNames(), ", "))
	}
	for _, r := range slices.Concat(b.DeferReplies, b.BounceReplies) {
		if _, err := parseReply(r); err != nil {
			return fmt.Errorf("%s.defer_replies, bounce_replies: %w", key, err)
		}
	}
	for _, name := range b.Without {
		c, known := capabilities()[strings.ToUpper(name)]
		if !known {
			return fmt.Errorf("%s.without: no extension %q", key, name)
		}
		if full && c&fullCanOmit == 0 {
			return fmt.Errorf("%s.without: mode %q always offers %s; use mode = %q", key, ModeFull, name, ModeFast)
		}
	}
	return nil
}

// The moments at which a blocked address is told.
const (
	BlockAtMail    = "mail"
	BlockAtConnect = "connect"
)

// maxWindow is the largest count of a rate per source: each remembers as many instants.
const maxWindow = 1 << 20

func (b Behaviour) validateSources(key string) error {
	switch {
	case b.SourceConnections < 0:
		return fmt.Errorf("%s.source_connections: must not be negative", key)
	case b.SourceConnectRate.Count > maxWindow:
		return fmt.Errorf("%s.source_connect_rate: at most %d are counted", key, maxWindow)
	case b.SourceRate.Count > maxWindow:
		return fmt.Errorf("%s.source_rate: at most %d are counted", key, maxWindow)
	case b.BlockAfter < 0 || b.BlockAfter > maxWindow:
		return fmt.Errorf("%s.block_after: must be 0 to %d", key, maxWindow)
	case b.BlockWindow < 0:
		return fmt.Errorf("%s.block_window: must not be negative", key)
	case b.BlockFor < 0:
		return fmt.Errorf("%s.block_for: must not be negative", key)
	case b.BlockAt != "" && b.BlockAt != BlockAtMail && b.BlockAt != BlockAtConnect:
		return fmt.Errorf("%s.block_at: must be %s or %s, not %q", key, BlockAtMail, BlockAtConnect, b.BlockAt)
	}
	return nil
}
