package dkim

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
)

// The keys of RFC 8463 appendix A.1.
const (
	rfcEd25519Seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
	rfcRSAKey      = `-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
-----END RSA PRIVATE KEY-----
`
)

var acceptTime = time.Unix(1528637909, 0)

func rfcEd25519PEM(t testing.TB) []byte {
	t.Helper()
	seed, err := base64.StdEncoding.DecodeString(rfcEd25519Seed)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// keyFile writes a key with mode 600 and returns its path.
func keyFile(t testing.TB, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rfcOptions signs for football.example.com by both keys of RFC 8463.
func rfcOptions(t testing.TB, canonicalization string) Options {
	t.Helper()
	o := DefaultOptions()
	o.Keys = []Key{
		{Domain: "football.example.com", Selector: "brisbane", File: keyFile(t, rfcEd25519PEM(t)), Canonicalization: canonicalization},
		{Domain: "football.example.com", Selector: "test", File: keyFile(t, []byte(rfcRSAKey)), Canonicalization: canonicalization},
	}
	return o
}

func mustNew(t testing.TB, o Options) *Signer {
	t.Helper()
	s, err := New(o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSign(t testing.TB, s *Signer, domain, header string, body ...string) string {
	t.Helper()
	var parts [][]byte
	for _, b := range body {
		parts = append(parts, []byte(b))
	}
	fields, err := s.Sign(domain, acceptTime, []byte(header), parts...)
	if err != nil {
		t.Fatal(err)
	}
	return string(fields)
}

// lookup answers with the records of the signer's own keys.
func lookup(t testing.TB, s *Signer) func(string) ([]string, error) {
	return func(name string) ([]string, error) {
		for _, k := range s.keys {
			if recordName(k.Selector, k.domain) == name {
				return []string{publicRecord(t, k.private)}, nil
			}
		}
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
}

func publicRecord(t testing.TB, private crypto.Signer) string {
	value, err := recordValue(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// verify checks every signature of a message by go-msgauth and returns their number.
func verify(t testing.TB, s *Signer, message string) (int, error) {
	t.Helper()
	checks, err := dkim.VerifyWithOptions(strings.NewReader(message), &dkim.VerifyOptions{LookupTXT: lookup(t, s)})
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, c := range checks {
		errs = append(errs, c.Err)
	}
	return len(checks), errors.Join(errs...)
}

// canonicalBody runs the canonicalizer with a buffer in the place of the hash.
func canonicalBody(mode canonicalization, parts ...[]byte) string {
	var out recorder
	var b bodyHasher
	b.reset(&out, mode)
	for _, p := range parts {
		b.write(p)
	}
	var sum [32]byte
	b.sum(&sum)
	return out.String()
}

// recorder is a hash.Hash that remembers instead.
type recorder struct{ bytes.Buffer }

func (r *recorder) Sum(b []byte) []byte { return b }
func (r *recorder) Size() int           { return 32 }
func (r *recorder) BlockSize() int      { return 64 }
