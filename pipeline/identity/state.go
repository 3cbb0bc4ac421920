package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Version is of the rows of the state, for keyed.Spec. The rows are in docs/formats/pipeline.md.
const Version = 1

// The kinds of keys, and the version that values begin with.
const (
	bindingPrefix  = 'b'
	redirectPrefix = 'r'
	rowVersion     = 1
)

// key stands for an identifier: its tenant and a hash of it. The identifier itself is not kept, so
// nothing of it is left when its profile is deleted.
type key struct {
	tenant fact.TenantID
	hash   [16]byte
}

// keyOf hashes an identifier.
func keyOf(tenant fact.TenantID, kind fact.IdentifierKind, value []byte) key {
	if s, is := unseal(value); is {
		return key{tenant, s.hash}
	}
	var room [128]byte
	b := binary.BigEndian.AppendUint64(room[:0], uint64(tenant))
	b = append(append(b, byte(kind)), value...)
	h := sha256.Sum256(b)
	return key{tenant, [16]byte(h[:16])}
}

func (k key) append(b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(append(b, bindingPrefix), uint64(k.tenant)), k.hash[:]...)
}

// place is a profile within its tenant: who names another tenant's profile names nobody.
type place struct {
	tenant  fact.TenantID
	profile fact.ProfileID
}

func (p place) append(b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(append(b, redirectPrefix), uint64(p.tenant)), p.profile[:]...)
}

// binding says whose an identifier is.
type binding struct {
	profile fact.ProfileID
	// own: the profile was made for this identifier. While it is, and is not part of another one, a
	// stronger identifier that comes along may take it over.
	own bool
	// claimed has the weaker identifiers that came along, hashed, the latest last.
	claimed []uint64
}

// maxClaimed bounds the list. An identifier that fell off is claimed again, which changes nothing.
const maxClaimed = 64

// hashOf is never zero.
func hashOf(kind fact.IdentifierKind, value []byte) uint64 {
	if s, is := unseal(value); is {
		return s.claim
	}
	var h xxhash.Digest
	h.ResetWithSeed(uint64(kind))
	_, _ = h.Write(value)
	return h.Sum64() | 1
}

func (b *binding) claim(h uint64) {
	if len(b.claimed) == maxClaimed {
		b.claimed = slices.Delete(b.claimed, 0, 1)
	}
	b.claimed = append(b.claimed, h)
}

var errState = errors.New("identity: a row of the state is damaged")

func (b *binding) append(out []byte) []byte {
	var flags byte
	if b.own {
		flags = 1
	}
	out = append(append(out, rowVersion, flags), b.profile[:]...)
	for _, h := range b.claimed {
		out = binary.BigEndian.AppendUint64(out, h)
	}
	return out
}

func (b *binding) parse(v []byte) error {
	if len(v) < 18 || v[0] != rowVersion || v[1] > 1 || (len(v)-18)%8 != 0 {
		return errState
	}
	b.own, b.profile = v[1] == 1, fact.ProfileID(v[2:18])
	b.claimed = nil
	for v = v[18:]; len(v) > 0; v = v[8:] {
		b.claimed = append(b.claimed, binary.BigEndian.Uint64(v))
	}
	return nil
}

// rows is what reads the state: a Tx for the stage, a Store for others.
type rows interface {
	Get(key []byte) ([]byte, error)
}

// loadBinding reads whose an identifier is; nil if nobody's.
func loadBinding(r rows, k key) (*binding, error) {
	var room [32]byte
	v, err := r.Get(k.append(room[:0]))
	if errors.Is(err, keyed.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := new(binding)
	return b, b.parse(v)
}

// follow returns the profile that one is part of by now, and whether that is deleted.
func follow(r rows, p place) (root fact.ProfileID, dead bool, err error) {
	var room [32]byte
	for range maxHops {
		v, err := r.Get(p.append(room[:0]))
		if errors.Is(err, keyed.ErrNotFound) {
			return p.profile, false, nil
		}
		if err != nil {
			return root, false, err
		}
		if len(v) != 17 || v[0] != rowVersion {
			return root, false, errState
		}
		next := fact.ProfileID(v[1:])
		if next.IsZero() {
			return p.profile, true, nil
		}
		p.profile = next
	}
	return root, false, fmt.Errorf("%w: merges of profile %v go in a circle", errState, p.profile)
}

// maxHops is more than any chain of merges: only damage makes a circle.
const maxHops = 1 << 20
