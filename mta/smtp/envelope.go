package smtp

import (
	"bytes"
	"errors"
	"strconv"

	gosmtp "github.com/emersion/go-smtp"
)

// refusal is a reply as an error; it never leaves the package.
type refusal verdict

func (r *refusal) Error() string { return r.text }

func refuse(code int, enhanced gosmtp.EnhancedCode, text string) error {
	return &refusal{code, enhanced, text}
}

// unknownParam is RFC 5321 section 4.1.1.11: also for what is known but not offered.
func unknownParam(key []byte) error {
	return refuse(555, ec(5, 5, 4), "Parameter "+string(key)+" is not supported")
}

func badParam(key string) error {
	return refuse(501, ec(5, 5, 4), "Bad value of parameter "+key)
}

// mail is MAIL FROM:<reverse path> [parameters], RFC 5321 section 4.1.1.2.
func (c *conn) mail(arg []byte) {
	if !c.greeted() {
		return
	}
	if c.inTx {
		// Section 3.3: the open transaction stays as it is.
		c.bad(503, ec(5, 5, 1), "Already in a transaction, say RSET first")
		return
	}
	opts := &gosmtp.MailOptions{}
	from, err := c.parseMail(arg, opts)
	if err != nil {
		c.badArg(err)
		return
	}
	if limit := int64(c.opt.MaxMessageBytes); limit > 0 && opts.Size > limit {
		c.reply(552, ec(5, 3, 4), "Message larger than "+strconv.FormatInt(limit, 10)+" bytes")
		return
	}
	v := c.judge(c.sess.Mail(from.addr, opts), verdict{250, ec(2, 1, 0), "Sender OK"}, temporary)
	if v.code/100 == 2 {
		c.inTx, c.utf8 = true, opts.UTF8
	}
	c.answer(v)
}

// rcpt is RCPT TO:<forward path> [parameters], RFC 5321 section 4.1.1.3.
func (c *conn) rcpt(arg []byte) {
	if !c.greeted() {
		return
	}
	if !c.inTx {
		c.bad(503, ec(5, 5, 1), "Say MAIL first")
		return
	}
	c.tried++
	opts := &gosmtp.RcptOptions{}
	to, err := c.parseRcpt(arg, opts)
	if err != nil {
		c.badArg(err)
		return
	}
	if limit := c.opt.MaxRecipients; limit > 0 && c.rcpts >= limit {
		c.reply(452, ec(4, 5, 3), "Too many recipients, send the rest in another transaction")
		return
	}
	v := c.judge(c.sess.Rcpt(to.addr, opts), verdict{250, ec(2, 1, 5), "Recipient OK"}, temporary)
	if v.code/100 == 2 {
		c.rcpts++
	}
	c.answer(v)
}

// badArg replies to a wrong argument.
func (c *conn) badArg(err error) {
	var r *refusal
	if errors.As(err, &r) {
		c.bad(r.code, r.enhanced, r.text)
	}
}

// pathArg reads "FROM:<path>" or "TO:<path>"; syntax is the enhanced code for
// a bad address. Blanks after the colon are not in the grammar, but are sent by many clients.
func pathArg(arg []byte, keyword string, syntax gosmtp.EnhancedCode) (path, []byte, error) {
	n := len(keyword)
	if len(arg) < n || !bytes.EqualFold(arg[:n], []byte(keyword)) {
		return path{}, nil, refuse(501, ec(5, 5, 4), "Syntax: "+keyword+"<address>")
	}
	p, rest, err := parsePath(bytes.TrimLeft(arg[n:], " "))
	if err != nil {
		return path{}, nil, refuse(501, syntax, err.Error())
	}
	if len(rest) > 0 && rest[0] != ' ' {
		return path{}, nil, refuse(501, syntax, errSyntax.Error())
	}
	return p, rest, nil
}

// param is one "KEY" or "KEY=value".
type param struct {
	key, val []byte
	hasVal   bool
}

// nextParam takes one parameter off s; ok is false at the end.
func nextParam(s []byte) (p param, rest []byte, ok bool, err error) {
	s = bytes.TrimLeft(s, " ")
	if len(s) == 0 {
		return p, nil, false, nil
	}
	word, rest, _ := bytes.Cut(s, []byte{' '})
	p.key, p.val, p.hasVal = bytes.Cut(word, []byte{'='})
	if !validKeyword(p.key) || p.hasVal && (len(p.val) == 0 || bytes.ContainsAny(p.val, "=\t")) {
		return p, nil, false, refuse(501, ec(5, 5, 4), "Bad parameter syntax")
	}
	return p, rest, true, nil
}

// validKeyword is esmtp-keyword of RFC 5321 section 4.1.2.
func validKeyword(k []byte) bool {
	for i, ch := range k {
		if !isLetDig(ch) && (ch != '-' || i == 0) {
			return false
		}
	}
	return len(k) > 0
}

