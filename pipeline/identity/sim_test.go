package identity

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// A run of the simulation: events, merges and deletions come in while partitions go on in any order and crash.
type run struct {
	*world
	ops, crashes int
	star         bool // identifiers only come with the person's strongest one
	deletions    bool
	merges       bool
	n            int
	profiles     []fact.ProfileID // that somebody may name
}

func (r *run) play() {
	for range r.ops {
		switch p := r.parts[r.r.IntN(len(r.parts))]; r.r.IntN(8) {
		case 0, 1, 2:
			r.input()
		case 3:
			if len(p.pending) == 0 {
				p.commit()
			}
		case 4:
			if r.r.IntN(100) < r.crashes {
				p.crash()
			}
		default:
			p.step(1 + r.r.IntN(6))
		}
	}
	r.settle()
}

func (r *run) input() {
	r.n++
	tenant := []string{"acme", "bravo"}[r.r.IntN(2)]
	in := fact.Intake{Kind: fact.KindEvent, Tenant: tenant, Event: &fact.Event{UID: strconv.Itoa(r.n)}, Fresh: r.r.IntN(10) == 0}
	switch k := r.r.IntN(20); {
	case k == 0 && r.merges:
		in.Kind, in.Event, in.Merge, in.Fresh = fact.KindMerge, nil, &fact.Merge{Source: r.profile(), Destination: r.profile()}, false
	case k == 1 && r.deletions:
		in.Kind, in.Event, in.Merge, in.Fresh = fact.KindMerge, nil, &fact.Merge{Source: r.profile()}, false
	case r.star:
		person := strconv.Itoa(r.r.IntN(6))
		in.Who = ids([][]string{{"x" + person}, {"x" + person, "e" + person}, {"e" + person}, {"x" + person, "p" + person}, {"p" + person}, {"x" + person, "a" + person, "e" + person}}[r.r.IntN(6)]...)
		in.Fresh = false
	default:
		for len(in.Who) == 0 {
			for _, kind := range []string{"x", "e", "p", "a", "e"} {
				if r.r.IntN(3) == 0 {
					in.Who = append(in.Who, id(kind+strconv.Itoa(r.r.IntN(8))))
				}
			}
			if r.r.IntN(8) == 0 {
				in.Who = append(in.Who, id(r.profile().String()))
			}
		}
	}
	r.door(in)
}

// profile is one that was seen in the second log at some time, or that may come.
func (r *run) profile() fact.ProfileID {
	if r.r.IntN(4) == 0 || len(r.profiles) == 0 {
		r.profiles = r.profiles[:0]
		for q := range r.facts.Partitions() {
			for _, f := range r.factsOf(q) {
				r.profiles = append(r.profiles, f.Profile)
			}
		}
	}
	if len(r.profiles) == 0 {
		return own("e1")
	}
	return r.profiles[r.r.IntN(len(r.profiles))]
}

func TestSimulation(t *testing.T) {
	rounds := uint64(60)
	if testing.Short() {
		rounds = 10
	}
	for seed := range rounds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := &run{world: newWorld(t, []int32{1, 2, 4, 5}[seed%4], seed), ops: 1500, crashes: 30, merges: seed%3 > 0, deletions: seed%3 == 2, star: seed%7 == 6}
			r.options.Cached, r.most = []int{1, 6, 1000}[seed%3], []int{3, maxGone}[seed%2]
			for _, p := range r.parts {
				p.restart() // with these options
			}
			r.play()
			r.checkEnds()
			r.checkMarkers()
			r.checkReplay()
			if r.star && !r.merges && !r.deletions && len(r.conflicts) > 0 {
				t.Errorf("conflicts where nothing is shared: %v", r.conflicts)
			}
		})
	}
}

// checkEnds: all partitions agree; each identifier has a living profile or none; and records with one identifier end together.
func (r *run) checkEnds() {
	reader := r.reader()
	type record struct {
		uid   string
		root  fact.ProfileID
		dead  bool
		first bool
	}
	all := map[named][]record{}
	for q := range r.facts.Partitions() {
		for _, f := range r.factsOf(q) {
			if f.Kind == fact.KindMarker {
				continue
			}
			root, dead := r.agreed(f.Tenant, f.Profile)
			for i, id := range f.Who {
				if id.Kind != fact.ByProfile {
					n := named{f.Tenant, id}
					all[n] = append(all[n], record{f.Event.UID, root, dead, i == 0})
				}
			}
		}
	}
	if len(all) == 0 {
		r.t.Fatal("nothing happened")
	}
	checked := 0
	for n, recs := range all {
		now, living, err := reader.Lookup(n.tenant, n.id)
		if err != nil {
			r.t.Fatal(err)
		}
		if root, dead := r.agreed(n.tenant, now); living && (dead || root != now) {
			r.t.Errorf("%v belongs to %v, which is %v, deleted %v", n, now, root, dead)
		}
		deleted := slices.ContainsFunc(recs, func(rec record) bool { return rec.dead })
		for _, rec := range recs {
			switch {
			case rec.dead || !rec.first && (deleted || r.conflicts[n]):
			case rec.root != now:
				r.t.Errorf("%v belongs to %v, but its record %s ends at %v", n, now, rec.uid, rec.root)
			case !rec.first:
				checked++
			}
		}
	}
	if checked == 0 && !r.deletions {
		r.t.Error("no identifier that came second could be checked")
	}
}

