package smtpd

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"
)

func (addrConn) remoteOr(s string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(s), 1))
}

func ipv4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func header(version byte, command proxyproto.ProtocolVersionAndCommand, src, dst string) string {
	h := &proxyproto.Header{Version: version, Command: command, TransportProtocol: proxyproto.TCPv4,
		SourceAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(src)), DestinationAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(dst))}
	if netip.MustParseAddrPort(src).Addr().Is6() {
		h.TransportProtocol = proxyproto.TCPv6
	}
	b, err := h.Format()
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestProxyProtocol(t *testing.T) {
	for _, tt := range []struct {
		name, from, first string
		peer              string // the address that counts; "" for a closed connection
		relay             string
	}{
		{"v1", "172.16.0.1", header(1, proxyproto.PROXY, "10.1.2.3:5", "192.0.2.9:25"), "10.1.2.3", "250"},
		{"v2", "172.16.0.1", header(2, proxyproto.PROXY, "10.1.2.3:5", "192.0.2.9:25"), "10.1.2.3", "250"},
		{"v2 over IPv6", "172.16.0.1", header(2, proxyproto.PROXY, "[2001:db8::7]:5", "[2001:db8::1]:25"), "2001:db8::7", "250"},
		{"stranger behind the balancer", "172.16.0.1", header(2, proxyproto.PROXY, "192.0.2.3:5", "192.0.2.9:25"), "192.0.2.3", "550 5.7.1"},
		{"balancer in a listed network", "10.9.0.1", header(1, proxyproto.PROXY, "192.0.2.3:5", "192.0.2.9:25"), "192.0.2.3", "550 5.7.1"},
		{"unknown client", "10.9.0.1", "PROXY UNKNOWN\r\n", "unknown", "550 5.7.1"},
		{"health check", "172.16.0.1", header(2, proxyproto.LOCAL, "192.0.2.3:5", "192.0.2.9:25"), "172.16.0.1", "550 5.7.1"},
		{"no header", "172.16.0.1", "EHLO client.example\r\n", "", ""},
		{"broken header", "172.16.0.1", "PROXY TCP4 nonsense\r\n", "", ""},
		{"direct", "10.2.0.1", "", "10.2.0.1", "250"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, s := newServer(t, func(o *Options) { o.Listeners[0].ProxyFrom = []string{"172.16.0.0/12", "10.9.0.1"} })
			c := connect(t, srv, 0, tt.from)
			if tt.first != "" {
				c.send(tt.first)
			}
			if tt.peer == "" {
				c.ended()
				return
			}
			c.expect("220")
			c.do("EHLO client.example", "250")
			c.do("MAIL FROM:<a@b>", "250")
			c.do("RCPT TO:<x@d.example>", tt.relay)
			c.do("RCPT TO:<postmaster>", "250")
			c.do("DATA", "354")
			c.send("\r\n.\r\n")
			c.expect("250")
			if got := s.last(t).Origin.Peer; got != strings.TrimSuffix(tt.peer, "unknown") {
				t.Errorf("peer %q", got)
			}
		})
	}
}

func TestProxyHeaderFromOthersIsRefused(t *testing.T) {
	srv, s := newServer(t, func(o *Options) { o.Listeners[0].ProxyFrom = []string{"172.16.0.0/12"} })
	c := connect(t, srv, 0, "192.0.2.1")
	c.expect("220")
	c.do(strings.TrimSuffix(header(1, proxyproto.PROXY, "10.1.2.3:5", "192.0.2.9:25"), "\r\n"), "500")
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@b>", "250")
	c.do("RCPT TO:<x@d.example>", "550 5.7.1")
	c.do("RCPT TO:<postmaster>", "250")
	c.do("DATA", "354")
	c.send("\r\n.\r\n")
	c.expect("250")
	if got := s.last(t).Origin.Peer; got != "192.0.2.1" {
		t.Errorf("peer %q", got)
	}
}

func TestSlowProxyHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newServer(t, func(o *Options) { o.Listeners[0].ProxyFrom = []string{"172.16.0.0/12"} })
		c := connect(t, srv, 0, "172.16.0.1")
		begin := time.Now()
		c.send(header(2, proxyproto.PROXY, "10.1.2.3:5", "192.0.2.9:25")[:14])
		<-c.done
		if d := time.Since(begin); d != proxyTimeout {
			t.Errorf("closed after %v", d)
		}
		if srv.Conns() != 0 {
			t.Error("connection is still counted")
		}
	})
}

