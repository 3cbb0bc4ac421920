package server

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/proxy/wire"
)

func TestHalfClose(t *testing.T) {
	b, p := newBook().grant(1, 2), newProvider(t)
	s := start(t, Deps{Leases: b}, nil)

	node, peer := opened(t, s, p, 1)
	write(t, node, "QUIT\r\n")
	_ = node.CloseWrite()
	expect(t, peer, "QUIT\r\n")
	expectEnd(t, peer)
	if b.isReleased(1) {
		t.Error("the provider has not ended yet")
	}
	write(t, peer, "221 bye\r\n")
	_ = peer.Close()
	expect(t, node, "221 bye\r\n")
	expectEnd(t, node)
	if !b.ended(t, 1) {
		t.Error("not clean")
	}

	node, peer = opened(t, s, p, 2)
	write(t, peer, "421 closing\r\n")
	_ = peer.CloseWrite()
	expect(t, node, "421 closing\r\n")
	expectEnd(t, node)
	if !b.ended(t, 2) {
		t.Error("not clean")
	}
	write(t, node, "QUIT\r\n")
	expect(t, peer, "QUIT\r\n")
	_ = node.Close()
	expectEnd(t, peer)
}

// The node's last command and the provider's last words cross: the words must arrive.
func TestLastWordsArrive(t *testing.T) {
	b, p := newBook(), newProvider(t)
	s := start(t, Deps{Leases: b}, nil)
	for id := range uint64(50) {
		b.grant(id + 1)
		node, peer := opened(t, s, p, id+1)
		write(t, peer, "421 too many\r\n")
		_ = peer.Close()
		_, _ = io.WriteString(node, "EHLO client.example\r\n")
		expect(t, node, "421 too many\r\n")
		expectEnd(t, node)
		_ = node.Close()
	}
}

func TestKilledNode(t *testing.T) {
	b, p := newBook().grant(1, 2, 3), newProvider(t)
	s := start(t, Deps{Leases: b}, nil)
	t.Run("reset", func(t *testing.T) {
		node, peer := opened(t, s, p, 1)
		_ = node.SetLinger(0)
		_ = node.Close()
		expectEnd(t, peer)
		_ = peer.Close()
		if !b.ended(t, 1) {
			t.Error("the provider closed, and that is not clean")
		}
	})
	t.Run("provider stays", func(t *testing.T) {
		node, peer := opened(t, s, p, 2)
		_ = node.Close()
		expectEnd(t, peer)
		if b.ended(t, 2) {
			t.Error("the provider did not close, and that is clean")
		}
	})
	t.Run("provider talks on", func(t *testing.T) {
		node, peer := opened(t, s, p, 3)
		_ = node.SetLinger(0)
		_ = node.Close()
		for {
			if _, err := io.WriteString(peer, "250 much to say\r\n"); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		b.ended(t, 3)
	})
}

func TestKilledProvider(t *testing.T) {
	b, p := newBook().grant(1), newProvider(t)
	s := start(t, Deps{Leases: b}, nil)
	node, peer := opened(t, s, p, 1)
	_ = peer.SetLinger(0)
	_ = peer.Close()
	if _, err := node.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want the reset passed on", err)
	}
	if !b.ended(t, 1) {
		t.Error("the provider reset, and that is not clean")
	}
}

func TestIdle(t *testing.T) {
	b, p := newBook().grant(1, 2), newProvider(t)
	s := start(t, Deps{Leases: b}, func(o *Options) { o.IdleTimeout = units.Duration(400 * time.Millisecond) })
	busy, peer := opened(t, s, p, 1)
	idle, _ := opened(t, s, p, 2)
	for !b.isReleased(2) {
		write(t, busy, "x")
		expect(t, peer, "x")
		time.Sleep(5 * time.Millisecond)
	}
	if b.ended(t, 2) {
		t.Error("we cut it, and that is clean")
	}
	expectGone(t, idle)
	write(t, peer, "y")
	expect(t, busy, "y")
}

func TestDrain(t *testing.T) {
	b, p, l := newBook().grant(1, 2), newProvider(t), &links{}
	s := start(t, Deps{Leases: b, Control: l.serve}, nil)
	link := say(t, s, []byte("GODWTGRL"))
	expect(t, link, "welcome")
	node, peer := opened(t, s, p, 1)
	done := make(chan error, 1)
	go func() { done <- s.Drain(context.Background()) }()
	expectGone(t, link)
	if a := answer(t, ask(t, s, p.addr(), []uint64{2}, nil)); a.Status != wire.Draining {
		t.Errorf("%+v", a)
	}
	expectGone(t, say(t, s, []byte("GODWTGRL")))
	if !b.draining || !s.Stats().Draining || len(l.list()) != 1 {
		t.Errorf("draining %v, links %q", b.draining, l.list())
	}
	write(t, node, "DATA\r\n") // the session goes on
	expect(t, peer, "DATA\r\n")
	select {
	case err := <-done:
		t.Fatalf("ended under a session: %v", err)
	default:
	}
	_ = peer.Close()
	expectEnd(t, node)
	_ = node.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", s.Addrs()[0].String()); err == nil {
		_ = c.Close()
		t.Error("still listening")
	}
}

func TestDrainEndsInTime(t *testing.T) {
	b, p := newBook().grant(1), newProvider(t)
	s := start(t, Deps{Leases: b}, func(o *Options) { o.DrainTimeout = units.Duration(100 * time.Millisecond) })
	node, peer := opened(t, s, p, 1)
	if err := s.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if b.ended(t, 1) {
		t.Error("we cut it, and that is clean")
	}
	expectGone(t, node)
	expectGone(t, peer)
	if err := s.Drain(context.Background()); err != nil {
		t.Error("a second time:", err)
	}
}
