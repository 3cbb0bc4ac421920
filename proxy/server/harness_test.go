package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/proxy/wire"
	"github.com/godwit-mta/godwit/throttle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// book is an authority that keeps book.
type book struct {
	mu       sync.Mutex
	granted  map[uint64]throttle.Key
	claimed  map[uint64]bool
	released map[uint64]bool // by clean
	draining bool
	changed  chan struct{}
}

func newBook() *book {
	return &book{granted: map[uint64]throttle.Key{}, claimed: map[uint64]bool{}, released: map[uint64]bool{}, changed: make(chan struct{}, 1)}
}

func (b *book) grant(ids ...uint64) *book {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.granted[id] = throttle.Key{Source: "s1", Provider: "p"}
	}
	return b
}

func (b *book) Claim(id uint64) (throttle.Key, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key, ok := b.granted[id]
	if !ok || b.claimed[id] {
		return throttle.Key{}, false
	}
	b.claimed[id] = true
	return key, true
}

func (b *book) Release(id uint64, clean bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, twice := b.released[id]; twice || !b.claimed[id] {
		panic("released twice or never claimed")
	}
	b.released[id] = clean
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

func (b *book) Drain(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.draining = on
}

// ended waits until a permit is released and reports whether cleanly.
func (b *book) ended(t *testing.T, id uint64) (clean bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		b.mu.Lock()
		clean, ok := b.released[id]
		b.mu.Unlock()
		if ok {
			return clean
		}
		select {
		case <-b.changed:
		case <-deadline:
			t.Fatalf("permit %d was not released", id)
		}
	}
}

func (b *book) isReleased(id uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.released[id]
	return ok
}

// provider is a mail exchanger that records who connects.
type provider struct {
	net.Listener
	conns chan net.Conn
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{Listener: ln, conns: make(chan net.Conn, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.conns <- c
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		close(p.conns)
		for c := range p.conns {
			_ = c.Close()
		}
	})
	return p
}

func (p *provider) addr() netip.AddrPort { return p.Addr().(*net.TCPAddr).AddrPort() }

// next is the next connection, and the address it comes from.
func (p *provider) next(t *testing.T) (*net.TCPConn, string) {
	t.Helper()
	select {
	case c := <-p.conns:
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		return c.(*net.TCPConn), c.RemoteAddr().(*net.TCPAddr).IP.String()
	case <-time.After(patience):
		t.Fatal("nobody connected")
		return nil, ""
	}
}

func (p *provider) none(t *testing.T) {
	t.Helper()
	select {
	case c := <-p.conns:
		t.Errorf("connection from %v", c.RemoteAddr())
		_ = c.Close()
	default:
	}
}

func options() Options {
	o := DefaultOptions()
	o.Name = "proxy-1"
	o.Listeners = []Listener{{Address: "127.0.0.1:0", Networks: []string{"127.0.0.0/8"}}}
	o.Sources = []Source{{Name: "s1", Bind: "127.0.0.2"}, {Name: "s2", Bind: "127.0.0.3"}, {Name: "s2-other", Bind: "127.0.0.3"}}
	o.CloseTimeout = units.Duration(300 * time.Millisecond)
	return o
}

// start runs a server with the options that change makes.
func start(t *testing.T, d Deps, change func(*Options)) *Server {
	t.Helper()
	o := options()
	if change != nil {
		change(&o)
	}
	s, err := New(o, d)
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
		if st := s.Stats(); st.Connections != 0 || len(st.Keys) != 0 || st.Sources[0].Open != 0 || st.Sources[0].Opening != 0 {
			t.Errorf("after the end: %+v", st)
		}
	})
	return s
}

// ask opens a connection from s1 with the given permits, unless change says otherwise.
func ask(t *testing.T, s *Server, to netip.AddrPort, leases []uint64, change func(*wire.Header)) *net.TCPConn {
	t.Helper()
	h := wire.Header{Version: wire.Version, Source: netip.MustParseAddr("127.0.0.2"), Destination: to, Leases: leases,
		Request: mail.ID{1}, Node: "node-1", Name: "s1"}
	if change != nil {
		change(&h)
	}
	b, err := h.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return say(t, s, b)
}

func say(t *testing.T, s *Server, b []byte) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func answer(t *testing.T, c net.Conn) wire.Answer {
	t.Helper()
	a, err := wire.ReadAnswer(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// opened is a connection through the proxy: both its ends.
func opened(t *testing.T, s *Server, p *provider, lease uint64) (node, peer *net.TCPConn) {
	t.Helper()
	node = ask(t, s, p.addr(), []uint64{lease}, nil)
	if a := answer(t, node); a.Status != wire.Connected {
		t.Fatalf("%+v", a)
	}
	peer, _ = p.next(t)
	return node, peer
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("got %q, %v, want %q", b[:n], err, want)
	}
}

// expectEnd waits for a proper end.
func expectEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("%d bytes, %v, want an end", n, err)
	}
}

// expectGone waits for any end.
func expectGone(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes, %v, want an end", n, err)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		time.Sleep(time.Millisecond)
	}
}

// linger keeps a grant link open until its context ends.
type links struct {
	mu    sync.Mutex
	begin []string
}

func (l *links) serve(ctx context.Context, c net.Conn) {
	b := make([]byte, 8)
	n, _ := io.ReadFull(c, b)
	l.mu.Lock()
	l.begin = append(l.begin, string(b[:n]))
	l.mu.Unlock()
	_, _ = c.Write([]byte("welcome"))
	<-ctx.Done()
}

func (l *links) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.begin...)
}

func writeFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
