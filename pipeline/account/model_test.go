package account

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

const partitions = 3

// node drives the processors of all partitions by hand.
type node struct {
	t     testing.TB
	facts stream.Topic
	o     Options
	parts [partitions]*part
}

type part struct {
	id      int32
	fs      *vfs.MemFS
	store   *keyed.Store
	proc    *Processor
	tx      *keyed.Tx
	next    int64
	pending bool
}

func testOptions() Options {
	o := DefaultOptions()
	o.Zones = map[string]string{"ny": "America/New_York", "in": "Asia/Kolkata", "np": "Asia/Kathmandu", "lh": "Australia/Lord_Howe"}
	o.Filter, o.Profiles, o.Pending = 64<<10, 1000, 1<<20
	return o
}

func newNode(t testing.TB, o Options) *node {
	facts, err := stream.NewMemory().Topic(context.Background(), "facts", partitions)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, facts: facts, o: o}
	for id := range n.parts {
		n.parts[id] = &part{id: int32(id), fs: vfs.NewCrashableMem()}
		n.open(n.parts[id])
	}
	t.Cleanup(func() {
		for _, p := range n.parts {
			n.close(p)
		}
	})
	return n
}

func (n *node) open(p *part) {
	store, err := keyed.OpenStore("state", keyed.StoreOptions{Merger: Merger{}, FS: p.fs, MemTable: 256 << 10})
	if err != nil {
		n.t.Fatal(err)
	}
	build, err := NewProcessor(n.o, Deps{Facts: n.facts, Partitions: partitions})
	if err != nil {
		n.t.Fatal(err)
	}
	a := stream.Assignment{Partition: p.id, Generation: 1}
	proc, err := build(store, a)
	if err != nil {
		n.t.Fatal(err)
	}
	if p.next, err = store.Offset(); err != nil {
		n.t.Fatal(err)
	}
	p.store, p.proc, p.tx, p.pending = store, proc.(*Processor), store.Begin(a), false
	// Little of everything, so that all ways are gone.
	p.proc.sketch.many, p.proc.covered, p.proc.filter, p.proc.profiles.most, p.proc.o.Pending = 3, 4, bloom.NewRecent(256), 10, 20_000
	p.proc.values.most = 40
}

// close closes the state. A Tx has to be committed for that.
func (n *node) close(p *part) {
	if err := errors.Join(p.tx.Commit(p.next), p.store.Close()); err != nil {
		n.t.Error(err)
	}
}

// step applies at most so many records, and reports how many there were.
func (n *node) step(p *part, most int) int {
	ctx := context.Background()
	if end, err := n.facts.End(ctx, p.id); err != nil || p.next >= end {
		return 0
	}
	r, err := n.facts.Read(ctx, p.id, p.next)
	if err != nil {
		n.t.Fatal(err)
	}
	recs, err := r.Next(ctx, most)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := p.proc.Apply(p.tx, recs); err != nil {
		n.t.Fatal(err)
	}
	n.emit(p)
	p.next, p.pending = recs[len(recs)-1].Offset+1, true
	return len(recs)
}

