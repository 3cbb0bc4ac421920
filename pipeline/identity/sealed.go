package identity

import (
	"encoding/binary"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// sealMark begins the value of a sealed identifier. No normal form has a zero byte.
const sealMark = 0

const sealedLen = 1 + 16 + 8 + 16

// sealed is what the state knows of an identifier, without its value: its hashes, and the profile that its record made, if it made one.
type sealed struct {
	hash    [16]byte
	claim   uint64
	profile fact.ProfileID
}

// Seal makes an identifier unreadable in the record of a profile that was erased. A replay of the record leaves the same state
// as before; all that it wrote to other partitions is in the logs already, so it asks them for nothing. profile is the one that the record was about.
func Seal(tenant string, id fact.Identifier, profile fact.ProfileID) fact.Identifier {
	if _, is := unseal([]byte(id.Value)); is || id.Kind == fact.ByProfile || id.Value == "" {
		return id
	}
	value := []byte(id.Value)
	k := keyOf(fact.TenantIDOf(tenant), id.Kind, value)
	b := append([]byte{sealMark}, k.hash[:]...)
	b = binary.BigEndian.AppendUint64(b, hashOf(id.Kind, value))
	return fact.Identifier{Kind: id.Kind, Value: string(append(b, profile[:]...))}
}

func unseal(value []byte) (s sealed, is bool) {
	if len(value) != sealedLen || value[0] != sealMark {
		return s, false
	}
	copy(s.hash[:], value[1:])
	s.claim = binary.BigEndian.Uint64(value[17:])
	copy(s.profile[:], value[25:])
	return s, true
}
