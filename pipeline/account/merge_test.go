package account

import (
	"fmt"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// pair makes a world in which two people of one tenant, in different partitions, have some events in common, committed or not.
func pair(t *testing.T, events int, commit bool) (w *world, a, b fact.ProfileID) {
	w = newWorld(t, 1)
	one := func(p fact.ProfileID, i int) {
		e := &fact.Event{Metric: fact.DeriveMetric("utc", "api", "Metric 0"), Service: "api", Name: "Metric 0", UID: fmt.Sprint(i),
			Time: morning.Add(time.Duration(i) * time.Hour), Value: int64(i), HasValue: true, Dims: []fact.Dim{{Name: "Color", Value: fmt.Sprint("Color", i%2)}}}
		w.events = append(w.events, happening{"utc", e.Metric, p, e})
		w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: "utc", Profile: p, Event: e})
	}
	a = w.people[steady]
	for _, p := range w.people[steady+1:] {
		if b = p; w.tenant[p] == "utc" && p.Partition(partitions) != a.Partition(partitions) {
			break
		}
	}
	for i := range events {
		one(a, 3*i)
		one(b, 2*i)
	}
	w.drain()
	if commit {
		for _, p := range w.parts {
			w.commit(p)
		}
	}
	return w, a, b
}

func (w *world) merge(source, destination fact.ProfileID) {
	m := fact.Merge{Source: source, Destination: destination}
	copy(m.ID[:], fmt.Sprintf("merge %d", len(w.merges)))
	w.merges, w.to[source] = append(w.merges, m), destination
	for q := range w.told {
		w.tell(q)
	}
}

func (w *world) drainOne(p fact.ProfileID) {
	for w.step(w.parts[p.Partition(partitions)], 100) > 0 {
		continue
	}
}

func TestEventsFollowAProfileThatMovedOn(t *testing.T) {
	for _, commit := range []bool{false, true} {
		w, a, b := pair(t, 20, commit)
		var c fact.ProfileID
		for _, p := range w.people {
			if c = p; w.tenant[p] == "utc" && p != a && p != b {
				break
			}
		}
		w.merge(a, b)
		w.merge(b, c)
		w.drainOne(b) // leaves before the other's events come
		w.settle()
		w.checkAll(fmt.Sprint("committed ", commit))
	}
}

func TestEventsThatComeToADeletedProfileCountOnce(t *testing.T) {
	for i := range 4 {
		before, after := i%2 == 0, i/2 == 0
		w, a, b := pair(t, 20, before)
		w.merge(a, b)
		w.merge(b, fact.ProfileID{})
		w.drainOne(b)
		if after {
			w.commit(w.parts[b.Partition(partitions)])
			w.crash(w.parts[b.Partition(partitions)], true)
		}
		w.settle()
		w.checkAll(fmt.Sprint("committed before ", before, ", after ", after))
		for _, p := range w.parts {
			w.commit(p)
			err := p.store.Scan([]byte{prefixEvent}, nil, func(_, v []byte) bool {
				if len(v) > 0 {
					t.Error("an event of a deleted profile keeps what it was")
				}
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestProfilesThatLeftBeforeTheyWereKnownCountWhatComes(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		w, a, b := pair(t, 5, true)
		var none []fact.ProfileID
		for _, p := range w.people {
			if w.tenant[p] == "utc" && p != a && p != b {
				none = append(none, p)
			}
		}
		w.merge(none[0], fact.ProfileID{})
		w.merge(none[1], fact.ProfileID{})
		w.merge(none[2], none[3])
		w.drain()
		if forgotten {
			for _, p := range w.parts {
				for range 3 {
					w.commit(p)
					for i := range 20 {
						p.proc.profiles.put(fact.ProfileID{byte(i)}, profile{dense: 1 << 30})
					}
					p.proc.turn()
					p.proc.flushed = true
				}
			}
		}
		// a and b and one of the others have events of the same hours, which all become somebody else's.
		for i, p := range []fact.ProfileID{a, b, none[4], none[3]} {
			e := *w.events[0].e
			e.UID = fmt.Sprint("same hour ", i)
			w.events = append(w.events, happening{"utc", e.Metric, p, &e})
			w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: "utc", Profile: p, Event: &e})
			if i < 3 {
				w.merge(p, none[i])
			}
		}
		w.settle()
		w.checkAll(fmt.Sprint("forgotten ", forgotten))
	}
}

func TestManyEventsLeaveInParcels(t *testing.T) {
	w, a, b := pair(t, 9000, true)
	w.merge(a, b)
	w.settle()
	w.checkAll("merged")
	parcels := 0
	for p := range w.parts {
		if end, err := w.facts.End(t.Context(), int32(p)); err != nil || end == 0 {
			continue
		}
		r, err := w.facts.Read(t.Context(), int32(p), 0)
		if err != nil {
			t.Fatal(err)
		}
		recs, err := r.Next(t.Context(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			var f fact.Fact
			if err := f.Parse(rec.Data); err != nil {
				t.Fatal(err)
			}
			if f.Kind == fact.KindTransfer {
				parcels++
				if len(rec.Data) > 256<<10 {
					t.Errorf("%d bytes", len(rec.Data))
				}
			}
		}
	}
	if parcels < 2 {
		t.Errorf("%d parcels", parcels)
	}
}

// TestALateEventOfAMergedProfileFollows sends what should not come.
func TestALateEventOfAMergedProfileFollows(t *testing.T) {
	w, a, b := pair(t, 5, true)
	w.merge(a, b)
	w.drain()
	e := *w.events[0].e
	e.UID = "late"
	w.events = append(w.events, happening{"utc", e.Metric, a, &e})
	w.send(0, &fact.Fact{Kind: fact.KindEvent, Tenant: "utc", Profile: a, Event: &e})
	w.drain()
	w.checkAll("late")
}

func TestAMarkerOfAnUnknownPartitionIsAnError(t *testing.T) {
	w := newWorld(t, 1)
	f := &fact.Fact{Kind: fact.KindMarker, Tenant: "utc", Profile: w.people[0], Merge: &fact.Merge{Source: w.people[0]},
		From: fact.Origin{Stage: fact.StageIdentity, Partition: partitions, Offset: 1, N: 1}}
	p := w.parts[0]
	if err := p.proc.Apply(p.tx, []stream.Record{{Data: f.Append(nil)}}); err == nil {
		t.Error("is taken")
	}
}