func (n *node) emit(p *part) {
	for topic, msgs := range p.tx.Outputs() {
		if _, err := topic.Append(context.Background(), msgs); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) commit(p *part) {
	if !p.pending {
		return
	}
	if err := p.proc.Flush(p.tx); err != nil {
		n.t.Fatal(err)
	}
	n.emit(p)
	if err := p.tx.Commit(p.next); err != nil {
		n.t.Fatal(err)
	}
	p.pending = false
}

// crash loses what is not written out, which may be more than what is not committed.
func (n *node) crash(p *part, flush bool) {
	if flush {
		if err := p.store.Flush(); err != nil {
			n.t.Fatal(err)
		}
	}
	p.fs = p.fs.CrashClone(vfs.CrashCloneCfg{})
	n.close(p) // what it writes now is lost
	n.open(p)
}

// drain applies all there is.
func (n *node) drain() {
	for busy := true; busy; {
		busy = false
		for _, p := range n.parts {
			busy = n.step(p, 100) > 0 || busy
		}
	}
}

func (n *node) reader() *Reader {
	r, err := NewReader(n.o, func(id int32) (keyed.Processor, bool) { return n.parts[id].proc, id%2 == 0 }, partitions)
	if err != nil {
		n.t.Fatal(err)
	}
	r.Elsewhere(func(id int32) Away { return asked{n.parts[id]} })
	return r
}

// asked is a partition at another node, so to say.
type asked struct{ p *part }

// Ask implements Away.
func (a asked) Ask(ctx context.Context, question []byte) ([]byte, error) {
	return Answer(ctx, a.p.proc, question)
}

// happening is an event that was put into the log.
type happening struct {
	tenant  string
	metric  fact.MetricID
	profile fact.ProfileID
	e       *fact.Event
}

// world makes histories as the identity stage would.
type world struct {
	*node
	r       *rand.Rand
	people  []fact.ProfileID
	tenant  map[fact.ProfileID]string
	merges  []fact.Merge                      // decided, in order
	to      map[fact.ProfileID]fact.ProfileID // what they came to
	told    [partitions]int                   // merges that each partition of the first log knows
	views   [partitions]map[fact.ProfileID]fact.ProfileID
	offsets [partitions]int64
	sent    [partitions][]stream.Message
	events  []happening
	slow    int // changes which partition gets the least done
}

func tenants() []string { return []string{"utc", "ny", "in", "np", "lh"} }

// steady people are never merged: repeated events of theirs may differ from the first.
const steady = 5

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{node: newNode(t, testOptions()), r: rand.New(rand.NewPCG(seed, 1)), tenant: map[fact.ProfileID]string{}, to: map[fact.ProfileID]fact.ProfileID{}}
	for q := range w.views {
		w.views[q] = map[fact.ProfileID]fact.ProfileID{}
	}
	for i := range 40 {
		tenant := tenants()[i%len(tenants())]
		p := fact.DeriveProfile(tenant, fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(seed, "/", i)}, fact.ProfileID{})
		w.people, w.tenant[p] = append(w.people, p), tenant
	}
	return w
}

// follow finds where a profile is; deleted ones stay.
func follow(to map[fact.ProfileID]fact.ProfileID, p fact.ProfileID) fact.ProfileID {
	for {
		next, there := to[p]
		if !there || next.IsZero() {
			return p
		}
		p = next
	}
}

func isGone(to map[fact.ProfileID]fact.ProfileID, p fact.ProfileID) bool {
	next, there := to[p]
	return there && next.IsZero()
}

func (w *world) send(q int, f *fact.Fact) {
	w.offsets[q]++
	f.From = fact.Origin{Stage: fact.StageIdentity, Partition: int32(q), Offset: w.offsets[q], N: 1, Generation: 1}
	f.At = time.UnixMilli(1_780_000_000_000 + w.offsets[q]*100_000).UTC()
	m := stream.Message{Partition: f.Profile.Partition(partitions), Data: f.Append(nil)}
	w.sent[q] = append(w.sent[q], m)
	w.put(m)
}

func (w *world) put(msgs ...stream.Message) {
	if _, err := w.facts.Append(context.Background(), msgs); err != nil {
		w.t.Fatal(err)
	}
}

// moment is often near where clocks change.
func (w *world) moment() time.Time {
	days := []string{"2026-03-08", "2026-11-01", "2026-04-04", "2026-04-05", "2026-10-03", "2026-10-04", "2026-01-01", "2026-05-31", "2026-06-01", "2026-06-02"}
	if w.r.IntN(10) == 0 {
		return time.Date(2026, 1, 1, 0, 0, w.r.IntN(365*86400), w.r.IntN(1000)*1e6, time.UTC)
	}
	day, err := time.Parse(time.DateOnly, days[w.r.IntN(len(days))])
	if err != nil {
		w.t.Fatal(err)
	}
	return day.Add(time.Duration(w.r.IntN(86400_000)) * time.Millisecond)
}

