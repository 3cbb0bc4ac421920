package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
)

const (
	firstPause = 10 * time.Millisecond // between attempts to connect; doubles
	lastPause  = 500 * time.Millisecond
	lastWords  = 2 * time.Second // for a transaction that is under way when the run is ended
)

// smtpSender injects over one SMTP connection at a time.
type smtpSender struct {
	load     *Load
	tally    *tally
	template *template
	conn     *smtpConn
	out      []byte
	rcpts    []string
	accepted []bool
}

// errRefused says that a reply was not the wanted one; it is counted already.
var errRefused = errors.New("refused")

func (s *smtpSender) close() {
	if s.conn != nil {
		s.conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := io.WriteString(s.conn, "QUIT\r\n"); err == nil {
			_, _ = s.conn.reply() // polite: the server need not see a broken connection
		}
		s.drop()
	}
}

func (s *smtpSender) drop() {
	if s.conn != nil {
		s.conn.stop()
		s.conn.Close()
		s.conn = nil
	}
}

// send injects one transaction. It connects first if it must, and again if the
// connection turns out dead before any content was sent.
func (s *smtpSender) send(ctx context.Context, n int64, copies int) error {
	s.rcpts = s.rcpts[:0]
	for i := range copies {
		s.rcpts = append(s.rcpts, string(s.load.targets.address(nil, n+int64(i))))
	}
	for {
		if s.conn == nil {
			if err := s.connect(ctx); err != nil {
				return err
			}
		}
		fresh := s.conn.sent == 0
		contentSent, err := s.transaction(ctx, n)
		if s.conn != nil {
			s.conn.sent++
		}
		switch {
		case err == nil || errors.Is(err, errRefused):
			if limit := s.load.opts.SMTP.Messages; limit > 0 && s.conn != nil && s.conn.sent >= limit {
				s.close()
			}
			return nil
		case contentSent || ctx.Err() != nil:
			s.drop()
			s.load.lose(s.tally, err, copies)
			return nil
		}
		s.drop()
		s.tally.errors["before content: "+brief(err)]++
		if fresh {
			sleep(ctx, firstPause) // a server that closes at once must not be hammered
		}
	}
}

// connect tries until it succeeds, or GiveUp or the run is over.
func (s *smtpSender) connect(ctx context.Context) error {
	giveUp := time.Now().Add(s.load.opts.GiveUp.D())
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		c, err := s.load.dial(ctx)
		if err == nil {
			s.tally.connections++
			s.conn = c
			return nil
		}
		s.tally.connectErrors++
		s.tally.errors["connect: "+brief(err)]++
		if s.load.pace.over(ctx) || time.Now().Add(pause).After(giveUp) {
			return fmt.Errorf("load: connect: %w", err)
		}
		sleep(ctx, pause)
	}
}

// transaction injects one message to s.rcpts. contentSent tells whether the
// server can have it when err is not nil.
func (s *smtpSender) transaction(ctx context.Context, n int64) (contentSent bool, err error) {
	c, t := s.conn, s.template
	c.SetDeadline(time.Now().Add(s.load.opts.Timeout.D()))
	if ctx.Err() != nil {
		c.SetDeadline(time.Now().Add(lastWords)) // ctx ended before the line above, which undid what it set
	}
	id, sum := t.set(n, false)
	began := s.tally.begin()
	accepted, err := s.envelope()
	if errors.Is(err, errRefused) && s.conn != nil {
		if _, err := s.step([]byte("RSET\r\n")); err != nil { // MAIL may have been accepted
			s.drop()
		}
	}
	if err != nil {
		return false, err
	}
	content := t.wire
	if accepted == 0 {
		content = []byte(".\r\n") // pipelined, the server said 354 though it took no recipient (RFC 2920 §3.1)
	}
	if _, err := c.Write(content); err != nil {
		return true, err
	}
	code, err := c.reply()
	if err != nil {
		return true, err
	}
	if accepted == 0 {
		return true, s.after(code)
	}
	if code != 250 {
		s.load.fail(s.tally, codeOf(code, c.answer), accepted)
		return true, s.after(code)
	}
	a := ledger.Ack{At: s.tally.done(began), Began: began, Key: id, ID: queuedAs(c.answer), Sum: sum, Size: int64(len(t.plain))}
	for i, to := range s.rcpts {
		if s.accepted[i] {
			a.Recipient = to
			s.load.acknowledge(s.tally, &a)
		}
	}
	return true, nil
}

