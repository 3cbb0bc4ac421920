package identity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// world has all partitions of the stage over logs in memory. Partitions go on when they are told to.
type world struct {
	t         testing.TB
	r         *rand.Rand
	intake    stream.Topic
	facts     stream.Topic
	parts     []*worldPart
	options   Options
	most      int // redirects that a cache remembers
	conflicts map[named]bool
}

// named is an identifier with its tenant.
type named struct {
	tenant string
	id     fact.Identifier
}

// worldPart is the stage on one partition. What is not committed is lost when it crashes.
type worldPart struct {
	w     *world
	id    int32
	gen   int64
	store *keyed.Store
	tx    *keyed.Tx
	proc  *processor
	next  int64
	// pending are outputs that did not arrive yet. Those for one partition keep their order.
	pending []output
}

func newWorld(t testing.TB, partitions int32, seed uint64) *world {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 4)), options: Options{Cached: 1000}, most: maxGone, conflicts: map[named]bool{}}
	log := stream.NewMemory()
	var err error
	if w.intake, err = log.Topic(t.Context(), "intake", partitions); err != nil {
		t.Fatal(err)
	}
	if w.facts, err = log.Topic(t.Context(), "facts", partitions); err != nil {
		t.Fatal(err)
	}
	for q := range partitions {
		w.parts = append(w.parts, w.open(q))
	}
	return w
}

