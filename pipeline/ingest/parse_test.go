package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/godwit-mta/godwit/pipeline/fact"
	"pgregory.net/rapid"
)

// valid tells whether encoding/json reads all of a text. It keeps numbers as they are, and so do we.
func valid(text []byte) bool { return json.Valid(text) && utf8.Valid(text) }

// scanned tells whether the scanner does.
func scanned(text []byte) bool {
	if !utf8.Valid(text) {
		return false
	}
	s := scanner{doc: string(text)}
	s.skip()
	s.end()
	return !s.bad
}

// tree is what a scanner reads, in the form that encoding/json has for it.
func (s *scanner) tree() any {
	switch s.peek() {
	case '{':
		s.i++
		out := map[string]any{}
		for n := 0; ; n++ {
			key, ok := s.member(n)
			if !ok {
				return out
			}
			out[key] = s.tree()
		}
	case '[':
		s.i++
		out := []any{}
		for n := 0; s.element(n); n++ {
			out = append(out, s.tree())
		}
		return out
	case '"':
		return s.text()
	}
	switch raw := s.skip(); raw {
	case "true":
		return true
	case "false":
		return false
	case "null", "":
		return nil
	default:
		return json.Number(raw)
	}
}

// value draws a JSON value as text, with odd white space and escapes.
func value(depth int) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "\r "})
	text := rapid.Custom(func(t *rapid.T) string {
		piece := rapid.SampledFrom([]string{"a", "email", "$value", "ä", "😀", `\"`, `\\`, `\/`, `\n`, `\u0041`, `\ud83d\ude00`, `\ud83d`, `\udc00x`, `\u0000`, "\u2028", "~", "time"})
		return `"` + strings.Join(rapid.SliceOfN(piece, 0, 4).Draw(t, "pieces"), "") + `"`
	})
	scalar := rapid.OneOf(text, rapid.SampledFrom([]string{"null", "true", "false", "0", "-0", "1.50", "-12e3", "1E-7", "12345678901234567890.123"}))
	if depth == 0 {
		return scalar
	}
	return rapid.Custom(func(t *rapid.T) string {
		sp := func() string { return space.Draw(t, "space") }
		var b strings.Builder
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			return sp() + scalar.Draw(t, "scalar") + sp()
		case 1:
			b.WriteString(sp() + "[")
			for i := range rapid.IntRange(0, 3).Draw(t, "n") {
				if i > 0 {
					b.WriteString(",")
				}
				b.WriteString(value(depth-1).Draw(t, "v"))
			}
			if b.Len() == 1 {
				b.WriteString(sp())
			}
			b.WriteString("]" + sp())
		default:
			b.WriteString(sp() + "{")
			for i := range rapid.IntRange(0, 3).Draw(t, "n") {
				if i > 0 {
					b.WriteString(",")
				}
				b.WriteString(sp() + text.Draw(t, "k") + sp() + ":" + value(depth-1).Draw(t, "v"))
			}
			b.WriteString("}" + sp())
		}
		return b.String()
	})
}

// TestScannerReadsAsEncodingJSON compares what is read, and what is refused after random damage.
func TestScannerReadsAsEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := value(4).Draw(t, "text")
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("the generator is wrong: %v: %s", err, text)
		}
		s := scanner{doc: text}
		got := s.tree()
		s.end()
		if g, w := fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", want); s.bad || g != w {
			t.Fatalf("%s\ngot  %s\nwant %s", text, g, w)
		}
		damaged := []byte(text)
		for range rapid.IntRange(1, 3).Draw(t, "damages") {
			i := rapid.IntRange(0, len(damaged)-1).Draw(t, "at")
			damaged[i] = rapid.SampledFrom([]byte(`{}[],:"\0a.e-+ u`+"\x00\x1f\xff\t")).Draw(t, "byte")
		}
		if got, want := scanned(damaged), valid(damaged); got != want {
			t.Fatalf("%q: accepted %v, encoding/json %v", damaged, got, want)
		}
	})
}

