package sink

import (
	"bytes"
	"errors"
	"net"
	"os"
	"time"
)

const (
	fastBuffer  = 64 << 10
	maxLine     = 4096 // of a command; RFC 5321 §4.5.3.1.4 asks for 512 and extensions for more
	maxErrors   = 20
	readPending = 1 // smallest room for a read
)

// fast is the lean loop: one goroutine, one read buffer, replies gathered until
// the client has nothing more to say. It keeps no message: bodies run through a
// digest as they arrive.
type fast struct {
	visit
	net    net.Conn // below it TLS may begin
	in     []byte
	r, w   int // unread input is in[r:w]
	out    []byte
	digest digest
	hello  bool
	opened bool // MAIL was accepted
	errors int
	until  time.Time // the read deadline
}

// errClose ends a session without being an error.
var errClose = errors.New("sink: session over")

// serveFast runs one session to its end.
func (s *Sink) serveFast(c *countedConn, p *provider) {
	defer c.Close()
	f := &fast{
		visit: visit{sink: s, owner: p, conn: c, peer: c.RemoteAddr().String()},
		net:   c, in: make([]byte, fastBuffer), out: make([]byte, 0, 1024),
		digest: digest{sums: s.sums, strict: s.opts.Strict, eight: !p.has(cap8BitMIME)},
	}
	f.say(reply{220, "", p.host() + " ESMTP Godwit sink"})
	for {
		line, err := f.line()
		if err == nil {
			err = f.command(line)
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				f.say(reply{421, "4.4.2", "Idle for too long"})
			}
			f.flush()
			return
		}
	}
}

func (f *fast) say(r reply) {
	f.out = r.append(f.out, f.hello && f.owner.has(capEnhanced))
}

func (f *fast) flush() error {
	if len(f.out) == 0 {
		return nil
	}
	_, err := f.net.Write(f.out)
	f.out = f.out[:0]
	return err
}

// fill reads more input behind what is unread, after sending the replies that wait.
func (f *fast) fill() error {
	if err := f.flush(); err != nil {
		return err
	}
	if f.r == f.w {
		f.r, f.w = 0, 0
	} else if len(f.in)-f.w < readPending || f.r > fastBuffer/2 {
		f.w = copy(f.in, f.in[f.r:f.w])
		f.r = 0
	}
	if now := time.Now(); f.until.Sub(now) < f.sink.opts.Idle.D()/2 {
		f.until = now.Add(f.sink.opts.Idle.D())
		f.net.SetReadDeadline(f.until)
	}
	n, err := f.net.Read(f.in[f.w:])
	f.w += n
	if n > 0 {
		return nil
	}
	return err
}

// line returns the next command without its CR LF; it is valid until the next fill.
func (f *fast) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(f.in[f.r:f.w], '\n'); i >= 0 {
			line := f.in[f.r : f.r+i]
			f.r += i + 1
			if n := len(line); n > 0 && line[n-1] == '\r' {
				return line[:n-1], nil
			}
			f.say(reply{500, "5.5.2", "Bare LF received"})
			return nil, errClose
		}
		if f.w-f.r > maxLine {
			f.say(reply{500, "5.5.2", "Line too long"})
			return nil, errClose
		}
		if err := f.fill(); err != nil {
			return nil, err
		}
	}
}

// command runs one command; an error ends the session.
func (f *fast) command(line []byte) error {
	if !f.has(capPipelining) && f.r < f.w && f.hello && !isBDAT(line) {
		f.say(reply{503, "5.5.0", "Improper use of SMTP command pipelining"})
		return errClose
	}
	verb, arg := line, []byte(nil)
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		verb, arg = line[:i], line[i+1:]
	}
	switch {
	case foldIs(verb, "mail"):
		return f.cmdMail(arg)
	case foldIs(verb, "rcpt"):
		return f.cmdRcpt(arg)
	case foldIs(verb, "data"):
		return f.cmdData()
	case foldIs(verb, "bdat") && f.has(capChunking):
		return f.cmdBdat(arg)
	case foldIs(verb, "ehlo"):
		return f.cmdHello(arg, true)
	case foldIs(verb, "helo"):
		return f.cmdHello(arg, false)
	case foldIs(verb, "starttls") && f.offersTLS():
		return f.cmdStartTLS()
	case foldIs(verb, "rset"):
		f.over()
		f.say(reply{250, "2.0.0", "Ok"})
	case foldIs(verb, "noop"):
		f.say(reply{250, "2.0.0", "Ok"})
	case foldIs(verb, "vrfy"):
		f.say(reply{252, "2.5.0", "Cannot verify, send mail and see"})
	case foldIs(verb, "quit"):
		f.say(reply{221, "2.0.0", "Bye"})
		return errClose
	default:
		return f.mistake(reply{500, "5.5.1", "Command not recognised"})
	}
	return nil
}

func (f *fast) has(c capability) bool { return f.owner.has(c) }

func foldIs(verb []byte, name string) bool { return len(verb) == len(name) && foldEqual(verb, name) }

func isBDAT(line []byte) bool { return len(line) > 4 && foldEqual(line[:4], "bdat") }

// mistake answers a client's error and ends the session when there are too many.
func (f *fast) mistake(r reply) error {
	f.say(r)
	if f.errors++; f.errors > maxErrors {
		f.say(reply{421, "4.7.0", "Too many errors"})
		return errClose
	}
	return nil
}

func (f *fast) over() { f.reset(); f.opened = false }

// answer carries out a verdict; usual is the reply when it accepts.
func (f *fast) answer(v verdict, usual reply) error {
	if v.delay > 0 {
		if err := f.flush(); err != nil {
			return err
		}
		f.sink.pause(v.delay)
	}
	switch {
	case v.drop:
		f.out = f.out[:0]
		return errClose
	case v.reply.code != 0:
		f.say(v.reply)
	default:
		f.say(usual)
	}
	if v.close {
		return errClose
	}
	return nil
}

func (f *fast) offersTLS() bool {
	return f.owner.tls != nil
}
