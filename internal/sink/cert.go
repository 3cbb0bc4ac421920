package sink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// newCertificate makes a self-signed certificate for the names; addr, an IP address, is added when it is one.
func newCertificate(names []string, addr string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sink: key: %w", err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: names[0]},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names,
	}
	if host, _, err := net.SplitHostPort(addr); err == nil {
		if ip := net.ParseIP(host); ip != nil {
			t.IPAddresses = []net.IP{ip}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sink: certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sink: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// errHandshake is what the tls = "fail" behaviour fails with.
var errHandshake = errors.New("sink: handshake refused by configuration")

// tlsConfig is the server side of a provider; nil when it offers no TLS. With
// OwnMX the names are those of the domains' own hosts.
func tlsConfig(p *provider, names []string) (*tls.Config, error) {
	switch p.Behaviour.TLS {
	case TLSOn:
		cert, err := newCertificate(names, p.addr)
		if err != nil {
			return nil, err
		}
		return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
	case TLSFail:
		return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errHandshake }}, nil
	}
	return nil, nil
}

// CertPool holds the certificates of all providers that have one: the roots a
// client needs to verify their names.
func (s *Sink) CertPool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, p := range s.providers {
		if p.tls != nil && len(p.tls.Certificates) > 0 {
			pool.AddCert(p.tls.Certificates[0].Leaf)
		}
	}
	return pool
}
