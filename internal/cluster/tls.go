package cluster

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"time"
)

// errStranger ends a handshake with somebody who does not have the cluster's key.
var errStranger = errors.New("cluster: the other side does not have the cluster's key")

// ServerTLS is how nodes of this cluster are received, ClientTLS how they are
// dialled: both sides show a certificate for a key that is derived from the cluster's,
// and take no other. Nil without a cluster key, as on loopback.
func (c *Cluster) ServerTLS() *tls.Config {
	conf := c.tls()
	if conf != nil {
		conf.ClientAuth = tls.RequireAnyClientCert
	}
	return conf
}

// ClientTLS is the other side of ServerTLS.
func (c *Cluster) ClientTLS() *tls.Config { return c.tls() }

func (c *Cluster) tls() *tls.Config {
	if c.key == nil {
		return nil
	}
	cert, public, err := clusterCert(c.key)
	if err != nil {
		c.log.Error("no certificate for links", "error", err)
		return &tls.Config{VerifyConnection: func(tls.ConnectionState) error { return err }, MinVersion: tls.VersionTLS13}
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{cert},
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // names and authorities mean nothing here: the key itself is checked
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, peer := range s.PeerCertificates[:min(1, len(s.PeerCertificates))] {
				if key, ok := peer.PublicKey.(ed25519.PublicKey); ok && key.Equal(public) {
					return nil
				}
			}
			return errStranger
		},
	}
}

// clusterCert makes a certificate for the key that all nodes derive.
func clusterCert(secret []byte) (cert tls.Certificate, public ed25519.PublicKey, err error) {
	seed, err := derive(secret, "link certificate")
	if err != nil {
		return cert, nil, err
	}
	private := ed25519.NewKeyFromSeed(seed)
	public = private.Public().(ed25519.PublicKey)
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "godwit cluster"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(50, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, public, err
}
