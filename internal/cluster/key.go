package cluster

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// keySize is the length of a cluster's key in bytes.
const keySize = 32

// NewKey returns a new cluster key in the form of a key file, without a line end.
func NewKey() string {
	var key [keySize]byte
	_, _ = rand.Read(key[:]) // never fails since Go 1.24
	return base64.StdEncoding.EncodeToString(key[:])
}

// errBadKey does not show what was read: it may be a secret in the wrong place.
var errBadKey = errors.New("its content is not 32 bytes in base64")

// loadKey reads a key file.
func loadKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %o); run: chmod 600 %s", path, mode, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%s: %w", path, errBadKey)
	}
	return key, nil
}

// derive makes a key for one purpose out of the cluster's (HKDF-SHA256, RFC 5869). Nothing derived tells about another.
func derive(key []byte, info string) ([]byte, error) {
	return hkdf.Key(sha256.New, key, nil, "godwit cluster 1 "+info, keySize)
}

// Token returns the bearer token by which nodes of this cluster know each other over HTTP, one for each
// purpose, the same on every node. It is "" without a key, as on loopback; then nobody is to be trusted for a token.
func (c *Cluster) Token(purpose string) string {
	if c.key == nil {
		return ""
	}
	token, err := derive(c.key, "token "+purpose)
	if err != nil { // only for a length that is not asked for
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(token)
}
