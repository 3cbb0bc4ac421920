package identity

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// calm is a world without crashes. Its partitions go on only when the test says so.
func calm(t *testing.T) *world { return newWorld(t, 4, 1) }

// in returns a name of a kind whose owner is partition q.
func in(kind string, q int32) string {
	for i := 0; ; i++ {
		name := fmt.Sprint(kind, i)
		if fact.PartitionOf("acme", id(name), 4) == q {
			return name
		}
	}
}

// others are the partitions that are not Home of acme.
func (w *world) others() (home int32, others []int32) {
	home = fact.Home("acme", 4)
	for q := range int32(4) {
		if q != home {
			others = append(others, q)
		}
	}
	return home, others
}

// expect says whose identifiers are, and where events went: "e1=e1 p1=e1 u2>e1 u3>!" means that e1 and p1 belong to the profile made for
// e1, that event u2 ended there, and that u3 came to nothing or to a deleted profile. A profile that somebody got who came back is
// written e1+e1, made for e1 after the one made for e1.
func (w *world) expect(text string) {
	w.t.Helper()
	w.settle()
	where := w.where()
	for s := range strings.FieldsSeq(text) {
		if name, want, ok := strings.Cut(s, "="); ok {
			if got := w.whose(name); got != named1(want) {
				w.t.Errorf("%s: it belongs to %v, want %v", s, got, named1(want))
			}
			continue
		}
		uid, want, _ := strings.Cut(s, ">")
		if got := where[uid]; got != named1(want) {
			w.t.Errorf("%s: it ended at %v, want %v", s, got, named1(want))
		}
	}
}

func named1(s string) (p fact.ProfileID) {
	if s == "!" {
		return p
	}
	for i, part := range strings.Split(s, "+") {
		if i == 0 {
			p = own(part)
		} else {
			p = fact.DeriveProfile("acme", id(part), p)
		}
	}
	return p
}

func (w *world) conflict(want ...string) {
	w.t.Helper()
	for _, n := range want {
		if !w.conflicts[named{"acme", id(n)}] {
			w.t.Errorf("no conflict of %s was seen", n)
		}
	}
	if len(w.conflicts) != len(want) {
		w.t.Errorf("conflicts %v, want %v", w.conflicts, want)
	}
}

func TestOneProfileForOneAddress(t *testing.T) {
	w := calm(t)
	w.event("u1", "e1")
	w.event("u2", "e1")
	w.expect("e1=e1 u1>e1 u2>e1 e2=!")
}

func TestWeakerJoinsStronger(t *testing.T) {
	w := calm(t)
	w.event("u1", "p1")
	w.event("u2", "a1")
	w.event("u3", "p1", "a1")
	w.event("u4", "p1", "e1", "a2")
	w.event("u5", "e1", "x1")
	w.event("u6", "a2")
	w.expect("e1=x1 p1=x1 a1=x1 a2=x1 x1=x1 u1>x1 u2>x1 u3>x1 u4>x1 u5>x1 u6>x1")
}

func TestSimultaneousClaims(t *testing.T) {
	w := calm(t)
	w.event("u1", "p1")
	w.settle()
	w.event("u2", "e1", "p1")
	w.event("u3", "e2", "p1")
	w.settle()
	w.conflict("p1")
	got := w.whose("p1")
	if got != own("e1") && got != own("e2") || w.where()["u1"] != got {
		t.Errorf("p1 belongs to %v and its event to %v", got, w.where()["u1"])
	}
	w.expect("e1=e1 e2=e2 u2>e1 u3>e2")
}

func TestCrossingMerges(t *testing.T) {
	w := calm(t)
	w.event("u1", "e1")
	w.event("u2", "e2")
	w.merge(own("e1"), own("e2"))
	w.merge(own("e2"), own("e1"))
	w.expect("e1=e2 e2=e2 u1>e2 u2>e2")
}

func TestChainsOfMerges(t *testing.T) {
	for name, order := range map[string][][2]string{
		"forward":  {{"e1", "e2"}, {"e2", "e3"}},
		"backward": {{"e2", "e3"}, {"e1", "e2"}},
		"fork":     {{"e1", "e2"}, {"e1", "e3"}},
		"again":    {{"e1", "e2"}, {"e1", "e2"}, {"e2", "e3"}, {"e1", "e3"}},
		"itself":   {{"e1", "e1"}, {"e1", "e2"}, {"e2", "e3"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := calm(t)
			for _, e := range []string{"e1", "e2", "e3"} {
				w.event(e, e)
			}
			for _, o := range order {
				w.merge(own(o[0]), own(o[1]))
			}
			w.expect("e1=e3 e2=e3 e3=e3 e1>e3 e2>e3 e3>e3")
		})
	}
}

