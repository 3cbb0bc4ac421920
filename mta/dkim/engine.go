package dkim

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
)

// goRSA names the fallback.
const goRSA = "crypto/rsa"

// engine computes RSA signatures.
type engine struct {
	name string
	rsa  func(*rsa.PrivateKey) (crypto.Signer, error)
}

// newEngine chooses libcrypto where it is wanted and can be loaded.
//
// Loading is process-wide by nature: a shared library is loaded once, and the
// binding keeps its own once-guard, so a second Signer (a reload, a test) finds
// it loaded. Nothing happens before the first Signer is made.
func newEngine(mode string, log *slog.Logger) engine {
	fallback := engine{name: goRSA, rsa: func(k *rsa.PrivateKey) (crypto.Signer, error) { return k, nil }}
	if mode == "off" {
		return fallback
	}
	version, err := loadLibcrypto()
	if err != nil {
		log.Info("libcrypto is not available; RSA signatures are made by crypto/rsa, 3-4 times slower", "reason", err)
		return fallback
	}
	return engine{name: "libcrypto (" + version + ")", rsa: checkedLibcrypto}
}

// errUnlike means that libcrypto and crypto/rsa disagree about a signature.
var errUnlike = errors.New("libcrypto and crypto/rsa make different signatures")

// checkedLibcrypto hands the key to libcrypto and compares one signature with
// Go's: PKCS #1 v1.5 leaves no choice, so the bytes must be equal.
func checkedLibcrypto(private *rsa.PrivateKey) (crypto.Signer, error) {
	signer, err := newLibcryptoKey(private)
	if err != nil {
		return nil, err
	}
	probe := sha256.Sum256([]byte("godwit"))
	theirs, err := signer.Sign(nil, probe[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	ours, err := rsa.SignPKCS1v15(nil, private, crypto.SHA256, probe[:])
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if !bytes.Equal(ours, theirs) {
		return nil, errUnlike
	}
	return signer, nil
}
