package smtp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
)

// Options are the limits and extensions of one Server. The zero value of a
// limit means "none", except where it says otherwise.
type Options struct {
	Domain            string `toml:"hostname" doc:"Name of this server in the greeting and in the reply to EHLO."`
	ImplicitTLS       bool   `toml:"implicit_tls" doc:"Start TLS before the greeting, as on port 465 (RFC 8314)."`
	AllowInsecureAuth bool   `toml:"allow_insecure_auth" doc:"Offer AUTH on connections without TLS."`

	MaxRecipients   int        `toml:"max_recipients" doc:"Recipients of one transaction; further ones get 452 4.5.3. 0 = no limit."`
	MaxMessageBytes units.Size `toml:"max_message_size" doc:"Largest message in bytes, announced by SIZE; larger ones get 552 5.3.4. 0 = no limit."`
	MaxLineLength   int        `toml:"max_command_line" doc:"Longest command line in bytes, CR LF included; longer ones get 500 5.5.2."`
	MaxAuthLine     int        `toml:"max_auth_line" doc:"Longest line of an AUTH exchange in bytes, CR LF included (RFC 4954 asks for 12288)."`
	MaxTextLine     int        `toml:"max_text_line" doc:"Longest line of a message in bytes without CR LF; a message with a longer one gets 550 5.6.0. RFC 5321 allows 998; older software sends somewhat longer ones. 0 = no limit."`
	MaxErrors       int        `toml:"max_errors" doc:"Bad commands and failed logins after which the connection is closed with 421. 0 = no limit."`
	DrainBytes      units.Size `toml:"drain_size" doc:"How much of a message that is already refused is still read, so that the sender can be told why; then the connection is closed."`

	IdleTimeout  units.Duration `toml:"idle_timeout" doc:"Time to wait for a whole command line, and for each further piece of a message."`
	TotalTimeout units.Duration `toml:"total_timeout" doc:"Longest life of a connection; a transaction under way then gets 5 minutes more. 0 = no limit."`
	DataTimeout  units.Duration `toml:"data_timeout" doc:"Longest time for one message, from DATA or the first BDAT to its end. 0 = no limit."`
	WriteTimeout units.Duration `toml:"write_timeout" doc:"Time to wait for the peer to take our replies."`

	SMTPUTF8     bool `toml:"smtputf8" doc:"Offer SMTPUTF8 (RFC 6531)."`
	EightBitMIME bool `toml:"eightbitmime" doc:"Offer 8BITMIME (RFC 6152)."`
	Chunking     bool `toml:"chunking" doc:"Offer CHUNKING, the BDAT command (RFC 3030)."`
	DSN          bool `toml:"dsn" doc:"Offer DSN (RFC 3461)."`
}

// DefaultOptions returns the limits of RFC 5321 section 4.5.3 where it names
// some, and all extensions.
//
// MaxTextLine is 4096 rather than 998: much software in the field sends lines
// somewhat over 998 and the composer re-encodes them, while longer ones mean
// a program that forgot to encode, which its owner had better hear of.
func DefaultOptions() Options {
	return Options{
		Domain:          "localhost",
		MaxRecipients:   1000,
		MaxMessageBytes: 50 << 20,
		MaxLineLength:   2048,
		MaxAuthLine:     12288,
		MaxTextLine:     4096,
		MaxErrors:       10,
		DrainBytes:      64 << 20,
		IdleTimeout:     units.Duration(5 * time.Minute),
		TotalTimeout:    units.Duration(2 * time.Hour),
		DataTimeout:     units.Duration(time.Hour),
		WriteTimeout:    units.Duration(2 * time.Minute),
		SMTPUTF8:        true,
		EightBitMIME:    true,
		Chunking:        true,
		DSN:             true,
	}
}

// Validate returns an error that begins with the key at fault.
func (o Options) Validate() error {
	if !validHelo([]byte(o.Domain)) {
		return errors.New("hostname: must be a host name or an address literal")
	}
	for _, f := range []struct {
		key      string
		v        int64
		min, max int64
	}{
		{"max_recipients", int64(o.MaxRecipients), 0, 1 << 30},
		{"max_message_size", int64(o.MaxMessageBytes), 0, 1 << 50},
		{"max_command_line", int64(o.MaxLineLength), 512, bigBuffer},
		{"max_auth_line", int64(o.MaxAuthLine), 512, bigBuffer},
		{"max_text_line", int64(o.MaxTextLine), 0, 1 << 40},
		{"max_errors", int64(o.MaxErrors), 0, 1 << 30},
		{"drain_size", int64(o.DrainBytes), 0, 1 << 50},
		{"idle_timeout", int64(o.IdleTimeout), 0, 1 << 60},
		{"total_timeout", int64(o.TotalTimeout), 0, 1 << 60},
		{"data_timeout", int64(o.DataTimeout), 0, 1 << 60},
		{"write_timeout", int64(o.WriteTimeout), 0, 1 << 60},
	} {
		if f.v < f.min || f.v > f.max {
			return fmt.Errorf("%s: must be between %d and %d", f.key, f.min, f.max)
		}
	}
	if o.MaxTextLine != 0 && o.MaxTextLine < 998 {
		return errors.New("max_text_line: must be 998 or more (RFC 5321 section 4.5.3.1.6), or 0")
	}
	return nil
}

// Direction tells a Trace hook who sent a line.
type Direction byte

// The two directions of a connection.
const (
	FromPeer Direction = 'C'
	ToPeer   Direction = 'S'
)

// Summary is what one connection was, given to Deps.OnClose.
type Summary struct {
	Reason   string        // why it ended, one of a fixed set: "quit", "eof", "idle timeout", …
	Duration time.Duration // from accept to close
	Messages int           // messages whose data got a 2xx reply
	Errors   int           // bad commands and failed logins
	Bytes    int64         // bytes of messages read, as the Session sees them
	TLS      bool          // whether it was encrypted at its end
}

// Deps is what a Server works with. Only Backend must be set.
//
// The hooks are called from the connections' goroutines, so from many at once,
// and hold up the connection while they run.
type Deps struct {
	Backend Backend
	// TLS is the server's configuration; nil: no STARTTLS.
	TLS *tls.Config
	// Log gets errors of sessions and panics; nil discards.
	Log *slog.Logger
	// Greet is called before the greeting; its error is sent instead and the connection closed.
	Greet func(Conn) error
	// Trace gets each line of the dialogue without CR LF; credentials are
	// masked and message content is left out.
	Trace func(id ConnID, dir Direction, line string)
	// Tracing reports whether Trace is to be called now; nil means always.
	Tracing func() bool
	// OnReply gets each reply's code and the command it answers ("" for the greeting
	// and for replies to no command, "?" for an unknown one).
	OnReply func(verb string, code int)
	// OnError gets each error of a Session that was no *gosmtp.SMTPError, and panics.
	OnError func(id ConnID, verb string, err error)
	// OnClose is called once when a connection has ended.
	OnClose func(c Conn, s Summary)
}

func (s *Server) tracing() bool {
	return s.deps.Trace != nil && (s.deps.Tracing == nil || s.deps.Tracing())
}
