package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/ingest"
)

var now = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

func openLog(t testing.TB, dir string) *event.Log {
	t.Helper()
	l, err := event.OpenLog(dir, event.LogOptions{Keep: units.Duration(time.Hour), MaxSize: 64 << 20, SegmentSize: 64 << 10}, event.LogDeps{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newDoor(t testing.TB, topic stream.Topic, h ingest.Hydrator) *ingest.Door {
	t.Helper()
	d, err := ingest.New(ingest.DefaultOptions(), ingest.Deps{Intake: topic, Hydrate: h, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func topic(t testing.TB) stream.Topic {
	t.Helper()
	tp, err := stream.NewMemory().Topic(context.Background(), "intake", 3)
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

func records(t testing.TB, tp stream.Topic) (out []*fact.Intake) {
	t.Helper()
	for p := range tp.Partitions() {
		end, _ := tp.End(context.Background(), p)
		if end == 0 {
			continue
		}
		r, err := tp.Read(context.Background(), p, 0)
		if err != nil {
			t.Fatal(err)
		}
		recs, err := r.Next(context.Background(), int(end))
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			in := new(fact.Intake)
			if err := in.Parse(rec.Data); err != nil {
				t.Fatal(err)
			}
			out = append(out, in)
		}
	}
	return out
}

func TestRecord(t *testing.T) {
	f := &Feed{d: Deps{Door: newDoor(t, topic(t), nil)}}
	id := mail.ID{1, 2, 3}
	e := event.Event{
		ID: event.DeriveID(id, 2, event.Bounced), Kind: event.Bounced, Time: now, Message: id, Tenant: "acme", Stream: "s1", Recipient: "Ann@Example.com",
		Domain: "example.com", Provider: "gmail", Attempt: 2, Host: "mx.example.com", Class: "smtp", Code: 550, Enhanced: "5.1.1", Reply: `no "Ann"`,
		Tags: []mail.Tag{{Name: "campaign", Value: "c1"}, {Name: "campaign_name", Value: "Sale"}, {Name: "List", Value: "news"}, {Name: "code", Value: "x"}, {Name: "subject", Value: "Hi"}},
	}
	m := About(&e)
	in, err := f.record(&e, &m)
	if err != nil {
		t.Fatal(err)
	}
	var p map[string]any
	if err := json.Unmarshal(in.Event.Properties, &p); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"message_id": id.String(), "$campaign": "c1", "Campaign Name": "Sale", "Subject": "Hi", "Email Domain": "example.com", "Inbox Provider": "gmail",
		"Stream": "s1", "Bounce Type": "Hard", "Failure Type": "smtp", "Failure Source": "mx.example.com", "attempt": 2.0, "code": 550.0, "enhanced": "5.1.1", "reply": `no "Ann"`, "List": "news"}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("%v", p)
	}
	if fmt.Sprint(in.Who) != "[{email ann@example.com}]" || in.Event.Name != "Bounced Email" || in.Event.Service != "godwit" || in.Event.UID != e.ID ||
		in.Event.Metric != fact.DeriveMetric("acme", "godwit", "Bounced Email") || !in.Event.Time.Equal(now) {
		t.Errorf("%+v %+v", in, in.Event)
	}
	if got := fmt.Sprint(in.Event.Dims); got != "[{$campaign c1} {Bounce Type Hard} {Campaign Name Sale} {Email Domain example.com} {Failure Source mx.example.com} {Failure Type smtp} {Inbox Provider gmail} {List news} {Subject Hi}]" {
		t.Error(got)
	}
	e.Recipient = "not an address"
	if _, err := f.record(&e, &m); err == nil {
		t.Error("taken")
	}
}

func TestBounceType(t *testing.T) {
	for _, c := range []struct {
		e    event.Event
		want string
	}{
		{event.Event{Kind: event.Bounced, Class: "smtp", Code: 550}, "Hard"},
		{event.Event{Kind: event.Bounced, Class: "smtp", Code: 554, Enhanced: "5.7.1"}, "Soft"},
		{event.Event{Kind: event.Bounced, Class: "smtp", Code: 550, Enhanced: "5.1.10"}, "Hard"},
		{event.Event{Kind: event.Bounced, Class: "dns"}, "Hard"},
		{event.Event{Kind: event.Bounced, Class: "policy"}, "Soft"},
		{event.Event{Kind: event.Expired, Class: "smtp", Code: 550}, "Soft"},
	} {
		if got := bounceType(&c.e); got != c.want {
			t.Errorf("%+v: %s", c.e, got)
		}
	}
}

// life is the events of one message.
func life(r *rand.Rand, n int) []event.Event {
	id := new(mail.IDs).New(now)
	var out []event.Event
	add := func(k event.Kind, attempt int) {
		out = append(out, event.Event{ID: event.DeriveID(id, attempt, k), Kind: k, Time: now.Add(time.Duration(n) * time.Second), Message: id, Tenant: "acme",
			Recipient: fmt.Sprintf("p%d@example.com", r.IntN(20)), Domain: "example.com", Attempt: attempt, Provider: "gmail",
			Tags: []mail.Tag{{Name: TagCampaign, Value: "c1"}, {Name: TagMessage, Value: "cm1"}}})
	}
	add(event.Injected, 0)
	for i := range r.IntN(3) {
		add(event.Deferred, i+1)
	}
	add([]event.Kind{event.Delivered, event.Bounced, event.Expired}[r.IntN(3)], 5)
	return out
}

// flaky fails at random, before or after the records are in.
type flaky struct {
	*ingest.Door
	r    *rand.Rand
	stop context.CancelFunc
}

var errFlaky = errors.New("flaky")

func (f *flaky) Put(ctx context.Context, all []*fact.Intake) (ingest.Position, error) {
	what := f.r.IntN(6)
	if what == 0 {
		return nil, errFlaky
	}
	at, err := f.Door.Put(ctx, all)
	switch what {
	case 1:
		return nil, errFlaky
	case 2:
		f.stop() // the process ends before the cursor is committed
		return nil, errFlaky
	}
	return at, err
}

// TestRestarts ends the feed at random moments, with and without what it had committed. All events are
// there afterwards, and what came twice is the same in everything that decides what it counts for.
func TestRestarts(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) { restarts(t, seed) })
	}
}

func restarts(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	tp := topic(t)
	want := map[string]event.Kind{}
	store, err := OpenStore(filepath.Join(dir, "messages"), DefaultStoreOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for round := range 12 {
		l := openLog(t, filepath.Join(dir, "log"))
		for n := range r.IntN(40) {
			all := life(r, round*100+n)
			if _, err := l.Append(context.Background(), nil, all); err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				if e.Kind != event.Deferred {
					want[e.ID] = e.Kind
				}
			}
		}
		c, err := l.Cursor("pipeline")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(context.Background(), time.Duration(r.IntN(3000))*time.Millisecond)
		if round == 11 {
			ctx, stop = context.WithTimeout(context.Background(), time.Hour)
		}
		door := &flaky{newDoor(t, tp, store), r, stop}
		if round == 11 {
			door.stop = func() {}
		}
		f, err := New(DefaultOptions(), Deps{Cursor: c, Door: door, Messages: store, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Run(ctx); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]*fact.Intake{}
	for _, in := range records(t, tp) {
		if old := got[in.Event.UID]; old != nil && !reflect.DeepEqual(old, in) {
			t.Fatalf("%+v came again as %+v", old.Event, in.Event)
		}
		got[in.Event.UID] = in
	}
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for id, kind := range want {
		if in := got[id]; in == nil || in.Event.Name != Metric(kind) {
			t.Fatalf("%s: %+v", id, in)
		}
	}
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir, DefaultStoreOptions())
	if err != nil {
		t.Fatal(err)
	}
	old, fresh := new(mail.IDs).New(now.Add(-61*24*time.Hour)), new(mail.IDs).New(now)
	m := ingest.Message{Campaign: "c", CampaignName: "Sale", Flow: "f", Message: "cm", MessageName: "n", Variation: "v", Subject: "s", Domain: "d", Provider: "p"}
	if err := s.Put(now.Add(-61*24*time.Hour), []Entry{{"acme", old, ingest.Message{Message: "gone"}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(now, []Entry{{"acme", fresh, m}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenStore(dir, DefaultStoreOptions()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	common := m
	common.Domain, common.Provider = "", ""
	look := func(tenant, id string, want ingest.Message, there bool) {
		t.Helper()
		if got, ok := s.Message(tenant, id); ok != there || there && got != want {
			t.Errorf("%s %s: %+v %v", tenant, id, got, ok)
		}
	}
	look("acme", fresh.String(), m, true)
	look("acme", "cm", common, true)
	look("acme", old.String(), ingest.Message{Message: "gone"}, true)
	look("other", fresh.String(), m, false)
	look("other", "cm", m, false)
	look("acme", "", m, false)
	if err := s.Expire(now); err != nil {
		t.Fatal(err)
	}
	look("acme", fresh.String(), m, true)
	look("acme", "cm", common, true)
	look("acme", old.String(), m, false)
	look("acme", "gone", m, false)
}

func FuzzParse(f *testing.F) {
	f.Add(value("acme", 3, ingest.Message{Campaign: "c", Provider: "p"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, day, ok := parse("acme", b)
		if !ok {
			return
		}
		again, d, ok := parse("acme", value("acme", day, m))
		if !ok || again != m || d != day {
			t.Fatalf("%+v %+v", m, again)
		}
	})
}

func TestOptions(t *testing.T) {
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
	if err := (Options{Kinds: []string{"gap"}}).Validate(); err == nil {
		t.Error("gap is taken")
	}
	for _, k := range event.Kinds() {
		if (Metric(k.Kind) != "") != slices.Contains([]event.Kind{event.Injected, event.Delivered, event.Deferred, event.Bounced, event.Expired}, k.Kind) {
			t.Error(k.Kind)
		}
	}
}
