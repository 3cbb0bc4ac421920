package customer

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/bloom"
	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// parts is the number of partitions of both logs in tests.
const parts = 3

// world is a second log, and processors on it that are driven by hand.
type world struct {
	t     testing.TB
	rng   *rand.Rand
	facts stream.Topic
	make  func(*keyed.Store, stream.Assignment) (keyed.Processor, error)
	nodes [parts]*node
	*Reader
}

// node is the consumer of one partition.
type node struct {
	dir   string
	store *keyed.Store
	proc  keyed.Processor
	tx    *keyed.Tx
	next  int64 // offset of the next record
}

func newWorld(t testing.TB, seed uint64, change func(*Options, *Deps)) *world {
	t.Helper()
	facts, err := stream.NewMemory().Topic(t.Context(), "facts", parts)
	if err != nil {
		t.Fatal(err)
	}
	return openWorld(t, seed, facts, change)
}

// openWorld makes new processors on a log that is there.
func openWorld(t testing.TB, seed uint64, facts stream.Topic, change func(*Options, *Deps)) *world {
	t.Helper()
	o := DefaultOptions()
	if o.Known = 8; seed%2 == 1 { // so that the cache forgets, or lets the filter be asked
		o.Known = 1024
	}
	d := Deps{Facts: facts, Partitions: parts}
	if change != nil {
		change(&o, &d)
	}
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), facts: facts}
	var err error
	if w.make, err = NewProcessor(o, d); err != nil {
		t.Fatal(err)
	}
	for p := range w.nodes {
		w.nodes[p] = &node{dir: t.TempDir()}
		w.open(int32(p))
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			_ = n.store.Close()
		}
	})
	w.Reader = NewReaderOf(func(p int32) (State, bool) {
		if p%2 == 1 { // at another node, so to say
			return Elsewhere(short{w.nodes[p].store}), true
		}
		return Here(w.nodes[p].store), true
	}, parts)
	return w
}

// short is a store that gives a row or two at a time.
type short struct{ *keyed.Store }

// Page implements Away.
func (s short) Page(from, to []byte, back bool, _ int) ([]keyed.Row, bool, error) {
	return s.Store.Page(from, to, back, 100)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open opens the state of a partition, and begins where it ends.
func (w *world) open(p int32) {
	s, err := keyed.OpenStore(w.nodes[p].dir, keyed.StoreOptions{})
	w.must(err)
	w.nodes[p].store = s
	w.begin(p)
}

func (w *world) begin(p int32) {
	n := w.nodes[p]
	a := stream.Assignment{Partition: p, Generation: 1}
	var err error
	n.proc, err = w.make(n.store, a)
	w.must(err)
	n.proc.(*processor).filter = bloom.NewRecent(64) // so that it is full soon
	n.tx = n.store.Begin(a)
	n.next, err = n.store.Offset()
	w.must(err)
}

// put appends a fact where it belongs.
func (w *world) put(facts ...*fact.Fact) {
	w.t.Helper()
	var msgs []stream.Message
	for _, f := range facts {
		msgs = append(msgs, stream.Message{Partition: f.Profile.Partition(parts), Data: f.Append(nil)})
	}
	_, err := w.facts.Append(context.Background(), msgs)
	w.must(err)
}

// step applies up to max records of a partition and lets the outputs out; it reports whether there were any.
func (w *world) step(p int32, max int) bool {
	w.t.Helper()
	n := w.nodes[p]
	end, err := w.facts.End(context.Background(), p)
	w.must(err)
	if n.next >= end {
		return false
	}
	r, err := w.facts.Read(context.Background(), p, n.next)
	w.must(err)
	recs, err := r.Next(context.Background(), max)
	w.must(err)
	w.must(n.proc.Apply(n.tx, recs))
	n.next = recs[len(recs)-1].Offset + 1
	for topic, msgs := range n.tx.Outputs() {
		_, err := topic.Append(context.Background(), msgs)
		w.must(err)
	}
	return true
}

func (w *world) commit(p int32) {
	w.t.Helper()
	n := w.nodes[p]
	w.must(n.proc.Flush(n.tx))
	w.must(n.tx.Commit(n.next))
}

// crash throws away what was not committed; deep also what was not written out.
func (w *world) crash(p int32, deep bool) {
	w.t.Helper()
	if !deep {
		w.begin(p)
		return
	}
	w.must(w.nodes[p].store.Close())
	w.open(p)
}

// drain applies and commits everything.
func (w *world) drain() {
	w.t.Helper()
	for more := true; more; {
		more = false
		for p := range int32(parts) {
			for w.step(p, 1+w.rng.IntN(50)) {
				more = true
			}
			w.commit(p)
		}
	}
}

// dump is the rows of a partition, without those of package keyed.
func (w *world) dump(p int32) map[string]string {
	out := map[string]string{}
	w.must(w.nodes[p].store.Scan([]byte{1}, []byte{0xff}, func(k, v []byte) bool {
		out[string(k)] = string(v)
		return true
	}))
	return out
}

func diff(a, b map[string]string) string {
	var out bytes.Buffer
	for k, v := range a {
		if o, ok := b[k]; !ok || o != v {
			fmt.Fprintf(&out, "%q: %q, %q\n", k, v, o)
		}
	}
	for k, v := range b {
		if _, ok := a[k]; !ok {
			fmt.Fprintf(&out, "%q: only %q\n", k, v)
		}
	}
	return out.String()
}

// at is a time in milliseconds.
func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
