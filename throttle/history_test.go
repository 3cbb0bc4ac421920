package throttle

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"pgregory.net/rapid"
)

// history is a random history of one key, and the trivial model of it: which permits
// there were, and which connections are open at the provider. Client 0 always
// says the true limits and never leaves; the others come and go.
type history struct {
	*world
	r       *rapid.T
	noise   *rand.Rand // of delays
	o       Options
	limits  Limits
	part    float64
	clients []*actor
	pace    *paced
	budget  *budget
	sends   []time.Duration // instants of this Tick
	uses    []time.Duration
	maxLate time.Duration
	seen    map[uint64]bool
	foreign uint64
	paused  time.Duration
	linger  []time.Duration // ends of connections that count though they ended
}

// actor is a client as it is in truth.
type actor struct {
	name     string
	joined   bool
	absent   bool // left and alive
	session  int  // grows with each join and leave: what was under way is void
	wants    [2]int
	demand   [2]int
	usable   map[uint64]time.Duration // leases not opened, and until when the client may
	open     map[uint64]bool
	priority mail.Priority
	flows    int
	loose    bool // its configuration has higher limits
	leftAt   time.Duration
}

func (c *actor) held(now time.Duration) int {
	n := len(c.open)
	for _, until := range c.usable {
		if now < until {
			n++
		}
	}
	return n
}

func TestHistories(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		h := newHistory(t, r)
		for range rapid.IntRange(5, 60).Draw(r, "steps") {
			h.step()
			h.say(h.clients[0])
		}
		h.finish()
	})
}

func newHistory(t *testing.T, r *rapid.T) *history {
	o := DefaultOptions()
	h := &history{r: r, noise: rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "noise"), 1)), o: o, world: newWorld(t, o), part: 1, pace: &paced{}, seen: map[uint64]bool{}, foreign: 1 << 60, paused: o.Expiry}
	h.budget = newBudget(h.pace, o.CatchUp)
	h.onOut, h.onTick = h.got, h.checkSends
	h.late = func() time.Duration {
		if h.maxLate == 0 {
			return 0
		}
		return time.Duration(h.noise.Int64N(int64(h.maxLate)))
	}
	for i := range 4 {
		c := &actor{name: fmt.Sprintf("c%d", i), flows: 1}
		h.clients = append(h.clients, c)
		h.join(c)
	}
	h.setLimits()
	c := h.clients[0]
	c.wants[0], c.demand[0] = 1, 1
	h.say(c)
	return h
}

func (h *history) client() *actor { return h.clients[h.pick("client", 1, len(h.clients)-1)] }

func (h *history) pick(label string, from, to int) int {
	return rapid.IntRange(from, to).Draw(h.r, label)
}

func (h *history) step() {
	c := h.client()
	switch h.pick("step", 0, 12) {
	case 0, 1, 2:
		h.advance(time.Duration(h.pick("ms", 1, 4000)) * ms)
	case 3, 4:
		if h.pick("steady", 0, 3) == 0 {
			c = h.clients[0]
		}
		c.demand = [2]int{h.pick("connects", 0, 10), h.pick("sends", 0, 40)}
		c.wants = c.demand
		c.priority, c.flows = mail.Priority(h.pick("priority", 0, 2)), h.pick("flows", 0, 20)
		h.say(c)
	case 5:
		h.setLimits()
	case 6:
		h.leave(c, h.pick("dead", 0, 1) == 1)
	case 7:
		h.join(c)
	case 8:
		c.loose = !c.loose
		h.say(c)
	case 9:
		n := h.pick("charge", 1, 20)
		h.a.Charge(c.name, testKey, n, h.now)
		if h.limits.MessageRate.Count > 0 {
			h.budget.charge(n)
		}
	case 10:
		h.a.Pause(h.now)
		h.paused = h.now + h.o.Expiry
	case 11:
		h.maxLate = []time.Duration{0, 3 * ms, 12 * ms, 60 * ms}[h.pick("lateness", 0, 3)]
	case 12:
		h.churn(c)
	}
}

