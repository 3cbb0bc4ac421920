package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godwit-mta/godwit/proxy/wire"
	"github.com/godwit-mta/godwit/throttle"
)

// headerTimeout bounds the TLS handshake and the header together.
const headerTimeout = 10 * time.Second

// headerBuffer is enough for a header with all our fields; longer ones take several reads.
const headerBuffer = 1024

// serve is the life of one connection from a node.
func (s *Server) serve(conf *config, g guard, nc net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.fresh, nc)
		s.mu.Unlock()
		_ = nc.Close()
	}()
	_ = nc.SetDeadline(time.Now().Add(headerTimeout))
	client := nc
	if g.tls != nil {
		t := tls.Server(nc, g.tls)
		if err := t.HandshakeContext(s.serving); err != nil {
			s.refused(nc, "tls", err)
			return
		}
		client = t
	}
	r := bufio.NewReaderSize(client, headerBuffer)
	first, err := r.Peek(1)
	if err != nil {
		if !errors.Is(err, io.EOF) { // probes of a port connect and close
			s.refused(nc, "silent", err)
		}
		return
	}
	if first[0] != wire.First {
		s.control(nc, client, r)
		return
	}
	h, local, err := wire.Read(r)
	switch {
	case err != nil:
		s.refused(nc, "header", err)
	case !local:
		_ = nc.SetDeadline(time.Time{})
		early, _ := r.Peek(r.Buffered())
		s.data(&conn{s: s, conf: conf, client: client, tcp: nc, h: h, early: early, ready: make(chan struct{})})
	}
}

// control hands a grant link over.
func (s *Server) control(nc, client net.Conn, r *bufio.Reader) {
	if s.d.Control == nil || s.controls.Err() != nil {
		return
	}
	_ = nc.SetDeadline(time.Time{})
	stop := context.AfterFunc(s.controls, func() { _ = nc.Close() })
	defer stop()
	begin, _ := r.Peek(r.Buffered())
	s.d.Control(s.controls, &prefixed{Conn: client, begin: begin})
}

// prefixed is a connection some of whose bytes were read already.
type prefixed struct {
	net.Conn
	begin []byte
}

