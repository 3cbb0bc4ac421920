package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
)

// The algorithms Generate knows.
const (
	RSA2048 = "rsa2048"
	RSA4096 = "rsa4096"
	Ed25519 = "ed25519"
)

// Generated is a new key and the DNS record that publishes it.
type Generated struct {
	Private []byte // PEM, PKCS #8; write it with mode 600
	Name    string // owner name without final dot: selector._domainkey.domain
	Value   string // the TXT value in one piece, for a provider's web form
	Zone    string // the record in zone file form, in strings of at most 255 bytes
}

// Generate makes a key pair. algorithm is rsa2048, rsa4096 or ed25519. An
// Ed25519 signature is cheap and short, but not every provider checks it: use it
// beside RSA, not instead of it.
func Generate(algorithm, domain, selector string) (*Generated, error) {
	ascii, err := asciiDomain(domain)
	if err != nil {
		return nil, fmt.Errorf("dkim: domain: %w", err)
	}
	if !validDomain(strings.ToLower(selector)) {
		return nil, fmt.Errorf("dkim: selector: %q is not a selector (letters, digits, hyphens, dots)", selector)
	}
	private, err := newPrivate(algorithm)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("dkim: %w", err)
	}
	value, err := recordValue(private.Public())
	if err != nil {
		return nil, err
	}
	name := recordName(selector, ascii)
	return &Generated{
		Private: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		Name:    name,
		Value:   value,
		Zone:    zoneRecord(name, value),
	}, nil
}

func newPrivate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case Ed25519:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return nil, fmt.Errorf("dkim: algorithm %q is none of %s, %s, %s", algorithm, RSA2048, RSA4096, Ed25519)
}

func recordName(selector, domain string) string { return selector + "._domainkey." + domain }

// recordValue is the TXT value for a public key: RSA as SubjectPublicKeyInfo
// (RFC 6376 §3.6.1), Ed25519 as its 32 bytes (RFC 8463 §4).
func recordValue(public crypto.PublicKey) (string, error) {
	data, algorithm, err := publicBytes(public)
	if err != nil {
		return "", err
	}
	return "v=DKIM1; k=" + algorithm + "; p=" + base64.StdEncoding.EncodeToString(data), nil
}

func publicBytes(public crypto.PublicKey) (data []byte, algorithm string, err error) {
	switch public := public.(type) {
	case ed25519.PublicKey:
		return public, "ed25519", nil
	case *rsa.PublicKey:
		data, err = x509.MarshalPKIXPublicKey(public)
		return data, "rsa", err
	}
	return nil, "", fmt.Errorf("dkim: %T has no DKIM record", public)
}

// zoneRecord writes a TXT record; one string of it holds at most 255 bytes.
func zoneRecord(name, value string) string {
	const limit = 255
	if len(value) <= limit {
		return fmt.Sprintf("%s. 3600 IN TXT %q\n", name, value)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s. 3600 IN TXT (\n", name)
	for len(value) > 0 {
		n := min(limit, len(value))
		fmt.Fprintf(&b, "\t%q\n", value[:n])
		value = value[n:]
	}
	b.WriteString(")\n")
	return b.String()
}
