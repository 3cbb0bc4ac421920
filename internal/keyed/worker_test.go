package keyed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/internal/units"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counting counts records by their data, and emits for each the count it made, with its origin. Totals of all
// it holds in memory until Flush. A record "bad" is an error while broken is set.
type counting struct {
	a      stream.Assignment
	out    stream.Topic
	total  uint64
	broken *atomic.Bool
}

var errBad = errors.New("bad record")

func (c *counting) Apply(tx *Tx, recs []stream.Record) error {
	for _, r := range recs {
		if string(r.Data) == "bad" && c.broken.Load() {
			return errBad
		}
		key := append([]byte{'c'}, r.Data...)
		n := uint64(0)
		v, err := tx.Get(key)
		if err == nil {
			n = binary.BigEndian.Uint64(v)
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
		n++
		if err := errors.Join(tx.Set(key, binary.BigEndian.AppendUint64(nil, n)), tx.Merge([]byte("m"), r.Data[:1])); err != nil {
			return err
		}
		c.total++
		if c.out != nil {
			data := binary.BigEndian.AppendUint64(nil, uint64(r.Offset))
			data = binary.BigEndian.AppendUint64(append(data, byte(tx.Assignment().Partition)), n)
			tx.Emit(c.out, stream.Message{Partition: 0, Data: append(data, r.Data...)})
		}
	}
	return nil
}

func (c *counting) Flush(tx *Tx) error {
	return tx.Put([]byte("total"), binary.BigEndian.AppendUint64(nil, c.total))
}

// node is a worker and what it stands on, so that it can be started again.
type node struct {
	t       *testing.T
	log     stream.Log
	in, out stream.Topic
	o       Options
	window  time.Duration
	broken  atomic.Bool
	logs    io.Writer

	w    *Worker
	stop func()
}

func newNode(t *testing.T, partitions int32) *node {
	t.Helper()
	n := &node{t: t, log: stream.NewMemory()}
	var err error
	if n.in, err = n.log.Topic(t.Context(), "in", partitions); err != nil {
		t.Fatal(err)
	}
	if n.out, err = n.log.Topic(t.Context(), "out", 1); err != nil {
		t.Fatal(err)
	}
	n.o = Options{Dir: "/state", Snapshots: "/snaps", FS: vfs.NewCrashableMem(), Cache: 8 << 20, MemTable: 1 << 20,
		SnapshotEvery: units.Duration(time.Hour), Retry: units.Duration(time.Millisecond)}
	return n
}

func (n *node) spec() Spec {
	return Spec{Name: "count", Input: n.in, Window: n.window, Merger: appending{},
		New: func(s *Store, a stream.Assignment) (Processor, error) {
			c := &counting{a: a, out: n.out, broken: &n.broken}
			v, err := s.Get([]byte("total"))
			if err == nil {
				c.total = binary.BigEndian.Uint64(v)
			} else if !errors.Is(err, ErrNotFound) {
				return nil, err
			}
			return c, nil
		}}
}

func (n *node) start() {
	n.t.Helper()
	if n.logs == nil {
		n.logs = io.Discard
	}
	w, err := NewWorker(n.log, n.o, n.spec(), Deps{Logger: slog.New(slog.NewTextHandler(n.logs, nil))})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := w.Run(ctx); err != nil {
			n.t.Error(err)
		}
	})
	n.w = w
	n.stop = sync.OnceFunc(func() { cancel(); run.Wait() })
	n.t.Cleanup(n.stop)
}

func (n *node) put(partition int32, data ...string) (last int64) {
	n.t.Helper()
	var msgs []stream.Message
	for _, d := range data {
		msgs = append(msgs, stream.Message{Partition: partition, Data: []byte(d)})
	}
	offsets, err := n.in.Append(context.Background(), msgs)
	if err != nil {
		n.t.Fatal(err)
	}
	return offsets[len(offsets)-1]
}

func (n *node) wait(partition int32, offset int64) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.w.Wait(ctx, partition, offset); err != nil {
		n.t.Fatalf("offset %d of partition %d: %v; %+v", offset, partition, err, n.w.Status())
	}
}

// ending is a topic that takes nothing any more once the power is cut.
type ending struct {
	stream.Topic
	dead atomic.Bool
}

