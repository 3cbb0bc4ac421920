package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// smtpConn is a connection after EHLO, STARTTLS and AUTH.
type smtpConn struct {
	net.Conn
	r      *bufio.Reader
	caps   map[string]bool
	sent   int
	stop   func() bool // ends the watch on the context
	answer []byte      // text of the last reply's last line
}

// dial opens a connection and brings it to the point where MAIL may follow.
func (l *Load) dial(ctx context.Context) (*smtpConn, error) {
	d := net.Dialer{Timeout: l.opts.Timeout.D()}
	raw, err := d.DialContext(ctx, "tcp", l.opts.Target)
	if err != nil {
		return nil, err
	}
	c := &smtpConn{Conn: raw}
	// When the run is ended from outside, what is under way may end, but not for long.
	c.stop = context.AfterFunc(ctx, func() { raw.SetDeadline(time.Now().Add(lastWords)) })
	raw.SetDeadline(time.Now().Add(l.opts.Timeout.D()))
	if err := l.greet(c); err != nil {
		c.stop()
		raw.Close()
		return nil, err
	}
	return c, nil
}

func (l *Load) greet(c *smtpConn) error {
	o := l.opts.SMTP
	if o.TLS == TLSImplicit {
		c.Conn = tls.Client(c.Conn, l.tlsConfig())
	}
	c.r = bufio.NewReaderSize(c.Conn, 4096)
	if err := c.want(220); err != nil {
		return err
	}
	if err := c.hello(o.Hello); err != nil {
		return err
	}
	if o.TLS == TLSStart {
		if err := c.ask(220, "STARTTLS"); err != nil {
			return err
		}
		c.Conn = tls.Client(c.Conn, l.tlsConfig())
		c.r = bufio.NewReaderSize(c.Conn, 4096)
		if err := c.hello(o.Hello); err != nil {
			return err
		}
	}
	if o.User != "" {
		secret := base64.StdEncoding.EncodeToString([]byte("\x00" + o.User + "\x00" + o.Password))
		return c.ask(235, "AUTH PLAIN "+secret)
	}
	return nil
}

// tlsConfig verifies nothing: the targets are test servers with certificates of their own making.
func (l *Load) tlsConfig() *tls.Config {
	host, _, _ := net.SplitHostPort(l.opts.Target)
	return &tls.Config{ServerName: host, InsecureSkipVerify: true}
}

func (c *smtpConn) hello(name string) error {
	if _, err := io.WriteString(c.Conn, "EHLO "+name+"\r\n"); err != nil {
		return err
	}
	c.caps = map[string]bool{}
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		code, more, text, err := cutReply(line)
		if err != nil {
			return err
		}
		if code != 250 {
			return &replyError{code, string(text)}
		}
		word, _, _ := strings.Cut(string(text), " ")
		c.caps[strings.ToUpper(word)] = true
		if !more {
			return nil
		}
	}
}

func (c *smtpConn) ask(code int, command string) error {
	if _, err := io.WriteString(c.Conn, command+"\r\n"); err != nil {
		return err
	}
	return c.want(code)
}

func (c *smtpConn) want(code int) error {
	got, err := c.reply()
	if err == nil && got != code {
		err = &replyError{got, string(c.answer)}
	}
	return err
}

// reply reads one reply; the text of its last line is in c.answer until the next.
func (c *smtpConn) reply() (int, error) {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		code, more, text, err := cutReply(line)
		if err != nil {
			return 0, err
		}
		if !more {
			c.answer = text
			return code, nil
		}
	}
}

// cutReply takes a reply line apart.
func cutReply(line []byte) (code int, more bool, text []byte, err error) {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) < 3 {
		return 0, false, nil, errBadReply
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, nil, errBadReply
		}
		code = code*10 + int(c-'0')
	}
	if len(line) == 3 {
		return code, false, nil, nil
	}
	return code, line[3] == '-', line[4:], nil
}

var errBadReply = errors.New("not an SMTP reply")

// replyError is a reply that was not the wanted one.
type replyError struct {
	code int
	text string
}

// Error implements error.
func (e *replyError) Error() string { return codeOf(e.code, []byte(e.text)) }

// codeOf is a reply without its text: the code and the enhanced code.
func codeOf(code int, text []byte) string {
	s := strconv.Itoa(code)
	word, _, _ := bytes.Cut(text, []byte(" "))
	if bytes.Count(word, []byte(".")) == 2 && len(word) <= 9 && (word[0] >= '2' && word[0] <= '5') {
		s += " " + string(word)
	}
	return s
}

// queuedAs finds the message id in the reply to the final dot.
func queuedAs(text []byte) string {
	_, id, ok := bytes.Cut(text, []byte("queued as "))
	if !ok {
		return ""
	}
	id, _, _ = bytes.Cut(id, []byte(" "))
	return string(id)
}

// brief is an error as a short stable text to count by.
func brief(err error) string {
	var reply *replyError
	var op *net.OpError
	switch {
	case errors.As(err, &reply):
		return reply.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &op):
		if op.Timeout() {
			return "timeout"
		}
		return op.Err.Error()
	}
	return err.Error()
}

// notConnected tells that an error arose while connecting, so that nothing can have been sent.
func notConnected(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
