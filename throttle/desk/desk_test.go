package desk

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/throttle"
)

func perSecond(n int64) units.Rate { return units.Rate{Count: n, Per: time.Second} }

var (
	poolKey   = throttle.Key{Pool: "p", Provider: "g"}
	sourceKey = throttle.Key{Source: "s1", Provider: "g"}
)

// alone starts a desk of a node without others.
func alone(t testing.TB) *Desk {
	t.Helper()
	d, err := New(DefaultOptions(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// lease asks and waits.
func lease(t *testing.T, d *Desk, who Asker, bounds ...throttle.Bound) *Lease {
	t.Helper()
	got := make(chan *Lease, 1)
	r := d.Ask(bounds, who, func(l *Lease) { got <- l })
	select {
	case l := <-got:
		return l
	case <-time.After(time.Minute):
		t.Fatalf("no lease: %+v", r.Status())
		return nil
	}
}

func bound(k throttle.Key, l throttle.Limits) throttle.Bound {
	return throttle.Bound{Key: k, Limits: l}
}

func TestNoLimits(t *testing.T) {
	d := alone(t)
	var l *Lease
	r := d.Ask([]throttle.Bound{{Key: poolKey}}, Asker{}, func(got *Lease) { l = got })
	if l == nil || r.Cancel() || r.Status().Waits {
		t.Fatalf("lease %v, status %+v", l, r.Status())
	}
	p, err := l.Slot(t.Context(), Asker{})
	if p != nil || err != nil || l.Paced() || !l.Opened() || l.Contended() || len(l.IDs()) != 0 {
		t.Fatalf("pass %v, error %v", p, err)
	}
	l.Observe(throttle.Sample{Delivered: 1})
	l.Close(true)
	if len(d.Status()) != 0 {
		t.Fatalf("status %+v", d.Status())
	}
}

func TestConnectionsAreHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := bound(poolKey, throttle.Limits{Connections: 2})
		one, two := lease(t, d, Asker{}, b), lease(t, d, Asker{}, b)
		if !one.Opened() || !two.Opened() || one.Contended() {
			t.Fatal("not opened, or contended")
		}
		var third *Lease
		r := d.Ask([]throttle.Bound{b}, Asker{}, func(l *Lease) { third = l })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if third != nil {
			t.Fatal("a third connection")
		}
		s := r.Status()
		if !s.Waits || s.Key != poolKey || s.Reason != "connections 2 of 2 in use" || s.For != 10*time.Second || s.Mode != Owner {
			t.Fatalf("status %+v", s)
		}
		if !one.Contended() {
			t.Fatal("not contended")
		}
		one.Close(true)
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if third == nil {
			t.Fatal("no third connection")
		}
		third.Close(true) // not opened: back at once
		fourth := lease(t, d, Asker{}, b)
		fourth.Close(true)
		two.Close(true)
		synctest.Wait()
		if left := d.Status(); len(left) != 0 {
			t.Fatalf("left: %+v", left)
		}
	})
}

func TestLateOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		l := lease(t, d, Asker{}, bound(poolKey, throttle.Limits{Connections: 1}))
		time.Sleep(1600 * time.Millisecond)
		if l.Opened() {
			t.Fatal("opened a lease that is about to lapse")
		}
		l.Close(true)
		l = lease(t, d, Asker{}, bound(poolKey, throttle.Limits{Connections: 1}))
		if !l.Opened() {
			t.Fatal("not opened")
		}
		time.Sleep(time.Minute)
		if !l.Opened() {
			t.Fatal("an open one lapsed")
		}
		l.Close(true)
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := bound(poolKey, throttle.Limits{Connections: 1})
		for range 50 { // in the moment of the grant, too
			r := d.Ask([]throttle.Bound{b}, Asker{}, func(l *Lease) { l.Close(true) })
			r.Cancel()
			synctest.Wait()
		}
		l := lease(t, d, Asker{}, b)
		r := d.Ask([]throttle.Bound{b}, Asker{}, func(*Lease) { t.Error("granted") })
		if !r.Cancel() || r.Cancel() {
			t.Fatal("cancel")
		}
		l.Close(true)
		synctest.Wait()
		if left := d.Status(); len(left) != 0 {
			t.Fatalf("left: %+v", left)
		}
	})
}

// send sends messages one after the other until the time is over and returns when each went.
func send(ctx context.Context, l *Lease, who Asker, takes time.Duration) (sent []time.Time) {
	for {
		p, err := l.Slot(ctx, who)
		if err != nil {
			return sent
		}
		if err := p.Use(ctx); err != nil {
			return sent
		}
		sent = append(sent, time.Now())
		time.Sleep(takes)
	}
}

