package identity

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// BenchmarkApply is one event of 400 bytes with an address and a phone number, 4,096 at a time with a commit
// after each 16,384, on one core, without the logs.
func BenchmarkApply(b *testing.B) {
	for _, c := range []struct {
		name             string
		people, cached   int
		who              int
		redirectsBetween bool
	}{
		{"cached", 50_000, 1 << 18, 2, false},
		{"cached, one identifier", 50_000, 1 << 18, 1, false},
		{"cached, merges", 50_000, 1 << 18, 2, true},
		{"read from the state", 50_000, 1, 2, false},
		{"new", 1 << 30, 1 << 18, 2, false},
	} {
		b.Run(c.name, func(b *testing.B) { benchApply(b, c.people, c.cached, c.who, c.redirectsBetween) })
	}
}

func benchApply(b *testing.B, people, cached, who int, redirects bool) {
	log := stream.NewMemory()
	intake, err := log.Topic(b.Context(), "intake", 1)
	if err != nil {
		b.Fatal(err)
	}
	memory := pebble.NewCache(256 << 20)
	defer memory.Unref()
	s, err := keyed.OpenStore(b.TempDir(), keyed.StoreOptions{Cache: memory})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	proc, err := NewProcessor(Options{Cached: cached}, Deps{Intake: intake, Facts: intake})(s, stream.Assignment{})
	if err != nil {
		b.Fatal(err)
	}
	tx := s.Begin(stream.Assignment{})
	const batch = 4096
	recs := make([]stream.Record, batch)
	n, person, size := 0, 0, 0
	fill := func() {
		for i := range recs {
			person = (person + 7919) % people
			in := fact.Intake{Kind: fact.KindEvent, Tenant: "acme", At: time.Unix(1_700_000_000, 0), Event: &fact.Event{
				Metric: 7, Service: "api", Name: "Placed Order", UID: "order-12345678", Time: time.Unix(1_700_000_000, 0),
				Dims: []fact.Dim{{Name: "URL", Value: "https://example.org/a"}, {Name: "Inbox Provider", Value: "example"}}, Properties: make([]byte, 230),
			}, Who: []fact.Identifier{{Kind: fact.ByEmail, Value: fmt.Sprintf("person.%d@example.org", person)}, {Kind: fact.ByPhone, Value: fmt.Sprintf("+1212%07d", person)}}[:who]}
			if redirects && i%100 == 0 {
				in = fact.Intake{Kind: fact.KindRedirect, Tenant: "acme", Merge: &fact.Merge{Source: fact.ProfileID{1, byte(n), byte(n >> 8), byte(n >> 16), byte(i)}, Destination: fact.ProfileID{2}}}
			}
			n++
			recs[i] = stream.Record{Offset: int64(n), Data: in.Append(recs[i].Data[:0])}
			size = len(recs[i].Data)
		}
	}
	apply := func() {
		if err := proc.Apply(tx, recs); err != nil {
			b.Fatal(err)
		}
		clear(tx.Outputs())
		if n/batch%4 == 0 {
			if err := tx.Commit(int64(n)); err != nil {
				b.Fatal(err)
			}
		}
	}
	if people < 1<<20 {
		for range 2*people/batch + 1 {
			fill()
			apply()
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += batch {
		b.StopTimer()
		fill()
		b.StartTimer()
		apply()
	}
	b.ReportMetric(float64(size), "record_bytes")
}