// after drops a connection that the server is about to close.
func (s *smtpSender) after(code int) error {
	if code == 421 {
		s.drop()
	}
	return errRefused
}

// envelope sends MAIL, RCPT and DATA and reads their replies. It returns how
// many recipients were accepted; errRefused when no content may follow.
func (s *smtpSender) envelope() (accepted int, err error) {
	o := &s.load.opts
	s.out = append(s.out[:0], "MAIL FROM:<"...)
	s.out = append(s.out, o.From...)
	s.out = append(s.out, '>')
	if o.EightBit && s.conn.caps["8BITMIME"] {
		s.out = append(s.out, " BODY=8BITMIME"...)
	}
	s.out = append(s.out, "\r\n"...)
	if !o.SMTP.Pipelining {
		return s.lockStep()
	}
	for _, to := range s.rcpts {
		s.out = appendRcpt(s.out, to)
	}
	s.out = append(s.out, "DATA\r\n"...)
	if _, err := s.conn.Write(s.out); err != nil {
		return 0, err
	}
	mail, err := s.conn.reply()
	if err != nil {
		return 0, err
	}
	if mail != 250 {
		s.load.fail(s.tally, codeOf(mail, s.conn.answer), len(s.rcpts))
		if mail == 421 {
			return 0, s.after(mail)
		}
	}
	if accepted, err = s.rcptReplies(mail == 250); err != nil {
		return 0, err
	}
	return s.dataReply(accepted)
}

// rcptReplies reads the replies to all pipelined RCPTs; they only count when MAIL was accepted.
func (s *smtpSender) rcptReplies(count bool) (accepted int, err error) {
	s.accepted = s.accepted[:0]
	for i := range s.rcpts {
		code, err := s.conn.reply()
		if err != nil {
			return 0, err
		}
		if code/100 != 2 && !count {
			code = 0 // counted with MAIL
		}
		if accepted, err = s.rcptReply(code, i, accepted); err != nil {
			return 0, err
		}
	}
	return accepted, nil
}

// rcptReply notes the reply to the i-th RCPT and returns the new number of
// accepted recipients. A 421 takes all of them back: nothing was injected.
func (s *smtpSender) rcptReply(code, i, accepted int) (int, error) {
	ok := code/100 == 2
	s.accepted = append(s.accepted, ok)
	switch {
	case ok:
		return accepted + 1, nil
	case code == 421:
		s.load.fail(s.tally, codeOf(code, s.conn.answer), accepted+len(s.rcpts)-i)
		return 0, s.after(code)
	case code != 0:
		s.load.fail(s.tally, codeOf(code, s.conn.answer), 1)
	}
	return accepted, nil
}

// dataReply reads the reply to DATA.
func (s *smtpSender) dataReply(accepted int) (int, error) {
	code, err := s.conn.reply()
	switch {
	case err != nil:
		return 0, err
	case code == 354:
		return accepted, nil
	case accepted > 0:
		s.load.fail(s.tally, codeOf(code, s.conn.answer), accepted)
	}
	return 0, s.after(code)
}

// lockStep waits for each reply before the next command.
func (s *smtpSender) lockStep() (accepted int, err error) {
	code, err := s.step(s.out)
	if err != nil {
		return 0, err
	}
	if code != 250 {
		s.load.fail(s.tally, codeOf(code, s.conn.answer), len(s.rcpts))
		return 0, s.after(code)
	}
	s.accepted = s.accepted[:0]
	for i, to := range s.rcpts {
		s.out = appendRcpt(s.out[:0], to)
		if code, err = s.step(s.out); err != nil {
			return 0, err
		}
		if accepted, err = s.rcptReply(code, i, accepted); err != nil {
			return 0, err
		}
	}
	if accepted == 0 {
		return 0, errRefused
	}
	if _, err := s.conn.Write([]byte("DATA\r\n")); err != nil {
		return 0, err
	}
	return s.dataReply(accepted)
}

func (s *smtpSender) step(command []byte) (int, error) {
	if _, err := s.conn.Write(command); err != nil {
		return 0, err
	}
	return s.conn.reply()
}

func appendRcpt(b []byte, to string) []byte {
	b = append(b, "RCPT TO:<"...)
	b = append(b, to...)
	return append(b, ">\r\n"...)
}
