package customer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/stream"
	"github.com/godwit-mta/godwit/pipeline/fact"
)

// history plays the identity stage: it writes facts of a tenant as that one does, with merges decided in one place and told
// to each of its partitions at some time later.
type history struct {
	*world
	tenant string
	now    int64

	people    int
	calm      int                    // the higher, the fewer merges
	bound     map[int]fact.ProfileID // who an identifier was bound to; identifier i is owned by partition i%parts
	redirects [parts]map[fact.ProfileID]fact.ProfileID
	decided   map[fact.ProfileID]fact.ProfileID
	waiting   [parts][]fact.Merge
	offset    [parts]int64
	sent      [parts][]*fact.Fact // all outputs, for sending some again
	uids      []uid
	next      int
}

type uid struct {
	person int
	metric fact.MetricID
	id     string
	at     int64 // when it was sent
}

func newHistory(w *world, tenant string) *history {
	h := &history{world: w, tenant: tenant, now: 1_750_000_000_000, people: 12, bound: map[int]fact.ProfileID{}, decided: map[fact.ProfileID]fact.ProfileID{}}
	for q := range h.redirects {
		h.redirects[q] = map[fact.ProfileID]fact.ProfileID{}
	}
	return h
}

func follow(m map[fact.ProfileID]fact.ProfileID, p fact.ProfileID) fact.ProfileID {
	for {
		to, ok := m[p]
		if !ok || to.IsZero() {
			return p
		}
		p = to
	}
}

func gone(m map[fact.ProfileID]fact.ProfileID, p fact.ProfileID) bool {
	to, ok := m[p]
	return ok && to.IsZero()
}

// resolve is whose an identifier is, as its owner knows.
func (h *history) resolve(person int) (fact.ProfileID, fact.Identifier) {
	id := fact.Identifier{Kind: fact.ByExternal + fact.IdentifierKind(person%4), Value: fmt.Sprintf("id%d", person)}
	q := person % parts
	p, ok := h.bound[person]
	if !ok {
		p = fact.DeriveProfile(h.tenant, id, fact.ProfileID{})
	}
	if p = follow(h.redirects[q], p); gone(h.redirects[q], p) {
		p = fact.DeriveProfile(h.tenant, id, p)
	}
	h.bound[person] = p
	return p, id
}

// send writes the outputs of one record of partition q of the first log.
func (h *history) send(q int, facts ...*fact.Fact) {
	h.offset[q]++
	for i, f := range facts {
		f.Tenant, f.At = h.tenant, at(h.now)
		f.From = fact.Origin{Stage: fact.StageIdentity, Partition: int32(q), Offset: h.offset[q], N: int32(i + 1), Generation: 1}
	}
	h.put(facts...)
	h.sent[q] = append(h.sent[q], facts...)
}

// repeat is the identity stage after a crash: its last outputs come again.
func (h *history) repeat(q int) {
	n := min(len(h.sent[q]), h.rng.IntN(20))
	h.put(h.sent[q][len(h.sent[q])-n:]...)
}

func (h *history) fact(person int) *fact.Fact {
	p, id := h.resolve(person)
	return &fact.Fact{Profile: p, Who: []fact.Identifier{id}}
}

// event sends an event; its time and value follow from its unique id.
func (h *history) event(u uid) {
	f := h.fact(u.person)
	f.Kind = fact.KindEvent
	r := rand.New(rand.NewPCG(uint64(len(u.id)), uint64(u.id[len(u.id)-1])|uint64(u.id[1])<<8|uint64(u.metric)<<32))
	f.Event = &fact.Event{Metric: u.metric, UID: u.id, Time: at(1_750_000_000_000 + r.Int64N(6*dayMillis) - 3*dayMillis), Value: r.Int64N(1000), HasValue: r.IntN(2) == 0,
		Properties: fmt.Appendf(nil, `{"uid":%q,"b":%d}`, u.id, r.IntN(9))}
	if !f.Event.HasValue {
		f.Event.Value = 0
	}
	if h.rng.IntN(4) == 0 {
		f.Change = h.change()
	}
	h.send(u.person%parts, f)
}

