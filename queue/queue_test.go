package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// world is what a queue under test delivers to: one site a domain, and an
// outcome by the recipient's local part.
type world struct {
	perSite   int // connections
	mu        sync.Mutex
	delivered []string // recipients, in order
	attempts  map[string]int
	down      map[string]bool // domains whose site cannot be reached
	noRoute   map[string]mail.Outcome
	took      time.Duration
	open, max int
	groups    []int
}

func newWorld() *world {
	return &world{perSite: 20, attempts: map[string]int{}, down: map[string]bool{}, noRoute: map[string]mail.Outcome{}}
}

func (w *world) Route(_ context.Context, m *mail.Message) (mail.Route, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if out, bad := w.noRoute[m.Domain()]; bad {
		return mail.Route{}, &mail.OutcomeError{Outcome: out}
	}
	return mail.Route{Site: m.Domain(), Domain: m.Domain(), Hosts: []mail.Host{{Name: "mx." + m.Domain()}}, Expires: time.Now().Add(time.Hour)}, nil
}

func (w *world) Open(_ context.Context, r mail.Route, _ Lease) (Session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[r.Domain] {
		return nil, &mail.OutcomeError{Outcome: mail.Outcome{Kind: mail.Deferred, Class: mail.ClassConnect, Started: time.Now(),
			Reply: mail.Reply{Code: 421, Enhanced: "4.4.1", Text: "refused"}}}
	}
	w.open++
	w.max = max(w.max, w.open)
	return &fakeSession{w: w}, nil
}

func (w *world) setDown(domain string, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[domain] = down
}

// got lists what was delivered so far, and the sizes of the transactions.
func (w *world) got() (delivered []string, groups []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.delivered...), append([]int(nil), w.groups...)
}

type fakeSession struct {
	w *world
	n int
}

func (s *fakeSession) Deliver(_ context.Context, msgs []*mail.Message, _ mail.Pass) []mail.Outcome {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if took := s.w.took; took > 0 {
		s.w.mu.Unlock()
		time.Sleep(took)
		s.w.mu.Lock()
	}
	s.n++
	s.w.groups = append(s.w.groups, len(msgs))
	out := make([]mail.Outcome, len(msgs))
	for i, m := range msgs {
		s.w.attempts[m.Recipient]++
		out[i] = s.w.outcome(m)
		if out[i].Kind == mail.Delivered {
			s.w.delivered = append(s.w.delivered, m.Recipient)
		}
	}
	return out
}

// outcome: "bad" bounces, "soft" is deferred twice, "never" always, all else is delivered.
func (w *world) outcome(m *mail.Message) mail.Outcome {
	out := mail.Outcome{Kind: mail.Delivered, Class: mail.ClassSMTP, Started: time.Now(), Reply: mail.Reply{Code: 250, Text: "ok"}}
	soft := mail.Outcome{Kind: mail.Deferred, Class: mail.ClassSMTP, Started: time.Now(), Reply: mail.Reply{Code: 451, Text: "later"}}
	switch {
	case strings.HasPrefix(m.Recipient, "bad"):
		out = mail.Outcome{Kind: mail.Bounced, Class: mail.ClassSMTP, Started: time.Now(), Reply: mail.Reply{Code: 550, Enhanced: "5.1.1", Text: "who?"}}
	case strings.HasPrefix(m.Recipient, "soft") && w.attempts[m.Recipient] <= 2:
		return soft
	case strings.HasPrefix(m.Recipient, "never"):
		return soft
	}
	return out
}

func (s *fakeSession) Usable() bool { return s.n < 10 }

func (s *fakeSession) Close() bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.open--
	return true
}

func testOptions(dir string) Options {
	o := DefaultOptions()
	o.Path = dir
	o.Spool.SegmentSize, o.Spool.Spares, o.Spool.MinFree = 1<<20, 0, 0
	o.Retry = RetryRule{First: units.Duration(time.Minute), Factor: 2, Max: units.Duration(time.Hour)}
	return o
}

