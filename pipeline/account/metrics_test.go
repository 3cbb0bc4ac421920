package account

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// read is what a counter has.
func read(t testing.TB, c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestMetricsSayWhatWasDone(t *testing.T) {
	w, a, b := pair(t, 6, true) // uids 0, 3, … 15 and 0, 2, … 10: of them 0 and 6 are of both
	p := w.parts[b.Partition(partitions)].proc
	w.merge(a, b)
	w.settle()
	e := w.events[1]
	w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: e.tenant, Profile: b, Event: e.e})
	w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: e.tenant, Profile: a, Event: e.e})
	w.settle()
	source := w.parts[a.Partition(partitions)].proc
	for name, c := range map[string]struct {
		counter prometheus.Counter
		want    float64
	}{
		"events": {p.m.events, 6}, "repeated": {p.m.repeated, 1}, "moved": {p.m.moved, 7}, "conflicts": {p.m.conflicts, 3},
		"merges": {source.m.merges, 1}, "stray": {source.m.stray, 1}, "events of the source": {source.m.events, 6},
	} {
		if got := read(t, c.counter); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if read(t, p.m.rows) == 0 || read(t, p.m.bytes) == 0 {
		t.Error("no rows were written")
	}
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	facts, err := stream.NewMemory().Topic(t.Context(), "facts", 1)
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	d := Deps{Facts: facts, Partitions: 1, Registerer: r}
	if _, err := NewProcessor(DefaultOptions(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := NewProcessor(DefaultOptions(), d); err == nil {
		t.Error("a second stage registers the same metrics")
	}
	if all, err := r.Gather(); err != nil || len(all) == 0 {
		t.Errorf("%d metrics, %v", len(all), err)
	}
}