// seen remembers which parameters there were: none may come twice.
type seen uint

func (s *seen) twice(bit seen) bool {
	was := *s&bit != 0
	*s |= bit
	return was
}

func (c *conn) parseMail(arg []byte, opts *gosmtp.MailOptions) (path, error) {
	from, rest, err := pathArg(arg, "FROM:", ec(5, 1, 7))
	if err != nil {
		return from, err
	}
	if from.local {
		return from, refuse(501, ec(5, 1, 7), errSyntax.Error())
	}
	var had seen
	for {
		p, next, ok, err := nextParam(rest)
		if err != nil {
			return from, err
		}
		if !ok {
			break
		}
		if err := c.mailParam(p, opts, &had); err != nil {
			return from, err
		}
		rest = next
	}
	if from.eightBit && !opts.UTF8 {
		return from, refuse(553, ec(5, 6, 7), "Address above ASCII needs SMTPUTF8")
	}
	return from, nil
}

func (c *conn) mailParam(p param, opts *gosmtp.MailOptions, had *seen) error {
	if !c.ESMTP() {
		return unknownParam(p.key)
	}
	var buf [16]byte
	switch key := upper(buf[:], p.key); string(key) {
	case "SIZE":
		n, err := strconv.ParseUint(string(p.val), 10, 63)
		if err != nil || len(p.val) > 20 || had.twice(1) {
			return badParam("SIZE")
		}
		opts.Size = int64(n)
		return nil
	case "BODY":
		return c.bodyParam(p, opts, had.twice(2))
	case "SMTPUTF8":
		if !c.opt.SMTPUTF8 {
			return unknownParam(p.key)
		}
		if p.hasVal || had.twice(4) {
			return badParam("SMTPUTF8")
		}
		opts.UTF8 = true
		return nil
	case "RET", "ENVID":
		if !c.opt.DSN {
			return unknownParam(p.key)
		}
		return dsnMailParam(string(key), p, opts, had)
	case "AUTH":
		if !c.authAllowed() || len(c.mechanisms()) == 0 {
			return unknownParam(p.key)
		}
		return authParam(p, opts, had.twice(32))
	}
	return unknownParam(p.key)
}

func (c *conn) bodyParam(p param, opts *gosmtp.MailOptions, twice bool) error {
	if !c.opt.EightBitMIME {
		return unknownParam(p.key)
	}
	var buf [16]byte
	switch string(upper(buf[:], p.val)) {
	case "7BIT":
		opts.Body = gosmtp.Body7Bit
	case "8BITMIME":
		opts.Body = gosmtp.Body8BitMIME
	case "BINARYMIME":
		return refuse(555, ec(5, 5, 4), "BINARYMIME is not supported")
	default:
		return badParam("BODY")
	}
	if twice {
		return badParam("BODY")
	}
	return nil
}

// dsnMailParam reads RET and ENVID, RFC 3461 sections 4.3 and 4.4.
func dsnMailParam(key string, p param, opts *gosmtp.MailOptions, had *seen) error {
	var buf [4]byte
	if key == "RET" {
		switch string(upper(buf[:], p.val)) {
		case "FULL":
			opts.Return = gosmtp.DSNReturnFull
		case "HDRS":
			opts.Return = gosmtp.DSNReturnHeaders
		default:
			return badParam(key)
		}
		if had.twice(8) {
			return badParam(key)
		}
		return nil
	}
	id, ok := decodeXtext(p.val)
	if !ok || id == "" || len(p.val) > 100 || !printableASCII(id) || had.twice(16) {
		return badParam(key)
	}
	opts.EnvelopeID = id
	return nil
}

// authParam reads AUTH=, RFC 4954 section 5.
func authParam(p param, opts *gosmtp.MailOptions, twice bool) error {
	id, ok := decodeXtext(p.val)
	if !ok || twice {
		return badParam("AUTH")
	}
	if id == "<>" {
		id = ""
	} else if m, rest, err := parsePath([]byte("<" + id + ">")); err != nil || len(rest) > 0 || m.local || m.eightBit {
		return badParam("AUTH")
	}
	opts.Auth = &id
	return nil
}

func (c *conn) parseRcpt(arg []byte, opts *gosmtp.RcptOptions) (path, error) {
	to, rest, err := pathArg(arg, "TO:", ec(5, 1, 3))
	if err != nil {
		return to, err
	}
	if to.addr == "" {
		return to, refuse(501, ec(5, 1, 3), "The null path is no recipient")
	}
	if to.eightBit && !c.utf8 {
		return to, refuse(553, ec(5, 6, 7), "Address above ASCII needs SMTPUTF8")
	}
	var had seen
	for {
		p, next, ok, err := nextParam(rest)
		if err != nil {
			return to, err
		}
		if !ok {
			return to, nil
		}
		if err := c.rcptParam(p, opts, &had); err != nil {
			return to, err
		}
		rest = next
	}
}
