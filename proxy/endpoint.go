package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	socks "golang.org/x/net/proxy"
)

// sessionCache is how many TLS sessions of a proxy are kept to be resumed.
const sessionCache = 64

func newEndpoint(p ProxyOptions) (*endpoint, error) {
	e := &endpoint{ProxyOptions: p}
	if p.PasswordFile != "" {
		b, err := os.ReadFile(p.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("password_file: %w", err)
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		e.password = string(bytes.TrimRight(line, "\r"))
		if e.password == "" || len(e.password) > 255 { // RFC 1929 §2
			return nil, fmt.Errorf("password_file: the first line of %s must be 1 to 255 bytes", p.PasswordFile)
		}
	}
	if p.TLS.CAFile == "" {
		return e, nil
	}
	pem, err := os.ReadFile(p.TLS.CAFile)
	if err != nil {
		return nil, fmt.Errorf("tls.ca_file: %w", err)
	}
	name := p.TLS.Name
	if name == "" {
		name, _, _ = net.SplitHostPort(p.Address)
	}
	e.tls = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool(), ServerName: name,
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionCache)}
	if !e.tls.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls.ca_file: no certificate in %s", p.TLS.CAFile)
	}
	if p.TLS.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(p.TLS.CertFile, p.TLS.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls.cert_file: %w", err)
		}
		e.tls.Certificates = []tls.Certificate{pair}
	}
	return e, nil
}

// socks asks a SOCKS5 proxy (RFC 1928). Which address it connects from is its own business.
func (w *ways) socks(ctx context.Context, s *way, r Request) (net.Conn, error) {
	conn, err := w.reach(ctx, s.via)
	if err != nil {
		return nil, err
	}
	var auth *socks.Auth
	if s.via.Username != "" {
		auth = &socks.Auth{User: s.expand(s.via.Username), Password: s.via.password}
	}
	if err := speak(ctx, conn, s.via, auth, r.Addr.String()); err != nil {
		_ = conn.Close()
		return nil, s.via.socksError(ctx, err)
	}
	return conn, conn.SetDeadline(time.Time{})
}

// errSocks is for an x/net without what we use of it.
var errSocks = errors.New("proxy: SOCKS5 client is of another version")

func speak(ctx context.Context, conn net.Conn, e *endpoint, auth *socks.Auth, to string) error {
	client, err := socks.SOCKS5("tcp", e.Address, auth, nil)
	if err != nil {
		return err
	}
	over, ok := client.(interface {
		DialWithConn(ctx context.Context, c net.Conn, network, address string) (net.Addr, error)
	})
	if !ok {
		return errSocks
	}
	_, err = over.DialWithConn(ctx, conn, "tcp", to)
	return err
}

// socksReplies are the texts of the client for the replies of RFC 1928 §6 that say
// something about the provider.
//
//nolint:gochecknoglobals // a table
var socksReplies = []struct {
	text  string
	errno syscall.Errno
}{
	{"network unreachable", syscall.ENETUNREACH},
	{"host unreachable", syscall.EHOSTUNREACH},
	{"connection refused", syscall.ECONNREFUSED},
	{"TTL expired", syscall.ETIMEDOUT},
	{"general SOCKS server failure", 0},
}

// socksError sorts an error of the dialogue with a SOCKS5 proxy.
func (e *endpoint) socksError(ctx context.Context, err error) error {
	var op *net.OpError
	inner := err
	if errors.As(err, &op) {
		inner = op.Err
	}
	text, told := strings.CutPrefix(inner.Error(), "unknown error ")
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case told:
		for _, r := range socksReplies {
			if text == r.text {
				return &ConnectError{Proxy: e.Name, TimedOut: r.errno == syscall.ETIMEDOUT, Errno: r.errno, Text: text}
			}
		}
		return &RefusedError{Proxy: e.Name, Reason: "socks", Text: text}
	case ctx.Err() != nil, errors.Is(inner, os.ErrDeadlineExceeded):
		// A SOCKS5 proxy is silent while it connects: this is more likely the provider than the proxy, whom a probe watches.
		return &ConnectError{Proxy: e.Name, TimedOut: true, Errno: syscall.ETIMEDOUT, Text: "no answer in time"}
	case isNetwork(inner):
		return e.down(ctx, inner)
	}
	return &RefusedError{Proxy: e.Name, Reason: "socks", Text: inner.Error()}
}

// isNetwork reports whether the proxy went away, in contrast to saying something.
func isNetwork(err error) bool {
	var errno syscall.Errno
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &errno)
}

// Probe finds out whether a proxy is there: a connection, and a greeting where
// the protocol has one, so that a stopped process whose kernel
// still takes connections is found out. Proxies of kind direct are always there.
func (d *Dialer) Probe(ctx context.Context, proxy string) error {
	w := d.ways.Load()
	e := w.proxies[proxy]
	if e == nil {
		return fmt.Errorf("proxy: there is no proxy %q", proxy)
	}
	if e.kind() == KindDirect {
		return nil
	}
	conn, err := w.reach(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	if e.kind() != KindSOCKS5 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	defer interrupt(ctx, conn)()
	method := byte(0) // none
	if e.Username != "" {
		method = 2 // user name and password
	}
	var reply [2]byte
	if _, err = conn.Write([]byte{5, 1, method}); err == nil {
		_, err = io.ReadFull(conn, reply[:])
	}
	if err == nil && reply != [2]byte{5, method} {
		err = fmt.Errorf("greets with %#x", reply)
	}
	if err != nil {
		return e.down(ctx, err)
	}
	return nil
}

// Watch probes every proxy whose health nobody else knows (haproxy and socks5)
// each interval, until ctx ends. report is told every result; it must not block for long.
func (d *Dialer) Watch(ctx context.Context, every time.Duration, report func(proxy string, up bool, reason string)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var round sync.WaitGroup
		for name, e := range d.ways.Load().proxies {
			if kind := e.kind(); kind != KindHAProxy && kind != KindSOCKS5 {
				continue
			}
			round.Go(func() {
				err := d.Probe(ctx, name)
				switch {
				case ctx.Err() != nil:
				case err != nil:
					report(name, false, err.Error())
				default:
					report(name, true, "")
				}
			})
		}
		round.Wait()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
