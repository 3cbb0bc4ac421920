// Package check counts again: it reads the second log from its start and
// compares what the account level says with what it finds. It shares no
// code with that level, is slow, and holds everything in memory.
package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// Interval is a size of bucket.
type Interval uint8

// The intervals that are counted.
const (
	Hour Interval = iota
	Day
	Month
)

// String names the interval.
func (i Interval) String() string { return [...]string{"hour", "day", "month"}[i] }

// Key names one count.
type Key struct {
	Tenant   fact.TenantID
	Metric   fact.MetricID
	Dim      string // "" for the total
	Value    string
	Interval Interval
	Bucket   int64 // Unix seconds of its start
}

// String tells it to a reader.
func (k Key) String() string {
	at := time.Unix(k.Bucket, 0).UTC().Format(time.RFC3339)
	return fmt.Sprintf("metric %v, %s=%q, %v of %s", k.Metric, k.Dim, k.Value, k.Interval, at)
}

// Row is a final count.
type Row struct {
	Key
	Count  int64
	Sum    *big.Int // millionths
	Unique int64
}

// Recount is what the log says.
type Recount struct {
	Facts    int64 // records read
	Events   int64 // events in them
	Distinct int64 // that count
	Merges   int
	Skipped  int64 // records that were left out
	rows     map[Key]*tally
	tenants  map[string]bool
	seen     map[[16]byte]struct{}
	uids     map[string]struct{} // of distinct events, if they were asked for
}

type tally struct {
	count int64
	sum   big.Int
	few   []uint32
	who   *roaring.Bitmap
}

func (t *tally) add(who uint32, value int64) {
	t.count++
	t.sum.Add(&t.sum, big.NewInt(value))
	if t.who != nil {
		t.who.Add(who)
		return
	}
	for _, w := range t.few {
		if w == who {
			return
		}
	}
	if t.few = append(t.few, who); len(t.few) > 64 {
		t.who = roaring.BitmapOf(t.few...)
		t.few = nil
	}
}

func (t *tally) unique() int64 {
	if t.who != nil {
		return int64(t.who.GetCardinality())
	}
	return int64(len(t.few))
}

// Options bound a recount.
type Options struct {
	// Zone is a tenant's time zone.
	Zone func(tenant string) *time.Location
	// Shard of Shards of the metrics are counted: memory for time.
	Shard, Shards uint64
	// UIDs are remembered, for Has.
	UIDs bool
	// Skip tells of records that the account level was not given; nil: of none. What a skipped part of a merged profile's
	// state had is not known here, so its counts differ.
	Skip func(partition int32, offset int64) bool
}

// Count reads all facts that are there now.
func Count(ctx context.Context, facts stream.Topic, o Options) (*Recount, error) {
	o.Shards = max(o.Shards, 1)
	if o.Skip == nil {
		o.Skip = func(int32, int64) bool { return false }
	}
	merged, err := merges(ctx, facts, o.Skip)
	if err != nil {
		return nil, err
	}
	r := &Recount{Merges: len(merged), rows: map[Key]*tally{}, tenants: map[string]bool{}, seen: map[[16]byte]struct{}{}, uids: map[string]struct{}{}}
	dense := map[fact.ProfileID]uint32{}
	origins := map[origin]fact.Origin{}
	err = each(ctx, facts, o.Skip, func(partition int32, offset int64, f *fact.Fact) {
		r.Facts++
		if o.Skip(partition, offset) {
			r.Skipped++
			return
		}
		if f.From.N > 0 { // a stage that crashed says again what it said
			from := origin{partition, f.From.Stage, f.From.Partition}
			if last := origins[from]; f.From.Offset < last.Offset || f.From.Offset == last.Offset && f.From.N <= last.N {
				return
			}
			origins[from] = f.From
		}
		if f.Kind != fact.KindEvent || f.Event == nil {
			return
		}
		r.Events++
		e := f.Event
		r.tenants[f.Tenant] = true
		if !InShard(e.Metric, o.Shard, o.Shards) {
			return
		}
		who := canonical(merged, f.Profile)
		if !r.first(f.Tenant, who, e) {
			return
		}
		r.Distinct++
		if o.UIDs {
			r.uids[f.Tenant+" "+e.UID] = struct{}{}
		}
		n, known := dense[who]
		if !known {
			n = uint32(len(dense))
			dense[who] = n
		}
		r.count(fact.TenantIDOf(f.Tenant), e, n, o.Zone(f.Tenant))
	})
	return r, err
}

type origin struct {
	to    int32
	stage fact.Stage
	from  int32
}

// first reports whether an event is the first with its unique id.
func (r *Recount) first(tenant string, who fact.ProfileID, e *fact.Event) bool {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s%016x%s", tenant, who[:], uint64(e.Metric), e.UID))
	key := [16]byte(h[:16])
	if _, known := r.seen[key]; known {
		return false
	}
	r.seen[key] = struct{}{}
	return true
}

func (r *Recount) count(tenant fact.TenantID, e *fact.Event, who uint32, zone *time.Location) {
	at := e.Time.In(zone)
	for _, d := range append([]fact.Dim{{}}, e.Dims...) {
		for i, bucket := range []time.Time{startOfHour(at), startOfDay(at), startOfMonth(at)} {
			k := Key{tenant, e.Metric, d.Name, d.Value, Interval(i), bucket.Unix()}
			t := r.rows[k]
			if t == nil {
				t = &tally{}
				r.rows[k] = t
			}
			t.add(who, e.Value)
		}
	}
}

