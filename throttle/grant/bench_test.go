package grant

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// taker passes on what is granted.
type taker struct {
	*log
	client  *Client
	granted chan time.Time
	drop    atomic.Bool
}

func (e *taker) Granted(_ throttle.Grant, born time.Time) {
	if !e.drop.Load() {
		e.granted <- born
	}
}

func (e *taker) Refused(throttle.Key) {}

// BenchmarkRound measures the link over loopback TCP. keeper: a Want to the authority and the
// Grant back, which includes the least time between two turns of the keeper. link: the
// same with a Grant at once. grant: a Grant alone, from deliver to Events.Granted. want: what a
// Want costs who calls it.
func BenchmarkRound(b *testing.B) {
	var contact *contact
	g := throttle.Grant{Key: testKey, Kind: throttle.Send, N: 1}
	outs := []throttle.Out{{Client: "n1", Grant: &g}}
	var direct atomic.Bool
	s, e, stop := benchLink(b, func(throttle.Key) bool {
		if direct.Load() {
			contact.deliver(outs)
			return false
		}
		return true
	})
	defer stop()
	contact = s.all()[0]
	ask := func() {
		e.client.Want(throttle.Want{Key: testKey, Kind: throttle.Send, N: 1, Flows: 1})
	}
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
	run("keeper", func() { ask(); <-e.granted })
	direct.Store(true)
	run("link", func() { ask(); <-e.granted })
	run("grant", func() { contact.deliver(outs); <-e.granted })
	e.drop.Store(true)
	run("want", ask)
}

func benchLink(b *testing.B, owns func(throttle.Key) bool) (*Server, *taker, func()) {
	o := throttle.DefaultOptions()
	o.Expiry = 0
	k := throttle.NewKeeper(o)
	complete := make(chan struct{})
	s, err := NewServer(ServerOptions{Name: "proxy1"}, ServerDeps{Keeper: k, Owns: owns, OnContact: func(_ string, up bool) {
		if up {
			close(complete)
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{}, 2)
	go func() {
		defer func() { ended <- struct{}{} }()
		if conn, err := ln.Accept(); err == nil {
			_ = s.Serve(ctx, conn)
		}
	}()
	e := &taker{log: &log{}, granted: make(chan time.Time, 1)}
	e.client, err = NewClient(ClientOptions{Node: "n1"}, ClientDeps{Events: e, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
	}})
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		defer func() { ended <- struct{}{} }()
		e.client.Run(ctx)
	}()
	<-complete
	return s, e, func() {
		cancel()
		ln.Close()
		<-ended
		<-ended
		k.Close()
	}
}
