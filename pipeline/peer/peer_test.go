package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/keyed"
	"github.com/godwit-mta/godwit/internal/stream"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")) // it ends by itself
}

// fake is what a node has.
type fake struct {
	mu      sync.Mutex
	name    string
	stores  map[Spot]*keyed.Store
	serves  map[Spot]int64 // generations
	applied map[Spot]int64
	answers []string
	asked   func(Spot) // called before a question is answered
}

func newFake(name string) *fake {
	return &fake{name: name, stores: map[Spot]*keyed.Store{}, serves: map[Spot]int64{}, applied: map[Spot]int64{}}
}

func (f *fake) set(at Spot, generation int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.serves[at] = generation; generation == 0 {
		delete(f.serves, at)
	}
}

func (f *fake) Table() Table {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := Table{Node: f.name, Consumers: map[string][]Claim{}, Answers: f.answers}
	for at, g := range f.serves {
		t.Consumers[at.Consumer] = append(t.Consumers[at.Consumer], Claim{at.Partition, g})
	}
	return t
}

func (f *fake) Serves(consumer string, partition int32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.serves[Spot{consumer, partition}] > 0
}

func (f *fake) Store(consumer string, partition int32) (Store, bool) {
	f.mu.Lock()
	s, ok := f.stores[Spot{consumer, partition}]
	asked := f.asked
	f.mu.Unlock()
	if asked != nil {
		asked(Spot{consumer, partition})
	}
	return s, ok
}