func (h *history) change() *fact.Change {
	r := h.rng
	c := &fact.Change{}
	value := func() string { return []string{`"x"`, `1`, `null`, `[1,2]`, fmt.Sprint(r.IntN(100))}[r.IntN(5)] }
	if r.IntN(2) == 0 {
		c.Attributes = fmt.Appendf(nil, `{"a%d":%s, "a%d":%s}`, r.IntN(3), value(), 3+r.IntN(3), value())
	}
	if r.IntN(2) == 0 {
		c.Properties = fmt.Appendf(nil, `{"p%d" : %s}`, r.IntN(5), value())
	}
	if r.IntN(3) == 0 {
		c.Unset = fmt.Appendf(nil, `["p%d"]`, r.IntN(5))
	}
	if r.IntN(3) == 0 {
		c.Lists = []fact.Membership{{List: fmt.Sprintf("l%d", r.IntN(4)), Join: r.IntN(3) > 0}}
	}
	if r.IntN(3) == 0 {
		c.Consent = []fact.Consent{{Channel: []string{"email", "sms"}[r.IntN(2)], Subscribed: r.IntN(2) == 0, At: at(h.now - r.Int64N(1000)), Method: "api"}}
	}
	return c
}

// merge decides on a merge or deletion.
func (h *history) merge(remove bool) {
	src, _ := h.resolve(h.rng.IntN(h.people))
	dst, _ := h.resolve(h.rng.IntN(h.people))
	src, dst = follow(h.decided, src), follow(h.decided, dst)
	if remove {
		dst = fact.ProfileID{}
	}
	if src == dst || gone(h.decided, src) || gone(h.decided, dst) && !dst.IsZero() {
		return
	}
	h.next++
	m := fact.Merge{ID: [16]byte{byte(h.next), byte(h.next >> 8), 1}, Source: src, Destination: dst}
	h.decided[src] = dst
	for q := range h.waiting {
		h.waiting[q] = append(h.waiting[q], m)
	}
}

// redirect tells partition q of the next merge.
func (h *history) redirect(q int) bool {
	if len(h.waiting[q]) == 0 {
		return false
	}
	m := h.waiting[q][0]
	h.waiting[q] = h.waiting[q][1:]
	h.redirects[q][m.Source] = m.Destination
	h.send(q, &fact.Fact{Kind: fact.KindMarker, Profile: m.Source, Merge: &m})
	return true
}

// act does something at random.
func (h *history) act(crashes bool) {
	r := h.rng
	h.now += r.Int64N(1000)
	q := r.IntN(parts)
	switch n := r.IntN(100); {
	case n < 40:
		h.next++
		u := uid{r.IntN(h.people), fact.MetricID(1 + r.IntN(3)), fmt.Sprintf("u%d", h.next), h.now}
		h.uids = append(h.uids, u)
		h.event(u)
	case n < 50 && len(h.uids) > 0: // again, perhaps by another identifier
		u := h.uids[len(h.uids)-1-r.IntN(min(len(h.uids), 30))]
		if u.at < h.now-dayMillis/2 {
			return
		}
		if h.calm == 0 && r.IntN(2) == 0 {
			u.person = r.IntN(h.people)
		}
		h.event(u)
	case n < 60:
		f := h.fact(r.IntN(h.people))
		f.Kind, f.Change = fact.KindChange, h.change()
		h.send(ownerOf(f), f)
	case n < 64:
		if r.IntN(h.calm+1) == 0 {
			h.merge(r.IntN(4) == 0)
		}
	case n < 72:
		h.redirect(q)
	case n < 74:
		h.repeat(q)
	case n < 94:
		h.step(int32(q), 1+r.IntN(20))
	case n < 97:
		h.commit(int32(q))
	case crashes:
		h.crash(int32(q), r.IntN(3) == 0)
	}
}

func ownerOf(f *fact.Fact) int {
	var n int
	_, _ = fmt.Sscanf(f.Who[0].Value, "id%d", &n)
	return n % parts
}

func (h *history) settle() {
	for q := range parts {
		for h.redirect(q) {
		}
	}
	h.drain()
}

// mirror is the same in memory, in the simplest way: it reads the log again.
type mirror struct {
	t       *testing.T
	facts   stream.Topic
	decided map[fact.ProfileID]fact.ProfileID
	next    [parts]int64
	states  map[fact.ProfileID]*person
	to      map[fact.ProfileID]fact.ProfileID
	markers map[[16]byte]map[int32]bool
	moved   map[[16]byte]*person
	marks   map[string][2]int64
	events  map[fact.ProfileID]map[string]fact.Event // by canonical profile
}

type person struct {
	attributes, properties map[string]any
	ids                    map[fact.IdentifierKind]string
	lists                  map[string]int64
	said                   map[string][]fact.Consent
	created                int64
}

