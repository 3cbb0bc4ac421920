//go:build egress

package egress

import (
	"net"
	"sync"
	"testing"
	"time"
)

// way is what a relay does to the bytes of one direction.
type way uint8

const (
	pass way = iota
	drop     // they vanish, and nobody is told
	hold     // they wait, and come when it passes again
)

// fault is what a relay does. The zero fault is a good wire.
type fault struct {
	up, down way           // from and to whoever connects
	delay    time.Duration // of each direction, of connections made under it
}

// relay is a TCP relay that can fail. Connections that lost bytes are cut when
// the fault ends: TCP would have sent the bytes again, and a relay cannot.
type relay struct {
	target string
	ln     net.Listener

	mu    sync.Mutex
	now   fault
	free  chan struct{} // closed when the fault changes
	conns map[*relayed]struct{}
	wg    sync.WaitGroup
}

// relayed is one connection.
type relayed struct {
	a, b  net.Conn
	delay time.Duration
	lossy bool // bytes were dropped; guarded by relay.mu
}

func newRelay(t *testing.T, host, target string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{target: target, ln: ln, free: make(chan struct{}), conns: map[*relayed]struct{}{}}
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		r.set(fault{})
		r.cut()
		r.wg.Wait()
	})
	return r
}

func (r *relay) addr() string { return r.ln.Addr().String() }

// set puts a fault in force, for open connections too.
func (r *relay) set(f fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = f
	close(r.free)
	r.free = make(chan struct{})
	for c := range r.conns {
		if c.lossy && f.up != drop && f.down != drop {
			c.close()
		}
	}
}

// cut resets all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.close()
	}
}

// close resets both sides.
func (c *relayed) close() {
	for _, x := range []net.Conn{c.a, c.b} {
		_ = x.(*net.TCPConn).SetLinger(0)
		_ = x.Close()
	}
}

func (r *relay) accept() {
	for {
		a, err := r.ln.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.serve(a) })
	}
}

func (r *relay) serve(a net.Conn) {
	b, err := net.Dial("tcp", r.target)
	if err != nil {
		_ = a.(*net.TCPConn).SetLinger(0)
		_ = a.Close()
		return
	}
	c := &relayed{a: a, b: b}
	r.mu.Lock()
	c.delay = r.now.delay
	r.conns[c] = struct{}{}
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { r.pump(c, a, b, func(f fault) way { return f.up }) })
	both.Go(func() { r.pump(c, b, a, func(f fault) way { return f.down }) })
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = a.Close(), b.Close()
	delete(r.conns, c)
}

// packet is bytes that are on their way.
type packet struct {
	b   []byte
	due time.Time
}

// pump carries one direction. Its end is passed on as the end of that direction alone.
func (r *relay) pump(c *relayed, from, to net.Conn, pick func(fault) way) {
	queue := make(chan packet, 4096)
	var writing sync.WaitGroup
	writing.Go(func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.b); err != nil {
				c.close()
			}
		}
		_ = to.(*net.TCPConn).CloseWrite()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && r.lets(c, pick) {
			queue <- packet{append([]byte(nil), buf[:n]...), time.Now().Add(c.delay)}
		}
		if err != nil {
			break
		}
	}
	close(queue)
	writing.Wait()
}

// lets waits while bytes are held and tells whether they go on.
func (r *relay) lets(c *relayed, pick func(fault) way) bool {
	for {
		r.mu.Lock()
		w, free := pick(r.now), r.free
		if w == drop {
			c.lossy = true
		}
		r.mu.Unlock()
		if w != hold {
			return w == pass
		}
		<-free
	}
}
