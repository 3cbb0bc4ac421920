package egress

import (
	"errors"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/desk"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// warming is one source in warm-up, in a pool with a fallback.
func warming() proxy.Options {
	e := sources("w", "f")
	e.Sources[0].Warmup = "slow"
	e.Pools = []proxy.Pool{{Name: "default", Sources: []proxy.Member{{Name: "w", Weight: 1}}, Fallback: "spare"}, {Name: "spare", Sources: []proxy.Member{{Name: "f"}}}}
	e.Warmups = []proxy.Warmup{{Name: "slow", Days: []int64{5}, Providers: map[string][]int64{"p": {3}}}}
	_ = e.Warmups[0].Start.UnmarshalText([]byte(time.Now().UTC().Format(time.DateOnly)))
	return e
}

const explained = `
[default]
message_rate = "5/s"
connections = 2

[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 3
`

func value(w *Way, name string, k throttle.Key) (l rules.Line) {
	for _, v := range w.Values {
		if v.Name == name && v.Key == k {
			l = v
		}
	}
	return l
}

// TestWays: every source of the pool and of its fallback, with what is set and by whom, before anything was sent.
func TestWays(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, warming(), explained)
		defer w.close()
		ways := w.g.Ways("default", mail.Route{Site: "mx.p.test;tls=none", Provider: "p"})
		if len(ways) != 2 || ways[0].Source.Name != "w" || ways[0].Pool != "default" || ways[1].Source.Name != "f" || ways[1].Pool != "spare" || !ways[0].Health.Up {
			t.Fatalf("%+v", ways)
		}
		if v := value(&ways[0], "daily", throttle.Key{Source: "w", Provider: "p"}); v.Value != "3" || v.Origin.String() != "warm-up of the source" {
			t.Errorf("warm-up: %+v in %+v", v, ways[0].Values)
		}
		if v := value(&ways[0], "connections", throttle.Key{Source: "w", Provider: "p"}); v.Value != "3" || v.State != rules.InForce {
			t.Errorf("connections: %+v", v)
		}
		var daily *Key
		for i := range ways[0].Keys {
			if k := &ways[0].Keys[i]; k.Limits.Daily > 0 {
				daily = k
			}
		}
		if daily == nil || daily.Limits.Daily != 3 || daily.DayIsFull || daily.Mode != desk.Owner || daily.Authority != "n1" {
			t.Errorf("%+v", ways[0].Keys)
		}
		if none := w.g.Ways("no such pool", mail.Route{}); len(none) != 0 {
			t.Errorf("%+v", none)
		}
	})
}

// TestDayIsFull: once the day's messages are sent this is known, with and without anybody waiting, and what went is counted.
func TestDayIsFull(t *testing.T) {
	inTime(t, func(t *testing.T) {
		e := warming()
		e.Pools[0].Fallback = ""
		e.Proxies, e.Sources[0].Proxy, e.Sources[0].Bind = []proxy.ProxyOptions{{Name: "p1", Address: "192.0.2.1:1"}}, "p1", "192.0.2.9" // which counts, not this node
		w := newWorld(t, e, explained)
		defer w.close()
		s := w.site("default", "p", "mx.p.test", 5).start()
		until(t, time.Minute, "the day's messages", func() bool { return w.count("w") == 3 })
		time.Sleep(time.Minute)
		full := func(when string) {
			t.Helper()
			for _, k := range w.g.Ways("default", mail.Route{Site: "mx.p.test", Provider: "p"})[0].Keys {
				if k.Limits.Daily > 0 && k.DayIsFull {
					return
				}
			}
			t.Errorf("%s: not known to be full", when)
		}
		full("while mail waits")
		stops := w.g.Stops(s.d.Key)
		if len(stops) != 1 || stops[0].Kind != throttle.Send || stops[0].Source != "w" || !fullDay(stops[0].Reason) || time.Until(stops[0].Next) < time.Hour {
			t.Errorf("stops %+v", stops)
		}
		if got := w.g.SentToday("w"); got["p"] != 3 || len(got) != 1 {
			t.Errorf("today %v", got)
		}
		if n := w.g.Sent("default", "w"); n != 3 {
			t.Errorf("sent %d", n)
		}
		s.mu.Lock()
		s.left = 0
		s.mu.Unlock()
		s.seek()
		time.Sleep(20 * time.Minute)
		full("while nothing waits")
		time.Sleep(25 * time.Hour)
		if got := w.g.SentToday("w"); len(got) != 0 {
			t.Errorf("next day %v", got)
		}
	})
}