func newMirror(t *testing.T, h *history) *mirror {
	return &mirror{t: t, facts: h.facts, decided: h.decided, states: map[fact.ProfileID]*person{}, to: map[fact.ProfileID]fact.ProfileID{},
		markers: map[[16]byte]map[int32]bool{}, moved: map[[16]byte]*person{}, marks: map[string][2]int64{}, events: map[fact.ProfileID]map[string]fact.Event{}}
}

func (m *mirror) run() {
	for p := range int32(parts) {
		m.until(p, func() bool { return false })
	}
}

// until reads a partition until something is so, or its end.
func (m *mirror) until(p int32, is func() bool) {
	end, _ := m.facts.End(context.Background(), p)
	for m.next[p] < end && !is() {
		r, _ := m.facts.Read(context.Background(), p, m.next[p])
		recs, _ := r.Next(context.Background(), 1)
		m.next[p]++
		var f fact.Fact
		if err := f.Parse(recs[0].Data); err != nil {
			m.t.Fatal(err)
		}
		key := fmt.Sprint(p, f.From.Stage, f.From.Partition)
		mark, known := m.marks[key]
		if now := [2]int64{f.From.Offset, int64(f.From.N)}; !known || slices.Compare(mark[:], now[:]) < 0 {
			m.marks[key] = now
			m.apply(&f)
		}
	}
}

func (m *mirror) person(f *fact.Fact) *person {
	s := m.states[f.Profile]
	if s == nil {
		s = &person{attributes: map[string]any{}, properties: map[string]any{}, ids: map[fact.IdentifierKind]string{}, lists: map[string]int64{}, said: map[string][]fact.Consent{}, created: f.At.UnixMilli()}
		m.states[f.Profile] = s
	}
	return s
}

func (m *mirror) apply(f *fact.Fact) {
	switch f.Kind {
	case fact.KindMarker:
		of := m.markers[f.Merge.ID]
		if of == nil {
			of = map[int32]bool{}
			m.markers[f.Merge.ID] = of
		}
		if of[f.From.Partition] = true; len(of) == parts {
			m.moved[f.Merge.ID] = m.states[f.Profile]
			delete(m.states, f.Profile)
			m.to[f.Profile] = f.Merge.Destination
		}
	case fact.KindTransfer:
		m.transfer(f)
	case fact.KindEvent:
		c := follow(m.decided, f.Profile)
		if m.events[c] == nil {
			m.events[c] = map[string]fact.Event{}
		}
		m.events[c][fmt.Sprint(f.Event.Metric, f.Event.UID)] = *f.Event
		m.change(f)
	case fact.KindChange:
		m.change(f)
	}
}

func (m *mirror) change(f *fact.Fact) {
	s := m.person(f)
	for _, id := range f.Who {
		if s.ids[id.Kind] == "" {
			s.ids[id.Kind] = id.Value
		}
	}
	c := f.Change
	if c == nil {
		return
	}
	set(m.t, s.attributes, c.Attributes)
	set(m.t, s.properties, c.Properties)
	var names []string
	if c.Unset != nil {
		_ = json.Unmarshal(c.Unset, &names)
	}
	for _, n := range names {
		delete(s.properties, n)
	}
	for _, l := range c.Lists {
		if _, on := s.lists[l.List]; l.Join && !on {
			s.lists[l.List] = f.At.UnixMilli()
		} else if !l.Join {
			delete(s.lists, l.List)
		}
	}
	for _, say := range c.Consent {
		s.said[say.Channel] = append(s.said[say.Channel], say)
	}
}

