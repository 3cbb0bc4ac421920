package wire

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Credential is a key as the server knows it: by its hash. Keys are 256 random
// bits, so a plain SHA-256 is enough; a slow hash guards guessable secrets.
type Credential struct {
	Name   string
	Tenant string
	SHA256 [sha256.Size]byte
	Scopes []string
}

// Has reports whether c carries scope.
func (c *Credential) Has(scope string) bool { return slices.Contains(c.Scopes, scope) }

// ParseHash reads the hexadecimal SHA-256 of a key.
func ParseHash(s string) (hash [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(hash) {
		return hash, fmt.Errorf("must be 64 hexadecimal digits, the SHA-256 of the key")
	}
	return [sha256.Size]byte(b), nil
}

// Keyring finds the credential of a request.
type Keyring struct {
	keys  []Credential
	fails *failures
}

// NewKeyring returns a ring over keys that answers 429 to a wrong key once an
// address has presented more than limit of them within window.
func NewKeyring(keys []Credential, limit int, window time.Duration) *Keyring {
	return &Keyring{keys: slices.Clone(keys), fails: &failures{limit: limit, window: window, seen: map[netip.Prefix]*failure{}}}
}

// Replace returns a ring with other keys that remembers the failures.
func (k *Keyring) Replace(keys []Credential) *Keyring {
	return &Keyring{keys: slices.Clone(keys), fails: k.fails}
}

// Authenticate returns the credential whose key stands in the Authorization
// field (RFC 6750 §2.1). A right key always passes, whatever came from its
// address before: behind one NAT another's mistake must not stop it, and 256
// random bits cannot be guessed. The limit keeps logs and CPU from abuse.
func (k *Keyring) Authenticate(r *http.Request) (*Credential, *Problem) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") && token != "" {
		if c := k.find(strings.TrimSpace(token)); c != nil {
			return c, nil
		}
	}
	if wait := k.fails.note(address(r), time.Now()); wait > 0 {
		return nil, NewProblem(http.StatusTooManyRequests, CodeTooMany,
			"too many wrong keys from this address").After(wait)
	}
	return nil, NewProblem(http.StatusUnauthorized, CodeUnauthorized,
		"send a valid key as Authorization: Bearer KEY").
		At("", "Authorization").With("WWW-Authenticate", `Bearer realm="godwit"`)
}

// find compares with every key, so that the time tells nothing.
func (k *Keyring) find(token string) *Credential {
	hash := sha256.Sum256([]byte(token))
	at := -1
	for i := range k.keys {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], k.keys[i].SHA256[:]), i, at)
	}
	if at < 0 {
		return nil
	}
	return &k.keys[at]
}

// address is the peer's network: an IPv4 address or an IPv6 /64, which is what one host has.
func address(r *http.Request) netip.Prefix {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// failures counts wrong keys per address in fixed windows.
type failures struct {
	limit  int
	window time.Duration
	mu     sync.Mutex
	seen   map[netip.Prefix]*failure
}

type failure struct {
	count int
	until time.Time
}

// maxAddresses bounds the memory that an attacker with many addresses can take.
const maxAddresses = 16 << 10

// note counts a failure and returns how long the address has to wait, zero if it is still within the limit.
func (f *failures) note(from netip.Prefix, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.seen[from]
	if e == nil || !now.Before(e.until) {
		if e == nil && len(f.seen) >= maxAddresses {
			f.evict(now)
		}
		e = &failure{until: now.Add(f.window)}
		f.seen[from] = e
	}
	if e.count++; e.count > f.limit {
		return e.until.Sub(now)
	}
	return 0
}

// evict drops what is over, and any one when nothing is.
func (f *failures) evict(now time.Time) {
	for from, e := range f.seen {
		if !now.Before(e.until) {
			delete(f.seen, from)
		}
	}
	for from := range f.seen {
		if len(f.seen) < maxAddresses {
			return
		}
		delete(f.seen, from)
	}
}

// Entry is a key as a configuration has it.
type Entry struct {
	Name   string
	Tenant string
	SHA256 string // of the key, in hexadecimal
	Scopes []string
}

// Credentials reads the keys of a configuration. One without scopes has the defaults. Errors begin with the option.
func Credentials(entries []Entry, scopes, defaults []string) ([]Credential, error) {
	out := make([]Credential, len(entries))
	names := map[string]bool{}
	for i, e := range entries {
		hash, err := ParseHash(e.SHA256)
		switch {
		case err != nil:
			return nil, fmt.Errorf("keys.sha256: key %q: %w", e.Name, err)
		case e.Name == "" || names[e.Name]:
			return nil, fmt.Errorf("keys.name: %q is empty or used twice", e.Name)
		case e.Tenant == "":
			return nil, fmt.Errorf("keys.tenant: key %q has none", e.Name)
		}
		names[e.Name] = true
		out[i] = Credential{Name: e.Name, Tenant: e.Tenant, SHA256: hash, Scopes: e.Scopes}
		if len(e.Scopes) == 0 {
			out[i].Scopes = slices.Clone(defaults)
		}
		for _, s := range e.Scopes {
			if !slices.Contains(scopes, s) {
				return nil, fmt.Errorf("keys.scopes: key %q: %q is not one of %s", e.Name, s, strings.Join(scopes, ", "))
			}
		}
	}
	return out, nil
}
