//go:build egress

package egress

import (
	"context"
	"io"
	"log"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/things-go/go-socks5"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/watch"
)

// socks is a SOCKS5 server, not ours, that connects from one address.
type socks struct {
	server *socks5.Server
	addr   string

	mu    sync.Mutex
	ln    net.Listener
	conns []net.Conn
}

func newSocks(t *testing.T, addr, from string) *socks {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	s := &socks{addr: addr, server: socks5.NewServer(socks5.WithLogger(socks5.NewLogger(log.New(io.Discard, "", 0))),
		socks5.WithDial(func(ctx context.Context, network, to string) (net.Conn, error) {
			return d.DialContext(ctx, network, to)
		}))}
	s.open(t)
	t.Cleanup(s.close)
	return s
}

func (s *socks) open(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.ln = ln
	s.mu.Unlock()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			go func() { _ = s.server.ServeConn(c) }() // ends by close
		}
	}()
}

// close ends it with all its connections.
func (s *socks) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.ln.Close()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

// TestSOCKS: mail goes by two SOCKS5 servers that are not ours; over one of them while the other
// is away, and over both again. A dead mail exchanger is told as such.
func TestSOCKS(t *testing.T) {
	lay := layout{
		nodes:   1,
		proxies: []proxySpec{{Name: "k1", Kind: "socks5"}, {Name: "k2", Kind: "socks5"}},
		sources: []sourceSpec{{Name: "s1", Proxy: "k1"}, {Name: "s2", Proxy: "k2"}},
		rules: `
[default]
connections = 4
message_rate = "40/s"` + matchesAll,
	}
	w := newWorld(t, lay, sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	newSocks(t, w.sets[0].Address, w.source("s1").String())
	second := newSocks(t, w.sets[1].Address, w.source("s2").String())
	w.start()
	w.inject([]flow{{name: "easy", domain: "e%d.test", rate: 60}})
	w.inject([]flow{{name: "dead", domain: "deadmx.sink.test", count: 1}})
	e := w.awaitEvent(0, "the attempt at a dead host", func(e *event.Event) bool { return e.Domain == "deadmx.sink.test" && e.Kind == event.Deferred })
	if e.Class != string(mail.ClassConnect) {
		t.Errorf("a dead host gave class %q, reply %q", e.Class, e.Reply)
	}
	time.Sleep(3 * time.Second)
	away := w.mark("k2 is away")
	second.close()
	time.Sleep(4 * time.Second)
	back := w.mark("k2 is back")
	second.open(t)
	time.Sleep(5 * time.Second)
	end := time.Now()
	acks := w.endLoad()
	w.bounceAll("deadmx.sink.test")
	w.awaitEmpty()
	w.reconcile(acks, []time.Time{away.Add(time.Second)}, "deadmx.sink.test")
	w.senders(map[string][]string{"easy": {"s1", "s2"}})
	r := w.record()
	limit := watch.Limit{Rate: 40, Connections: 4}
	one, two := bound{name: "s1", sources: []string{"s1"}, provider: "easy", limit: limit}, bound{name: "s2", sources: []string{"s2"}, provider: "easy", limit: limit}
	w.overshoot(r, one, two)
	if quiet := w.silence(r, one, away, back); quiet > time.Second {
		t.Errorf("s1 sent nothing for %v while k2 was away", quiet)
	}
	if n := w.mails(r, two, back, end); n == 0 {
		t.Error("s2 sent nothing after k2 was back")
	}
	if n := w.mails(r, two, w.record().Start, away); n == 0 {
		t.Error("s2 sent nothing before k2 was away")
	}
}
