package check

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// enterAt is how many events a gatherer reads before it enters them into the world together.
const enterAt = 1024

// gather reads the log, several partitions side by side, and returns which profile became which.
func (r *Recount) gather(ctx context.Context, facts stream.Topic) (map[fact.ProfileID]fact.ProfileID, error) {
	all := make([]*gatherer, min(runtime.GOMAXPROCS(0), int(facts.Partitions())))
	err := sideBySide(ctx, len(all), func(ctx context.Context, i int) error {
		g := newGatherer(r)
		all[i] = g
		var mine []int32
		for p := int32(i); p < facts.Partitions(); p += int32(len(all)) {
			mine = append(mine, p)
		}
		err := stream.Sweep(ctx, facts, mine, g.take)
		g.enter()
		return err
	})
	if err != nil {
		return nil, err
	}
	merged := map[fact.ProfileID]fact.ProfileID{}
	never := map[fact.ProfileID]bool{}
	for _, g := range all {
		r.Facts, r.Events, r.Skipped = r.Facts+g.facts, r.Events+g.events, r.Skipped+g.skipped
		maps.Copy(r.tenants, g.tenants)
		maps.Copy(r.found, g.found)
		maps.Copy(merged, g.merged)
		maps.Copy(never, g.never)
	}
	for p := range never {
		delete(merged, p)
	}
	return merged, nil
}

// gatherer reads the facts of some partitions. It is for one goroutine.
type gatherer struct {
	r                      *Recount
	facts, events, skipped int64
	tenants, found         map[string]bool
	origins                map[origin]fact.Origin
	merged                 map[fact.ProfileID]fact.ProfileID
	never                  map[fact.ProfileID]bool // sources of merges that lack a marker, and so are never made

	room   fact.Room
	drafts []draft
	dims   []fact.Dim // of drafts, one after the other
	text   []byte
}

// origin is where facts come from that have their order by fact.Origin.
type origin struct {
	to    int32
	stage fact.Stage
	from  int32
}

// draft is an event that was read.
type draft struct {
	partition int32
	tenant    string
	metric    fact.MetricID
	who       fact.ProfileID
	at        time.Time
	uid       uid
	value     int64
	dims      int
}

func newGatherer(r *Recount) *gatherer {
	return &gatherer{
		r: r, tenants: map[string]bool{}, found: map[string]bool{}, origins: map[origin]fact.Origin{},
		merged: map[fact.ProfileID]fact.ProfileID{}, never: map[fact.ProfileID]bool{},
	}
}

// take reads one record.
func (g *gatherer) take(partition int32, rec stream.Record) error {
	g.facts++
	skip := g.r.o.Skip(partition, rec.Offset)
	var f fact.Fact
	if err := f.ParseInto(rec.Data, &g.room); err != nil && !skip {
		return fmt.Errorf("partition %d, offset %d: %w", partition, rec.Offset, err)
	}
	if f.Kind == fact.KindMarker && f.Merge != nil && !f.Merge.Destination.IsZero() {
		g.merged[f.Merge.Source] = f.Merge.Destination
		if skip {
			g.never[f.Merge.Source] = true
		}
	}
	switch {
	case skip:
		g.skipped++
	case g.isAgain(partition, f.From):
	case f.Kind == fact.KindEvent && f.Event != nil:
		g.event(partition, &f)
	}
	return nil
}

// isAgain reports whether a fact was there before: a stage that crashed says again what it said.
func (g *gatherer) isAgain(partition int32, from fact.Origin) bool {
	if from.N == 0 {
		return false
	}
	o := origin{partition, from.Stage, from.Partition}
	if last := g.origins[o]; from.Offset < last.Offset || from.Offset == last.Offset && from.N <= last.N {
		return true
	}
	g.origins[o] = from
	return false
}

