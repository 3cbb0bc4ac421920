package fact

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var instant = time.Date(2026, 11, 27, 5, 0, 0, 123e6, time.UTC)

func profile(n byte) (p ProfileID) {
	for i := range p {
		p[i] = n
	}
	return p
}

func event() *Event {
	return &Event{
		Metric: DeriveMetric("acme", "api", "Placed Order"), Service: "api", Name: "Placed Order", Time: instant.Add(-time.Hour),
		UID: "o-1", Value: 19_990_000, HasValue: true, Currency: "EUR", Backfill: true,
		Dims: []Dim{{"URL", "/a"}, {"$flow", ""}}, Properties: []byte(`{"a":1}`),
	}
}

func change() *Change {
	return &Change{
		Attributes: []byte(`{"email":"jo@example.org"}`), Properties: []byte(`{"p":null}`), Append: []byte(`{"a":1}`), Unappend: []byte(`{"u":2}`), Unset: []byte(`["x"]`),
		Consent: []Consent{{Channel: "email", Subscribed: true, List: "l", At: instant, Method: "API", Source: "import", Historical: true}, {Channel: "sms"}},
		Lists:   []Membership{{"l", true}, {"m", false}}, Suppressions: []Suppression{{"HARD_BOUNCE", false}, {"USER_SUPPRESSED", true}},
	}
}

var who = []Identifier{{ByExternal, "x1"}, {ByEmail, "jo@example.org"}}

// The bytes are in logs on disks: a change of them needs another version.
func TestBytesStayTheSame(t *testing.T) {
	from := Origin{Stage: StageIdentity, Partition: 3, Offset: 300, N: 2, Generation: 1}
	merge := &Merge{ID: profile(1), Source: profile(2), Destination: profile(3)}
	for _, c := range []struct {
		name string
		rec  interface{ Append([]byte) []byte }
		want string
	}{
		{"event", &Intake{Kind: KindEvent, Tenant: "acme", At: instant, Who: who, Event: event()}, "010101" + "0461636d65" + zeros + "f8a3ffb5c368" + "02" + "01027831" + "020e6a6f406578616d706c652e6f7267" +
			"be5688834900313f" + "03" + "f8e9c7b2c368" + "e0978813" + "03617069" + "0c506c61636564204f72646572" + "036f2d31" + "03455552" + "02" + "0355524c022f61" + "0524666c6f7700" + "077b2261223a317d"},
		{"claim", &Intake{Kind: KindClaim, Tenant: "acme", At: instant, Claim: &Claim{ID: who[1], By: who[0], Profile: profile(7)}, From: from}, "010344" + "0461636d65" + zeros + "f8a3ffb5c368" + "00" + "0103ac020201" + "020e6a6f406578616d706c652e6f7267" + "01027831" + "07070707070707070707070707070707"},
		{"merge", &Intake{Kind: KindMerge, Tenant: "acme", At: instant, Merge: merge}, "010408" + "0461636d65" + zeros + "f8a3ffb5c368" + "00" +
			"01010101010101010101010101010101" + "02020202020202020202020202020202" + "03030303030303030303030303030303"},
		{"marker", &Fact{Kind: KindMarker, Tenant: "acme", Profile: profile(2), At: instant, Merge: merge, From: from}, "010648" + "0461636d65" + "02020202020202020202020202020202" + "f8a3ffb5c368" + "00" + "0103ac020201" +
			"01010101010101010101010101010101" + "02020202020202020202020202020202" + "03030303030303030303030303030303"},
		{"transfer", &Fact{Kind: KindTransfer, Tenant: "acme", Profile: profile(3), Transfer: &Transfer{Merge: *merge, Level: StageAccount, N: 1, Last: true, Data: []byte("state")}, From: from}, "010750" + "0461636d65" + "03030303030303030303030303030303" + "00" + "00" + "0103ac020201" +
			"01010101010101010101010101010101" + "02020202020202020202020202020202" + "03030303030303030303030303030303" + "0301" + "01" + "057374617465"},
		{"change", &Fact{Kind: KindChange, Tenant: "acme", Profile: profile(3), At: instant, Who: who, Change: change(), From: from}, "010242" + "0461636d65" + "03030303030303030303030303030303" + "f8a3ffb5c368" + "02" + "01027831" + "020e6a6f406578616d706c652e6f7267" + "0103ac020201" +
			"1a7b22656d61696c223a226a6f406578616d706c652e6f7267227d" + "0a7b2270223a6e756c6c7d" + "077b2261223a317d" + "077b2275223a327d" + "055b2278225d" +
			"02" + "03" + "05656d61696c" + "016c" + "f8a3ffb5c368" + "03415049" + "06696d706f7274" + "00" + "03736d73" + "00000000" +
			"02" + "016c01" + "016d00" + "02" + "0b484152445f424f554e434500" + "0f555345525f5355505052455353454401"},
		{"object", &Intake{Kind: KindObject, Tenant: "acme", At: instant, Object: &Object{Type: "list", ID: "l1", Data: []byte("{}")}}, "010820" + "0461636d65" + zeros + "f8a3ffb5c368" + "00" + "046c697374" + "026c31" + "01" + "027b7d"},
	} {
		if got := hex.EncodeToString(c.rec.Append(nil)); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

const zeros = "00000000000000000000000000000000"

func TestIDsStayTheSame(t *testing.T) {
	jo := Identifier{ByEmail, "jo@example.org"}
	first := DeriveProfile("acme", jo, ProfileID{})
	for _, c := range []struct{ name, got, want string }{
		{"profile", first.String(), "kwast7hpfaexmn6n6jjepybhcr"},
		{"profile of another tenant", DeriveProfile("acm", jo, ProfileID{}).String(), "d1re8zyzvt43ny5dfjyd3sxte4"},
		{"profile by phone", DeriveProfile("acme", Identifier{ByPhone, "+12125550123"}, ProfileID{}).String(), "0tk8mwdzdds0zh4cpgfe8zq8dr"},
		{"who came back", DeriveProfile("acme", jo, first).String(), "84kg1y8r3326ek9f4e4yvxdtmc"},
		{"metric", DeriveMetric("acme", "api", "Placed Order").String(), "qsb8h0t900rky"},
		{"metric, parts cut elsewhere", DeriveMetric("acme", "ap", "iPlaced Order").String(), "r63hq7aj1mrpj"},
		{"tenant", MetricID(TenantIDOf("acme")).String(), "fna61ptbpgbwc"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if p, err := ParseProfileID(first.String()); err != nil || p != first {
		t.Errorf("profile id read back: %v %v", p, err)
	}
	m := DeriveMetric("acme", "api", "Placed Order")
	if got, err := ParseMetricID(m.String()); err != nil || got != m {
		t.Errorf("metric id read back: %v %v", got, err)
	}
	for _, bad := range []string{"", "x", first.String() + "0", first.String()[1:], "u" + first.String()[1:]} {
		if _, err := ParseProfileID(bad); err == nil {
			t.Errorf("%q was taken for a profile id", bad)
		}
	}
}

func TestPartitionsStayTheSame(t *testing.T) {
	for _, p := range []int32{1, 4, 64} {
		got := []int32{PartitionOf("acme", who[1], p), profile(9).Partition(p), Home("acme", p), ObjectPartition("acme", "l1", p)}
		want := map[int32][]int32{1: {0, 0, 0, 0}, 4: {0, 1, 0, 1}, 64: {28, 9, 12, 1}}[p]
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d partitions: got %v, want %v", p, got, want)
		}
	}
}

func times() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return time.UnixMilli(rapid.Int64Range(-1<<40, 1<<42).Draw(t, "ms")).UTC()
	})
}