func set(t *testing.T, into map[string]any, text []byte) {
	var c map[string]any
	if text != nil {
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range c {
		if v == nil {
			delete(into, k)
		} else {
			into[k] = v
		}
	}
}

func (m *mirror) transfer(f *fact.Fact) {
	if to, left := m.to[f.Profile]; left || f.Transfer.N > 0 {
		_ = to // the forwarded one comes by itself
		return
	}
	m.until(f.Transfer.Merge.Source.Partition(parts), func() bool { return m.moved[f.Transfer.Merge.ID] != nil })
	from := m.moved[f.Transfer.Merge.ID]
	if from == nil {
		m.t.Fatalf("transfer of nobody: %v", f.Transfer.Merge)
	}
	if m.states[f.Profile] == nil {
		m.states[f.Profile] = from
		return
	}
	s := m.states[f.Profile]
	s.created = min(s.created, from.created)
	fill(s.attributes, from.attributes)
	fill(s.properties, from.properties)
	fill(s.ids, from.ids)
	for l, j := range from.lists {
		if mine, on := s.lists[l]; !on || j < mine {
			s.lists[l] = j
		}
	}
	for c, all := range from.said {
		s.said[c] = append(s.said[c], all...)
	}
}

func fill[K comparable, V any](into, from map[K]V) {
	for k, v := range from {
		if _, there := into[k]; !there {
			into[k] = v
		}
	}
}

// check compares what the reader says with the mirror.
func (m *mirror) check(h *history, folding bool) {
	t := m.t
	t.Helper()
	for id, s := range m.states {
		p, err := h.Profile(h.tenant, id)
		if err != nil || p.ID != id {
			t.Fatalf("%s: %v", id, err)
		}
		m.same(p, s)
		var last time.Time
		for _, e := range m.events[id] {
			if e.Time.After(last) {
				last = e.Time
			}
		}
		if !p.LastEvent.Equal(last) {
			t.Fatalf("%s: last event %v, not %v", id, p.LastEvent, last)
		}
		for metric := fact.MetricID(1); metric <= 3; metric++ {
			m.sameEvents(h, id, metric, folding)
		}
	}
	for id, to := range m.to {
		end := follow(m.to, id)
		p, err := h.Profile(h.tenant, id)
		switch {
		case to.IsZero() || gone(m.to, end) || m.states[end] == nil:
			if !errors.Is(err, ErrNotFound) {
				t.Fatalf("%s, gone: %v", id, err)
			}
		case err != nil || p.ID != end:
			t.Fatalf("%s, merged: %v", id, err)
		}
	}
}

func (m *mirror) same(p *Profile, s *person) {
	t := m.t
	t.Helper()
	for what, pair := range map[string][2]any{
		"attributes": {string(p.Attributes), s.attributes}, "properties": {string(p.Properties), s.properties},
	} {
		var got map[string]any
		if err := json.Unmarshal([]byte(pair[0].(string)), &got); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(pair[1]) {
			t.Fatalf("%s: %s %v, not %v", p.ID, what, got, pair[1])
		}
	}
	ids := map[fact.IdentifierKind]string{fact.ByExternal: p.External, fact.ByEmail: p.Email, fact.ByPhone: p.Phone, fact.ByAnonymous: p.Anonymous}
	maps.DeleteFunc(ids, func(_ fact.IdentifierKind, v string) bool { return v == "" })
	lists := map[string]int64{}
	for _, l := range p.Lists {
		lists[l.List] = l.Joined.UnixMilli()
	}
	if !maps.Equal(ids, s.ids) || !maps.Equal(lists, s.lists) || p.Created.UnixMilli() != s.created {
		t.Fatalf("%s: %v %v %v, not %+v", p.ID, ids, lists, p.Created.UnixMilli(), s)
	}
	for channel, all := range s.said {
		last := slices.MaxFunc(all, func(a, b fact.Consent) int {
			if c := a.At.Compare(b.At); c != 0 {
				return c
			}
			return int(flag(b.Subscribed)) - int(flag(a.Subscribed))
		})
		if p.CanReceive(channel) != last.Subscribed {
			t.Fatalf("%s: %s: %+v, not %+v", p.ID, channel, p.Consents, last)
		}
	}
}

func (m *mirror) sameEvents(h *history, id fact.ProfileID, metric fact.MetricID, folding bool) {
	t := m.t
	t.Helper()
	var want []fact.Event
	for k, e := range m.events[id] {
		if strings.HasPrefix(k, fmt.Sprint(metric)+" ") || e.Metric == metric {
			want = append(want, e)
		}
	}
	now := at(1_900_000_000_000)
	all, err := h.Summary(h.tenant, id, metric, []time.Duration{0}, now)
	if err != nil {
		t.Fatal(err)
	}
	var w Window
	for _, e := range want {
		w.add(bucket{count: 1, sum: e.Value, first: e.Time.UnixMilli(), last: e.Time.UnixMilli()})
	}
	if all[0] != w {
		t.Fatalf("%s metric %d: %+v, not %+v", id, metric, all[0], w)
	}
	if folding {
		return
	}
	slices.SortFunc(want, func(a, b fact.Event) int { return a.Time.Compare(b.Time) })
	got := h.allEvents(t, EventQuery{Profile: id, Metric: metric, Size: 3})
	back := h.allEvents(t, EventQuery{Profile: id, Metric: metric, Size: 4, Descending: true})
	slices.Reverse(back)
	if len(got) != len(want) || len(back) != len(want) {
		t.Fatalf("%d and %d events, not %d", len(got), len(back), len(want))
	}
	for i, e := range got {
		if !e.Time.Equal(want[i].Time) || e.ID != back[i].ID || !strings.Contains(string(e.Properties), `"uid":"u`) {
			t.Fatalf("event %d: %+v, not %+v", i, e, want[i])
		}
		one, err := h.Event(h.tenant, e.ID)
		if err != nil || one.Time != e.Time || one.ID != e.ID {
			t.Fatalf("%v %v", one, err)
		}
	}
}

func (h *history) allEvents(t *testing.T, q EventQuery) (out []Event) {
	for {
		page, err := h.Events(h.tenant, q)
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, page.Events...); page.Cursor == "" {
			return out
		}
		q.Cursor = page.Cursor
	}
}