// TestStops: what is waited for, under a lack of connections and of messages, with the key and the time.
func TestStops(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), "[default]\nconnections = 1\n[[site]]\nmatch = \"slow.test\"\nmessage_rate = \"4/min\"\n")
		defer w.close()
		busy := w.site("default", "", "mx.test", 3)
		busy.took = 20 * time.Second
		busy.start()
		slow := w.site("default", "", "slow.test", 3).start()
		time.Sleep(3 * time.Second)
		stops := w.g.Stops(busy.d.Key)
		if len(stops) == 0 || stops[0].Kind != throttle.Connect || stops[0].Source != "a" || stops[0].Key != (throttle.Key{Source: "a", Site: "mx.test"}) ||
			time.Since(stops[0].Since) < time.Second || stops[0].Reason != "connections 1 of 1 in use" {
			t.Errorf("connect: %+v", stops)
		}
		stops = w.g.Stops(slow.d.Key)
		if len(stops) == 0 || stops[0].Kind != throttle.Send || stops[0].Key != (throttle.Key{Source: "a", Site: "slow.test"}) ||
			time.Until(stops[0].Next) < 8*time.Second || time.Until(stops[0].Next) > 16*time.Second {
			t.Errorf("send: %+v", stops)
		}
		if by := w.g.Senders(busy.d.Key); len(by) != 1 || by[0] != "a" || w.g.Connections()["a"] != 2 {
			t.Errorf("by %v, %v", by, w.g.Connections())
		}
		found := false
		for _, k := range w.g.Keys() {
			if k.Key == (throttle.Key{Source: "a", Site: "mx.test"}) {
				found = k.Owned && k.Connections == 1 && k.WaitConnect > 0 && k.Limits.Connections == 1
			}
		}
		if !found {
			t.Errorf("keys %+v", w.g.Keys())
		}
		until(t, 5*time.Minute, "all sent", func() bool { return w.count("*") == 6 })
	})
}

// TestPauseIsTold: a source that failed at a site is paused there, and only there.
func TestPauseIsTold(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), "")
		defer w.close()
		w.g.mu.Lock()
		w.g.fail(spot{"a", "mx.test"}, time.Now(), errors.New("connection refused"))
		w.g.mu.Unlock()
		here, there := w.g.Ways("default", mail.Route{Site: "mx.test"}), w.g.Ways("default", mail.Route{Site: "other.test"})
		if !here[0].Paused.After(time.Now()) || here[0].Failure == nil || !there[0].Paused.IsZero() {
			t.Errorf("%+v %+v", here, there)
		}
		time.Sleep(2 * firstPause)
		if here = w.g.Ways("default", mail.Route{Site: "mx.test"}); !here[0].Paused.IsZero() {
			t.Errorf("%+v", here)
		}
	})
}

// TestContactIsTold: of proxies, by their links; and limits of a proxy that is lost are down.
func TestContactIsTold(t *testing.T) {
	inTime(t, func(t *testing.T) {
		e := sources("a")
		e.Proxies, e.Sources[0].Proxy, e.Sources[0].Bind = []proxy.ProxyOptions{{Name: "p1", Address: "192.0.2.1:1"}}, "p1", "192.0.2.9"
		w := newWorld(t, e, explained)
		defer w.close()
		until(t, time.Minute, "contact", func() bool { c, ok := w.g.Contact("p1"); return ok && c.Up })
		keys := w.g.Ways("default", mail.Route{Site: "mx.test"})[0].Keys
		if len(keys) == 0 || keys[0].Mode != desk.Remote || keys[0].Authority != "p1" {
			t.Errorf("%+v", keys)
		}
		w.proxies["p1"].set(true)
		until(t, time.Minute, "loss", func() bool { c, _ := w.g.Contact("p1"); return !c.Up })
		way := w.g.Ways("default", mail.Route{Site: "mx.test"})[0]
		if way.Health.Up || way.Keys[0].Mode != desk.Down || way.Keys[0].Authority != "p1" || way.Keys[0].Reason == "" {
			t.Errorf("%+v", way)
		}
		if _, ok := w.g.Contact("p2"); ok {
			t.Error("there is no p2")
		}
		if got := w.g.Egress(); len(got.Proxies) != 1 {
			t.Errorf("%+v", got)
		}
	})
}