func (w *world) event() {
	i := w.r.IntN(len(w.people))
	p := w.people[i]
	tenant := w.tenant[p]
	q := w.r.IntN(partitions)
	who := follow(w.views[q], p)
	if isGone(w.views[q], who) {
		return
	}
	name := fmt.Sprint("Metric ", w.r.IntN(4))
	e := &fact.Event{Metric: fact.DeriveMetric(tenant, "api", name), Service: "api", Name: name, UID: fmt.Sprint(w.r.IntN(60))}
	shape := w.r
	if i >= steady { // all that have the same unique id are alike
		shape = rand.New(rand.NewPCG(uint64(e.Metric), uint64(len(e.UID)*100)+uint64(e.UID[0])*7+uint64(e.UID[len(e.UID)-1])))
	}
	saved := w.r
	w.r = shape
	e.Time = w.moment()
	if shape.IntN(2) == 0 {
		e.HasValue, e.Value = true, shape.Int64N(1e12)-5e11
	}
	if shape.IntN(20) == 0 {
		e.HasValue, e.Value = true, 1<<62
	}
	for _, d := range []string{"Color", "Size", "Big"} {
		if shape.IntN(3) > 0 {
			e.Dims = append(e.Dims, fact.Dim{Name: d, Value: fmt.Sprint(d, shape.IntN(3+50*(len(d)/5)))})
		}
	}
	w.r = saved
	w.events = append(w.events, happening{tenant, e.Metric, who, e})
	w.send(q, &fact.Fact{Kind: fact.KindEvent, Tenant: tenant, Profile: who, Event: e})
}

// decide merges or deletes a profile, as the tenant's home would.
func (w *world) decide() {
	a, b := w.people[steady+w.r.IntN(len(w.people)-steady)], w.people[steady+w.r.IntN(len(w.people)-steady)]
	if w.tenant[a] != w.tenant[b] {
		return
	}
	a, b = follow(w.to, a), follow(w.to, b)
	if a == b && w.r.IntN(4) > 0 || isGone(w.to, a) || isGone(w.to, b) {
		return
	}
	if a == b || w.r.IntN(6) == 0 {
		b = fact.ProfileID{}
	}
	m := fact.Merge{Source: a, Destination: b}
	copy(m.ID[:], fmt.Sprintf("merge %d", len(w.merges)))
	w.merges = append(w.merges, m)
	w.to[a] = b
}

// tell lets one partition of the first log know the next decision.
func (w *world) tell(q int) {
	if w.told[q] == len(w.merges) {
		return
	}
	m := w.merges[w.told[q]]
	w.told[q]++
	w.views[q][m.Source] = m.Destination
	w.send(q, &fact.Fact{Kind: fact.KindMarker, Tenant: w.tenant[m.Source], Profile: m.Source, Merge: &m})
}

// again sends what a partition sent lately once more, as it does after a crash.
func (w *world) again(q int) {
	n := min(len(w.sent[q]), w.r.IntN(20))
	w.put(w.sent[q][len(w.sent[q])-n:]...)
}

func (w *world) act() {
	switch x := w.r.IntN(100); {
	case x < 55:
		w.event()
	case x < 60:
		w.decide()
	case x < 72:
		w.tell(w.r.IntN(partitions))
	case x < 74:
		w.again(w.r.IntN(partitions))
	case x < 90:
		w.step(w.parts[(w.slow+w.r.IntN(2)+w.r.IntN(20)/19)%partitions], 1+w.r.IntN(20))
	case x < 98:
		w.commit(w.parts[w.r.IntN(partitions)])
	default:
		w.crash(w.parts[w.r.IntN(partitions)], w.r.IntN(2) == 0)
	}
}

// settle lets everything arrive.
func (w *world) settle() {
	for q := range w.told {
		for w.told[q] < len(w.merges) {
			w.tell(q)
		}
	}
	w.drain()
}

// truth is the trivial count.
type truth struct {
	events []happening // distinct, with the profile that they came to
}

func (w *world) truth() *truth {
	type key struct {
		metric  fact.MetricID
		profile fact.ProfileID
		uid     string
	}
	seen := map[key]bool{}
	out := &truth{}
	for _, h := range w.events {
		h.profile = follow(w.to, h.profile)
		if k := (key{h.metric, h.profile, h.e.UID}); !seen[k] {
			seen[k] = true
			out.events = append(out.events, h)
		}
	}
	return out
}

// number is what the oracle has for one bucket.
type number struct {
	count  int64
	sum    *big.Int
	unique map[fact.ProfileID]bool
}

type place struct {
	value string
	label string
}

