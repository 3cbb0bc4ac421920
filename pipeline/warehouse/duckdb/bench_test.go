//go:build cgo

package duckdb

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// load makes batches of events as they come from a shop: four dimensions, one of 100,000 values, and 200 bytes of properties.
type load struct {
	r        *rand.Rand
	tenants  int
	profiles int
	metrics  []fact.MetricID
	offset   int64
}

func newLoad(profiles int) *load {
	l := &load{r: rand.New(rand.NewSource(1)), tenants: 10, profiles: profiles}
	for i := range 1000 {
		l.metrics = append(l.metrics, fact.DeriveMetric("t", "api", fmt.Sprint(i)))
	}
	return l
}

// profile numbers profiles so that their ids are spread but known.
func (l *load) profile(i int) (p fact.ProfileID) {
	x := uint64(i+1) * 0x9e3779b97f4a7c15
	for j := range 8 {
		p[j], p[8+j] = byte(x>>(56-8*j)), byte(x>>(8*j))
	}
	return p
}

func (l *load) batch(n int) *warehouse.Batch {
	b := &warehouse.Batch{Offsets: []warehouse.Offset{{Partition: 0, From: l.offset, Next: l.offset + int64(n)}}}
	base := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for range n {
		i := l.r.Intn(l.profiles)
		tenant := fmt.Sprint("tenant-", i%l.tenants)
		at := base.Add(time.Duration(l.offset) * time.Millisecond)
		e := warehouse.Event{Tenant: tenant, Profile: l.profile(i), Accepted: at, Offset: l.offset, Event: fact.Event{
			Metric: l.metrics[l.r.Intn(len(l.metrics))], Service: "api", Name: "m", Time: at, UID: fmt.Sprintf("evt-%016x", l.r.Uint64()), Value: int64(l.r.Intn(30000)) * 10000, HasValue: true,
			Dims: []fact.Dim{{Name: "$flow", Value: fmt.Sprint("flow-", l.r.Intn(50))}, {Name: "$message", Value: fmt.Sprint("msg-", l.r.Intn(1000))},
				{Name: "Inbox Provider", Value: fmt.Sprint("p", l.r.Intn(8))}, {Name: "URL", Value: fmt.Sprint("https://shop.example/p/", l.r.Intn(100000))}},
			Properties: []byte(fmt.Sprintf(`{"OrderId":"%d","Items":["sku-%d","sku-%d"],"$value":%d.00,"Currency":"USD","Source":"web","Campaign":"spring-%d","note":"the quick brown fox %d"}`, l.r.Intn(1e9), l.r.Intn(1000), l.r.Intn(1000), l.r.Intn(300), l.r.Intn(20), l.r.Intn(1000))),
		}}
		b.Events = append(b.Events, e)
		b.Changes = append(b.Changes, warehouse.Change{Tenant: tenant, Profile: e.Profile, At: at, Who: []fact.Identifier{{Kind: fact.ByEmail, Value: fmt.Sprintf("user%d@example.com", i)}}})
		l.offset++
	}
	return b
}

func benchOptions() warehouse.Options {
	o := warehouse.DefaultOptions()
	if m := os.Getenv("GODWIT_TEST_MEMORY"); m != "" {
		if err := o.Memory.UnmarshalText([]byte(m)); err != nil {
			panic(err)
		}
	}
	o.Batch = envInt("GODWIT_TEST_BATCH", o.Batch)
	o.Tail = envInt("GODWIT_TEST_UNSORTED", o.Tail)
	o.Window = units.Duration(envInt("GODWIT_TEST_WINDOW_MS", int(o.Window.D()/time.Millisecond))) * units.Duration(time.Millisecond)
	return o
}

