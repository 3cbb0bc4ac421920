package smtp

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"unicode/utf8"

	gosmtp "github.com/emersion/go-smtp"
)

// maxReplyText is the text of one reply line: 512 bytes with code, enhanced
// code and CR LF (RFC 5321 section 4.5.3.1.5).
const maxReplyText = 490

// none marks a reply that carries no enhanced code (RFC 2034 section 4:
// the greeting, EHLO, and all 3xx).
var none = gosmtp.NoEnhancedCode

// ec is short for an enhanced code.
func ec(class, subject, detail int) gosmtp.EnhancedCode {
	return gosmtp.EnhancedCode{class, subject, detail}
}

// reply puts one reply into the output; lines of text are separated by '\n'.
func (c *conn) reply(code int, enhanced gosmtp.EnhancedCode, text string) {
	if c.srv.deps.OnReply != nil {
		c.srv.deps.OnReply(c.verb, code)
	}
	for {
		line, rest, more := strings.Cut(text, "\n")
		start := len(c.out)
		c.out = strconv.AppendInt(c.out, int64(code), 10)
		if more {
			c.out = append(c.out, '-')
		} else {
			c.out = append(c.out, ' ')
		}
		if enhanced != none {
			c.out = appendEnhanced(c.out, enhanced)
		}
		c.out = appendText(c.out, line, c.utf8)
		if c.srv.tracing() {
			c.srv.deps.Trace(c.id, ToPeer, string(c.out[start:]))
		}
		c.out = append(c.out, '\r', '\n')
		if !more {
			return
		}
		text = rest
	}
}

func appendEnhanced(b []byte, e gosmtp.EnhancedCode) []byte {
	b = strconv.AppendInt(b, int64(e[0]), 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(e[1]), 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(e[2]), 10)
	return append(b, ' ')
}

// appendText appends a line of text that cannot break the dialogue, whatever
// a Session put into it: no control characters, and UTF-8 only to a peer that asked for it.
func appendText(b []byte, s string, allowUTF8 bool) []byte {
	if len(s) > maxReplyText {
		s = s[:maxReplyText]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
	}
	allowUTF8 = allowUTF8 && utf8.ValidString(s)
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case ch >= 0x80 && !allowUTF8, ch < ' ' && ch != '\t' && ch != '\r', ch == 0x7f:
			b = append(b, '?')
		case ch == '\r': // of a CR LF in the middle of a text
		default:
			b = append(b, ch)
		}
	}
	return b
}

// bad replies to a command that is wrong in itself and counts it.
func (c *conn) bad(code int, enhanced gosmtp.EnhancedCode, text string) {
	c.reply(code, enhanced, text)
	c.countError()
}

// countError closes the connection when there have been too many.
func (c *conn) countError() {
	c.sum.Errors++
	if c.opt.MaxErrors > 0 && c.sum.Errors >= c.opt.MaxErrors && c.ended == "" {
		c.reply(421, ec(4, 7, 0), c.opt.Domain+" too many errors, closing connection")
		c.endLinger("too many errors")
	}
}

// verdict is the code, enhanced code and text of a reply.
type verdict struct {
	code     int
	enhanced gosmtp.EnhancedCode
	text     string
}

// temporary is what a peer is told of an error that is none of its business.
var temporary = verdict{451, gosmtp.EnhancedCode{4, 3, 0}, "Temporary failure, try again later"}

// judge turns what a Session returned into a reply: ok for nil, the
// *gosmtp.SMTPError in err's chain (which may have a 2xx code, for a success with a
// text), else otherwise.
func (c *conn) judge(err error, ok, otherwise verdict) verdict {
	if err == nil {
		return ok
	}
	var se *gosmtp.SMTPError
	if errors.As(err, &se) && se != nil {
		if class := se.Code / 100; class == 2 || class == 4 || class == 5 {
			return verdict{se.Code, enhancedFor(class, se.EnhancedCode), se.Message}
		}
	}
	c.report(err)
	return otherwise
}

// enhancedFor makes the enhanced code agree with the reply's class, as RFC
// 2034 section 4 demands.
func enhancedFor(class int, e gosmtp.EnhancedCode) gosmtp.EnhancedCode {
	if e == none {
		return e
	}
	if e[1] < 0 || e[1] > 999 || e[2] < 0 || e[2] > 999 {
		return ec(class, 0, 0)
	}
	return ec(class, e[1], e[2])
}

// report tells log and hook of an error that the peer is not told.
func (c *conn) report(err error) {
	if c.srv.deps.OnError != nil {
		c.srv.deps.OnError(c.id, c.verb, err)
	}
	c.srv.log.LogAttrs(context.Background(), slog.LevelError, "smtp session failed",
		slog.Uint64("conn", uint64(c.id)), slog.String("command", c.verb), slog.Any("error", err))
}

// answer replies with v. A 421 promises that the connection is closed (RFC
// 5321 section 3.8).
func (c *conn) answer(v verdict) {
	c.reply(v.code, v.enhanced, v.text)
	if v.code == 421 {
		c.endLinger("session refused")
	}
}
