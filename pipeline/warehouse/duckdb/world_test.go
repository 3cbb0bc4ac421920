//go:build cgo

package duckdb

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"slices"
	"strings"
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