// startOfHour walks back minute by minute while the clock on the wall shows the same hour: nothing that
// could go wrong with zones of odd offsets or with hours that come twice.
func startOfHour(at time.Time) time.Time {
	at = at.Truncate(time.Minute)
	_, offset := at.Zone()
	for at.Minute() != 0 {
		before := at.Add(-time.Minute)
		if _, o := before.Zone(); o != offset {
			break
		}
		at = before
	}
	return at
}

func startOfDay(at time.Time) time.Time {
	return firstInstant(at, time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, at.Location()))
}

func startOfMonth(at time.Time) time.Time {
	return firstInstant(at, time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, at.Location()))
}

// firstInstant is the first instant of a local date: where the clocks skip midnight, time.Date names one of the day before.
func firstInstant(at, start time.Time) time.Time {
	for start.Day() != at.Day() && start.Before(at) && start.Hour() == 23 {
		start = start.Add(30 * time.Minute)
	}
	return start
}

// Has reports whether an event counts, given as tenant, a space, and unique id.
func (r *Recount) Has(event string) bool {
	_, there := r.uids[event]
	return there
}

// Tenants are those that have events, in any shard.
func (r *Recount) Tenants() []string { return slices.Sorted(maps.Keys(r.tenants)) }

// InShard reports whether a metric is counted in a shard.
func InShard(m fact.MetricID, shard, shards uint64) bool { return uint64(m)>>32%shards == shard }

// Difference is a count that is not what the log says.
type Difference struct {
	Key
	What      string
	Want, Got string
}

// Error implements error.
func (d *Difference) Error() string {
	return fmt.Sprintf("%v: %s is %s, the log says %s", d.Key, d.What, d.Got, d.Want)
}

// Compare holds rows against the recount. It returns at most so many differences, and how many there are.
func (r *Recount) Compare(rows func(func(Row) error) error, most int) (found []error, total int, err error) {
	note := func(d *Difference) {
		if total++; len(found) < most {
			found = append(found, d)
		}
	}
	met := map[Key]bool{}
	err = rows(func(row Row) error {
		if row.Count == 0 && row.Unique == 0 && row.Sum.Sign() == 0 {
			return nil // everything in it was taken back
		}
		t := r.rows[row.Key]
		if t == nil {
			note(&Difference{row.Key, "count", "0", fmt.Sprint(row.Count)})
			return nil
		}
		if met[row.Key] {
			return fmt.Errorf("%v is there twice", row.Key)
		}
		met[row.Key] = true
		switch {
		case row.Count != t.count:
			note(&Difference{row.Key, "count", fmt.Sprint(t.count), fmt.Sprint(row.Count)})
		case row.Sum.Cmp(&t.sum) != 0:
			note(&Difference{row.Key, "sum", t.sum.String(), row.Sum.String()})
		case row.Unique != t.unique():
			note(&Difference{row.Key, "unique", fmt.Sprint(t.unique()), fmt.Sprint(row.Unique)})
		}
		return nil
	})
	for k, t := range r.rows {
		if !met[k] && err == nil {
			note(&Difference{k, "count", fmt.Sprint(t.count), "not there"})
		}
	}
	return found, total, err
}

// Rows is how many counts the log makes.
func (r *Recount) Rows() int { return len(r.rows) }

// merges finds which profile became which. A merge that lacks a marker is never made.
func merges(ctx context.Context, facts stream.Topic, skip func(int32, int64) bool) (map[fact.ProfileID]fact.ProfileID, error) {
	to := map[fact.ProfileID]fact.ProfileID{}
	var never []fact.ProfileID
	err := each(ctx, facts, skip, func(partition int32, offset int64, f *fact.Fact) {
		if f.Kind != fact.KindMarker || f.Merge == nil || f.Merge.Destination.IsZero() {
			return
		}
		to[f.Merge.Source] = f.Merge.Destination
		if skip(partition, offset) {
			never = append(never, f.Merge.Source)
		}
	})
	for _, p := range never {
		delete(to, p)
	}
	return to, err
}

func canonical(to map[fact.ProfileID]fact.ProfileID, p fact.ProfileID) fact.ProfileID {
	for range len(to) {
		next, there := to[p]
		if !there {
			return p
		}
		p = next
	}
	return p
}

// each calls f for every fact that is there now.
func each(ctx context.Context, facts stream.Topic, skip func(int32, int64) bool, f func(partition int32, offset int64, f *fact.Fact)) error {
	for p := range facts.Partitions() {
		if err := eachOf(ctx, facts, skip, p, f); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return nil
}

func eachOf(ctx context.Context, facts stream.Topic, skip func(int32, int64) bool, p int32, f func(int32, int64, *fact.Fact)) (err error) {
	end, err := facts.End(ctx, p)
	if err != nil {
		return err
	}
	reader, err := facts.Read(ctx, p, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for {
		ctx, cancel := context.WithTimeout(ctx, endPatience)
		recs, err := reader.Next(ctx, 1024)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return nil // nothing more in this partition: its last record lies before the end of the log
		}
		if err != nil {
			return err
		}
		for _, r := range recs {
			if r.Offset >= end {
				return nil
			}
			var one fact.Fact
			if err := one.Parse(r.Data); err != nil && !skip(p, r.Offset) {
				return fmt.Errorf("offset %d: %w", r.Offset, err)
			}
			f(p, r.Offset, &one)
		}
	}
}

// endPatience is how long a log at rest is waited for: End does not say which record is the last of a partition.
const endPatience = time.Second
