package identity

import (
	"encoding/binary"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// aheadMost is how many records are read before the first of them is applied.
const aheadMost = 1024

// lookahead has the keys that the next records will ask the state for.
type lookahead struct {
	raw   fact.Raw
	found []key // of each record's first identifier; the zero key if it has none
	slab  []byte
	keys  [][]byte
}

// lookAhead has the state look for the bindings of identifiers that are not in the cache. It changes nothing.
func (p *processor) lookAhead(recs []stream.Record) error {
	a := &p.ahead
	a.found, a.slab, a.keys = a.found[:0], a.slab[:0], a.keys[:0]
	for i := range recs {
		var k key
		if r := &a.raw; r.Parse(recs[i].Data) == nil && (r.Kind == fact.KindEvent || r.Kind == fact.KindChange) && len(r.Who) > 0 {
			k = keyOf(p.tenant(r.Tenant).id, r.Who[0].Kind, r.Who[0].Value)
			if _, ok := p.cache.get(k); !ok {
				a.slab = k.append(a.slab)
			}
		}
		a.found = append(a.found, k)
	}
	for at := 0; at < len(a.slab); at += keyLen {
		a.keys = append(a.keys, a.slab[at:at+keyLen])
	}
	return p.tx.Look(a.keys)
}

// moves knows which profiles may have been merged or deleted: few were, and all that are not in it need not be looked for.
type moves struct{ profiles bloom.Filter }

// roomForMoves is how many redirects fit beside four times those that the state has. With more of them the filter errs more often, until the
// stage is opened again.
const roomForMoves = 1 << 18

func loadMoves(s *keyed.Store) (moves, error) {
	var hashes []uint64
	err := s.Scan([]byte{redirectPrefix}, nil, func(k, _ []byte) bool {
		if len(k) == keyLen {
			hashes = append(hashes, hashOfPlace(k[1:]))
		}
		return true
	})
	m := moves{bloom.New((4*len(hashes) + roomForMoves) * bloom.BitsPerKey / 8)}
	for _, h := range hashes {
		m.profiles.Add(h)
	}
	return m, err
}

// hashOfPlace hashes a place as it is in keys. Profile ids are hashes.
func hashOfPlace(b []byte) uint64 {
	return (binary.BigEndian.Uint64(b)^binary.BigEndian.Uint64(b[8:]))*0x9e3779b97f4a7c15 ^ binary.BigEndian.Uint64(b[16:])
}

// follow is follow, but knows of most profiles that they stand for themselves.
func (p *processor) follow(at place) (root fact.ProfileID, dead bool, err error) {
	var room [keyLen]byte
	if !p.moves.profiles.Has(hashOfPlace(at.append(room[:0])[1:])) {
		return at.profile, false, nil
	}
	return follow(p.tx, at)
}
