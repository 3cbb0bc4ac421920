package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/proxy/server"
	"github.com/godwit-mta/godwit/proxy/wire"
	"github.com/godwit-mta/godwit/throttle"
)

const patience = 10 * time.Second

// listen serves each connection in a goroutine of its own until the test ends.
func listen(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// newProvider is a mail exchanger that tells in its banner who connected.
func newProvider(t *testing.T) netip.AddrPort {
	return listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 "+c.RemoteAddr().(*net.TCPAddr).IP.String()+"\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
}

// closedPort is where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func newDialer(t *testing.T, o Options) *Dialer {
	t.Helper()
	d, err := NewDialer(o, DialerDeps{Node: "node-1", Registerer: prometheus.NewPedanticRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// via has the source s, 127.0.0.2, behind one proxy.
func via(p ProxyOptions) Options {
	o := DefaultOptions()
	p.Name = "p"
	o.Proxies = []ProxyOptions{p}
	o.Sources = []Source{{Name: "s", Bind: "127.0.0.2", Proxy: "p"}}
	return o
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// banner dials and returns the first line.
func banner(t *testing.T, d *Dialer, r Request) string {
	t.Helper()
	c, err := d.Dial(within(t, patience), r)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

type anyLease struct{}

func (anyLease) Claim(id uint64) (throttle.Key, bool) { return throttle.Key{Source: "s"}, id < 100 }
func (anyLease) Release(uint64, bool)                 {}
func (anyLease) Drain(bool)                           {}

// godwit starts a proxy that has s, and to which permits below 100 are good.
func godwit(t *testing.T, change func(*server.Options, *server.Deps)) *server.Server {
	t.Helper()
	o, d := server.DefaultOptions(), server.Deps{Leases: anyLease{}}
	o.Name = "p"
	o.Listeners = []server.Listener{{Address: "127.0.0.1:0", Networks: []string{"127.0.0.0/8"}}}
	o.Sources = []server.Source{{Name: "s", Bind: "127.0.0.2"}}
	if change != nil {
		change(&o, &d)
	}
	s, err := server.New(o, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestDirect(t *testing.T) {
	o := DefaultOptions()
	o.Proxies = []ProxyOptions{{Name: "here", Kind: KindDirect}}
	o.Sources = []Source{{Name: "a", Bind: "127.0.0.3"}, {Name: "b", Bind: "127.0.0.4", Proxy: "here"}, {Name: "any"},
		{Name: "gone", Bind: "198.51.100.7"}, {Name: "six", Bind6: "::1"}}
	d, to := newDialer(t, o), newProvider(t)
	for source, want := range map[string]string{"a": "220 127.0.0.3", "b": "220 127.0.0.4", "any": "220 127.0.0.1"} {
		if got := banner(t, d, Request{Source: source, Addr: to}); got != want {
			t.Errorf("%s: %q", source, got)
		}
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	if got := banner(t, d, Request{Source: "a", Addr: mapped}); got != "220 127.0.0.3" {
		t.Errorf("mapped: %q", got)
	}
	fails := func(source string, to netip.AddrPort, is error, notTried bool) {
		t.Helper()
		c, err := d.Dial(within(t, patience), Request{Source: source, Addr: to})
		if err == nil {
			_ = c.Close()
		}
		if err == nil || is != nil && !errors.Is(err, is) || errors.Is(err, mail.ErrNotTried) != notTried {
			t.Errorf("%s to %v: %v", source, to, err)
		}
	}
	fails("a", closedPort(t), syscall.ECONNREFUSED, false)
	fails("gone", to, syscall.EADDRNOTAVAIL, true)
	fails("a", netip.MustParseAddrPort("[::1]:25"), syscall.EAFNOSUPPORT, false) // never from an address that is not the source's
	fails("six", to, syscall.EAFNOSUPPORT, false)
	fails("nobody", to, nil, false)
}

func TestNoSources(t *testing.T) {
	to := newProvider(t)
	d, err := NewDialer(DefaultOptions(), DialerDeps{LocalIPv4: netip.MustParseAddr("127.0.0.5")})
	if err != nil {
		t.Fatal(err)
	}
	if got := banner(t, d, Request{Addr: to}); got != "220 127.0.0.5" {
		t.Errorf("%q", got)
	}
	if got := banner(t, newDialer(t, DefaultOptions()), Request{Addr: to}); got != "220 127.0.0.1" {
		t.Errorf("%q", got)
	}
}

func TestThroughGodwit(t *testing.T) {
	s, to := godwit(t, nil), newProvider(t)
	d := newDialer(t, via(ProxyOptions{Address: s.Addrs()[0].String()}))
	if got := banner(t, d, Request{Source: "s", Addr: to, Leases: []uint64{1}}); got != "220 127.0.0.2" {
		t.Errorf("%q", got)
	}
	c, err := d.Dial(t.Context(), Request{Source: "s", Addr: to, Leases: []uint64{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, plain := c.(*net.TCPConn); !plain {
		t.Errorf("%T", c)
	}
	_ = c.Close()

	_, err = d.Dial(t.Context(), Request{Source: "s", Addr: to})
	if !errors.Is(err, ErrNoLease) || !errors.Is(err, mail.ErrNotTried) || errors.Is(err, ErrProxyDown) {
		t.Errorf("no permit: %v", err)
	}
	var refused *ConnectError
	_, err = d.Dial(t.Context(), Request{Source: "s", Addr: closedPort(t), Leases: []uint64{1}})
	if !errors.As(err, &refused) || !errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, mail.ErrNotTried) || refused.Timeout() {
		t.Errorf("refused: %v", err)
	}
	if !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "proxy p") {
		t.Errorf("%v", err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err = d.Dial(t.Context(), Request{Source: "s", Addr: to, Leases: []uint64{1}}); !errors.Is(err, ErrProxyDown) || !errors.Is(err, mail.ErrNotTried) {
		t.Errorf("proxy gone: %v", err)
	}
}

func TestGodwitTellsOfTimeouts(t *testing.T) {
	s := godwit(t, nil)
	d := newDialer(t, via(ProxyOptions{Address: s.Addrs()[0].String()}))
	to := swallow(t)
	_, err := d.Dial(within(t, 400*time.Millisecond), Request{Source: "s", Addr: to, Leases: []uint64{1}})
	var timeout *ConnectError
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := d.Dial(ctx, Request{Source: "s", Addr: to, Leases: []uint64{1}}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrProxyDown) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestGodwitOfAnotherMind(t *testing.T) {
	to := newProvider(t)
	for name, change := range map[string]func(o *server.Options){
		"bad_source":  func(o *server.Options) { o.Sources[0].Bind = "127.0.0.9" },
		"bad_request": func(o *server.Options) { o.Ports = []int{25} },
	} {
		s := godwit(t, func(o *server.Options, _ *server.Deps) { change(o) })
		d := newDialer(t, via(ProxyOptions{Address: s.Addrs()[0].String()}))
		_, err := d.Dial(t.Context(), Request{Source: "s", Addr: to, Leases: []uint64{1}})
		var r *RefusedError
		if !errors.As(err, &r) || r.Reason != name || !errors.Is(err, mail.ErrNotTried) || errors.Is(err, ErrProxyDown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A proxy that takes connections and says nothing, or nonsense, or goes away, is down.
func TestBrokenProxies(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"silent":   func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"closes":   func(c net.Conn) { _, _ = c.Read(make([]byte, 1000)) },
		"resets":   func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"nonsense": func(c net.Conn) { _, _ = io.WriteString(c, "220 mx.example ESMTP\r\n"); _, _ = io.Copy(io.Discard, c) },
	} {
		d := newDialer(t, via(ProxyOptions{Address: listen(t, serve).String()}))
		_, err := d.Dial(within(t, 300*time.Millisecond), Request{Source: "s", Addr: netip.MustParseAddrPort("127.0.0.1:25")})
		if !errors.Is(err, ErrProxyDown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := via(ProxyOptions{Address: swallow(t).String()})
	o.ProxyTimeout = units.Duration(100 * time.Millisecond)
	begin := time.Now()
	_, err := newDialer(t, o).Dial(within(t, patience), Request{Source: "s", Addr: netip.MustParseAddrPort("127.0.0.1:25")})
	if !errors.Is(err, ErrProxyDown) || time.Since(begin) > 2*time.Second {
		t.Errorf("swallowed: %v after %v", err, time.Since(begin))
	}
}

func TestThroughHAProxy(t *testing.T) {
	got := make(chan *proxyproto.Header, 1)
	addr := listen(t, func(c net.Conn) {
		h, err := proxyproto.Read(bufio.NewReader(c))
		if err != nil {
			h = &proxyproto.Header{}
		}
		got <- h
		_, _ = io.WriteString(c, "220 mx.example\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	d := newDialer(t, via(ProxyOptions{Kind: KindHAProxy, Address: addr.String()}))
	to := netip.MustParseAddrPort("192.0.2.1:25")
	if line := banner(t, d, Request{Source: "s", Addr: to, Leases: []uint64{1}}); line != "220 mx.example" {
		t.Errorf("%q", line)
	}
	h := <-got
	tlvs, err := h.TLVs()
	if h.SourceAddr.String() != "127.0.0.2:0" || h.DestinationAddr.String() != to.String() || len(tlvs) != 0 || err != nil {
		t.Errorf("%+v", h)
	}
}

func TestProbe(t *testing.T) {
	hung := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }).String()
	for _, tt := range []struct {
		name, kind, address string
		up                  bool
	}{
		{"haproxy", KindHAProxy, hung, true}, // it says nothing anyway
		{"haproxy gone", KindHAProxy, closedPort(t).String(), false},
		{"socks", KindSOCKS5, socksServer(t), true},
		{"socks hung", KindSOCKS5, hung, false},
		{"socks gone", KindSOCKS5, closedPort(t).String(), false},
		{"direct", KindDirect, "", true},
		{"godwit", KindGodwit, hung, true},
	} {
		o := via(ProxyOptions{Kind: tt.kind, Address: tt.address})
		o.ProxyTimeout = units.Duration(200 * time.Millisecond)
		if err := newDialer(t, o).Probe(t.Context(), "p"); (err == nil) != tt.up || err != nil && !errors.Is(err, ErrProxyDown) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if err := newDialer(t, DefaultOptions()).Probe(t.Context(), "p"); err == nil {
		t.Error("a proxy that does not exist is up")
	}
}

func TestWatch(t *testing.T) {
	o := via(ProxyOptions{Kind: KindSOCKS5, Address: socksServer(t)})
	o.Proxies = append(o.Proxies, ProxyOptions{Name: "gone", Kind: KindHAProxy, Address: closedPort(t).String()},
		ProxyOptions{Name: "ours", Kind: KindGodwit, Address: closedPort(t).String()})
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		proxy string
		up    bool
	}
	results := make(chan result)
	done := make(chan struct{})
	go func() {
		defer close(done)
		newDialer(t, o).Watch(ctx, time.Millisecond, func(proxy string, up bool, reason string) {
			if up == (reason != "") {
				t.Errorf("%v with %q", up, reason)
			}
			select {
			case results <- result{proxy, up}:
			case <-ctx.Done():
			}
		})
	}()
	seen := map[result]int{}
	for range 6 {
		seen[<-results]++
	}
	cancel()
	<-done
	if len(seen) != 2 || seen[result{"p", true}] != 3 || seen[result{"gone", false}] != 3 {
		t.Errorf("%v", seen)
	}
}

// swallow returns an address whose SYNs get no answer: a listener whose backlog is full.
func swallow(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*syscall.SockaddrInet4).Port))
	for {
		c, err := net.DialTimeout("tcp", addr.String(), 50*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

func TestLinkNeedsGodwit(t *testing.T) {
	d := newDialer(t, via(ProxyOptions{Kind: KindHAProxy, Address: closedPort(t).String()}))
	if _, err := d.Link(t.Context(), "p"); err == nil || errors.Is(err, ErrProxyDown) {
		t.Errorf("%v", err)
	}
	d = newDialer(t, via(ProxyOptions{Address: closedPort(t).String()}))
	if _, err := d.Link(t.Context(), "p"); !errors.Is(err, syscall.ECONNREFUSED) { // by which a node knows that the process is gone
		t.Errorf("%v", err)
	}
}

func TestVerdicts(t *testing.T) {
	e := &endpoint{ProxyOptions: ProxyOptions{Name: "p"}}
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:25"), netip.MustParseAddrPort("[2001:db8::1]:25")
	for _, tt := range []struct {
		status         wire.Status
		to             netip.AddrPort
		notTried, down bool
		result         string
	}{
		{wire.Failed, v4, false, false, "failed"},
		{wire.TimedOut, v4, false, false, "timed_out"},
		{wire.BadSource, v4, true, false, "refused"},
		{wire.NoLease, v4, true, false, "no_lease"},
		{wire.Draining, v4, true, true, "down"},
		{wire.Busy, v4, true, false, "refused"},
		{wire.Local, v4, true, false, "refused"},
		{wire.Local, v6, false, false, "failed"}, // no IPv6 there: IPv4 may do
		{wire.BadRequest, v6, true, false, "refused"},
		{99, v4, true, false, "refused"},
	} {
		err := e.verdict(wire.Answer{Status: tt.status, Errno: syscall.EADDRNOTAVAIL, Text: "why"}, tt.to)
		if errors.Is(err, mail.ErrNotTried) != tt.notTried || errors.Is(err, ErrProxyDown) != tt.down || dialResult(err) != tt.result {
			t.Errorf("%v: %v, %s", tt.status, err, dialResult(err))
		}
	}
	if err := e.verdict(wire.Answer{}, v4); err != nil {
		t.Error(err)
	}
}