// agreed is what a profile is part of by now, in the eyes of all partitions.
func (r *run) agreed(tenant string, profile fact.ProfileID) (root fact.ProfileID, dead bool) {
	for i, p := range r.parts {
		got, gone, err := follow(p.store, place{fact.TenantIDOf(tenant), profile})
		if err != nil {
			r.t.Fatal(err)
		}
		if i > 0 && (got != root || gone != dead) {
			r.t.Errorf("%v is %v, deleted %v, for partition %d, and %v, %v for others", profile, got, gone, i, root, dead)
		}
		root, dead = got, gone
	}
	return root, dead
}

// checkMarkers: of each merge there is one marker of each partition in the partition of its source, and no fact under
// the source comes from a partition behind its marker.
func (r *run) checkMarkers() {
	type from struct {
		tenant    string
		source    fact.ProfileID
		partition int32
	}
	markers := map[[16]byte]map[int32]bool{}
	for q := range r.facts.Partitions() {
		closed := map[from]bool{}
		for _, f := range r.factsOf(q) {
			key := from{f.Tenant, f.Profile, f.From.Partition}
			if closed[key] {
				r.t.Errorf("a record of kind %d under %v comes from partition %d behind its marker", f.Kind, f.Profile, f.From.Partition)
			}
			if f.Profile.Partition(r.facts.Partitions()) != q {
				r.t.Errorf("a record under %v is in partition %d", f.Profile, q)
			}
			if f.Kind != fact.KindMarker {
				continue
			}
			closed[key] = true
			if markers[f.Merge.ID] == nil {
				markers[f.Merge.ID] = map[int32]bool{}
			}
			if markers[f.Merge.ID][f.From.Partition] || f.Merge.Source != f.Profile {
				r.t.Errorf("marker %+v of partition %d is wrong or came twice", f.Merge, f.From.Partition)
			}
			markers[f.Merge.ID][f.From.Partition] = true
		}
	}
	for id, m := range markers {
		if len(m) != len(r.parts) {
			r.t.Errorf("merge %x has markers of %v", id[:4], slices.Sorted(maps.Keys(m)))
		}
	}
	if r.merges && len(markers) == 0 {
		r.t.Error("no merge happened")
	}
}

// checkReplay: what a partition emitted, with all its crashes, is what it emits without one.
func (r *run) checkReplay() {
	for q, p := range r.parts {
		again := r.open(int32(q))
		want := map[string][][]byte{}
		for {
			out, more := again.apply(1 + r.r.IntN(50))
			if !more {
				break
			}
			for _, o := range out {
				place := fmt.Sprint(o.to.Name(), o.Partition)
				data, _ := r.plain(o.to, o.Data)
				want[place] = append(want[place], data)
			}
			if r.r.IntN(3) == 0 {
				again.commit()
			}
		}
		for _, t := range []stream.Topic{r.intake, r.facts} {
			for to := range t.Partitions() {
				place := fmt.Sprint(t.Name(), to)
				if got := r.emitted(t, to, p.id); !slices.EqualFunc(got, want[place], bytes.Equal) {
					r.t.Errorf("partition %d emitted %d records to %s, and %d others without crashes", q, len(got), place, len(want[place]))
				}
			}
		}
	}
}

// emitted is what a partition of the stage sent to a partition of a topic, each record once.
func (r *run) emitted(t stream.Topic, to, from int32) (out [][]byte) {
	var last fact.Origin
	seen := map[[2]int64][]byte{}
	for _, rec := range r.records(t, to, 0, 1<<30) {
		data, o := r.plain(t, rec.Data)
		if o.N == 0 || o.Partition != from {
			continue
		}
		key := [2]int64{o.Offset, int64(o.N)}
		if before, again := seen[key]; again && !bytes.Equal(before, data) {
			r.t.Errorf("%s/%d: %+v differs the second time", t.Name(), to, o)
		}
		seen[key] = data
		if later(o, last) {
			last = o
			out = append(out, data)
		}
	}
	if len(seen) != len(out) {
		r.t.Errorf("%s/%d: of %d records of partition %d a receiver takes %d", t.Name(), to, len(seen), from, len(out))
	}
	return out
}

// plain is a record without its generation.
func (r *run) plain(t stream.Topic, data []byte) ([]byte, fact.Origin) {
	if t.Name() == "intake" {
		var in fact.Intake
		if err := in.Parse(data); err != nil {
			r.t.Fatal(err)
		}
		in.From.Generation = 0
		return in.Append(nil), in.From
	}
	var f fact.Fact
	if err := f.Parse(data); err != nil {
		r.t.Fatal(err)
	}
	f.From.Generation = 0
	return f.Append(nil), f.From
}