func TestRandomHistories(t *testing.T) {
	for seed := range uint64(rounds(24)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, nil)
			h := newHistory(w, "t1")
			for range 1500 {
				h.act(true)
			}
			h.settle()
			m := newMirror(t, h)
			m.run()
			m.check(h, false)
			h.sameAgain(nil)
			h.checkIndexes(t, m)
		})
	}
}

// TestRandomFolding has short windows: events become counts of days. Time goes on only when all is settled, and no two people
// have events with the same unique id: such events are known as one only as long as they are kept by themselves.
func TestRandomFolding(t *testing.T) {
	short := func(o *Options, _ *Deps) {
		day := DefaultOptions().Dedupe / 90
		o.Window, o.Dedupe = 2*day, day
	}
	folded := 0
	for seed := range uint64(rounds(12)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, short)
			h := newHistory(w, "t1")
			h.calm = 20
			for range 25 {
				for range 150 {
					h.act(true)
				}
				h.settle()
				h.now += dayMillis * 2 / 5
			}
			m := newMirror(t, h)
			m.run()
			m.check(h, true)
			h.sameAgain(short)
			for p := range int32(parts) {
				for k := range w.dump(p) {
					if k[0] == prefixBucket {
						folded++
					}
				}
			}
		})
	}
	if folded == 0 {
		t.Error("nothing was folded")
	}
}

func rounds(n int) int {
	if testing.Short() {
		return n / 8
	}
	return n
}

// sameAgain makes the state anew from the log, with other commits, and compares all rows. What comes out must be in the log
// already.
func (h *history) sameAgain(change func(*Options, *Deps)) {
	t := h.t
	t.Helper()
	var ends [parts]int64
	for p := range ends {
		ends[p], _ = h.facts.End(context.Background(), int32(p))
	}
	again := openWorld(t, 99, h.facts, change)
	for p, end := range ends {
		for again.nodes[p].next < end {
			again.step(int32(p), int(min(end-again.nodes[p].next, 1+again.rng.Int64N(300))))
			if again.rng.IntN(2) == 0 {
				again.commit(int32(p))
			}
		}
		again.commit(int32(p))
	}
	for p := range ends {
		if d := diff(h.dump(int32(p)), again.dump(int32(p))); d != "" {
			t.Fatalf("partition %d differs when made anew:\n%s", p, d)
		}
	}
	h.drain() // the outputs came a second time
	for p := range ends {
		if d := diff(h.dump(int32(p)), again.dump(int32(p))); d != "" {
			t.Fatalf("partition %d differs after outputs that came twice:\n%s", p, d)
		}
	}
}

// checkIndexes lists all profiles in all orders.
func (h *history) checkIndexes(t *testing.T, m *mirror) {
	t.Helper()
	for _, sort := range []Sort{ByID, ByEmail, ByCreated, ByUpdated} {
		for _, back := range []bool{false, true} {
			var all []*Profile
			for q := (ProfileQuery{Sort: sort, Descending: back, Size: 3}); ; {
				page, err := h.Profiles(h.tenant, q)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, page.Profiles...)
				if q.Cursor = page.Cursor; q.Cursor == "" {
					break
				}
			}
			if len(all) != len(m.states) {
				t.Fatalf("sort %s: %d profiles, not %d", sort, len(all), len(m.states))
			}
			for i := 1; i < len(all); i++ {
				a, b := sort.position(all[i-1]), sort.position(all[i])
				if c := slices.Compare(a, b); c == 0 || c > 0 != back {
					t.Fatalf("sort %s: out of order", sort)
				}
			}
		}
	}
	for l := range 4 {
		list, n := fmt.Sprintf("l%d", l), 0
		for _, s := range m.states {
			if _, on := s.lists[list]; on {
				n++
			}
		}
		page, err := h.Members(h.tenant, MemberQuery{List: list, Size: 1000})
		if err != nil || len(page.Members) != n {
			t.Fatalf("%d members of %s, not %d (%v)", len(page.Members), list, n, err)
		}
	}
}
