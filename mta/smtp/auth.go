package smtp

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
)

// auth is AUTH mechanism [initial response], RFC 4954 section 4.
func (c *conn) auth(arg []byte) {
	if c.unsynchronised() || !c.greeted() {
		return
	}
	mech, initial, ok := c.authArg(arg)
	if !ok {
		return
	}
	srv, err := c.sess.(gosmtp.AuthSession).Auth(mech)
	if err != nil {
		c.authFailed(err)
		return
	}
	for response := initial; ; {
		if mech == sasl.Plain && response != nil && bytes.Count(response, []byte{0}) != 2 {
			c.bad(501, ec(5, 5, 2), "Malformed PLAIN response")
			return
		}
		challenge, done, err := srv.Next(response)
		if err != nil {
			c.authFailed(err)
			return
		}
		if done {
			c.authed = true
			c.reply(235, ec(2, 7, 0), "Authenticated")
			return
		}
		c.reply(334, none, base64.StdEncoding.EncodeToString(challenge))
		if response, ok = c.authResponse(); !ok {
			return
		}
	}
}

// authArg checks that AUTH is allowed now and reads its argument. initial is
// nil if there is none, and empty for "=".
func (c *conn) authArg(arg []byte) (mech string, initial []byte, ok bool) {
	name, rest, _ := bytes.Cut(arg, []byte{' '})
	rest = bytes.TrimLeft(rest, " ")
	mech = strings.ToUpper(string(name))
	offered := c.mechanisms()
	switch {
	case mech == "":
		c.bad(501, ec(5, 5, 4), "Syntax: AUTH mechanism [initial-response]")
	case c.authed:
		c.bad(503, ec(5, 5, 1), "Already authenticated")
	case c.inTx:
		c.bad(503, ec(5, 5, 1), "AUTH is not permitted in a transaction")
	case len(offered) == 0:
		c.bad(502, ec(5, 5, 1), "AUTH is not available")
	case !c.authAllowed():
		c.bad(538, ec(5, 7, 11), "Encryption required, say STARTTLS first")
	case !slices.Contains(offered, mech):
		c.bad(504, ec(5, 5, 4), "Mechanism not available")
	case len(rest) == 0:
		return mech, nil, true
	default:
		if initial, ok = decodeAuth(rest); ok {
			return mech, initial, true
		}
		c.bad(501, ec(5, 5, 2), "Bad base64")
	}
	return "", nil, false
}

// authResponse reads the answer to a challenge.
func (c *conn) authResponse() ([]byte, bool) {
	line, err := c.readLine(c.opt.MaxAuthLine)
	if errors.Is(err, errLineLong) {
		c.bad(500, ec(5, 5, 6), "Authentication exchange line too long")
		return nil, false
	}
	if err != nil {
		c.lineFailed(err)
		return nil, false
	}
	if c.srv.tracing() {
		c.srv.deps.Trace(c.id, FromPeer, "***")
	}
	if c.unsynchronised() {
		return nil, false
	}
	if string(line) == "*" {
		c.bad(501, ec(5, 7, 0), "Authentication cancelled")
		return nil, false
	}
	response, ok := decodeAuth(line)
	if !ok {
		c.bad(501, ec(5, 5, 2), "Bad base64")
	}
	return response, ok
}

// decodeAuth decodes base64; the result is never nil. "=" is the empty string.
func decodeAuth(b []byte) ([]byte, bool) {
	if string(b) == "=" {
		return []byte{}, true
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	return out[:n], err == nil
}

// authFailed replies to a failed login. An error that is no *SMTPError means that we could
// not check, so the peer may try again (RFC 4954 section 6).
func (c *conn) authFailed(err error) {
	var se *gosmtp.SMTPError
	v := verdict{501, ec(5, 5, 2), "Malformed authentication exchange"}
	if !errors.Is(err, sasl.ErrUnexpectedClientResponse) || errors.As(err, &se) {
		v = c.judge(err, v, verdict{454, ec(4, 7, 0), "Temporary authentication failure"})
	}
	if v.code/100 == 2 { // an error is no success here
		v = verdict{535, ec(5, 7, 8), "Authentication failed"}
	}
	c.answer(v)
	c.countError()
}

// maskAuth is a command line for the trace, without credentials.
func maskAuth(line []byte) string {
	verb, arg := splitVerb(line)
	if !bytes.EqualFold(verb, []byte("AUTH")) {
		return string(line)
	}
	mech, _, more := bytes.Cut(arg, []byte{' '})
	if more {
		return "AUTH " + string(mech) + " ***"
	}
	return string(line)
}

// startTLS is STARTTLS, RFC 3207. Everything known of the peer is forgotten.
func (c *conn) startTLS(arg []byte) {
	switch {
	case c.unsynchronised() || !c.greeted() || !c.noArg(arg):
		return
	case c.tls != nil:
		c.bad(503, ec(5, 5, 1), "TLS is already active")
		return
	case c.srv.deps.TLS == nil:
		c.bad(502, ec(5, 5, 1), "TLS is not available")
		return
	case c.inTx:
		c.bad(503, ec(5, 5, 1), "STARTTLS is not permitted in a transaction")
		return
	}
	c.reply(220, ec(2, 0, 0), "Ready to start TLS")
	if c.flush() != nil {
		return
	}
	c.setTLS(tls.Server(c.nc, c.srv.deps.TLS))
	if !c.handshake() {
		return
	}
	c.logout()
	c.authed = false
	c.setHello("", false)
}

// xclient is Postfix's XCLIENT: a trusted proxy says who its client is.
func (c *conn) xclient(arg []byte) {
	if !c.greeted() {
		return
	}
	x, ok := c.sess.(XClientSession)
	var offered []string
	if ok {
		offered = x.XClientAttributes()
	}
	if len(offered) == 0 {
		c.bad(550, ec(5, 7, 0), "XCLIENT is not available to you")
		return
	}
	if c.inTx {
		c.bad(503, ec(5, 5, 1), "XCLIENT is not permitted in a transaction")
		return
	}
	attrs, err := xclientAttrs(arg, offered)
	if err != nil {
		c.bad(501, ec(5, 5, 4), err.Error())
		return
	}
	if err := x.XClient(attrs); err != nil {
		c.answer(c.judge(err, temporary, temporary))
		return
	}
	c.authed = false
	c.resetTx()
	c.setHello(attrs["HELO"], c.ESMTP())
	c.reply(220, none, c.opt.Domain+" ESMTP")
}

// xclientAttrs reads "NAME=value …" with xtext values.
func xclientAttrs(arg []byte, offered []string) (map[string]string, error) {
	attrs := make(map[string]string)
	for {
		p, rest, ok, err := nextParam(arg)
		if err != nil {
			return nil, errors.New("bad attribute syntax")
		}
		if !ok {
			break
		}
		key := strings.ToUpper(string(p.key))
		if _, twice := attrs[key]; twice || !slices.Contains(offered, key) {
			return nil, fmt.Errorf("bad attribute %s", key)
		}
		val, ok := decodeXtext(p.val)
		if !ok || !printableASCII(val) {
			return nil, fmt.Errorf("bad value of attribute %s", key)
		}
		if key == "HELO" && !validHelo([]byte(val)) {
			val = "" // [UNAVAILABLE] and what could do harm
		}
		attrs[key] = val
		arg = rest
	}
	if len(attrs) == 0 {
		return nil, errors.New("XCLIENT needs attributes")
	}
	return attrs, nil
}