// open makes the stage of a partition on an empty state.
func (w *world) open(q int32) *worldPart {
	s, err := keyed.OpenStore("state", keyed.StoreOptions{FS: vfs.NewMem(), MemTable: 1 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
	p := &worldPart{w: w, id: q, store: s}
	p.restart()
	return p
}

// restart goes on from what is committed.
func (p *worldPart) restart() {
	p.gen++
	p.pending = nil
	a := stream.Assignment{Partition: p.id, Generation: p.gen}
	proc, err := NewProcessor(p.w.options, Deps{Intake: p.w.intake, Facts: p.w.facts})(p.store, a)
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.proc = proc.(*processor)
	p.proc.cache.most = p.w.most
	p.proc.conflict = func(tenant string, id fact.Identifier) { p.w.conflicts[named{tenant, id}] = true }
	p.tx = p.store.Begin(a)
	if p.next, err = p.store.Offset(); err != nil {
		p.w.t.Fatal(err)
	}
}

// apply handles at most n records and returns what they emitted.
func (p *worldPart) apply(n int) (out []output, any bool) {
	recs := p.w.records(p.w.intake, p.id, p.next, n)
	if len(recs) == 0 {
		return nil, false
	}
	if err := p.proc.Apply(p.tx, recs); err != nil {
		p.w.t.Fatal(err)
	}
	p.next = recs[len(recs)-1].Offset + 1
	for t, msgs := range p.tx.Outputs() {
		for _, m := range msgs {
			out = append(out, output{t, m})
		}
	}
	return out, true
}

// output is a message on its way.
type output struct {
	to stream.Topic
	stream.Message
}

func (p *worldPart) commit() {
	if err := p.tx.Commit(p.next); err != nil {
		p.w.t.Fatal(err)
	}
}

// step handles at most n records once all outputs of the ones before have arrived. Some of their outputs arrive.
func (p *worldPart) step(n int) (busy bool) {
	if busy = len(p.pending) > 0; !busy {
		p.pending, busy = p.apply(n)
	}
	arrived := p.w.r.IntN(2*len(p.pending) + 1)
	for ; len(p.pending) > 0 && arrived > 0; arrived-- {
		p.arrive(p.pending[p.w.r.IntN(len(p.pending))])
	}
	return busy
}

// arrive appends the first output on its way to where one goes.
func (p *worldPart) arrive(like output) {
	i := slices.IndexFunc(p.pending, func(o output) bool { return o.to == like.to && o.Partition == like.Partition })
	p.w.append(like.to, p.pending[i].Message)
	p.pending = slices.Delete(p.pending, i, i+1)
}

// crash loses what is not committed and not appended.
func (p *worldPart) crash() { p.restart() }

// run lets a partition do all that it can do.
func (p *worldPart) run() {
	for p.step(1) {
	}
}

func (w *world) append(t stream.Topic, msgs ...stream.Message) {
	if _, err := t.Append(w.t.Context(), msgs); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) records(t stream.Topic, q int32, from int64, n int) []stream.Record {
	end, err := t.End(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	if from >= end || n == 0 {
		return nil
	}
	r, err := t.Read(context.Background(), q, from)
	if err != nil {
		w.t.Fatal(err)
	}
	recs, err := r.Next(w.t.Context(), n)
	if err != nil {
		w.t.Fatal(err)
	}
	return recs
}

// settle lets all partitions go on, in a random order, until there is nothing left to do.
func (w *world) settle() {
	for busy := true; busy; {
		busy = false
		for _, q := range w.r.Perm(len(w.parts)) {
			busy = w.parts[q].step(1+w.r.IntN(4)) || busy
		}
	}
	for _, p := range w.parts {
		p.commit()
	}
}

// door appends what came in.
func (w *world) door(in fact.Intake) {
	q := fact.Home(in.Tenant, w.intake.Partitions())
	if len(in.Who) > 0 {
		Sort(in.Who)
		q = fact.PartitionOf(in.Tenant, in.Who[0], w.intake.Partitions())
	}
	w.append(w.intake, stream.Message{Partition: q, Data: in.Append(nil)})
}

// event comes in for identifiers that are written like e1 (email), x1, p1, a1, or a profile id.
func (w *world) event(uid string, who ...string) {
	w.door(fact.Intake{Kind: fact.KindEvent, Tenant: "acme", Who: ids(who...), Event: &fact.Event{UID: uid}})
}

func (w *world) merge(source, destination fact.ProfileID) {
	w.door(fact.Intake{Kind: fact.KindMerge, Tenant: "acme", Merge: &fact.Merge{Source: source, Destination: destination}})
}

func ids(names ...string) []fact.Identifier {
	var out []fact.Identifier
	for _, n := range names {
		out = append(out, id(n))
	}
	return out
}

func id(name string) fact.Identifier {
	if len(name) > 10 {
		return fact.Identifier{Kind: fact.ByProfile, Value: name}
	}
	kind := map[byte]fact.IdentifierKind{'x': fact.ByExternal, 'e': fact.ByEmail, 'p': fact.ByPhone, 'a': fact.ByAnonymous}[name[0]]
	return fact.Identifier{Kind: kind, Value: name}
}

func (w *world) reader() *Reader {
	return NewReader(func(q int32) (*keyed.Store, bool) { return w.parts[q].store, true }, int32(len(w.parts)))
}

// whose is the profile of an identifier, zero if it is nobody's.
func (w *world) whose(name string) fact.ProfileID {
	p, _, err := w.reader().Lookup("acme", id(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// own is the profile that is made for an identifier.
func own(name string) fact.ProfileID { return fact.DeriveProfile("acme", id(name), fact.ProfileID{}) }

// factsOf has a partition of the second log as a receiver applies it: without what came before.
func (w *world) factsOf(q int32) []fact.Fact {
	marks := map[int32]fact.Origin{}
	var out []fact.Fact
	for _, rec := range w.records(w.facts, q, 0, 1<<30) {
		var f fact.Fact
		if err := f.Parse(rec.Data); err != nil {
			w.t.Fatal(err)
		}
		if last := marks[f.From.Partition]; !later(f.From, last) {
			continue
		}
		marks[f.From.Partition] = f.From
		out = append(out, f)
	}
	return out
}

func later(o, than fact.Origin) bool {
	return than.N == 0 || o.Offset > than.Offset || o.Offset == than.Offset && o.N > than.N
}

// where says where the events went in the end: "uid>profile", and which of them are dropped is not said.
func (w *world) where() map[string]fact.ProfileID {
	out := map[string]fact.ProfileID{}
	for q := range w.facts.Partitions() {
		for _, f := range w.factsOf(q) {
			if f.Event == nil {
				continue
			}
			root, standing, err := w.reader().Resolve(f.Tenant, f.Profile)
			if err != nil {
				w.t.Fatal(err)
			}
			if standing == Deleted {
				root = fact.ProfileID{}
			}
			if _, twice := out[f.Event.UID]; twice {
				w.t.Errorf("event %s came twice", f.Event.UID)
			}
			out[f.Event.UID] = root
		}
	}
	return out
}

func (n named) String() string { return fmt.Sprintf("%s of %s", n.id.Value, n.tenant) }
