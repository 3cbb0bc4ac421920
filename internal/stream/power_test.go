package stream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPowerCut runs appends, holds, retention and rewriting against power cuts at random calls. After each restart all that was
// acknowledged, not dropped and not erased is there at its offset; what was held was not dropped; what was erased
// stays so; no offset is given twice.
func TestPowerCut(t *testing.T) {
	rounds := 120
	if testing.Short() {
		rounds = 25
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			powerCuts(t, rand.New(rand.NewPCG(uint64(seed), 11)))
		})
	}
}

const powerPartitions = 3

// world is what the test knows of a log over its restarts.
type world struct {
	mu      sync.Mutex
	n       int
	sent    map[string]bool
	acked   map[int64]sentRecord
	held    map[int32]int64 // what is surely held from
	erased  map[int]bool    // kinds whose erasing was done, and none was sent since
	erasing map[int]bool    // perhaps done
}

type sentRecord struct {
	partition int32
	kind      int
	data      string
}

func powerCuts(t *testing.T, r *rand.Rand) {
	dir := t.TempDir()
	w := &world{sent: map[string]bool{}, acked: map[int64]sentRecord{}, held: map[int32]int64{}, erased: map[int]bool{}, erasing: map[int]bool{}}
	o := Options{
		SegmentBytes: 16 << 10, Spares: r.IntN(3), MaxAppend: 1 << 20, KeepBytes: 40 << 10,
		Recent: 1 << (4 * r.IntN(6)),
	}
	for range 5 {
		fsys := newPower(t, dir, r)
		e, err := Open(dir, o, Deps{FS: fsys})
		if err != nil && !fsys.off {
			t.Fatal(err)
		}
		if err == nil {
			w.live(t, e, fsys, r)
			_ = e.Close()
		}
		fsys.cut()
	}
	fsys := newPower(t, dir, r)
	fsys.left = 1 << 30
	e, err := Open(dir, o, Deps{FS: fsys})
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// live uses the log until its power goes or all is done.
func (w *world) live(t *testing.T, e *Embedded, fsys *power, r *rand.Rand) {
	if !w.check(t, e) {
		return
	}
	top, err := e.Topic(t.Context(), "facts", powerPartitions)
	if err != nil {
		return
	}
	var all sync.WaitGroup
	for range 3 {
		mine := rand.New(rand.NewPCG(r.Uint64(), 1))
		all.Go(func() {
			for range 60 {
				if !w.append(top, mine) {
					return
				}
			}
		})
	}
	mine := rand.New(rand.NewPCG(r.Uint64(), 1))
	all.Go(func() {
		for range 12 {
			if !w.chore(t, e, top, mine) {
				return
			}
		}
	})
	all.Wait()
}

// append adds a batch of random records; false when the log is gone.
func (w *world) append(top Topic, r *rand.Rand) bool {
	var msgs []Message
	var recs []sentRecord
	w.mu.Lock()
	for range 1 + r.IntN(1+r.IntN(12)) {
		w.n++
		kind := r.IntN(6)
		for w.erased[kind] || w.erasing[kind] {
			kind += 6 // a kind that was erased is never sent again
		}
		data := fmt.Sprintf("%d %d %s", kind, w.n, strings.Repeat("y", r.IntN(600)))
		rec := sentRecord{r.Int32N(powerPartitions), kind, data}
		recs, msgs = append(recs, rec), append(msgs, Message{Partition: rec.partition, Data: []byte(data)})
		w.sent[data] = true
	}
	w.mu.Unlock()
	offsets, err := top.Append(context.Background(), msgs)
	if err != nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, rec := range recs {
		w.acked[offsets[i]] = rec
	}
	return true
}

// chore does one of the other things; false when the log is gone.
func (w *world) chore(t *testing.T, e *Embedded, top Topic, r *rand.Rand) bool {
	switch r.IntN(4) {
	case 0:
		return e.Trim(time.Now()) == nil
	case 1:
		kind := r.IntN(12)
		w.mu.Lock()
		w.erasing[kind] = true
		w.mu.Unlock()
		return w.erase(t, e, kind) == nil // what was on its way may have come behind it
	default:
		return w.hold(t, e, top, r)
	}
}

// hold holds a partition from some acknowledged offset on, never less than before.
func (w *world) hold(t *testing.T, e *Embedded, top Topic, r *rand.Rand) bool {
	p := r.Int32N(powerPartitions)
	w.mu.Lock()
	to := int64(0)
	for offset := range w.acked { // any one
		to = offset
		break
	}
	before, ok := w.held[p]
	w.mu.Unlock()
	if ok && to < before {
		return true
	}
	to = max(to, top.(*topic).kept.dropped) // what is dropped cannot be held any more
	err := e.Hold(t.Context(), "group", top, p, to)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil || ok { // an error leaves what was held or what was asked for
		w.held[p] = to
	}
	return err == nil
}

// check compares the log with what must and may be in it; false when the power went meanwhile.
func (w *world) check(t *testing.T, e *Embedded) bool {
	t.Helper()
	fsys := e.d.FS.(*power)
	gone := func(err error) bool {
		t.Helper()
		fsys.mu.Lock()
		defer fsys.mu.Unlock()
		if err != nil && !fsys.off {
			t.Fatal(err)
		}
		return err != nil
	}
	top, err := e.Topic(t.Context(), "facts", powerPartitions)
	if gone(err) {
		return false
	}
	seen := map[int64]string{}
	for p := range int32(powerPartitions) {
		if gone(readAll(t, top, p, seen)) {
			return false
		}
	}
	begin := top.(*topic).kept.dropped
	sizes := top.(*topic).sizes()
	for _, p := range top.(*topic).pieces {
		if _, there := sizes[p.seg]; p.old && there {
			t.Fatalf("segment %d was rewritten and is still there as it was", p.seg)
		}
	}
	for offset, data := range seen {
		if !w.sent[data] {
			t.Fatalf("offset %d was never sent: %.40q", offset, data)
		}
		if rec, ok := w.acked[offset]; ok && rec.data != data {
			t.Fatalf("offset %d holds %.40q, not %.40q", offset, data, rec.data)
		}
	}
	lowest := int64(1 << 62)
	for _, held := range w.held {
		lowest = min(lowest, held)
	}
	for offset, rec := range w.acked {
		_, there := seen[offset]
		switch {
		case there && w.erased[rec.kind]:
			t.Fatalf("offset %d was erased and is there again", offset)
		case !there && offset >= begin && !w.erasing[rec.kind]:
			t.Fatalf("offset %d was acknowledged and is lost: %.40q", offset, rec.data)
		case offset < begin && offset >= lowest && len(w.held) > 0:
			t.Fatalf("offset %d was held from %d on and is dropped before %d", offset, lowest, begin)
		case !there:
			delete(w.acked, offset)
		}
	}
	for kind := range w.erasing { // no append is under way: from now on it can be checked
		w.settle(t, e, kind)
	}
	return true
}

// settle erases a kind with nothing else going on.
func (w *world) settle(t *testing.T, e *Embedded, kind int) {
	if w.erased[kind] || kind%3 != 0 {
		return
	}
	if w.erase(t, e, kind) == nil {
		w.erased[kind] = true
	}
}

func (w *world) erase(t *testing.T, e *Embedded, kind int) error {
	return e.Rewrite(t.Context(), "facts", func(_ int32, _ int64, data []byte) ([]byte, bool) {
		var k int
		_, err := fmt.Sscanf(string(data), "%d", &k)
		return data, err == nil && k != kind
	})
}

// readAll reads a partition to its end.
func readAll(t *testing.T, top Topic, partition int32, seen map[int64]string) error {
	t.Helper()
	end, err := top.End(t.Context(), partition)
	if err != nil {
		return err
	}
	all, err := top.Read(t.Context(), partition, 0)
	if err != nil {
		return err
	}
	defer all.Close()
	r, last := all.(*reader), int64(-1)
	for r.next < end { // so it need not wait
		if err := r.fill(t.Context(), 50); err != nil {
			return err
		}
		recs := r.pending
		r.pending = nil
		for _, rec := range recs {
			if rec.Offset <= last || rec.Offset >= end {
				t.Fatalf("offset %d after %d, end %d", rec.Offset, last, end)
			}
			last = rec.Offset
			if other, ok := seen[rec.Offset]; ok {
				t.Fatalf("offset %d is %q and %q", rec.Offset, other, rec.Data)
			}
			seen[rec.Offset] = string(rec.Data)
		}
	}
	return nil
}
