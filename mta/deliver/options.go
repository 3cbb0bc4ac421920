package deliver

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options is what a configuration file can set. The time limits are those of RFC 5321 §4.5.3.2.
type Options struct {
	ConnectTimeout  units.Duration `toml:"connect_timeout" doc:"time to connect to one address"`
	FallbackDelay   units.Duration `toml:"fallback_delay" doc:"time after which the next address of a host is tried beside one that does not answer (RFC 8305)"`
	GreetingTimeout units.Duration `toml:"greeting_timeout" doc:"time to wait for the 220 banner"`
	EHLOTimeout     units.Duration `toml:"ehlo_timeout" doc:"time to wait for the reply to EHLO, HELO, STARTTLS and RSET"`
	TLSTimeout      units.Duration `toml:"tls_timeout" doc:"time for the TLS handshake"`
	MailTimeout     units.Duration `toml:"mail_timeout" doc:"time to wait for the reply to MAIL"`
	RcptTimeout     units.Duration `toml:"rcpt_timeout" doc:"time to wait for the reply to each RCPT"`
	DataTimeout     units.Duration `toml:"data_timeout" doc:"time to wait for the 354 to DATA"`
	BlockTimeout    units.Duration `toml:"block_timeout" doc:"time for the peer to take each 256 KiB block of a message"`
	FinalTimeout    units.Duration `toml:"final_timeout" doc:"time to wait for the reply to the end of a message; too short means duplicates"`
	QuitTimeout     units.Duration `toml:"quit_timeout" doc:"time to wait for the reply to QUIT before closing all the same"`

	MaxHosts     int `toml:"max_hosts" doc:"mail exchangers of a domain tried in one attempt"`
	MaxAddresses int `toml:"max_addresses" doc:"addresses over all mail exchangers tried in one attempt"`

	MessagesPerSession       int    `toml:"messages_per_session" doc:"transactions after which a session is closed politely"`
	RecipientsPerTransaction int    `toml:"recipients_per_transaction" doc:"recipients of equal copies in one transaction"`
	Chunking                 string `toml:"chunking" doc:"use BDAT instead of DATA where offered (RFC 3030): auto or off"`
	Greeting5xx              string `toml:"greeting_5xx" doc:"what a 5xx reply before MAIL from every host means: defer (it blames us, not the recipient) or bounce; 521 and 556 bounce always (RFC 7504)"`

	LocalIPv4 string `toml:"local_ipv4" doc:"local IPv4 address to connect from; empty means the system's choice"`
	LocalIPv6 string `toml:"local_ipv6" doc:"local IPv6 address to connect from; empty means the system's choice"`
}

// The values of Options.Chunking and Options.Greeting5xx.
const (
	Auto   = "auto"
	Off    = "off"
	Defer  = "defer"
	Bounce = "bounce"
)

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	const minute = units.Duration(time.Minute)
	return Options{
		ConnectTimeout:           units.Duration(30 * time.Second),
		FallbackDelay:            units.Duration(250 * time.Millisecond),
		GreetingTimeout:          5 * minute,
		EHLOTimeout:              5 * minute,
		TLSTimeout:               minute,
		MailTimeout:              5 * minute,
		RcptTimeout:              5 * minute,
		DataTimeout:              2 * minute,
		BlockTimeout:             3 * minute,
		FinalTimeout:             10 * minute,
		QuitTimeout:              units.Duration(2 * time.Second),
		MaxHosts:                 5,
		MaxAddresses:             10,
		MessagesPerSession:       100,
		RecipientsPerTransaction: 100,
		Chunking:                 Auto,
		Greeting5xx:              Defer,
	}
}

// Validate reports the first bad value; the error begins with its key.
func (o Options) Validate() error {
	for _, d := range []struct {
		key   string
		value units.Duration
	}{
		{"connect_timeout", o.ConnectTimeout}, {"fallback_delay", o.FallbackDelay}, {"greeting_timeout", o.GreetingTimeout},
		{"ehlo_timeout", o.EHLOTimeout}, {"tls_timeout", o.TLSTimeout}, {"mail_timeout", o.MailTimeout},
		{"rcpt_timeout", o.RcptTimeout}, {"data_timeout", o.DataTimeout}, {"block_timeout", o.BlockTimeout},
		{"final_timeout", o.FinalTimeout}, {"quit_timeout", o.QuitTimeout},
	} {
		if d.value <= 0 {
			return fmt.Errorf("%s: must be positive", d.key)
		}
	}
	switch {
	case o.MaxHosts < 1:
		return errors.New("max_hosts: must be 1 or more")
	case o.MaxAddresses < 1:
		return errors.New("max_addresses: must be 1 or more")
	case o.MessagesPerSession < 1:
		return errors.New("messages_per_session: must be 1 or more")
	case o.RecipientsPerTransaction < 1 || o.RecipientsPerTransaction > 1000:
		return errors.New("recipients_per_transaction: must be 1 to 1000")
	case o.Chunking != Auto && o.Chunking != Off:
		return fmt.Errorf("chunking: %q is neither auto nor off", o.Chunking)
	case o.Greeting5xx != Defer && o.Greeting5xx != Bounce:
		return fmt.Errorf("greeting_5xx: %q is neither defer nor bounce", o.Greeting5xx)
	}
	_, err := NewDirect(o)
	return err
}

// localAddress reads an optional local address.
func localAddress(key, s string, v6 bool) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Is6() != v6 {
		return netip.Addr{}, fmt.Errorf("%s: %q is not such an address", key, s)
	}
	return ip, nil
}
