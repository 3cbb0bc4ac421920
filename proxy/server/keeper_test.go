package server

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/proxy/wire"
	"github.com/godwit-mta/godwit/throttle"
)

var (
	_ Leases = (*throttle.Keeper)(nil)
	_ Saver  = (*throttle.Keeper)(nil)
)

// Nodes that want more connections than are allowed, end them in every way,
// and now and then do not use a permit: the provider never has more than the limit.
func TestProviderNeverSeesMoreThanTheLimit(t *testing.T) {
	const limit, nodes = 5, 8
	o := throttle.DefaultOptions()
	o.Claims, o.Expiry, o.Linger, o.ConnectLapse = true, 0, 500*time.Millisecond, 200*time.Millisecond
	k := throttle.NewKeeper(o)
	defer k.Close()
	p := newCounter(t)
	s := start(t, Deps{Leases: k}, nil)
	key := throttle.Key{Source: "s1", Provider: "p"}
	leases := make(chan uint64, 1000)
	handle := k.Attach("node-1", func(outs []throttle.Out) {
		for _, out := range outs {
			if g := out.Grant; g != nil && g.Kind == throttle.Connect {
				for i := range g.N {
					leases <- g.Lease + uint64(i)
				}
			}
		}
	})
	want := throttle.Want{Key: key, Kind: throttle.Connect, N: nodes, Flows: 1}
	want.Limits.Connections = limit
	stop := time.Now().Add(1500 * time.Millisecond)
	var wg sync.WaitGroup
	for i := range nodes {
		r := rand.New(rand.NewPCG(7, uint64(i)))
		wg.Go(func() {
			for time.Now().Before(stop) {
				handle.Want(want)
				var id uint64
				select {
				case id = <-leases:
				case <-time.After(300 * time.Millisecond):
					continue
				}
				if r.IntN(10) > 0 {
					session(t, s, p.addr, id, r)
				}
			}
		})
	}
	wg.Wait()
	handle.Leave(false)
	if p.most.Load() > limit || p.total.Load() < 50 {
		t.Errorf("%d at a time with a limit of %d, %d in all", p.most.Load(), limit, p.total.Load())
	}
	t.Logf("%d connections, %d at a time", p.total.Load(), p.most.Load())
}

// session is one connection that ends somehow.
func session(t *testing.T, s *Server, to netip.AddrPort, id uint64, r *rand.Rand) {
	c := ask(t, s, to, []uint64{id}, nil)
	defer c.Close()
	switch r.IntN(4) {
	case 0: // killed before the answer
		_ = c.SetLinger(0)
		return
	case 1: // killed after it
		_, _ = wire.ReadAnswer(c)
		_ = c.SetLinger(0)
		return
	}
	a, err := wire.ReadAnswer(c)
	if err != nil || a.Status != wire.Connected {
		return
	}
	_, _ = io.WriteString(c, "x")
	time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
	if r.IntN(2) == 0 {
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}

// counter is a provider that counts a connection from accept to just before it closes it.
type counter struct {
	addr              netip.AddrPort
	open, most, total atomic.Int64
}

func newCounter(t *testing.T) *counter {
	t.Helper()
	c := &counter{}
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	p := newProvider(t)
	c.addr = p.addr()
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for nc := range p.conns {
			n := c.open.Add(1)
			c.total.Add(1)
			for m := c.most.Load(); n > m && !c.most.CompareAndSwap(m, n); m = c.most.Load() {
			}
			wg.Go(func() {
				_, _ = io.Copy(nc, nc)
				c.open.Add(-1)
				_ = nc.Close()
			})
		}
		wg.Wait()
	}()
	return c
}
