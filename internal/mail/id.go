package mail

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sync"
	"time"
)

// ID names a message, a body or a session: a UUID version 7 (RFC 9562 §5.7).
// Its first 48 bits are Unix milliseconds, so ids sort by age.
type ID [16]byte

// ErrBadID is returned by ParseID for anything that is not a UUID in its canonical text form.
var ErrBadID = errors.New("mail: not a message id (want a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057)")

// ParseID reads the canonical 36 character form.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, ErrBadID
	}
	compact := make([]byte, 0, 32)
	for i := range len(s) {
		if s[i] != '-' {
			compact = append(compact, s[i])
		}
	}
	if n, err := hex.Decode(id[:], compact); err != nil || n != len(id) {
		return ID{}, ErrBadID
	}
	return id, nil
}

// AppendText appends the canonical form to b. It never fails.
func (id ID) AppendText(b []byte) ([]byte, error) {
	var s [36]byte
	hex.Encode(s[0:8], id[0:4])
	s[8] = '-'
	hex.Encode(s[9:13], id[4:6])
	s[13] = '-'
	hex.Encode(s[14:18], id[6:8])
	s[18] = '-'
	hex.Encode(s[19:23], id[8:10])
	s[23] = '-'
	hex.Encode(s[24:36], id[10:16])
	return append(b, s[:]...), nil
}

// String returns the canonical form.
func (id ID) String() string {
	b, _ := id.AppendText(make([]byte, 0, 36))
	return string(b)
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) error {
	parsed, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// IsZero reports whether id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// Time is the instant of creation, to the millisecond.
func (id ID) Time() time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}

// Add returns the id n places after id in a run reserved by IDs.Reserve.
func (id ID) Add(n int) ID {
	low := binary.BigEndian.Uint64(id[8:])
	const variant = uint64(0x3) << 62
	binary.BigEndian.PutUint64(id[8:], low&variant|(low+uint64(n))&^variant)
	return id
}

// IDs makes ids. The zero value is ready to use and safe for concurrent use.
type IDs struct {
	mu   sync.Mutex
	pool [512]byte
	left int
}

// New returns a fresh id for the given instant.
func (g *IDs) New(now time.Time) ID { return g.Reserve(now, 1) }

// Reserve returns the first of n ids; the others are Add(1) … Add(n-1).
// The random part leaves room so that Add cannot wrap.
func (g *IDs) Reserve(now time.Time, n int) ID {
	var id ID
	g.mu.Lock()
	if g.left < 10 {
		_, _ = rand.Read(g.pool[:]) // crypto/rand.Read never fails since Go 1.24
		g.left = len(g.pool)
	}
	g.left -= 10
	copy(id[6:], g.pool[g.left:g.left+10])
	g.mu.Unlock()
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = 0x70 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x1f // one spare bit below the variant: room for Add
	return id
}
