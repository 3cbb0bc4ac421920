package server

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/proxy/wire"
	"github.com/godwit-mta/godwit/throttle"
)

func TestDialogue(t *testing.T) {
	b, p := newBook().grant(7, 8), newProvider(t)
	s := start(t, Deps{Leases: b}, nil)
	node := ask(t, s, p.addr(), []uint64{7, 8}, nil)
	a := answer(t, node)
	if a.Status != wire.Connected || a.Text != "" || a.Took <= 0 {
		t.Errorf("%+v", a)
	}
	peer, from := p.next(t)
	if from != "127.0.0.2" {
		t.Errorf("provider sees %s", from)
	}
	write(t, peer, "220 mx.example\r\n")
	expect(t, node, "220 mx.example\r\n")
	body := strings.Repeat("0123456789abcde\n", 20_000) // several reads
	go func() { _, _ = io.WriteString(node, body) }()
	expect(t, peer, body)
	st := s.Stats()
	if len(st.Keys) != 1 || st.Keys[0] != (KeyStats{"source=s1 provider=p", 2}) {
		t.Errorf("keys %+v", st.Keys)
	}
	if src := st.Sources[0]; src.Open != 1 || src.Opening != 0 || src.Results["connected"] != 1 || st.Connections != 1 {
		t.Errorf("source %+v", src)
	}
	write(t, peer, "221 bye\r\n")
	_ = peer.Close()
	expect(t, node, "221 bye\r\n")
	expectEnd(t, node)
	for _, id := range []uint64{7, 8} {
		if !b.ended(t, id) {
			t.Errorf("permit %d: the provider closed and that is not clean", id)
		}
	}
	_ = node.Close()
	eventually(t, "still counted", func() bool { return s.Conns() == 0 })
	if src := s.Stats().Sources[0]; src.Sent != uint64(len(body)) || src.Got != uint64(len("220 mx.example\r\n221 bye\r\n")) {
		t.Errorf("bytes %+v", src)
	}
}

func TestRefusals(t *testing.T) {
	b, p := newBook().grant(1, 2, 3, 4), newProvider(t)
	b.granted[5] = throttle.Key{Source: "s2", Provider: "p"}
	b.granted[6] = throttle.Key{Source: "s1", Provider: "p"}
	s := start(t, Deps{Leases: b}, func(o *Options) { o.Ports = []int{int(p.addr().Port())} })
	for _, tt := range []struct {
		name   string
		leases []uint64
		change func(*wire.Header)
		want   wire.Status
	}{
		{"no permit", nil, nil, wire.NoLease},
		{"unknown permit", []uint64{99}, nil, wire.NoLease},
		{"one of two unknown", []uint64{1, 99}, nil, wire.NoLease},
		{"used before", []uint64{1}, nil, wire.NoLease},
		{"the same twice", []uint64{2, 2}, nil, wire.NoLease},
		{"another source's", []uint64{5}, nil, wire.NoLease},
		{"not our address", []uint64{3}, func(h *wire.Header) { h.Source, h.Name = netip.MustParseAddr("127.0.0.9"), "" }, wire.BadSource},
		{"name of another address", []uint64{3}, func(h *wire.Header) { h.Name = "s2" }, wire.BadSource},
		{"later version", []uint64{3}, func(h *wire.Header) { h.Version = 2 }, wire.BadRequest},
		{"port", []uint64{3}, func(h *wire.Header) { h.Destination = netip.AddrPortFrom(h.Destination.Addr(), 80) }, wire.BadRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ask(t, s, p.addr(), tt.leases, tt.change)
			if a := answer(t, c); a.Status != tt.want || a.Text == "" {
				t.Errorf("%+v, want %v", a, tt.want)
			}
			expectEnd(t, c)
		})
	}
	p.none(t)
	if b.ended(t, 1) != true || b.ended(t, 2) != true || b.ended(t, 5) != true || b.isReleased(3) || b.claimed[3] {
		t.Errorf("permits %v %v", b.claimed, b.released)
	}
	// What was refused has not used up anything.
	node := ask(t, s, p.addr(), []uint64{3, 4, 6}, nil)
	if a := answer(t, node); a.Status != wire.Connected {
		t.Errorf("%+v", a)
	}
	p.next(t)
}

