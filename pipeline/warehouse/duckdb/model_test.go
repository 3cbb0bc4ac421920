//go:build cgo

package duckdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

// eventKey is what tells events from their duplicates.
type eventKey struct {
	profile fact.ProfileID
	metric  fact.MetricID
	uid     string
}

// world does one fact after the other what the warehouse does with batches.
type world struct {
	r        *rand.Rand
	events   map[eventKey]warehouse.Event
	profiles map[fact.ProfileID]*warehouse.Profile
	tenants  map[fact.ProfileID]string
	living   []fact.ProfileID
	gone     map[fact.ProfileID]fact.ProfileID
	born     int
	clock    time.Time
	offsets  [3]int64
	batch    *warehouse.Batch
	from     [3]int64
	used     []eventKey
}

func newWorld(seed int64) *world {
	w := &world{r: rand.New(rand.NewSource(seed)), events: map[eventKey]warehouse.Event{}, profiles: map[fact.ProfileID]*warehouse.Profile{},
		tenants: map[fact.ProfileID]string{}, gone: map[fact.ProfileID]fact.ProfileID{}, clock: time.Date(2026, 3, 28, 20, 0, 0, 0, time.UTC)}
	w.cut()
	return w
}

func (w *world) cut() *warehouse.Batch {
	b := w.batch
	if b != nil {
		for p := range w.offsets {
			if w.offsets[p] > w.from[p] {
				b.Offsets = append(b.Offsets, warehouse.Offset{Partition: int32(p), From: w.from[p], Next: w.offsets[p]})
			}
		}
	}
	w.from = w.offsets
	w.batch = new(warehouse.Batch)
	return b
}

func (w *world) profile() fact.ProfileID {
	if len(w.living) > 2 && w.r.Intn(10) > 0 {
		return w.living[w.r.Intn(len(w.living))]
	}
	w.born++
	tenant := fmt.Sprint("tenant '", w.r.Intn(3))
	p := fact.DeriveProfile(tenant, fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(w.born)}, fact.ProfileID{})
	w.tenants[p] = tenant
	w.living = append(w.living, p)
	return p
}

func (w *world) step() {
	w.clock = w.clock.Add(time.Duration(w.r.Intn(90_000)) * time.Millisecond)
	switch n := w.r.Intn(100); {
	case n < 70:
		w.event()
	case n < 92:
		w.change(w.profile(), w.randomChange())
	case n < 98:
		w.merge(w.profile(), w.profile())
	default:
		w.merge(w.profile(), fact.ProfileID{})
	}
}

func pick[T any](r *rand.Rand, values ...T) T { return values[r.Intn(len(values))] }

func (w *world) event() {
	p := w.profile()
	tenant := w.tenants[p]
	e := warehouse.Event{Tenant: tenant, Profile: p, Accepted: w.clock, Partition: int32(w.r.Intn(3))}
	e.Offset = w.offsets[e.Partition]
	name := pick(w.r, "Opened", "Placed Order", "Clicked")
	e.Event = fact.Event{Metric: fact.DeriveMetric(tenant, "api", name), Service: "api", Name: name, UID: fmt.Sprint("u", w.r.Intn(5000)),
		Time: w.clock.Add(-time.Duration(w.r.Intn(3)*w.r.Intn(500_000)) * time.Second), Backfill: w.r.Intn(5) == 0, Currency: pick(w.r, "", "EUR")}
	if w.r.Intn(3) > 0 {
		e.Value, e.HasValue = int64(w.r.Intn(1000)-100)*10_000, true
	}
	for _, d := range []string{"URL", "url", `odd "name"`, "$flow", strings.Repeat("long", 30), "d5", "d6", "d7", "d8"} {
		if w.r.Intn(4) == 0 {
			e.Dims = append(e.Dims, fact.Dim{Name: d, Value: pick(w.r, "a", "it's", "a long value of a dimension", "ünï", "")})
		}
	}
	if w.r.Intn(3) > 0 {
		e.Properties = []byte(fmt.Sprintf(`{"n":%d,"s":"%s"}`, w.r.Intn(9), strings.Repeat("x", w.r.Intn(40))))
	}
	if n := len(w.used); n > 0 && w.r.Intn(4) == 0 { // somebody sends an event again
		k := w.used[w.r.Intn(n)]
		if w.tenants[k.profile] == tenant {
			e.Metric, e.UID, e.Name = k.metric, k.uid, w.events[k].Name
			if e.Name == "" { // of a profile that was merged since
				return
			}
		}
	}
	w.offsets[e.Partition]++
	w.batch.Events = append(w.batch.Events, e)
	k := eventKey{p, e.Metric, e.UID}
	if _, there := w.events[k]; !there {
		w.events[k] = e
		w.used = append(w.used, k)
	}
	var c *fact.Change
	if w.r.Intn(4) == 0 {
		c = w.randomChange()
	}
	w.tell(p, c)
}

