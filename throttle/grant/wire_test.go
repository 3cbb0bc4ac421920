package grant

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// way is one direction of a network that a test spoils. Like TCP it keeps order
// and loses nothing: a loss is a delay without end.
type way struct {
	mu    sync.Mutex
	cond  *sync.Cond
	delay time.Duration
	held  bool
	split bool // what is due at once arrives in pieces, as it was sent
	queue []packet
	ended bool // the source is closed
}

type packet struct {
	b   []byte
	due time.Time
}

func newWay(src io.Reader, dst io.WriteCloser, wg *sync.WaitGroup) *way {
	w := &way{}
	w.cond = sync.NewCond(&w.mu)
	wg.Go(func() { w.fill(src) })
	wg.Go(func() { w.drain(dst) })
	return w
}

func (w *way) fill(src io.Reader) {
	buf := make([]byte, readSize)
	for {
		n, err := src.Read(buf)
		w.mu.Lock()
		w.queue = append(w.queue, packet{append([]byte(nil), buf[:n]...), time.Now().Add(w.delay)})
		w.ended = err != nil
		w.cond.Broadcast()
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// drain passes on what is due. What waited for the same reason arrives in one piece,
// as TCP hands over what a lost packet held up.
func (w *way) drain(dst io.WriteCloser) {
	defer dst.Close()
	for {
		w.mu.Lock()
		for w.held || len(w.queue) == 0 {
			if w.ended && len(w.queue) == 0 && !w.held {
				w.mu.Unlock()
				return
			}
			w.cond.Wait()
		}
		first := w.queue[0]
		w.mu.Unlock()
		time.Sleep(time.Until(first.due))
		w.mu.Lock()
		if w.held {
			w.mu.Unlock()
			continue
		}
		var b []byte
		for len(w.queue) > 0 && !w.queue[0].due.After(first.due) && !(w.split && len(b) > 0) {
			b = append(b, w.queue[0].b...)
			w.queue = w.queue[1:]
		}
		w.mu.Unlock()
		if len(b) > 0 {
			if _, err := dst.Write(b); err != nil {
				return
			}
		}
	}
}

// hold stops or releases the way. What was held arrives at once.
func (w *way) hold(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = on
	now := time.Now()
	for i := range w.queue {
		if !on && w.queue[i].due.Before(now) {
			w.queue[i].due = now
		}
	}
	w.cond.Broadcast()
}

// slow sets the delay. When it falls, what is under way does not arrive sooner, and what is
// sent later cannot overtake it.
func (w *way) slow(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = d
}

// network joins clients to a server over pipes.
type network struct {
	t      *testing.T
	server *Server
	ctx    context.Context

	mu      sync.Mutex
	down    error // what dialling fails with
	swallow bool  // dialling takes for ever
	dials   int
	delay   time.Duration
	up, dn  *way // of the newest connection: to the server, to the client
	all     []*way
	last    net.Conn
	ends    []error // what Serve returned
	wg      sync.WaitGroup
}

func (n *network) dial(ctx context.Context) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials++
	if n.swallow {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return nil, ctx.Err()
	}
	if n.down != nil {
		return nil, n.down
	}
	near, nearFar := net.Pipe()
	farNear, far := net.Pipe()
	n.up, n.dn, n.last = newWay(nearFar, farNear, &n.wg), newWay(farNear, nearFar, &n.wg), near
	n.all = append(n.all, n.up, n.dn)
	n.up.slow(n.delay)
	n.dn.slow(n.delay)
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		err := n.server.Serve(n.ctx, far)
		n.mu.Lock()
		n.ends = append(n.ends, err)
		n.mu.Unlock()
	}()
	return near, nil
}

// ways are the directions of the newest connection.
func (n *network) ways() (up, down *way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up, n.dn
}

func (n *network) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *network) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

func (n *network) ended() []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]error(nil), n.ends...)
}

