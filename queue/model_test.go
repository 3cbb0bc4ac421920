package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

// TestRandomHistories runs random histories of a queue against a model that
// fits on a page: every message that Put took ends exactly once or is still
// there, whatever operators do and however often the process dies. A death is
// a copy of the volume at a quiet moment, without a flush: what is in the
// page cache survives, so this is kill -9 and not a power cut. The gate is a fickle one.
//
// GODWIT_SEED reproduces one history.
func TestRandomHistories(t *testing.T) {
	histories, seed := 8, uint64(time.Now().UnixNano())
	if testing.Short() {
		histories = 3
	}
	if s := os.Getenv("GODWIT_SEED"); s != "" {
		histories = 1
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(histories) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newHistory(t, seed+i).run(60) })
		})
	}
}

// wanted is what the model knows of one message.
type wanted struct {
	id        mail.ID
	recipient string
	domain    string
	body      string
	deferrals int // before it is taken or refused
	bounces   bool
	notBefore time.Time
	deadline  time.Time

	answered  int // attempts that the provider answered
	delivered int
	excused   int // deliveries that a death may have repeated
}

// history is one run: the queue, what it delivers to, and the model.
type history struct {
	t    *testing.T
	r    *rand.Rand
	dir  string
	o    Options
	ids  mail.IDs
	q    *Queue
	gen  int
	next int

	perSite int // connections
	gate    *fickle
	steps   []string // so far, for the log of a failure

	mu        sync.Mutex
	took      time.Duration
	down      map[string]bool
	suspended map[string]string // domain → id of the suspension
	all       []*wanted
	byID      map[mail.ID]*wanted
	content   map[string]mail.BodyRef // by tenant
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, r: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), down: map[string]bool{},
		suspended: map[string]string{}, byID: map[mail.ID]*wanted{}, content: map[string]mail.BodyRef{}}
	h.o = testOptions("")
	h.o.MaxReady, h.o.MaxInMemory = 10, 10+h.r.IntN(40)
	h.perSite, h.o.MaxPerTransaction = 1+h.r.IntN(3), 1+h.r.IntN(20)
	h.o.BodyMemory = units.Size(h.r.IntN(2000))
	h.o.Retry = RetryRule{First: units.Duration(20 * time.Second), Factor: 1.5, Max: units.Duration(2 * time.Minute), Jitter: 0.3}
	h.o.HoldMax = units.Duration(30 * time.Second)
	h.o.MaxSessions = 1 + h.r.IntN(12)
	return h
}

func (h *history) run(steps int) {
	h.open(h.volume())
	h.q.Start()
	for range steps {
		h.step()
		synctest.Wait()
		h.audit()
		if h.t.Failed() {
			h.t.Logf("steps: %v", h.steps)
			break
		}
	}
	h.settle()
	h.close()
}

func (h *history) volume() string { return filepath.Join(h.dir, strconv.Itoa(h.gen)) }

func (h *history) open(dir string) {
	h.gen++
	h.o.Path = dir
	w := &provider{h: h, gen: h.gen}
	h.gate = newFickle(h.t, h.r, h.perSite)
	q, err := Open(context.Background(), h.o, Deps{Router: w, Deliverer: w, Gate: h.gate, Fatal: func(err error) { h.t.Error(err) }})
	if err != nil {
		h.t.Fatal(err)
	}
	h.q = q
}

func (h *history) close() { stop(h.t, h.q) }

// step does one random thing.
func (h *history) step() {
	n := h.r.IntN(100)
	h.steps = append(h.steps, fmt.Sprintf("%d@%s", n, time.Now().Format("15:04:05.000")))
	switch {
	case n < 35:
		h.put()
	case n < 60:
		time.Sleep(time.Duration(h.r.IntN(4000)) * time.Millisecond)
	case n < 67:
		time.Sleep(time.Duration(h.r.IntN(60)) * time.Second)
	case n < 72:
		h.toggleDown()
	case n < 77:
		h.toggleSuspended()
	case n < 82:
		h.bounce()
	case n < 87:
		h.retry()
	case n < 90:
		h.mu.Lock()
		h.took = time.Duration(h.r.IntN(3)*h.r.IntN(400)) * time.Millisecond
		h.mu.Unlock()
	case n < 93:
		h.close()
		h.open(h.o.Path)
		h.q.Start()
	case n < 99:
		h.die(false)
	default:
		h.die(true)
	}
}

func (h *history) domain() string { return string(rune('a'+h.r.IntN(4))) + ".test" }