func (w *world) change(p fact.ProfileID, c *fact.Change) {
	w.tell(p, c)
	w.offsets[0]++
}

// tell is what every fact says of its profile.
func (w *world) tell(p fact.ProfileID, c *fact.Change) {
	who := []fact.Identifier{{Kind: fact.ByEmail, Value: fmt.Sprintf("%x@example.com", p[:w.r.Intn(2)+1])}}
	if w.r.Intn(3) == 0 {
		who = append(who, fact.Identifier{Kind: fact.ByPhone, Value: "+49" + fmt.Sprint(w.r.Intn(3))})
	}
	if w.r.Intn(20) == 0 {
		who = nil
	}
	w.batch.Changes = append(w.batch.Changes, warehouse.Change{Tenant: w.tenants[p], Profile: p, At: w.clock, Who: who, Change: c})
	s, now := w.profiles[p], w.clock.UnixMilli()
	if s == nil {
		s = &warehouse.Profile{Created: now, Updated: now}
		w.profiles[p] = s
	}
	before := fingerprint(s)
	s.Know(who)
	if c != nil {
		_ = s.Apply(c, now)
	}
	if fingerprint(s) != before {
		s.Updated = max(s.Updated, now)
	}
}

func (w *world) randomChange() *fact.Change {
	c := new(fact.Change)
	if w.r.Intn(2) == 0 {
		c.Attributes = []byte(pick(w.r, `{"first_name":"Ann"}`, `{"first_name":7,"title":"Dr"}`, `{"phone_number":null}`, `{"email":"new@example.com"}`, `{"location":{"city":"Köln","latitude":50.9}}`,
			`{"location":{"city":null,"zip":"5"}}`, `{"location":{"latitude":"x","longitude":-1.50}}`, `{"organization":"","image":null,"custom":{"a":1}}`, `{}`, `not json`))
	}
	if w.r.Intn(2) == 0 {
		name := pick(w.r, "age", "Age", "tier", "vip", "tags", `q"uo'te`, "p6", "p7", "p8", "p9")
		value := pick(w.r, "5", "5.50", "-3", "1e3", "12345678901234567890", "0.1", `"gold"`, `""`, `"x\u0000y"`, "true", "false", "null", "[1,2]", `{"a":"b"}`, `"\u00e9"`)
		quoted, _ := json.Marshal(name)
		c.Properties = []byte("{" + string(quoted) + ":" + value + "}")
	}
	if w.r.Intn(6) == 0 {
		c.Append = []byte(pick(w.r, `{"tags":"a"}`, `{"tags":["b","c"],"tier":"x"}`))
	}
	if w.r.Intn(8) == 0 {
		c.Unset = []byte(pick(w.r, `"tier"`, `["age","vip"]`))
	}
	if w.r.Intn(6) == 0 {
		c.Consent = []fact.Consent{{Channel: pick(w.r, "email", "sms"), Subscribed: w.r.Intn(2) == 0, List: pick(w.r, "", "L1"), Method: "API"}}
	}
	if w.r.Intn(8) == 0 {
		c.Lists = []fact.Membership{{List: pick(w.r, "L1", "L2"), Join: w.r.Intn(3) > 0}}
	}
	if w.r.Intn(8) == 0 {
		c.Suppressions = []fact.Suppression{{Reason: pick(w.r, "HARD_BOUNCE", "SPAM_COMPLAINT", "USER_SUPPRESSED"), Lift: w.r.Intn(3) == 0}}
	}
	return c
}