func TestDeletedAndBack(t *testing.T) {
	w := calm(t)
	w.event("u1", "e1", "p1")
	w.settle()
	w.merge(own("e1"), fact.ProfileID{})
	w.merge(own("e1"), fact.ProfileID{})
	w.merge(own("e1"), own("e2")) // gone
	w.expect("e1=! p1=! u1>!")
	w.event("u2", "p1")
	w.expect("u2>e1+p1 p1=e1+p1 e1=!")
	w.event("u3", "e1", "p1")
	w.event("u4", own("e1").String()) // nobody comes back by an old id
	w.expect("e1=e1+e1 p1=e1+e1 u2>e1+e1 u3>e1+e1 u4>!")
	w.conflict()
	w.merge(named1("e1+e1"), fact.ProfileID{})
	w.event("u5", "e1")
	w.settle()
	w.event("u6", "e1")
	w.settle()
	w.expect("u3>! u6>e1+e1+e1 e1=e1+e1+e1")
}

func TestDeletionOfWhatWasMerged(t *testing.T) {
	w := calm(t)
	w.event("u1", "e1")
	w.event("u2", "e2")
	w.settle()
	w.merge(own("e1"), own("e2"))
	w.merge(own("e1"), fact.ProfileID{}) // it is part of e2's by now: the person is to be forgotten
	w.merge(own("e3"), own("e2"))        // into one that is deleted
	w.event("u3", "e3")
	w.expect("e1=! e2=! u1>! u2>! e3=e3 u3>e3")
	w.event("u4", "e1")
	w.expect("u4>" + "e2+e1")
}

func TestByProfileID(t *testing.T) {
	w := calm(t)
	w.event("u1", "e1")
	w.event("u2", "e2")
	w.settle()
	w.merge(own("e1"), own("e2"))
	w.settle()
	w.event("u3", own("e1").String(), "p1", "a1")
	w.event("u4", own("e1").String(), "p1", "a2")
	w.event("u5", strings.ToUpper(own("e1").String()))
	w.event("u6", strings.Repeat("u", 26))
	w.event("u7", strings.Repeat("0", 26))
	w.expect("u3>e2 u4>e2 u5>e2 u6>! u7>! p1=e2 a1=e2 a2=e2")
}

// The owner of p hears of the claim of who came back before it hears of the deletion.
func TestClaimOvertakesDeletion(t *testing.T) {
	w := calm(t)
	home, other := w.others()
	e, p := in("e", other[0]), in("p", other[1])
	w.event("u1", e, p)
	w.settle()
	w.event("u2", p)
	w.settle()
	w.merge(own(e), fact.ProfileID{})
	out, _ := w.parts[home].apply(9)
	for _, o := range out {
		if o.Partition == other[0] {
			w.append(o.to, o.Message)
		}
	}
	w.event("u3", e, p)
	w.parts[other[0]].run()
	w.parts[other[1]].run() // binds p
	w.event("u4", p)
	w.parts[other[1]].run()
	for _, o := range out {
		if o.Partition != other[0] {
			w.append(o.to, o.Message)
		}
	}
	back := e + "+" + e
	w.expect(fmt.Sprintf("u1>! u2>! u3>%[1]s u4>%[1]s %[2]s=%[1]s %[3]s=%[1]s", back, e, p))
	w.conflict()
}

// The profile that a claim names is deleted before the claim arrives.
func TestClaimForTheDead(t *testing.T) {
	w := calm(t)
	home, other := w.others()
	e, p := in("e", other[0]), in("p", other[1])
	w.event("u1", e)
	w.settle()
	w.event("u2", e, p)
	w.merge(own(e), fact.ProfileID{})
	w.parts[home].run()
	w.parts[other[0]].run()
	w.settle()
	w.event("u3", p)
	w.expect(fmt.Sprintf("u1>! u2>! u3>%[2]s %[1]s=! %[2]s=%[2]s", e, p))
}

// A shared phone number does not make one person of two.
func TestClaimTakesNobodyAlong(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("owner knows of the merge: %v", known), func(t *testing.T) {
			w := calm(t)
			_, other := w.others()
			e, p := in("e", other[0]), in("p", other[1])
			w.event("u1", p)
			w.event("u2", "x1")
			w.settle()
			w.merge(own(p), own("x1"))
			if known {
				w.settle()
			}
			w.event("u3", e, p)
			w.parts[other[0]].run()
			w.parts[other[1]].run()
			w.event("u4", p)
			w.expect(fmt.Sprintf("u1>x1 u2>x1 u3>%[1]s u4>x1 %[1]s=%[1]s %[2]s=x1", e, p))
			w.conflict(p)
		})
	}
}