// between checks a count.
func between(t *testing.T, what string, n int, least, most float64) {
	t.Helper()
	if float64(n) < least || float64(n) > most {
		t.Errorf("%s: %d, want %.1f to %.1f", what, n, least, most)
	}
}

func TestPace(t *testing.T) {
	for _, rate := range []int64{10, 100, 1000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := alone(t)
				b := bound(poolKey, throttle.Limits{MessageRate: perSecond(rate)})
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				counts := make(chan []time.Time, 8)
				for range 8 {
					l := lease(t, d, Asker{}, b)
					go func() {
						defer l.Close(true)
						counts <- send(ctx, l, Asker{}, 2*time.Millisecond)
					}()
				}
				var all []time.Time
				for range 8 {
					all = append(all, <-counts...)
				}
				between(t, "messages", len(all), 0.95*20*float64(rate), 20*float64(rate))
				if over := overshoot(all, rate); over != "" {
					t.Error(over)
				}
			})
		})
	}
}

func TestTwoPaces(t *testing.T) {
	for name, rates := range map[string][2]int64{"equal": {10, 10}, "equal fast": {100, 100}, "near": {10, 9}, "far": {100, 3}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := alone(t)
				pool := bound(poolKey, throttle.Limits{MessageRate: perSecond(rates[0])})
				source := bound(sourceKey, throttle.Limits{MessageRate: perSecond(rates[1])})
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				// Something else brings the two out of step.
				other := lease(t, d, Asker{}, source)
				time.Sleep(37 * time.Millisecond)
				if p, err := other.Slot(ctx, Asker{}); err != nil || p.Use(ctx) != nil {
					t.Fatal("no slot")
				}
				other.Close(true)
				counts := make(chan []time.Time, 4)
				for range 4 {
					l := lease(t, d, Asker{}, pool, source)
					go func() {
						defer l.Close(true)
						counts <- send(ctx, l, Asker{}, 2*time.Millisecond)
					}()
				}
				var all []time.Time
				for range 4 {
					all = append(all, <-counts...)
				}
				slow := min(rates[0], rates[1])
				between(t, "messages", len(all), 0.9*30*float64(slow), 30*float64(slow)+1)
				if over := overshoot(all, slow); over != "" {
					t.Error(over)
				}
			})
		})
	}
}

// A pool's limit over several sources, each of which has a limit of its own.
func TestPoolOverSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		pool := bound(poolKey, throttle.Limits{MessageRate: perSecond(20)})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		counts := make(chan []time.Time, 9)
		for i := range 9 {
			k := throttle.Key{Source: fmt.Sprint("s", i%3), Provider: "g"}
			l := lease(t, d, Asker{}, pool, bound(k, throttle.Limits{MessageRate: perSecond(8)}))
			go func() {
				defer l.Close(true)
				counts <- send(ctx, l, Asker{}, 2*time.Millisecond)
			}()
		}
		var all []time.Time
		for range 9 {
			all = append(all, <-counts...)
		}
		between(t, "messages", len(all), 0.9*600, 600)
	})
}

func TestStaleSlotReturnsToTheHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := bound(poolKey, throttle.Limits{MessageRate: perSecond(10)})
		l := lease(t, d, Asker{}, b)
		defer l.Close(true)
		p, err := l.Slot(t.Context(), Asker{Flow: "a"})
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 8)
		for i := range 4 {
			go func() {
				q, err := l.Slot(t.Context(), Asker{Flow: fmt.Sprint(i)})
				if err != nil || q.Use(t.Context()) != nil {
					t.Error("no slot")
				}
				order <- "other"
			}()
		}
		time.Sleep(60 * time.Millisecond)
		go func() {
			q, err := l.Slot(t.Context(), Asker{Flow: "b", Priority: mail.Urgent})
			if err != nil || q.Use(t.Context()) != nil {
				t.Error("no slot")
			}
			order <- "urgent"
		}()
		synctest.Wait()
		start := time.Now()
		if err := p.Use(t.Context()); err != nil {
			t.Fatal(err)
		}
		order <- "stale"
		p.Charge(2)
		if waited := time.Since(start); waited < 30*time.Millisecond || waited > 200*time.Millisecond {
			t.Errorf("waited %v for another permit", waited)
		}
		for _, want := range []string{"urgent", "stale", "other", "other", "other", "other"} {
			if got := <-order; got != want {
				t.Errorf("%s before %s", got, want)
			}
		}
	})
}

func TestSlotErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := bound(poolKey, throttle.Limits{MessageRate: units.Rate{Count: 1, Per: time.Hour}, Daily: 10})
		l := lease(t, d, Asker{}, b)
		p, err := l.Slot(t.Context(), Asker{})
		if err != nil || p.Use(t.Context()) != nil {
			t.Fatal("no slot")
		}
		_, err = l.Slot(t.Context(), Asker{})
		var late *LateError
		if !errors.As(err, &late) || late.After < 59*time.Minute || late.Key != poolKey {
			t.Fatalf("error %v", err)
		}
		l.Close(true)
		if after, why := d.After([]throttle.Bound{b}); after < 59*time.Minute || why == "" {
			t.Fatalf("after %v: %q", after, why)
		}
		b.Limits.MessageRate = perSecond(1)
		if after, _ := d.After([]throttle.Bound{b}); after != 0 {
			t.Fatalf("other limits: after %v", after)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		l = lease(t, d, Asker{}, b)
		if _, err := l.Slot(ctx, Asker{}); err == nil {
			_, err = l.Slot(ctx, Asker{})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("error %v", err)
			}
		}
		l.Close(true)
		d.Close()
		if _, err := l.Slot(t.Context(), Asker{}); !errors.Is(err, errClosed) {
			t.Fatalf("error %v", err)
		}
		var after *Lease = l
		d.Ask([]throttle.Bound{b}, Asker{}, func(l *Lease) { after = l })
		if after != nil {
			t.Fatal("a lease of a closed desk")
		}
	})
}

func TestProxyDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reach []string
		d, err := New(DefaultOptions(), Deps{OnReach: func(p string, up bool) { reach = append(reach, fmt.Sprint(p, up)) }})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		b := throttle.Bound{Key: sourceKey, Proxy: "x", Limits: throttle.Limits{Connections: 1, MessageRate: perSecond(1)}}
		calls := 0
		fail := func(l *Lease) {
			if calls++; l != nil {
				t.Error("a lease")
			}
		}
		if r := d.Ask([]throttle.Bound{b}, Asker{}, fail); calls != 1 || !errors.Is(r.Status().Err, ErrDown) {
			t.Fatalf("calls %d, status %+v", calls, r.Status())
		}
		k := throttle.NewKeeper(throttle.DefaultOptions())
		defer k.Close()
		port := d.AddLink("x", Proxy, nil)
		var h *throttle.Handle
		h = k.Attach("node", func(outs []throttle.Out) {
			for _, o := range outs {
				if o.Grant != nil {
					port.Granted(*o.Grant, time.Now())
				}
			}
		})
		port.Use(h)
		port.Contact(true, false)
		l := lease(t, d, Asker{}, b)
		if ids := l.IDs(); len(ids) != 1 || ids[0].Proxy != "x" || ids[0].Key != sourceKey || !l.Opened() {
			t.Fatalf("leases %+v", ids)
		}
		p, err := l.Slot(t.Context(), Asker{})
		if err != nil || p.Use(t.Context()) != nil {
			t.Fatal("no slot")
		}
		r := d.Ask([]throttle.Bound{b}, Asker{}, fail)
		failed := make(chan error)
		go func() {
			_, err := l.Slot(t.Context(), Asker{})
			failed <- err
		}()
		synctest.Wait()
		port.Contact(false, false)
		if err := <-failed; !errors.Is(err, ErrDown) || calls != 2 || !errors.Is(r.Status().Err, ErrDown) {
			t.Fatalf("slot: %v, calls %d, status %+v", err, calls, r.Status())
		}
		if s, _ := d.KeyStatus(sourceKey); s.Mode != Down || s.Leases != 1 || s.Why == "" {
			t.Fatalf("status %+v", s)
		}
		h.Leave(false)
		h = k.Attach("node", func([]throttle.Out) {})
		port.Use(h)
		port.Contact(true, false)
		time.Sleep(5 * time.Second)
		if s := k.Status(); len(s) != 1 || s[0].Connections != 1 {
			t.Fatalf("the proxy does not know the connection any more: %+v", s)
		}
		l.Close(true)
		if s := k.Status(); len(s) != 1 || s[0].Connections != 0 {
			t.Fatalf("the proxy still counts the connection: %+v", s)
		}
		if fmt.Sprint(reach) != "[xtrue xfalse xtrue]" || !d.Reachable("x") {
			t.Fatal(reach)
		}
		port.Remove()
		if d.Reachable("x") {
			t.Fatal("reachable")
		}
	})
}

