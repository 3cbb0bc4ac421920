package rig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Keys are files that a configuration names: DKIM keys and a certificate.
// They are made without any code of the program under test.
type Keys struct {
	RSAFile, EdFile       string // DKIM private keys, PKCS #8
	RSARecord, EdRecord   string // what their TXT records say
	CertFile, CertKeyFile string // self-signed, for localhost and 127.0.0.1
	Cert                  tls.Certificate
}

// NewKeys writes fresh keys into dir.
func NewKeys(dir string) (*Keys, error) {
	k := &Keys{
		RSAFile: filepath.Join(dir, "rsa.pem"), EdFile: filepath.Join(dir, "ed.pem"),
		CertFile: filepath.Join(dir, "cert.pem"), CertKeyFile: filepath.Join(dir, "cert-key.pem"),
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	rsaPublic, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		return nil, err
	}
	k.RSARecord = "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(rsaPublic)
	k.EdRecord = "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(edPublic)
	return k, errors.Join(writeKey(k.RSAFile, rsaKey), writeKey(k.EdFile, edKey), k.certificate())
}

func writeKey(path string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func (k *Keys) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	k.Cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return errors.Join(os.WriteFile(k.CertFile, chain, 0o600), writeKey(k.CertKeyFile, key))
}

// TXT writes a record's value as quoted strings of at most 255 bytes each (RFC 1035 §3.3).
func TXT(value string) string {
	var parts []string
	for len(value) > 250 {
		parts, value = append(parts, fmt.Sprintf("%q", value[:250])), value[250:]
	}
	return strings.Join(append(parts, fmt.Sprintf("%q", value)), " ")
}
