package grant

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/throttle"
)

// peer is the other side as a test plays it, frame by frame.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *reader
	seen int64 // the newest clock of the other side
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	return &peer{t: t, conn: conn, in: newReader(conn)}
}

func (p *peer) write(b []byte) {
	if _, err := p.conn.Write(b); err != nil {
		p.t.Logf("peer writes: %v", err)
	}
}

// next is the next frame that is no heartbeat; 0 when the connection has ended.
func (p *peer) next() (frameType, []byte) {
	for {
		t, b, err := p.in.wait()
		if err != nil {
			return 0, nil
		}
		if t != frameBeat {
			return t, b
		}
		f, err := decodeBeat(b)
		if err != nil {
			p.t.Errorf("heartbeat: %v", err)
			return 0, nil
		}
		p.seen = f.clock
	}
}

// beat answers the newest heartbeat; clock is ours.
func (p *peer) beat(clock int64) { p.write(appendBeat(nil, beat{clock: clock, echo: p.seen})) }

// served starts a server and says Hello to it.
func serve(t *testing.T, d ServerDeps) (s *Server, p *peer, ended chan error) {
	t.Helper()
	s, err := NewServer(ServerOptions{Name: "proxy1"}, d)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	ended = make(chan error, 1)
	go func() { ended <- s.Serve(context.Background(), far) }()
	p = newPeer(t, near)
	p.write(appendHello([]byte(Magic), hello{lowest, Version, 1, "n1", ""}))
	if err := p.in.magic(); err != nil {
		t.Fatal(err)
	}
	f, b := p.next()
	a, err := decodeAnswer(b)
	if f != frameAnswer || err != nil || a.echo != 1 || a.name != "proxy1" || a.version != Version {
		t.Fatalf("answer %d %+v, %v", f, a, err)
	}
	p.seen = a.clock
	return s, p, ended
}

// A node that was gone when its Hello was read must not count as there.
func TestOldHelloJoinsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := throttle.NewKeeper(throttle.DefaultOptions())
		defer k.Close()
		called := 0
		s, p, ended := serve(t, ServerDeps{Keeper: k, OnContact: func(string, bool) { called++ }})
		go func() { _, _ = io.Copy(io.Discard, p.conn) }()
		time.Sleep(Lease - time.Millisecond)
		if len(s.Contacts()) != 0 {
			t.Error("in contact without an echo of the answer")
		}
		time.Sleep(2 * time.Millisecond)
		if err := <-ended; !errors.Is(err, ErrLost) || called != 0 {
			t.Errorf("ended with %v, OnContact called %d times", err, called)
		}
	})
}

func TestServerRefusesMalformed(t *testing.T) {
	def := appendDefine(nil, define{7, testKey})
	again := appendDefine(nil, define{8, testKey})
	for name, b := range map[string][]byte{
		"unknown type":      {99, 0, 0},
		"frame of a server": appendGrant(nil, grantFrame{num: 7, kind: throttle.Send, n: 1}),
		"too long":          {byte(frameWant), 0xff, 0xff},
		"not defined":       appendWant(nil, want{num: 7, kind: throttle.Send, n: 1}),
		"bad kind":          append(slices.Clone(def), appendWant(nil, want{num: 7, kind: 3, n: 1})...),
		"defined twice":     append(slices.Clone(def), def...),
		"two numbers":       append(slices.Clone(def), again...),
		"ready twice":       append(appendReady(nil), appendReady(nil)...),
		"echo to come":      appendBeat(nil, beat{clock: 5, echo: 1 << 60}),
		"clock backwards":   appendBeat(appendBeat(nil, beat{clock: 9}), beat{clock: 8}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := throttle.NewKeeper(throttle.DefaultOptions())
				defer k.Close()
				_, p, ended := serve(t, ServerDeps{Keeper: k})
				go func() { _, _ = io.Copy(io.Discard, p.conn) }()
				p.beat(2)
				p.write(b)
				if err := <-ended; !errors.Is(err, errFrame) {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

func TestForgottenNumberWithdrawsAndCanReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := throttle.NewKeeper(throttle.DefaultOptions())
		defer k.Close()
		_, p, ended := serve(t, ServerDeps{Keeper: k})
		go func() { _, _ = io.Copy(io.Discard, p.conn) }()
		p.beat(2)
		waiting := func() int {
			for _, s := range k.Status() {
				return s.Waiting[throttle.Send-1]
			}
			return 0
		}
		b := appendDefine(nil, define{7, testKey})
		p.write(appendWant(b, want{num: 7, kind: throttle.Send, n: 3, flows: 1}))
		synctest.Wait()
		if waiting() != 3 {
			t.Errorf("%d wanted, want 3", waiting())
		}
		p.write(appendForget(nil, 7))
		synctest.Wait()
		if waiting() != 0 {
			t.Errorf("%d wanted after the number was given up", waiting())
		}
		b = appendDefine(nil, define{8, testKey})
		p.write(appendWant(b, want{num: 8, kind: throttle.Send, n: 2, flows: 1}))
		synctest.Wait()
		if waiting() != 2 {
			t.Errorf("%d wanted under the new number, want 2", waiting())
		}
		p.conn.Close()
		<-ended
	})
}

func TestKeysOfOthersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		owns := false
		r := newRig(t, ServerOptions{}, ServerDeps{Owns: func(k throttle.Key) bool {
			mu.Lock()
			defer mu.Unlock()
			return owns || k != testKey
		}}, ClientOptions{})
		defer r.stop()
		own := func(v bool) { mu.Lock(); defer mu.Unlock(); owns = v }
		ask := func() {
			r.client.Want(throttle.Want{Key: testKey, Kind: throttle.Send, Limits: perSec, N: 1e6, Flows: 1})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		ask()
		if n := r.log.of("refused", time.Time{}); len(n) != 1 || n[0].key != testKey || len(r.log.of("grant", time.Time{})) != 0 {
			t.Errorf("%d refused, %d granted", len(n), len(r.log.of("grant", time.Time{})))
		}
		own(true)
		r.server.Recheck() // refuses nothing
		ask()
		if len(r.log.of("refused", time.Time{})) != 1 || len(r.log.of("grant", time.Time{})) == 0 {
			t.Error("nothing granted by the owner")
		}
		own(false)
		r.server.Recheck()
		since := time.Now()
		time.Sleep(time.Second)
		if n := r.log.of("refused", since); len(n) != 1 || waits(r.status()) != 0 {
			t.Errorf("%d refused after it was owner no more, %d still wanted", len(n), waits(r.status()))
		}
		if n := permits(r.log.of("grant", since)); n > 1 {
			t.Errorf("%d granted by one who is owner no more", n)
		}
	})
}

