package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

// dial starts a server on loopback and connects to it.
func dial(t *testing.T, opt Options, deps Deps) (*Server, net.Conn) {
	t.Helper()
	srv := newServer(t, opt, deps)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = nc.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return srv, nc
}

// TestLastReplyArrives: the reply to an attack is not lost in a TCP reset,
// though the peer has sent more than we read.
func TestLastReplyArrives(t *testing.T) {
	opt := DefaultOptions()
	opt.MaxErrors = 1
	_, nc := dial(t, opt, Deps{})
	go func() { _, _ = nc.Write([]byte("FOO\r\n" + strings.Repeat("NOOP\r\n", 20000))) }()
	got, err := io.ReadAll(nc)
	if err != nil || !strings.Contains(string(got), "421 4.7.0") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestImplicitTLS(t *testing.T) {
	opt := DefaultOptions()
	opt.ImplicitTLS = true
	rec := &recorder{auth: true}
	_, nc := dial(t, opt, Deps{Backend: rec, TLS: serverTLS(t)})
	c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own certificate
	_, _ = io.WriteString(c, "EHLO c\r\nQUIT\r\n")
	got, err := io.ReadAll(c)
	text := string(got)
	if err != nil || !strings.HasPrefix(text, "220 ") || !strings.Contains(text, "AUTH PLAIN") || strings.Contains(text, "STARTTLS") {
		t.Errorf("%q, %v", got, err)
	}
	if _, ok := rec.conns[0].TLSConnectionState(); !ok {
		t.Error("session sees no TLS")
	}
	select {
	case <-rec.conns[0].Context().Done():
	case <-time.After(10 * time.Second):
		t.Error("context of a closed connection is not cancelled")
	}
}

// TestPlaintextToImplicitTLS: a failed handshake ends the connection, and
// only that.
func TestPlaintextToImplicitTLS(t *testing.T) {
	opt := DefaultOptions()
	opt.ImplicitTLS = true
	_, nc := dial(t, opt, Deps{TLS: serverTLS(t)})
	_, _ = io.WriteString(nc, "EHLO plain text\r\n")
	if got, _ := io.ReadAll(nc); strings.Contains(string(got), "220") {
		t.Errorf("greeting without TLS: %q", got)
	}
}

// TestSetRemote: XCLIENT's address is what the session sees from then on.
func TestSetRemote(t *testing.T) {
	rec := &recorder{xclient: true}
	srv := newServer(t, DefaultOptions(), Deps{Backend: rec})
	srv.ServeConn(&tape{in: []byte("EHLO p\r\nXCLIENT ADDR=192.0.2.7 HELO=h.example\r\n")})
	c := rec.conns[0]
	if c.RemoteAddr().String() != "192.0.2.7:0" || c.Hostname() != "h.example" || c.ID() != 1 || !c.ESMTP() {
		t.Errorf("%v %v", c.RemoteAddr(), c.Hostname())
	}
}

// TestShutdownStuckSession: a session that never returns cannot hold up
// Shutdown beyond its context and a second.
func TestShutdownStuckSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		srv := newServer(t, DefaultOptions(), Deps{Backend: BackendFunc(func(c Conn) (gosmtp.Session, error) {
			<-release
			if c.Context().Err() == nil {
				t.Error("context is not cancelled")
			}
			return nil, errors.New("too late")
		})})
		client, server := net.Pipe()
		go srv.ServeConn(server)
		r := bufio.NewReader(client)
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(client, "EHLO c\r\n")
		synctest.Wait()
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if d := time.Since(start); d > time.Minute+killGrace {
			t.Errorf("took %v", d)
		}
		close(release)
		_ = client.Close()
	})
}

// TestServeAfterClose and twice-closed servers do no harm.
func TestServeAfterClose(t *testing.T) {
	srv := newServer(t, DefaultOptions(), Deps{})
	for range 2 {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(l); err != nil {
		t.Error(err)
	}
	client, server := net.Pipe()
	srv.ServeConn(server)
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("served after close")
	}
}

// TestAcceptErrors: passing troubles of a listener do not end Serve.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t, DefaultOptions(), Deps{})
		l := &badListener{fails: 5, oneListener: oneListener{conns: make(chan net.Conn, 1), stop: make(chan struct{})}}
		client, server := net.Pipe()
		l.conns <- server
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		line, err := bufio.NewReader(client).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "220") {
			t.Errorf("%q, %v", line, err)
		}
		_ = srv.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = client.Close()
	})
}

type badListener struct {
	oneListener
	fails int
}

func (l *badListener) Accept() (net.Conn, error) {
	if l.fails > 0 {
		l.fails--
		return nil, errors.New("too many open files")
	}
	return l.oneListener.Accept()
}

// TestConcurrentConnections shares one server between many clients, for the
// race detector, and shuts down in their midst.
func TestConcurrentConnections(t *testing.T) {
	rec := &recorder{}
	srv := newServer(t, DefaultOptions(), Deps{Backend: rec})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := 0
	for range 20 {
		wg.Go(func() {
			c, err := gosmtp.Dial(l.Addr().String())
			if err != nil {
				return
			}
			defer c.Close()
			for range 50 {
				if c.SendMail("a@example.com", []string{"b@example.net"}, strings.NewReader(strings.Repeat("line\r\n", 100))) != nil {
					return
				}
				mu.Lock()
				acked++
				mu.Unlock()
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		mu.Lock()
		n := acked
		mu.Unlock()
		if n > 100 || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	wg.Wait()
	if acked != len(rec.accepted) {
		t.Errorf("%d acknowledged, %d accepted", acked, len(rec.accepted))
	}
	for _, m := range rec.accepted {
		if len(m.data) != 600 {
			t.Fatalf("message of %d bytes", len(m.data))
		}
	}
}

// TestAdapt: a session under go-smtp's server sees its connection.
func TestAdapt(t *testing.T) {
	var peer, local string // "Addr" as the client sees it, set before it says EHLO
	asked := make(chan struct{})
	srv := gosmtp.NewServer(Adapt(BackendFunc(func(c Conn) (gosmtp.Session, error) {
		defer close(asked)
		if c.Hostname() != "client.example" || c.RemoteAddr().String() != peer || c.LocalAddr().String() != local ||
			c.Context() == nil || !c.ESMTP() || c.ID() != 0 {
			t.Errorf("%v %v %v", c.Hostname(), c.RemoteAddr(), c.LocalAddr())
		}
		c.SetRemote(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)})
		if _, ok := c.TLSConnectionState(); ok || c.RemoteAddr().String() != "192.0.2.1:0" {
			t.Errorf("%v", c.RemoteAddr())
		}
		return nil, c.Close()
	})))
	srv.ErrorLog = nullLog{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = bufio.NewReader(nc).ReadString('\n')
	peer, local = nc.LocalAddr().String(), l.Addr().String()
	_, _ = io.WriteString(nc, "EHLO client.example\r\n")
	<-asked
	_ = nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}
