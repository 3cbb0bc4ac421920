//go:build !cgo || !linux

package dkim

import (
	"crypto"
	"crypto/rsa"
	"errors"
)

var errNoLibcrypto = errors.New("built without cgo")

func loadLibcrypto() (version string, err error) { return "", errNoLibcrypto }

func newLibcryptoKey(*rsa.PrivateKey) (crypto.Signer, error) { return nil, errNoLibcrypto }