var errPower = errors.New("no power")

func (e *ending) Append(ctx context.Context, msgs []stream.Message) ([]int64, error) {
	if e.dead.Load() {
		return nil, errPower
	}
	return e.Topic.Append(ctx, msgs)
}

// volume keeps MemFS.Lock, which deadlocks with a CrashClone that begins while it runs, from doing so.
type volume struct {
	*vfs.MemFS
	locking sync.RWMutex
}

func (v *volume) Lock(name string) (io.Closer, error) {
	v.locking.RLock()
	defer v.locking.RUnlock()
	return v.MemFS.Lock(name)
}

func (v *volume) cut(keep vfs.CrashCloneCfg) *volume {
	v.locking.Lock()
	defer v.locking.Unlock()
	return &volume{MemFS: v.CrashClone(keep)}
}

// cut ends this life: the outputs and the state as they are at one moment are what is left.
func (n *node) cut(rnd *rand.Rand) {
	out := n.out.(*ending)
	keep := vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rand.New(rand.NewPCG(rnd.Uint64(), 2))}
	early := rnd.IntN(2) == 0
	if early { // outputs end first: what is committed must have none to come
		out.dead.Store(true)
	}
	left := n.o.FS.(*volume).cut(keep)
	out.dead.Store(true)
	n.stop()
	n.o.FS, n.out = left, &ending{Topic: out.Topic}
}

// verify compares the state of all partitions and the outputs with a recount of the input.
func (n *node) verify() {
	n.t.Helper()
	want := map[string]string{}
	outputs := map[string]bool{}
	for p := range n.in.Partitions() {
		recs := all(n.t, n.in, p)
		counts := map[string]uint64{}
		merged := ""
		for _, r := range recs {
			counts[string(r.Data)]++
			merged += string(r.Data[:1])
			outputs[fmt.Sprintf("%d/%d/%d/%s", p, r.Offset, counts[string(r.Data)], r.Data)] = true
		}
		if len(recs) > 0 {
			n.wait(p, recs[len(recs)-1].Offset)
			want[fmt.Sprintf("%d total", p)] = string(binary.BigEndian.AppendUint64(nil, uint64(len(recs))))
			want[fmt.Sprintf("%d m", p)] = merged
		}
		for k, c := range counts {
			want[fmt.Sprintf("%d c%s", p, k)] = string(binary.BigEndian.AppendUint64(nil, c))
		}
	}
	got := map[string]string{}
	for p := range n.in.Partitions() {
		if _, used := want[fmt.Sprintf("%d m", p)]; !used {
			continue // perhaps not open yet
		}
		s, ok := n.w.Store(p)
		if !ok {
			n.t.Fatalf("partition %d is not open", p)
		}
		if err := s.Scan([]byte{1}, []byte{0xff}, func(k, v []byte) bool {
			got[fmt.Sprintf("%d %s", p, k)] = string(v)
			return true
		}); err != nil {
			n.t.Fatal(err)
		}
	}
	same(n.t, "state", got, want)
	n.verifyOutputs(outputs)
}

func (n *node) verifyOutputs(want map[string]bool) {
	n.t.Helper()
	last := map[byte]int64{}
	got := map[string]bool{}
	for _, r := range all(n.t, n.out, 0) {
		at, p, c := int64(binary.BigEndian.Uint64(r.Data)), r.Data[8], binary.BigEndian.Uint64(r.Data[9:])
		text := fmt.Sprintf("%d/%d/%d/%s", p, at, c, r.Data[17:])
		if before, ok := last[p]; ok && at <= before {
			if !got[text] {
				n.t.Fatalf("output %s came again, but another than before", text)
			}
			continue
		}
		last[p] = at
		got[text] = true
	}
	same(n.t, "outputs", got, want)
}

func same[V comparable](t *testing.T, what string, got, want map[string]V) {
	t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Fatalf("%s: %s is %q, want %q", what, k, fmt.Sprint(g), fmt.Sprint(v))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries, want %d", what, len(got), len(want))
	}
}

