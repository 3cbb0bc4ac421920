package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
)

func options() (Options, Deps) {
	o := DefaultOptions()
	o.SegmentSize, o.Spares, o.MinFree = 1<<20, 0, 0
	return o, Deps{Events: event.DefaultLogOptions(), InjectedEvent: func(m *mail.Message) event.Event {
		return event.Event{ID: m.ID.String(), Kind: event.Injected, Message: m.ID, Time: m.Accepted}
	}}
}

func openT(t *testing.T, dir string) (*Spool, *Recovery) {
	t.Helper()
	o, d := options()
	s, r, err := Open(context.Background(), dir, o, d)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// batchOf makes a batch of n messages with an inline body.
func batchOf(ids *mail.IDs, n int, body string) *mail.Batch {
	now := time.Now()
	first := ids.Reserve(now, n+1)
	b := &mail.Batch{Body: &mail.Body{ID: first.Add(n), Size: int64(len(body)), Data: []byte(body)}}
	for i := range n {
		b.Messages = append(b.Messages, &mail.Message{ID: first.Add(i), Batch: first, Accepted: now, Tenant: "t", Stream: "s",
			ReversePath: "b@x.test", Recipient: fmt.Sprintf("r%d@d%d.test", i, i%3), Expires: now.Add(time.Hour),
			Body: mail.BodyRef{ID: first.Add(n), Size: int64(len(body))}})
	}
	return b
}

func put(t *testing.T, s *Spool, b *mail.Batch) []Loc {
	t.Helper()
	var locs []Loc
	if err := s.Put(context.Background(), b, func(l []Loc, told func()) { locs = l; told() }); err != nil {
		t.Fatal(err)
	}
	return locs
}

// rows lists every row of the index.
func rows(t *testing.T, s *Spool) map[mail.ID]Entry {
	t.Helper()
	all := map[mail.ID]Entry{}
	if err := s.Index().Scan(0, func(e Entry) bool { all[e.ID] = e; return true }); err != nil {
		t.Fatal(err)
	}
	return all
}

func record(t *testing.T, s *Spool, changes ...Change) {
	t.Helper()
	var b []byte
	for i := range changes {
		b = AppendChange(b, &changes[i])
	}
	if _, err := s.EventLog().Append(context.Background(), b, nil); err != nil {
		t.Fatal(err)
	}
}

func TestRowRoundTrip(t *testing.T) {
	c := newRowCodec()
	now := time.Unix(1_700_000_000, 123).UTC()
	id := new(mail.IDs).New(now)
	base := mail.Message{ID: id, Batch: id, Accepted: now, Tenant: "t", Stream: "s", Pool: "p", Priority: mail.Urgent,
		Tags: []mail.Tag{{Name: "a", Value: "b"}}, Expires: now.Add(time.Hour), ReversePath: "x@y", Recipient: "r@d",
		DSN: mail.DSN{Notify: mail.NotifySuccess, Ret: "FULL", EnvelopeID: "e", OriginalRecipient: "rfc822;o@p"}, SMTPUTF8: true,
		Body: mail.BodyRef{ID: id.Add(9), Size: 3}}
	other := base
	other.ID, other.Recipient, other.Tenant, other.Stream, other.Pool = id.Add(77), "ü@d", "t2", "", "p2"
	other.Priority, other.Tags, other.NotBefore, other.Deadline = mail.Bulk, nil, now.Add(time.Minute), now.Add(2*time.Minute)
	other.Expires, other.ReversePath, other.DSN, other.SMTPUTF8 = time.Time{}, "", mail.DSN{}, false
	other.Substitutions, other.Attempts, other.NextAttempt, other.LastReply = []byte(`{"a":1}`), 3, now, "451 later"
	other.Accepted = now.Add(-time.Hour)
	b := &mail.Batch{Body: &mail.Body{ID: base.Body.ID, Size: 3, Data: []byte("abc")}, Messages: []*mail.Message{&base, &other},
		Receipt: &mail.Receipt{Tenant: "t", Key: "k", Digest: [32]byte{1}, Answer: []byte("A"), At: now}}
	data := bytes.Join(c.encodeBatch(b).parts, nil)
	got, err := c.decodeBatch(data)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range b.Messages {
		if g, w := fmt.Sprintf("%+v", utc(got.messages[i])), fmt.Sprintf("%+v", utc(want)); g != w {
			t.Errorf("message %d:\ngot  %s\nwant %s", i, g, w)
		}
	}
	if string(data[got.bodyOff:got.bodyOff+3]) != "abc" {
		t.Error("body offset is wrong")
	}
	if got.receipt.Key != "k" || string(got.receipt.Answer) != "A" {
		t.Errorf("receipt %+v", got.receipt)
	}
}

func utc(m *mail.Message) mail.Message {
	c := *m
	for _, p := range []*time.Time{&c.Accepted, &c.NotBefore, &c.Deadline, &c.Expires, &c.NextAttempt} {
		if !p.IsZero() {
			*p = p.UTC()
		}
	}
	return c
}

func FuzzDecodeBatch(f *testing.F) {
	c := newRowCodec()
	f.Add(bytes.Join(c.encodeBatch(batchOf(new(mail.IDs), 2, "hello")).parts, nil))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = c.decodeBatch(b) })
}

