package smtp

import (
	"bytes"
	"strconv"
	"strings"

	gosmtp "github.com/emersion/go-smtp"
)

// splitVerb cuts a command line at its first space. Trailing blanks are
// dropped, as RFC 5321 section 4.1.1 allows.
func splitVerb(line []byte) (verb, arg []byte) {
	line = bytes.TrimRight(line, " \t")
	verb, arg, _ = bytes.Cut(line, []byte{' '})
	return verb, arg
}

// upper copies b into buf in upper case; what does not fit is not known
// anyway and yields "".
func upper(buf, b []byte) []byte {
	if len(b) > len(buf) {
		return nil
	}
	for i, ch := range b {
		if 'a' <= ch && ch <= 'z' {
			ch -= 'a' - 'A'
		}
		buf[i] = ch
	}
	return buf[:len(b)]
}

// printable reports whether a line has no control characters. Bytes above
// ASCII are left to the grammar of each command.
func printable(line []byte) bool {
	for _, ch := range line {
		if ch < ' ' && ch != '\t' || ch == 0x7f {
			return false
		}
	}
	return true
}

// dispatch runs one command.
func (c *conn) dispatch(line []byte) {
	c.verb = "?"
	if !printable(line) {
		c.bad(500, ec(5, 5, 2), "Control character in command")
		return
	}
	verb, arg := splitVerb(line)
	var buf [8]byte
	switch string(upper(buf[:], verb)) {
	case "MAIL":
		c.verb = "MAIL"
		c.mail(arg)
	case "RCPT":
		c.verb = "RCPT"
		c.rcpt(arg)
	case "DATA":
		c.verb = "DATA"
		c.data(arg)
	case "BDAT":
		c.verb = "BDAT"
		c.bdat(arg)
	case "EHLO":
		c.verb = "EHLO"
		c.hello(arg, true)
	case "HELO":
		c.verb = "HELO"
		c.hello(arg, false)
	case "AUTH":
		c.verb = "AUTH"
		c.auth(arg)
	case "STARTTLS":
		c.verb = "STARTTLS"
		c.startTLS(arg)
	case "XCLIENT":
		c.verb = "XCLIENT"
		c.xclient(arg)
	default:
		c.minor(string(upper(buf[:], verb)), arg)
	}
}

// minor runs the commands that change little.
func (c *conn) minor(verb string, arg []byte) {
	switch verb {
	case "RSET":
		c.verb = "RSET"
		if c.noArg(arg) {
			c.resetTx()
			c.reply(250, ec(2, 0, 0), "Reset")
		}
	case "NOOP":
		c.verb = "NOOP"
		c.reply(250, ec(2, 0, 0), "OK")
	case "QUIT":
		c.verb = "QUIT"
		if c.noArg(arg) {
			c.reply(221, ec(2, 0, 0), c.opt.Domain+" closing connection")
			c.end("quit")
		}
	case "VRFY":
		c.verb = "VRFY"
		if len(arg) == 0 {
			c.bad(501, ec(5, 5, 4), "VRFY needs an address")
			return
		}
		c.reply(252, ec(2, 0, 0), "Cannot verify, but will take mail and try")
	case "HELP":
		c.verb = "HELP"
		c.reply(214, ec(2, 0, 0), "See RFC 5321")
	case "EXPN", "SEND", "SOML", "SAML", "TURN", "ETRN", "LHLO":
		c.bad(502, ec(5, 5, 1), "Command not implemented")
	default:
		c.bad(500, ec(5, 5, 1), "Command not recognized")
	}
}

func (c *conn) noArg(arg []byte) bool {
	if len(arg) > 0 {
		c.bad(501, ec(5, 5, 4), c.verb+" takes no argument")
		return false
	}
	return true
}

// resetTx forgets the transaction (RFC 5321 section 4.1.1.5) and tells the Session so.
func (c *conn) resetTx() {
	c.inTx, c.utf8, c.rcpts, c.tried = false, false, 0, 0
	c.dataDeadline = zeroTime
	if c.sess != nil {
		c.sess.Reset()
	}
}

// greeted refuses a command that needs EHLO before it.
func (c *conn) greeted() bool {
	if c.sess == nil || c.Hostname() == "" { // the latter after XCLIENT
		c.bad(503, ec(5, 5, 1), "Say EHLO first")
		return false
	}
	return true
}

// hello is EHLO and HELO: RFC 5321 section 4.1.1.1. Names that are no proper
// host names are common and harmless, so only what could do harm in a header field is refused.
func (c *conn) hello(arg []byte, esmtp bool) {
	name := bytes.TrimLeft(arg, " ")
	if !validHelo(name) {
		c.bad(501, ec(5, 5, 4), c.verb+" needs a host name or address literal")
		return
	}
	oldName, oldESMTP := c.Hostname(), c.ESMTP()
	c.setHello(string(name), esmtp)
	if c.sess != nil {
		c.resetTx()
	} else {
		sess, err := c.srv.deps.Backend.NewSession(c)
		if err != nil {
			c.setHello(oldName, oldESMTP)
			c.answer(c.judge(err, temporary, temporary))
			return
		}
		c.sess = sess
	}
	if !esmtp {
		c.reply(250, none, c.opt.Domain)
		return
	}
	c.reply(250, none, c.opt.Domain+"\n"+strings.Join(c.extensions(), "\n"))
}

// validHelo accepts what a host name or address literal may be made of, and the underscore.
func validHelo(name []byte) bool {
	if len(name) == 0 || len(name) > maxDomain {
		return false
	}
	for _, ch := range name {
		switch {
		case isLetDig(ch), ch == '-', ch == '.', ch == '_', ch == ':', ch == '[', ch == ']':
		default:
			return false
		}
	}
	return true
}

// extensions is what EHLO offers: what works on this connection now.
func (c *conn) extensions() []string {
	size := "SIZE"
	if c.opt.MaxMessageBytes > 0 {
		size += " " + strconv.FormatInt(int64(c.opt.MaxMessageBytes), 10)
	}
	list := append(make([]string, 0, 12), "PIPELINING", "ENHANCEDSTATUSCODES", size)
	add := func(on bool, name string) {
		if on {
			list = append(list, name)
		}
	}
	add(c.opt.EightBitMIME, "8BITMIME")
	add(c.opt.SMTPUTF8, "SMTPUTF8")
	add(c.opt.Chunking, "CHUNKING")
	add(c.opt.DSN, "DSN")
	add(c.srv.deps.TLS != nil && c.tls == nil, "STARTTLS")
	if c.opt.MaxRecipients > 0 {
		list = append(list, "LIMITS RCPTMAX="+strconv.Itoa(c.opt.MaxRecipients)) // RFC 9422
	}
	if c.authAllowed() && !c.authed {
		if mechs := c.mechanisms(); len(mechs) > 0 {
			list = append(list, "AUTH "+strings.Join(mechs, " "))
		}
	}
	if x, ok := c.sess.(XClientSession); ok {
		if attrs := x.XClientAttributes(); len(attrs) > 0 {
			list = append(list, "XCLIENT "+strings.Join(attrs, " "))
		}
	}
	return list
}

// authAllowed reports whether passwords may be sent on this connection.
func (c *conn) authAllowed() bool { return c.tls != nil || c.opt.AllowInsecureAuth }

// mechanisms is what the Session offers for AUTH now.
func (c *conn) mechanisms() []string {
	if a, ok := c.sess.(gosmtp.AuthSession); ok {
		return a.AuthMechanisms()
	}
	return nil
}