func (g *gatherer) event(partition int32, f *fact.Fact) {
	g.events++
	e := f.Event
	if !g.tenants[f.Tenant] {
		g.tenants[strings.Clone(f.Tenant)] = true
	}
	if len(g.r.o.Wanted) > 0 {
		g.text = fmt.Append(g.text[:0], f.Tenant, " ", e.UID)
		if g.r.o.Wanted[string(g.text)] {
			g.found[string(g.text)] = true
		}
	}
	if !g.r.o.inShard(e.Metric) {
		return
	}
	g.text = append(g.text[:0], e.UID...)
	h := sha256.Sum256(g.text)
	g.drafts = append(g.drafts, draft{partition, f.Tenant, e.Metric, f.Profile, e.Time, uid(h[:16]), e.Value, len(e.Dims)})
	g.dims = append(g.dims, e.Dims...)
	if len(g.drafts) == enterAt {
		g.enter()
	}
}

// enter hands the world what was read.
func (g *gatherer) enter() {
	g.r.world.mu.Lock()
	defer g.r.world.mu.Unlock()
	dims := g.dims
	for i := range g.drafts {
		d := &g.drafts[i]
		g.r.world.add(d, dims[:d.dims])
		dims = dims[d.dims:]
	}
	clear(g.drafts) // their strings
	clear(g.dims)
	g.drafts, g.dims = g.drafts[:0], g.dims[:0]
}

// world is what the log has of the shard: events as numbers.
type world struct {
	mu         sync.Mutex // while it is gathered; later it does not change
	partitions int32
	zone       func(tenant string) *time.Location
	tenants    map[string]*tenant
	profiles   map[fact.ProfileID]uint32
	labels     map[fact.Dim]uint32
	names      []fact.Dim // of labels; the first is the total's, which is no dimension
	scratch    []uint32
}

type tenant struct {
	calendar *calendar
	metrics  map[fact.MetricID]*metric
}

func newWorld(partitions int32, zone func(string) *time.Location) *world {
	return &world{
		partitions: partitions, zone: zone, tenants: map[string]*tenant{}, profiles: map[fact.ProfileID]uint32{},
		labels: map[fact.Dim]uint32{{}: 0}, names: []fact.Dim{{}},
	}
}

// add enters an event.
func (w *world) add(d *draft, dims []fact.Dim) {
	t := w.tenants[d.tenant]
	if t == nil {
		name := strings.Clone(d.tenant)
		t = &tenant{newCalendar(w.zone(name)), map[fact.MetricID]*metric{}}
		w.tenants[name] = t
	}
	m := t.metrics[d.metric]
	if m == nil {
		m = &metric{calendar: t.calendar, parts: make([]events, w.partitions)}
		t.metrics[d.metric] = m
	}
	w.scratch = w.scratch[:0]
	for _, dim := range dims {
		w.scratch = append(w.scratch, w.label(dim))
	}
	part := &m.parts[d.partition]
	part.add(event{w.profile(d.who), t.calendar.number(d.at), uint32(len(dims)), d.value}, w.scratch)
	part.uids = append(part.uids, d.uid)
}

// profile is the number of a profile.
func (w *world) profile(id fact.ProfileID) uint32 {
	n, known := w.profiles[id]
	if !known {
		n = uint32(len(w.profiles))
		w.profiles[id] = n
	}
	return n
}

// label is the number of a dimension's value.
func (w *world) label(d fact.Dim) uint32 {
	n, known := w.labels[d]
	if !known {
		d = fact.Dim{Name: strings.Clone(d.Name), Value: strings.Clone(d.Value)}
		n = uint32(len(w.names))
		w.labels[d] = n
		w.names = append(w.names, d)
	}
	return n
}

// settle puts the merged profile in the place of each that became part of it, and drops events that came before. It returns how many count.
func (w *world) settle(ctx context.Context, merged map[fact.ProfileID]fact.ProfileID) (distinct int64, err error) {
	became := make([]uint32, len(w.profiles))
	for n := range became {
		became[n] = uint32(n)
	}
	for source := range merged {
		if n, known := w.profiles[source]; known && int(n) < len(became) {
			became[n] = w.profile(canonical(merged, source))
		}
	}
	w.profiles = nil
	var all []*metric
	for _, t := range w.tenants {
		for _, m := range t.metrics {
			all = append(all, m)
		}
	}
	err = sideBySide(ctx, len(all), func(_ context.Context, i int) error {
		all[i].settle(became)
		return nil
	})
	for _, m := range all {
		distinct += int64(len(m.events.list))
	}
	return distinct, err
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