func TestConnectFailuresAreTold(t *testing.T) {
	b := newBook().grant(1, 2, 3, 4)
	s := start(t, Deps{Leases: b}, func(o *Options) {
		o.ConnectTimeout = units.Duration(500 * time.Millisecond)
		o.Sources = append(o.Sources, Source{Name: "elsewhere", Bind: "198.51.100.77"})
	})
	t.Run("refused", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().(*net.TCPAddr).AddrPort()
		_ = ln.Close()
		c := ask(t, s, addr, []uint64{1}, nil)
		if a := answer(t, c); a.Status != wire.Failed || a.Errno != syscall.ECONNREFUSED || a.Text != "connection refused" {
			t.Errorf("%+v", a)
		}
		expectEnd(t, c)
		if !b.ended(t, 1) {
			t.Error("no connection came about, and that is not clean")
		}
	})
	for _, tt := range []struct {
		name  string
		lease uint64
		asked time.Duration
	}{{"timeout", 2, 0}, {"shorter timeout of the node", 3, 50 * time.Millisecond}} {
		t.Run(tt.name, func(t *testing.T) {
			c := ask(t, s, swallow(t), []uint64{tt.lease}, func(h *wire.Header) { h.Timeout = tt.asked })
			a := answer(t, c)
			if a.Status != wire.TimedOut || a.Errno != syscall.ETIMEDOUT {
				t.Errorf("%+v", a)
			}
			if tt.asked > 0 && a.Took > 400*time.Millisecond || a.Took < 50*time.Millisecond {
				t.Errorf("after %v", a.Took)
			}
			if b.ended(t, tt.lease) {
				t.Error("a SYN may still be under way, and that is clean")
			}
		})
	}
	t.Run("address not on this host", func(t *testing.T) {
		b.granted[4] = throttle.Key{Source: "elsewhere"}
		c := ask(t, s, netip.MustParseAddrPort("127.0.0.1:25"), []uint64{4}, func(h *wire.Header) {
			h.Source, h.Name = netip.MustParseAddr("198.51.100.77"), ""
		})
		if a := answer(t, c); a.Status != wire.Local || a.Errno != syscall.EADDRNOTAVAIL {
			t.Errorf("%+v", a)
		}
	})
	if r := s.Stats().Sources[0].Results; r["failed"] != 1 || r["timed_out"] != 2 {
		t.Errorf("%v", r)
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

func TestNodeGoneDuringConnect(t *testing.T) {
	b := newBook().grant(1)
	s := start(t, Deps{Leases: b}, nil)
	c := ask(t, s, swallow(t), []uint64{1}, nil)
	eventually(t, "no connect", func() bool { return s.Stats().Sources[0].Opening == 1 })
	_ = c.Close()
	b.ended(t, 1) // long before ConnectTimeout, which is above patience
}

func TestClientsOfHAProxy(t *testing.T) {
	p := newProvider(t)
	s := start(t, Deps{}, func(o *Options) { o.RequireLease = false })
	plain := func(h *wire.Header) { h.Version = 0 }
	node := ask(t, s, p.addr(), nil, plain)
	peer, from := p.next(t)
	if from != "127.0.0.2" {
		t.Errorf("from %s", from)
	}
	write(t, peer, "220 mx\r\n")
	expect(t, node, "220 mx\r\n") // and no answer before it
	expectEnd(t, ask(t, s, p.addr(), nil, func(h *wire.Header) { h.Version, h.Source = 0, netip.MustParseAddr("127.0.0.9") }))

	h := wire.Header{Source: netip.MustParseAddr("127.0.0.3"), Destination: p.addr()}
	b, err := h.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	say(t, s, append(b, "EHLO early.example\r\n"...)) // in one segment with the header
	peer, from = p.next(t)
	if from != "127.0.0.3" {
		t.Errorf("from %s", from)
	}
	expect(t, peer, "EHLO early.example\r\n")
}

func TestProbesAndJunk(t *testing.T) {
	b, p, l := newBook().grant(1), newProvider(t), &links{}
	reg := prometheus.NewPedanticRegistry()
	s := start(t, Deps{Leases: b, Control: l.serve, Registerer: reg}, nil)
	local, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	if err != nil {
		t.Fatal(err)
	}
	expectEnd(t, say(t, s, local))
	expectGone(t, say(t, s, []byte("\r\n\r\n\x00\r\nQUIT\n junk")))
	_ = say(t, s, nil).Close()
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		junk := make([]byte, 1+r.IntN(2000))
		for i := range junk {
			junk[i] = byte(r.Uint32())
		}
		junk[0] = '\r' // else it is for the grant link
		expectGone(t, say(t, s, junk))
	}
	p.none(t)
	opened(t, s, p, 1)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if values["godwit_proxy_refused_total header"] < 100 || values["godwit_proxy_connections s1"] != 1 ||
		values["godwit_proxy_connects_total connected s1"]+values["godwit_proxy_connects_total s1 connected"] != 1 {
		t.Error(values)
	}
}

