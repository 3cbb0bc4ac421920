package customer

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// who is a profile by its address.
func byEmail(tenant, email string) (fact.ProfileID, []fact.Identifier) {
	id := fact.Identifier{Kind: fact.ByEmail, Value: email}
	return fact.DeriveProfile(tenant, id, fact.ProfileID{}), []fact.Identifier{id}
}

func changeOf(tenant, email string, ms int64, c *fact.Change) *fact.Fact {
	p, ids := byEmail(tenant, email)
	return &fact.Fact{Kind: fact.KindChange, Tenant: tenant, Profile: p, Who: ids, At: at(ms), Change: c}
}

func eventOf(tenant, email, uid string, ms int64) *fact.Fact {
	p, ids := byEmail(tenant, email)
	return &fact.Fact{Kind: fact.KindEvent, Tenant: tenant, Profile: p, Who: ids, At: at(ms + 500), Event: &fact.Event{Metric: 7, UID: uid, Time: at(ms), Value: 2_000_000, HasValue: true,
		Properties: []byte(`{"a":1,"b" : "x","c":[1]}`)}}
}

func markers(tenant string, id byte, source, destination fact.ProfileID) (out []*fact.Fact) {
	m := &fact.Merge{ID: [16]byte{id}, Source: source, Destination: destination}
	for q := range int32(parts) {
		out = append(out, &fact.Fact{Kind: fact.KindMarker, Tenant: tenant, Profile: source, At: at(900_000), Merge: m,
			From: fact.Origin{Stage: fact.StageIdentity, Partition: q, Offset: 1000 + int64(id), N: 1}})
	}
	return out
}

func TestProfile(t *testing.T) {
	w := newWorld(t, 1, nil)
	w.put(changeOf("t", "a@example.com", 1000, &fact.Change{
		Attributes: []byte(`{"first_name":"Ann","external_id":"x1","location":{"city":"Rome","zip":"1"}}`),
		Properties: []byte(`{"size":[1],"vip":true}`),
	}), eventOf("t", "a@example.com", "u1", 5000), eventOf("t", "a@example.com", "u2", 4000),
		changeOf("t", "a@example.com", 6000, &fact.Change{
			Attributes: []byte(`{"first_name":null,"last_name":"B","location":{"zip":null,"country":"IT"},"email":"b@example.com"}`),
			Append:     []byte(`{"size":2}`), Unset: []byte(`["vip"]`),
		}), changeOf("t", "a@example.com", 7000, &fact.Change{Attributes: []byte(`{"last_name":"B"}`)}))
	w.drain()
	id, _ := byEmail("t", "a@example.com")
	p, err := w.Profile("t", id)
	if err != nil {
		t.Fatal(err)
	}
	want := Profile{ID: id, Created: at(1000), Updated: at(6000), LastEvent: at(5000), External: "x1", Email: "b@example.com",
		Attributes: []byte(`{"location":{"city":"Rome","country":"IT"},"last_name":"B"}`), Properties: []byte(`{"size":[1,2]}`)}
	if fmt.Sprintf("%+v", *p) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v\nnot %+v", *p, want)
	}
	s, err := w.Summary("t", id, 7, []time.Duration{time.Second, time.Hour, 0}, at(5500))
	if err != nil || fmt.Sprint(s) != fmt.Sprint([]Window{{1, 2e6, at(5000), at(5000)}, {2, 4e6, at(4000), at(5000)}, {2, 4e6, at(4000), at(5000)}}) {
		t.Errorf("%v %v", s, err)
	}
	if s, err := w.Summary("t", id, 7, []time.Duration{time.Hour}, at(4500)); err != nil || s[0].Count != 1 {
		t.Errorf("what is later than now: %v %v", s, err)
	}
}

