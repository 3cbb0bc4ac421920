package throttle

import (
	"container/heap"
	"math"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
)

const ms = time.Millisecond

var testKey = Key{Source: "s1", Provider: "google"}

// world drives an authority in virtual time, as a Keeper would, and hands out what it grants.
type world struct {
	t      testing.TB
	a      *Authority
	now    time.Duration
	ticked time.Duration
	late   func() time.Duration // how much too late a Tick is
	events eventHeap
	onOut  func(Out)
	onTick func() // after all of a Tick's
}

type event struct {
	at time.Duration
	n  int
	do func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func newWorld(t testing.TB, o Options) *world {
	if o.FirstLease == 0 {
		o.FirstLease = 1
	}
	if o.Wall == nil {
		o.Wall = func() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }
	}
	return &world{t: t, a: NewAuthority(o), late: func() time.Duration { return 0 }, onOut: func(Out) {}, onTick: func() {}}
}

// after calls do later.
func (w *world) after(d time.Duration, do func()) {
	heap.Push(&w.events, event{w.now + d, len(w.events), do})
}

// advance lets time pass.
func (w *world) advance(d time.Duration) {
	end := w.now + d
	for {
		tick := never
		if next := w.a.Next(); next >= 0 {
			tick = max(next, w.now, w.ticked+coalesce) + w.late()
		}
		at := tick
		if len(w.events) > 0 {
			at = min(at, w.events[0].at)
		}
		if at > end {
			w.now = end
			return
		}
		w.now = max(w.now, at)
		if at < tick {
			heap.Pop(&w.events).(event).do()
			continue
		}
		w.tick()
	}
}

func (w *world) tick() {
	w.ticked = w.now
	out, next := w.a.Tick(w.now)
	if next >= 0 && next <= w.now {
		w.t.Fatalf("at %v Tick wants to be called at %v", w.now, next)
	}
	for _, o := range out {
		w.onOut(o)
	}
	w.onTick()
}

// collect advances and returns what came out.
func (w *world) collect(d time.Duration) []Out {
	var all []Out
	before := w.onOut
	w.onOut = func(o Out) { all = append(all, o); before(o) }
	w.advance(d)
	w.onOut = before
	return all
}

// ready is an authority after its first Expiry, with clients that joined.
func ready(t testing.TB, o Options, clients ...string) *world {
	w := newWorld(t, o)
	for _, c := range clients {
		w.a.Join(c, 0)
	}
	w.advance(o.Expiry)
	return w
}

func (w *world) want(client string, kind Kind, n int, l Limits) {
	w.a.Want(client, Want{Key: testKey, Kind: kind, N: n, Limits: l, Flows: 1}, w.now)
}

func (w *world) wantAs(client string, kind Kind, n int, l Limits, p mail.Priority, flows int) {
	w.a.Want(client, Want{Key: testKey, Kind: kind, N: n, Limits: l, Priority: p, Flows: flows}, w.now)
}

// granted counts the permits of a kind for a client, "" for all.
func grantedOf(out []Out, client string, kind Kind) (n int) {
	for _, o := range out {
		if o.Grant != nil && o.Grant.Kind == kind && (client == "" || o.Client == client) {
			n += o.Grant.N
		}
	}
	return n
}

// leasesOf lists the leases granted to a client.
func leasesOf(out []Out, client string) (ids []uint64) {
	for _, o := range out {
		if o.Grant != nil && o.Grant.Kind == Connect && o.Client == client {
			for i := range o.Grant.N {
				ids = append(ids, o.Grant.Lease+uint64(i))
			}
		}
	}
	return ids
}

func hintsOf(out []Out, client string) (hints []Hint) {
	for _, o := range out {
		if o.Hint != nil && o.Client == client {
			hints = append(hints, *o.Hint)
		}
	}
	return hints
}

func perSecond(n int64) units.Rate { return units.Rate{Count: n, Per: time.Second} }

// paced is the integral of a rate that changes: how many permits there may have been.
type paced struct {
	from []time.Duration
	rate []float64 // from then
	sum  []float64 // until then
}

// noRate stands for no limit.
const noRate = 1e8

func (p *paced) set(now time.Duration, rate float64) {
	if len(p.from) == 0 {
		p.from, p.rate, p.sum = append(p.from, 0), append(p.rate, rate), append(p.sum, 0)
		return
	}
	sum := p.until(now)
	if rate >= noRate { // at once
		sum += rate
	}
	p.sum = append(p.sum, sum)
	p.from, p.rate = append(p.from, now), append(p.rate, rate)
}

func (p *paced) until(t time.Duration) float64 {
	i := len(p.from) - 1
	for i > 0 && p.from[i] > t {
		i--
	}
	return p.sum[i] + p.rate[i]*max(t-p.from[i], 0).Seconds()
}

// most is the highest rate in [from, to].
func (p *paced) most(from, to time.Duration) float64 {
	most := 0.0
	for i, at := range p.from {
		if at <= to && (i+1 == len(p.from) || p.from[i+1] >= from) {
			most = max(most, p.rate[i])
		}
	}
	return most
}

// budget checks that permits never run ahead of a pace by more than one, over any span of time.
type budget struct {
	pace   *paced
	weight float64 // of all permits and charges so far
	least  float64
	slack  time.Duration
}

func newBudget(p *paced, slack time.Duration) *budget {
	return &budget{pace: p, least: math.Inf(1), slack: slack}
}

// permit adds one for an instant and returns by how much it is ahead. Its true instant may be up
// to mergeSpan later.
func (b *budget) permit(at time.Duration) float64 {
	b.least = min(b.least, b.weight-b.pace.until(at-b.slack))
	b.weight++
	return b.weight - b.pace.until(at+mergeSpan) - b.least - 1
}

func (b *budget) charge(n int) { b.weight += float64(n) }

// worst is the highest number of times within any span (from, from+span], and where it began.
func worst(times []time.Duration, span time.Duration) (most int, at time.Duration) {
	first := 0
	for i, t := range times {
		for times[first] <= t-span {
			first++
		}
		if i-first+1 > most {
			most, at = i-first+1, times[first]
		}
	}
	return most, at
}
