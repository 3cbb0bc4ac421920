//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// TestCrashTakesBackWholeBatches goes on, at random moments of a history, from what a crash would leave: the files as they are then. What
// was lost is given again.
func TestCrashTakesBackWholeBatches(t *testing.T) {
	const seed, batches = 11, 60
	ctx := context.Background()
	dir := t.TempDir()
	r := newWorld(seed + 1).r
	d, err := open(ctx, dir, testOptions(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	var all []*warehouse.Batch
	w := newWorld(seed)
	for range batches {
		all = append(all, w.crashBatch())
	}
	crashes, lost := 0, 0
	for next := 0; next < batches; next++ {
		if err := d.Append(ctx, all[next]); err != nil {
			t.Fatal(err)
		}
		switch n := r.Intn(16); {
		case n == 0:
			d.mu.Lock()
			err = d.checkpoint(ctx)
			d.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		case n == 1:
			d.mu.Lock()
			err = d.flushKeys(ctx)
			d.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			d.upkeep.poke()
		case n == 2 && crashes < 12:
			crashes++
			d.upkeep.stop()
			left := t.TempDir()
			if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			safe := *d.safe.Load()
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			dir = left
			if d, err = open(ctx, dir, testOptions(), Deps{}); err != nil {
				t.Fatal(err)
			}
			s, err := d.State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			there := byPartition(s.Offsets) // more than was said to be safe, if a checkpoint was broken off when it was done
			for _, o := range safe {
				if there[o.Partition] < o.Next {
					t.Fatalf("safe was %v, there is %v", safe, s.Offsets)
				}
			}
			was := next
			for next = -1; next+1 < batches && stored(s, all[next+1]); next++ {
			}
			lost += was - next
		}
	}
	if crashes == 0 || lost == 0 {
		t.Errorf("%d crashes took back %d batches", crashes, lost)
	}
	w.compare(t, d)
	w.ask(t, d)
}

func byPartition(in []warehouse.Offset) map[int32]int64 {
	out := map[int32]int64{}
	for _, o := range in {
		out[o.Partition] = o.Next
	}
	return out
}

// TestMergeInALongTable moves few events of a table that is too long to be read for them.
func TestMergeInALongTable(t *testing.T) {
	ctx := context.Background()
	o := testOptions()
	o.Tail = 1_000_000
	d, err := open(ctx, t.TempDir(), o, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	l := newLoad(2000)
	l.tenants = 1
	if err := d.Append(ctx, l.batch(30_000)); err != nil {
		t.Fatal(err)
	}
	if err := d.Sort(ctx); err != nil {
		t.Fatal(err)
	}
	count := func() string {
		t.Helper()
		a, err := ask(d, warehouse.Statement{SQL: fmt.Sprintf("SELECT count(*), count(*) FILTER (profile = %s), count(*) FILTER (profile = %s), count(DISTINCT uid) FROM events", uuidLiteral(l.profile(1)), uuidLiteral(l.profile(2)))})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(a.Rows[0])
	}
	before := count()
	var n, one, two int
	if _, err := fmt.Sscanf(before, "[%d %d %d", &n, &one, &two); err != nil || n != 30_000 || one == 0 || two == 0 {
		t.Fatal(before, err)
	}
	b := &warehouse.Batch{Merges: []warehouse.Merge{{Tenant: "tenant-0", Merge: fact.Merge{Source: l.profile(1), Destination: l.profile(2)}}}}
	if err := d.Append(ctx, b); err != nil {
		t.Fatal(err)
	}
	if got, want := count(), fmt.Sprintf("[%d 0 %d %d]", n, one+two, n); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestNear(t *testing.T) {
	got := fmt.Sprint(near([]int64{5000, 1, 2047, 2048, 4095, 3}))
	if want := "[ WHERE rowid IN (1, 3, 2047)  WHERE rowid IN (2048, 4095)  WHERE rowid IN (5000)]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestExamples asks what the program's help and the documentation give as examples.
func TestExamples(t *testing.T) {
	ctx := context.Background()
	counts := someCounts(t)
	counts.metrics["acme"] = append(counts.metrics["acme"], warehouse.CountedMetric{ID: 19, Service: "mta", Name: "Opened Email"})
	d := counting(t, counts, testOptions())
	w := newWorld(3)
	for range 300 {
		w.step()
	}
	if err := d.Append(ctx, w.cut()); err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`godwit sql "([^"]+)"`)
	for _, file := range []string{"cmd/godwit/sql.go", "docs/warehouse.md", "docs/pipeline.md"} {
		text, err := os.ReadFile(filepath.Join("../../..", file))
		if err != nil {
			t.Fatal(err)
		}
		found := example.FindAllSubmatch(text, -1)
		if len(found) == 0 {
			t.Errorf("%s has no example", file)
		}
		for _, m := range found {
			a, err := ask(d, warehouse.Statement{SQL: string(m[1]), Limit: 1000})
			if err != nil || len(a.Rows) == 0 {
				t.Errorf("%s: %s: %v %v", file, m[1], a, err)
			}
		}
	}
	a, err := ask(d, warehouse.Statement{SQL: "select name, count(*) from events join metrics using (metric) group by 1 order by 2 desc", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	names := map[string]int64{}
	for _, e := range w.events {
		names[e.Name]++
	}
	for _, row := range a.Rows {
		count, _ := row[1].(int64)
		n += count
		if name, _ := row[0].(string); names[name] != count {
			t.Errorf("%v, want %d", row, names[name])
		}
	}
	if n != int64(len(w.events)) {
		t.Errorf("%d of %d events have a metric", n, len(w.events))
	}
}