func TestXClient(t *testing.T) {
	for _, tt := range []struct {
		name, from string
		commands   []string
		relay      string // reply to RCPT
		peer, auth string
	}{
		{"address", "172.16.0.1", []string{"XCLIENT ADDR=10.1.2.3 PORT=99 NAME=c.example HELO=h.example PROTO=ESMTP", "220"}, "250", "10.1.2.3", ""},
		{"IPv6 address", "172.16.0.1", []string{"XCLIENT ADDR=IPV6:2001:db8::9", "220"}, "250", "2001:db8::9", ""},
		{"stranger", "172.16.0.1", []string{"XCLIENT ADDR=192.0.2.5", "220"}, "550 5.7.1", "192.0.2.5", ""},
		{"unknown address", "172.16.0.1", []string{"XCLIENT ADDR=[UNAVAILABLE] NAME=[TEMPUNAVAIL] PORT=[UNAVAILABLE]", "220"}, "550 5.7.1", "", ""},
		{"login", "172.16.0.1", []string{"XCLIENT ADDR=192.0.2.5 LOGIN=ann", "220"}, "250", "192.0.2.5", "ann"},
		{"unknown login", "172.16.0.1", []string{"XCLIENT ADDR=192.0.2.5 LOGIN=eve", "535"}, "550", "172.16.0.1", ""},
		{"bad address", "172.16.0.1", []string{"XCLIENT ADDR=nonsense", "501"}, "550", "172.16.0.1", ""},
		{"bad port", "172.16.0.1", []string{"XCLIENT PORT=99999", "501"}, "550", "172.16.0.1", ""},
		{"unknown attribute", "172.16.0.1", []string{"XCLIENT FOO=1", "501"}, "550", "172.16.0.1", ""},
		{"not listed", "192.0.2.1", []string{"XCLIENT ADDR=10.1.2.3", "550 5.7.0"}, "550 5.7.1", "192.0.2.1", ""},
		{"in turn", "172.16.0.1", []string{"XCLIENT ADDR=10.1.2.3 LOGIN=ann", "220", "EHLO x", "250", "XCLIENT ADDR=192.0.2.6", "220"}, "550 5.7.1", "192.0.2.6", ""},
		{"client logged in before", "172.16.0.1", []string{authPlain("ann", "secret"), "235", "XCLIENT ADDR=192.0.2.6", "220"}, "550 5.7.1", "192.0.2.6", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, s := newServer(t, func(o *Options) { o.Listeners[0].XClientFrom = []string{"172.16.0.0/12"} })
			c := greeted(t, srv, 0, tt.from)
			for i := 0; i < len(tt.commands); i += 2 {
				c.do(tt.commands[i], tt.commands[i+1])
			}
			c.do("EHLO client.example", "250")
			c.do("MAIL FROM:<a@b>", "250")
			c.do("RCPT TO:<x@d.example>", tt.relay)
			c.do("RCPT TO:<postmaster>", "250")
			c.do("DATA", "354")
			c.send("\r\n.\r\n")
			c.expect("250")
			if o := s.last(t).Origin; o.Peer != tt.peer || o.AuthID != tt.auth {
				t.Errorf("origin %+v, want peer %q and login %q", o, tt.peer, tt.auth)
			}
		})
	}
}

// TestXClientAddressOutlivesSTARTTLS: the address is the proxy's word, which a new session must keep.
func TestXClientAddressOutlivesSTARTTLS(t *testing.T) {
	cert, key := certificate(t, t.TempDir(), 1)
	srv, s := newServer(t, func(o *Options) {
		o.CertFile, o.KeyFile, o.Listeners[0].XClientFrom = cert, key, []string{"172.16.0.0/12"}
	})
	c := greeted(t, srv, 0, "172.16.0.1")
	c.do("XCLIENT ADDR=10.1.2.3", "220")
	c.do("EHLO client.example", "250")
	c.startTLS()
	c.do("EHLO client.example", "250")
	c.message("250", "x@d.example")
	if o := s.last(t).Origin; o.Peer != "10.1.2.3" || o.Protocol != "esmtps" {
		t.Errorf("origin %+v", o)
	}
	if got := c.do("EHLO client.example", "250"); !strings.Contains(got, "XCLIENT") {
		t.Error("the proxy may not use XCLIENT any more")
	}
}

func TestConnectionLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newServer(t, func(o *Options) {
			o.Listeners[0].MaxConnections, o.Listeners[0].MaxConnectionsPerIP = 4, 2
			o.Listeners[0].XClientFrom = []string{"172.16.0.1"}
		})
		refused := func(c *talk, want string) {
			t.Helper()
			c.expect("421 4.7.0 mx.example.net " + want)
			c.ended()
		}
		first := greeted(t, srv, 0, "192.0.2.1")
		greeted(t, srv, 0, "192.0.2.1")
		refused(connect(t, srv, 0, "192.0.2.1"), tooManyFromYou)
		proxy := greeted(t, srv, 0, "172.16.0.1")
		proxy.do("XCLIENT ADDR=192.0.2.1", "421 4.7.0 "+tooManyFromYou)
		proxy.ended()
		<-proxy.done
		proxy = greeted(t, srv, 0, "172.16.0.1")
		proxy.do("XCLIENT ADDR=192.0.2.2", "220")
		greeted(t, srv, 0, "192.0.2.2")
		refused(connect(t, srv, 0, "192.0.2.3"), tooMany)
		first.do("QUIT", "221")
		<-first.done
		greeted(t, srv, 0, "192.0.2.1")
		srv.mu.Lock()
		g := &srv.endpoints[0].gate
		srv.mu.Unlock()
		if got := fmt.Sprint(g.total, g.per); got != "4 map[192.0.2.1/32:2 192.0.2.2/32:2]" {
			t.Errorf("counts %s", got)
		}
	})
}

func TestCountsReturnToZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newServer(t, nil)
		for _, from := range []string{"192.0.2.1", "2001:db8::1", "192.0.2.1"} {
			c := greeted(t, srv, 0, from)
			c.nc.Close()
			<-c.done
		}
		if g := &srv.endpoints[0].gate; g.total != 0 || len(g.per) != 0 || srv.endpoints[0].state.refs != 0 || len(srv.endpoints[0].pending) != 0 {
			t.Errorf("left: %d, %v", g.total, g.per)
		}
	})
}

func TestSlowLoris(t *testing.T) {
	for _, tt := range []struct {
		name  string
		every time.Duration
		want  time.Duration
		reply string
	}{
		{"silent", 0, 5 * time.Minute, "421 4.4.2"},
		{"a byte a minute", time.Minute, 5 * time.Minute, "421 4.4.2"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, _ := newServer(t, nil)
			c := greeted(t, srv, 0, "192.0.2.1")
			begin := time.Now()
			var drip sync.WaitGroup
			if tt.every > 0 {
				drip.Go(func() {
					for {
						time.Sleep(tt.every)
						if _, err := c.nc.Write([]byte("N")); err != nil {
							return
						}
					}
				})
			}
			c.expect(tt.reply)
			if d := time.Since(begin); d != tt.want {
				t.Errorf("%s: closed after %v", tt.name, d)
			}
			c.nc.Close()
			<-c.done
			drip.Wait()
		})
	}
}

func TestSlowMessageAndLongSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s := newServer(t, nil)
		c := greeted(t, srv, 0, "10.2.0.1")
		c.do("MAIL FROM:<a@b>", "250")
		c.do("RCPT TO:<x@d.example>", "250")
		c.do("DATA", "354")
		begin := time.Now()
		for { // one header line every four minutes is never idle
			time.Sleep(4 * time.Minute)
			if _, err := c.nc.Write([]byte("A: 1\r\n")); err != nil {
				break
			}
		}
		if d := time.Since(begin); d > 2*time.Hour || len(s.batches) > 0 {
			t.Errorf("message went on for %v", d)
		}
		<-c.done

		c = greeted(t, srv, 0, "10.2.0.1")
		begin = time.Now()
		for range 14 {
			time.Sleep(4 * time.Minute)
			c.do("NOOP", "250")
		}
		c.expect("421 4.4.2")
		if d := time.Since(begin); d != time.Hour {
			t.Errorf("session went on for %v", d)
		}
	})
}