func (w *world) merge(source, destination fact.ProfileID) {
	if source == destination || !destination.IsZero() && w.tenants[source] != w.tenants[destination] {
		return
	}
	asked := destination
	if w.r.Intn(4) == 0 { // decided by who did not know yet where the destination went
		for from, to := range w.gone {
			if to == destination && from != source && w.tenants[from] == w.tenants[source] {
				asked = from
			}
		}
	}
	w.batch.Merges = append(w.batch.Merges, warehouse.Merge{Tenant: w.tenants[source], Merge: fact.Merge{Source: source, Destination: asked}, At: w.clock,
		Events: len(w.batch.Events), Changes: len(w.batch.Changes)})
	if w.r.Intn(5) == 0 { // told twice
		w.batch.Merges = append(w.batch.Merges, w.batch.Merges[len(w.batch.Merges)-1])
	}
	w.offsets[1]++
	w.gone[source] = destination
	w.living = slices.DeleteFunc(w.living, func(p fact.ProfileID) bool { return p == source })
	for k, e := range w.events {
		if k.profile != source {
			continue
		}
		delete(w.events, k)
		k.profile = destination
		if _, there := w.events[k]; !there && !destination.IsZero() {
			e.Profile = destination
			w.events[k] = e
		}
	}
	s := w.profiles[source]
	delete(w.profiles, source)
	if s == nil || destination.IsZero() {
		return
	}
	d := w.profiles[destination]
	if d == nil {
		s.Updated = max(s.Updated, w.clock.UnixMilli())
		w.profiles[destination] = s
		return
	}
	before := fingerprint(d)
	d.Merge(s)
	if fingerprint(d) != before {
		d.Updated = max(d.Updated, w.clock.UnixMilli())
	}
}

func testOptions() warehouse.Options {
	o := warehouse.DefaultOptions()
	o.Tail, o.Columns, o.Memory = 1000, 5, 256<<20
	return o
}

func TestAgainstAModel(t *testing.T) {
	seeds := int64(3)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			dir := t.TempDir()
			w := newWorld(seed)
			d, err := open(ctx, dir, testOptions(), Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = d.Close() }()
			for round := range 40 {
				for range 1 + w.r.Intn(600) {
					w.step()
				}
				if err := d.Append(ctx, w.cut()); err != nil {
					t.Fatal(err)
				}
				switch w.r.Intn(8) {
				case 0:
					if err := d.Sort(ctx); err != nil {
						t.Fatal(err)
					}
				case 1:
					if err := d.Close(); err != nil {
						t.Fatal(err)
					}
					if d, err = open(ctx, dir, testOptions(), Deps{}); err != nil {
						t.Fatal(err)
					}
				case 2:
					if err := d.Append(ctx, &warehouse.Batch{Offsets: []warehouse.Offset{{Partition: 0, From: w.offsets[0] + 1, Next: w.offsets[0] + 2}}}); !errors.Is(err, warehouse.ErrOffset) {
						t.Fatalf("a batch with a gap: %v", err)
					}
				}
				if round%6 == 0 || round == 39 {
					w.compare(t, d)
				}
				if t.Failed() {
					return
				}
			}
			w.ask(t, d)
		})
	}
}