// TestSameChangeAgain has a change that changed nothing, and one that does when it comes again after a merge.
func TestSameChangeAgain(t *testing.T) {
	w := newWorld(t, 1, nil)
	from, _ := byEmail("t", "a@example.com")
	to, _ := byEmail("t", "b@example.com")
	clear := &fact.Change{Attributes: []byte(`{"title":null,"email":null}`)}
	w.put(changeOf("t", "a@example.com", 1000, &fact.Change{Attributes: []byte(`{"title":"x"}`)}), changeOf("t", "b@example.com", 1000, &fact.Change{}), changeOf("t", "b@example.com", 2000, clear))
	w.put(markers("t", 1, from, to)...)
	w.drain()
	p, err := w.Profile("t", to)
	if err != nil || string(p.Attributes) != `{"title":"x"}` || p.Email != "a@example.com" || !p.Updated.Equal(at(900_000)) {
		t.Errorf("%+v %v", p, err)
	}
	w.put(changeOf("t", "b@example.com", 950_000, clear))
	w.drain()
	if p, err := w.Profile("t", to); err != nil || string(p.Attributes) != `{}` || p.Email != "" || !p.Updated.Equal(at(950_000)) {
		t.Errorf("%+v %v", p, err)
	}
	w.put(eventOf("t", "b@example.com", "u", 960_000)) // an identifier that is missing is filled in
	w.drain()
	if p, err := w.Profile("t", to); err != nil || p.Email != "b@example.com" {
		t.Errorf("%+v %v", p, err)
	}
	third, _ := byEmail("t", "c@example.com") // nothing is known of it
	w.put(markers("t", 2, to, third)...)
	w.drain()
	if p, err := w.Profile("t", from); err != nil || p.ID != third || !p.Created.Equal(at(1000)) || p.Updated.Before(at(960_500)) {
		t.Errorf("%+v %v", p, err)
	}
}

func TestEventMakesProfile(t *testing.T) {
	w := newWorld(t, 1, func(o *Options, d *Deps) {
		o.KeepProperties = false
		d.Keep = func(tenant string, m fact.MetricID) []string {
			return map[string][]string{"t7": {"c", "a", "z"}}[fmt.Sprint(tenant, uint64(m))]
		}
	})
	w.put(eventOf("t", "a@example.com", "u1", 5000), eventOf("t", "a@example.com", "u1", 9000))
	w.drain()
	id, _ := byEmail("t", "a@example.com")
	p, err := w.Profile("t", id)
	if err != nil || p.Email != "a@example.com" || !p.Created.Equal(at(5500)) || !p.LastEvent.Equal(at(5000)) {
		t.Errorf("%v %v", p, err)
	}
	page, err := w.Events("t", EventQuery{Profile: id})
	if err != nil || len(page.Events) != 1 || string(page.Events[0].Kept) != `{"a":1,"c":[1]}` || page.Events[0].Properties != nil {
		t.Errorf("%+v %v", page, err)
	}
	if of := EventIDOf(id, 7, "u1"); of != page.Events[0].ID {
		t.Errorf("%s, not %s", of, page.Events[0].ID)
	}
	text := page.Events[0].ID.String()
	if again, err := ParseEventID(strings.ToUpper(text)); err != nil || again != page.Events[0].ID || len(text) != 64 {
		t.Errorf("%s %v", text, err)
	}
	if _, err := ParseEventID(text[1:]); !errors.Is(err, fact.ErrBadID) {
		t.Error(err)
	}
}

func TestDeletionLeavesNothing(t *testing.T) {
	for _, committed := range []bool{true, false} {
		w := newWorld(t, 1, nil)
		w.put(changeOf("t", "a@example.com", 1000, &fact.Change{Attributes: []byte(`{"first_name":"Ann"}`), Lists: []fact.Membership{{List: "l", Join: true}},
			Consent: []fact.Consent{{Channel: Email, Subscribed: true}}}), eventOf("t", "a@example.com", "u1", 5000))
		if committed {
			w.drain()
		}
		id, _ := byEmail("t", "a@example.com")
		w.put(markers("t", 1, id, fact.ProfileID{})...)
		w.put(eventOf("t", "a@example.com", "u2", 6000)) // none should come
		w.drain()
		if _, err := w.Profile("t", id); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		for p := range int32(parts) {
			for k := range w.dump(p) {
				if k[0] != prefixHead && k[0] != prefixClock && k[0] != prefixDue {
					t.Errorf("left: %q", k)
				}
			}
		}
	}
}

