//go:build cgo && linux

package dkim

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"strings"

	"github.com/golang-fips/openssl/v2"
	"github.com/golang-fips/openssl/v2/bbig"
)

// libcryptoFile is OpenSSL 3, whose ABI is fixed for the major version.
const libcryptoFile = "libcrypto.so.3"

// loadLibcrypto loads the shared library, at the first call, and returns its version.
func loadLibcrypto() (version string, err error) {
	if exists, _ := openssl.CheckVersion(libcryptoFile); !exists {
		return "", errors.New(libcryptoFile + " cannot be loaded")
	}
	if err := openssl.Init(libcryptoFile); err != nil {
		return "", err
	}
	words := strings.Fields(openssl.VersionText()) // OpenSSL 3.0.19 27 Jan 2026 ...
	return strings.Join(words[:min(2, len(words))], " "), nil
}

// libcryptoKey is a crypto.Signer for RSA PKCS #1 v1.5 over libcrypto.
type libcryptoKey struct {
	public  *rsa.PublicKey
	private *openssl.PrivateKeyRSA
}

// newLibcryptoKey copies the key into libcrypto.
func newLibcryptoKey(k *rsa.PrivateKey) (crypto.Signer, error) {
	if len(k.Primes) != 2 {
		return nil, errors.New("only keys of two primes")
	}
	k.Precompute()
	private, err := openssl.NewPrivateKeyRSA(
		bbig.Enc(k.N), openssl.BigInt{uint(k.E)}, bbig.Enc(k.D), bbig.Enc(k.Primes[0]), bbig.Enc(k.Primes[1]),
		bbig.Enc(k.Precomputed.Dp), bbig.Enc(k.Precomputed.Dq), bbig.Enc(k.Precomputed.Qinv))
	if err != nil {
		return nil, err
	}
	return &libcryptoKey{public: &k.PublicKey, private: private}, nil
}

// Public implements crypto.Signer.
func (k *libcryptoKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer. The randomness is libcrypto's own (blinding).
func (k *libcryptoKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return openssl.SignRSAPKCS1v15(k.private, opts.HashFunc(), digest)
}
