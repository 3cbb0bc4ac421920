package spool

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

// TestCompact: one message in each segment stays; the segments go, the
// messages and stored content do not, also not after a rebuild of the index.
func TestCompact(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	ids := new(mail.IDs)
	now := time.Now()
	content := ids.New(now)
	put(t, s, &mail.Batch{Body: &mail.Body{ID: content, Size: 4, Data: []byte("kept")}, ContentUntil: now.Add(time.Hour), ContentTenant: "t"})
	var stay []*mail.Message
	f := Flush{Queues: []QueueRecord{{ID: 1, Tenant: "t", Domain: "d0.test"}}}
	for i := range 120 {
		b := batchOf(ids, 2, string(bytes.Repeat([]byte{byte('a' + i%26)}, 100<<10)))
		locs := put(t, s, b)
		for j, m := range b.Messages {
			if i%10 == 0 && j == 1 {
				stay = append(stay, m)
				f.Put = append(f.Put, Entry{Key: Key{1, DueOf(m), m.ID}, Loc: locs[j], Attempts: 2, LastReply: "451 later"})
				f.Fresh = append(f.Fresh, locs[j].Seg)
				record(t, s, Change{Kind: ChangeDeferred, ID: m.ID, Queue: 1, Due: DueOf(m), NewDue: DueOf(m), Attempts: 2, Reply: "451 later"})
			} else {
				s.Forget(m, locs[j])
				record(t, s, Change{Kind: ChangeEnded, ID: m.ID, Queue: 1, Due: DueOf(m)})
			}
		}
	}
	f.Horizon, f.Events = s.Horizon(), s.EventLog().Tail()
	if err := s.Flush(&f, now); err != nil {
		t.Fatal(err)
	}
	before := len(s.log.Segments())
	for range before {
		if _, err := s.Compact(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(&Flush{Horizon: s.Horizon(), Events: s.EventLog().Tail()}, now); err != nil {
			t.Fatal(err)
		}
	}
	if after := len(s.log.Segments()); after >= before || after > compactSegments {
		t.Errorf("%d segments before, %d after", before, after)
	}
	check := func(when string) {
		t.Helper()
		got := rows(t, s)
		if len(got) != len(stay) {
			t.Fatalf("%s: %d rows, want %d", when, len(got), len(stay))
		}
		for _, want := range stay {
			e := got[want.ID]
			m, err := s.Load(e.Loc)
			if err != nil || m.Recipient != want.Recipient || e.Attempts != 2 || e.Due != DueOf(want) {
				t.Fatalf("%s: row %+v, message %v, %v", when, e, m, err)
			}
			data, release, err := s.Body(context.Background(), m, e.Loc)
			if err != nil || len(data) != 100<<10 {
				t.Fatalf("%s: body of %d bytes, %v", when, len(data), err)
			}
			release()
		}
		ref, err := s.Content("t", content, now)
		if err != nil {
			t.Fatalf("%s: content: %v", when, err)
		}
		data, release, err := s.Body(context.Background(), &mail.Message{Body: ref}, Loc{})
		if err != nil || string(data) != "kept" {
			t.Fatalf("%s: content %q, %v", when, data, err)
		}
		release()
	}
	check("after the move")
	reopen := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, _ = openT(t, dir)
	}
	reopen()
	check("after a restart")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o, d := options()
	if _, err := Repair(context.Background(), dir, o, d); err != nil {
		t.Fatal(err)
	}
	s, _ = openT(t, dir)
	defer func() { _ = s.Close() }()
	check("after a rebuild")
}