func TestLargeProfileMoves(t *testing.T) {
	w := newWorld(t, 1, nil)
	const n = 4000
	for i := range n {
		f := eventOf("t", "a@example.com", fmt.Sprint("u", i), int64(1000+i))
		f.Event.Properties = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 300))
		w.put(f)
	}
	from, _ := byEmail("t", "a@example.com")
	to, _ := byEmail("t", "b@example.com")
	w.put(eventOf("t", "b@example.com", "u5", 1), eventOf("t", "b@example.com", "v", 2))
	w.put(markers("t", 1, from, to)...)
	w.drain()
	s, err := w.Summary("t", from, 7, []time.Duration{0}, at(1e6))
	if err != nil || s[0].Count != n+1 || !s[0].First.Equal(at(1)) {
		t.Errorf("%+v %v", s, err)
	}
	p, err := w.Profile("t", from)
	if err != nil || p.ID != to || p.Email != "b@example.com" || !p.LastEvent.Equal(at(1000+n-1)) {
		t.Errorf("%+v %v", p, err)
	}
}

// TestTenants has two tenants with the same of everything.
func TestTenants(t *testing.T) {
	w := newWorld(t, 1, nil)
	id, ids := byEmail("t1", "a@example.com")
	for i, tenant := range []string{"t1", "t2"} {
		f := changeOf(tenant, "a@example.com", int64(1000+i), &fact.Change{Attributes: fmt.Appendf(nil, `{"title":%q}`, tenant), Lists: []fact.Membership{{List: "l", Join: true}}})
		e := eventOf(tenant, "a@example.com", "u", int64(2000+i))
		f.Profile, f.Who, e.Profile, e.Who = id, ids, id, ids
		o := &fact.Fact{Kind: fact.KindObject, Tenant: tenant, Object: &fact.Object{Type: "list", ID: "l", Data: fmt.Appendf(nil, `{"of":%q}`, tenant)}}
		w.put(f, e, o)
	}
	other, _ := byEmail("t2", "z@example.com")
	w.put(changeOf("t2", "z@example.com", 1000, &fact.Change{Lists: []fact.Membership{{List: "l", Join: true}}}))
	w.drain()
	for i, tenant := range []string{"t1", "t2"} {
		p, err := w.Profile(tenant, id)
		if err != nil || string(p.Attributes) != fmt.Sprintf(`{"title":%q}`, tenant) {
			t.Errorf("%s: %+v %v", tenant, p, err)
		}
		for _, sort := range []Sort{ByID, ByEmail, ByCreated, ByUpdated} {
			page, err := w.Profiles(tenant, ProfileQuery{Sort: sort})
			if err != nil || len(page.Profiles) != 1+i {
				t.Errorf("%s: %d profiles by %s, %v", tenant, len(page.Profiles), sort, err)
			}
		}
		m, err := w.Members(tenant, MemberQuery{List: "l"})
		if err != nil || len(m.Members) != 1+i {
			t.Errorf("%s: %+v %v", tenant, m, err)
		}
		e, err := w.Events(tenant, EventQuery{Profile: id})
		if err != nil || len(e.Events) != 1 || !e.Events[0].Time.Equal(at(int64(2000+i))) {
			t.Errorf("%s: %+v %v", tenant, e, err)
		}
		o, err := w.Objects(tenant, "list", "", 0)
		if err != nil || len(o.Objects) != 1 || string(o.Objects[0].Data) != fmt.Sprintf(`{"of":%q}`, tenant) {
			t.Errorf("%s: %+v %v", tenant, o, err)
		}
	}
	if _, err := w.Profile("t1", other); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if s, err := w.Summary("t1", other, 7, []time.Duration{0}, at(9000)); !errors.Is(err, ErrNotFound) {
		t.Error(s, err)
	}
	if page, err := w.Profiles("t1", ProfileQuery{IDs: []fact.ProfileID{other}}); err != nil || len(page.Profiles) != 0 {
		t.Error(page, err)
	}
	if _, err := w.Profile("t3", id); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	page, err := w.Profiles("t2", ProfileQuery{Size: 1})
	if err != nil || page.Cursor == "" {
		t.Fatal(page, err)
	}
	if _, err := w.Profiles("t1", ProfileQuery{Size: 1, Cursor: page.Cursor}); !errors.Is(err, ErrCursor) {
		t.Error("another tenant's cursor:", err)
	}
}