func all(t *testing.T, topic stream.Topic, p int32) []stream.Record {
	t.Helper()
	end, err := topic.End(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	r, err := topic.Read(context.Background(), p, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []stream.Record
	for int64(len(out)) < end {
		recs, err := r.Next(context.Background(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, recs...)
	}
	return out
}

func TestWorkerCounts(t *testing.T) {
	n := newNode(t, 2)
	n.start()
	for i := range 500 {
		n.put(int32(i%2), fmt.Sprint(i%7), fmt.Sprint(i%11))
	}
	n.verify()
	n.stop()
	n.start() // from where it stopped
	n.put(0, "x")
	n.verify()
	if at := n.w.Applied(0); at != 501 {
		t.Errorf("applied %d", at)
	}
}

func TestOnDisk(t *testing.T) {
	n := newNode(t, 2)
	dir := t.TempDir()
	n.o.FS, n.o.Dir, n.o.Snapshots = nil, filepath.Join(dir, "state"), filepath.Join(dir, "snaps")
	n.start()
	n.put(0, "a", "b", "a")
	n.verify()
	if err := n.w.Snapshot(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	n.put(0, "c")
	if err := n.w.Rebuild(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	n.verify()
}

// TestPowerCut cuts the power at random moments: the state is what was synced and some of what was not.
func TestPowerCut(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			n := newNode(t, 2)
			n.out, n.o.FS = &ending{Topic: n.out}, &volume{MemFS: vfs.NewCrashableMem()}
			n.window = []time.Duration{0, time.Millisecond, 5 * time.Millisecond}[seed%3]
			n.o.SnapshotEvery = units.Duration(3 * time.Millisecond)
			for range 12 {
				n.start()
				last := int64(0)
				for range rnd.IntN(60) {
					last = n.put(int32(rnd.IntN(2)), randomText(rnd), randomText(rnd), randomText(rnd))
				}
				if rnd.IntN(3) == 0 && last > 0 {
					n.verify()
				}
				if rnd.IntN(3) == 0 {
					flushOne(n, int32(rnd.IntN(2)))
				}
				n.cut(rnd)
				if rnd.IntN(6) == 0 {
					if err := n.o.FS.RemoveAll("/state/count/0"); err != nil {
						t.Fatal(err)
					}
				}
			}
			n.start()
			n.verify()
		})
	}
}

func flushOne(n *node, p int32) {
	if s, ok := n.w.Store(p); ok {
		if err := s.Flush(); err != nil && !errors.Is(err, ErrClosed) {
			n.t.Error(err)
		}
	}
}

// randomText is from a small set, sometimes long, so that memtables fill.
func randomText(r *rand.Rand) string {
	b := make([]byte, 1+r.IntN(3))
	if r.IntN(20) == 0 {
		b = make([]byte, r.IntN(20000)+1)
	}
	for i := range b {
		b[i] = 'a' + byte(r.IntN(4))
	}
	return string(b)
}

// TestOverEmbedded has the real log, whose partitions share one row of offsets.
func TestOverEmbedded(t *testing.T) {
	log, err := stream.Open(t.TempDir(), stream.Options{}, stream.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n := newNode(t, 2)
	n.log = log
	if n.in, err = log.Topic(t.Context(), "in", 2); err != nil {
		t.Fatal(err)
	}
	if n.out, err = log.Topic(t.Context(), "out", 1); err != nil {
		t.Fatal(err)
	}
	n.start()
	defer func() { n.stop() }()
	last := [2]int64{}
	for i := range 100 {
		last[i%2] = n.put(int32(i%2), "a", "b")
	}
	check := func() {
		t.Helper()
		for p, at := range last {
			n.wait(int32(p), at)
			s, ok := n.w.Store(int32(p))
			if !ok {
				t.Fatal("not open")
			}
			if v, err := s.Get([]byte("total")); err != nil || binary.BigEndian.Uint64(v) != 100 {
				t.Errorf("partition %d: %v %v", p, v, err)
			}
		}
	}
	check()
	if err := n.w.Snapshot(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) { // one from its snapshot, one from the start
		if err := n.w.Rebuild(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	check()
	n.stop()
	n.start()
	check()
	if at := n.w.Sent(n.out, 0); at >= 0 {
		t.Errorf("records were applied twice after a clean stop: output %d", at)
	}
}
