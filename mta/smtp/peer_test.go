package smtp

import (
	"bytes"
	"crypto/tls"
	"net"
	"os"
	"sync"
	"testing/synctest"
	"time"
)

// peer is the client's end: it reads and writes in goroutines of its own, as
// both ends of a net.Pipe block.
type peer struct {
	nc     net.Conn
	writes chan func()
	mu     sync.Mutex
	in     []byte
	eof    bool
	done   chan struct{}
}

func newPeer(nc net.Conn) *peer {
	p := &peer{nc: nc, writes: make(chan func(), 1000)}
	go func() {
		for f := range p.writes {
			f()
		}
	}()
	p.read()
	return p
}

func (p *peer) read() {
	p.done = make(chan struct{})
	go func(nc net.Conn, done chan struct{}) {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := nc.Read(buf)
			p.mu.Lock()
			p.in = append(p.in, buf[:n]...)
			if err != nil && !os.IsTimeout(err) {
				p.eof = true
			}
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}(p.nc, p.done)
}

func (p *peer) send(b []byte) {
	nc := p.nc
	p.writes <- func() { _, _ = nc.Write(b) }
}

func (p *peer) close() {
	nc := p.nc
	p.writes <- func() { _ = nc.Close() }
}

// line returns the next reply line when everything has come to rest.
func (p *peer) line() (string, bool) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	i := bytes.Index(p.in, []byte("\r\n"))
	if i < 0 {
		return "", false
	}
	s := string(p.in[:i])
	p.in = p.in[i+2:]
	return s, true
}

// rest returns what has come and not been looked at, and whether the server closed.
func (p *peer) rest() (string, bool) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.in), p.eof
}

// startTLS changes to TLS; the raw connection's reader must end first.
func (p *peer) startTLS() error {
	_ = p.nc.SetReadDeadline(time.Unix(1, 0))
	<-p.done
	_ = p.nc.SetReadDeadline(time.Time{})
	c := tls.Client(p.nc, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own certificate
	err := c.Handshake()
	p.nc = c
	p.read()
	return err
}

// oneListener hands out one connection.
type oneListener struct {
	conns chan net.Conn
	once  sync.Once
	stop  chan struct{}
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.stop:
		return nil, net.ErrClosed
	}
}
func (l *oneListener) Close() error   { l.once.Do(func() { close(l.stop) }); return nil }
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