// put stores one batch: its body inline, in a file, or stored before.
func (h *history) put() {
	now := time.Now()
	n := 1 + h.r.IntN(30)
	first := h.ids.Reserve(now, n+1)
	tenant := string(rune('t' + h.r.IntN(2)))
	text := strings.Repeat(fmt.Sprintf("body of %v. ", first), 1+h.r.IntN(20))
	b := &mail.Batch{Body: &mail.Body{ID: first.Add(n), Size: int64(len(text)), Data: []byte(text)}}
	ref := mail.BodyRef{ID: b.Body.ID, Size: b.Body.Size}
	switch h.r.IntN(6) {
	case 0:
		h.large(b, text)
	case 1:
		if stored, ok := h.content[tenant]; ok {
			b.Body, ref, text = nil, stored, ""
		} else {
			b.ContentUntil, b.ContentTenant, ref.Content = now.Add(24*time.Hour), tenant, true
			h.content[tenant] = ref
		}
	}
	var list []*wanted
	for i := range n {
		w := &wanted{id: first.Add(i), body: text, domain: h.domain(), bounces: h.r.IntN(10) == 0}
		w.recipient = fmt.Sprintf("r%d@%s", h.next, w.domain)
		h.next++
		if h.r.IntN(3) == 0 {
			w.deferrals = 1 + h.r.IntN(3)
		}
		if h.r.IntN(6) == 0 {
			w.notBefore = now.Add(time.Duration(h.r.IntN(300)) * time.Second)
		}
		if h.r.IntN(12) == 0 {
			w.deadline = now.Add(time.Duration(1+h.r.IntN(120)) * time.Second)
		}
		list = append(list, w)
		b.Messages = append(b.Messages, &mail.Message{ID: w.id, Batch: first, Accepted: now, Tenant: tenant,
			Stream: strconv.Itoa(h.r.IntN(2)), Priority: mail.Priority(h.r.IntN(3)), NotBefore: w.notBefore, Deadline: w.deadline,
			Expires: now.Add(100 * time.Hour), Recipient: w.recipient, Body: ref})
	}
	h.mu.Lock()
	for _, w := range list {
		h.all = append(h.all, w)
		h.byID[w.id] = w
	}
	h.mu.Unlock()
	if err := h.q.Put(context.Background(), b); err != nil {
		h.t.Fatal(err)
	}
}