func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := bound(throttle.Key{Tenant: "acme"}, throttle.Limits{MessageRate: perSecond(200)})
		if !d.Take(bound(poolKey, throttle.Limits{}), 1, nil) {
			t.Fatal("no limit, no permit")
		}
		var sent []time.Time
		var pull func()
		end := time.Now().Add(10 * time.Second)
		pull = func() {
			for time.Now().Before(end) && d.Take(b, 1, func() { go pull() }) {
				sent = append(sent, time.Now())
			}
		}
		pull()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		between(t, "messages", len(sent), 0.95*2000, 2000)
		if s := d.Status(); len(s) > 1 {
			t.Fatalf("left %+v", s)
		}
		// Several messages for one permit are charged.
		n := 0
		end = time.Now().Add(10 * time.Second)
		pull = func() {
			for time.Now().Before(end) && d.Take(b, 10, func() { go pull() }) {
				n += 10
			}
		}
		pull()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		between(t, "messages in tens", n, 0.9*2000, 2000+10)
		// Who does not take what it asked for holds nobody up for long.
		d.Take(b, 1, func() {})
		others := 0
		d.Take(b, 1, func() {
			if d.Take(b, 1, func() {}) {
				others++
			}
		})
		time.Sleep(time.Second)
		synctest.Wait()
		if others != 1 {
			t.Fatal("another one got nothing")
		}
	})
}

// A flow with many sessions gets no more than one with a single session that always waits.
func TestFlowsShareALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := bound(poolKey, throttle.Limits{MessageRate: perSecond(50)})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var mu sync.Mutex
		sent := map[string]int{}
		var wg sync.WaitGroup
		for i := range 21 {
			who := Asker{Flow: "big"}
			if i == 0 {
				who.Flow = "small"
			}
			l := lease(t, d, who, b)
			wg.Go(func() {
				defer l.Close(true)
				n := len(send(ctx, l, who, time.Millisecond))
				mu.Lock()
				defer mu.Unlock()
				sent[who.Flow] += n
			})
		}
		wg.Wait()
		between(t, "all", sent["big"]+sent["small"], 950, 1000)
		between(t, "small", sent["small"], 450, 510)
	})
}

// 100,000 queues wait for one limit. None has a goroutine, and a fresh urgent one is next.
func TestManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := []throttle.Bound{bound(poolKey, throttle.Limits{Connections: 1})}
		first := lease(t, d, Asker{}, b...)
		before := runtime.NumGoroutine()
		const n = 100_000
		served := 0
		requests := make([]*Request, n)
		for i := range n {
			requests[i] = d.Ask(b, Asker{Flow: strconv.Itoa(i)}, func(l *Lease) { served++; l.Close(true) })
		}
		if more := runtime.NumGoroutine() - before; more > 2 {
			t.Errorf("%d goroutines more", more)
		}
		urgent := make(chan *Lease, 1)
		d.Ask(b, Asker{Flow: "u", Priority: mail.Urgent}, func(l *Lease) { urgent <- l })
		first.Close(true)
		u := <-urgent
		if served > 0 {
			t.Errorf("%d were served before the urgent one", served)
		}
		for _, r := range requests[n/2:] {
			if !r.Cancel() {
				t.Fatal("not cancelled")
			}
		}
		u.Close(true)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if served != n/2 || len(d.Status()) != 0 {
			t.Errorf("%d of %d served, left %+v", served, n/2, d.Status())
		}
	})
}

func TestLowerLimitRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := alone(t)
		b := bound(poolKey, throttle.Limits{Connections: 3})
		var all []*Lease
		for range 3 {
			all = append(all, lease(t, d, Asker{}, b))
			time.Sleep(time.Millisecond)
		}
		b.Limits.Connections = 1
		r := d.Ask([]throttle.Bound{b}, Asker{}, func(*Lease) {})
		defer r.Cancel()
		for i, l := range all {
			select {
			case <-l.Revoked():
				if i == 0 {
					t.Error("the oldest was revoked")
				}
			default:
				if i > 0 {
					t.Error("a newer one was not revoked")
				}
			}
			l.Close(true)
		}
	})
}

func BenchmarkAskNoLimits(b *testing.B) {
	d := alone(b)
	bounds := []throttle.Bound{{Key: poolKey}, {Key: sourceKey}}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		d.Ask(bounds, Asker{}, func(l *Lease) { n++; l.Close(true) })
	}
}

func BenchmarkAskFree(b *testing.B) {
	d := alone(b)
	bounds := []throttle.Bound{bound(poolKey, throttle.Limits{Connections: 1 << 20})}
	got := make(chan *Lease, 1)
	b.ReportAllocs()
	for b.Loop() {
		d.Ask(bounds, Asker{}, func(l *Lease) { got <- l })
		(<-got).Close(true)
	}
}
