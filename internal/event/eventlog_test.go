package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func smallLog() LogOptions {
	return LogOptions{Keep: units.Duration(time.Hour), MaxSize: 64 << 20, SegmentSize: 16 << 10}
}

func openLog(t testing.TB, dir string, o LogOptions, d LogDeps) *Log {
	t.Helper()
	l, err := OpenLog(dir, o, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLog(t, l) })
	return l
}

// closeLog closes once.
func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// history makes the events of one message's life.
func history(id mail.ID, n int) []Event {
	var out []Event
	for i := range n {
		k := Deferred
		switch {
		case i == 0:
			k = Injected
		case i == n-1:
			k = Delivered
		}
		out = append(out, Event{ID: DeriveID(id, i, k), Kind: k, Time: id.Time().Add(time.Duration(i) * time.Minute),
			Message: id, Attempt: i, Recipient: "ann@example.com", Reply: id.String() + strings.Repeat(" noise", i)})
	}
	return out
}

// fill appends records with one event each until n segments are sealed, and returns the messages.
func fill(t testing.TB, l *Log, segments int) []mail.ID {
	t.Helper()
	var ids mail.IDs
	var all []mail.ID
	target := l.Tail().Seg + uint64(segments)
	for l.Tail().Seg < target {
		id := ids.New(time.Now())
		e := Event{ID: DeriveID(id, 0, Injected), Kind: Injected, Time: time.Now(), Message: id, Reply: randomText(id)}
		if _, err := l.Append(context.Background(), nil, []Event{e}); err != nil {
			t.Fatal(err)
		}
		all = append(all, id)
	}
	return all
}

// randomText does not compress well, so that segments fill.
func randomText(id mail.ID) string {
	var b strings.Builder
	x := keyOf(id)
	for range 60 {
		x = x*6364136223846793005 + 1442695040888963407
		fmt.Fprintf(&b, "%016x", x)
	}
	return b.String()
}

func TestAppendReplayFind(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, smallLog(), LogDeps{})
	ctx := context.Background()
	var ids mail.IDs
	const messages, steps = 40, 6
	lives := make([][]Event, messages)
	for i := range lives {
		lives[i] = history(ids.New(time.Now()), steps)
	}
	var changes []string
	for step := range steps { // one record holds a step of several messages
		for i := 0; i < messages; i += 4 {
			var events []Event
			for j := i; j < i+4; j++ {
				e := lives[j][step]
				e.Reason = randomText(ids.New(time.Now()))
				lives[j][step] = e
				events = append(events, e)
			}
			change := fmt.Sprintf("change %d %d", step, i)
			if _, err := l.Append(ctx, []byte(change), events); err != nil {
				t.Fatal(err)
			}
			changes = append(changes, change)
		}
	}
	if _, err := l.Append(ctx, []byte("only a change"), nil); err != nil {
		t.Fatal(err)
	}
	changes = append(changes, "only a change")
	check := func(l *Log) {
		t.Helper()
		for _, life := range lives {
			got, err := l.Find(ctx, life[0].Message)
			if err != nil || len(got) != steps {
				t.Fatalf("%d events, want %d (%v)", len(got), steps, err)
			}
			for i := range got {
				want, _ := json.Marshal(life[i])
				have, _ := json.Marshal(got[i])
				if string(have) != string(want) {
					t.Fatalf("event %d: %s, want %s", i, have, want)
				}
			}
		}
		if got, err := l.Find(ctx, ids.New(time.Now().Add(-time.Hour))); err != nil || len(got) != 0 {
			t.Fatalf("unknown message: %d events, %v", len(got), err)
		}
		n := 0
		for e, err := range l.Replay(seglog.Pos{}) {
			if err != nil || string(e.Changes) != changes[n] {
				t.Fatalf("change %d: %q, %v", n, e.Changes, err)
			}
			n++
		}
		if n != len(changes) {
			t.Fatalf("%d changes, want %d", n, len(changes))
		}
	}
	check(l)
	l.indexSealed(ctx)
	l.mu.Lock()
	sidecars, tables := len(l.sidecars), len(l.tables)
	l.mu.Unlock()
	if sidecars < 3 || tables != 1 {
		t.Fatalf("%d sidecars, %d tables", sidecars, tables)
	}
	check(l)
	closeLog(t, l)
	l = openLog(t, dir, smallLog(), LogDeps{})
	check(l)
	closeLog(t, l)

	indexes, _ := filepath.Glob(filepath.Join(dir, "*.idx"))
	if len(indexes) < 3 {
		t.Fatal(indexes)
	}
	if err := os.Remove(indexes[0]); err != nil {
		t.Fatal(err)
	}
	damage(t, indexes[1], 10)
	damage(t, indexes[2], sidecarHeader+8)
	l = openLog(t, dir, smallLog(), LogDeps{})
	check(l)
	l.indexSealed(ctx)
	if again, _ := filepath.Glob(filepath.Join(dir, "*.idx")); len(again) != len(indexes) {
		t.Errorf("%d index files after a rebuild, want %d", len(again), len(indexes))
	}
	check(l)
}

