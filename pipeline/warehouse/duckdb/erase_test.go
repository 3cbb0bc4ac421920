//go:build cgo

package duckdb

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// rare has characters that others do not, so that no compression makes anything but itself of them, or each byte with a mark before it.
const rare = "ŊŦĦŁŒŊŁ"

// rarely counts how often the files of a warehouse have it.
func rarely(t *testing.T, d *DB) (n int) {
	t.Helper()
	b, err := os.ReadFile(d.path("warehouse.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	var marked []byte
	for i := range len(rare) {
		marked = append(marked, 0xff, rare[i])
	}
	return bytes.Count(b, []byte(rare)) + bytes.Count(b, marked)
}

// crowded makes a batch of events and changes of many profiles; each thousandth is of the victim.
func crowded(from, n int, victim fact.ProfileID) *warehouse.Batch {
	b := &warehouse.Batch{Offsets: []warehouse.Offset{{From: int64(from), Next: int64(from + n)}}}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := from; i < from+n; i++ {
		who, name := fact.DeriveProfile("a", fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(i % 500)}, fact.ProfileID{}), fmt.Sprint("someone", i%500)
		if i%1000 == 7 {
			who, name = victim, rare
		}
		b.Events = append(b.Events, warehouse.Event{Tenant: "a", Profile: who, Accepted: at, Offset: int64(i), Event: fact.Event{Metric: 1, Service: "api", Name: "x",
			Time: at.Add(time.Duration(i) * time.Second), UID: fmt.Sprint("uid-", name, i), Properties: fmt.Appendf(nil, `{"name":"%s","n":%d}`, name, i)}})
		b.Changes = append(b.Changes, warehouse.Change{Tenant: "a", Profile: who, At: at.Add(time.Duration(i) * time.Second), Change: &fact.Change{Attributes: fmt.Appendf(nil, `{"email":"%s-%d@mail.test","first_name":"%s"}`, name, i, name)}})
	}
	return b
}

// TestErase: after it the file has nothing of a deleted profile, wherever it lay: in tails, in sorted tables, in blocks that were left.
func TestErase(t *testing.T) {
	ctx := context.Background()
	o := testOptions()
	o.Tail, o.Memory = 20_000, 512<<20
	d, err := open(ctx, t.TempDir(), o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	victim := fact.ProfileID{9, 9}
	from := 0
	put := func(n int) {
		t.Helper()
		if err := d.Append(ctx, crowded(from, n, victim)); err != nil {
			t.Fatal(err)
		}
		from += n
	}
	for range 6 {
		put(5000)
		if err := d.checkpointNow(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sort(ctx); err != nil {
		t.Fatal(err)
	}
	put(5000)
	if err := d.checkpointNow(ctx); err != nil {
		t.Fatal(err)
	}
	if rarely(t, d) < 10 {
		t.Fatal("the file does not have it")
	}
	b := &warehouse.Batch{Offsets: []warehouse.Offset{{From: int64(from), Next: int64(from + 1)}},
		Merges: []warehouse.Merge{{Tenant: "a", At: time.Now(), Merge: fact.Merge{ID: [16]byte{1}, Source: victim}}}}
	if err := d.Append(ctx, b); err != nil {
		t.Fatal(err)
	}
	from++
	if err := d.checkpointNow(ctx); err != nil {
		t.Fatal(err)
	}
	before, err := d.Stats(ctx)
	if err != nil || rarely(t, d) == 0 {
		t.Fatal("a deletion alone took it out of the file", err)
	}
	if err := d.Erase(ctx); err != nil {
		t.Fatal(err)
	}
	if n := rarely(t, d); n > 0 {
		t.Errorf("the file still has it %d times", n)
	}
	after, err := d.Stats(ctx)
	if err != nil || after.Events != before.Events || after.Profiles != before.Profiles || after.Events == 0 || after.Bytes > 2*before.Bytes {
		t.Errorf("before %+v, after %+v: %v", before, after, err)
	}
}
