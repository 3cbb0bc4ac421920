package smtp

import (
	"bytes"
	"errors"
	"strconv"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

// unsynchronised refuses a command with bytes behind it that were sent before
// our reply was seen. What they are is unknown (content, credentials, or commands that someone
// put in front of a TLS handshake), so they must not be run as commands.
func (c *conn) unsynchronised() bool {
	if len(c.in.pending()) == 0 {
		return false
	}
	c.reply(554, ec(5, 5, 0), c.verb+" must be the last command before our reply, closing connection")
	c.sum.Errors++
	c.endLinger("bad pipelining")
	return true
}

// data is DATA, RFC 5321 section 4.1.1.4.
func (c *conn) data(arg []byte) {
	if c.unsynchronised() || !c.greeted() || !c.noArg(arg) || !c.hasRecipients() {
		return
	}
	c.reply(354, none, "End data with <CR><LF>.<CR><LF>")
	if c.flush() != nil {
		return
	}
	c.transfer(newBody(c))
}

// hasRecipients refuses content without an envelope.
func (c *conn) hasRecipients() bool {
	switch {
	case c.rcpts > 0:
		return true
	case !c.inTx:
		c.bad(503, ec(5, 5, 1), "Say MAIL first")
	case c.tried > 0:
		c.reply(554, ec(5, 5, 1), "No valid recipients")
	default:
		c.bad(503, ec(5, 5, 1), "Say RCPT first")
	}
	return false
}

// transfer hands the content to the Session and replies, which ends the
// transaction.
func (c *conn) transfer(b *body) {
	if c.opt.DataTimeout > 0 {
		c.dataDeadline = time.Now().Add(c.opt.DataTimeout.D())
	}
	if c.acked && c.flush() != nil {
		// A pipelined message before this one is accepted; its reply must
		// not wait until this one is.
		return
	}
	c.in.grow()
	err := c.sess.Data(b)
	whole := b.drain(int64(c.opt.DrainBytes), err != nil && !accepted(err))
	b.err = errBodyDone
	c.sum.Bytes += b.size
	if b.cut != nil {
		c.cutOff(b, err)
		return
	}
	v := verdict{250, ec(2, 0, 0), "OK"}
	if b.refused != nil {
		v = verdict{b.refused.Code, b.refused.EnhancedCode, b.refused.Message}
	} else {
		v = c.judge(err, v, temporary)
	}
	if v.code/100 == 2 && whole {
		c.sum.Messages++
	}
	if !whole {
		if v.code/100 == 2 { // what the Session has taken is not what the peer is sending
			v = verdict{552, ec(5, 3, 4), gosmtp.ErrDataTooLarge.Message}
		}
		c.endLinger("refused message too large to drain")
	}
	c.answer(v)
	c.acked = true
	c.resetTx()
}

// accepted reports whether an error is a success with a text.
func accepted(err error) bool {
	var se *gosmtp.SMTPError
	return errors.As(err, &se) && se != nil && se.Code/100 == 2
}

// cutOff ends a transfer whose stream broke. There is no reply to the message: none would be
// true. A command that ended a chunked transfer is run next.
func (c *conn) cutOff(b *body, err error) {
	var se *gosmtp.SMTPError
	if err != nil && !errors.Is(err, b.cut) && !errors.As(err, &se) {
		c.report(err)
	}
	switch {
	case c.pending != nil:
		c.resetTx()
	case b.line != nil:
		c.lineFailed(b.line)
	default:
		c.broken("read error in message")
	}
}

// parseChunk reads the argument of BDAT: "size [LAST]".
func parseChunk(arg []byte) (size int64, last, ok bool) {
	num, rest, more := bytes.Cut(arg, []byte{' '})
	if more {
		if !bytes.EqualFold(bytes.TrimLeft(rest, " "), []byte("LAST")) {
			return 0, false, false
		}
		last = true
	}
	n, err := strconv.ParseUint(string(num), 10, 62)
	return int64(n), last, err == nil && len(num) <= 20
}

// bdat is the first BDAT of a message, or one that is out of order (RFC 3030
// section 2). In any case its chunk follows.
func (c *conn) bdat(arg []byte) {
	size, last, ok := parseChunk(arg)
	if !ok {
		c.badChunk()
		return
	}
	if !c.opt.Chunking || c.rcpts == 0 {
		if !c.skipChunk(size) {
			return
		}
		if !c.opt.Chunking {
			c.bad(502, ec(5, 5, 1), "Command not implemented")
		} else if c.greeted() {
			c.hasRecipients()
		}
		return
	}
	b := newBody(c)
	b.chunked = true
	b.setChunk(size, last)
	c.transfer(b)
}

// badChunk closes the connection: without the chunk's size there is no
// telling where the next command is.
func (c *conn) badChunk() {
	c.bad(501, ec(5, 5, 4), "Syntax: BDAT size [LAST]; closing connection")
	c.endLinger("bad BDAT")
}

// setChunk begins a chunk. One that would make the message too large is refused unread.
func (b *body) setChunk(size int64, last bool) {
	b.chunk, b.left, b.last = size, size, last
	if limit := int64(b.c.opt.MaxMessageBytes); limit > 0 && size > limit-b.size {
		b.refused = gosmtp.ErrDataTooLarge
	}
}

// skipChunk reads a chunk that nobody wants.
func (c *conn) skipChunk(size int64) bool {
	b := newBody(c)
	b.chunked = true
	b.setChunk(size, true)
	if c.opt.DataTimeout > 0 {
		c.dataDeadline = time.Now().Add(c.opt.DataTimeout.D())
	}
	defer func() { c.dataDeadline = zeroTime }()
	if size > int64(c.opt.DrainBytes) {
		c.reply(552, ec(5, 3, 4), gosmtp.ErrDataTooLarge.Message)
		c.endLinger("refused message too large to drain")
		return false
	}
	c.in.grow()
	b.drain(size, true)
	if b.cut != nil {
		c.broken("read error in message")
		return false
	}
	return true
}

// nextChunk replies to a chunk and waits for the next one. It runs inside Session.Data,
// so no second goroutine is needed to join the chunks. Commands that end the
// transfer are left in c.pending and the Session's reader ends in
// gosmtp.ErrDataReset; others are refused and the transfer goes on.
func (c *conn) nextChunk(b *body) bool {
	c.reply(250, ec(2, 0, 0), strconv.FormatInt(b.chunk, 10)+" octets received")
	for c.ended == "" {
		line, err := c.command()
		if errors.Is(err, errLineLong) {
			c.lineFailed(err)
			continue
		}
		if err != nil {
			b.line, b.cut = err, gosmtp.ErrDataReset
			return false
		}
		verb, arg := splitVerb(line)
		var buf [8]byte
		switch string(upper(buf[:], verb)) {
		case "BDAT":
			size, last, ok := parseChunk(arg)
			if !ok {
				c.badChunk()
				continue
			}
			c.in.grow()
			b.setChunk(size, last)
			return true
		case "NOOP":
			c.reply(250, ec(2, 0, 0), "OK")
		case "RSET", "QUIT", "EHLO", "HELO":
			c.pending, b.cut = line, gosmtp.ErrDataReset
			return false
		case "DATA":
			if !c.unsynchronised() {
				c.bad(503, ec(5, 5, 1), "DATA and BDAT do not mix")
			}
		default:
			c.bad(503, ec(5, 5, 1), "BDAT or RSET expected")
		}
	}
	b.line, b.cut = errBodyDone, gosmtp.ErrDataReset
	return false
}