func TestGrantLink(t *testing.T) {
	l := &links{}
	s := start(t, Deps{Leases: newBook(), Control: l.serve}, nil)
	link := say(t, s, []byte("GOD"))
	write(t, link, "WTGRL")
	expect(t, link, "welcome")
	if got := l.list(); !slices.Equal(got, []string{"GODWTGRL"}) {
		t.Errorf("%q", got)
	}
}

func TestAllowList(t *testing.T) {
	b, p := newBook().grant(1), newProvider(t)
	s := start(t, Deps{Leases: b}, func(o *Options) { o.Listeners[0].Networks = []string{"127.0.0.8/31", "10.0.0.0/8"} })
	for local, allowed := range map[string]bool{"127.0.0.1": false, "127.0.0.9": true} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		c, err := d.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		h := wire.Header{Version: 1, Source: netip.MustParseAddr("127.0.0.2"), Destination: p.addr(), Leases: []uint64{1}}
		head, err := h.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(head)
		if _, err := wire.ReadAnswer(c); (err == nil) != allowed {
			t.Errorf("%s: %v", local, err)
		}
		_ = c.Close()
	}
}

func TestMaxConnections(t *testing.T) {
	b, p := newBook().grant(1, 2), newProvider(t)
	s := start(t, Deps{Leases: b}, func(o *Options) { o.MaxConnections = 1 })
	node, peer := opened(t, s, p, 1)
	expectGone(t, say(t, s, nil))
	_ = peer.Close()
	_ = node.Close()
	eventually(t, "still counted", func() bool { return s.Conns() == 0 })
	eventually(t, "no room again", func() bool {
		c := ask(t, s, p.addr(), []uint64{2}, nil)
		a, err := wire.ReadAnswer(c)
		return err == nil && a.Status == wire.Connected
	})
}

func TestReload(t *testing.T) {
	b, p := newBook().grant(1, 2, 3), newProvider(t)
	s := start(t, Deps{Leases: b}, nil)
	node, peer := opened(t, s, p, 1)
	o := options()
	o.Sources = []Source{{Name: "new", Bind: "127.0.0.4"}, {Name: "s1", Bind: "127.0.0.2"}}
	if err := s.Reload(o); err != nil {
		t.Fatal(err)
	}
	write(t, node, "NOOP\r\n") // goes on
	expect(t, peer, "NOOP\r\n")
	opened(t, s, p, 2)
	if st := s.Stats().Sources; len(st) != 2 || st[1].Open != 2 || st[1].Results["connected"] != 2 {
		t.Errorf("%+v", st)
	}
	if a := answer(t, ask(t, s, p.addr(), []uint64{3}, func(h *wire.Header) { h.Source = netip.MustParseAddr("127.0.0.3") })); a.Status != wire.BadSource {
		t.Errorf("%+v", a)
	}
	bad := options()
	bad.Listeners[0].Address = "127.0.0.1:1"
	if err := s.Reload(bad); err == nil {
		t.Error("moved")
	}
	bad = options()
	bad.Listeners[0].CertFile, bad.Listeners[0].KeyFile = "/nonexistent", "/nonexistent"
	if err := s.Reload(bad); err == nil || len(s.Stats().Sources) != 2 {
		t.Error(err)
	}
}

func TestSharedAddress(t *testing.T) {
	b, p := newBook(), newProvider(t)
	b.granted[1] = throttle.Key{Source: "s2-other"}
	s := start(t, Deps{Leases: b}, nil)
	node := ask(t, s, p.addr(), []uint64{1}, func(h *wire.Header) { h.Source, h.Name = netip.MustParseAddr("127.0.0.3"), "s2-other" })
	if a := answer(t, node); a.Status != wire.Connected {
		t.Errorf("%+v", a)
	}
	p.next(t)
	if st := s.Stats(); st.Sources[2].Open != 1 || st.Sources[1].Open != 0 {
		t.Errorf("%+v", st.Sources)
	}
}