// label names the interval that an instant is in, by what the clock on the wall shows.
func label(i Interval, t time.Time) string {
	switch i {
	case Hour:
		return t.Format("2006-01-02 15 -07:00")
	case Day:
		return t.Format("2006-01-02")
	case Week:
		y, n := t.ISOWeek()
		return fmt.Sprint(y, "w", n)
	default:
		return t.Format("2006-01")
	}
}

// count adds up events of a metric by label. A dimension "" is the total.
func (tr *truth) count(tenant string, m fact.MetricID, dim string, i Interval, zone *time.Location, keep func(h *happening, value string) bool) map[place]*number {
	out := map[place]*number{}
	for j := range tr.events {
		h := &tr.events[j]
		if h.tenant != tenant || h.metric != m {
			continue
		}
		value, has := "", dim == ""
		for _, d := range h.e.Dims {
			if d.Name == dim {
				value, has = d.Value, true
			}
		}
		if !has || keep != nil && !keep(h, value) {
			continue
		}
		k := place{value, label(i, h.e.Time.In(zone))}
		n := out[k]
		if n == nil {
			n = &number{sum: new(big.Int), unique: map[fact.ProfileID]bool{}}
			out[k] = n
		}
		n.count++
		n.sum.Add(n.sum, big.NewInt(h.e.Value))
		n.unique[h.profile] = true
	}
	return out
}

// firstOf steps back while the label is the same.
func firstOf(i Interval, t time.Time) time.Time {
	l := label(i, t)
	t = t.Truncate(15 * time.Minute)
	for {
		before := t.Add(-15 * time.Minute)
		if label(i, before) != l {
			return t
		}
		t = before
	}
}

func (w *world) metrics(tenant string) []fact.MetricID {
	found := map[fact.MetricID]bool{}
	for _, h := range w.events {
		if h.tenant == tenant {
			found[h.metric] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// checkAll holds all numbers against the truth.
func (w *world) checkAll(when string) {
	w.t.Helper()
	tr, r := w.truth(), w.reader()
	for _, tenant := range tenants() {
		zone := r.Zone(tenant)
		for _, m := range w.metrics(tenant) {
			for _, i := range []Interval{Hour, Day, Week, Month} {
				w.checkMetric(fmt.Sprint(when, " ", tenant, " ", i), tr, r, tenant, m, i, zone)
			}
		}
	}
}

func (w *world) checkMetric(when string, tr *truth, r *Reader, tenant string, m fact.MetricID, i Interval, zone *time.Location) {
	w.t.Helper()
	want := map[string]map[place]*number{}
	for _, dim := range []string{"", "Color", "Size", "Big"} {
		want[dim] = tr.count(tenant, m, dim, i, zone, nil)
	}
	err := r.Each(context.Background(), tenant, m, i, func(f Final) error {
		k := place{f.Value, label(i, f.Start)}
		n := want[f.Dimension][k]
		if n == nil {
			return fmt.Errorf("%s %v: %+v should not be", when, m, f)
		}
		if n.count != f.Count || n.sum.Cmp(f.Sum.Big()) != 0 || int64(len(n.unique)) != f.Unique {
			return fmt.Errorf("%s %v: %+v, want %d %v %d", when, m, f, n.count, n.sum, len(n.unique))
		}
		if s := firstOf(i, f.Start.Add(1)); !s.Equal(f.Start) {
			return fmt.Errorf("%s: %v starts at %v", when, f.Start, s)
		}
		delete(want[f.Dimension], k)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for dim, rest := range want {
		for k, n := range rest {
			w.t.Fatalf("%s %v: %s=%q %s is missing: %d", when, m, dim, k.value, k.label, n.count)
		}
	}
}

func TestHistoriesCountAsTheOracle(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 2
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for i := range 1500 {
				w.slow = i / 200
				w.act()
			}
			w.settle()
			w.checkAll("pending")
			for range 20 {
				w.checkQuery()
			}
			for _, p := range w.parts {
				w.commit(p)
			}
			w.checkAll("committed")
			for _, p := range w.parts {
				w.crash(p, w.r.IntN(2) == 0)
			}
			w.drain()
			w.checkAll("restarted")
			for range 20 {
				w.checkQuery()
			}
		})
	}
}
