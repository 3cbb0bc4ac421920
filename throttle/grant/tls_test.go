package grant

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/throttle"
)

// certificate makes one for 127.0.0.1 and the pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// Both directions at full speed over TLS and real sockets, where heartbeats, wants and grants
// cross each other at any point.
func TestBusyLinkOverTLS(t *testing.T) {
	cert, pool := certificate(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	k := throttle.NewKeeper(throttle.DefaultOptions())
	defer k.Close()
	var contact atomic.Pointer[contact]
	complete := make(chan struct{})
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	outs := []throttle.Out{{Client: "n1", Grant: &throttle.Grant{Key: testKey, Kind: throttle.Send, N: 1}}}
	s, err := NewServer(ServerOptions{Name: "proxy1", Token: "t"}, ServerDeps{Keeper: k, Owns: func(throttle.Key) bool {
		if c := contact.Load(); c != nil {
			c.deliver(outs)
		}
		return false
	}, Metrics: m, OnContact: func(_ string, up bool) {
		if up {
			close(complete)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ends := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			err = s.Serve(ctx, conn)
		}
		ends <- err
	}()
	e := &taker{log: &log{}, granted: make(chan time.Time, 1)}
	e.client, err = NewClient(ClientOptions{Node: "n1", Authority: "proxy1", Token: "t"}, ClientDeps{Events: e, Metrics: m,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&tls.Dialer{Config: &tls.Config{RootCAs: pool}}).DialContext(ctx, "tcp", ln.Addr().String())
		}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.client.Run(ctx)
	}()
	<-complete
	contact.Store(s.all()[0])
	for range 5000 {
		e.client.Want(throttle.Want{Key: testKey, Kind: throttle.Send, N: 1, Flows: 1})
		select {
		case <-e.granted:
			continue
		case err := <-ends:
			t.Logf("lost: %v", err) // as it must be, if this machine was stopped for so long
			ends <- err
		}
		break
	}
	cancel()
	<-done
	<-ends
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if strings.Contains(m.String(), `"protocol"`) {
				t.Errorf("what one side sent was malformed to the other: %v", m)
			}
		}
	}
}
