package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// archive has events under "tenant identifier uid".
type archive struct {
	has   map[string]bool
	fails map[string]bool
	stuck bool
	slow  time.Duration

	mu    sync.Mutex
	asked []string
}

func (a *archive) Seen(ctx context.Context, tenant string, strongest fact.Identifier, metric fact.MetricID, uid string) (bool, error) {
	key := fmt.Sprint(tenant, " ", strongest.Value, " ", uid)
	a.mu.Lock()
	a.asked = append(a.asked, key)
	a.mu.Unlock()
	if a.stuck {
		<-ctx.Done()
		return false, ctx.Err()
	}
	time.Sleep(a.slow)
	if metric != fact.DeriveMetric(tenant, "api", "Placed Order") {
		return false, errors.New("another metric")
	}
	if a.fails[key] {
		return false, errors.New("it is not here")
	}
	return a.has[key], nil
}

const archiveAfter = 100 * 24 * time.Hour

func archiveWorld(t *testing.T, a Archive) (world, *prometheus.Registry) {
	t.Helper()
	topic, err := stream.NewMemory().Topic(context.Background(), "intake", 4)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	d, err := New(DefaultOptions(), Deps{Intake: topic, Now: func() time.Time { return now }, Archive: a, ArchiveAfter: archiveAfter, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	return world{d, topic}, reg
}

// answers checks how often the archive gave each answer, as monitoring is told.
func answers(t *testing.T, reg *prometheus.Registry, fresh, repeated, none float64) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range all {
		if family.GetName() != "godwit_ingest_archive_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if got["new"] != fresh || got["repeated"] != repeated || got["none"] != none {
		t.Errorf("%v, not %v new, %v repeated, %v none", got, fresh, repeated, none)
	}
}

// at makes the attributes of an event of so long ago.
func at(ago time.Duration, uid string) string {
	return fmt.Sprintf(`"time":%q,"unique_id":%q`, now.Add(-ago).Format(time.RFC3339Nano), uid)
}

// itemOf makes one of a bulk job.
func itemOf(profile string, events ...string) string {
	for i, e := range events {
		events[i] = `{"type":"event","attributes":{` + e + `,"metric":{"data":{"type":"metric","attributes":{"name":"Placed Order"}}}}}`
	}
	return `{"type":"event-bulk-create","attributes":{"profile":{"data":{"type":"profile","attributes":{` + profile + `}}},"events":{"data":[` + strings.Join(events, ",") + `]}}}`
}

// What is in the log as kind, first identifier and unique id or change, sorted.
func (w world) brief(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, in := range w.all(t) {
		what := fmt.Sprint("kind ", in.Kind)
		switch {
		case in.Event != nil:
			what = in.Event.UID
		case in.Kind == fact.KindChange:
			what = "change " + string(in.Change.Attributes)
		}
		out = append(out, fmt.Sprint(in.Who[0].Value, " ", what, " ", len(in.Who)))
	}
	slices.Sort(out)
	return out
}

func TestArchiveIsAskedOnlyOfLongAgo(t *testing.T) {
	a := &archive{has: map[string]bool{"acme ann@example.com young": true, "acme ann@example.com twice": true}}
	w, reg := archiveWorld(t, a)
	for _, c := range []struct {
		ago  time.Duration
		uid  string
		none bool
	}{{0, "now", false}, {archiveAfter - time.Second, "young", false}, {archiveAfter + time.Second, "new", false}, {10 * archiveAfter, "twice", true}} {
		at, err := w.Event(t.Context(), "acme", []byte(event(at(c.ago, c.uid))), "")
		if err != nil || (len(at) == 0) != c.none {
			t.Errorf("%s: %v %v", c.uid, at, err)
		}
	}
	if got := fmt.Sprint(a.asked); got != "[acme ann@example.com new acme ann@example.com twice]" {
		t.Error(got)
	}
	if got := fmt.Sprint(w.brief(t)); got != "[ann@example.com new 1 ann@example.com now 1 ann@example.com young 1]" {
		t.Error(got)
	}
	answers(t, reg, 1, 1, 0)
}

// Repeated events of a job leave what they say of their profile; those around them stay as they are.
func TestArchiveInAJob(t *testing.T) {
	a := &archive{has: map[string]bool{"acme x1 one": true, "acme bob@example.com three": true, "acme cy@example.com five": true, "acme cy@example.com six": true}}
	w, reg := archiveWorld(t, a)
	long := 2 * archiveAfter
	backwards := itemOf(`"email":"cy@example.com"`, at(long, "five"), at(long, "six"), at(0, "seven"))
	before, events, _ := strings.Cut(backwards, `"events":`)
	profile := strings.TrimSuffix(strings.TrimPrefix(before, `{"type":"event-bulk-create","attributes":{`), ",")
	backwards = `{"type":"event-bulk-create","attributes":{"events":` + strings.TrimSuffix(events, "}}") + "," + profile + `}}`
	_, report, err := w.Bulk(t.Context(), "acme", []byte(job(
		itemOf(`"email":"ann@example.com","external_id":"x1"`, at(long, "one"), at(long, "two")),
		itemOf(`"email":"bob@example.com","first_name":"Bob"`, at(long, "three"), at(time.Hour, "four")),
		backwards,
	)), "")
	if err != nil || report.Events != 7 || report.Accepted != 7 || len(report.Refused) > 0 {
		t.Fatalf("%v %+v", err, report)
	}
	want := []string{
		`bob@example.com change {"email":"bob@example.com","first_name":"Bob"} 1`, "bob@example.com four 1",
		"cy@example.com seven 1",
		"x1 change  2", "x1 two 2",
	}
	if got := w.brief(t); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	answers(t, reg, 1, 4, 0)
}

// An item whose profile comes twice is read twice; its events are asked about once.
func TestArchiveForgetsWhatIsTakenBack(t *testing.T) {
	a := &archive{has: map[string]bool{"acme bob@example.com one": true}}
	w, reg := archiveWorld(t, a)
	twice := strings.TrimSuffix(itemOf(`"email":"ann@example.com"`, at(2*archiveAfter, "one"), at(0, "two")), "}}") +
		`,"profile":{"data":{"type":"profile","attributes":{"email":"bob@example.com"}}}}}`
	if _, report, err := w.Bulk(t.Context(), "acme", []byte(job(twice)), ""); err != nil || report.Accepted != 2 {
		t.Fatalf("%v %+v", err, report)
	}
	if got := fmt.Sprint(w.brief(t), a.asked); got != "[bob@example.com two 1] [acme bob@example.com one]" {
		t.Error(got)
	}
	answers(t, reg, 0, 1, 0)
}

func TestArchiveOfRecords(t *testing.T) {
	a := &archive{has: map[string]bool{"acme ann@example.com one": true}}
	w, _ := archiveWorld(t, a)
	var all []*fact.Intake
	for _, uid := range []string{"one", "two"} {
		all = append(all, &fact.Intake{Kind: fact.KindEvent, Tenant: "acme", Who: []fact.Identifier{{Kind: fact.ByEmail, Value: "ann@example.com"}},
			Event: &fact.Event{Service: "api", Name: "Placed Order", Metric: fact.DeriveMetric("acme", "api", "Placed Order"), Time: now.Add(-2 * archiveAfter), UID: uid}})
	}
	all = append(all, &fact.Intake{Kind: fact.KindChange, Tenant: "acme", Who: all[0].Who, Change: &fact.Change{Attributes: []byte("{}")}})
	if _, err := w.Put(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.brief(t)); got != "[ann@example.com change {} 1 ann@example.com two 1]" {
		t.Error(got)
	}
}

// An archive that fails, or does not answer in time, shuts the door to nobody.
func TestArchiveThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archive{has: map[string]bool{"acme ann@example.com two": true}, fails: map[string]bool{"acme ann@example.com one": true}}
		w, reg := archiveWorld(t, a)
		doc := []byte(job(itemOf(`"email":"ann@example.com"`, at(2*archiveAfter, "one"), at(2*archiveAfter, "two"), at(2*archiveAfter, "three"))))
		if _, report, err := w.Bulk(t.Context(), "acme", doc, ""); err != nil || report.Accepted != 3 {
			t.Fatalf("%v %+v", err, report)
		}
		if got := fmt.Sprint(w.brief(t)); got != "[ann@example.com one 1 ann@example.com three 1]" {
			t.Error(got)
		}
		answers(t, reg, 1, 1, 1)

		stuck := &archive{stuck: true}
		w, reg = archiveWorld(t, stuck)
		began := time.Now()
		if _, report, err := w.Bulk(t.Context(), "acme", doc, ""); err != nil || report.Accepted != 3 {
			t.Fatalf("%v %+v", err, report)
		}
		if took := time.Since(began); took != archivePatience || len(stuck.asked) != 1 {
			t.Errorf("%v, asked %q", took, stuck.asked)
		}
		if len(w.all(t)) != 3 {
			t.Error("not all were taken")
		}
		answers(t, reg, 0, 0, 3)

		var many []string
		for i := range 20 {
			many = append(many, at(2*archiveAfter, fmt.Sprint(i)))
		}
		w, reg = archiveWorld(t, &archive{slow: archivePatience - time.Millisecond})
		began = time.Now()
		if _, report, err := w.Bulk(t.Context(), "acme", []byte(job(itemOf(`"email":"ann@example.com"`, many...))), ""); err != nil || report.Accepted != 20 {
			t.Fatalf("%v %+v", err, report)
		}
		if took := time.Since(began); took > archiveTotal+archivePatience {
			t.Errorf("it took %v", took)
		}
		answers(t, reg, 11, 0, 9)
	})
}
