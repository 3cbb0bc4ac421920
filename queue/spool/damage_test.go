package spool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// flip damages one byte of a record's data.
func flip(t *testing.T, s *Spool, pos seglog.Pos, at int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, segmentDir, "*.seg"))
	if err != nil || len(names) == 0 {
		t.Fatalf("segments %v, %v", names, err)
	}
	f, err := os.OpenFile(names[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var b [1]byte
	off := seglog.DataOffset(pos) + at
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedSegment: damage in what was acknowledged keeps the spool from
// starting, with an error that says what to do; a repair goes on without it.
func TestDamagedSegment(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	ids := new(mail.IDs)
	var places []Loc
	var first []mail.ID
	for range 3 {
		b := batchOf(ids, 2, "a body")
		places = append(places, put(t, s, b)[0])
		first = append(first, b.Messages[0].ID)
	}
	_ = s.Close()
	flip(t, s, places[1].Pos(), 40)
	o, d := options()
	_, _, err := Open(context.Background(), dir, o, d)
	if err == nil || !strings.Contains(err.Error(), "godwit queue repair") {
		t.Fatalf("open with a damaged record: %v", err)
	}
	r, err := Repair(context.Background(), dir, o, d)
	if err != nil || len(r.Damage) != 1 || r.Replayed != 4 {
		t.Fatalf("repair: %+v, %v", r, err)
	}
	s, _ = openT(t, dir)
	defer func() { _ = s.Close() }()
	got := rows(t, s)
	if _, there := got[first[1]]; there || len(got) != 4 {
		t.Errorf("%d rows, want the four that can be read", len(got))
	}
}

// TestInterruptedRepair: when the index is gone and a repair did not finish,
// the next start rebuilds it, rows that had been moved included.
func TestInterruptedRepair(t *testing.T) {
	dir := t.TempDir()
	o, d := options()
	o.SegmentSize = 32 << 10
	s, _, err := Open(context.Background(), dir, o, d)
	if err != nil {
		t.Fatal(err)
	}
	ids := new(mail.IDs)
	body := strings.Repeat("x", 5000)
	f := Flush{Queues: []QueueRecord{{ID: 1, Domain: "d0.test"}}}
	alive := map[mail.ID]bool{}
	for i := range 120 {
		b := batchOf(ids, 1, body)
		loc := put(t, s, b)[0]
		if m := b.Messages[0]; i%12 == 0 {
			alive[m.ID] = true
			f.Put = append(f.Put, Entry{Key: Key{1, DueOf(m), m.ID}, Loc: loc})
			f.Fresh = append(f.Fresh, loc.Seg)
		} else {
			record(t, s, Change{Kind: ChangeEnded, ID: m.ID, Queue: 1, Due: DueOf(m)})
			s.Forget(m, loc)
		}
	}
	f.Horizon, f.Events = s.Horizon(), s.EventLog().Tail()
	moved := 0
	for range 10 {
		if err := s.Flush(&f, time.Now()); err != nil {
			t.Fatal(err)
		}
		f = Flush{Horizon: s.Horizon(), Events: s.EventLog().Tail()}
		places, err := s.Compact(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		moved += len(places)
	}
	if moved == 0 {
		t.Fatal("nothing was moved: the test proves nothing")
	}
	_ = s.Close()
	if err := os.Remove(filepath.Join(dir, indexFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	s, r, err := Open(context.Background(), dir, o, d)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if got := rows(t, s); len(got) != len(alive) {
		t.Errorf("%d rows, %d are alive; recovery %+v", len(got), len(alive), r)
	}
}