func start(t *testing.T, o Options, w *world) *Queue {
	t.Helper()
	q, err := Open(context.Background(), o, Deps{Router: w, Deliverer: w, Gate: newBounded(w.perSite), Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	q.Start()
	return q
}

func stop(t *testing.T, q *Queue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := q.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// inject puts one batch of single copies and returns their ids.
func inject(t *testing.T, q *Queue, change func(*mail.Message), recipients ...string) []mail.ID {
	t.Helper()
	now := time.Now()
	ids := new(mail.IDs)
	first := ids.Reserve(now, len(recipients)+1)
	b := &mail.Batch{Body: &mail.Body{ID: first.Add(len(recipients)), Size: 4, Data: []byte("body")}}
	var list []mail.ID
	for i, r := range recipients {
		m := &mail.Message{ID: first.Add(i), Batch: first, Accepted: now, Tenant: "t", Priority: mail.Normal, Recipient: r,
			ReversePath: "from@x.test", Expires: now.Add(72 * time.Hour), Body: mail.BodyRef{ID: b.Body.ID, Size: 4}}
		if change != nil {
			change(m)
		}
		b.Messages = append(b.Messages, m)
		list = append(list, m.ID)
	}
	if err := q.Put(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return list
}

// kinds lists the kinds of all events about a message.
func kinds(t *testing.T, q *Queue, id mail.ID) string {
	t.Helper()
	h, err := q.History(context.Background(), "t", id)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range h.Events {
		list = append(list, string(e.Kind))
	}
	return strings.Join(list, " ")
}

func TestOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		q := start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		ids := inject(t, q, nil, "a@one.test", "bad@one.test", "soft@two.test", "never@two.test")
		time.Sleep(10 * time.Minute)
		for i, want := range []string{"injected delivered", "injected bounced", "injected deferred deferred delivered"} {
			if got := kinds(t, q, ids[i]); got != want {
				t.Errorf("message %d: %s, want %s", i, got, want)
			}
		}
		if n := q.Queued(); n != 1 {
			t.Errorf("%d queued, want the one that is never taken", n)
		}
		time.Sleep(80 * time.Hour)
		if got := kinds(t, q, ids[3]); !strings.HasSuffix(got, " expired") {
			t.Errorf("after its life: %s", got)
		}
		if n := q.Queued(); n != 0 {
			t.Errorf("%d queued at the end", n)
		}
	})
}

func TestScheduledAndDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		q := start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		begin := time.Now()
		later := inject(t, q, func(m *mail.Message) { m.NotBefore = begin.Add(time.Hour) }, "later@one.test")
		w.setDown("two.test", true)
		dead := inject(t, q, func(m *mail.Message) { m.Deadline = begin.Add(2 * time.Minute) }, "otp@two.test")
		time.Sleep(59 * time.Minute)
		if got := kinds(t, q, later[0]); got != "injected" {
			t.Errorf("before its time: %s", got)
		}
		if got := kinds(t, q, dead[0]); !strings.HasSuffix(got, "expired") {
			t.Errorf("past its deadline: %s", got)
		}
		time.Sleep(70 * time.Second)
		if got := kinds(t, q, later[0]); got != "injected delivered" {
			t.Errorf("after its time: %s", got)
		}
	})
}

func TestEqualCopiesShareATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		q := start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		var rcpts []string
		for i := range 250 {
			rcpts = append(rcpts, fmt.Sprintf("r%d@one.test", i))
		}
		inject(t, q, nil, rcpts...)
		time.Sleep(time.Minute)
		if delivered, groups := w.got(); len(delivered) != 250 || len(groups) > 5 {
			t.Errorf("%d delivered in %d transactions %v", len(delivered), len(groups), groups)
		}
	})
}

