package throttle

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inbox collects what a Keeper delivers.
type inbox struct {
	mu  sync.Mutex
	all []Out
	at  []time.Time
}

func (b *inbox) deliver(out []Out) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, out...)
	b.at = append(b.at, time.Now())
}

func (b *inbox) take() []Out {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.all
	b.all = nil
	return out
}

// inKeeper runs a test in virtual time with a Keeper past its first Expiry.
func inKeeper(t *testing.T, o Options, f func(k *Keeper)) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(o)
		defer k.Close()
		time.Sleep(o.Expiry)
		f(k)
	})
}

func TestKeeperGrantsInTime(t *testing.T) {
	inKeeper(t, DefaultOptions(), func(k *Keeper) {
		var a, b inbox
		ha, hb := k.Attach("a", a.deliver), k.Attach("b", b.deliver)
		l := Limits{MessageRate: perSecond(1000)}
		ha.Want(Want{Key: testKey, Kind: Send, N: 5000, Limits: l})
		hb.Want(Want{Key: testKey, Kind: Send, N: 5000, Limits: l})
		synctest.Wait()
		if out := a.take(); grantedOf(out, "a", Send)+grantedOf(b.take(), "b", Send) != 1 {
			t.Errorf("at once: %+v", out)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		na, nb := grantedOf(a.take(), "a", Send), grantedOf(b.take(), "b", Send)
		if na+nb < 975 || na+nb > 980 || na-nb > 1 || nb-na > 1 {
			t.Errorf("%d and %d permits in a second", na, nb)
		}
		for i := 1; i < len(a.at); i++ {
			if d := a.at[i].Sub(a.at[i-1]); d < coalesce {
				t.Fatalf("turns %v apart", d)
			}
		}
		hb.Leave(true)
		time.Sleep(100 * ms)
		synctest.Wait()
		if n := grantedOf(b.take(), "b", Send); n > 0 {
			t.Errorf("%d for one that left", n)
		}
		hb.Want(Want{Key: testKey, Kind: Send, N: 5, Limits: l})
		if s := k.Status()[0]; s.Clients != 1 {
			t.Errorf("a handle that left wants: %+v", s)
		}
	})
}

func TestKeeperSleepsUntilSomethingIsDue(t *testing.T) {
	o := DefaultOptions()
	o.Stall = 0
	inKeeper(t, o, func(k *Keeper) {
		var a inbox
		h := k.Attach("a", a.deliver)
		h.Want(Want{Key: testKey, Kind: Connect, N: 2, Limits: Limits{Connections: 1}})
		synctest.Wait()
		if n := grantedOf(a.take(), "a", Connect); n != 1 {
			t.Fatalf("%d leases", n)
		}
		time.Sleep(o.ConnectLapse + o.Expiry + coalesce) // nobody calls: its own timer ends the lease
		synctest.Wait()
		if n := grantedOf(a.take(), "a", Connect); n != 1 {
			t.Errorf("%d leases after the first lapsed", n)
		}
	})
}

func TestKeeperDeliveryMayCallBack(t *testing.T) {
	inKeeper(t, DefaultOptions(), func(k *Keeper) {
		var h *Handle
		var opened atomic.Int32
		h = k.Attach("a", func(out []Out) {
			for _, o := range out {
				if g := o.Grant; g != nil {
					h.Opened(g.Key, g.Lease)
					h.Done(g.Key, g.Lease, true)
					opened.Add(1)
					h.Want(Want{Key: testKey, Kind: Connect, N: 1, Limits: Limits{Connections: 1}})
				}
			}
		})
		h.Want(Want{Key: testKey, Kind: Connect, N: 1, Limits: Limits{Connections: 1}})
		time.Sleep(100 * ms)
		synctest.Wait()
		if n := opened.Load(); n < 45 || n > 51 {
			t.Errorf("%d connections, one after the other, in 100 ms", n)
		}
	})
}

func TestKeeperSecondHandleReplacesTheFirst(t *testing.T) {
	inKeeper(t, DefaultOptions(), func(k *Keeper) {
		var first, second inbox
		old := k.Attach("a", first.deliver)
		h := k.Attach("a", second.deliver)
		old.Leave(true)
		old.Want(Want{Key: testKey, Kind: Send, N: 9})
		k.Gone("a") // it is here
		h.Want(Want{Key: testKey, Kind: Send, N: 3})
		time.Sleep(10 * ms)
		synctest.Wait()
		if n, m := len(first.take()), grantedOf(second.take(), "a", Send); n != 0 || m != 3 {
			t.Errorf("first got %d, second %d permits", n, m)
		}
	})
}

func TestKeeperClaimsAndGone(t *testing.T) {
	o := DefaultOptions()
	o.Claims = true
	inKeeper(t, o, func(k *Keeper) {
		var a inbox
		h := k.Attach("a", a.deliver)
		h.Want(Want{Key: testKey, Kind: Connect, N: 1, Limits: Limits{Connections: 5}})
		synctest.Wait()
		id := leasesOf(a.take(), "a")[0]
		if key, ok := k.Claim(id); !ok || key != testKey {
			t.Fatal("a good lease was refused")
		}
		h.Leave(false)
		k.Gone("a")
		if s := k.Status(); len(s) != 1 || s[0].Connections != 1 {
			t.Errorf("status %+v", s)
		}
		k.Release(id, true)
		if s := k.Status(); len(s) != 1 || s[0].Connections != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// A process that was stopped grants nothing for Expiry when it wakes, whether
// its timer or a client's call comes first.
func TestKeeperPausesAfterAStall(t *testing.T) {
	for _, first := range []string{"timer", "call"} {
		inKeeper(t, DefaultOptions(), func(k *Keeper) {
			var a inbox
			h := k.Attach("a", a.deliver)
			want := func() { h.Want(Want{Key: testKey, Kind: Send, N: 1}) }
			want()
			time.Sleep(time.Minute)
			synctest.Wait()
			if grantedOf(a.take(), "a", Send) != 1 || k.Stalls() != 0 {
				t.Fatal("an idle minute is no stall")
			}
			k.mu.Lock() // as if the process had been stopped for so long
			k.start = k.start.Add(-600 * ms)
			k.mu.Unlock()
			if first == "timer" {
				time.Sleep(150 * ms)
				synctest.Wait()
			}
			stopped := k.Now()
			want()
			synctest.Wait()
			if k.Stalls() != 1 || grantedOf(a.take(), "a", Send) != 0 {
				t.Errorf("%s: %d stalls, or a grant at once", first, k.Stalls())
			}
			time.Sleep(time.Second + 10*ms)
			synctest.Wait()
			if grantedOf(a.take(), "a", Send) != 1 {
				t.Errorf("%s: no grant a second after %v", first, stopped)
			}
		})
	}
}

func TestKeeperIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(DefaultOptions())
		h := k.Attach("a", func([]Out) {})
		k.Close()
		k.Close()
		h.Want(Want{Key: testKey, Kind: Send, N: 1})
		h.Leave(false)
		k.SetAbsent(1, 3)
		if s := k.Status(); s != nil {
			t.Errorf("status %v", s)
		}
	})
}

func TestKeeperMetrics(t *testing.T) {
	inKeeper(t, DefaultOptions(), func(k *Keeper) {
		h := k.Attach("a", func([]Out) {})
		h.Want(Want{Key: testKey, Kind: Send, N: 3})
		time.Sleep(10 * ms)
		synctest.Wait()
		reg := prometheus.NewRegistry()
		if err := reg.Register(k); err != nil {
			t.Fatal(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				if m.Counter != nil {
					values[f.GetName()] += m.Counter.GetValue()
				}
				if m.Gauge != nil {
					values[f.GetName()] += m.Gauge.GetValue()
				}
			}
		}
		if values["godwit_throttle_permits_total"] != 3 || values["godwit_throttle_keys"] != 1 {
			t.Errorf("%v", values)
		}
	})
}

// Clients call from many goroutines, come and go; the race detector watches.
func TestKeeperConcurrently(t *testing.T) {
	o := DefaultOptions()
	o.Expiry = time.Millisecond
	k := NewKeeper(o)
	defer k.Close()
	var all sync.WaitGroup
	var got atomic.Int64
	for _, name := range []string{"a", "b", "c"} {
		all.Go(func() {
			for range 20 {
				var mu sync.Mutex
				var h *Handle
				enough, n := make(chan struct{}), 0
				mu.Lock()
				h = k.Attach(name, func(out []Out) {
					mu.Lock()
					defer mu.Unlock()
					for _, o := range out {
						if g := o.Grant; g != nil && g.Kind == Connect {
							h.Done(g.Key, g.Lease, true)
							got.Add(1)
							if n++; n == 3 {
								close(enough)
							}
							h.Want(Want{Key: testKey, Kind: Connect, N: 1, Limits: Limits{Connections: 1}})
						}
					}
				})
				mu.Unlock()
				h.Want(Want{Key: testKey, Kind: Connect, N: 1, Limits: Limits{Connections: 1}})
				k.Status()
				<-enough
				h.Leave(true)
			}
		})
	}
	all.Wait()
	if got.Load() < 180 {
		t.Errorf("%d leases", got.Load())
	}
}
