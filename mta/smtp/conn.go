package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

var zeroTime time.Time

// lingerTime and lingerBytes bound how long a closed connection is still read,
// so that a peer in the middle of sending gets our last reply rather than a reset.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 1 << 20
)

// transactionGrace is what a transaction under way gets beyond TotalTimeout.
const transactionGrace = 5 * time.Minute

// conn is one connection. All fields belong to its goroutine, except those
// after mu.
type conn struct {
	srv   *Server
	opt   *Options
	id    ConnID
	start time.Time
	in    input
	out   []byte // replies not sent yet

	sess    gosmtp.Session // nil before EHLO
	verb    string         // the command being answered
	pending []byte         // a command that ended a BDAT transfer and is still to be run
	ended   string         // why the loop ends; empty while it goes on
	linger  bool           // the peer may still be sending when we close
	noReply bool           // close without sending what is in out
	acked   bool           // out holds the reply to a message
	authed  bool

	// the transaction
	inTx  bool
	utf8  bool
	rcpts int // accepted
	tried int // RCPT commands

	lineDeadline time.Time // for the command being read
	dataDeadline time.Time // for the message being read
	sum          Summary

	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	nc      net.Conn
	tls     *tls.Conn
	remote  net.Addr
	helo    string
	esmtp   bool
	idle    bool // last seen waiting for a command outside a transaction
	waiting bool // last seen waiting for a command
	killed  bool
}

// serve is the life of the connection.
func (c *conn) serve() {
	defer c.finish()
	if !c.open() {
		return
	}
	for c.ended == "" {
		c.step()
	}
}

// open does the TLS handshake where it comes first, and the greeting.
func (c *conn) open() bool {
	defer c.caught()
	if c.opt.ImplicitTLS && c.tls == nil {
		c.setTLS(tls.Server(c.nc, c.srv.deps.TLS))
	}
	if c.tls != nil && !c.handshake() {
		return false
	}
	if c.srv.draining.Load() {
		c.drained()
		return false
	}
	if greet := c.srv.deps.Greet; greet != nil {
		if err := greet(c); err != nil {
			c.answer(c.judge(err, temporary, verdict{421, ec(4, 3, 0), temporary.text}))
			c.endLinger("refused at greeting")
			return false
		}
	}
	c.reply(220, none, c.opt.Domain+" ESMTP")
	return true
}

// step reads one command and runs it.
func (c *conn) step() {
	defer c.caught()
	line := c.pending
	c.pending = nil
	if line == nil {
		var err error
		c.verb = ""
		if line, err = c.command(); err != nil {
			c.lineFailed(err)
			return
		}
	}
	c.dispatch(line)
}

// command reads the next command line.
func (c *conn) command() ([]byte, error) {
	if !c.inTx && c.srv.draining.Load() {
		return nil, errDraining
	}
	line, err := c.readLine(c.opt.MaxLineLength)
	if err == nil && c.srv.tracing() {
		c.srv.deps.Trace(c.id, FromPeer, maskAuth(line))
	}
	return line, err
}

// lineFailed answers to a command that could not be read.
func (c *conn) lineFailed(err error) {
	switch {
	case c.ended != "":
	case errors.Is(err, errLineLong):
		c.bad(500, ec(5, 5, 2), "Command line too long")
	case errors.Is(err, errLineEnd):
		c.reply(500, ec(5, 5, 2), "Lines must end in CR LF, closing connection")
		c.sum.Errors++
		c.endLinger("bad line end")
	case errors.Is(err, errDraining), errors.Is(err, errKilled):
		c.drained()
	case errors.Is(err, os.ErrDeadlineExceeded) && c.expired():
		c.reply(421, ec(4, 4, 2), c.opt.Domain+" connection open for too long, closing")
		c.end("total timeout")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.reply(421, ec(4, 4, 2), c.opt.Domain+" idle for too long, closing connection")
		c.end("idle timeout")
	case errors.Is(err, io.EOF):
		c.end("eof")
	default:
		c.broken("read error")
	}
}

func (c *conn) drained() {
	c.reply(421, ec(4, 3, 2), c.opt.Domain+" shutting down, try again later")
	c.endLinger("drain")
}

// end makes the loop stop after what is in out has been sent.
func (c *conn) end(reason string) {
	if c.ended == "" {
		c.ended = reason
	}
}

// endLinger is end for a peer that may still be sending.
func (c *conn) endLinger(reason string) {
	c.linger = true
	c.end(reason)
}

// broken makes the loop stop without another byte to the peer.
func (c *conn) broken(reason string) {
	c.noReply = true
	c.end(reason)
}

// caught ends the connection when a Session panicked.
func (c *conn) caught() {
	v := recover()
	if v == nil {
		return
	}
	err := fmt.Errorf("panic: %v", v)
	if c.srv.deps.OnError != nil {
		c.srv.deps.OnError(c.id, c.verb, err)
	}
	c.srv.log.LogAttrs(context.Background(), slog.LevelError, "smtp session panicked",
		slog.Uint64("conn", uint64(c.id)), slog.String("command", c.verb),
		slog.Any("error", err), slog.String("stack", string(debug.Stack())))
	c.reply(421, ec(4, 3, 0), c.opt.Domain+" internal error, closing connection")
	c.endLinger("panic")
}

// finish closes everything. It runs once, whatever happened before.
func (c *conn) finish() {
	if !c.noReply {
		c.flush()
	}
	if c.linger && !c.noReply {
		c.lingerOn()
	}
	_, c.sum.TLS = c.TLSConnectionState()
	c.Close()
	c.cancel()
	c.logout()
	c.in.release()
	c.sum.Reason = c.ended
	c.sum.Duration = time.Since(c.start)
	if c.srv.deps.OnClose != nil {
		c.srv.deps.OnClose(c, c.sum)
	}
	c.srv.remove(c)
}

// logout ends the Session, if there is one.
func (c *conn) logout() {
	if c.sess == nil {
		return
	}
	sess := c.sess
	c.sess = nil
	defer c.caught()
	if err := sess.Logout(); err != nil {
		c.report(fmt.Errorf("logout: %w", err))
	}
}

// lingerOn says that we send no more and reads what is still under way: a
// socket closed with unread data resets the connection, and the peer may lose our last reply.
func (c *conn) lingerOn() {
	half := halfCloser(c.nc)
	if half == nil || half.CloseWrite() != nil {
		return
	}
	c.in.release()
	c.mu.Lock()
	if c.killed {
		c.mu.Unlock()
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	c.mu.Unlock()
	for n := 0; n < lingerBytes; {
		if c.in.read(c.nc) != nil {
			return
		}
		n += c.in.w
		c.in.discard(c.in.w)
	}
}

// halfCloser finds the connection below TLS or a PROXY wrapper that can be closed for writing.
func halfCloser(nc net.Conn) interface{ CloseWrite() error } {
	for range 4 {
		switch t := nc.(type) {
		case *tls.Conn:
			nc = t.NetConn()
		case interface{ CloseWrite() error }:
			return t
		case interface{ Raw() net.Conn }: // go-proxyproto
			nc = t.Raw()
		default:
			return nil
		}
	}
	return nil
}
