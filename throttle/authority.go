package throttle

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
)

const (
	// forgetAfter is how long what an idle client said of a key counts on, and an idle key stays.
	forgetAfter = time.Minute
	// rememberFactor is how long an idle key that the closed loop slowed stays.
	rememberFactor = time.Hour
	// mergeSpan bounds the instants that one Grant stands for. It is small against
	// the freshness of a permit, since all carry the instant of the first.
	mergeSpan = 2 * time.Millisecond
)

// Authority owns limits: it knows what all clients want and grants each permit
// when its time has come. It is a state machine: it does no I/O, has no goroutine and no
// lock, and each method takes the time, counted from 0 when it was made, which must
// not go back. Whoever drives it calls Tick at the time it named, and soon after any other call.
// The file DESIGN.md tells why it works as it does.
type Authority struct {
	o       Options
	clients map[string]*client
	keys    map[Key]*key
	leases  map[uint64]*lease
	turns   dueHeap
	ends    deadlineHeap
	said    map[Limits]*Limits // each distinct value once: most keys have the same
	daily   dailyCounts
	out     []Out

	nextLease  uint64
	pausedTill time.Duration
	draining   bool
	configured int // nodes; 0: no reserve
	absent     int // of them, those out of contact that may be alive
	releases   []release
	reserved   int // of them, those for which a share is reserved: the absent, and releases to come
	share      int // serves one of so many parts of each limit; 0 or 1: all
}

// Out is for one client: one of Grant, Hint and Change.
type Out struct {
	Client string
	Grant  *Grant
	Hint   *Hint
	Change *Change
}

// client is one that was or is in contact.
type client struct {
	name    string
	joined  bool
	members int // keys it has something to do with
}

// key is the state of one limited key.
type key struct {
	id      Key
	limits  *Limits       // the least of what members said
	due     time.Duration // its next turn
	index   int           // in turns; -1: none
	connect pacer
	send    pacer
	members []*member
	waiting [2]int        // sum of the members' wants, by Kind-1
	virtual [2]float64    // virtual time of the fair queues
	count   int           // leases: granted, open and lingering
	seen    time.Duration // when it was last of use
	// shared is the largest share of connections by former limits that a node which is absent now may still have.
	shared int
	loop   *loop // nil while the factor is 1 and nothing was sampled
	// contendedAt is when last a client waited for a connection and none was free.
	contendedAt time.Duration
}

// member is a client's part in a key.
type member struct {
	client  *client
	limits  *Limits // nil: said nothing yet
	said    time.Duration
	leases  []*lease // granted, open and doubted
	wants   [2]want
	told    bool // that others wait for connections
	hinted  [2]hinted
	pending [2]pending
}

// want is what is left of a Want.
type want struct {
	n        int
	flows    int
	priority mail.Priority
	virtual  float64 // the client's place in the fair queue
}

// pending are permits granted in this turn that are not yet in an Out.
type pending struct {
	n  int
	at time.Duration
}

