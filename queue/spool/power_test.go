package spool

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/seglog"
)

// message is what the model knows of one message.
type message struct {
	*mail.Message
	body     string
	loc      Loc
	key      Key  // its place in the index, or where it will be
	indexed  bool // under row
	row      Key
	attempts int
	ended    bool
	maybe    bool    // Put failed with the power: it may be there or not
	doubt    *Change // the change whose record failed with the power
}

// owner does with a spool what the queue does, one thing at a time, and knows what must be there.
type owner struct {
	t     *testing.T
	r     *rand.Rand
	dir   string
	ids   mail.IDs
	power *power
	s     *Spool

	queues  map[string]uint32
	next    uint32
	all     map[mail.ID]*message
	order   []*message
	told    []injection // injected events not logged yet
	horizon Horizon
	applied seglog.Pos
	removes []Key
	moved   map[mail.ID]*message
	content mail.BodyRef
	text    string // of content
}

// injection is a batch whose injected events are to be logged.
type injection struct {
	*mail.Batch
	told func()
}

// TestPowerCuts runs random histories on a volume whose power goes again and
// again. What was acknowledged is there after each, exactly; what was not is
// there whole or not at all. GODWIT_SEED reproduces one.
func TestPowerCuts(t *testing.T) {
	histories, seed := 12, uint64(time.Now().UnixNano())
	if s := os.Getenv("GODWIT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		histories = 1
	}
	if testing.Short() {
		histories = min(histories, 3)
	}
	for i := range uint64(histories) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			o := &owner{t: t, r: rand.New(rand.NewPCG(seed+i, 1)), dir: t.TempDir(), all: map[mail.ID]*message{}}
			for range 12 {
				o.session(60)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// session is the time between two cuts.
func (o *owner) session(steps int) {
	if !o.open() {
		return
	}
	for range steps {
		if !o.step() {
			break
		}
	}
	o.power.cut()
	_ = o.s.Close() // with the power off nothing works, but the locks are given back
}

// open tries until recovery gets through; false when the test has failed.
func (o *owner) open() bool {
	for try := 0; ; try++ {
		o.power = newPower(o.t, o.dir, o.r)
		opts, d := options()
		opts.SegmentSize, opts.Spares, d.FS = 32<<10, o.r.IntN(3), o.power
		d.Events.SegmentSize, d.Events.MaxSize = 16<<10, 64<<20
		d.InjectedEvent = injected
		s, r, err := Open(context.Background(), o.dir, opts, d)
		on := o.power.keep(true)
		switch {
		case err == nil && on:
			o.s = s
			o.recovered(r)
			return o.power.keep(false) && !o.t.Failed()
		case err == nil:
			_ = s.Close() // the power went in the background
		case on:
			o.t.Fatalf("open: %v", err)
		case try > 200:
			o.t.Fatal("recovery never gets through")
		}
	}
}

func injected(m *mail.Message) event.Event {
	return event.Event{ID: event.DeriveID(m.ID, 0, event.Injected), Kind: event.Injected, Message: m.ID, Time: m.Accepted}
}

// recovered holds what is there against the model, and then goes on from what is there.
func (o *owner) recovered(r *Recovery) {
	o.queues, o.next = map[string]uint32{}, 0
	for _, q := range r.Queues {
		o.queues[q.Domain] = q.ID
		o.next = max(o.next, q.ID)
	}
	found := rows(o.t, o.s)
	kept := o.order[:0]
	for _, m := range o.order {
		e, there := found[m.ID]
		delete(found, m.ID)
		if !o.compare(m, e, there) {
			delete(o.all, m.ID)
			continue
		}
		kept = append(kept, m)
	}
	o.order = kept
	for id := range found {
		o.t.Errorf("%v is there and never was put", id)
	}
	o.told, o.removes, o.moved = nil, nil, map[mail.ID]*message{}
	o.applied, o.horizon = o.s.EventLog().Tail(), o.s.Horizon()
	if _, err := o.s.Content("t", o.content.ID, time.Now()); !o.content.ID.IsZero() && err != nil {
		o.t.Errorf("content: %v", err)
	}
}

// compare checks one message and brings the model up to date; false if it is no more.
func (o *owner) compare(m *message, e Entry, there bool) bool {
	ended, due, attempts := m.ended, m.key.Due, m.attempts
	if d := m.doubt; d != nil && there && e.Due == d.NewDue {
		ended, due, attempts = false, d.NewDue, d.Attempts
	} else if d != nil && d.Kind == ChangeEnded && !there {
		ended = true
	}
	m.doubt = nil
	switch {
	case m.maybe && !there:
		return false
	case ended && there:
		o.t.Errorf("%v has ended and is there", m.ID)
	case !ended && !there:
		o.t.Errorf("%v is lost", m.ID)
	case there && (e.Due != due || e.Attempts != attempts):
		o.t.Errorf("%v: due %d after %d attempts, want %d after %d", m.ID, e.Due, e.Attempts, due, attempts)
	}
	if there {
		o.read(m, e)
	}
	m.maybe, m.ended, m.attempts = false, ended, attempts
	m.loc, m.key, m.row, m.indexed = e.Loc, e.Key, e.Key, true
	o.checkEvents(m)
	return !ended
}

// read loads a message and its body.
func (o *owner) read(m *message, e Entry) {
	got, err := o.s.Load(e.Loc)
	if err != nil || got.ID != m.ID || got.Recipient != m.Recipient {
		o.t.Errorf("%v reads as %+v, %v", m.ID, got, err)
		return
	}
	data, release, err := o.s.Body(context.Background(), got, e.Loc)
	if err != nil || string(data) != m.body {
		o.t.Errorf("%v: body %.40q, %v, want %.40q", m.ID, data, err, m.body)
		return
	}
	release()
}

func (o *owner) checkEvents(m *message) {
	events, err := o.s.EventLog().Find(context.Background(), m.ID)
	if err != nil {
		o.t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, e := range events {
		ids[e.ID] = true
	}
	if len(ids) != 1 {
		o.t.Errorf("%v has injected events %v", m.ID, ids)
	}
}

// step does one random thing; false when the power went.
func (o *owner) step() bool {
	switch n := o.r.IntN(20); {
	case n < 9:
		return o.put()
	case n < 14:
		return o.record()
	case n < 19:
		return o.flush()
	default:
		return o.compact()
	}
}

func (o *owner) put() bool {
	now := time.Now()
	n := 1 + o.r.IntN(6)
	first := o.ids.Reserve(now, n+1)
	text := string(bytes.Repeat([]byte{byte('a' + o.r.IntN(26))}, o.r.IntN(6000)))
	b := &mail.Batch{Body: &mail.Body{ID: first.Add(n), Size: int64(len(text)), Data: []byte(text)}}
	ref := mail.BodyRef{ID: b.Body.ID, Size: b.Body.Size}
	if o.r.IntN(8) == 0 && !o.content.ID.IsZero() {
		b.Body, ref, text = nil, o.content, o.text
	}
	var list []*message
	for i := range n {
		m := &mail.Message{ID: first.Add(i), Batch: first, Accepted: now, Tenant: "t", Recipient: fmt.Sprintf("r%d@d%d.test", i, o.r.IntN(3)),
			Expires: now.Add(time.Hour), Body: ref}
		list = append(list, &message{Message: m, body: text, key: Key{Due: DueOf(m), ID: m.ID}, maybe: true})
		b.Messages = append(b.Messages, m)
		o.all[m.ID] = list[i]
	}
	o.order = append(o.order, list...)
	if o.content.ID.IsZero() {
		b.ContentUntil, b.ContentTenant = now.Add(time.Hour), "t"
		ref.Content = true
		for _, m := range b.Messages {
			m.Body = ref
		}
	}
	err := o.s.Put(context.Background(), b, func(locs []Loc, told func()) {
		for i, m := range list {
			m.loc, m.maybe = locs[i], false
		}
		o.told = append(o.told, injection{b, told})
	})
	if err != nil {
		return o.failed(err)
	}
	if !b.ContentUntil.IsZero() {
		o.content, o.text = ref, text
	}
	return true
}

// failed is for an error, which only a cut may be the reason of.
func (o *owner) failed(err error) bool {
	o.power.mu.Lock()
	defer o.power.mu.Unlock()
	if !o.power.off {
		o.t.Errorf("with the power on: %v", err)
	}
	return false
}

// record logs what was injected, and random changes.
func (o *owner) record() bool {
	var b []byte
	var events []event.Event
	for _, batch := range o.told {
		b = AppendChange(b, &Change{Kind: ChangeInjected, ID: batch.Messages[0].ID})
		for _, m := range batch.Messages {
			events = append(events, injected(m))
		}
	}
	changes := map[*message]*Change{}
	for range min(o.r.IntN(12), len(o.order)) {
		m := o.order[o.r.IntN(len(o.order))]
		if m.ended || changes[m] != nil {
			continue
		}
		at := m.key
		if m.indexed {
			at = m.row
		}
		c := &Change{Kind: ChangeEnded, ID: m.ID, Queue: at.Queue, Due: at.Due}
		if o.r.IntN(2) == 0 {
			c.Kind, c.NewDue, c.Attempts = ChangeDeferred, m.key.Due+int64(1+o.r.IntN(100_000)), m.attempts+1
		}
		changes[m] = c
		b = AppendChange(b, c)
	}
	if _, err := o.s.EventLog().Append(context.Background(), b, events); err != nil {
		for m, c := range changes {
			m.doubt = c
		}
		return o.failed(err)
	}
	for m, c := range changes {
		o.apply(m, c)
	}
	for _, b := range o.told {
		b.told()
	}
	o.told, o.applied = nil, o.s.EventLog().Tail()
	return true
}

func (o *owner) apply(m *message, c *Change) {
	if c.Kind == ChangeDeferred {
		m.key.Due, m.attempts = c.NewDue, c.Attempts
		if m.indexed {
			o.moved[m.ID] = m
		}
		return
	}
	m.ended = true
	if !m.indexed {
		o.s.Forget(m.Message, m.loc)
		return
	}
	delete(o.moved, m.ID)
	o.removes = append(o.removes, m.row)
	o.s.Ended(m.Message)
}

// flush brings what is before the last horizon to the index, as the queue does.
func (o *owner) flush() bool {
	horizon := o.s.Horizon()
	f := &Flush{Horizon: o.horizon, Events: o.applied}
	for _, m := range o.order {
		switch {
		case m.ended:
		case !m.indexed && !m.maybe && m.loc.Pos().Compare(f.Horizon.Records) < 0:
			f.Fresh = append(f.Fresh, m.loc.Seg)
			o.plan(f, m)
		case o.moved[m.ID] != nil:
			f.Remove = append(f.Remove, m.row)
			o.plan(f, m)
		}
	}
	f.Remove = append(f.Remove, o.removes...)
	var err error
	if !o.power.while(func() { err = o.s.Flush(f, time.Now()) }) {
		return false
	}
	if err != nil {
		o.t.Errorf("flush: %v", err)
	}
	o.horizon, o.removes, o.moved = horizon, nil, map[mail.ID]*message{}
	return err == nil
}

func (o *owner) plan(f *Flush, m *message) {
	domain := m.Domain()
	if o.queues[domain] == 0 {
		o.next++
		o.queues[domain] = o.next
	}
	m.key.Queue = o.queues[domain]
	m.indexed, m.row = true, m.key
	f.Queues = append(f.Queues, QueueRecord{ID: m.key.Queue, Tenant: "t", Domain: domain})
	f.Put = append(f.Put, Entry{Key: m.key, Loc: m.loc, Shared: o.s.SharedNumber(m.Message), Attempts: m.attempts})
}

// compact moves rows to other segments, which changes nothing that can be seen.
func (o *owner) compact() bool {
	moved, err := o.s.Compact(context.Background())
	if err != nil {
		return o.failed(err)
	}
	for id, loc := range moved {
		if m := o.all[id]; m != nil {
			m.loc = loc
		}
	}
	return true
}

// TestIndexFileLost: with the newest power cut the whole index may be gone,
// since its name was not durable yet; the logs alone bring everything back.
func TestIndexFileLost(t *testing.T) {
	o := &owner{t: t, r: rand.New(rand.NewPCG(1, 1)), dir: t.TempDir(), all: map[mail.ID]*message{}}
	o.open()
	o.power.left = -1 // no cut
	for range 100 {
		o.step()
	}
	if err := o.s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(o.dir, indexFile)); err != nil {
		t.Fatal(err)
	}
	o.open()
	_ = o.s.Close()
}
