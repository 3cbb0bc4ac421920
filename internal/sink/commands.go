package sink

import (
	"bytes"
	"crypto/tls"
	"strconv"
	"strings"
	"time"
)

// cmdHello answers EHLO or HELO.
func (f *fast) cmdHello(name []byte, extended bool) error {
	if len(name) == 0 {
		return f.mistake(reply{501, "5.5.4", "A host name is needed"})
	}
	f.over()
	f.hello = true
	if !extended {
		f.say(reply{250, "", f.owner.host()})
		return nil
	}
	text := f.owner.host()
	for _, e := range []struct {
		c    capability
		name string
	}{{capPipelining, "PIPELINING"}, {cap8BitMIME, "8BITMIME"}, {capSMTPUTF8, "SMTPUTF8"}, {capChunking, "CHUNKING"},
		{capDSN, "DSN"}, {capEnhanced, "ENHANCEDSTATUSCODES"}} {
		if f.has(e.c) {
			text += "\n" + e.name
		}
	}
	if f.has(capSize) {
		text += "\nSIZE " + strconv.FormatInt(int64(f.owner.behaviour().MaxSize), 10)
	}
	if f.offersTLS() && !f.secure {
		text += "\nSTARTTLS"
	}
	f.say(reply{250, "", text})
	return nil
}

// cmdStartTLS begins TLS. Input that came in clear behind the command is thrown away (RFC 3207 §4.2, and CVE-2011-0411).
func (f *fast) cmdStartTLS() error {
	if f.secure {
		return f.mistake(reply{503, "5.5.1", "TLS is already active"})
	}
	f.say(reply{220, "2.0.0", "Ready to start TLS"})
	if err := f.flush(); err != nil {
		return err
	}
	f.r, f.w = 0, 0
	f.net.SetDeadline(time.Now().Add(30 * time.Second))
	conn := tls.Server(f.net, f.owner.tls)
	if err := conn.Handshake(); err != nil {
		return err
	}
	f.net.SetDeadline(time.Time{})
	f.until = time.Time{}
	f.net, f.secure, f.hello = conn, true, false
	f.owner.counts.secure.Add(1)
	f.over()
	return nil
}

func (f *fast) cmdMail(arg []byte) error {
	path, params, ok := parsePath(arg, "from:")
	switch {
	case !f.hello:
		return f.mistake(reply{503, "5.5.1", "Say EHLO first"})
	case f.opened:
		return f.mistake(reply{503, "5.5.1", "Nested MAIL"})
	case !ok:
		return f.mistake(reply{501, "5.1.7", "Syntax: MAIL FROM:<address>"})
	}
	utf8 := false
	for p := range strings.FieldsSeq(params) {
		name, value, _ := strings.Cut(p, "=")
		name = strings.ToUpper(name)
		utf8 = utf8 || name == "SMTPUTF8"
		if r := f.mailParam(name, value); r.code != 0 {
			return f.mistake(r)
		}
	}
	v := f.mail(path, utf8)
	f.opened = v.ok()
	return f.answer(v, reply{250, "2.1.0", "Ok"})
}

// mailParam judges one ESMTP parameter of MAIL; the reply has code 0 if it is fine.
func (f *fast) mailParam(name, value string) reply {
	switch name {
	case "SIZE":
		size, err := strconv.ParseInt(value, 10, 64)
		if err != nil || size < 0 {
			return reply{501, "5.5.4", "SIZE must be a number"}
		}
		if limit := int64(f.owner.behaviour().MaxSize); f.has(capSize) && limit > 0 && size > limit {
			return reply{552, "5.3.4", "Message is larger than the limit"}
		}
		return f.needs(capSize, name)
	case "BODY":
		if v := strings.ToUpper(value); v != "7BIT" && v != "8BITMIME" {
			return reply{501, "5.5.4", "Unknown BODY type"}
		}
		return f.needs(cap8BitMIME, name)
	case "SMTPUTF8":
		return f.needs(capSMTPUTF8, name)
	case "RET", "ENVID":
		return f.needs(capDSN, name)
	}
	return reply{555, "5.5.4", "Unknown MAIL parameter " + name}
}

func (f *fast) needs(c capability, name string) reply {
	if f.has(c) {
		return reply{}
	}
	return reply{555, "5.5.4", name + " was not offered"}
}