// Strength decides, not who came first.
func TestEqualsDoNotTakeEachOther(t *testing.T) {
	w := calm(t)
	w.event("u1", "e2")
	w.settle()
	w.event("u2", "e1", "e2")
	w.event("u3", "e1", "e3")
	w.expect("e1=e1 e2=e2 e3=e1 u1>e2 u2>e1")
	w.conflict("e2")
}

func TestFresh(t *testing.T) {
	w := calm(t)
	fresh := func(uid string, who ...string) {
		w.door(fact.Intake{Kind: fact.KindChange, Tenant: "acme", Fresh: true, Who: ids(who...), Event: &fact.Event{UID: uid}})
	}
	fresh("u1", "e1", "p1")
	fresh("u2", "e1")
	w.settle()
	fresh("u3", "p1")
	fresh("u4", own("e1").String())
	w.expect("u1>e1 u2>! u3>! u4>! p1=e1")
	w.merge(own("e1"), fact.ProfileID{})
	w.settle()
	fresh("u5", "e1")
	w.expect("u5>e1+e1")
}

func TestTenantsAreApart(t *testing.T) {
	w := calm(t)
	w.event("u1", "e1")
	w.settle()
	for _, m := range []fact.Merge{{Source: own("e1")}, {Source: own("e1"), Destination: own("e2")}} {
		w.door(fact.Intake{Kind: fact.KindMerge, Tenant: "bravo", Merge: &m})
	}
	w.door(fact.Intake{Kind: fact.KindEvent, Tenant: "bravo", Who: ids("e1"), Event: &fact.Event{UID: "u2"}})
	w.event("u3", "e1")
	w.expect("e1=e1 u1>e1 u3>e1")
	p, ok, err := w.reader().Lookup("bravo", id("e1"))
	if err != nil || !ok || p == own("e1") {
		t.Errorf("bravo's e1: %v %v %v", p, ok, err)
	}
	if _, standing, err := w.reader().Resolve("bravo", own("e1")); err != nil || standing != Deleted {
		t.Errorf("what bravo deleted, if only in its own eyes: %v %v", standing, err)
	}
}

// Requests to merge that lie in a wrong partition are decided at Home all the same.
func TestMergeGoesHome(t *testing.T) {
	w := calm(t)
	_, other := w.others()
	w.event("u1", "e1")
	in := fact.Intake{Kind: fact.KindMerge, Tenant: "acme", Merge: &fact.Merge{Source: own("e1"), Destination: own("e2")}}
	w.append(w.intake, stream.Message{Partition: other[2], Data: in.Append(nil)})
	w.expect("e1=e2 u1>e2")
	if p, standing, err := w.reader().Resolve("acme", own("e1")); p != own("e2") || standing != Merged || err != nil {
		t.Errorf("resolved to %v, %v, %v", p, standing, err)
	}
}

func TestObjectsPass(t *testing.T) {
	w := calm(t)
	w.door(fact.Intake{Kind: fact.KindObject, Tenant: "acme", Object: &fact.Object{Type: "list", ID: "l1", Data: []byte("{}")}})
	w.settle()
	got := w.factsOf(fact.ObjectPartition("acme", "l1", 4))
	if len(got) != 1 || got[0].Object == nil || got[0].Object.ID != "l1" || got[0].From.Stage != fact.StageIdentity || got[0].From.N != 1 {
		t.Errorf("got %+v", got)
	}
}

// A browser's ids change for ever; the row of who they come along with must not grow for ever.
func TestClaimsAreBounded(t *testing.T) {
	w := calm(t)
	for round := range 2 {
		for i := range 3 * maxClaimed {
			w.event(fmt.Sprint(round, "-", i), "x1", fmt.Sprint("a", i))
		}
		w.settle()
	}
	for i := range 3 * maxClaimed {
		w.expect(fmt.Sprintf("a%d=x1", i))
	}
	w.conflict()
	q := fact.PartitionOf("acme", id("x1"), 4)
	b, err := loadBinding(w.parts[q].store, keyOf(fact.TenantIDOf("acme"), fact.ByExternal, []byte("x1")))
	if err != nil || len(b.claimed) != maxClaimed {
		t.Errorf("%d identifiers are noted, %v", len(b.claimed), err)
	}
	before := w.claims()
	w.event("last", "x1", fmt.Sprint("a", 3*maxClaimed-1), fmt.Sprint("a", 3*maxClaimed-9))
	w.settle()
	if after := w.claims(); after != before {
		t.Errorf("%d claims of what was claimed lately", after-before)
	}
}

// claims counts the claims in the first log.
func (w *world) claims() (n int) {
	for q := range w.intake.Partitions() {
		for _, rec := range w.records(w.intake, q, 0, 1<<30) {
			if fact.Kind(rec.Data[1]) == fact.KindClaim {
				n++
			}
		}
	}
	return n
}