// NewAuthority makes an authority whose clock is at 0. It grants nothing before Options.Expiry.
// Of o, a Pace, ConnectLapse or Wall that is not set is the default one.
func NewAuthority(o Options) *Authority {
	d := DefaultOptions()
	if o.Pace <= 0 || o.Pace > 1 {
		o.Pace = d.Pace
	}
	if o.ConnectLapse <= 0 {
		o.ConnectLapse = d.ConnectLapse
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.FirstLease == 0 {
		o.FirstLease = rand.Uint64()>>1 + 1
	}
	return &Authority{
		o:          o,
		clients:    make(map[string]*client),
		keys:       make(map[Key]*key),
		leases:     make(map[uint64]*lease),
		said:       make(map[Limits]*Limits),
		daily:      dailyCounts{day: dayOf(o.Wall()), counts: make(map[Key]int64)},
		nextLease:  o.FirstLease,
		pausedTill: o.Expiry,
	}
}

// Join says that a client is in contact, also again. Its earlier wants are gone. Its
// connections stay counted; those that it does not confirm by Hold within Options.Expiry count as ended.
func (a *Authority) Join(name string, now time.Duration) {
	c := a.clients[name]
	if c == nil {
		c = &client{name: name}
		a.clients[name] = c
	}
	c.joined = true
	a.eachMember(c, func(k *key, m *member) {
		a.withdraw(k, m, now)
		if !a.o.Claims {
			a.doubt(m, now+a.o.Expiry)
		}
		m.told = false
		a.relimit(k, now)
	})
}

// Leave says that contact with a client is lost. Its wants are gone, and what it said of limits.
//
// dead says that its process is gone: its connections ended and count for
// Options.Linger. Otherwise all it holds, leases that it may have opened included, counts
// until it joins again or is known to be gone: a Leave with dead, also of a client that left before.
// Where connections are claimed (Options.Claims) only leases are the client's, and they lapse as always.
func (a *Authority) Leave(name string, dead bool, now time.Duration) {
	c := a.clients[name]
	if c == nil || !c.joined && !dead {
		return
	}
	c.joined = false
	a.eachMember(c, func(k *key, m *member) {
		a.withdraw(k, m, now)
		switch {
		case dead:
			a.endAll(m, now)
		case !a.o.Claims:
			a.doubt(m, never)
		}
		m.limits, m.told = nil, false
		a.drop(k, m)
		a.relimit(k, now)
	})
	if c.members == 0 {
		delete(a.clients, name)
	}
}

// Want sets how many permits a client could use at once; see Want. It does nothing for a client that has not joined.
func (a *Authority) Want(name string, w Want, now time.Duration) {
	c := a.clients[name]
	if c == nil || !c.joined || w.Kind != Connect && w.Kind != Send {
		return
	}
	k := a.keys[w.Key]
	if k == nil && w.N <= 0 {
		return
	}
	if k == nil {
		k = a.newKey(w.Key, now)
	}
	m := a.memberOf(k, c)
	k.seen = now
	a.hear(k, m, w.Limits, now)
	a.ask(k, m, w, now)
	a.wake(k, now)
}

// ask replaces a member's want.
func (a *Authority) ask(k *key, m *member, w Want, now time.Duration) {
	i := w.Kind - 1
	mine := &m.wants[i]
	if k.waiting[i] == 0 && w.N > 0 {
		k.pacer(w.Kind).resume(now, a.o.CatchUp)
	}
	flows := max(w.Flows, 1)
	if mine.n == 0 && w.N > 0 {
		mine.virtual = max(mine.virtual, k.virtual[i]-fairCredit/float64(flows))
	}
	n := max(w.N, 0)
	k.waiting[i] += n - mine.n
	mine.n, mine.flows, mine.priority = n, flows, w.Priority
	if n == 0 {
		m.hinted[i] = hinted{}
	}
}

// withdraw takes back all wants of a member.
func (a *Authority) withdraw(k *key, m *member, now time.Duration) {
	for i := range m.wants {
		k.waiting[i] -= m.wants[i].n
		m.wants[i], m.hinted[i] = want{}, hinted{}
	}
	a.wake(k, now)
}

// Charge says that n more messages went with the latest permit: they use up the next n
// instants of the key, and of its daily count.
func (a *Authority) Charge(_ string, id Key, n int, now time.Duration) {
	k := a.keys[id]
	if k == nil || n <= 0 {
		return
	}
	k.send.charge(n, now, a.o.CatchUp)
	a.daily.add(k, int64(n))
	a.wake(k, now)
}

// Unused says that n permits lapsed at the client. Their instants are lost; the daily count gets them back.
// A Connect permit that is not used is given back by Done.
func (a *Authority) Unused(_ string, id Key, kind Kind, n int, now time.Duration) {
	k := a.keys[id]
	if k == nil || n <= 0 || kind != Send {
		return
	}
	a.daily.add(k, -int64(n))
	a.wake(k, now)
}

// Pause says that this process may have been stopped, or has become the authority of keys that
// another owned: nothing is granted for Options.Expiry.
func (a *Authority) Pause(now time.Duration) { a.pausedTill = max(a.pausedTill, now+a.o.Expiry) }

// Drain sets whether the authority grants nothing any more because its process
// is about to end. What is granted stays good.
func (a *Authority) Drain(on bool, now time.Duration) {
	a.draining = on
	for _, k := range a.keys {
		a.wake(k, now)
	}
}

func (a *Authority) newKey(id Key, now time.Duration) *key {
	k := &key{id: id, index: -1, due: never, connect: newPacer(now), send: newPacer(now), seen: now, contendedAt: longAgo}
	k.limits = a.intern(Limits{})
	a.keys[id] = k
	return k
}

func (k *key) pacer(kind Kind) *pacer {
	if kind == Connect {
		return &k.connect
	}
	return &k.send
}

func (k *key) member(c *client) *member {
	for _, m := range k.members {
		if m.client == c {
			return m
		}
	}
	return nil
}

func (a *Authority) memberOf(k *key, c *client) *member {
	m := k.member(c)
	if m == nil {
		m = &member{client: c, said: longAgo}
		k.members = append(k.members, m)
		c.members++
		if k.loop != nil && k.loop.factor < 1 {
			a.tell(k, m, "")
		}
	}
	return m
}

// drop removes a member that has no part in the key any more.
func (a *Authority) drop(k *key, m *member) {
	i := slices.Index(k.members, m)
	if i < 0 || len(m.leases) > 0 || m.waits() || m.limits != nil {
		return
	}
	k.members = slices.Delete(k.members, i, i+1)
	m.client.members--
	if m.client.members == 0 && !m.client.joined && a.clients[m.client.name] == m.client {
		delete(a.clients, m.client.name)
	}
}

func (m *member) waits() bool { return m.wants[0].n > 0 || m.wants[1].n > 0 }

// eachMember calls f for all keys the client has a part in. It looks at all
// keys: contact is lost so rarely that an index would cost more.
func (a *Authority) eachMember(c *client, f func(*key, *member)) {
	if c.members == 0 {
		return
	}
	for _, k := range a.keys {
		if m := k.member(c); m != nil {
			f(k, m)
		}
	}
}