// churn ends one of a client's connections.
func (h *history) churn(c *actor) {
	if len(c.open) == 0 {
		return
	}
	id := slices.Min(slices.Collect(maps.Keys(c.open)))
	delete(c.open, id)
	clean := h.pick("clean", 0, 1) == 1
	if !c.joined { // it cannot tell
		return
	}
	if h.a.Done(c.name, testKey, id, clean, h.now); !clean {
		h.linger = append(h.linger, h.now+h.o.Linger)
	}
}

func (h *history) setLimits() {
	h.limits = Limits{Connections: h.pick("connections", 0, 12)}
	if r := []int64{0, 1, 3, 10, 100, 1000}[h.pick("rate", 0, 5)]; r > 0 {
		h.limits.MessageRate = perSecond(r)
	}
	if r := h.pick("connect rate", 0, 3); r > 0 {
		h.limits.ConnectRate = perSecond(int64(r * 10))
	}
	for _, c := range h.clients {
		h.say(c)
	}
	h.repace()
}

// repace notes the rate that is in force from now on.
func (h *history) repace() {
	rate := h.limits.MessageRate.PerSecond()
	if rate == 0 {
		rate = 2 * noRate
	}
	h.pace.set(h.now, rate*h.o.Pace)
}

// say tells the authority a client's wants.
func (h *history) say(c *actor) {
	if !c.joined {
		return
	}
	l := h.limits
	if c.loose && c != h.clients[0] {
		l.Connections *= 3
		l.MessageRate.Count *= 10
	}
	for i, n := range c.wants {
		h.a.Want(c.name, Want{Key: testKey, Kind: Kind(i + 1), Limits: l, N: n, Priority: c.priority, Flows: c.flows}, h.now)
	}
}

func (h *history) absents() (n int) {
	for _, c := range h.clients {
		if c.absent {
			n++
		}
	}
	return n
}

func (h *history) leave(c *actor, dead bool) {
	if !c.joined && !(dead && c.absent) {
		return
	}
	c.session++
	h.a.Leave(c.name, dead, h.now)
	c.joined, c.absent, c.wants, c.leftAt = false, !dead, [2]int{}, h.now
	if dead {
		for range c.open {
			h.linger = append(h.linger, h.now+h.o.Linger)
		}
		clear(c.open)
		clear(c.usable)
	}
	h.a.SetAbsent(h.absents(), len(h.clients), h.now)
}

// join lets a client come back. While it was away it opened what its share allows.
func (h *history) join(c *actor) {
	if c.joined {
		return
	}
	if c.usable == nil {
		c.usable, c.open = map[uint64]time.Duration{}, map[uint64]bool{}
	}
	if c.absent && h.now-c.leftAt > time.Second {
		clear(c.usable)
		for c.held(h.now) < h.limits.Connections/len(h.clients) && h.pick("own", 0, 1) == 1 {
			h.foreign++
			c.open[h.foreign] = true
		}
	}
	c.session++
	c.joined, c.absent, c.demand = true, false, [2]int{}
	if h.pick("order", 0, 1) == 0 {
		h.a.Join(c.name, h.now)
		h.a.SetAbsent(h.absents(), len(h.clients), h.now)
	} else {
		h.a.SetAbsent(h.absents(), len(h.clients), h.now)
		h.a.Join(c.name, h.now)
	}
	session := c.session
	h.after(time.Duration(h.pick("hold", 0, 400))*ms, func() {
		if session != c.session {
			return
		}
		var held []uint64
		for id := range c.open {
			held = append(held, id)
		}
		for id, until := range c.usable {
			if h.now < until {
				held = append(held, id)
			}
		}
		slices.Sort(held)
		h.a.Hold(c.name, testKey, held, h.limits, h.now)
	})
}