func TestMend(t *testing.T) {
	for in, want := range map[string]string{
		`"\ud83d\ude00"`: `"\ud83d\ude00"`, `"\ud83dx"`: `"\ufffdx"`, `"\\ud83d"`: `"\\ud83d"`, `"\udE00\ud83d"`: `"\ufffd\ufffd"`,
		`"\ud83d\ud83d\ude00"`: `"\ufffd\ud83d\ude00"`, `"\uD83D`: `"\ufffd`, `"\ud8`: `"\ud8`, `\ud83d\`: `\ufffd\`,
	} {
		if got := mend(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	w := newWorld(t, nil, nil)
	if got := w.one(t, event(`"properties":{"a":"\ud83d","URL":"x\ud83d"}`), "").Event; string(got.Properties) != `{"a":"\ufffd","URL":"x\ufffd"}` || got.Dims[0].Value != "x\ufffd" {
		t.Errorf("%s %q", got.Properties, got.Dims)
	}
}

func TestAppendText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := strings.ToValidUTF8(rapid.String().Draw(t, "s"), "")
		var got string
		if err := json.Unmarshal(appendText(nil, want), &got); err != nil || got != want {
			t.Fatalf("%q: %q %v", want, got, err)
		}
	})
}

// document is an event as encoding/json reads it, for comparison.
type document struct {
	Data struct {
		Attributes struct {
			Properties json.RawMessage `json:"properties"`
			Value      *json.Number    `json:"value"`
			UID        *string         `json:"unique_id"`
			Backfill   *bool           `json:"backfill"`
			Metric     struct {
				Data struct {
					Attributes struct{ Name, Service *string }
				}
			}
		}
	}
}

// TestEventReadsAsEncodingJSON draws whole documents in any order of members.
func TestEventReadsAsEncodingJSON(t *testing.T) {
	w := newWorld(t, nil, nil)
	rapid.Check(t, func(t *rapid.T) {
		optional := func(name string, values ...string) string {
			v := rapid.SampledFrom(append(values, "", "null")).Draw(t, name)
			if v == "" {
				return ""
			}
			return `"` + name + `":` + v
		}
		object := func(members ...string) string {
			var there []string
			for _, m := range rapid.Permutation(members).Draw(t, "order") {
				if m != "" {
					there = append(there, m)
				}
			}
			return "{" + strings.Join(there, " , ") + "}"
		}
		props := "{" + strings.TrimSuffix(`"x":`+value(3).Draw(t, "p")+","+`"URL":`+value(1).Draw(t, "u"), ",") + "}"
		attributes := object(
			optional("value", "1", "-2.5", "1e2"), optional("unique_id", `"a"`, `"\u0062\/"`), optional("backfill", "true", "false"), `"properties":`+props,
			`"metric":`+object(`"data":`+object(`"attributes":`+object(`"name":"M\u00e4"`, optional("service", `"s"`)), `"type":"metric"`, `"links":{"self":[]}`)),
			profileOK)
		body := object(`"data":`+object(`"attributes":`+attributes, `"type":"event"`, `"relationships":{"a":{}}`), `"meta":[]`)
		var want document
		if err := json.Unmarshal([]byte(body), &want); err != nil {
			t.Fatal(err)
		}
		r := w.reader("acme", body)
		defer w.release(r)
		r.readSingle()
		if err := r.outcome(); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		var got fact.Intake
		if err := got.Parse(r.out); err != nil {
			t.Fatal(err)
		}
		a := want.Data.Attributes
		e := got.Event
		var p, q any
		if json.Unmarshal(e.Properties, &p) != nil || json.Unmarshal(a.Properties, &q) != nil || !reflect.DeepEqual(p, q) || e.Name != *a.Metric.Data.Attributes.Name {
			t.Fatalf("%s\n%s\n%+v", e.Properties, a.Properties, e)
		}
		if a.UID != nil && e.UID != *a.UID || e.Backfill != (a.Backfill != nil && *a.Backfill) || (a.Value != nil && !e.HasValue) {
			t.Fatalf("%+v %+v", e, a)
		}
		if s := a.Metric.Data.Attributes.Service; s != nil && e.Service != *s || s == nil && e.Service != "api" {
			t.Fatal(e.Service)
		}
	})
}

// FuzzDocuments reads anything as each kind of document: what is accepted becomes records that can be read
// again and say what they must.
func FuzzDocuments(f *testing.F) {
	for _, c := range badEvents {
		f.Add(c.body)
	}
	for _, c := range badJobs {
		f.Add(c.body)
	}
	for _, c := range badItems {
		f.Add(job(c.item))
	}
	f.Add(event(`"properties":{"$value":"1","message_id":"m1","URL":"x"},"time":"2026-01-01"`))
	f.Add(job(item(3, `,"backfill":true`)))
	f.Add(string(jobOf(3)))
	known := messages{"acme/m1": {Campaign: "c1", CampaignName: "Sale"}}
	f.Fuzz(func(t *testing.T, body string) {
		w := newWorld(t, few, known)
		_, _ = w.Event(context.Background(), "acme", []byte(body), "")
		if _, report, err := w.Bulk(context.Background(), "acme", []byte(body), "seed"); err == nil {
			refused := 0
			for _, r := range report.Refused {
				refused += r.Events
				pointers(t, r.Errors)
			}
			if report.Accepted+refused != report.Events {
				t.Fatalf("%+v", report)
			}
		} else {
			pointers(t, err)
		}
		for _, in := range w.all(t) {
			check(t, in)
		}
		if _, c, errs := w.ProfileChange("acme", []byte(body), []byte(body), "/data"); errs == nil {
			checkChange(t, c)
		}
	})
}

// check is what must hold of every record of an event.
func check(t *testing.T, in *fact.Intake) {
	t.Helper()
	e := in.Event
	if in.Kind != fact.KindEvent || in.Tenant != "acme" || in.At.IsZero() || e.Time.IsZero() || e.UID == "" || e.Name == "" || e.Service == "" ||
		e.Metric != fact.DeriveMetric(in.Tenant, e.Service, e.Name) || len(in.Who) == 0 {
		t.Fatalf("%+v %+v", in, e)
	}
	for i, id := range in.Who {
		if id.Value == "" || i > 0 && in.Who[i-1].Kind >= id.Kind {
			t.Fatalf("%+v", in.Who)
		}
	}
	if len(e.Properties) > 0 {
		object(t, e.Properties)
	}
	for _, d := range e.Dims {
		if d.Value == "" || len(d.Value) > maxDimension || !utf8.ValidString(d.Value) {
			t.Fatalf("%+v", d)
		}
	}
	if in.Change != nil {
		checkChange(t, in.Change)
	}
}

func checkChange(t *testing.T, c *fact.Change) {
	t.Helper()
	for _, part := range [][]byte{c.Attributes, c.Properties, c.Append, c.Unappend} {
		if len(part) > 0 {
			object(t, part)
		}
	}
	var names []string
	if len(c.Unset) > 0 && json.Unmarshal(c.Unset, &names) != nil {
		t.Fatalf("%s", c.Unset)
	}
}

func object(t *testing.T, text []byte) {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(text, &m); err != nil || m == nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// jobOf makes a bulk job of n events of about 600 bytes, such as shops send them.
func jobOf(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	b.WriteString(`{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"type":"event-bulk-create","attributes":{"profile":{"data":{"type":"profile","attributes":{"email":"`)
		fmt.Fprintf(&b, `customer%d@example%d.com"}}},"events":{"data":[`, r.IntN(1e6), r.IntN(100))
		single(&b, r, i)
		b.WriteString(`]}}}`)
	}
	b.WriteString(`]}}}}`)
	return b.Bytes()
}

func single(w io.Writer, r *rand.Rand, i int) {
	fmt.Fprintf(w, `{"type":"event","attributes":{"properties":{"OrderId":"%d","Categories":["Shoes","Women"],"ItemNames":["Red \"Canvas\" Sneaker"],`+
		`"URL":"https://shop.example.com/products/%d","Campaign Name":"Spring Sale","Client Type":"Browser","List":"newsletter",`+
		`"Items":[{"ProductID":"%d","SKU":"A-%d","ProductName":"Red Canvas Sneaker","Quantity":1,"ItemPrice":49.99,"RowTotal":49.99}],`+
		`"discount":false},"time":"2026-11-21T09:%02d:%02dZ","value":%d.%02d,"value_currency":"EUR","unique_id":"order-%d-%d",`+
		`"metric":{"data":{"type":"metric","attributes":{"name":"Placed Order %d"}}}}}`,
		r.IntN(1e9), r.IntN(1e5), r.IntN(1e6), r.IntN(1e6), r.IntN(30), r.IntN(60), r.IntN(500), r.IntN(100), i, r.IntN(1e9), r.IntN(1000))
}

func BenchmarkBulk(b *testing.B) {
	body := jobOf(1000)
	w := newWorld(b, nil, nil)
	d, err := New(DefaultOptions(), Deps{Intake: nowhere{w.log}})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	n := 0
	began := cpu(b)
	for b.Loop() {
		_, report, err := d.Bulk(context.Background(), "acme", body, "")
		if err != nil || report.Accepted != 1000 {
			b.Fatal(report, err)
		}
		n += 1000
	}
	b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/float64(n), "cpu-ns/event")
	b.ReportMetric(float64(len(body))/1000, "B/event")
}

// cpu is the time that the process has used, which does not depend on what else runs.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkEvent(b *testing.B) {
	body := []byte(strings.Replace(event(`"properties":{"OrderId":"1","URL":"https://shop.example.com/products/1","Items":[{"ProductID":"1","SKU":"A-1","Quantity":1,"ItemPrice":49.99}]},"value":9.99`), "Ann@Example.com", "ann@example.com", 1))
	w := newWorld(b, nil, nil)
	d, err := New(DefaultOptions(), Deps{Intake: nowhere{w.log}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Event(context.Background(), "acme", body, ""); err != nil {
			b.Fatal(err)
		}
	}
}
