package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
)

// maxKeyFile bounds what is read from a key file; an RSA-8192 key has 6 KB.
const maxKeyFile = 64 << 10

// loadKey reads the private key from a PEM file. A private key that others can
// read is refused: it may already be known, and the file is often a copy.
func loadKey(path string, allowLoose bool) (crypto.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of the open file, so that it cannot be swapped in between
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && !allowLoose {
		return nil, fmt.Errorf("%s can be read by group or others (mode %03o); run: chmod 600 %s (or set allow_loose_permissions)", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("%s is too large for a key file", path)
	}
	private, err := parsePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return private, nil
}

// parsePEM returns the first private key in text.
func parsePEM(text []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			return nil, errors.New("no PEM private key found (make one with: godwit dkim generate)")
		}
		switch block.Type {
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, errors.New("the key is encrypted; decrypt it with: openssl pkey")
			}
			return x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PRIVATE KEY":
			return parsePKCS8(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key is encrypted; decrypt it with: openssl pkey")
		}
	}
}

func parsePKCS8(der []byte) (crypto.Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	switch private := parsed.(type) {
	case *rsa.PrivateKey:
		return private, nil
	case ed25519.PrivateKey:
		return private, nil
	}
	return nil, fmt.Errorf("%T cannot sign DKIM; it takes RSA or Ed25519", parsed)
}

// Limits on RSA keys: RFC 8301 §3.2 forbids less than 1024 and asks for 2048.
const (
	minimumRSABits = 1024
	soundRSABits   = 2048
)

// setPrivate takes the loaded key, RSA through the engine.
func (k *key) setPrivate(private crypto.Signer, e engine, log *slog.Logger) error {
	switch private := private.(type) {
	case ed25519.PrivateKey:
		k.algorithm, k.private, k.hashOpt = algorithmEd25519, private, 0
	case *rsa.PrivateKey:
		bits := private.N.BitLen()
		if bits < minimumRSABits {
			return fmt.Errorf("file: %s holds an RSA key of %d bits; at least %d are needed (RFC 8301)", k.File, bits, minimumRSABits)
		}
		if bits < soundRSABits {
			log.Warn("dkim key is short", "domain", k.domain, "selector", k.Selector, "bits", bits, "advice", "replace it with 2048 bits")
		}
		signer, err := e.rsa(private)
		if err != nil {
			log.Warn("libcrypto refused a dkim key; crypto/rsa signs with it", "domain", k.domain, "selector", k.Selector, "error", err)
			signer = private
		}
		k.algorithm, k.private, k.hashOpt = algorithmRSA, signer, crypto.SHA256
	default:
		return fmt.Errorf("file: %T cannot sign DKIM", private)
	}
	return nil
}
