package grant

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/throttle"
)

func TestLocalIsALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := throttle.NewKeeper(throttle.DefaultOptions())
		defer k.Close()
		time.Sleep(time.Second) // its clock is not ours
		l := &log{}
		daily := perSec
		daily.Daily = 1e6
		local := NewLocal("n1", k, l)
		local.Want(throttle.Want{Key: testKey, Kind: throttle.Send, Limits: perSec, N: 1}) // does nothing yet
		ask := func() {
			local.Want(throttle.Want{Key: testKey, Kind: throttle.Send, Limits: daily, N: 50, Flows: 1})
		}
		l.onUp, l.onGrant = ask, func(note) { ask() }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			local.Run(ctx)
		}()
		time.Sleep(2 * time.Second)
		since := time.Now()
		time.Sleep(5 * time.Second)
		got := l.of("grant", since)
		if n := freshOf(got); n < 485 || n > 495 || n != permits(got) {
			t.Errorf("%d permits in 5 s, %d fresh", permits(got), n)
		}
		local.Hold(testKey, []uint64{1, 2, 3}, daily)
		local.Done(testKey, 2, true)
		local.Opened(testKey, 4)
		local.Charge(testKey, 5)
		local.Unused(testKey, throttle.Send, 2)
		local.Observe(testKey, throttle.Sample{Delivered: 1})
		today := k.Status()[0].Today
		if s := k.Status()[0]; s.Connections != 3 || int(today) != permits(l.of("grant", time.Time{}))+3 {
			t.Errorf("%+v after %d permits", s, permits(l.of("grant", time.Time{})))
		}
		cancel()
		<-done
		if n := waits(k.Status()[0]); n != 0 {
			t.Errorf("%d still wanted after the end", n)
		}
		if !slices.Equal(l.contacts(), []string{"up", "down"}) {
			t.Errorf("contacts %v", l.contacts())
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	k := throttle.NewKeeper(throttle.DefaultOptions())
	defer k.Close()
	long := string(make([]byte, maxText+1))
	for _, o := range []ServerOptions{{}, {Name: long}, {Name: "p", Token: long}} {
		if _, err := NewServer(o, ServerDeps{Keeper: k}); err == nil {
			t.Errorf("%.20v was taken", o)
		}
	}
	if _, err := NewServer(ServerOptions{Name: "p"}, ServerDeps{}); err == nil {
		t.Error("a server without a keeper")
	}
	for _, o := range []ClientOptions{{}, {Node: long}, {Node: "n", Token: long}, {Node: "n"}} {
		if _, err := NewClient(o, ClientDeps{Events: &log{}}); err == nil {
			t.Errorf("%.20v was taken", o)
		}
	}
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		m, err := NewMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, ServerOptions{}, ServerDeps{Metrics: m}, ClientOptions{})
		defer r.stop()
		values := func() map[string]float64 {
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]float64{}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					name := f.GetName()
					for _, l := range m.GetLabel() {
						name += " " + l.GetValue()
					}
					out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
			return out
		}
		time.Sleep(time.Second)
		if v := values(); v["godwit_grant_contacts server"] != 1 || v["godwit_grant_contacts client"] != 1 {
			t.Errorf("in contact: %v", v)
		}
		r.set(func() { r.swallow = true })
		_, dn := r.ways()
		dn.hold(true)
		time.Sleep(time.Second)
		v := values()
		if v["godwit_grant_contacts server"] != 0 || v["godwit_grant_contacts client"] != 0 {
			t.Errorf("without contact: %v", v)
		}
		// The phase of the heartbeats decides which side closes first.
		if v["godwit_grant_losses_total silence client"]+v["godwit_grant_losses_total closed client"] != 1 ||
			v["godwit_grant_losses_total silence server"]+v["godwit_grant_losses_total closed server"] != 1 {
			t.Errorf("losses: %v", v)
		}
	})
}