func TestCursors(t *testing.T) {
	w := newWorld(t, 1, nil)
	for i := range 10 {
		w.put(changeOf("t", fmt.Sprintf("p%d@example.com", i), int64(1000+i), &fact.Change{Lists: []fact.Membership{{List: "l", Join: true}}}))
	}
	w.drain()
	page, err := w.Profiles("t", ProfileQuery{Sort: ByCreated, Size: 4})
	if err != nil || len(page.Profiles) != 4 || page.Cursor == "" {
		t.Fatal(page, err)
	}
	c := page.Cursor
	for name, q := range map[string]ProfileQuery{
		"order": {Sort: ByUpdated, Cursor: c}, "direction": {Sort: ByCreated, Descending: true, Cursor: c}, "cut": {Sort: ByCreated, Cursor: c[:len(c)-2]},
		"changed": {Sort: ByCreated, Cursor: strings.ToUpper(c)}, "nonsense": {Sort: ByCreated, Cursor: "%%"}, "version": {Sort: ByCreated, Cursor: "z" + c[1:]},
	} {
		if _, err := w.Profiles("t", q); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Members("t", MemberQuery{List: "l", Cursor: c}); !errors.Is(err, ErrCursor) {
		t.Error(err)
	}
	if _, err := w.Profiles("t", ProfileQuery{Sort: "name"}); err == nil || !strings.Contains(err.Error(), "sort") {
		t.Error(err)
	}
	seen := map[fact.ProfileID]bool{}
	for q := (MemberQuery{List: "l", Size: 3, Descending: true, Joined: Range{at(1002), at(1008)}}); ; {
		page, err := w.Members("t", q)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Members {
			if seen[m.Profile] || m.Joined.Before(at(1002)) || !m.Joined.Before(at(1008)) {
				t.Errorf("%+v", m)
			}
			seen[m.Profile] = true
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d members", len(seen))
	}
}

func TestBounds(t *testing.T) {
	w := newWorld(t, 1, nil)
	var ids []fact.ProfileID
	for i := range 20 {
		email := fmt.Sprintf("p%02d@example.com", i)
		id, _ := byEmail("t", email)
		ids = append(ids, id)
		w.put(changeOf("t", email, int64(1000+i), &fact.Change{}), changeOf("t", email, int64(3000-i), &fact.Change{Properties: []byte(`{"a":1}`)}))
	}
	w.drain()
	w.looks = 3 // so that partitions end pages
	for _, q := range []ProfileQuery{
		{Created: Range{From: at(1005), To: at(1010)}},
		{Updated: Range{From: at(2991), To: at(2996)}},
		{Created: Range{From: at(1005)}, Updated: Range{From: at(2991)}},
		{Created: Range{From: at(1005), To: at(1010).Add(-time.Nanosecond)}}, // 1009.999999 ms: the end is not in it either way
		{Created: Range{From: at(1004).Add(1), To: at(1010)}},
	} {
		for _, sort := range []Sort{ByID, ByEmail, ByCreated, ByUpdated} {
			for _, given := range [][]fact.ProfileID{nil, append(ids, ids...)} {
				for _, back := range []bool{false, true} {
					q.Sort, q.IDs, q.Descending, q.Cursor, q.Size = sort, given, back, "", 2
					n := 0
					var last []byte
					for {
						page, err := w.Profiles("t", q)
						if err != nil {
							t.Fatal(err)
						}
						n += len(page.Profiles)
						for _, p := range page.Profiles {
							now := sort.position(p)
							if c := bytes.Compare(last, now); last != nil && (c == 0 || c > 0 != back) {
								t.Fatalf("%+v: out of order", q)
							}
							last = now
						}
						if q.Cursor = page.Cursor; q.Cursor == "" {
							break
						}
					}
					if n != 5 {
						t.Errorf("%+v: %d", q, n)
					}
				}
			}
		}
	}
}

func TestObjects(t *testing.T) {
	w := newWorld(t, 1, nil)
	for _, o := range []fact.Object{{ID: "a", Data: []byte(`1`)}, {ID: "b", Data: []byte(`2`)}, {ID: "c", Data: []byte(`3`)}, {ID: "d", Data: []byte(`4`)}, {ID: "b"}, {ID: "c", Data: []byte(`5`)}} {
		o.Type = "list"
		f := &fact.Fact{Kind: fact.KindObject, Tenant: "t", Object: &o}
		_, err := w.facts.Append(t.Context(), []stream.Message{{Partition: fact.ObjectPartition("t", o.ID, parts), Data: f.Append(nil)}})
		w.must(err)
	}
	w.drain()
	var got string
	for cursor := ""; ; {
		page, err := w.Objects("t", "list", cursor, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Objects {
			got += o.ID + string(o.Data)
		}
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	if got != "a1c5d4" {
		t.Error(got)
	}
	if o, err := w.Object("t", "list", "c"); err != nil || string(o.Data) != "5" {
		t.Error(o, err)
	}
	for _, q := range [][2]string{{"list", "b"}, {"job", "a"}, {"lis", "ta"}} {
		if o, err := w.Object("t", q[0], q[1]); !errors.Is(err, ErrNotFound) {
			t.Error(o, err)
		}
	}
}

func TestElsewhere(t *testing.T) {
	r := NewReader(func(int32) (*keyed.Store, bool) { return nil, false }, parts)
	id, _ := byEmail("t", "a")
	if _, err := r.Profile("t", id); !errors.Is(err, ErrElsewhere) {
		t.Error(err)
	}
	if _, err := r.Profiles("t", ProfileQuery{}); !errors.Is(err, ErrElsewhere) {
		t.Error(err)
	}
}

// TestWhatCannotBeRead does not stop the partition.
func TestWhatCannotBeRead(t *testing.T) {
	w := newWorld(t, 1, nil)
	bad := changeOf("t", "a@example.com", 1000, &fact.Change{Attributes: []byte(`{"first_name":`), Lists: []fact.Membership{{List: "l", Join: true}}})
	number := changeOf("t", "a@example.com", 1000, &fact.Change{Attributes: []byte(`{"email":5,"title":"x"}`)})
	p, _ := byEmail("t", "a@example.com")
	garbage := &fact.Fact{Kind: fact.KindTransfer, Tenant: "t", Profile: p, Transfer: &fact.Transfer{Level: fact.StageCustomer, Data: []byte{1, 'p', 3, 1, 2, 3}}}
	w.put(bad, number, garbage, &fact.Fact{Kind: 77, Tenant: "t", Profile: p}, &fact.Fact{Kind: fact.KindEvent, Tenant: "t", Profile: p}, eventOf("t", "a@example.com", "u", 2000))
	w.drain()
	got, err := w.Profile("t", p)
	if err != nil || len(got.Lists) != 1 || string(got.Attributes) != "{}" || got.LastEvent.IsZero() {
		t.Errorf("%+v %v", got, err)
	}
}

func TestTooLarge(t *testing.T) {
	w := newWorld(t, 1, func(o *Options, _ *Deps) { o.MaxProfile = 1 << 10 })
	w.put(changeOf("t", "a@example.com", 1000, &fact.Change{Properties: []byte(`{"a":1}`)}),
		changeOf("t", "a@example.com", 2000, &fact.Change{Properties: fmt.Appendf(nil, `{"b":%q}`, strings.Repeat("x", 2000)), Lists: []fact.Membership{{List: "l", Join: true}}}))
	w.drain()
	p, _ := byEmail("t", "a@example.com")
	got, err := w.Profile("t", p)
	if err != nil || string(got.Properties) != `{"a":1}` || len(got.Lists) != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestOptions(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
	for key, change := range map[string]func(*Options){
		"window": func(o *Options) { o.Window = 1 }, "dedupe": func(o *Options) { o.Dedupe = 0 }, "max_profile": func(o *Options) { o.MaxProfile = 1 << 20 }, "known_profiles": func(o *Options) { o.Known = -1 }, "filter": func(o *Options) { o.Filter = 1 },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}