func identifiers() *rapid.Generator[Identifier] {
	return rapid.Custom(func(t *rapid.T) Identifier {
		return Identifier{IdentifierKind(rapid.IntRange(0, 4).Draw(t, "kind")), rapid.String().Draw(t, "value")}
	})
}

// some is a value or nil.
func some[T any](t *rapid.T, name string) *T {
	if rapid.Bool().Draw(t, name) {
		return nil
	}
	v := rapid.MakeCustom[T](rapid.MakeConfig{Types: map[reflect.Type]*rapid.Generator[any]{
		reflect.TypeFor[time.Time]():      times().AsAny(),
		reflect.TypeFor[IdentifierKind](): rapid.Map(rapid.IntRange(0, 4), func(k int) IdentifierKind { return IdentifierKind(k) }).AsAny(),
		reflect.TypeFor[[]byte](): rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) []byte {
			if len(b) == 0 {
				return nil
			}
			return b
		}).AsAny(),
	}}).Draw(t, name)
	return &v
}

func origins(t *rapid.T) (o Origin) {
	if rapid.Bool().Draw(t, "origin") {
		o = Origin{Stage(rapid.IntRange(0, 3).Draw(t, "stage")), rapid.Int32Range(0, 1<<20).Draw(t, "partition"), rapid.Int64Range(0, 1<<62).Draw(t, "offset"),
			rapid.Int32Range(1, 1<<30).Draw(t, "n"), rapid.Int64Range(0, 1<<40).Draw(t, "generation")}
	}
	return o
}

func TestIntakeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Intake{Kind: Kind(rapid.IntRange(1, 8).Draw(t, "kind")), Tenant: rapid.String().Draw(t, "tenant"), At: times().Draw(t, "at"),
			Fresh: rapid.Bool().Draw(t, "fresh"), From: origins(t), Event: some[Event](t, "event"), Change: some[Change](t, "change"),
			Claim: some[Claim](t, "claim"), Merge: some[Merge](t, "merge"), Object: some[Object](t, "object")}
		if ids := rapid.SliceOf(identifiers()).Draw(t, "who"); len(ids) > 0 {
			in.Who = ids
		}
		var out Intake
		if err := out.Parse(in.Append([]byte("before"))[6:]); err != nil {
			t.Fatal(err)
		}
		if !same(in, out) {
			t.Fatalf("in  %+v\nout %+v", in, out)
		}
	})
}

func TestFactRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Fact{Kind: Kind(rapid.IntRange(1, 8).Draw(t, "kind")), Tenant: rapid.String().Draw(t, "tenant"), At: times().Draw(t, "at"),
			Profile: profile(rapid.Byte().Draw(t, "profile")), From: origins(t), Event: some[Event](t, "event"), Change: some[Change](t, "change"),
			Merge: some[Merge](t, "merge"), Transfer: some[Transfer](t, "transfer"), Object: some[Object](t, "object")}
		var out Fact
		if err := out.Parse(in.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if !same(in, out) {
			t.Fatalf("in  %+v\nout %+v", in, out)
		}
	})
}

// same compares what two records say: an empty list is none.
func same(a, b any) bool {
	return reflect.DeepEqual(normal(reflect.ValueOf(a)), normal(reflect.ValueOf(b)))
}

// normal turns a value into one without empty slices.
func normal(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return normal(v.Elem())
	case reflect.Slice:
		out := make([]any, 0, v.Len())
		for i := range v.Len() {
			out = append(out, normal(v.Index(i)))
		}
		return out
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			return t
		}
		out := map[string]any{}
		for i := range v.NumField() {
			out[v.Type().Field(i).Name] = normal(v.Field(i))
		}
		return out
	}
	return v.Interface()
}

func TestEmptyDocumentIsNotDeletion(t *testing.T) {
	for _, data := range [][]byte{nil, {}} {
		var out Intake
		if err := out.Parse((&Intake{Kind: KindObject, Object: &Object{Data: data}}).Append(nil)); err != nil || (out.Object.Data == nil) != (data == nil) {
			t.Errorf("%#v becomes %#v, %v", data, out.Object.Data, err)
		}
	}
}

func TestEpochIsNotZero(t *testing.T) {
	for _, at := range []time.Time{time.Unix(0, 0).UTC(), time.UnixMilli(-1).UTC(), time.UnixMilli(1).UTC(), {}} {
		var out Intake
		if err := out.Parse((&Intake{Kind: KindEvent, At: at}).Append(nil)); err != nil || !out.At.Equal(at) {
			t.Errorf("%v becomes %v, %v", at, out.At, err)
		}
	}
}

func TestStringsOutliveTheData(t *testing.T) {
	for _, size := range []int{10, 2 * maxShared} {
		in := Intake{Kind: KindEvent, Tenant: "acme", Who: who, Event: event()}
		in.Event.Properties = bytes.Repeat([]byte{'x'}, size)
		data := in.Append(nil)
		var out Intake
		if err := out.Parse(data); err != nil {
			t.Fatal(err)
		}
		clear(data)
		if out.Tenant != "acme" || out.Event.Name != "Placed Order" || out.Who[1].Value != "jo@example.org" || out.Event.Dims[0].Value != "/a" {
			t.Errorf("size %d: %+v", size, out)
		}
	}
}

// What the short way makes is what the long way makes.
func TestRawMakesTheSameFact(t *testing.T) {
	from := Origin{Stage: StageIdentity, Partition: 1, Offset: 1 << 40, N: 1, Generation: 9}
	var raw Raw
	for _, in := range []Intake{
		{Kind: KindEvent, Tenant: "acme", At: instant, Who: who, Event: event(), Change: change()},
		{Kind: KindChange, Tenant: "acme", At: instant, Who: who[1:], Fresh: true, Change: change()},
		{Kind: KindObject, Tenant: "acme", Object: &Object{Type: "list", ID: "l1"}},
		{Kind: KindEvent, Who: who, Event: event(), From: Origin{Stage: StageCustomer, Partition: 2, Offset: 8, N: 3, Generation: 1}},
	} {
		want := Fact{Kind: in.Kind, Tenant: in.Tenant, Profile: profile(5), At: in.At, Who: in.Who, Event: in.Event, Change: in.Change, Object: in.Object, From: from}
		data := in.Append(nil)
		if err := raw.Parse(data); err != nil {
			t.Fatal(err)
		}
		got := raw.AppendFact(nil, profile(5), from)
		if !bytes.Equal(got, want.Append(nil)) || len(got) > raw.FactLen() {
			t.Errorf("got  %x\nwant %x", got, want.Append(nil))
		}
		if raw.Fresh != in.Fresh || raw.From != in.From || string(raw.Tenant) != in.Tenant || len(raw.Who) != len(in.Who) || len(in.Who) > 0 && raw.Who[0].Copy() != in.Who[0] {
			t.Errorf("head %+v of %+v", raw, in)
		}
	}
}

