package desk

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// simnet is a network of hosts in virtual time. What is sent over a cut way is not lost
// but stalls, as with TCP; whoever dials over one waits.
type simnet struct {
	mu     sync.Mutex
	change chan struct{} // closed and replaced when anything changes
	cut    map[[2]string]bool
	delay  map[[2]string]time.Duration
	listen map[string]func(net.Conn)
	conns  map[*simconn]struct{}
}

func newSimnet() *simnet {
	return &simnet{change: make(chan struct{}), cut: map[[2]string]bool{}, delay: map[[2]string]time.Duration{},
		listen: map[string]func(net.Conn){}, conns: map[*simconn]struct{}{}}
}

// changed wakes all. n.mu is held.
func (n *simnet) changed() {
	close(n.change)
	n.change = make(chan struct{})
}

// set cuts or heals the way from one host to another.
func (n *simnet) set(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = cut
	n.changed()
}

func (n *simnet) slow(from, to string, delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay[[2]string{from, to}] = delay
}

// serve accepts connections to a host; nil refuses them.
func (n *simnet) serve(host string, accept func(net.Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listen[host] = accept
}

// kill ends all connections of a host, as its kernel does.
func (n *simnet) kill(host string) {
	n.serve(host, nil)
	n.mu.Lock()
	var ends []*simconn
	for c := range n.conns {
		if c.from == host {
			ends = append(ends, c)
		}
	}
	n.mu.Unlock()
	for _, c := range ends {
		c.Close()
	}
}

func (n *simnet) dial(ctx context.Context, from, to string) (net.Conn, error) {
	for {
		n.mu.Lock()
		ways := n.delay[[2]string{from, to}] + n.delay[[2]string{to, from}]
		blocked, change := n.cut[[2]string{from, to}] || n.cut[[2]string{to, from}], n.change
		n.mu.Unlock()
		if !blocked {
			time.Sleep(ways)
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-change:
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	accept := n.listen[to]
	if accept == nil {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	a, b := &simconn{n: n, from: from, to: to}, &simconn{n: n, from: to, to: from}
	a.peer, b.peer = b, a
	n.conns[a], n.conns[b] = struct{}{}, struct{}{}
	go accept(b)
	return a, nil
}

// simconn is one end of a connection.
type simconn struct {
	net.Conn // nil: what is not here is not called
	n        *simnet
	from, to string
	peer     *simconn
	in       []chunk
	closed   bool
}

type chunk struct {
	at   time.Time
	data []byte // nil: the end
}

func (c *simconn) send(data []byte) {
	at := time.Now().Add(c.n.delay[[2]string{c.from, c.to}])
	if last := len(c.peer.in) - 1; last >= 0 && c.peer.in[last].at.After(at) {
		at = c.peer.in[last].at
	}
	c.peer.in = append(c.peer.in, chunk{at, data})
	c.n.changed()
}

func (c *simconn) Write(b []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.send(append([]byte(nil), b...))
	return len(b), nil
}

func (c *simconn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.send(nil)
		delete(c.n.conns, c)
	}
	return nil
}

func (c *simconn) Read(b []byte) (int, error) {
	for {
		c.n.mu.Lock()
		if c.closed {
			c.n.mu.Unlock()
			return 0, net.ErrClosed
		}
		change, wait := c.n.change, time.Duration(-1)
		if len(c.in) > 0 && !c.n.cut[[2]string{c.to, c.from}] {
			if wait = time.Until(c.in[0].at); wait <= 0 {
				defer c.n.mu.Unlock()
				if c.in[0].data == nil {
					return 0, io.EOF
				}
				k := copy(b, c.in[0].data)
				if c.in[0].data = c.in[0].data[k:]; len(c.in[0].data) == 0 {
					c.in = c.in[1:]
				}
				return k, nil
			}
		}
		c.n.mu.Unlock()
		if wait < 0 {
			<-change
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-change:
		case <-t.C:
		}
		t.Stop()
	}
}

func (c *simconn) SetDeadline(time.Time) error      { return nil }
func (c *simconn) SetReadDeadline(time.Time) error  { return nil }
func (c *simconn) SetWriteDeadline(time.Time) error { return nil }
func (c *simconn) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: c.to, Net: "sim"} }
