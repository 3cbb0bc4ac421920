package account

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/pipeline/fact"
)

// randomFact makes an event, with parts that are there or not.
func randomFact(r *rand.Rand) *fact.Fact {
	moment := func() time.Time {
		return []time.Time{{}, time.Unix(0, 0), time.UnixMilli(-1), time.UnixMilli(-1500), time.UnixMilli(r.Int64N(2e12)), time.UnixMilli(1)}[r.IntN(6)].UTC()
	}
	e := &fact.Event{Metric: fact.MetricID(r.Uint64()), Service: "api", Name: fmt.Sprint("Metric ", r.IntN(1000)), Time: moment(), UID: fmt.Sprint(r.Int()),
		Value: r.Int64() >> r.IntN(64), HasValue: r.IntN(2) == 0, Currency: "EUR", Backfill: r.IntN(2) == 0}
	for i := range r.IntN(4) {
		e.Dims = append(e.Dims, fact.Dim{Name: fmt.Sprint("Dim ", i), Value: string(bytes.Repeat([]byte{'x'}, r.IntN(200)))})
	}
	if r.IntN(2) == 0 {
		e.Properties = bytes.Repeat([]byte("{}"), 1+r.IntN(2000))
	}
	f := &fact.Fact{Kind: fact.KindEvent, Tenant: "acme", At: moment(), Event: e}
	for i := range f.Profile {
		f.Profile[i] = byte(r.Uint32())
	}
	for i := range r.IntN(4) {
		f.Who = append(f.Who, fact.Identifier{Kind: fact.IdentifierKind(i), Value: fmt.Sprint(r.Int())})
	}
	if r.IntN(4) > 0 {
		f.From = fact.Origin{Stage: fact.StageIdentity, Partition: r.Int32N(9), Offset: r.Int64(), N: 1 + r.Int32N(9), Generation: r.Int64()}
	}
	if r.IntN(3) == 0 {
		f.Change = &fact.Change{Attributes: []byte("{}")}
	}
	return f
}

// says reports whether a view has what a fact has.
func (v *view) says(f *fact.Fact) bool {
	e := f.Event
	same := string(v.tenant) == f.Tenant && v.profile == f.Profile && v.at == f.At.UnixMilli() && v.from == f.From && v.metric == e.Metric &&
		string(v.service) == e.Service && string(v.name) == e.Name && v.time == e.Time.Unix() && v.value == e.Value && string(v.uid) == e.UID && len(v.dims) == len(e.Dims)
	for i := range v.dims {
		same = same && string(v.dims[i].name) == e.Dims[i].Name && string(v.dims[i].value) == e.Dims[i].Value
	}
	return same
}

func TestViewHasWhatTheFactHas(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	var v view
	for range 3000 {
		f := randomFact(r)
		data := f.Append(nil)
		if is, err := v.parseEvent(data); err != nil || !is || !v.says(f) {
			t.Fatalf("%+v %+v read as %+v: %v %v", f, f.Event, v, is, err)
		}
		end := len(data) - len(f.Event.Properties)
		for range 20 {
			cut := data[:r.IntN(min(end, 40))]
			if _, err := v.parseEvent(cut); !errors.Is(err, fact.ErrFormat) {
				t.Fatalf("%x: %v", cut, err)
			}
		}
	}
}

func TestViewIsOfEventsOnly(t *testing.T) {
	var v view
	for _, f := range []fact.Fact{{Kind: fact.KindChange, Change: &fact.Change{}}, {Kind: fact.KindMarker, Merge: &fact.Merge{}}, {Kind: fact.KindEvent}} {
		if is, err := v.parseEvent(f.Append(nil)); is || err != nil {
			t.Errorf("%+v: %v %v", f, is, err)
		}
	}
	if _, err := v.parseEvent([]byte{2, 1, 1}); !errors.Is(err, fact.ErrFormat) {
		t.Error("another version is read:", err)
	}
}

// FuzzView holds the short way of reading against the long one.
func FuzzView(f *testing.F) {
	r := rand.New(rand.NewPCG(13, 14))
	for range 5 {
		f.Add(randomFact(r).Append(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v view
		is, err := v.parseEvent(data)
		var all fact.Fact
		if all.Parse(data) != nil {
			return
		}
		if err != nil || is != (all.Kind == fact.KindEvent && all.Event != nil) || is && !v.says(&all) {
			t.Fatalf("%+v read as %+v: %v %v", all, v, is, err)
		}
	})
}