// compare reads everything.
func (w *world) compare(t *testing.T, d *DB) {
	t.Helper()
	ctx := context.Background()
	got := map[eventKey]bool{}
	n := 0
	for _, tenant := range []string{"tenant '0", "tenant '1", "tenant '2"} {
		p, err := d.Events(ctx, warehouse.EventQuery{Tenant: tenant, Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		n += len(p.Events)
		for _, e := range p.Events {
			k := eventKey{e.Profile, e.Metric, e.UID}
			want, there := w.events[k]
			if !there || got[k] {
				t.Errorf("event %v: wanted %v, had before %v", k, there, got[k])
				continue
			}
			got[k] = true
			sameEvent(t, e, want)
		}
	}
	if n != len(w.events) {
		t.Errorf("%d events, the model has %d", n, len(w.events))
	}
	people := 0
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.profiles
	err := d.each(ctx, s.union(s.runs, ""), func(scan func(...any) error) error {
		people++
		values, to := make([]any, len(s.fixed)+len(s.extra)), make([]any, len(s.fixed)+len(s.extra))
		for i := range values {
			to[i] = &values[i]
		}
		if err := scan(to...); err != nil {
			return err
		}
		var id uuid
		if err := id.Scan(values[prProfile]); err != nil {
			return err
		}
		has, err := s.decode(values)
		if err != nil {
			return err
		}
		want := w.profiles[fact.ProfileID(id)]
		if want == nil {
			t.Errorf("profile %v is there", fact.ProfileID(id))
			return nil
		}
		if canonical(has) != canonical(want) {
			t.Errorf("profile %v:\n%s\nwant\n%s", fact.ProfileID(id), canonical(has), canonical(want))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if people != len(w.profiles) {
		t.Errorf("%d profiles, the model has %d", people, len(w.profiles))
	}
}

// canonical is a state of a profile in which it does not matter how JSON was written.
func canonical(p *warehouse.Profile) string {
	out, _ := json.Marshal(struct {
		IDs                           any
		Attributes, Properties        any
		Consents, Suppressions, Lists any
		Created, Updated              int64
	}{p.IDs, plainJSON(p.Attributes.Append(nil)), plainJSON(p.Properties.Append(nil)), append([]warehouse.Consent{}, p.Consents...),
		append([]warehouse.Suppression{}, p.Suppressions...), append([]warehouse.Membership{}, p.Lists...), p.Created, p.Updated})
	return string(out)
}

func plainJSON(text []byte) any {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return err.Error()
	}
	return plainNumbers(v)
}

func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		r, _ := new(big.Rat).SetString(v.String())
		return r.String()
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
	}
	return v
}

func sameEvent(t *testing.T, got, want warehouse.Event) {
	t.Helper()
	slices.SortFunc(want.Dims, func(a, b fact.Dim) int { return strings.Compare(a.Name, b.Name) })
	if len(want.Properties) == 0 {
		want.Properties = nil
	}
	if len(got.Properties) == 0 {
		got.Properties = nil
	}
	want.Profile = got.Profile
	if !reflect.DeepEqual(got, want) {
		t.Errorf("event is\n%+v\nnot\n%+v", got, want)
	}
}

// ask asks all the named questions.
func (w *world) ask(t *testing.T, d *DB) {
	t.Helper()
	ctx := context.Background()
	zones := []string{"UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana"}
	for i := range 40 {
		tenant := fmt.Sprint("tenant '", w.r.Intn(3))
		zone, err := time.LoadLocation(zones[i%len(zones)])
		if err != nil {
			t.Fatal(err)
		}
		from := w.clock.Add(-time.Duration(w.r.Intn(20*24)) * time.Hour)
		q := warehouse.AggregateQuery{Tenant: tenant, Metric: fact.DeriveMetric(tenant, "api", pick(w.r, "Opened", "Clicked")), Unique: true, Interval: warehouse.Interval(1 + w.r.Intn(4)), Zone: zone,
			From: from, To: from.Add(time.Duration(1+w.r.Intn(20*24)) * time.Hour)}
		for _, name := range []string{"URL", "d5", "n"} {
			if w.r.Intn(2) == 0 {
				q.By = append(q.By, name)
			}
		}
		if w.r.Intn(2) == 0 {
			q.Filters = []warehouse.Filter{{Name: "url", Values: []string{"a", "it's"}, Not: w.r.Intn(2) == 0}}
		}
		got, err := d.Aggregate(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if want := w.aggregate(q); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v:\n%+v\nwant\n%+v", q, got, want)
		}
	}
	w.page(t, d)
	for _, k := range slices.Collect(maps.Keys(w.events))[:50] {
		e := w.events[k]
		for _, c := range []struct {
			q    warehouse.SeenQuery
			want bool
		}{
			{warehouse.SeenQuery{Partition: -1}, true},
			{warehouse.SeenQuery{Partition: e.Partition, Offset: e.Offset}, false},
			{warehouse.SeenQuery{Partition: e.Partition, Offset: e.Offset + 1}, true},
		} {
			c.q.Tenant, c.q.Profile, c.q.Metric, c.q.UID = e.Tenant, k.profile, k.metric, k.uid
			if got, err := d.Seen(ctx, c.q); err != nil || got != c.want {
				t.Errorf("seen %+v: %v %v", c.q, got, err)
			}
			c.q.UID += "x"
			if got, err := d.Seen(ctx, c.q); err != nil || got {
				t.Errorf("seen %+v: %v %v", c.q, got, err)
			}
		}
	}
	s, err := d.Stats(ctx)
	if err != nil || s.Events != int64(len(w.events)) || s.Profiles != int64(len(w.profiles)) {
		t.Errorf("stats %+v %v", s, err)
	}
}

// aggregate counts by hand.
func (w *world) aggregate(q warehouse.AggregateQuery) *warehouse.Aggregate {
	cal := warehouse.Calendar{Interval: q.Interval, Zone: q.Zone}
	out := &warehouse.Aggregate{Starts: cal.Starts(q.From, q.To)}
	groups := map[string]*warehouse.Group{}
	unique := map[string]map[fact.ProfileID]bool{}
	for k, e := range w.events {
		if e.Tenant != q.Tenant || e.Metric != q.Metric || e.Time.Before(q.From) || !e.Time.Before(q.To) {
			continue
		}
		if len(q.Filters) > 0 && slices.Contains(q.Filters[0].Values, valueOf(e, q.Filters[0].Name)) == q.Filters[0].Not {
			continue
		}
		by := make([]string, len(q.By))
		for i, name := range q.By {
			by[i] = valueOf(e, name)
		}
		g := groups[strings.Join(by, "\x00")]
		if g == nil {
			n := len(out.Starts)
			g = &warehouse.Group{By: by, Counts: make([]int64, n), Micros: make([]int64, n), Uniques: make([]int64, n)}
			groups[strings.Join(by, "\x00")] = g
		}
		start := cal.Start(e.Time)
		i := slices.IndexFunc(out.Starts, start.Equal)
		if i < 0 {
			panic(fmt.Sprint(e.Time, start, out.Starts[0]))
		}
		g.Counts[i]++
		g.Micros[i] += e.Value
		set := fmt.Sprint(by, i)
		if unique[set] == nil {
			unique[set] = map[fact.ProfileID]bool{}
		}
		unique[set][k.profile] = true
		g.Uniques[i] = int64(len(unique[set]))
	}
	for _, g := range groups {
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b warehouse.Group) int { return slices.Compare(a.By, b.By) })
	return out
}

func valueOf(e warehouse.Event, name string) string {
	for _, d := range e.Dims {
		if d.Name == name {
			return d.Value
		}
	}
	var p map[string]any
	if json.Unmarshal(e.Properties, &p) == nil && p[name] != nil {
		return fmt.Sprint(p[name])
	}
	return ""
}

// page reads events in small pages, in both directions.
func (w *world) page(t *testing.T, d *DB) {
	t.Helper()
	for _, down := range []bool{false, true} {
		q := warehouse.EventQuery{Tenant: "tenant '1", Size: 37, Descending: down, From: w.clock.Add(-48 * time.Hour)}
		want := 0
		for _, e := range w.events {
			if e.Tenant == q.Tenant && !e.Time.Before(q.From) {
				want++
			}
		}
		var all []warehouse.Event
		for {
			p, err := d.Events(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, p.Events...)
			if !p.More {
				break
			}
			q.Cursor = p.Next
		}
		sorted := slices.IsSortedFunc(all, func(a, b warehouse.Event) int {
			if down {
				a, b = b, a
			}
			return a.Time.Compare(b.Time)
		})
		if len(all) != want || !sorted {
			t.Errorf("down %v: %d events, want %d; sorted %v", down, len(all), want, sorted)
		}
	}
}