// large moves a batch's body into a file.
func (h *history) large(b *mail.Batch, text string) {
	f, err := h.q.Large(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := f.Write([]byte(text)); err != nil {
		h.t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		h.t.Fatal(err)
	}
	b.Body.Data, b.Body.Path = nil, f.Path()
}

func (h *history) toggleDown() {
	d := h.domain()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down[d] = !h.down[d]
}

func (h *history) toggleSuspended() {
	d := h.domain()
	h.mu.Lock()
	id := h.suspended[d]
	delete(h.suspended, d)
	h.mu.Unlock()
	if id != "" {
		if err := h.q.Resume(id); err != nil {
			h.t.Error(err)
		}
		return
	}
	x, err := h.q.Suspend(Filter{Domain: d}, time.Time{}, "")
	if err != nil {
		h.t.Error(err)
	}
	h.mu.Lock()
	h.suspended[d] = x.ID
	h.mu.Unlock()
}

func (h *history) filter() Filter {
	switch {
	case len(h.all) > 0 && h.r.IntN(2) == 0:
		return Filter{Message: h.all[h.r.IntN(len(h.all))].id}
	case h.r.IntN(2) == 0:
		return Filter{Recipient: fmt.Sprintf("r%d*", h.r.IntN(10)), Domain: h.domain()}
	}
	return Filter{Domain: h.domain()}
}

func (h *history) bounce() {
	if _, err := h.q.Bounce(context.Background(), h.filter(), ""); err != nil {
		h.t.Error(err)
	}
}

// retry also brings forward what was scheduled for later.
func (h *history) retry() {
	f := h.filter()
	h.mu.Lock()
	for _, w := range h.all {
		if (f.Domain == "" || f.Domain == w.domain) && f.message(&mail.Message{ID: w.id, Recipient: w.recipient}) {
			w.notBefore = time.Time{}
		}
	}
	h.mu.Unlock()
	if _, err := h.q.Retry(context.Background(), f); err != nil {
		h.t.Error(err)
	}
}

// die goes on with a copy of the volume as it lies there, its index rebuilt
// or not. Attempts that were answered but are not on record may be repeated.
func (h *history) die(rebuild bool) {
	synctest.Wait()
	dir := h.volume()
	if err := os.CopyFS(dir, os.DirFS(h.o.Path)); err != nil {
		h.t.Fatal(err)
	}
	old := h.q
	h.mu.Lock()
	h.gen++ // nothing that the old one does counts from now on
	h.mu.Unlock()
	stop(h.t, old)
	if rebuild {
		h.repair(dir)
	}
	h.open(dir)
	for _, w := range h.all {
		recorded := 0
		for _, e := range h.events(w.id) {
			if e.Attempt > 0 && e.Class != mail.ClassAdmin && e.Class != mail.ClassExpired && e.Class != mail.ClassConnect {
				recorded++
			}
		}
		if w.answered > recorded {
			w.excused += w.answered - recorded
			w.answered = recorded
		}
	}
	h.q.Start()
}

// repair throws the index away and rebuilds it; operators' actions go with it.
func (h *history) repair(dir string) {
	if err := os.Truncate(filepath.Join(dir, "index.bolt"), 5000); err != nil {
		h.t.Fatal(err)
	}
	o := h.o
	o.Path = dir
	if _, err := Repair(context.Background(), o, nil); err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	clear(h.suspended)
	h.mu.Unlock()
}

func (h *history) events(id mail.ID) []event.Event {
	list, err := h.q.EventLog().Find(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

// audit holds the queue's account against the model at a quiet moment.
func (h *history) audit() {
	h.t.Helper()
	waiting := int64(0)
	for _, w := range h.all {
		st, err := h.q.History(context.Background(), "", w.id)
		if err != nil {
			h.t.Errorf("%v: %v", w.id, err)
			continue
		}
		ends := endings(st.Events)
		if len(ends) == 0 {
			waiting++
		}
		h.mu.Lock()
		delivered, excused := w.delivered, w.excused
		h.mu.Unlock()
		switch {
		case len(ends) > 1:
			h.t.Errorf("%v ended %d times: %v", w.id, len(ends), ends)
		case len(ends) == 0 && st.Waiting == nil:
			h.t.Errorf("%v is lost", w.id)
		case delivered > 1+excused:
			h.t.Errorf("%v delivered %d times, %d excused", w.id, delivered, excused)
		case len(ends) == 1 && delivered == 0 && strings.HasSuffix(ends[0], string(event.Delivered)):
			h.t.Errorf("%v is said to be delivered", w.id)
		}
	}
	if n := h.q.Queued(); n != waiting {
		h.t.Errorf("%d messages queued, %d have not ended", n, waiting)
	}
	h.gate.check(false)
	h.counters()
}

// counters holds the queue's counters of sessions against each other.
func (h *history) counters() {
	h.t.Helper()
	h.q.mu.Lock()
	defer h.q.mu.Unlock()
	sessions, opening := 0, 0
	for _, st := range h.q.sites {
		sessions, opening = sessions+st.sessions, opening+st.opening
		ready := 0
		for p := range st.classes {
			for _, f := range st.classes[p].active {
				for _, s := range f.queues {
					ready += s.fifo.len()
				}
			}
		}
		if st.ready != ready || st.woken < 0 || st.opening < 0 || len(st.idle)+len(st.pacing) > st.sessions || st.asked < 0 {
			h.t.Errorf("site %s: ready %d of %d, woken %d, opening %d, %d idle, %d pacing, %d sessions, asked %d",
				st.key, st.ready, ready, st.woken, st.opening, len(st.idle), len(st.pacing), st.sessions, st.asked)
		}
	}
	if sessions > h.q.openCount || opening > h.q.opening {
		h.t.Errorf("%d sessions of %d, %d opening of %d", sessions, h.q.openCount, opening, h.q.opening)
	}
}

// endings lists the distinct final events.
func endings(events []event.Event) (ends []string) {
	for _, e := range events {
		if end := e.ID + " " + string(e.Kind); e.Kind.Final() && !slices.Contains(ends, end) {
			ends = append(ends, end)
		}
	}
	return ends
}

// settle lets everything end.
func (h *history) settle() {
	h.mu.Lock()
	clear(h.down)
	ids := h.suspended
	h.suspended = map[string]string{}
	h.mu.Unlock()
	for _, id := range ids {
		if err := h.q.Resume(id); err != nil {
			h.t.Error(err)
		}
	}
	h.gate.mu.Lock()
	h.gate.calm = true
	h.gate.mu.Unlock()
	time.Sleep(time.Hour)
	synctest.Wait()
	h.audit()
	if n := h.q.Queued(); n != 0 {
		h.t.Errorf("%d messages still queued after an hour", n)
	}
	h.gate.check(true)
	h.q.mu.Lock()
	defer h.q.mu.Unlock()
	if q := h.q; q.openCount+q.opening+len(q.sites)+len(q.aside)+len(q.starved[0])+len(q.starved[1])+len(q.live)+len(q.names) > 0 {
		h.t.Errorf("left behind: %d open, %d opening, %d sites, %d flows aside, %d and %d starved, %d live, %d queues",
			q.openCount, q.opening, len(q.sites), len(q.aside), len(q.starved[0]), len(q.starved[1]), len(q.live), len(q.names))
	}
}