func TestBadRecords(t *testing.T) {
	w := calm(t)
	good := fact.Intake{Kind: fact.KindEvent, Tenant: "acme", Who: ids("e1"), Event: &fact.Event{UID: "u1"}}
	// These are dropped: what is behind them must go on.
	for _, rec := range []fact.Intake{
		{Kind: fact.KindEvent, Tenant: "acme"}, {Kind: fact.KindClaim}, {Kind: fact.KindMerge}, {Kind: fact.KindRedirect}, {Kind: fact.KindObject},
		{Kind: fact.KindMerge, Tenant: "acme", Merge: &fact.Merge{Destination: own("e1")}}, good,
	} {
		w.append(w.intake, stream.Message{Partition: 0, Data: rec.Append(nil)})
	}
	w.settle()
	if got := w.where(); len(got) != 1 {
		t.Errorf("events %v", got)
	}
	// These are not understood: to go on would lose what they say.
	for _, data := range [][]byte{nil, {2, 1, 0}, {1}, (&fact.Intake{Kind: fact.KindMarker, Tenant: "acme"}).Append(nil), (&fact.Intake{Kind: 99}).Append(nil)} {
		p := w.open(0)
		err := p.proc.Apply(p.tx, []stream.Record{{Offset: 7, Data: good.Append(nil)}, {Offset: 8, Data: data}})
		if err == nil || !strings.Contains(err.Error(), "record 8 of partition 0") {
			t.Errorf("%x: %v", data, err)
		}
		if again := p.proc.Apply(p.tx, nil); again == nil {
			t.Error("a processor that is ahead of its state goes on")
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t, 1, 1)
	d := Deps{Intake: w.intake, Facts: w.facts, Registerer: reg}
	proc, err := NewProcessor(w.options, d)(w.parts[0].store, stream.Assignment{})
	if err != nil {
		t.Fatal(err)
	}
	w.parts[0].proc = proc.(*processor)
	w.event("u1", "p1")
	w.event("u2", "e1", "p1", "a1")
	w.event("u3", "e2", "a1")
	w.door(fact.Intake{Kind: fact.KindChange, Tenant: "acme", Who: ids("e1"), Fresh: true})
	w.settle()
	w.merge(own("e2"), fact.ProfileID{})
	w.settle()
	w.event("u4", own("e2").String())
	w.event("u5")
	w.settle()
	claim := w.records(w.intake, 0, 0, 99)[4] // comes a second time
	w.append(w.intake, stream.Message{Data: claim.Data})
	w.settle()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, f := range families {
		for _, m := range f.Metric {
			label := ""
			for _, l := range m.Label {
				label = l.GetValue()
			}
			got += fmt.Sprintf("%s %s%v\n", strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "godwit_identity_"), "_total"), label, m.Counter.GetValue())
		}
	}
	if want := `claimed_identifiers 1
conflicts 1
created_profiles 3
deleted_profiles 1
dropped_records deleted1
dropped_records fresh1
dropped_records invalid1
dropped_records repeated1
merged_profiles 1
resolved_records 3
`; got != want {
		t.Errorf("got\n%s", got)
	}
	if _, err := NewProcessor(w.options, d)(w.parts[0].store, stream.Assignment{}); err == nil {
		t.Error("metrics were registered twice")
	}
	if _, err := NewProcessor(Options{}, Deps{Intake: w.intake, Facts: w.facts})(w.parts[0].store, stream.Assignment{}); err == nil {
		t.Error("options without a cache were taken")
	}
}

func TestReaderElsewhere(t *testing.T) {
	w := calm(t)
	w.event("u1", "e1")
	w.merge(own("e1"), own("e2"))
	w.settle()
	home, other := w.others()
	away := NewReader(func(q int32) (*keyed.Store, bool) { return w.parts[q].store, q == other[0] }, 4)
	if p, standing, err := away.Resolve("acme", own("e1")); err != nil || standing != Merged || p != own("e2") {
		t.Errorf("without Home: %v %v %v", p, standing, err)
	}
	if _, _, err := away.Lookup("acme", id(in("e", home))); err != ErrElsewhere {
		t.Errorf("without the owner: %v", err)
	}
	nobody := NewReader(func(int32) (*keyed.Store, bool) { return nil, false }, 4)
	if _, _, err := nobody.Resolve("acme", own("e1")); err != ErrElsewhere {
		t.Errorf("without any: %v", err)
	}
	for _, id := range []string{"none", own("e9").String()} {
		p, ok, err := w.reader().Lookup("acme", fact.Identifier{Kind: fact.ByProfile, Value: id})
		if err != nil || ok != (id != "none") || ok && p != own("e9") {
			t.Errorf("profile id %s: %v %v %v", id, p, ok, err)
		}
	}
}