func (f *fast) cmdRcpt(arg []byte) error {
	path, params, ok := parsePath(arg, "to:")
	switch {
	case !f.opened:
		return f.mistake(reply{503, "5.5.1", "MAIL first"})
	case !ok || path == "":
		return f.mistake(reply{501, "5.1.3", "Syntax: RCPT TO:<address>"})
	}
	for p := range strings.FieldsSeq(params) {
		name, _, _ := strings.Cut(p, "=")
		if name = strings.ToUpper(name); name != "NOTIFY" && name != "ORCPT" {
			return f.mistake(reply{555, "5.5.4", "Unknown RCPT parameter " + name})
		}
		if r := f.needs(capDSN, name); r.code != 0 {
			return f.mistake(r)
		}
	}
	return f.answer(f.rcpt(path), reply{250, "2.1.5", "Ok"})
}

// ready tells whether a message may follow, and answers if not.
func (f *fast) ready() (reply, bool) {
	if !f.opened {
		return reply{503, "5.5.1", "MAIL first"}, false
	}
	if len(f.rcpts) == 0 {
		return reply{554, "5.5.1", "No valid recipients"}, false
	}
	return reply{}, true
}

// notReady refuses a message. A pipelining client sends DATA before it knows
// that all its recipients were refused: that is no mistake of its own.
func (f *fast) notReady(r reply) error {
	if !f.opened {
		return f.mistake(r)
	}
	f.say(r)
	return nil
}

func (f *fast) cmdData() error {
	if r, ok := f.ready(); !ok {
		return f.notReady(r)
	}
	f.out = append(f.out, "354 End data with <CR><LF>.<CR><LF>\r\n"...)
	f.digest.reset()
	var dots dotReader
	for {
		used, done := dots.next(f.in[f.r:f.w], &f.digest)
		f.r += used
		if done {
			return f.end()
		}
		if err := f.fill(); err != nil {
			return err
		}
	}
}

// end answers a complete message.
func (f *fast) end() error {
	v := f.finish(&f.digest)
	f.over()
	return f.answer(v, reply{})
}

// cmdBdat takes one message in chunks (RFC 3030). It stays here until LAST, so that only BDAT, and RSET to give up, may follow a chunk.
func (f *fast) cmdBdat(arg []byte) error {
	f.digest.reset()
	for {
		size, last, ok := parseChunk(string(arg))
		if !ok {
			f.say(reply{501, "5.5.4", "Syntax: BDAT size [LAST]"})
			return errClose // where the chunk ends cannot be known
		}
		refusal, ready := f.ready()
		if err := f.chunk(size, ready); err != nil {
			return err
		}
		switch {
		case !ready:
			return f.notReady(refusal)
		case last:
			return f.end()
		}
		f.say(reply{250, "2.0.0", "Ok, " + strconv.FormatInt(size, 10) + " bytes"})
		line, err := f.line()
		if err != nil {
			return err
		}
		if !isBDAT(line) {
			f.over()
			return f.command(line)
		}
		arg = line[5:]
	}
}

// chunk takes the bytes that follow BDAT.
func (f *fast) chunk(size int64, keep bool) error {
	for size > 0 {
		if f.r == f.w {
			if err := f.fill(); err != nil {
				return err
			}
		}
		n := min(int64(f.w-f.r), size)
		if keep {
			f.digest.Write(f.in[f.r : f.r+int(n)])
		}
		f.r += int(n)
		size -= n
	}
	return nil
}

func parseChunk(arg string) (size int64, last, ok bool) {
	number, rest, _ := strings.Cut(strings.TrimSpace(arg), " ")
	n, err := strconv.ParseUint(number, 10, 40)
	last = strings.EqualFold(strings.TrimSpace(rest), "LAST")
	return int64(n), last, err == nil && (last || rest == "")
}

// parsePath reads FROM:<path> or TO:<path> and returns the path without brackets and the parameters.
func parsePath(arg []byte, prefix string) (path, params string, ok bool) {
	if len(arg) < len(prefix) || !foldEqual(arg[:len(prefix)], prefix) {
		return "", "", false
	}
	rest := bytes.TrimLeft(arg[len(prefix):], " ")
	if len(rest) == 0 || rest[0] != '<' {
		return "", "", false
	}
	quoted := false
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			if i+1 < len(rest) && rest[i+1] != ' ' {
				return "", "", false
			}
			return string(rest[1:i]), string(rest[i+1:]), true
		}
	}
	return "", "", false
}