// Read implements io.Reader.
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.begin) > 0 {
		n := copy(b, p.begin)
		p.begin = p.begin[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// conn is one data connection.
type conn struct {
	s      *Server
	conf   *config
	client net.Conn // the node's side, with TLS if there is any
	tcp    net.Conn // below it
	h      wire.Header
	early  []byte // came with the header
	source *source
	keys   []throttle.Key // of h.Leases

	cancel context.CancelFunc // gives the connect up
	ready  chan struct{}      // closed when the connect has an end
	moved  atomic.Uint64      // bytes, both ways

	mu       sync.Mutex
	provider *net.TCPConn // nil before ready, and when the connect failed
	aborted  bool
	ended    bool

	seen  uint64    // moved, when the sweeper last saw it change
	since time.Time // when that was
}

// data serves a data connection from header to end.
func (s *Server) data(c *conn) {
	if a := s.enter(c); a.Status != wire.Connected {
		s.metrics.refused.WithLabelValues(a.Status.String()).Inc()
		s.log.Warn("proxy request refused", "peer", c.tcp.RemoteAddr().String(), "node", c.h.Node, "request", c.h.Request,
			"source", c.h.Source, "destination", c.h.Destination, "reason", a.Status.String(), "detail", a.Text)
		c.answer(a)
		return
	}
	defer s.leave(c)
	timeout := c.conf.ConnectTimeout.D()
	if c.h.Timeout > 0 {
		timeout = min(timeout, c.h.Timeout)
	}
	ctx, cancel := context.WithTimeout(s.serving, timeout)
	defer cancel()
	c.cancel = cancel
	var up sync.WaitGroup
	up.Go(c.upstream)
	if c.connect(ctx) {
		defer c.provider.Close()
		c.downstream()
	} else {
		_ = c.tcp.SetReadDeadline(past)
	}
	up.Wait()
}

// enter decides whether the request may be carried out, and counts it if so.
func (s *Server) enter(c *conn) wire.Answer {
	refuse := func(st wire.Status, text string) wire.Answer { return wire.Answer{Status: st, Text: text} }
	if c.h.Version > wire.Version {
		return refuse(wire.BadRequest, "fields of a later version")
	}
	if c.conf.ports != nil && !c.conf.ports[c.h.Destination.Port()] {
		return refuse(wire.BadRequest, "port is not allowed")
	}
	if c.source = c.conf.sources.find(c.h.Source, c.h.Name); c.source == nil {
		return refuse(wire.BadSource, "no such source here")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() || s.stopped {
		return refuse(wire.Draining, "going away")
	}
	if !c.claim() {
		return refuse(wire.NoLease, "no valid permit")
	}
	delete(s.fresh, c.tcp)
	s.conns[c] = struct{}{}
	c.source.opening.Add(1)
	return wire.Answer{}
}

// claim takes all permits of the header, or none.
func (c *conn) claim() bool {
	if len(c.h.Leases) == 0 {
		return !c.conf.RequireLease
	}
	if c.s.d.Leases == nil {
		return true // an authority elsewhere granted them
	}
	for i, id := range c.h.Leases {
		key, ok := c.s.d.Leases.Claim(id)
		if ok {
			c.keys = append(c.keys, key)
		}
		if !ok || key.Source != c.source.name {
			for _, taken := range c.h.Leases[:len(c.keys)] {
				c.s.d.Leases.Release(taken, true)
			}
			c.keys = nil
			c.s.log.Warn("proxy permit refused", "permit", id, "number", i, "known", ok, "key", key.String(), "source", c.source.name)
			return false
		}
	}
	c.s.keys.add(c.keys, 1)
	return true
}

// release ends the permits, once.
func (c *conn) release(clean bool) {
	c.mu.Lock()
	done := c.ended
	c.ended = true
	c.mu.Unlock()
	if done || len(c.keys) == 0 {
		return
	}
	c.s.keys.add(c.keys, -1)
	for _, id := range c.h.Leases {
		c.s.d.Leases.Release(id, clean)
	}
}

// leave forgets a connection.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.draining.Load() && len(s.conns) == 0 && !s.stopped {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

// connect makes the connection to the provider and tells the node. If it
// returns false, all is over but for hanging up.
func (c *conn) connect(ctx context.Context) bool {
	local := c.source.v4
	if c.h.Source.Is6() {
		local = c.source.v6
	}
	d := c.s.dialer
	d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	begin := time.Now()
	nc, err := d.DialContext(ctx, "tcp", c.h.Destination.String())
	a := result(ctx, err)
	a.Took = time.Since(begin)
	c.source.opening.Add(-1)
	c.source.results[a.Status].Add(1)
	c.s.metrics.connect.Observe(a.Took.Seconds())
	c.s.log.Debug("proxy connect", "node", c.h.Node, "request", c.h.Request, "source", c.source.name,
		"destination", c.h.Destination, "result", a.Status.String(), "error", err, "took", a.Took)
	if err != nil {
		// After a refusal no connection exists. After silence one might come about yet.
		c.release(a.Status != wire.TimedOut)
		close(c.ready)
		c.answer(a)
		return false
	}
	provider := nc.(*net.TCPConn)
	c.source.open.Add(1)
	c.mu.Lock()
	c.provider, c.since = provider, time.Now()
	if c.aborted {
		_ = provider.SetDeadline(past)
	}
	c.mu.Unlock()
	c.answer(a) // before ready: nothing of the provider's may overtake it
	close(c.ready)
	return true
}

// answer tells a Godwit node what became of its request. Other clients read the banner or an end.
func (c *conn) answer(a wire.Answer) {
	if c.h.Version == 0 {
		return
	}
	_ = c.tcp.SetWriteDeadline(time.Now().Add(headerTimeout))
	// An error means that the node is gone, which reading from it will tell.
	_, _ = c.client.Write(a.Append(make([]byte, 0, 64)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.aborted {
		_ = c.tcp.SetWriteDeadline(time.Time{})
	}
}

// result sorts the end of a connect by whose fault it is.
func result(ctx context.Context, err error) wire.Answer {
	if err == nil {
		return wire.Answer{}
	}
	a := wire.Answer{Status: wire.Failed, Text: err.Error()}
	var sys *os.SyscallError
	var errno syscall.Errno
	switch errors.As(err, &errno); {
	case errno == syscall.ETIMEDOUT || errno == 0 && (errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil):
		a.Status, a.Text, errno = wire.TimedOut, "no answer in time", syscall.ETIMEDOUT
	case errno == 0, errors.As(err, &sys) && sys.Syscall != "connect":
		a.Status = wire.Local
	default:
		switch errno {
		case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN,
			syscall.EACCES, syscall.EPERM, syscall.EINVAL, syscall.EAFNOSUPPORT:
			a.Status = wire.Local
		}
		a.Text = errno.Error()
	}
	a.Errno = errno
	return a
}