func TestPutLoadBody(t *testing.T) {
	s, _ := openT(t, t.TempDir())
	defer func() { _ = s.Close() }()
	b := batchOf(new(mail.IDs), 4, "Subject: x\r\n\r\nbody\r\n")
	locs := put(t, s, b)
	for i, loc := range locs {
		m, err := s.Load(loc)
		if err != nil {
			t.Fatal(err)
		}
		if m.ID != b.Messages[i].ID || m.Recipient != b.Messages[i].Recipient {
			t.Errorf("row %d: %v %s", i, m.ID, m.Recipient)
		}
		data, release, err := s.Body(context.Background(), m, loc)
		if err != nil || !bytes.Equal(data, b.Body.Data) {
			t.Fatalf("body %q, %v", data, err)
		}
		release()
	}
}

// TestRecoverKilled: nothing was flushed; everything durable comes back, what ended does not.
func TestRecoverKilled(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	ids := new(mail.IDs)
	b := batchOf(ids, 6, "one")
	put(t, s, b)
	due := b.Messages[0].Accepted.UnixMilli()
	later := due + 60_000
	record(t, s, Change{Kind: ChangeInjected, ID: b.Messages[0].ID},
		Change{Kind: ChangeEnded, ID: b.Messages[0].ID, Queue: 1, Due: due},
		Change{Kind: ChangeDeferred, ID: b.Messages[1].ID, Queue: 2, Due: due, NewDue: later, Attempts: 1, Reply: "451 x"})
	if err := s.Close(); err != nil { // without Flush: like kill -9
		t.Fatal(err)
	}
	for round := range 2 {
		s, r := openT(t, dir)
		got := rows(t, s)
		if len(got) != 5 {
			t.Fatalf("round %d: %d rows, want 5", round, len(got))
		}
		if _, there := got[b.Messages[0].ID]; there {
			t.Error("an ended message came back")
		}
		if e := got[b.Messages[1].ID]; e.Due != later || e.Attempts != 1 || e.LastReply != "451 x" {
			t.Errorf("deferred row %+v", e)
		}
		var total int64
		for _, q := range r.Queues {
			total += q.Rows
		}
		if total != 5 || len(r.Queues) != 3 {
			t.Errorf("queues %+v", r.Queues)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInjectedEventsAreMadeUp: a batch whose injected events were lost gets them at recovery, once.
func TestInjectedEventsAreMadeUp(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	b := batchOf(new(mail.IDs), 1, "x")
	put(t, s, b)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, _ := openT(t, dir)
		events, err := s.EventLog().Find(context.Background(), b.Messages[0].ID)
		if err != nil || len(events) != 1 {
			t.Fatalf("events %v, %v, want one", events, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlushAndChanges: rows in the index end and move by changes after the checkpoint.
func TestFlushAndChanges(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	b := batchOf(new(mail.IDs), 3, "x")
	locs := put(t, s, b)
	f := Flush{Horizon: s.Horizon(), Events: s.EventLog().Tail()}
	for i, m := range b.Messages {
		f.Queues = append(f.Queues, QueueRecord{ID: uint32(i + 1), Tenant: "t", Stream: "s", Domain: m.Domain()})
		f.Put = append(f.Put, Entry{Key: Key{uint32(i + 1), DueOf(m), m.ID}, Loc: locs[i]})
		f.Fresh = append(f.Fresh, locs[i].Seg)
	}
	if err := s.Flush(&f, time.Now()); err != nil {
		t.Fatal(err)
	}
	m0, m1 := b.Messages[0], b.Messages[1]
	record(t, s, Change{Kind: ChangeEnded, ID: m0.ID, Queue: 1, Due: DueOf(m0)},
		Change{Kind: ChangeDeferred, ID: m1.ID, Queue: 2, Due: DueOf(m1), NewDue: 5_000_000_000_000, Attempts: 1},
		Change{Kind: ChangeDeferred, ID: m1.ID, Queue: 2, Due: 5_000_000_000_000, NewDue: 6_000_000_000_000, Attempts: 2})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openT(t, dir)
	defer func() { _ = s.Close() }()
	got := rows(t, s)
	if len(got) != 2 || got[m1.ID].Due != 6_000_000_000_000 || got[m1.ID].Attempts != 2 {
		t.Fatalf("rows %+v", got)
	}
	if m, err := s.Load(got[m1.ID].Loc); err != nil || m.Recipient != m1.Recipient {
		t.Errorf("loaded %v, %v", m, err)
	}
}

// TestSegmentsAreFreed: with everything ended, old segments are given back.
func TestSegmentsAreFreed(t *testing.T) {
	s, _ := openT(t, t.TempDir())
	defer func() { _ = s.Close() }()
	ids := new(mail.IDs)
	body := string(bytes.Repeat([]byte("b"), 100<<10))
	for range 40 {
		b := batchOf(ids, 1, body)
		locs := put(t, s, b)
		s.Forget(b.Messages[0], locs[0])
	}
	if n := len(s.log.Segments()); n < 4 {
		t.Fatalf("%d segments before the flush: the test proves nothing", n)
	}
	if err := s.Flush(&Flush{Horizon: s.Horizon(), Events: s.EventLog().Tail()}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if n := len(s.log.Segments()); n > 2 {
		t.Errorf("%d segments left, want the newest only", n)
	}
}

func TestContentIsSharedAndDropped(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	ids := new(mail.IDs)
	now := time.Now()
	id := ids.New(now)
	content := &mail.Batch{Body: &mail.Body{ID: id, Kind: mail.BodyContent, Size: 2, Data: []byte("{}")},
		ContentUntil: now.Add(time.Hour), ContentTenant: "t"}
	put(t, s, content)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openT(t, dir)
	ref, err := s.Content("t", id, now)
	if err != nil || ref.Kind != mail.BodyContent {
		t.Fatalf("content after restart: %+v, %v", ref, err)
	}
	if _, err := s.Content("other", id, now); !errors.Is(err, mail.ErrNotFound) {
		t.Errorf("another tenant's content: %v", err)
	}
	b := batchOf(ids, 1, "")
	b.Body = nil
	b.Messages[0].Body = ref
	locs := put(t, s, b)
	late := now.Add(48 * time.Hour)
	flush := func() {
		t.Helper()
		if err := s.Flush(&Flush{Horizon: s.Horizon(), Events: s.EventLog().Tail()}, late); err != nil {
			t.Fatal(err)
		}
	}
	flush()
	data, release, err := s.Body(context.Background(), b.Messages[0], locs[0])
	if err != nil || string(data) != "{}" {
		t.Fatalf("body of a row after its content's time: %q, %v", data, err)
	}
	release()
	s.Forget(b.Messages[0], locs[0])
	flush()
	if _, err := s.Content("t", id, now); !errors.Is(err, mail.ErrNotFound) {
		t.Errorf("content that nobody needs is still there: %v", err)
	}
	_ = s.Close()
}

func TestLargeBodies(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	l, err := s.Large(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = l.Write([]byte("large body"))
	if err := l.Commit(); err != nil {
		t.Fatal(err)
	}
	abandoned, err := s.Large(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = abandoned.Write([]byte("half"))
	b := batchOf(new(mail.IDs), 2, "")
	b.Body.Data, b.Body.Path, b.Body.Size = nil, l.Path(), 10
	for _, m := range b.Messages {
		m.Body.Size = 10
	}
	locs := put(t, s, b)
	_ = s.Close()
	s, _ = openT(t, dir)
	got := rows(t, s)
	data, release, err := s.Body(context.Background(), b.Messages[0], got[b.Messages[0].ID].Loc)
	if err != nil || string(data) != "large body" {
		t.Fatalf("large body after restart: %q, %v (was at %v)", data, err, locs)
	}
	release()
	files, _ := os.ReadDir(filepath.Join(dir, largeDir))
	if len(files) != 1 {
		t.Errorf("%d files, the abandoned upload should be swept", len(files))
	}
	for _, m := range b.Messages {
		record(t, s, Change{Kind: ChangeEnded, ID: m.ID, Queue: got[m.ID].Queue, Due: got[m.ID].Due})
	}
	_ = s.Close()
	s, _ = openT(t, dir)
	defer func() { _ = s.Close() }()
	if err := s.Flush(&Flush{Horizon: s.Horizon(), Events: s.EventLog().Tail()}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(filepath.Join(dir, largeDir)); len(files) != 0 {
		t.Error("the file of an ended message is still there")
	}
}

// TestDamagedIndex: cut at many lengths, it is refused with the repair
// command, never a crash; repair brings every live message back.
func TestDamagedIndex(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	ids := new(mail.IDs)
	alive := map[mail.ID]bool{}
	for i := range 50 {
		b := batchOf(ids, 3, "body")
		put(t, s, b)
		for j, m := range b.Messages {
			if (i+j)%4 == 0 {
				record(t, s, Change{Kind: ChangeEnded, ID: m.ID, Queue: 1, Due: DueOf(m)})
			} else {
				alive[m.ID] = true
			}
		}
	}
	_ = s.Close()
	s, _ = openT(t, dir) // puts everything into the index
	_ = s.Close()
	path := filepath.Join(dir, indexFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o, d := options()
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		if err := os.WriteFile(path, whole[:random.IntN(len(whole))&^511], 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, err := Open(context.Background(), dir, o, d)
		if err == nil { // cut in the unused tail of the file
			_ = s.Close()
			continue
		}
		if !errors.Is(err, ErrIndexDamaged) {
			t.Errorf("cut index: %v", err)
		}
	}
	if err := os.WriteFile(path, whole[:len(whole)/3], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Repair(context.Background(), dir, o, d); err != nil {
		t.Fatal(err)
	}
	s, _ = openT(t, dir)
	defer func() { _ = s.Close() }()
	got := rows(t, s)
	if len(got) != len(alive) {
		t.Errorf("%d rows after repair, want %d", len(got), len(alive))
	}
	for id := range got {
		if !alive[id] {
			t.Errorf("repair brought back %v, which had ended", id)
		}
	}
}

func TestVolumeInUse(t *testing.T) {
	dir := t.TempDir()
	s, _ := openT(t, dir)
	defer func() { _ = s.Close() }()
	o, d := options()
	if _, _, err := Open(context.Background(), dir, o, d); !errors.Is(err, ErrVolumeInUse) {
		t.Errorf("second open: %v", err)
	}
}
