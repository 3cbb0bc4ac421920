package warehouse_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

const parts = 3

type key struct {
	profile fact.ProfileID
	metric  fact.MetricID
	uid     string
}

// shelf is a warehouse that is a map. It fails now and then, before or after it applied a batch.
type shelf struct {
	mu      sync.Mutex
	r       *rand.Rand
	fails   int // one in so many
	events  map[key]bool
	names   map[fact.ProfileID]int
	gone    map[fact.ProfileID]fact.ProfileID
	offsets map[int32]int64
	origins map[string]warehouse.Origin
	markers []warehouse.Marker
	batches int
	block   chan struct{}
}

func newShelf(seed int64) *shelf {
	return &shelf{r: rand.New(rand.NewSource(seed)), events: map[key]bool{}, names: map[fact.ProfileID]int{}, gone: map[fact.ProfileID]fact.ProfileID{},
		offsets: map[int32]int64{}, origins: map[string]warehouse.Origin{}}
}

func (s *shelf) State(context.Context) (*warehouse.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &warehouse.State{Markers: slices.Clone(s.markers)}
	for p, next := range s.offsets {
		out.Offsets = append(out.Offsets, warehouse.Offset{Partition: p, From: next, Next: next})
	}
	for _, o := range s.origins {
		out.Origins = append(out.Origins, o)
	}
	return out, nil
}

func (s *shelf) Safe() []warehouse.Offset {
	state, _ := s.State(context.Background())
	return state.Offsets
}

