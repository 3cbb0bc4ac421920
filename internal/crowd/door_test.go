package crowd

import (
	"encoding/json"
	"testing"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/ingest"
)

// The door takes what is made here, as the metric that the MTA's own events count for.
func TestDoorTakesTheDocuments(t *testing.T) {
	topic, err := stream.NewMemory().Topic(t.Context(), "intake", 1)
	if err != nil {
		t.Fatal(err)
	}
	door, err := ingest.New(ingest.DefaultOptions(), ingest.Deps{Intake: topic})
	if err != nil {
		t.Fatal(err)
	}
	w := mailWorld(t)
	var events []Event
	for n := range uint64(20_000) {
		events = append(events, w.Event(n))
		if len(events) < 1000 {
			continue
		}
		if _, report, err := door.Bulk(t.Context(), "acme", AppendBulk(nil, events), ""); err != nil || report.Accepted != 1000 {
			t.Fatalf("%v %+v", err, report)
		}
		events = events[:0]
	}
	in := record(t, topic, 0)
	if e := w.Event(0); in.Event.UID != e.UID() {
		t.Errorf("%+v is not %+v", in.Event, e)
	}
	for n := uint64(0); ; n++ {
		e := w.Event(n)
		if e.Kind != Received {
			continue
		}
		in := record(t, topic, int64(n))
		if in.Event.Metric != fact.DeriveMetric("acme", Service, "Received Email") || in.Event.HasValue || !in.Event.Time.Equal(e.Time) {
			t.Errorf("%+v is not %+v", in.Event, e)
		}
		break
	}
	var doc struct {
		Data struct {
			Attributes struct {
				Profiles struct {
					Data []struct{ Attributes json.RawMessage }
				}
			}
		}
	}
	if err := json.Unmarshal(w.AppendProfiles(nil, 0, 100), &doc); err != nil {
		t.Fatal(err)
	}
	for i, p := range doc.Data.Attributes.Profiles.Data {
		who, change, errs := door.ProfileChange("acme", p.Attributes, nil, "/data")
		if errs != nil || change == nil || len(who) != 1 && !w.known(i) || len(who) != 2 && w.known(i) {
			t.Errorf("%d: %v %v", i, who, errs)
		}
	}
}

func record(t *testing.T, topic stream.Topic, offset int64) *fact.Intake {
	t.Helper()
	r, err := topic.Read(t.Context(), 0, offset)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.Next(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	in := new(fact.Intake)
	if err := in.Parse(all[0].Data); err != nil {
		t.Fatal(err)
	}
	return in
}