func (f *fake) Wait(ctx context.Context, consumer string, partition int32, offset int64) (Progress, error) {
	for {
		f.mu.Lock()
		n := f.applied[Spot{consumer, partition}]
		f.mu.Unlock()
		if n > offset {
			return Progress{Committed: n, Sent: []int64{7, -1}}, nil
		}
		select {
		case <-ctx.Done():
			return Progress{}, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (f *fake) Ask(_ context.Context, consumer string, partition int32, question []byte) ([]byte, error) {
	if f.asked != nil {
		f.asked(Spot{consumer, partition})
	}
	return fmt.Appendf(nil, "%s: %s/%d: %s", f.name, consumer, partition, question), nil
}

func (f *fake) Answer(_ context.Context, what string, question []byte) ([]byte, error) {
	if len(f.answers) == 0 {
		return nil, ErrNoAnswer
	}
	return fmt.Appendf(nil, "%s: %s: %s", f.name, what, question), nil
}

// fill makes a store with rows, as many as asked for, of about 100 bytes.
func (f *fake) fill(t *testing.T, at Spot, rows int) {
	t.Helper()
	s, err := keyed.OpenStore("/"+f.name, keyed.StoreOptions{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	tx := s.Begin(stream.Assignment{})
	for i := range rows {
		if err := tx.Set(fmt.Appendf(nil, "k%05d", i), bytes.Repeat([]byte{byte(i)}, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tx.Set([]byte("z empty"), nil), tx.Commit(1)); err != nil {
		t.Fatal(err)
	}
	f.stores[at] = s
	f.set(at, 1)
}

// cluster is nodes that answer each other.
type cluster struct {
	t     *testing.T
	trust Trust
	nodes map[string]Node
	stops map[string]func()
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, nodes: map[string]Node{}, stops: map[string]func(){}}
}

// serve makes a node answer.
func (c *cluster) serve(f *fake) {
	c.t.Helper()
	s, err := Listen(Options{Listen: "127.0.0.1:0"}, f, c.trust, slog.New(slog.DiscardHandler))
	if err != nil {
		c.t.Fatal(err)
	}
	s.Start()
	c.nodes[f.name] = Node{f.name, s.Addr().String()}
	c.stops[f.name] = sync.OnceFunc(func() { _ = s.Stop(c.t.Context()); <-s.ended })
	c.t.Cleanup(c.stops[f.name])
}

// finder is that of a node, which all others are known to.
func (c *cluster) finder(own *fake) *Finder {
	f, err := NewFinder(FinderDeps{Local: own, Trust: c.trust, Others: func() (others []Node) {
		for name, n := range c.nodes {
			if name != own.name {
				others = append(others, n)
			}
		}
		return others
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { f.Run(ctx) })
	c.t.Cleanup(func() { cancel(); run.Wait() })
	return f
}

// all reads rows as package customer does.
func all(s Store, from, to []byte, back bool, size int) (rows []keyed.Row, pages int, err error) {
	for more := true; more; pages++ {
		var some []keyed.Row
		if some, more, err = s.Page(from, to, back, size); err != nil {
			return rows, pages, err
		}
		if rows = append(rows, some...); len(some) == 0 {
			break
		}
		if last := some[len(some)-1].Key; back {
			to = last
		} else {
			from = append(bytes.Clone(last), 0)
		}
	}
	return rows, pages, nil
}

var spot = Spot{"customer", 2}

func TestReading(t *testing.T) {
	c := newCluster(t)
	a, b := newFake("a"), newFake("b")
	b.fill(t, spot, 500)
	c.serve(b)
	r := c.finder(a).Partition("customer", 2)
	if v, err := r.Get([]byte("k00007")); err != nil || !bytes.Equal(v, bytes.Repeat([]byte{7}, 100)) {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := r.Get([]byte("z empty")); err != nil || len(v) != 0 {
		t.Errorf("an empty value: %q, %v", v, err)
	}
	if _, err := r.Get([]byte("nothing")); !errors.Is(err, keyed.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	for _, back := range []bool{false, true} {
		for _, size := range []int{1, 1000, 1 << 20} {
			from, to := []byte("k00010"), []byte("k00400")
			want, _, err := all(b.stores[spot], from, to, back, size)
			if err != nil {
				t.Fatal(err)
			}
			got, pages, err := all(r, from, to, back, size)
			if err != nil || len(got) != 390 || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("back %v, size %d: %d rows, %v", back, size, len(got), err)
			}
			if size == 1000 && (pages < 35 || pages > 45) {
				t.Errorf("%d pages of 1,000 bytes for 39,000", pages)
			}
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Within(over).Get([]byte("k00007")); !errors.Is(err, context.Canceled) {
		t.Errorf("when nobody waits: %v", err)
	}
	if rows, more, err := r.Page([]byte("x"), []byte("y"), false, 10); len(rows) > 0 || more || err != nil {
		t.Errorf("nothing: %v, %v, %v", rows, more, err)
	}
}

func TestAsking(t *testing.T) {
	c := newCluster(t)
	a, b := newFake("a"), newFake("b")
	b.set(spot, 1)
	c.serve(b)
	f := c.finder(a)
	if got, err := f.Partition("customer", 2).Ask(t.Context(), []byte("what?")); err != nil || string(got) != "b: customer/2: what?" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := f.Answer(t.Context(), "house", nil); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("nobody has a house: %v", err)
	}
	b.mu.Lock()
	b.answers = []string{"house"}
	b.mu.Unlock()
	within(t, "the answer", func() bool {
		got, err := f.Answer(t.Context(), "house", []byte("how?"))
		return err == nil && string(got) == "b: house: how?"
	})
	if name := f.Owner("customer", 2); name != "b" {
		t.Errorf("owner is %q", name)
	}
	if name := f.Owner("customer", 3); name != "" {
		t.Errorf("owner of what nobody has is %q", name)
	}
}

// within waits for what nobody tells of.
func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := newFake("a"), newFake("b")
	b.set(spot, 1)
	c.serve(b)
	r := c.finder(a).Partition("customer", 2)
	short, cancel := context.WithTimeout(t.Context(), waitSlice+300*time.Millisecond)
	defer cancel()
	if _, err := r.Wait(short, 5); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of what does not come: %v", err)
	}
	time.AfterFunc(waitSlice/2, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.applied[spot] = 6
	})
	if p, err := r.Wait(t.Context(), 5); err != nil || p.Committed != 6 || fmt.Sprint(p.Sent) != "[7 -1]" {
		t.Errorf("%+v, %v", p, err)
	}
}