func (s *shelf) Append(_ context.Context, b *warehouse.Batch) error {
	s.mu.Lock()
	block := s.block
	s.mu.Unlock()
	if block != nil {
		<-block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range b.Offsets {
		if s.offsets[o.Partition] != o.From {
			return warehouse.ErrOffset
		}
	}
	failing := s.fails > 0 && s.r.Intn(s.fails) == 0
	if failing && s.r.Intn(2) == 0 {
		return errors.New("it failed")
	}
	s.apply(b)
	if failing {
		return errors.New("it failed when it was done")
	}
	return nil
}

func (s *shelf) apply(b *warehouse.Batch) {
	s.batches++
	for _, o := range b.Offsets {
		s.offsets[o.Partition] = o.Next
	}
	for _, o := range b.Origins {
		s.origins[fmt.Sprint(o.Partition, o.Stage, o.Source)] = o
	}
	merges := b.Merges
	for i := 0; i <= len(b.Events); i++ {
		for len(merges) > 0 && merges[0].Events <= i {
			s.merge(merges[0])
			merges = merges[1:]
		}
		if i < len(b.Events) {
			e := &b.Events[i]
			s.events[key{e.Profile, e.Metric, e.UID}] = true
		}
	}
	for _, c := range b.Changes {
		s.names[c.Profile]++
	}
	s.markers = append(s.markers, b.Markers...)
	for _, m := range b.Merges {
		s.markers = slices.DeleteFunc(s.markers, func(k warehouse.Marker) bool { return k.Merge.ID == m.ID })
	}
}

func (s *shelf) merge(m warehouse.Merge) {
	to := m.Destination
	for next, moved := s.gone[to]; moved; next, moved = s.gone[to] {
		to = next
	}
	s.gone[m.Source] = to
	for k := range s.events {
		if k.profile == m.Source {
			delete(s.events, k)
			if k.profile = to; !to.IsZero() {
				s.events[k] = true
			}
		}
	}
}

// source is the identity stage: partitions of the first log that learn of merges one after the other, send what they
// have for profiles, and repeat themselves after a crash.
type source struct {
	t       *testing.T
	r       *rand.Rand
	facts   stream.Topic
	from    [parts]from
	decided []fact.Merge
	events  map[key]bool // under the profile that was meant
	alive   []fact.ProfileID
	born    int
}

type from struct {
	offset int64
	known  int // how many merges it has told of
	sent   []stream.Message
}

func newSource(t *testing.T, facts stream.Topic, seed int64) *source {
	return &source{t: t, r: rand.New(rand.NewSource(seed)), facts: facts, events: map[key]bool{}}
}

func (s *source) emit(q int, f *fact.Fact) {
	s.t.Helper()
	w := &s.from[q]
	f.Tenant, f.At = "t", time.UnixMilli(1_700_000_000_000+w.offset)
	f.From.Stage, f.From.Partition, f.From.Offset, f.From.Generation = fact.StageIdentity, int32(q), w.offset, 1
	f.From.N = 1
	w.offset++
	m := stream.Message{Partition: f.Profile.Partition(parts), Data: f.Append(nil)}
	s.append(m)
	w.sent = append(w.sent, m)
	if s.r.Intn(40) == 0 { // it crashed and does its last work again
		for _, m := range w.sent[max(0, len(w.sent)-s.r.Intn(10)):] {
			s.append(m)
		}
	}
}

func (s *source) append(m stream.Message) {
	s.t.Helper()
	if _, err := s.facts.Append(s.t.Context(), []stream.Message{m}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *source) step() {
	q := s.r.Intn(parts)
	switch n := s.r.Intn(100); {
	case n < 5 && len(s.alive) > 3:
		source := s.alive[s.r.Intn(len(s.alive))]
		s.alive = slices.DeleteFunc(s.alive, func(p fact.ProfileID) bool { return p == source })
		m := fact.Merge{ID: [16]byte{1, byte(len(s.decided) >> 8), byte(len(s.decided))}, Source: source}
		if s.r.Intn(4) > 0 {
			m.Destination = s.alive[s.r.Intn(len(s.alive))]
		}
		s.decided = append(s.decided, m)
	case n < 20:
		s.tell(q)
	case n < 21:
		s.append(stream.Message{Partition: int32(q), Data: []byte("no fact")})
	case n < 24:
		p := s.profile()
		s.append(stream.Message{Partition: p.Partition(parts), Data: (&fact.Fact{Kind: fact.KindTransfer, Tenant: "t", Profile: p, Transfer: &fact.Transfer{}}).Append(nil)})
	default:
		s.event(q)
	}
}

// tell sends the marker of the next merge that a partition hears of.
func (s *source) tell(q int) {
	if w := &s.from[q]; w.known < len(s.decided) {
		m := s.decided[w.known]
		w.known++
		s.emit(q, &fact.Fact{Kind: fact.KindMarker, Profile: m.Source, Merge: &m})
	}
}

func (s *source) profile() fact.ProfileID {
	if len(s.alive) < 4 || s.r.Intn(10) == 0 {
		s.born++
		s.alive = append(s.alive, fact.DeriveProfile("t", fact.Identifier{Kind: fact.ByEmail, Value: fmt.Sprint(s.born)}, fact.ProfileID{}))
	}
	return s.alive[s.r.Intn(len(s.alive))]
}

// event sends one for whom the partition takes for the owner of an identifier, which may have been merged elsewhere.
func (s *source) event(q int) {
	p := s.profile()
	if n := len(s.decided); n > s.from[q].known && s.r.Intn(2) == 0 {
		p = s.decided[s.from[q].known+s.r.Intn(n-s.from[q].known)].Source
	}
	e := &fact.Event{Metric: 7, UID: fmt.Sprint(s.r.Intn(300)), Properties: []byte(`{"a":1}`)}
	s.events[key{p, e.Metric, e.UID}] = true
	s.emit(q, &fact.Fact{Kind: fact.KindEvent, Profile: p, Who: []fact.Identifier{{Kind: fact.ByEmail, Value: "x"}}, Event: e})
}

// finish has every partition tell of all merges.
func (s *source) finish() {
	for q := range parts {
		for s.from[q].known < len(s.decided) {
			s.tell(q)
		}
	}
}

// want is what must be there at the end.
func (s *source) want() map[key]bool {
	to := map[fact.ProfileID]fact.ProfileID{}
	for _, m := range s.decided {
		to[m.Source] = m.Destination
	}
	out := map[key]bool{}
	for k := range s.events {
		for next, moved := to[k.profile]; moved; next, moved = to[k.profile] {
			k.profile = next
		}
		if !k.profile.IsZero() {
			out[k] = true
		}
	}
	return out
}

func options() warehouse.Options {
	o := warehouse.DefaultOptions()
	o.Batch, o.Window = 50, 2_000_000
	return o
}

// reach waits until all of the log is stored.
func reach(t *testing.T, c *warehouse.Consumer, facts stream.Topic) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for p := range facts.Partitions() {
		end, err := facts.End(ctx, p)
		if err == nil && end > 0 {
			err = c.Wait(ctx, p, end-1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// ungrouped is a log whose groups are nobody's business.
type ungrouped struct {
	stream.Log
	t *testing.T
}

// Run implements stream.Log.
func (u ungrouped) Run(context.Context, string, stream.Topic, func(context.Context, stream.Assignment) error) error {
	u.t.Error("a group was joined")
	return stream.ErrClosed
}

func TestConsumerStoresEachFactOnce(t *testing.T) {
	for seed := range int64(8) {
		log := stream.NewMemory()
		facts, err := log.Topic(t.Context(), "facts", parts)
		if err != nil {
			t.Fatal(err)
		}
		d, from := warehouse.Deps{Sources: parts}, stream.Log(log)
		if seed%2 == 1 { // it is in no group
			d.All, from = true, ungrouped{log, t}
		}
		sink := newShelf(seed)
		sink.fails = 15
		src := newSource(t, facts, seed)
		for range 4 { // lives of the program
			c, err := warehouse.NewConsumer(sink, facts, from, options(), d)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx) }()
			for range 400 {
				src.step()
			}
			if src.r.Intn(2) == 0 {
				reach(t, c, facts)
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		src.finish()
		sink.fails = 0
		c, err := warehouse.NewConsumer(sink, facts, from, options(), d)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		reach(t, c, facts)
		cancel()
		<-ended
		if want := src.want(); !reflect.DeepEqual(sink.events, want) {
			t.Errorf("seed %d: %d events, not %d", seed, len(sink.events), len(want))
		}
		if len(sink.markers) > 0 {
			t.Errorf("seed %d: %d markers are left", seed, len(sink.markers))
		}
	}
}

func TestConsumerStopsAndStarts(t *testing.T) {
	log := stream.NewMemory()
	facts, err := log.Topic(t.Context(), "facts", parts)
	if err != nil {
		t.Fatal(err)
	}
	sink := newShelf(1)
	src := newSource(t, facts, 1)
	c, err := warehouse.NewConsumer(sink, facts, log, options(), warehouse.Deps{Sources: parts})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for range 100 {
		src.step()
	}
	reach(t, c, facts)
	status, err := c.Status(ctx)
	if err != nil || status[0].Lag != 0 || status[0].Stopped || status[0].Stored != status[0].End {
		t.Errorf("all stored: %+v %v", status, err)
	}
	for range 3 {
		if err := c.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		batches := sink.batches
		for range 100 {
			src.step()
		}
		time.Sleep(10 * time.Millisecond)
		status, err = c.Status(ctx)
		if err != nil || !status[0].Stopped || status[0].Lag == 0 || status[0].Stored >= status[0].End || sink.batches != batches {
			t.Errorf("stopped: %+v %v", status, err)
		}
		c.Start()
		reach(t, c, facts)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
}

// TestConsumerWaitsForASlowWarehouse holds a bounded amount in memory while nothing can be stored.
func TestConsumerWaitsForASlowWarehouse(t *testing.T) {
	log := stream.NewMemory()
	facts, err := log.Topic(t.Context(), "facts", parts)
	if err != nil {
		t.Fatal(err)
	}
	sink := newShelf(1)
	sink.block = make(chan struct{})
	src := newSource(t, facts, 1)
	for range 2000 {
		src.step()
	}
	src.finish()
	c, err := warehouse.NewConsumer(sink, facts, log, options(), warehouse.Deps{Sources: parts})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	time.Sleep(30 * time.Millisecond)
	close(sink.block)
	sink.mu.Lock()
	sink.block = nil
	sink.mu.Unlock()
	reach(t, c, facts)
	cancel()
	<-ended
	if want := src.want(); !reflect.DeepEqual(sink.events, want) {
		t.Errorf("%d events, not %d", len(sink.events), len(want))
	}
	if sink.batches < 2000/50 {
		t.Errorf("%d batches", sink.batches)
	}
}