func damage(t testing.TB, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x55
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFindSkipsOlderSegments(t *testing.T) {
	l := openLog(t, t.TempDir(), smallLog(), LogDeps{})
	fill(t, l, 2)
	l.indexSealed(context.Background())
	l.mu.Lock() // the log indexes in the background too
	for _, s := range l.sidecars {
		s.path = "/nowhere/to/be/opened" // fails the test if a segment older than the message is looked at
		s.newest = time.Now().Add(-time.Minute).UnixNano()
	}
	l.mu.Unlock()
	var ids mail.IDs
	id := ids.New(time.Now())
	if _, err := l.Append(context.Background(), nil, history(id, 2)); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Find(context.Background(), id); err != nil || len(got) != 2 {
		t.Fatalf("%d events, %v", len(got), err)
	}
	l.mu.Lock()
	l.sidecars = map[uint64]*sidecar{}
	l.mu.Unlock()
}

// read takes batches until want events have come.
func read(t testing.TB, c *Cursor, want int) (events []Event, next seglog.Pos) {
	t.Helper()
	for len(events) < want {
		b, err := c.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if b.Events != len(b.Lines) {
			t.Fatalf("%d events in %d lines", b.Events, len(b.Lines))
		}
		for _, line := range b.Lines {
			var e Event
			if err := json.Unmarshal(line, &e); err != nil || line[len(line)-1] != '\n' {
				t.Fatalf("%v in %q", err, line)
			}
			events = append(events, e)
		}
		next = b.Next
	}
	return events, next
}

func TestCursor(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, smallLog(), LogDeps{})
	ids := fill(t, l, 3)
	c, err := l.Cursor("file-1")
	if err != nil {
		t.Fatal(err)
	}
	got, next := read(t, c, len(ids))
	for i, e := range got {
		if e.Message != ids[i] {
			t.Fatalf("event %d is of %v, want %v", i, e.Message, ids[i])
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("at the end: %v", err)
	}
	c.Rewind()
	if again, _ := read(t, c, len(ids)); again[0].Message != ids[0] {
		t.Fatal("Rewind did not go back")
	}
	c.CommitNote(next, "my note")

	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		if more, _ := read(t, c, 1); more[0].Kind != Bounced {
			t.Errorf("woken by %v", more[0])
		}
	}()
	if _, err := l.Append(context.Background(), []byte("no events"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), nil, []Event{{Kind: Bounced}}); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	closeLog(t, l)

	l = openLog(t, dir, smallLog(), LogDeps{})
	if c, err = l.Cursor("file-1"); err != nil {
		t.Fatal(err)
	}
	if pos, note := c.Position(); note != "my note" || pos.Compare(next) < 0 {
		t.Fatalf("position %v, note %q, want %v", pos, note, next)
	}
	if more, _ := read(t, c, 1); more[0].Kind != Bounced {
		t.Fatalf("went on with %v", more[0])
	}
	if err := l.DropCursor("file-1"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "A", "../x", "a b", strings.Repeat("x", 65)} {
		if _, err := l.Cursor(bad); !errors.Is(err, ErrCursorName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestRetention(t *testing.T) {
	o := smallLog()
	o.Keep = 1 // everything is old at once
	reg := prometheus.NewRegistry()
	l := openLog(t, t.TempDir(), o, LogDeps{Registerer: reg})
	ids := fill(t, l, 6)
	first := l.records.Segments()[0].Seq
	c, err := l.Cursor("slow")
	if err != nil {
		t.Fatal(err)
	}
	if l.Reclaim(1<<30) != 0 {
		t.Fatal("dropped events before Hold")
	}
	l.Hold(seglog.Pos{Seg: first + 4, Off: 5000})
	if freed := l.retain(0); freed != 0 {
		t.Fatalf("dropped %d bytes that a cursor has not read", freed)
	}
	if got, _ := read(t, c, 3); got[0].Message != ids[0] {
		t.Fatal("wrong first event")
	}
	// Forced: the oldest two segments go, of which the cursor has committed nothing.
	size := l.records.Segments()[0].Bytes
	if freed := l.Reclaim(size + 1); freed < size+1 {
		t.Fatalf("freed %d", freed)
	}
	if s := l.records.Segments()[0].Seq; s != first+2 {
		t.Fatalf("oldest segment is %d, want %d", s, first+2)
	}
	c.Rewind()
	events, _ := read(t, c, 1)
	if events[0].Kind != Gap || events[0].GapEvents == 0 {
		t.Fatalf("no gap: %+v", events[0])
	}
	lost := int(events[0].GapEvents)
	if n := value(t, reg, "godwit_event_gap_events_total"); n != lost {
		t.Errorf("metric says %v, gap %d", n, lost)
	}
	rest, end := read(t, c, len(ids)-lost)
	if len(rest) != len(ids)-lost || rest[0].Message != ids[lost] {
		t.Fatalf("%d events after a gap of %d, want %d", len(rest), lost, len(ids)-lost)
	}
	c.Commit(end)
	// All read: age alone decides, up to what the queue holds.
	l.retain(0)
	if s := l.records.Segments()[0].Seq; s != first+4 {
		t.Fatalf("oldest segment is %d, want the held %d", s, first+4)
	}
	if l.Reclaim(1<<30) != 0 {
		t.Fatal("dropped what the queue holds")
	}
	if found, err := l.Find(context.Background(), ids[0]); err != nil || len(found) != 0 {
		t.Fatalf("%d, %v", len(found), err)
	}
	if n := value(t, reg, "godwit_event_events_total"); n != len(ids) {
		t.Errorf("metric counts %d events, want %d", n, len(ids))
	}
}

// value is the sum of a counter over its labels.
func value(t testing.TB, reg *prometheus.Registry, name string) int {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return int(sum)
}

// TestGapSurvivesRestart: the gap is known after a crash too, and counts events read but not committed.
func TestGapSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	o := smallLog()
	l := openLog(t, dir, o, LogDeps{})
	ids := fill(t, l, 4)
	c, _ := l.Cursor("s")
	_, part := read(t, c, 1)
	_ = part
	l.Hold(l.Tail())
	l.Reclaim(1)
	l.Reclaim(1)
	closeLog(t, l)
	l = openLog(t, dir, o, LogDeps{})
	c, _ = l.Cursor("s")
	got, next := read(t, c, 1)
	if got[0].Kind != Gap {
		t.Fatalf("%+v", got[0])
	}
	lost := int(got[0].GapEvents)
	c.Commit(next)
	got, _ = read(t, c, len(ids)-lost)
	if got[0].Message != ids[lost] {
		t.Fatal("events lost beyond the gap")
	}
}

func TestMaxSize(t *testing.T) {
	o := smallLog()
	o.MaxSize = 4 * o.SegmentSize
	l := openLog(t, t.TempDir(), o, LogDeps{})
	l.Hold(seglog.Pos{Seg: 1 << 40})
	fill(t, l, 12)
	l.retain(0)
	if size := l.Size(); size > int64(o.MaxSize) {
		t.Fatalf("%d bytes", size)
	}
}

func TestDamagedRecordBecomesGap(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, smallLog(), LogDeps{})
	ids := fill(t, l, 2)
	closeLog(t, l)
	files, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	damage(t, files[0], seglog.FirstOffset+seglog.HeaderSize+100)
	l = openLog(t, dir, smallLog(), LogDeps{})
	c, _ := l.Cursor("s")
	got, _ := read(t, c, len(ids))
	if got[0].Kind != Gap || got[1].Message != ids[1] || got[len(ids)-1].Message != ids[len(ids)-1] {
		t.Fatalf("%+v %+v", got[0], got[1])
	}
	if found, err := l.Find(context.Background(), ids[1]); err != nil || len(found) != 1 {
		t.Fatalf("%d, %v", len(found), err)
	}
}

func TestAppendErrorsPassThrough(t *testing.T) {
	dir := t.TempDir()
	fsys, err := faultfs.NewSim(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := openLog(t, dir, smallLog(), LogDeps{FS: fsys})
	fsys.Inject(faultfs.Rule{Op: faultfs.OpSync, Name: "*.seg", Err: syscall.EIO})
	if _, err := l.Append(context.Background(), nil, []Event{{Kind: Injected}}); !errors.Is(err, seglog.ErrFailed) {
		t.Fatalf("got %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	l := openLog(t, t.TempDir(), smallLog(), LogDeps{})
	l.Hold(seglog.Pos{Seg: 1})
	ctx := context.Background()
	const writers, each = 4, 100
	c, _ := l.Cursor("reader")
	var ids mail.IDs
	var wg sync.WaitGroup
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range each {
				id := ids.New(time.Now())
				if _, err := l.Append(ctx, []byte("x"), []Event{{Kind: Injected, Message: id, Time: time.Now(), Reply: randomText(id)}}); err != nil {
					t.Error(err)
					return
				}
				if got, err := l.Find(ctx, id); err != nil || len(got) != 1 {
					t.Errorf("own event not found: %d, %v", len(got), err)
					return
				}
			}
		}()
	}
	if got, _ := read(t, c, writers*each); len(got) != writers*each {
		t.Errorf("%d events", len(got))
	}
	wg.Wait()
}

func TestLogOptionsValidate(t *testing.T) {
	for key, change := range map[string]func(*LogOptions){
		"keep":         func(o *LogOptions) { o.Keep = 0 },
		"segment_size": func(o *LogOptions) { o.SegmentSize = 1 },
		"max_size":     func(o *LogOptions) { o.MaxSize = o.SegmentSize },
	} {
		o := DefaultLogOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if err := DefaultLogOptions().Validate(); err != nil {
		t.Error(err)
	}
}
