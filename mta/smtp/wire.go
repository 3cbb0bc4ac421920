package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"
)

// purpose tells what a read waits for.
type purpose bool

const (
	forCommand purpose = false
	forBody    purpose = true
)

// fill reads more into the input. It sends the replies first, as reading may
// block; that is what groups the replies to pipelined commands.
func (c *conn) fill(p purpose) error {
	if err := c.flush(); err != nil {
		return err
	}
	if p == forCommand {
		c.in.shrink()
	}
	if err := c.arm(p); err != nil {
		return err
	}
	err := c.in.read(c.nc)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) && p == forCommand {
		// The deadline may have been brought forward to wake us up.
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.killed {
			return errKilled
		}
		if c.idle && c.srv.draining.Load() {
			return errDraining
		}
	}
	return err
}

// arm sets the deadline of the read that comes next, unless the connection is
// to end now. wake and kill see what it has set.
func (c *conn) arm(p purpose) error {
	deadline := c.deadline(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = p == forCommand
	c.idle = c.waiting && !c.inTx
	if c.killed {
		return errKilled
	}
	if c.idle && c.srv.draining.Load() {
		return errDraining
	}
	return c.nc.SetReadDeadline(deadline)
}

// deadline is when the next read must have brought something. A command line
// has one deadline from its first byte to its last; a message gets a new one with each
// piece, under that of the whole message.
func (c *conn) deadline(p purpose) time.Time {
	var d time.Time
	if p == forCommand {
		if c.lineDeadline.IsZero() && c.opt.IdleTimeout > 0 {
			c.lineDeadline = time.Now().Add(c.opt.IdleTimeout.D())
		}
		d = c.lineDeadline
	} else if c.opt.IdleTimeout > 0 {
		d = time.Now().Add(c.opt.IdleTimeout.D())
	}
	d = earlier(d, c.dataDeadline)
	if c.opt.TotalTimeout > 0 {
		total := c.start.Add(c.opt.TotalTimeout.D())
		if c.inTx {
			total = total.Add(transactionGrace)
		}
		d = earlier(d, total)
	}
	return d
}

// earlier returns the earlier of two deadlines, where zero means none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// expired reports whether the connection has outlived TotalTimeout.
func (c *conn) expired() bool {
	return c.opt.TotalTimeout > 0 && time.Since(c.start) >= c.opt.TotalTimeout.D()
}

// flush sends the replies. After a failure the connection is as good as closed.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if c.opt.WriteTimeout > 0 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.opt.WriteTimeout.D()))
	}
	_, err := c.nc.Write(c.out)
	c.out, c.acked = c.out[:0], false
	if cap(c.out) > smallBuffer {
		c.out = nil
	}
	if err != nil {
		c.broken("write error")
	}
	return err
}

// handshake runs the TLS handshake of c.tls. A failed one is not answered:
// the peer would not understand.
func (c *conn) handshake() bool {
	c.mu.Lock()
	c.waiting, c.idle = false, false
	c.mu.Unlock()
	_ = c.nc.SetDeadline(c.deadline(forBody))
	err := c.tls.HandshakeContext(c.ctx)
	_ = c.nc.SetDeadline(zeroTime)
	if err != nil {
		c.broken("tls handshake")
		return false
	}
	return true
}

func (c *conn) setTLS(t *tls.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc, c.tls = t, t
}

// wake makes the connection notice a drain if it is waiting for a command
// outside a transaction; a busy one notices by itself.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// kill ends the connection now: one that waits for a command can still say
// 421, any other is cut off.
func (c *conn) kill() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	if c.waiting {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		return
	}
	_ = closeBelow(c.nc)
}

// cut ends the connection now, whatever it is doing.
func (c *conn) cut() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	_ = closeBelow(c.nc)
}

// closeBelow closes a connection without TLS's close_notify, which could block.
func closeBelow(nc net.Conn) error {
	if t, ok := nc.(*tls.Conn); ok {
		return t.NetConn().Close()
	}
	return nc.Close()
}

// The Conn interface.

func (c *conn) ID() ConnID { return c.id }

func (c *conn) RemoteAddr() net.Addr {
	c.mu.Lock()
	remote, nc := c.remote, c.nc
	c.mu.Unlock()
	if remote != nil {
		return remote
	}
	return nc.RemoteAddr() // without the lock: a PROXY wrapper may have to read first
}

func (c *conn) LocalAddr() net.Addr {
	c.mu.Lock()
	nc := c.nc
	c.mu.Unlock()
	return nc.LocalAddr()
}

func (c *conn) Hostname() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.helo
}

func (c *conn) ESMTP() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.esmtp
}

func (c *conn) TLSConnectionState() (tls.ConnectionState, bool) {
	c.mu.Lock()
	t := c.tls
	c.mu.Unlock()
	if t == nil {
		return tls.ConnectionState{}, false
	}
	return t.ConnectionState(), true
}

func (c *conn) Context() context.Context { return c.ctx }

func (c *conn) SetRemote(addr net.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remote = addr
}

func (c *conn) Close() error {
	c.mu.Lock()
	nc := c.nc
	c.mu.Unlock()
	return nc.Close()
}

func (c *conn) setHello(name string, esmtp bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.helo, c.esmtp = name, esmtp
}
