package deliver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/godwit-mta/godwit/internal/mail"
)

// caps is what the peer offers in its reply to EHLO.
type caps struct {
	pipelining, eightBit, utf8, dsn, chunking, startTLS, size bool

	maxSize int64 // SIZE's argument; 0: none
	maxRcpt int   // RFC 9422 RCPTMAX; 0: none
	maxMail int   // RFC 9422 MAILMAX; 0: none
}

// line takes one line of the reply to EHLO.
func (c *caps) line(text []byte) {
	word, args, _ := bytes.Cut(text, []byte(" "))
	switch strings.ToUpper(string(word)) {
	case "PIPELINING":
		c.pipelining = true
	case "8BITMIME":
		c.eightBit = true
	case "SMTPUTF8":
		c.utf8 = true
	case "DSN":
		c.dsn = true
	case "CHUNKING":
		c.chunking = true
	case "STARTTLS":
		c.startTLS = true
	case "SIZE":
		c.size = true
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(args)), 10, 64); err == nil && n > 0 {
			c.maxSize = n
		}
	case "LIMITS":
		for limit := range strings.FieldsSeq(string(args)) {
			name, value, _ := strings.Cut(limit, "=")
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				continue
			}
			switch strings.ToUpper(name) {
			case "RCPTMAX":
				c.maxRcpt = n
			case "MAILMAX":
				c.maxMail = n
			}
		}
	}
}

// greet takes a fresh connection to the point where MAIL may follow. Neither a
// session nor an outcome means that opportunistic TLS failed.
func (op *opening) greet(ctx context.Context, h mail.Host, conn net.Conn, addr netip.AddrPort, mode mail.TLSMode) (*Session, *mail.Outcome) {
	op.left--
	s := &Session{d: op.d, o: op.o, id: op.id, ehlo: op.route.EHLO, most: op.route.Messages, host: h.Name, address: addr.String(), wire: newWire(conn, &op.d.pools)}
	done := s.wire.watch(ctx)
	out, fallback := s.greet(ctx, op.route, mode)
	done()
	if out == nil && !fallback {
		s.wire.rest()
		return s, nil
	}
	s.wire.close()
	if fallback {
		return nil, nil
	}
	return nil, out
}

func (s *Session) greet(ctx context.Context, route mail.Route, mode mail.TLSMode) (out *mail.Outcome, fallback bool) {
	if out = s.expect2xx("banner", nil); out != nil {
		return out, false
	}
	if out = s.hello(); out != nil {
		return out, false
	}
	if mode == mail.TLSNone {
		return nil, false
	}
	strict := mode != mail.TLSOpportunistic
	if !s.caps.startTLS {
		if strict {
			return tlsFailure("4.7.4", s.host+" does not offer STARTTLS, which is required", nil), false
		}
		return nil, false
	}
	if out = s.expect2xx("STARTTLS", []byte("STARTTLS\r\n")); out != nil {
		switch {
		case out.Class != mail.ClassSMTP || out.Reply.Code == 0:
			return out, !strict
		case strict:
			return tlsFailure("4.7.4", s.host+" refused STARTTLS: "+out.Reply.String(), nil), false
		case out.Reply.Code == 421:
			return out, true
		}
		return nil, false // refused politely: go on in clear
	}
	if err := s.startTLS(ctx, mode); err != nil {
		s.d.d.Logger.Debug("tls handshake failed", "host", s.host, "address", s.address, "error", err.Error())
		return tlsFailure("4.7.5", "TLS handshake with "+s.host+" failed: "+cause(err), err), !strict
	}
	return s.hello(), false
}

// name is ours in EHLO: the source's, or the engine's.
func (s *Session) name() string {
	if s.ehlo != "" {
		return s.ehlo
	}
	return s.d.d.Hostname
}

func tlsFailure(enhanced, text string, err error) *mail.Outcome {
	o := local(mail.Deferred, mail.ClassTLS, 451, enhanced, text, err)
	o.Command = "STARTTLS"
	return &o
}

// hello says EHLO, or HELO where that is not understood (RFC 5321 §3.2).
func (s *Session) hello() *mail.Outcome {
	var c caps
	s.wire.parser.each = c.line
	out := s.expect2xx("EHLO", []byte("EHLO "+s.name()+"\r\n"))
	s.wire.parser.each = nil
	if out == nil {
		s.caps = c
		return nil
	}
	if out.Class != mail.ClassSMTP || out.Reply.Code < 500 {
		return out
	}
	s.caps = caps{}
	return s.expect2xx("HELO", []byte("HELO "+s.name()+"\r\n"))
}

// expect2xx sends a line (nil: none, for the banner) and wants a 2xx reply.
func (s *Session) expect2xx(command string, line []byte) *mail.Outcome {
	timeout := s.o.EHLOTimeout.D()
	if command == "banner" {
		timeout = s.o.GreetingTimeout.D()
	}
	var err error
	if line != nil {
		err = s.wire.write(line, timeout)
	}
	if err == nil {
		err = s.wire.readReply(timeout)
	}
	if err != nil {
		out := s.lost(command, err)
		return &out
	}
	code := s.wire.parser.code
	if code/100 == 2 {
		return nil
	}
	out := mail.Outcome{Kind: mail.Deferred, Class: mail.ClassSMTP, Command: command, Reply: s.wire.parser.mailReply()}
	// A refusal before MAIL is about us, not about a recipient; hosts that take no mail at all say 521 or 556.
	if code == 521 || code == 556 || code/100 == 5 && s.o.Greeting5xx == Bounce {
		out.Kind = mail.Bounced
	}
	return &out
}

// baseTLS completes the base configuration. Sessions are resumed across connections: it saves a round trip and a key exchange.
func baseTLS(base *tls.Config) *tls.Config {
	if base == nil {
		base = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c := base.Clone()
	if c.ClientSessionCache == nil {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1024)
	}
	return c
}

// errInjected: bytes came in clear after the reply to STARTTLS (CVE-2011-0411).
var errInjected = errors.New("unencrypted data after the reply to STARTTLS")

// startTLS runs the handshake. Only TLSVerify looks at the certificate.
func (s *Session) startTLS(ctx context.Context, mode mail.TLSMode) error {
	if s.wire.buffered() > 0 {
		return errInjected
	}
	c := s.d.tls.Clone()
	c.ServerName = s.host
	c.InsecureSkipVerify = mode != mail.TLSVerify
	conn := tls.Client(s.wire.conn, c)
	if err := s.wire.arm(s.o.TLSTimeout.D()); err != nil {
		return err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	s.wire.conn, s.wire.tcp = conn, nil
	state := conn.ConnectionState()
	s.tls = strings.ReplaceAll(tls.VersionName(state.Version), " ", "") + " " + tls.CipherSuiteName(state.CipherSuite)
	s.d.m.tls.WithLabelValues(tls.VersionName(state.Version)).Inc()
	return nil
}