func TestFewAllocations(t *testing.T) {
	in := Intake{Kind: KindEvent, Tenant: "acme", At: instant, Who: who, Event: event()}
	data, buf := in.Append(nil), make([]byte, 0, 1024)
	var out Intake
	var raw Raw
	for _, c := range []struct {
		name string
		most float64
		f    func()
	}{
		{"append", 0, func() { buf = in.Append(buf[:0]) }},
		{"parse", 4, func() { _ = out.Parse(data) }},
		{"raw", 0, func() { _ = raw.Parse(data); buf = raw.AppendFact(buf[:0], profile(1), in.From) }},
		{"partition", 0, func() { _ = PartitionOf("acme", who[0], 4) }},
	} {
		c.f()
		if n := testing.AllocsPerRun(100, c.f); n > c.most {
			t.Errorf("%s: %v allocations, at most %v are meant", c.name, n, c.most)
		}
	}
}

func FuzzIntake(f *testing.F) {
	f.Add((&Intake{Kind: KindEvent, Tenant: "acme", At: instant, Who: who, Event: event(), Change: change()}).Append(nil))
	f.Add((&Intake{Kind: KindClaim, Claim: &Claim{ID: who[1], By: who[0]}, From: Origin{N: 1}}).Append(nil))
	f.Add((&Intake{Kind: KindObject, Object: &Object{Type: "list", Data: []byte("{}")}}).Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in, again Intake
		var raw Raw
		if err := in.Parse(data); err != nil {
			_ = raw.Parse(data)
			return
		}
		if err := again.Parse(in.Append(nil)); err != nil || !same(in, again) {
			t.Fatalf("%+v\nbecomes %+v, %v", in, again, err)
		}
		if err := raw.Parse(data); err != nil {
			return // an event with a claim in it
		}
		var out Fact
		if !raw.passes() {
			return
		}
		if err := out.Parse(raw.AppendFact(nil, profile(1), Origin{N: 1})); err != nil {
			t.Fatalf("the fact of %+v cannot be read: %v", in, err)
		}
		if !same(out.Event, in.Event) || !same(out.Change, in.Change) || !same(out.Object, in.Object) || !same(out.Who, in.Who) || !out.At.Equal(in.At) {
			t.Fatalf("%+v\nbecomes %+v", in, out)
		}
	})
}

func FuzzFact(f *testing.F) {
	f.Add((&Fact{Kind: KindEvent, Tenant: "acme", At: instant, Who: who, Event: event(), From: Origin{N: 1}}).Append(nil))
	f.Add((&Fact{Kind: KindTransfer, Transfer: &Transfer{Data: []byte("x"), Last: true}}).Append(nil))
	f.Add((&Fact{Kind: KindMarker, Merge: &Merge{}}).Append(nil))
	used := (&Fact{Kind: KindEvent, Tenant: "acme", At: instant, Who: who, Event: event(), Change: &Change{Lists: []Membership{{List: "a"}}}, From: Origin{N: 1}}).Append(nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		var in, again, second Fact
		var room Room
		if err := second.ParseInto(used, &room); err != nil {
			t.Fatal(err)
		}
		failed, into := in.Parse(data), second.ParseInto(data, &room)
		if (failed == nil) != (into == nil) || failed == nil && !bytes.Equal(in.Append(nil), second.Append(nil)) {
			t.Fatalf("%+v, in a used room %+v: %v, %v", in, second, failed, into)
		}
		if failed != nil {
			return
		}
		if err := again.Parse(in.Append(nil)); err != nil || !same(in, again) {
			t.Fatalf("%+v\nbecomes %+v, %v", in, again, err)
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	in := Intake{Kind: KindEvent, Tenant: "acme", At: instant, Who: who, Event: event()}
	data, buf := in.Append(nil), make([]byte, 0, 1024)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = in.Append(buf[:0])
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		var out Intake
		for b.Loop() {
			_ = out.Parse(data)
		}
	})
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		var raw Raw
		for b.Loop() {
			_ = raw.Parse(data)
			buf = raw.AppendFact(buf[:0], profile(1), in.From)
		}
	})
}
