package ingest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/jsonapi"
)

// now is when all tests take place.
var now = time.Date(2026, 11, 21, 9, 30, 15, 123456789, time.UTC)

type world struct {
	*Door
	log stream.Topic
}

type messages map[string]Message

func (m messages) Message(tenant, id string) (Message, bool) {
	v, ok := m[tenant+"/"+id]
	return v, ok
}

func newWorld(t testing.TB, change func(*Options), h Hydrator) world {
	t.Helper()
	topic, err := stream.NewMemory().Topic(context.Background(), "intake", 4)
	if err != nil {
		t.Fatal(err)
	}
	o := DefaultOptions()
	if change != nil {
		change(&o)
	}
	d, err := New(o, Deps{Intake: topic, Hydrate: h, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return world{d, topic}
}

// all returns what the log has, and checks that each record is in the partition of its first identifier.
func (w world) all(t testing.TB) (out []*fact.Intake) {
	t.Helper()
	for p := range w.log.Partitions() {
		end, err := w.log.End(context.Background(), p)
		if err != nil || end == 0 {
			continue
		}
		r, err := w.log.Read(context.Background(), p, 0)
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
			if want := fact.PartitionOf(in.Tenant, in.Who[0], 4); want != p {
				t.Fatalf("record of %v in partition %d, want %d", in.Who[0], p, want)
			}
			out = append(out, in)
		}
	}
	return out
}

// event makes the document of one event with these attributes beside metric and profile.
func event(more string) string {
	if more != "" {
		more += ","
	}
	return `{"data":{"type":"event","attributes":{` + more +
		`"metric":{"data":{"type":"metric","attributes":{"name":"Placed Order"}}},"profile":{"data":{"type":"profile","attributes":{"email":"Ann@Example.com"}}}}}}`
}

func (w world) one(t testing.TB, body, seed string) *fact.Intake {
	t.Helper()
	at, err := w.Event(context.Background(), "acme", []byte(body), seed)
	if err != nil {
		t.Fatal(err)
	}
	if len(at) != 1 {
		t.Fatalf("position %v", at)
	}
	all := w.all(t)
	if len(all) != 1 {
		t.Fatalf("%d records", len(all))
	}
	return all[0]
}

func TestEventIsTaken(t *testing.T) {
	w := newWorld(t, nil, nil)
	got := w.one(t, `{"data":{"type":"event","attributes":{
		"properties":{"URL":"https:\/\/x.example\/a","Segment Count":2.50,"Bot Click":false,"List":null,"Subject":"","items":[1,{"a":[]}]},
		"time":"2026-11-20T10:00:00.1239+02:00","value":12.3456789,"value_currency":"eur","unique_id":"o-1","backfill":true,
		"metric":{"data":{"type":"metric","attributes":{"name":"Placed Order","service":"shop"}}},
		"profile":{"data":{"type":"profile","attributes":{"phone_number":"+49 30 123456","email":" Ann@ÄPFEL.example","external_id":"X1","first_name":"Ann",
			"location":{"timezone":"Europe/Berlin","latitude":"52.5","zip":"10115"},"properties":{"plan":"pro"}},
			"meta":{"patch_properties":{"append":{"tags":"a"},"unset":"old"}}}}}}}`, "")
	want := &fact.Intake{
		Kind: fact.KindEvent, Tenant: "acme", At: now.Truncate(time.Millisecond),
		Who: []fact.Identifier{{Kind: fact.ByExternal, Value: "X1"}, {Kind: fact.ByEmail, Value: "ann@xn--pfel-koa.example"}, {Kind: fact.ByPhone, Value: "+4930123456"}},
		Event: &fact.Event{
			Metric: fact.DeriveMetric("acme", "shop", "Placed Order"), Service: "shop", Name: "Placed Order",
			Time: time.Date(2026, 11, 20, 8, 0, 0, 123e6, time.UTC), UID: "o-1", Value: 12345679, HasValue: true, Currency: "EUR", Backfill: true,
			Dims:       []fact.Dim{{Name: "$value_currency", Value: "EUR"}, {Name: "Bot Click", Value: "false"}, {Name: "Segment Count", Value: "2.5"}, {Name: "URL", Value: "https://x.example/a"}},
			Properties: []byte(`{"URL":"https:\/\/x.example\/a","Segment Count":2.50,"Bot Click":false,"List":null,"Subject":"","items":[1,{"a":[]}]}`),
		},
		Change: &fact.Change{
			Attributes: []byte(`{"external_id":"X1","email":"ann@xn--pfel-koa.example","phone_number":"+4930123456","first_name":"Ann","location":{"timezone":"Europe/Berlin","latitude":52.5,"zip":"10115"}}`),
			Properties: []byte(`{"plan":"pro"}`), Append: []byte(`{"tags":"a"}`), Unset: []byte(`["old"]`),
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\n%+v\n%s\nwant %+v\n%+v\n%s", got, got.Event, got.Change.Attributes, want, want.Event, want.Change.Attributes)
	}
}

func TestEventDefaults(t *testing.T) {
	for _, c := range []struct {
		name, body, seed string
		check            func(*fact.Intake) bool
	}{
		{"time is now", event(``), "", func(i *fact.Intake) bool { return i.Event.Time.Equal(now.Truncate(time.Millisecond)) }},
		{"service is api", event(``), "", func(i *fact.Intake) bool { return i.Event.Service == "api" }},
		{"unique id is the second", event(`"time":"2026-01-01T00:00:00.9Z"`), "", func(i *fact.Intake) bool { return i.Event.UID == "1767225600" }},
		{"unique id is of the seed", event(`"time":"2026-01-01T00:00:00.9Z"`), "k1", func(i *fact.Intake) bool { return i.Event.UID == seedOf("k1")+"0" }},
		{"unique id wins over the seed", event(`"unique_id":"u"`), "k1", func(i *fact.Intake) bool { return i.Event.UID == "u" }},
		{"no change by identifiers", event(``), "", func(i *fact.Intake) bool { return i.Change == nil }},
		{"nulls are absent", event(`"time":null,"value":null,"unique_id":null,"properties":null,"value_currency":null,"backfill":null`), "", func(i *fact.Intake) bool {
			return i.Event.UID == "1795253415" && !i.Event.HasValue && i.Event.Properties == nil && i.Change == nil
		}},
		{"value of a property", event(`"properties":{"$value":"1e-2","$value_currency":"usd"}`), "", func(i *fact.Intake) bool {
			return i.Event.HasValue && i.Event.Value == 10000 && i.Event.Currency == "USD"
		}},
		{"value of the attribute wins", event(`"properties":{"$value":3},"value":-4`), "", func(i *fact.Intake) bool { return i.Event.Value == -4e6 }},
		{"text as $value is none", event(`"properties":{"$value":"much"}`), "", func(i *fact.Intake) bool { return !i.Event.HasValue }},
		{"the last of two counts", event(`"unique_id":"a","unique_id":"b","properties":{"URL":"x"},"properties":{"List":"y"}`), "", func(i *fact.Intake) bool {
			return i.Event.UID == "b" && reflect.DeepEqual(i.Event.Dims, []fact.Dim{{Name: "List", Value: "y"}})
		}},
		{"profile id is strongest", strings.Replace(event(``), `{"type":"profile",`, `{"type":"profile","id":"`+fact.ProfileID{1}.String()+`",`, 1), "", func(i *fact.Intake) bool {
			return len(i.Who) == 2 && i.Who[0] == fact.Identifier{Kind: fact.ByProfile, Value: fact.ProfileID{1}.String()}
		}},
		{"null attributes change nothing", strings.Replace(event(``), `{"email"`, `{"first_name":null,"phone_number":null,"email"`, 1), "", func(i *fact.Intake) bool { return i.Change == nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := newWorld(t, nil, nil).one(t, c.body, c.seed); !c.check(got) {
				t.Errorf("%+v %+v", got, got.Event)
			}
		})
	}
}

func TestHydration(t *testing.T) {
	known := messages{"acme/m1": {Campaign: "c1", CampaignName: `Sale "1"`, Message: "cm", Provider: "gmail"}, "other/m2": {Campaign: "secret"}}
	for _, c := range []struct{ props, want, dims string }{
		{`{"message_id":"m1"}`, `{"message_id":"m1","$campaign":"c1","Campaign Name":"Sale \"1\"","$message":"cm","Inbox Provider":"gmail"}`,
			`[{$campaign c1} {$message cm} {Campaign Name Sale "1"} {Inbox Provider gmail}]`},
		{`{"$message":"m1","$campaign":"mine"}`, `{"$message":"m1","$campaign":"mine","Campaign Name":"Sale \"1\"","Inbox Provider":"gmail"}`,
			`[{$campaign mine} {$message m1} {Campaign Name Sale "1"} {Inbox Provider gmail}]`},
		{`{"message_id":"m2"}`, `{"message_id":"m2"}`, `[]`}, // another tenant's
		{`{"message_id":7}`, `{"message_id":7}`, `[]`},
	} {
		got := newWorld(t, nil, known).one(t, event(`"properties":`+c.props), "")
		if string(got.Event.Properties) != c.want || fmt.Sprint(got.Event.Dims) != c.dims {
			t.Errorf("%s: %s %v", c.props, got.Event.Properties, got.Event.Dims)
		}
	}
}

func TestDimension(t *testing.T) {
	long := strings.Repeat("ä", 200)
	cut, _ := dimension(`"` + long + `1"`)
	other, _ := dimension(`"` + long + `2"`)
	if len(cut) > maxDimension || len(cut) < maxDimension-1 || cut == other || !strings.HasPrefix(cut, strings.Repeat("ä", 119)+"~") {
		t.Errorf("%q %q", cut, other)
	}
	for raw, want := range map[string]string{
		`"a\u0041"`: "aA", `true`: "true", `1.50`: "1.5", `-0`: "0", `-0.0`: "0", `100`: "100", `1.0`: "1", `1E5`: "1E5",
	} {
		if got, ok := dimension(raw); !ok || got != want {
			t.Errorf("%s: %q", raw, got)
		}
	}
	for _, raw := range []string{`""`, `null`, `{}`, `[1]`} {
		if got, ok := dimension(raw); ok {
			t.Errorf("%s: %q", raw, got)
		}
	}
}

func TestMillionths(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1e6, "-1.5": -15e5, "0.1": 1e5, "0.30000000000000004": 3e5, "0.0000005": 1, "0.00000049": 0, "-0.0000005": -1, "1e3": 1e9,
		"12.34e1": 1234e5, "1e-6": 1, "1e-99999999999999999999": 0, "0e99999999999999999999": 0, "9223372036854.775807": 1<<63 - 1, "0.9999999": 1e6,
		"123456789012345e-9": 123456789012, "0.00123e3": 123e4,
	} {
		if got, ok := millionths(text); !ok || got != want {
			t.Errorf("%s: %d %v", text, got, ok)
		}
	}
	for _, text := range []string{"9223372036854.775808", "1e13", "1e99999999999999999999", "99999999999999999999"} {
		if got, ok := millionths(text); ok {
			t.Errorf("%s: %d", text, got)
		}
	}
}

func TestPut(t *testing.T) {
	w := newWorld(t, nil, nil)
	id := fact.Identifier{Kind: fact.ByEmail, Value: "a@b.example"}
	at, err := w.Put(context.Background(), []*fact.Intake{
		{Kind: fact.KindChange, Tenant: "t", Who: []fact.Identifier{id}, Change: &fact.Change{}},
		{Kind: fact.KindChange, Tenant: "t", Who: []fact.Identifier{id}, Change: &fact.Change{}, Fresh: true},
	})
	p := fact.PartitionOf("t", id, 4)
	if err != nil || !reflect.DeepEqual(at, Position{{p, 1}}) {
		t.Fatal(at, err)
	}
	if all := w.all(t); len(all) != 2 || !all[1].Fresh || all[0].At != now.Truncate(time.Millisecond) {
		t.Error(all)
	}
	for _, in := range []*fact.Intake{
		{Kind: fact.KindObject, Tenant: "t", Object: &fact.Object{Type: "list", ID: "l"}},
		{Kind: fact.KindMerge, Tenant: "t", Merge: &fact.Merge{}},
	} {
		if at, err := w.Put(context.Background(), []*fact.Intake{in}); err != nil || len(at) != 1 {
			t.Error(at, err)
		}
	}
	if _, err := w.Put(context.Background(), []*fact.Intake{{Kind: fact.KindChange}}); !errors.Is(err, ErrNobody) {
		t.Error(err)
	}
}

type failing struct{ stream.Topic }

func (failing) Append(context.Context, []stream.Message) ([]int64, error) {
	return nil, stream.ErrClosed
}

func TestFailedAppend(t *testing.T) {
	w := newWorld(t, nil, nil)
	d, err := New(DefaultOptions(), Deps{Intake: failing{w.log}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Event(context.Background(), "t", []byte(event("")), ""); !errors.Is(err, stream.ErrClosed) {
		t.Error(err)
	}
	if _, report, err := d.Bulk(context.Background(), "t", []byte(job(item(1, ""))), ""); !errors.Is(err, stream.ErrClosed) || report != nil {
		t.Error(report, err)
	}
}

func TestOptionsValidate(t *testing.T) {
	for key, change := range map[string]func(*Options){
		"max_payload": func(o *Options) { o.MaxPayload = 0 }, "max_properties": func(o *Options) { o.MaxProperties = 0 },
		"max_field": func(o *Options) { o.MaxField = 0 }, "max_array": func(o *Options) { o.MaxArray = 0 },
		"max_nesting": func(o *Options) { o.MaxNesting = 1000 }, "max_events": func(o *Options) { o.MaxEvents = 0 },
		"ahead": func(o *Options) { o.Ahead = -1 }, "dimensions": func(o *Options) { o.Dimensions = []string{"a", "a"} },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
}

// pointers are those of the errors, in order.
func pointers(t testing.TB, err error) (out []string) {
	t.Helper()
	var all jsonapi.Errors
	if !errors.As(err, &all) {
		t.Fatalf("%T: %v", err, err)
	}
	for _, e := range all {
		if e.Status < 400 || e.Code == "" || e.Detail == "" {
			t.Errorf("incomplete error %+v", e)
		}
		out = append(out, e.Pointer)
	}
	return out
}

// nowhere takes records and forgets them.
type nowhere struct{ stream.Topic }

func (nowhere) Append(_ context.Context, msgs []stream.Message) ([]int64, error) {
	return make([]int64, len(msgs)), nil
}
