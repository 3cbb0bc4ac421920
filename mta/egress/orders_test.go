package egress

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

func TestOrders(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 4
message_rate = "20/s"
`)
		defer w.close()
		site := "mx1.p.test,mx2.p.test;tls=must"
		s := w.site("default", "p", site, 4000).start()
		at := spot{"a", "p"}
		rate := func(d time.Duration) float64 {
			before := w.count("a")
			time.Sleep(d)
			return float64(w.count("a")-before) / d.Seconds()
		}
		conns := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.open[at]
		}
		give := func(a rules.Action, k throttle.Key, l throttle.Limits, d time.Duration) string {
			end := time.Time{}
			if d > 0 {
				end = time.Now().Add(d)
			}
			o, err := w.g.Give(a, k, "", "test", l, end)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return o.ID
		}
		lift := func(id string) {
			if err := w.g.Lift(id); err != nil {
				t.Fatal(err)
			}
		}
		if r := rate(10 * time.Second); r < 19 || r > 20.5 {
			t.Errorf("%v/s before any order", r)
		}
		for _, k := range []throttle.Key{{Source: "a", Provider: "p"}, {Source: "a", Site: "mx1.p.test,mx2.p.test"}, {Provider: "p"}} {
			id := give(rules.Suspend, k, throttle.Limits{}, 0)
			time.Sleep(200 * time.Millisecond)
			if r := rate(40 * time.Second); r > 0 || conns() > 0 {
				t.Errorf("suspended %v: %v/s, %d connections", k, r, conns())
			}
			lift(id)
			time.Sleep(time.Second)
			if r := rate(10 * time.Second); r < 19 {
				t.Errorf("lifted %v: %v/s", k, r)
			}
		}
		id := give(rules.OneConnection, throttle.Key{Source: "a", Provider: "p"}, throttle.Limits{}, 0)
		time.Sleep(2 * time.Second)
		if n := conns(); n != 1 {
			t.Errorf("%d connections under an order of one", n)
		}
		lift(id)
		time.Sleep(time.Second)
		slow := throttle.Limits{}
		if err := slow.MessageRate.UnmarshalText([]byte("5/s")); err != nil {
			t.Fatal(err)
		}
		give(rules.Slow, throttle.Key{Source: "a", Provider: "p"}, slow, 20*time.Second)
		time.Sleep(time.Second)
		if r := rate(10 * time.Second); r < 4.5 || r > 5.2 {
			t.Errorf("%v/s under an order of 5/s", r)
		}
		time.Sleep(11 * time.Second)
		if r := rate(10 * time.Second); r < 19 {
			t.Errorf("%v/s after the order's time", r)
		}
		s.mu.Lock()
		s.left = 0
		s.mu.Unlock()
		time.Sleep(10 * time.Second)
	})
}

// TestReplyBecomesOrder: a reply stops the source, and the other one goes on.
func TestReplyBecomesOrder(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a", "b"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
connections = 2
[[provider.rule]]
name = "blocked"
match = "blocked by list"
action = "suspend"
for = "1h"
matches = ["421 4.7.0 blocked by list"]
not = ["421 try later"]
`)
		defer w.close()
		w.reply = func(source, _ string) mail.Outcome {
			if source == "a" {
				return mail.Outcome{Kind: mail.Deferred, Class: mail.ClassSMTP, Reply: mail.Reply{Code: 421, Enhanced: "4.7.0", Text: "blocked by list"}}
			}
			return mail.Outcome{Kind: mail.Delivered, Class: mail.ClassSMTP, Reply: mail.Reply{Code: 250}}
		}
		w.site("default", "p", "mx.p.test", 500).start()
		until(t, time.Minute, "all sent", func() bool { return w.count("*") == 500 })
		if n := w.count("a"); n == 0 || n > 4 {
			t.Errorf("a sent %d, want one a connection before it was stopped", n)
		}
		if n := len(w.store.List(orderPrefix)); n != 1 {
			t.Errorf("%d orders stored", n)
		}
	})
}

// TestRefusedAtTheDoor: what hosts say instead of a greeting counts for the rules also while other sources may try.
func TestRefusedAtTheDoor(t *testing.T) {
	inTime(t, func(t *testing.T) {
		w := newWorld(t, sources("a", "b"), `
[[provider]]
name = "p"
mx_suffix = [".p.test"]
[[provider.rule]]
name = "blocked"
match = "blocked by list"
action = "suspend"
for = "1h"
matches = ["421 4.7.0 blocked by list"]
not = ["421 try later"]
`)
		defer w.close()
		x := queue.Demand{Key: "k", Pool: "default", Site: "mx.p.test", Provider: "p", N: 1, Take: func(queue.Lease) { t.Error("late") }}
		l := w.g.Seek(x)[0]
		err := &mail.OutcomeError{Outcome: mail.Outcome{Kind: mail.Deferred, Class: mail.ClassSMTP, Reply: mail.Reply{Code: 421, Enhanced: "4.7.0", Text: "blocked by list"}}}
		if !l.Failed(err) {
			t.Error("no other source")
		}
		l.Close(false)
		synctest.Wait()
		if n := len(w.g.Orders()); n != 1 {
			t.Errorf("%d orders", n)
		}
	})
}