// filled opens a warehouse with so many events, sorted.
func filled(b *testing.B, events, profiles int) (*DB, *load) {
	b.Helper()
	ctx := context.Background()
	d, err := open(ctx, b.TempDir(), benchOptions(), Deps{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	l := newLoad(profiles)
	began, cpu := time.Now(), cpuTime()
	for n := 0; n < events; n += 50_000 {
		if err := d.Append(ctx, l.batch(50_000)); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Sort(ctx); err != nil {
		b.Fatal(err)
	}
	s, err := d.Stats(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d events, %d profiles, %d runs, in %v, cpu %v (generator included); %.1f bytes an event; keys %d", s.Events, s.Profiles, s.Runs, time.Since(began), cpuTime()-cpu,
		float64(s.Bytes)/float64(s.Events), s.Keys)
	return d, l
}

func BenchmarkAsk(b *testing.B) {
	ctx := context.Background()
	d, l := filled(b, 2_000_000, 200_000)
	tenant := "tenant-3"
	var ids []fact.ProfileID
	for i := 3; i < l.profiles; i += l.tenants {
		ids = append(ids, l.profile(i))
	}
	slices.SortFunc(ids, compareProfiles)
	ask := func(name, sql string, args ...any) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				rows, err := d.Query(ctx, warehouse.Statement{SQL: sql, Args: args})
				if err != nil {
					b.Fatal(err)
				}
				for rows.Next() {
				}
				if err := rows.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	from, to := ids[5000], ids[5999]
	ask("nothing", "SELECT 1")
	ask("profile", "SELECT count(*), sum(micros) FROM events WHERE tenant = tenant_id('"+tenant+"') AND profile = ?", from)
	ask("1000-contiguous", "SELECT profile, count(*), sum(micros) FROM events WHERE tenant = tenant_id('"+tenant+"') AND profile BETWEEN ? AND ? GROUP BY 1", from, to)
	ask("1000-contiguous-literals", "SELECT profile, count(*), sum(micros) FROM events WHERE tenant = "+idLiteral(uint64(fact.TenantIDOf(tenant)))+" AND profile BETWEEN "+uuidLiteral(from)+" AND "+uuidLiteral(to)+" GROUP BY 1")
	ask("tenant", "SELECT count(*), sum(micros) FROM events WHERE tenant = tenant_id('"+tenant+"')")
	ask("all", "SELECT count(*), sum(micros) FROM events")
	b.Run("profile-events", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := d.Events(ctx, warehouse.EventQuery{Tenant: tenant, Profile: ids[i*37%len(ids)], Descending: true, Size: 100}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("newest-events", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.Events(ctx, warehouse.EventQuery{Tenant: tenant, Descending: true, Size: 100}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("aggregate-2-dimensions", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.Aggregate(ctx, warehouse.AggregateQuery{Tenant: tenant, Metric: l.metrics[1], Unique: true, Interval: warehouse.Day, By: []string{"$flow", "Inbox Provider"},
				From: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 11, 5, 0, 0, 0, 0, time.UTC)}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("seen-not", func(b *testing.B) {
		for b.Loop() {
			if seen, err := d.Seen(ctx, warehouse.SeenQuery{Tenant: tenant, Profile: from, Metric: 5, UID: "x", Partition: -1}); err != nil || seen {
				b.Fatal(err)
			}
		}
	})
	b.Run("seen", func(b *testing.B) {
		p, err := d.Events(ctx, warehouse.EventQuery{Tenant: tenant, Size: 1000})
		if err != nil {
			b.Fatal(err)
		}
		for i := 0; b.Loop(); i++ {
			e := &p.Events[i%len(p.Events)]
			if seen, err := d.Seen(ctx, warehouse.SeenQuery{Tenant: tenant, Profile: e.Profile, Metric: e.Metric, UID: e.UID, Partition: -1}); err != nil || !seen {
				b.Fatal(seen, err)
			}
		}
	})
	b.Run("change-5000-profiles", func(b *testing.B) {
		for b.Loop() {
			batch := new(warehouse.Batch)
			for range 5000 {
				i := l.r.Intn(l.profiles)
				batch.Changes = append(batch.Changes, warehouse.Change{Tenant: fmt.Sprint("tenant-", i%l.tenants), Profile: l.profile(i), At: time.Now(), Change: &fact.Change{Properties: []byte(fmt.Sprintf(`{"points":%d}`, l.r.Int()))}})
			}
			if err := d.Append(ctx, batch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("merge-100-profiles", func(b *testing.B) {
		next := 0
		for b.Loop() {
			batch := new(warehouse.Batch)
			for range 100 {
				batch.Merges = append(batch.Merges, warehouse.Merge{Tenant: tenant, Merge: fact.Merge{Source: ids[next], Destination: ids[next+1]}})
				next += 2
			}
			if err := d.Append(ctx, batch); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	d, err := open(context.Background(), b.TempDir(), benchOptions(), Deps{})
	if err != nil {
		b.Fatal(err)
	}
	d.upkeep.stop() // measured by itself
	l := newLoad(200_000)
	const size = 50_000
	for range 10 { // nearly all profiles are there
		if err := d.Append(context.Background(), l.batch(size)); err != nil {
			b.Fatal(err)
		}
	}
	d.startUpkeep()
	if err := d.Sort(context.Background()); err != nil {
		b.Fatal(err)
	}
	d.upkeep.stop()
	var cpu, wall time.Duration
	rows := 0
	for b.Loop() {
		batch := l.batch(size)
		runtime.GC() // what the generator left is not the warehouse's
		t, c := time.Now(), cpuTime()
		if err := d.Append(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
		cpu, wall = cpu+cpuTime()-c, wall+time.Since(t)
		rows += size
		if testing.Verbose() {
			b.Logf("%d: %.2f us/event cpu", rows, float64((cpuTime()-c).Nanoseconds())/1e3/size)
		}
	}
	b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(rows), "cpu-µs/event")
	b.ReportMetric(float64(rows)/wall.Seconds(), "events/s")
	t, c := time.Now(), cpuTime()
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	b.Logf("close: %v cpu %v", time.Since(t), cpuTime()-c)
}