// got is what the authority has for a client.
func (h *history) got(o Out) {
	g := o.Grant
	if g == nil {
		return
	}
	c := h.clients[slices.IndexFunc(h.clients, func(c *actor) bool { return c.name == o.Client })]
	i := g.Kind - 1
	switch {
	case !c.joined:
		h.r.Fatalf("%s is not in contact and gets %+v", c.name, g)
	case g.N <= 0 || g.N > c.wants[i]:
		h.r.Fatalf("%s wanted %d and gets %+v", c.name, c.wants[i], g)
	case g.At > h.now || h.now-g.At > h.o.CatchUp+mergeSpan:
		h.r.Fatalf("at %v a grant for %v", h.now, g.At)
	case h.now < h.paused:
		h.r.Fatalf("at %v a grant, paused until %v", h.now, h.paused)
	}
	c.wants[i] -= g.N
	session := c.session
	h.after(time.Duration(h.noise.IntN(6))*ms, func() {
		if session == c.session && c.joined {
			c.wants[i] = c.demand[i]
			h.say(c)
		}
	})
	if g.Kind == Send {
		h.sends = append(h.sends, slices.Repeat([]time.Duration{g.At}, g.N)...)
		return
	}
	h.connects(c, g)
}

// checkSends looks at the messages of a Tick in the order of their instants, whoever got them.
func (h *history) checkSends() {
	slices.Sort(h.sends)
	for _, at := range h.sends {
		if ahead := h.budget.permit(at); ahead > 1e-4 {
			h.r.Fatalf("at %v a permit for %v is %.5f ahead of the pace", h.now, at, ahead)
		}
		if h.limits.MessageRate.Count > 0 { // used at the last moment, or at once
			h.uses = append(h.uses, at+time.Duration(h.noise.IntN(2))*15*ms)
		}
	}
	h.sends = h.sends[:0]
}

// connects checks that with the new leases nothing can exceed the limit, whatever those out of contact do.
func (h *history) connects(c *actor, g *Grant) {
	for i := range g.N {
		id := g.Lease + uint64(i)
		if h.seen[id] {
			h.r.Fatalf("lease %d was granted twice", id)
		}
		h.seen[id] = true
		c.usable[id] = g.At + h.o.ConnectLapse
		h.use(c, id)
	}
	limit := h.limits.Connections
	if limit == 0 {
		return
	}
	n := 0
	for _, c := range h.clients {
		held := c.held(h.now)
		if c.absent {
			held = max(held, limit/len(h.clients))
		}
		n += held
	}
	for _, until := range h.linger {
		if h.now < until {
			n++
		}
	}
	if n > limit {
		h.r.Fatalf("at %v: %d connections may be, %d allowed", h.now, n, limit)
	}
}

// use opens a lease after a while, or lets it lapse.
func (h *history) use(c *actor, id uint64) {
	h.after(time.Duration(h.noise.IntN(2501))*ms, func() {
		until, ok := c.usable[id]
		delete(c.usable, id)
		if !ok || h.now >= until {
			return
		}
		c.open[id] = true // also when contact was lost: the authority cannot know
		session := c.session
		h.after(time.Duration(h.noise.IntN(501))*ms, func() {
			if session == c.session {
				h.a.Opened(c.name, testKey, id, h.now)
			}
		})
	})
}

// finish checks the bars over the whole history, and that nothing is left when all are gone.
func (h *history) finish() {
	slices.Sort(h.uses)
	for _, span := range []time.Duration{time.Second, 10 * time.Second} {
		first := 0
		for i, at := range h.uses {
			for h.uses[first] <= at-span {
				first++
			}
			rate := h.pace.most(at-span-30*ms, at) / h.o.Pace
			bar := math.Floor(rate*10.2 + 1e-9)
			if span == time.Second {
				bar = math.Ceil(rate*1.02-1e-9) + 1
			}
			if n := float64(i - first + 1); n > bar {
				h.r.Fatalf("%v messages within %v before %v, at most %v/s: %v allowed", n, span, at, rate, bar)
			}
		}
	}
	for _, c := range h.clients {
		c.demand = [2]int{}
		h.leave(c, true)
	}
	h.a.SetAbsent(0, 0, h.now)
	h.advance(time.Hour + 2*forgetAfter)
	if a := h.a; len(a.keys)+len(a.clients)+len(a.leases)+len(a.turns)+len(a.ends) > 0 {
		h.r.Fatalf("left: %d keys, %d clients, %d leases, %d turns, %d ends", len(a.keys), len(a.clients), len(a.leases), len(a.turns), len(a.ends))
	}
}
