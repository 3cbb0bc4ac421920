package customer

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// EventIDOf is the id of the event of a profile and metric that has a unique id.
func EventIDOf(profile fact.ProfileID, metric fact.MetricID, uid string) (e EventID) {
	b := binary.BigEndian.AppendUint64(append(e[:0], profile[:]...), uint64(metric))
	for _, seed := range [...]uint64{seed1, seed2} {
		h := xxhash.NewWithSeed(seed)
		_, _ = h.WriteString(uid) // a hash takes everything
		b = binary.BigEndian.AppendUint64(b, h.Sum64())
	}
	copy(e[:], b)
	return e
}