// note is one event of a client.
type note struct {
	what  string // up, down, dead, grant, hint, change, refused
	at    time.Time
	born  time.Time
	grant throttle.Grant
	key   throttle.Key
}

// age is how old the permit was on arrival.
func (n note) age() time.Duration { return n.at.Sub(n.born) }

// log collects the events of a client.
type log struct {
	mu      sync.Mutex
	notes   []note
	onUp    func()
	onGrant func(note)
}

func (l *log) add(n note) {
	n.at = time.Now()
	l.mu.Lock()
	l.notes = append(l.notes, n)
	up, grant := l.onUp, l.onGrant
	l.mu.Unlock()
	if n.what == "up" && up != nil {
		up()
	}
	if n.what == "grant" && grant != nil {
		grant(n)
	}
}

func (l *log) Contact(up, dead bool) {
	switch {
	case up:
		l.add(note{what: "up"})
	case dead:
		l.add(note{what: "dead"})
	default:
		l.add(note{what: "down"})
	}
}

func (l *log) Granted(g throttle.Grant, born time.Time) {
	l.add(note{what: "grant", grant: g, born: born, key: g.Key})
}
func (l *log) Hinted(h throttle.Hint)    { l.add(note{what: "hint", key: h.Key}) }
func (l *log) Changed(c throttle.Change) { l.add(note{what: "change", key: c.Key}) }
func (l *log) Refused(k throttle.Key)    { l.add(note{what: "refused", key: k}) }

// of are the notes of a kind since a time.
func (l *log) of(what string, since time.Time) []note {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []note
	for _, n := range l.notes {
		if n.what == what && !n.at.Before(since) {
			out = append(out, n)
		}
	}
	return out
}

// contacts are the notes about contact, as words.
func (l *log) contacts() (words []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.notes {
		if n.what == "up" || n.what == "down" || n.what == "dead" {
			words = append(words, n.what)
		}
	}
	return words
}

// rig is a keeper, a server and a client over a network, all in a synctest bubble.
type rig struct {
	*network
	keeper *throttle.Keeper
	client *Client
	log    *log
	stop   func()

	mu    sync.Mutex
	held  []int    // connections at the authority when OnContact was called
	nodes []string // what OnContact said: +n1, -n1
}

func newRig(t *testing.T, o ServerOptions, d ServerDeps, co ClientOptions) *rig {
	t.Helper()
	r := &rig{log: &log{}, keeper: throttle.NewKeeper(throttle.DefaultOptions())}
	d.Keeper = r.keeper
	d.OnContact = func(node string, up bool) {
		n := r.status().Connections
		r.mu.Lock()
		defer r.mu.Unlock()
		r.held = append(r.held, n)
		r.nodes = append(r.nodes, map[bool]string{true: "+", false: "-"}[up]+node)
	}
	if o.Name == "" {
		o.Name = "proxy1"
	}
	server, err := NewServer(o, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r.network = &network{t: t, server: server, ctx: ctx}
	if co.Node == "" {
		co.Node = "n1"
	}
	r.client, err = NewClient(co, ClientDeps{Dial: r.dial, Events: r.log, Metrics: d.Metrics})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	r.stop = sync.OnceFunc(func() {
		cancel(errors.New("the test is over"))
		<-done
		r.set(func() {
			for _, w := range r.all {
				w.hold(false)
			}
		})
		r.wg.Wait()
		r.keeper.Close()
	})
	go func() {
		defer close(done)
		time.Sleep(time.Nanosecond) // in a bubble: until the test waits, and has set what it wants
		r.client.Run(ctx)
	}()
	return r
}

func (r *rig) onContact() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.nodes...)
}

// wantAlways makes the client want messages under k for ever.
func (r *rig) wantAlways(k throttle.Key, l throttle.Limits) {
	ask := func() {
		r.client.Want(throttle.Want{Key: k, Kind: throttle.Send, Limits: l, N: 5000, Flows: 1})
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.onUp, r.log.onGrant = ask, func(note) { ask() }
}
