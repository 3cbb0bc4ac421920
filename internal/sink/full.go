package sink

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"

	"github.com/emersion/go-smtp"
)

// newFull returns go-smtp's server for one provider. It plays against us as a
// program that is not ours; what it cannot do (leave out extensions, the order
// of replies) is what fast is for.
func (s *Sink) newFull(p *provider) *smtp.Server {
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return s.newSession(c, p), nil
	}))
	srv.Domain = p.host()
	srv.MaxMessageBytes = int64(p.Behaviour.MaxSize)
	srv.MaxLineLength = 0 // the limit would also hold inside BDAT and fail there when input is pipelined
	srv.ReadTimeout = s.opts.Idle.D()
	srv.WriteTimeout = s.opts.Idle.D()
	srv.EnableSMTPUTF8 = p.has(capSMTPUTF8)
	srv.EnableDSN = p.has(capDSN)
	srv.ErrorLog = log.New(io.Discard, "", 0) // broken connections are what a simulator is for
	srv.TLSConfig = p.tls
	return srv
}

// session is a go-smtp session; what it decides is in visit.
type session struct {
	visit
	smtp   *smtp.Conn
	digest digest
}

func (s *Sink) newSession(c *smtp.Conn, p *provider) *session {
	n := &session{
		visit:  visit{sink: s, owner: p, peer: c.Conn().RemoteAddr().String()},
		smtp:   c,
		digest: digest{sums: s.sums, strict: s.opts.Strict},
	}
	below := c.Conn()
	if t, ok := below.(*tls.Conn); ok {
		n.secure = true
		below = t.NetConn()
		p.counts.secure.Add(1)
	}
	n.conn, _ = below.(*countedConn) // the listener gives no others
	return n
}

// Reset implements smtp.Session.
func (n *session) Reset() { n.reset() }

// Logout implements smtp.Session.
func (n *session) Logout() error { return nil }

// Mail implements smtp.Session.
func (n *session) Mail(from string, opts *smtp.MailOptions) error {
	return n.answer(n.mail(from, opts.UTF8))
}

// Rcpt implements smtp.Session.
func (n *session) Rcpt(to string, _ *smtp.RcptOptions) error { return n.answer(n.rcpt(to)) }

// Data implements smtp.Session.
func (n *session) Data(r io.Reader) error {
	n.digest.reset()
	if _, err := io.Copy(&n.digest, r); err != nil {
		var known *smtp.SMTPError
		if errors.As(err, &known) {
			for _, d := range n.rcpts {
				n.judged(d.p, refuse(reply{code: known.Code}))
			}
		}
		return err // the library's own, such as the size limit, or a broken connection
	}
	return n.answer(n.finish(&n.digest))
}

// answer turns a verdict into what go-smtp expects. It has no way to close a
// connection, so a last reply is written here.
func (n *session) answer(v verdict) error {
	n.sink.pause(v.delay)
	c := n.smtp.Conn()
	switch {
	case v.drop:
		c.Close()
		return net.ErrClosed
	case v.close:
		c.Write(v.reply.append(nil, true))
		c.Close()
		return net.ErrClosed
	case v.reply.code == 0:
		return nil
	}
	return &smtp.SMTPError{Code: v.reply.code, EnhancedCode: enhancedCode(v.reply.enhanced), Message: v.reply.text}
}

func enhancedCode(s string) smtp.EnhancedCode {
	if !isEnhanced(s) {
		return smtp.NoEnhancedCode
	}
	var code smtp.EnhancedCode
	part := 0
	for i := range len(s) {
		if s[i] == '.' {
			part++
			continue
		}
		code[part] = code[part]*10 + int(s[i]-'0')
	}
	return code
}