// answerer plays an authority: it greets and then reads only what the test asks for.
func answerer(t *testing.T) (c *Client, p *peer, l *log, stop func()) {
	near, far := net.Pipe()
	l = &log{}
	dialled := false
	c, err := NewClient(ClientOptions{Node: "n1", Token: "secret"}, ClientDeps{Events: l,
		Dial: func(ctx context.Context) (net.Conn, error) {
			if dialled {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			dialled = true
			return near, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	return c, newPeer(t, far), l, func() { cancel(); far.Close(); <-done }
}

// greetClient takes the Hello and answers.
func (p *peer) greetClient() {
	if err := p.in.magic(); err != nil {
		p.t.Fatal(err)
	}
	f, b := p.next()
	h, err := decodeHello(b)
	if f != frameHello || err != nil || h.name != "n1" || h.token != "secret" || h.highest != Version {
		p.t.Fatalf("hello %d %+v, %v", f, h, err)
	}
	p.seen = h.clock
	p.write(appendAnswer([]byte(Magic), answer{Version, 1000, h.clock, "proxy1"}))
}

func TestWantsCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, l, stop := answerer(t)
		defer stop()
		p.greetClient()
		synctest.Wait() // the client's first heartbeat waits for us to read it
		if !slices.Equal(l.contacts(), []string{"up"}) {
			t.Fatalf("contacts %v", l.contacts())
		}
		other := throttle.Key{Tenant: "t"}
		for i := range 1000 {
			c.Want(throttle.Want{Key: testKey, Kind: throttle.Send, Limits: perSec, N: i, Flows: 1})
			c.Want(throttle.Want{Key: testKey, Kind: throttle.Connect, Limits: perSec, N: 2 * i, Flows: 1})
			c.Charge(other, 1)
		}
		var types []frameType
		charges := 0
		for len(types) < 6 {
			f, b := p.next()
			if f == 0 {
				t.Fatalf("ended after %v", types)
			}
			if f == frameCharge {
				if charges++; charges > 1 {
					continue
				}
			}
			types = append(types, f)
			if f != frameWant {
				continue
			}
			w, err := decodeWant(b)
			if err != nil || w.n != 999 && w.kind == throttle.Send || w.n != 1998 && w.kind == throttle.Connect {
				t.Errorf("want %+v, %v", w, err)
			}
		}
		want := []frameType{frameReady, frameDefine, frameCharge, frameDefine, frameLimits, frameWant}
		if !slices.Equal(types, want) || charges != 1000 {
			t.Errorf("frames %v, want %v; %d charges", types, want, charges)
		}
		if f, _ := p.next(); f != frameWant {
			t.Errorf("frame %d, want the other Want", f)
		}
	})
}

func TestNodeThatIsNotReadIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, l, stop := answerer(t)
		defer stop()
		p.greetClient()
		synctest.Wait()
		start := time.Now()
		for slices.Equal(l.contacts(), []string{"up"}) {
			c.Charge(testKey, 1) // never blocks
			time.Sleep(time.Millisecond)
			if time.Since(start) > 2*Lease {
				t.Fatal("still in contact")
			}
		}
		if d := time.Since(start); d < Lease-BeatEvery || d > Lease+2*time.Millisecond {
			t.Errorf("lost after %v", d)
		}
	})
}

func TestBacklogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _, stop := answerer(t)
		defer stop()
		p.greetClient()
		synctest.Wait()
		leases := make([]uint64, maxLeases)
		for i := range leases {
			leases[i] = 1 << 63
		}
		for range maxBacklog/(10*maxLeases) + 2 {
			c.Hold(testKey, leases, perSec)
		}
		if c.Status().Up {
			t.Error("still up with more than maxBacklog to be written")
		}
	})
}

func TestPeerThatSpeaksNoCommonVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := throttle.NewKeeper(throttle.DefaultOptions())
		defer k.Close()
		s, err := NewServer(ServerOptions{Name: "proxy1"}, ServerDeps{Keeper: k})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(t.Context(), far) }()
		p := newPeer(t, near)
		// What a newer version adds to its Hello must not matter.
		b := appendHello([]byte(Magic), hello{Version + 1, Version + 2, 1, "n1", ""})
		b = append(b, 1, 2, 3)
		b[len(Magic)+1] += 3
		p.write(b)
		if err := p.in.magic(); err != nil {
			t.Fatal(err)
		}
		f, b := p.next()
		reason, err := decodeBye(b)
		if f != frameBye || err != nil || !strings.Contains(reason, "version") {
			t.Errorf("frame %d %q, %v", f, reason, err)
		}
		if err := <-ended; !errors.Is(err, ErrVersion) {
			t.Errorf("ended with %v", err)
		}
	})
}
