// Package compose turns a message - a row and the body it shares with others -
// into the bytes that go out. It is deterministic: a retry composes the same
// bytes, since everything that varies comes from the row (its id, its accept
// time, its substitutions) and nothing from the clock or from chance.
//
// What happens depends on the kind of the body:
//
//   - BodyRaw is a complete message already. Its bytes are used as they lie in
//     memory, without a copy, unless 8-bit parts have to be made 7-bit safe.
//   - BodyRawTemplate is rendered as text, header and body apart, so that a value
//     cannot add a header line; missing Date and Message-ID are added.
//   - BodyContent is parsed once per body and kept in a bounded cache with what
//     does not vary already MIME encoded. A campaign of a million equal bodies
//     is encoded and hashed once; only the header is made for each message.
//
// In the end the message is signed for the domain of its From field, the
// signatures on top. Everything before that is done first, because it would
// break a signature: above all the conversion to 7 bits, which a hop without
// 8BITMIME would otherwise do.
package compose

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// Options is the configuration of a Composer.
type Options struct {
	EightBit        string     `toml:"eightbit" doc:"convert makes unsigned 8-bit messages 7-bit safe before signing; pass leaves them, and a peer without 8BITMIME cannot take them"`
	SigningDomains  []string   `toml:"signing_domains" doc:"domains that sign every message in addition to the domain of its From field"`
	MessageIDDomain string     `toml:"message_id_domain" doc:"domain of the Message-IDs made here; empty takes the domain of the From field"`
	CacheSize       units.Size `toml:"cache_size" doc:"memory for parsed and encoded contents that several messages share"`
}

// The values of Options.EightBit.
const (
	eightBitConvert = "convert"
	eightBitPass    = "pass"
)

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{EightBit: eightBitConvert, CacheSize: 64 << 20}
}

// Validate checks the options by themselves.
func (o Options) Validate() error {
	if o.EightBit != eightBitConvert && o.EightBit != eightBitPass {
		return fmt.Errorf("eightbit: %q is neither convert nor pass", o.EightBit)
	}
	for _, d := range append([]string{o.MessageIDDomain}, o.SigningDomains...) {
		if strings.ContainsAny(d, " \t\r\n@<>:;") {
			return fmt.Errorf("signing_domains, message_id_domain: %q is not a domain", d)
		}
	}
	if o.CacheSize < 0 {
		return errors.New("cache_size: must not be negative")
	}
	return nil
}

// Bodies loads the body of a message, from memory or disk. The bytes stay valid
// and unchanged until release is called; release may be nil.
type Bodies interface {
	Body(ctx context.Context, m *mail.Message) (data []byte, release func(), err error)
}

// Renderer renders a template source; html escapes substituted values. An error
// of the template may have a method Position() (line, column int), counted from 1,
// and one that a later attempt may not meet, Temporary() bool.
type Renderer interface {
	Render(ctx context.Context, src string, vars map[string]any, html bool) (string, error)
}

// Signer makes complete DKIM-Signature fields for a domain, none if it has no key.
// SignDigest is for a body shared by many messages: it takes the body's hashes
// (relaxed, simple; zero means not known) from digest and fills in what it computes.
type Signer interface {
	Sign(domain string, at time.Time, header []byte, body ...[]byte) ([]byte, error)
	SignDigest(domain string, at time.Time, header []byte, digest *[2][32]byte, body ...[]byte) ([]byte, error)
}

