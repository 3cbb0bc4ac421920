package accept

import (
	"errors"
	"fmt"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options are the limits and defaults for everything that comes in.
type Options struct {
	MaxSize          units.Size     `toml:"max_size" doc:"Largest message or content body in bytes, header included; larger ones are refused with 552 5.3.4 or 413."`
	Inline           units.Size     `toml:"inline" doc:"Bodies up to this many bytes are stored inside the spool's segments; larger ones stream to a file of their own and take no memory."`
	Memory           units.Size     `toml:"memory" doc:"Bytes of memory that all bodies being received may take together; injectors wait when it is used up."`
	MaxHeader        units.Size     `toml:"max_header" doc:"Largest header block in bytes; a longer one is refused with 552 5.3.4."`
	MaxReceived      int            `toml:"max_received" doc:"A message with more Received fields than this is a mail loop and refused with 554 5.4.6."`
	MaxRecipients    int            `toml:"max_recipients" doc:"Most recipients of one batch, over SMTP or HTTP."`
	MaxTemplate      units.Size     `toml:"max_template" doc:"Largest message or content in bytes that may hold template tags."`
	MaxSubstitutions units.Size     `toml:"max_substitutions" doc:"Largest substitutions object of one recipient in bytes."`
	Life             units.Duration `toml:"life" doc:"How long delivery is tried, from accept or from the time a message is scheduled for; then it expires with a DSN."`
	MaxDelay         units.Duration `toml:"max_delay" doc:"How far ahead a message may be scheduled."`
	ContentLife      units.Duration `toml:"content_life" doc:"How long content stored by POST /v1/contents can be referred to."`
	Postmaster       string         `toml:"postmaster" doc:"Address that mail to postmaster without a domain is delivered to; empty means postmaster@ the hostname."`
}

// DefaultOptions returns the limits used when nothing is configured.
func DefaultOptions() Options {
	return Options{
		MaxSize:          50 << 20,
		Inline:           1 << 20,
		Memory:           128 << 20,
		MaxHeader:        256 << 10,
		MaxReceived:      50,
		MaxRecipients:    10000,
		MaxTemplate:      512 << 10,
		MaxSubstitutions: 64 << 10,
		Life:             units.Duration(72 * time.Hour),
		MaxDelay:         units.Duration(366 * 24 * time.Hour),
		ContentLife:      units.Duration(7 * 24 * time.Hour),
	}
}

// Validate returns an error that begins with the key it is about.
func (o Options) Validate() error {
	for _, v := range []struct {
		key      string
		min, got int64
	}{
		{"max_size", 1 << 10, int64(o.MaxSize)},
		{"inline", 4 << 10, int64(o.Inline)},
		{"max_header", 1 << 10, int64(o.MaxHeader)},
		{"max_received", 1, int64(o.MaxReceived)},
		{"max_recipients", 1, int64(o.MaxRecipients)},
		{"max_template", 1 << 10, int64(o.MaxTemplate)},
		{"max_substitutions", 2, int64(o.MaxSubstitutions)},
	} {
		if v.got < v.min {
			return fmt.Errorf("%s: must be at least %d, is %d", v.key, v.min, v.got)
		}
	}
	for _, v := range []struct {
		key string
		got units.Duration
	}{{"life", o.Life}, {"max_delay", o.MaxDelay}, {"content_life", o.ContentLife}} {
		if v.got <= 0 {
			return fmt.Errorf("%s: must be positive", v.key)
		}
	}
	if o.Inline > 16<<20 {
		return errors.New("inline: must be at most 16MiB")
	}
	if o.Memory < 4*o.Inline {
		return fmt.Errorf("memory: must be at least four times inline (%v)", 4*o.Inline)
	}
	if o.Postmaster == "" {
		return nil
	}
	if a, err := CheckAddress(o.Postmaster, true); err != nil || a == "" {
		return fmt.Errorf("postmaster: %q is not an address", o.Postmaster)
	}
	return nil
}
