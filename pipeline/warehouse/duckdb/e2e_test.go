//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// TestFromTheLog has a consumer fill a warehouse, twice over a restart, with a merge and a deletion between.
func TestFromTheLog(t *testing.T) {
	const parts = 2
	log := stream.NewMemory()
	facts, err := log.Topic(t.Context(), "facts", parts)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	offset := int64(0)
	put := func(from int32, f *fact.Fact) {
		t.Helper()
		offset++
		f.Tenant, f.At, f.From = "acme", time.UnixMilli(1_700_000_000_000+offset), fact.Origin{Stage: fact.StageIdentity, Partition: from, Offset: offset, N: 1}
		if _, err := facts.Append(t.Context(), []stream.Message{{Partition: f.Profile.Partition(parts), Data: f.Append(nil)}}); err != nil {
			t.Fatal(err)
		}
	}
	var ids []fact.ProfileID
	for i := range 4 {
		ids = append(ids, fact.DeriveProfile("acme", fact.Identifier{Value: fmt.Sprint(i)}, fact.ProfileID{}))
	}
	event := func(p fact.ProfileID, uid string) {
		put(0, &fact.Fact{Kind: fact.KindEvent, Profile: p, Who: []fact.Identifier{{Kind: fact.ByEmail, Value: uid + "@example.com"}},
			Event: &fact.Event{Metric: 5, Service: "api", Name: "Opened", UID: uid, Time: time.UnixMilli(1_700_000_000_000), Value: 1_000_000, HasValue: true}})
	}
	marker := func(from int32, id byte, source, destination fact.ProfileID) {
		put(from, &fact.Fact{Kind: fact.KindMarker, Profile: source, Merge: &fact.Merge{ID: [16]byte{id}, Source: source, Destination: destination}})
	}
	live := func(check func(d *DB)) {
		t.Helper()
		o := testOptions()
		o.Window = 1_000_000
		d, err := open(t.Context(), dir, o, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := warehouse.NewConsumer(d, facts, log, o, warehouse.Deps{Sources: parts})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		for p := range int32(parts) {
			if end, err := facts.End(ctx, p); err != nil || end > 0 && c.Wait(ctx, p, end-1) != nil {
				t.Fatal("not stored in time", err)
			}
		}
		check(d)
		cancel()
		<-ended
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range ids {
		event(p, "a")
		event(p, "b")
		event(p, "a")
	}
	event(ids[0], "only")
	marker(0, 1, ids[0], ids[1])
	live(func(d *DB) {
		s, err := d.State(t.Context())
		if err != nil || len(s.Markers) != 1 {
			t.Errorf("one marker: %+v %v", s, err)
		}
		if st, err := d.Stats(t.Context()); err != nil || st.Events != 9 || st.Profiles != 4 {
			t.Errorf("before: %+v %v", st, err)
		}
	})
	event(ids[1], "later")
	marker(1, 1, ids[0], ids[1])
	marker(0, 2, ids[2], fact.ProfileID{})
	marker(1, 2, ids[2], fact.ProfileID{})
	live(func(d *DB) {
		s, err := d.State(t.Context())
		if err != nil || len(s.Markers) != 0 {
			t.Errorf("no markers: %+v %v", s, err)
		}
		a, err := ask(d, warehouse.Statement{Tenant: "acme", SQL: "SELECT profile, list(uid ORDER BY uid) FROM events GROUP BY 1 ORDER BY 2"})
		want := fmt.Sprintf("[[%v [a b]] [%v [a b later only]]]", ids[3], ids[1])
		if err != nil || fmt.Sprint(a.Rows) != want {
			t.Errorf("events: %v %v, want %s", a, err, want)
		}
		if st, err := d.Stats(t.Context()); err != nil || st.Profiles != 2 {
			t.Errorf("after: %+v %v", st, err)
		}
	})
}