// Deps is what a Composer needs from outside.
type Deps struct {
	Bodies     Bodies
	Renderer   Renderer // nil: messages with templates are deferred
	Signer     Signer   // nil: nothing is signed
	Hostname   string   // for Message-IDs where From has no domain
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Composer composes messages. It is safe for concurrent use.
type Composer struct {
	opts    Options
	deps    Deps
	log     *slog.Logger
	cache   *cache
	metrics *metrics
	pool    sync.Pool
}

// New returns a Composer.
func New(o Options, d Deps) (*Composer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if d.Bodies == nil {
		return nil, errors.New("compose: no Bodies")
	}
	if d.Hostname == "" {
		d.Hostname = "localhost"
	}
	c := &Composer{opts: o, deps: d, log: d.Logger, cache: newCache(int64(o.CacheSize))}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.pool.New = func() any { return new(work) }
	var err error
	if c.metrics, err = newMetrics(d.Registerer); err != nil {
		return nil, fmt.Errorf("compose: %w", err)
	}
	return c, nil
}

// Compose returns the exact bytes of the message, to be released when they are
// sent. The error is always a *mail.OutcomeError: bounced with class render when
// the message cannot be rendered, deferred with class policy when its body or its
// signature cannot be had now.
func (c *Composer) Compose(ctx context.Context, m *mail.Message) (*mail.Composed, error) {
	var composed *mail.Composed
	var err error
	switch m.Body.Kind {
	case mail.BodyRaw:
		composed, err = c.composeRaw(ctx, m)
	case mail.BodyRawTemplate:
		composed, err = c.composeTemplate(ctx, m)
	case mail.BodyContent:
		composed, err = c.composeContent(ctx, m)
	default:
		err = deferred("unknown kind of body", fmt.Errorf("body kind %d", m.Body.Kind))
	}
	if err == nil {
		c.metrics.composed(m.Body.Kind)
		return composed, nil
	}
	failure := c.outcome(ctx, m, err)
	c.metrics.failed(failure)
	return nil, failure
}

// work is the memory that composing one message needs. It belongs to the
// Composed until Release.
type work struct {
	parts  net.Buffers
	head   []byte
	body   builder
	digest [2][32]byte
}

// keepBuffer is the largest buffer that goes back to the pool.
const keepBuffer = 256 << 10

func (c *Composer) get() *work { return c.pool.Get().(*work) }

// put takes w back; the slices it points to must not be used any more.
func (c *Composer) put(w *work) {
	if cap(w.head) > keepBuffer || cap(w.body.buf) > keepBuffer {
		return
	}
	clear(w.parts[:cap(w.parts)])
	w.parts, w.head, w.digest = w.parts[:0], w.head[:0], [2][32]byte{}
	w.body.reset()
	c.pool.Put(w)
}

// finish signs and assembles the parts: signatures, header, body. On error the
// caller still owns w.
func (c *Composer) finish(m *mail.Message, w *work, eightBit bool, header []byte, digest *[2][32]byte, release func(), body ...[]byte) (*mail.Composed, error) {
	fields, err := c.sign(m, header, digest, body)
	if err != nil {
		return nil, deferred("the message cannot be signed now", err)
	}
	w.parts = w.parts[:0]
	if len(fields) > 0 {
		w.parts = append(w.parts, fields)
	}
	w.parts = append(w.parts, header)
	for _, b := range body {
		if len(b) > 0 {
			w.parts = append(w.parts, b)
		}
	}
	return mail.NewComposed(w.parts, eightBit, func() {
		c.put(w)
		if release != nil {
			release()
		}
	}), nil
}

// sign makes the signatures of the From domain and of the configured ones.
func (c *Composer) sign(m *mail.Message, header []byte, digest *[2][32]byte, body [][]byte) ([]byte, error) {
	if c.deps.Signer == nil {
		return nil, nil
	}
	from := fromDomain(header)
	var fields []byte
	var err error
	if from != "" {
		if fields, err = c.deps.Signer.SignDigest(from, m.Accepted, header, digest, body...); err != nil {
			return nil, err
		}
	}
	for _, domain := range c.opts.SigningDomains {
		if strings.EqualFold(domain, from) {
			continue
		}
		more, err := c.deps.Signer.SignDigest(domain, m.Accepted, header, digest, body...)
		if err != nil {
			return nil, err
		}
		fields = append(fields, more...)
	}
	if len(fields) == 0 {
		c.metrics.unsigned.Inc()
	}
	return fields, nil
}
