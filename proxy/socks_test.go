package proxy

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/things-go/go-socks5"

	"github.com/godwit-mta/godwit/internal/mail"
)

func socksServer(t *testing.T, opts ...socks5.Option) string {
	t.Helper()
	s := socks5.NewServer(append(opts, socks5.WithLogger(socks5.NewLogger(log.New(io.Discard, "", 0))))...)
	return listen(t, func(c net.Conn) { _ = s.ServeConn(c) }).String()
}

func TestThroughSOCKS5(t *testing.T) {
	to := newProvider(t)
	from := func(ip string) socks5.Option {
		return socks5.WithDial(func(ctx context.Context, network, addr string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
			return d.DialContext(ctx, network, addr)
		})
	}
	d := newDialer(t, via(ProxyOptions{Kind: KindSOCKS5, Address: socksServer(t, from("127.0.0.6"))}))
	if got := banner(t, d, Request{Source: "s", Addr: to}); got != "220 127.0.0.6" {
		t.Errorf("%q", got)
	}
	c, err := d.Dial(within(t, patience), Request{Source: "s", Addr: to})
	if err != nil {
		t.Fatal(err)
	}
	if _, plain := c.(*net.TCPConn); !plain {
		t.Errorf("%T", c)
	}
	_ = c.Close()
	_, err = d.Dial(within(t, patience), Request{Source: "s", Addr: closedPort(t)})
	var refused *ConnectError
	if !errors.As(err, &refused) || !errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, mail.ErrNotTried) {
		t.Errorf("refused: %v", err)
	}
	_, err = d.Dial(within(t, 200*time.Millisecond), Request{Source: "s", Addr: swallow(t)})
	if !errors.As(err, &refused) || !refused.Timeout() {
		t.Errorf("timeout: %v", err)
	}

	forbidden := newDialer(t, via(ProxyOptions{Kind: KindSOCKS5, Address: socksServer(t, socks5.WithRule(socks5.NewPermitNone()))}))
	var r *RefusedError
	if _, err = forbidden.Dial(within(t, patience), Request{Source: "s", Addr: to}); !errors.As(err, &r) || !errors.Is(err, mail.ErrNotTried) {
		t.Errorf("forbidden: %v", err)
	}
	closes := newDialer(t, via(ProxyOptions{Kind: KindSOCKS5, Address: listen(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 3)) }).String()}))
	if _, err = closes.Dial(within(t, patience), Request{Source: "s", Addr: to}); !errors.Is(err, ErrProxyDown) {
		t.Errorf("closes: %v", err)
	}
	gone := newDialer(t, via(ProxyOptions{Kind: KindSOCKS5, Address: closedPort(t).String()}))
	if _, err = gone.Dial(within(t, patience), Request{Source: "s", Addr: to}); !errors.Is(err, ErrProxyDown) {
		t.Errorf("gone: %v", err)
	}
}

func TestSOCKS5Users(t *testing.T) {
	to := newProvider(t)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := socksServer(t, socks5.WithCredential(socks5.StaticCredentials{"mail-s-127.0.0.2": "secret"}))
	p := ProxyOptions{Kind: KindSOCKS5, Address: address, Username: "mail-{source}-{bind}", PasswordFile: password}
	d := newDialer(t, via(p))
	if got := banner(t, d, Request{Source: "s", Addr: to}); got != "220 127.0.0.1" {
		t.Errorf("%q", got)
	}
	if err := d.Probe(t.Context(), "p"); err != nil {
		t.Error(err)
	}
	p.Username = "eve"
	var r *RefusedError
	if _, err := newDialer(t, via(p)).Dial(within(t, patience), Request{Source: "s", Addr: to}); !errors.As(err, &r) {
		t.Errorf("wrong user: %v", err)
	}
	p.Username, p.PasswordFile = "", ""
	anonymous := newDialer(t, via(p))
	if _, err := anonymous.Dial(within(t, patience), Request{Source: "s", Addr: to}); !errors.As(err, &r) {
		t.Errorf("no user: %v", err)
	}
	if err := anonymous.Probe(t.Context(), "p"); !errors.Is(err, ErrProxyDown) {
		t.Errorf("probe without user: %v", err)
	}
	p.Username, p.PasswordFile = "x", filepath.Join(t.TempDir(), "none")
	if _, err := NewDialer(via(p), DialerDeps{}); err == nil || !strings.HasPrefix(err.Error(), "proxies[0].password_file: ") {
		t.Errorf("%v", err)
	}
}
