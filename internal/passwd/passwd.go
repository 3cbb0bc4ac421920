// Package passwd makes and checks password hashes as they stand in
// configuration files: argon2id in the PHC string form (RFC 9106),
//
//	$argon2id$v=19$m=19456,t=2,p=1$<salt>$<key>
//
// and bcrypt ($2a$, $2b$, $2y$), for files that come from elsewhere.
//
// A hash is slow on purpose. Verifier is what a server uses: it remembers who
// was right, so that a busy client costs one hash and not one per connection,
// and bounds how many hashes are worked on, so that a flood of logins can use up
// neither CPU nor memory.
package passwd

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// ErrFormat is returned for a hash that is neither argon2id nor bcrypt, or
// whose cost is beyond reason.
var ErrFormat = errors.New("not a password hash (want $argon2id$… or $2b$…)")

// MaxLength is the longest password in bytes that is looked at.
const MaxLength = 1024

// What Hash uses: the second choice of RFC 9106 §4 scaled to what OWASP recommends for logins.
const (
	hashMemory  = 19 << 10 // KiB
	hashTime    = 2
	hashThreads = 1
	saltLength  = 16
	keyLength   = 32
)

// The most that a hash in a file may ask for.
const (
	maxMemory = 256 << 10 // KiB
	maxTime   = 32
	maxCost   = 15 // bcrypt: about 2 s
)

// params is a parsed argon2id hash.
type params struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

// Hash returns a new argon2id hash of password.
func Hash(password string) (string, error) {
	if password == "" || len(password) > MaxLength {
		return "", fmt.Errorf("password must have 1 to %d bytes", MaxLength)
	}
	p := params{memory: hashMemory, time: hashTime, threads: hashThreads, salt: make([]byte, saltLength)}
	_, _ = rand.Read(p.salt) // never fails
	p.key = p.derive(password, keyLength)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, p.memory, p.time, p.threads, b64(p.salt), b64(p.key)), nil
}

// Check returns ErrFormat unless Verify can work with hash.
func Check(hash string) error {
	if isBcrypt(hash) {
		if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost > maxCost {
			return ErrFormat
		}
		return nil
	}
	_, err := parse(hash)
	return err
}

// Verify reports whether password is the one that hash was made of. It takes
// tens of milliseconds and, for argon2id, as much memory as the hash asks for.
func Verify(hash, password string) (bool, error) {
	if len(password) > MaxLength {
		return false, nil
	}
	if err := Check(hash); err != nil {
		return false, err
	}
	if isBcrypt(hash) {
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil, nil
	}
	p, err := parse(hash)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(p.derive(password, uint32(len(p.key))), p.key) == 1, nil
}

func isBcrypt(hash string) bool {
	return strings.HasPrefix(hash, "$2a$") || strings.HasPrefix(hash, "$2b$") || strings.HasPrefix(hash, "$2y$")
}

func (p *params) derive(password string, length uint32) []byte {
	return argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, length)
}

// parse reads the PHC form of argon2id.
func parse(hash string) (*params, error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, ErrFormat
	}
	p := &params{}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", p.memory, p.time, p.threads) {
		return nil, ErrFormat
	}
	var err1, err2 error
	p.salt, err1 = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	p.key, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err := errors.Join(err1, err2); err != nil || len(p.salt) < 8 || len(p.salt) > 64 || len(p.key) < 16 || len(p.key) > 64 {
		return nil, ErrFormat
	}
	if p.threads < 1 || p.threads > 16 || p.time < 1 || p.time > maxTime || p.memory < 8*uint32(p.threads) || p.memory > maxMemory {
		return nil, ErrFormat
	}
	return p, nil
}
