package server

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"github.com/godwit-mta/godwit/proxy/wire"
)

// BenchmarkRelay passes messages of 10 KB and their replies on: through nothing, through
// our pump, and through splice. cpu-us/msg is the processor time of all parties; what
// is more than with nothing is the relay's.
func BenchmarkRelay(b *testing.B) {
	s := &Server{buffers: sync.Pool{New: func() any { b := make([]byte, relayBuffer); return &b }}}
	for _, tt := range []struct {
		name string
		pump func(dst, src *net.TCPConn)
	}{
		{"nothing", nil},
		{"pump", func(dst, src *net.TCPConn) { _ = s.pump(src, func(b []byte) { _, _ = dst.Write(b) }) }},
		{"splice", func(dst, src *net.TCPConn) { _, _ = io.Copy(dst, src) }},
	} {
		for _, conns := range []int{1, 20} {
			b.Run(fmt.Sprintf("%s/conns=%d", tt.name, conns), func(b *testing.B) {
				var pairs []ends
				for range conns {
					node, left := tcpPair(b)
					e := ends{node, left}
					if tt.pump != nil {
						var right *net.TCPConn
						right, e.provider = tcpPair(b)
						go func() { tt.pump(right, left); _ = right.CloseWrite() }()
						go func() { tt.pump(left, right); _ = left.CloseWrite() }()
					}
					pairs = append(pairs, e)
				}
				exchange(b, pairs)
			})
		}
	}
}

// BenchmarkProxy is the same through a whole server.
func BenchmarkProxy(b *testing.B) {
	for _, conns := range []int{1, 20} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			o := options()
			o.RequireLease = false
			s, err := New(o, Deps{})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			defer s.Stop()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			var pairs []ends
			for range conns {
				pairs = append(pairs, through(b, s, ln))
			}
			exchange(b, pairs)
		})
	}
}

// BenchmarkConnect is the whole life of a connection through the proxy, without messages.
func BenchmarkConnect(b *testing.B) {
	o := options()
	o.RequireLease = false
	s, err := New(o, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	before := cpu()
	for b.Loop() {
		e := through(b, s, ln)
		_ = e.provider.Close()
		_ = e.node.Close()
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1000, "cpu-us/conn")
}

// ends are the two ends of a connection.
type ends struct{ node, provider *net.TCPConn }

func through(b *testing.B, s *Server, ln net.Listener) ends {
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		b.Fatal(err)
	}
	h := wire.Header{Version: 1, Source: netip.MustParseAddr("127.0.0.2"), Destination: ln.Addr().(*net.TCPAddr).AddrPort()}
	head, err := h.Bytes()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.Write(head); err != nil {
		b.Fatal(err)
	}
	if a, err := wire.ReadAnswer(c); err != nil || a.Status != wire.Connected {
		b.Fatal(a, err)
	}
	p, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return ends{c.(*net.TCPConn), p.(*net.TCPConn)}
}

func tcpPair(b *testing.B) (a, z *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// cpu is the processor time of this process in nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

// exchange sends b.N messages: an envelope and its replies, a body and its reply.
func exchange(b *testing.B, pairs []ends) {
	const envelope, replies, body, reply = 100, 60, 10 << 10, 40
	var providers, nodes sync.WaitGroup
	work := make(chan struct{}, 1000)
	for _, e := range pairs {
		providers.Go(func() {
			defer e.provider.Close()
			buf := make([]byte, body)
			for {
				if _, err := io.ReadFull(e.provider, buf[:envelope]); err != nil {
					return
				}
				_, _ = e.provider.Write(buf[:replies])
				if _, err := io.ReadFull(e.provider, buf); err != nil {
					return
				}
				_, _ = e.provider.Write(buf[:reply])
			}
		})
		nodes.Go(func() {
			defer e.node.Close()
			buf := make([]byte, body)
			for range work {
				_, _ = e.node.Write(buf[:envelope])
				_, _ = io.ReadFull(e.node, buf[:replies])
				_, _ = e.node.Write(buf)
				if _, err := io.ReadFull(e.node, buf[:reply]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.ResetTimer()
	before := cpu()
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	nodes.Wait()
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1000, "cpu-us/msg")
	b.StopTimer()
	providers.Wait()
}
