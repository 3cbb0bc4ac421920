package grant

import (
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

var (
	testKey = throttle.Key{Source: "s1", Provider: "google"}
	perSec  = throttle.Limits{MessageRate: units.Rate{Count: 100, Per: time.Second}}
	fresh   = 15 * time.Millisecond // as the desk judges
)

// status is the state of testKey at the authority.
func (r *rig) status() throttle.KeyStatus {
	for _, s := range r.keeper.Status() {
		if s.Key == testKey {
			return s
		}
	}
	return throttle.KeyStatus{}
}

func waits(s throttle.KeyStatus) int { return s.Waiting[throttle.Send-1] }

// freshOf counts the message permits among notes that could be used on arrival.
func freshOf(notes []note) (n int) {
	for _, x := range notes {
		if x.age() <= fresh {
			n += x.grant.N
		}
	}
	return n
}

func permits(notes []note) (n int) {
	for _, x := range notes {
		n += x.grant.N
	}
	return n
}

func TestPermitsArriveFreshAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		r.wantAlways(testKey, perSec)
		time.Sleep(2 * time.Second)
		since := time.Now()
		time.Sleep(10 * time.Second)
		got := r.log.of("grant", since)
		if n := freshOf(got); n < 970 || n > 990 || n != permits(got) {
			t.Errorf("%d permits in 10 s, %d of them fresh; want about 980, all fresh", permits(got), n)
		}
		if !slices.Equal(r.log.contacts(), []string{"up"}) || !slices.Equal(r.onContact(), []string{"+n1"}) {
			t.Errorf("contacts: client %v, server %v", r.log.contacts(), r.onContact())
		}
		if c := r.server.Contacts(); len(c) != 1 || c[0].Node != "n1" || !c[0].Complete || c[0].Age > 2*BeatEvery || c[0].Keys != 1 {
			t.Errorf("contacts: %+v", c)
		}
		if s := r.client.Status(); !s.Up || s.Age > 2*BeatEvery || s.RoundTrip != 0 {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestConnectionsAreToldBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		time.Sleep(1500 * time.Millisecond)
		l := throttle.Limits{Connections: 3, Daily: 100}
		r.client.Want(throttle.Want{Key: testKey, Kind: throttle.Connect, Limits: l, N: 5, Flows: 1})
		time.Sleep(100 * time.Millisecond)
		got := r.log.of("grant", time.Time{})
		if permits(got) != 3 || got[0].grant.Kind != throttle.Connect || got[0].grant.Lease == 0 || got[0].age() > fresh {
			t.Fatalf("granted %+v, want three leases", got)
		}
		if len(r.log.of("hint", time.Time{})) == 0 {
			t.Error("no hint that others must end first")
		}
		first := got[0].grant.Lease
		for i := range uint64(3) {
			r.client.Opened(testKey, first+i)
		}
		r.client.Done(testKey, first, true)
		r.client.Charge(testKey, 7)
		time.Sleep(100 * time.Millisecond)
		s := r.status()
		if s.Limits != l || s.Connections != 3 || permits(r.log.of("grant", time.Time{})) != 4 || s.Today != 7 {
			t.Errorf("after one of three was closed: %+v and %d leases; want 3 connections, 4 leases, 7 messages today",
				s, permits(r.log.of("grant", time.Time{})))
		}
		r.client.Unused(testKey, throttle.Send, 3)
		time.Sleep(100 * time.Millisecond)
		if n := r.status().Today; n != 4 {
			t.Errorf("today %d after 3 of 7 were not used", n)
		}
	})
}

func TestRefusedIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		time.Sleep(time.Second)
		refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		r.set(func() { r.down = refused; _ = r.last.Close() })
		dials := r.count()
		time.Sleep(10*Redial + time.Millisecond)
		if n := r.count() - dials; n < 10 || n > 12 {
			t.Errorf("%d attempts in %v", n, 10*Redial)
		}
		r.set(func() { r.down, r.swallow = nil, true })
		time.Sleep(3 * time.Second)
		r.set(func() { r.swallow = false })
		time.Sleep(2 * time.Second)
		want := []string{"up", "down", "dead", "down", "up"}
		if got := r.log.contacts(); !slices.Equal(got, want) {
			t.Errorf("contacts %v, want %v", got, want)
		}
	})
}

func TestReconnectIsAtOnceAndTellsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		r.wantAlways(testKey, perSec)
		time.Sleep(3 * time.Second)
		r.set(func() { _ = r.last.Close() })
		since := time.Now()
		time.Sleep(100 * time.Millisecond)
		if got := r.log.contacts(); !slices.Equal(got, []string{"up", "down", "up"}) {
			t.Errorf("contacts 100 ms after the connection broke: %v", got)
		}
		if n := freshOf(r.log.of("grant", since)); n < 8 {
			t.Errorf("%d permits in these 100 ms", n)
		}
		if got := r.onContact(); !slices.Equal(got, []string{"+n1", "-n1", "+n1"}) {
			t.Errorf("the server saw %v", got)
		}
	})
}

// The end of a broken connection may be seen by one side only.
func TestNewContactReplacesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		time.Sleep(3 * time.Second)
		up, _ := r.ways()
		up.hold(true) // its end will not arrive
		r.set(func() { _ = r.last.Close() })
		time.Sleep(50 * time.Millisecond)
		if got := r.onContact(); !slices.Equal(got, []string{"+n1", "-n1", "+n1"}) {
			t.Errorf("the server saw %v", got)
		}
		if got := r.ended(); len(got) != 1 || got[0] != ErrReplaced {
			t.Errorf("the old contact ended with %v", got)
		}
		r.wantAlways(testKey, perSec)
		r.client.Want(throttle.Want{Key: testKey, Kind: throttle.Send, Limits: perSec, N: 50, Flows: 1})
		since := time.Now()
		time.Sleep(time.Second)
		if n := freshOf(r.log.of("grant", since)); n < 90 {
			t.Errorf("%d permits over the new contact in a second", n)
		}
	})
}

func TestConnectionsAreToldBeforeTheContactCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{}, ServerDeps{}, ClientOptions{})
		defer r.stop()
		leases := make([]uint64, 2*maxLeases+5)
		for i := range leases {
			leases[i] = uint64(i + 1)
		}
		l := throttle.Limits{Connections: 5000}
		counted := -1
		r.log.mu.Lock()
		r.log.onUp = func() {
			time.Sleep(200 * time.Millisecond) // the contact counts only when all is told
			n := len(r.onContact())
			r.mu.Lock()
			counted = n
			r.mu.Unlock()
			r.client.Hold(testKey, leases, l)
		}
		r.log.mu.Unlock()
		time.Sleep(500 * time.Millisecond)
		r.mu.Lock()
		held := r.held
		if counted != 0 {
			t.Error("the server reported the contact before it was complete")
		}
		r.mu.Unlock()
		if len(held) != 1 || held[0] != len(leases) {
			t.Errorf("%v connections were known when the contact was reported, want %d", held, len(leases))
		}
		if s := r.status(); s.Connections != len(leases) || s.Limits != l || len(r.onContact()) != 1 {
			t.Errorf("%d connections, limits %+v, contacts %v", s.Connections, s.Limits, r.onContact())
		}
	})
}

func TestRefusedByTheServer(t *testing.T) {
	for _, c := range []struct {
		name string
		o    ServerOptions
		co   ClientOptions
		want string
	}{
		{"token", ServerOptions{Token: "a"}, ClientOptions{Token: "b"}, ErrToken.Error()},
		{"no token", ServerOptions{Token: "a"}, ClientOptions{}, ErrToken.Error()},
		{"name", ServerOptions{}, ClientOptions{Authority: "proxy2"}, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.o, ServerDeps{}, c.co)
				defer r.stop()
				time.Sleep(time.Second)
				ends := r.ended()
				if len(ends) != 1 || !strings.Contains(ends[0].Error(), c.want) {
					t.Errorf("Serve: %v, want once %q", ends, c.want)
				}
				if got := r.log.contacts(); !slices.Equal(got, []string{"down"}) {
					t.Errorf("contacts %v", got)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ServerOptions{Token: "a"}, ServerDeps{}, ClientOptions{Token: "a", Authority: "proxy1"})
		defer r.stop()
		time.Sleep(time.Second)
		if got := r.log.contacts(); !slices.Equal(got, []string{"up"}) {
			t.Errorf("with the right token: contacts %v", got)
		}
	})
}