// TestFairness: one stream's backlog does not keep an urgent message or another tenant waiting.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.took = time.Second
		o := testOptions(t.TempDir())
		w.perSite, o.MaxPerTransaction = 1, 1
		q := start(t, o, w)
		defer stop(t, q)
		for i := range 300 {
			inject(t, q, nil, fmt.Sprintf("bulk%d@one.test", i))
		}
		time.Sleep(5500 * time.Millisecond)
		inject(t, q, func(m *mail.Message) { m.Priority = mail.Urgent }, "urgent@one.test")
		inject(t, q, func(m *mail.Message) { m.Tenant = "other" }, "x1@one.test", "x2@one.test", "x3@one.test")
		time.Sleep(10 * time.Second)
		delivered, _ := w.got()
		got := strings.Join(delivered[5:], " ")
		if place := strings.Index(got, "urgent"); place < 0 || strings.Count(got[:place], "bulk") > 1 {
			t.Errorf("urgent message behind bulk: %s", got)
		}
		if !strings.Contains(got, "x3") {
			t.Errorf("the other tenant waits: %s", got)
		}
	})
}

// TestBacklogOnDisk: far more than memory may hold, delivered once each.
func TestBacklogOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.took = 10 * time.Millisecond
		o := testOptions(t.TempDir())
		w.perSite, o.MaxReady, o.MaxInMemory = 2, 20, 50
		q := start(t, o, w)
		defer stop(t, q)
		const n = 2000
		for i := range n / 50 {
			var rcpts []string
			for j := range 50 {
				rcpts = append(rcpts, fmt.Sprintf("r%d@d%d.test", i*50+j, j%7))
			}
			inject(t, q, nil, rcpts...)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Minute)
		checkOnce(t, w, n)
		if q.Queued() != 0 {
			t.Errorf("%d queued", q.Queued())
		}
	})
}

// TestUrgentWhenMemoryIsFull: an urgent message does not wait for the index as others must.
func TestUrgentWhenMemoryIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.took = 40 * time.Second
		o := testOptions(t.TempDir())
		w.perSite, o.MaxReady, o.MaxInMemory = 1, 10, 10
		q := start(t, o, w)
		defer stop(t, q)
		for i := range 30 {
			inject(t, q, nil, fmt.Sprintf("r@d%d.test", i))
		}
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		w.took = 0
		w.mu.Unlock()
		inject(t, q, nil, "r@bulk.test")
		inject(t, q, func(m *mail.Message) { m.Priority = mail.Urgent }, "urgent@fresh.test")
		time.Sleep(100 * time.Millisecond)
		if delivered, _ := w.got(); !slices.Equal(delivered, []string{"urgent@fresh.test"}) {
			t.Errorf("delivered %v; want the urgent message alone", delivered)
		}
	})
}

func checkOnce(t *testing.T, w *world, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]int{}
	for _, r := range w.delivered {
		seen[r]++
		if seen[r] == 2 {
			t.Errorf("%s delivered twice", r)
		}
	}
	if len(seen) != n {
		t.Errorf("%d delivered, want %d", len(seen), n)
	}
}

// TestRestarts: stops at arbitrary moments; every message is delivered once and history is whole.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.took = 300 * time.Millisecond
		o := testOptions(t.TempDir())
		o.MaxReady = 10
		var ids []mail.ID
		n := 0
		for round := range 12 {
			q := start(t, o, w)
			for range 10 {
				ids = append(ids, inject(t, q, nil, fmt.Sprintf("r%d@a.test", n), fmt.Sprintf("soft%d@b.test", n), fmt.Sprintf("r%d@c.test", n))...)
				n++
				time.Sleep(time.Duration(round*37) * time.Millisecond)
			}
			stop(t, q)
		}
		q := start(t, o, w)
		defer stop(t, q)
		time.Sleep(3 * time.Hour)
		checkOnce(t, w, 3*n)
		for _, id := range ids {
			got := kinds(t, q, id)
			if !strings.HasPrefix(got, "injected") || strings.Count(got, "delivered") != 1 || strings.Count(got, "injected") != 1 {
				t.Errorf("history %s", got)
			}
		}
	})
}

func TestSiteDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.setDown("one.test", true)
		q := start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		ids := inject(t, q, nil, "a@one.test", "b@one.test")
		other := inject(t, q, nil, "c@two.test")
		time.Sleep(30 * time.Second)
		if got := kinds(t, q, other[0]); got != "injected delivered" {
			t.Errorf("another site: %s", got)
		}
		if got := kinds(t, q, ids[0]); got != "injected deferred" {
			t.Errorf("site down: %s", got)
		}
		w.setDown("one.test", false)
		time.Sleep(10 * time.Minute)
		for _, id := range ids {
			if got := kinds(t, q, id); !strings.HasSuffix(got, "delivered") {
				t.Errorf("site up again: %s", got)
			}
		}
	})
}

func TestNoRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.noRoute["null.test"] = mail.Outcome{Kind: mail.Bounced, Class: mail.ClassDNS, Started: time.Now(),
			Reply: mail.Reply{Code: 556, Enhanced: "5.1.10", Text: "null MX"}}
		q := start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		ids := inject(t, q, nil, "a@null.test")
		time.Sleep(time.Minute)
		if got := kinds(t, q, ids[0]); got != "injected bounced" {
			t.Errorf("null MX: %s", got)
		}
	})
}

func TestSuspendSurvivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		o := testOptions(t.TempDir())
		q := start(t, o, w)
		x, err := q.Suspend(Filter{Domain: "one.test"}, time.Time{}, "maintenance")
		if err != nil {
			t.Fatal(err)
		}
		ids := inject(t, q, nil, "a@one.test")
		inject(t, q, nil, "b@two.test")
		time.Sleep(time.Minute)
		stop(t, q)
		q = start(t, o, w)
		defer stop(t, q)
		time.Sleep(time.Minute)
		if delivered, _ := w.got(); len(delivered) != 1 {
			t.Errorf("delivered %v while suspended", delivered)
		}
		if err := q.Resume(x.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := kinds(t, q, ids[0]); got != "injected delivered" {
			t.Errorf("after resume: %s", got)
		}
		if err := q.Resume(x.ID); err == nil {
			t.Error("resumed twice")
		}
	})
}

func TestBounceAndRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		q := start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		ctx := context.Background()
		far := func(m *mail.Message) { m.NotBefore = time.Now().Add(24 * time.Hour) }
		a := inject(t, q, far, "a@one.test", "b@one.test")
		b := inject(t, q, far, "c@two.test")
		time.Sleep(5 * time.Second) // now they are on disk only
		if n, err := q.Bounce(ctx, Filter{Recipient: "a@*"}, ""); n != 1 || err != nil {
			t.Errorf("bounced %d, %v", n, err)
		}
		if n, err := q.Retry(ctx, Filter{Domain: "two.test"}); n != 1 || err != nil {
			t.Errorf("retried %d, %v", n, err)
		}
		time.Sleep(10 * time.Second)
		if got := kinds(t, q, a[0]); got != "injected bounced" {
			t.Errorf("bounced by the operator: %s", got)
		}
		if got := kinds(t, q, b[0]); got != "injected delivered" {
			t.Errorf("tried now: %s", got)
		}
		if _, err := q.Bounce(ctx, Filter{}, ""); err == nil {
			t.Error("an empty filter was taken")
		}
		list, err := q.List(Filter{All: true})
		if err != nil || len(list) != 1 || list[0].Messages != 1 {
			t.Errorf("list %+v, %v", list, err)
		}
	})
}

func TestExportImport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		q := start(t, testOptions(t.TempDir()), w)
		far := func(m *mail.Message) { m.NotBefore = time.Now().Add(time.Hour) }
		ids := inject(t, q, far, "a@one.test", "b@two.test")
		time.Sleep(5 * time.Second)
		var out strings.Builder
		if n, err := q.Export(context.Background(), Filter{All: true}, &out); n != 2 || err != nil {
			t.Fatalf("exported %d, %v", n, err)
		}
		stop(t, q)
		q = start(t, testOptions(t.TempDir()), w)
		defer stop(t, q)
		if stored, known, err := q.Import(context.Background(), strings.NewReader(out.String())); stored != 2 || known != 0 || err != nil {
			t.Fatalf("imported %d, %d, %v", stored, known, err)
		}
		time.Sleep(2 * time.Hour)
		checkOnce(t, w, 2)
		if got := kinds(t, q, ids[0]); got != "injected delivered" {
			t.Errorf("history %s", got)
		}
	})
}

func TestQueueFullAndDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		o := testOptions(t.TempDir())
		o.MaxMessages = 2
		q := start(t, o, w)
		defer stop(t, q)
		now := time.Now()
		id := new(mail.IDs).New(now)
		b := &mail.Batch{Body: &mail.Body{ID: id, Size: 1, Data: []byte("x")}}
		for range 3 {
			b.Messages = append(b.Messages, &mail.Message{ID: id, Recipient: "a@b", Accepted: now})
		}
		if err := q.Put(context.Background(), b); err != mail.ErrQueueFull {
			t.Errorf("beyond max_messages: %v", err)
		}
		q.Drain(true)
		if err := q.Put(context.Background(), b); err != mail.ErrDraining {
			t.Errorf("draining: %v", err)
		}
	})
}

func TestConnectionLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.took = time.Second
		o := testOptions(t.TempDir())
		w.perSite, o.MaxSessions = 2, 3
		q := start(t, o, w)
		defer stop(t, q)
		for i := range 60 {
			inject(t, q, nil, fmt.Sprintf("r%d@d%d.test", i, i%6))
		}
		time.Sleep(5 * time.Minute)
		checkOnce(t, w, 60)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.max > 3 {
			t.Errorf("%d connections, the limit is 3", w.max)
		}
	})
}

func TestRetrySchedule(t *testing.T) {
	r := RetryRule{First: units.Duration(time.Minute), Factor: 2, Max: units.Duration(10 * time.Minute), Jitter: 0.5}
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		if got := r.wait(i+1, 0.5); got != want {
			t.Errorf("wait after %d attempts: %v, want %v", i+1, got, want)
		}
	}
	if lo, hi := r.wait(1, 0), r.wait(1, 0.999999); lo != 30*time.Second || hi < 89*time.Second || hi > 90*time.Second {
		t.Errorf("jitter from %v to %v", lo, hi)
	}
	o := Options{Retry: r, Rules: []RetryRule{{Domain: "x.test", First: units.Duration(time.Second)}}}
	if got := o.rule(&mail.Message{Recipient: "a@X.test"}, ""); got.First.D() != time.Second {
		t.Errorf("rule for the domain not chosen: %+v", got)
	}
}

// TestHandoff: what waits goes to another queue once, also when its answers
// are lost or it refuses, and is over here.
func TestHandoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newWorld(), newWorld()
		from.setDown("later.test", true)
		q := start(t, testOptions(t.TempDir()), from)
		other := start(t, testOptions(t.TempDir()), to)
		defer stop(t, q)
		defer stop(t, other)
		var rcpts []string
		for i := range 300 {
			rcpts = append(rcpts, fmt.Sprintf("r%d@later.test", i))
		}
		ids := inject(t, q, nil, rcpts...)
		time.Sleep(5 * time.Second) // deferred by now
		calls := 0
		n, err := q.Handoff(t.Context(), Filter{All: true}, func(ctx context.Context, lines []byte, n int) error {
			if calls++; calls == 1 {
				return fmt.Errorf("%w: full", ErrNotTaken)
			}
			return nil
		})
		if n != 0 || !errors.Is(err, ErrNotTaken) || q.Queued() != 300 {
			t.Fatalf("refused: moved %d, %d queued, %v", n, q.Queued(), err)
		}
		n, err = q.Handoff(t.Context(), Filter{All: true}, func(ctx context.Context, lines []byte, n int) error {
			stored, known, err := other.Import(ctx, bytes.NewReader(lines))
			if err != nil || stored+known != n {
				t.Errorf("import: %d stored, %d known of %d: %v", stored, known, n, err)
			}
			if calls++; calls%2 == 1 {
				return errors.New("answer lost")
			}
			return nil
		})
		if n != 300 || err != nil || q.Queued() != 0 {
			t.Fatalf("moved %d, %d left: %v", n, q.Queued(), err)
		}
		if got := kinds(t, q, ids[7]); !strings.HasSuffix(got, "moved") {
			t.Errorf("events here: %s", got)
		}
		time.Sleep(2 * time.Hour)
		checkOnce(t, to, 300)
	})
}
