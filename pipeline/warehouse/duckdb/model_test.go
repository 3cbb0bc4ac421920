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
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

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
				case 3:
					if err := d.Erase(ctx); err != nil {
						t.Fatal(err)
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
	err := d.eachRow(ctx, s, s.union(s.runs, ""), func(id fact.ProfileID, values []any) error {
		people++
		has, err := s.decode(values)
		if err != nil {
			return err
		}
		want := w.profiles[id]
		if want == nil {
			t.Errorf("profile %v is there", id)
			return nil
		}
		if canonical(has) != canonical(want) {
			t.Errorf("profile %v:\n%s\nwant\n%s", id, canonical(has), canonical(want))
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
	left := 0
	for _, k := range w.used { // of some the profile was merged or deleted since
		if _, gone := w.gone[k.profile]; !gone || left == 50 {
			continue
		}
		left++
		_, want := w.events[k]
		got, err := d.Seen(ctx, warehouse.SeenQuery{Tenant: w.tenants[k.profile], Profile: k.profile, Metric: k.metric, UID: k.uid, Partition: -1})
		if err != nil || got != want {
			t.Errorf("seen %+v of a profile that left: %v %v", k, got, err)
		}
	}
	if left == 0 {
		t.Error("no event is of a profile that left")
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
