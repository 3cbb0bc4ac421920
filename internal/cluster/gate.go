package cluster

import (
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// gate is memberlist's own transport, but no connection that it makes can hang: each
// has a deadline, and Stop closes them all. memberlist sets none when it sends a message, so a member that was
// paused would hold the sender for as long as TCP retries.
type gate struct {
	*memberlist.NetTransport

	mu     sync.Mutex
	conns  map[*gateConn]bool
	closed bool
}

// newGate listens. Port 0 takes one that is free for both UDP and TCP.
func newGate(bind netip.AddrPort, logger *log.Logger) (*gate, error) {
	tries := 1
	if bind.Port() == 0 {
		tries = 10 // a free TCP port may be taken as UDP port
	}
	var errs []error
	for range tries {
		t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{bind.Addr().String()}, BindPort: int(bind.Port()), Logger: logger,
		})
		if err == nil {
			return &gate{NetTransport: t, conns: map[*gateConn]bool{}}, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("cannot listen: %w", errors.Join(errs...))
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (g *gate) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := g.NetTransport.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	gc := &gateConn{Conn: conn, gate: g}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.conns[gc] = true
	}
	g.mu.Unlock()
	if closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	return gc, conn.SetDeadline(time.Now().Add(timeout))
}

// closeAll closes what is open and lets nothing new through.
func (g *gate) closeAll() {
	g.mu.Lock()
	g.closed = true
	conns := g.conns
	g.conns = map[*gateConn]bool{}
	g.mu.Unlock()
	for gc := range conns {
		_ = gc.Conn.Close() // whoever uses it has the error
	}
}

// gateConn is a connection that the gate knows of.
type gateConn struct {
	net.Conn
	gate *gate
}

// Close implements net.Conn.
func (gc *gateConn) Close() error {
	gc.gate.mu.Lock()
	delete(gc.gate.conns, gc)
	gc.gate.mu.Unlock()
	return gc.Conn.Close()
}
