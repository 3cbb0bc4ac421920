//go:build cgo

package duckdb

import (
	"fmt"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// imported are the facts that the identity stage makes of n profiles of a bulk import.
func imported(n int, parts int32) []stream.Message {
	out := make([]stream.Message, 0, n)
	for i := range n {
		email := fmt.Sprintf("p%d@crowd.test", i)
		who := []fact.Identifier{{Kind: fact.ByEmail, Value: email}}
		attributes := fmt.Sprintf(`{"email":"%s"`, email)
		if i%5 == 0 {
			external := fmt.Sprintf("x%d", i)
			who = append([]fact.Identifier{{Kind: fact.ByExternal, Value: external}}, who...)
			attributes += fmt.Sprintf(`,"external_id":"%s"`, external)
		}
		f := fact.Fact{Kind: fact.KindChange, Tenant: "bench", Profile: fact.DeriveProfile("bench", who[0], fact.ProfileID{}), Who: who,
			At: time.UnixMilli(1_790_000_000_000 + int64(i)/25), Change: &fact.Change{
				Attributes: fmt.Appendf(nil, `%s,"first_name":"First%d","last_name":"Last","location":{"country":"Germany","city":"Berlin"}}`, attributes, i),
				Properties: fmt.Appendf(nil, `{"plan":"gold","score":%d}`, i%100),
			}}
		f.From.Stage, f.From.Offset, f.From.N = fact.StageIdentity, int64(i), 1
		out = append(out, stream.Message{Partition: f.Profile.Partition(parts), Data: f.Append(nil)})
	}
	return out
}

// BenchmarkImport fills an empty warehouse with profiles of a bulk import; each counts as an event. GODWIT_TEST_EVENTS says how many.
func BenchmarkImport(b *testing.B) {
	const parts = 2
	n := envInt("GODWIT_TEST_EVENTS", 500_000)
	for b.Loop() {
		h := startHouse(b, parts)
		h.measure(imported(n, parts), n, envInt("GODWIT_TEST_RATE", 0))
	}
}
