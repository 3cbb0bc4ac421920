package server

import (
	"io"
	"net"
	"syscall"
	"time"
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// relayBuffer holds a usual message, so that one read and one write move it.
const relayBuffer = 64 << 10

// tlsBuffer is one TLS record. It is held while waiting.
const tlsBuffer = 16 << 10

// pump moves what src says to write until src ends, and returns why: nil for a
// proper end. What write returns does not stop it: src is read to its end.
//
// It reads into a shared buffer only when there is something to read. splice(2)
// was measured beside it with messages of 10 KB (BenchmarkRelay, two cores, loopback): over
// 20 connections both cost some 13 µs of processor time a message; over a single one
// splice costs 12 and this 20. Many connections are what a proxy has, and for each of them splice
// needs two pipes: four more descriptors, and kernel memory that is limited by user.
func (s *Server) pump(src net.Conn, write func([]byte)) error {
	tcp, ok := src.(*net.TCPConn)
	if !ok {
		return pumpStream(src, write)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var end error
	err = raw.Read(func(fd uintptr) (done bool) {
		b := s.buffers.Get().(*[]byte)
		defer s.buffers.Put(b)
		for {
			n, err := syscall.Read(int(fd), *b)
			switch {
			case n > 0:
				write((*b)[:n])
			case err == syscall.EINTR:
			case err == syscall.EAGAIN:
				return false
			default:
				end = err // nil: the other side has ended
				return true
			}
		}
	})
	if err != nil {
		return err // a deadline
	}
	return end
}

// pumpStream is pump for what is not a plain socket.
func pumpStream(src io.Reader, write func([]byte)) error {
	b := make([]byte, tlsBuffer)
	for {
		n, err := src.Read(b)
		if n > 0 {
			write(b[:n])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// upstream moves the node's bytes to the provider. While the connect is under
// way it watches whether the node is still there.
func (c *conn) upstream() {
	broken := false
	write := func(b []byte) {
		<-c.ready
		if broken || c.provider == nil {
			return // read on: closing with bytes unread would reset, and what is under way to the node would be lost
		}
		n, err := c.provider.Write(b)
		c.moved.Add(uint64(n))
		c.source.up.Add(uint64(n))
		broken = err != nil // the reading side hears of it too
	}
	if len(c.early) > 0 {
		write(c.early)
	}
	_ = c.s.pump(c.client, write) // proper or not, the node has ended
	c.cancel()
	<-c.ready
	if c.provider == nil {
		return
	}
	// The provider gets to know, and we wait for its end: until then it counts the connection.
	_ = c.provider.CloseWrite()
	c.limit(c.provider)
}

// downstream moves the provider's bytes to the node until the provider ends.
func (c *conn) downstream() {
	broken := false
	err := c.s.pump(c.provider, func(b []byte) {
		if broken {
			return
		}
		n, err := c.client.Write(b)
		c.moved.Add(uint64(n))
		c.source.down.Add(uint64(n))
		if broken = err != nil; broken {
			_ = c.provider.CloseWrite()
			c.limit(c.provider)
		}
	})
	c.source.open.Add(-1)
	ours := isTimeout(err) // nobody but us sets deadlines: idle, cut, or no end after the node's
	c.release(!ours)
	if err == nil || broken && !ours {
		if w, ok := c.client.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite()
		}
		c.limit(c.tcp) // reads on, so that the node gets all of the provider's last words
		return
	}
	_ = c.provider.SetLinger(0) // it does not listen, or has reset itself
	if tcp, ok := c.tcp.(*net.TCPConn); ok && !ours {
		_ = tcp.SetLinger(0) // a reset is passed on as one
	}
	_ = c.tcp.SetReadDeadline(past)
}

// limit gives a side CloseTimeout to end.
func (c *conn) limit(side net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.aborted {
		_ = side.SetReadDeadline(time.Now().Add(c.conf.CloseTimeout.D()))
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// abort cuts both sides. Their goroutines then end by themselves.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted = true
	_ = c.tcp.SetDeadline(past)
	if c.provider != nil {
		_ = c.provider.SetDeadline(past)
	}
}

// sweep cuts connections that are idle for too long. A look at each now and then costs
// less than a deadline for each read.
func (s *Server) sweep() {
	for {
		wait := time.NewTimer(max(s.conf.Load().IdleTimeout.D()/8, 10*time.Millisecond))
		select {
		case <-s.serving.Done():
			wait.Stop()
			return
		case now := <-wait.C:
			s.mu.Lock()
			for c := range s.conns {
				if c.idle(now) {
					c.abort()
					s.metrics.idle.Inc()
				}
			}
			s.mu.Unlock()
		}
	}
}

// idle reports whether nothing moved for IdleTimeout. It is called by the sweeper only.
func (c *conn) idle(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.provider == nil || c.aborted {
		return false // the connect has its own limit
	}
	if moved := c.moved.Load(); moved != c.seen {
		c.seen, c.since = moved, now
	}
	return now.Sub(c.since) > c.conf.IdleTimeout.D()
}
