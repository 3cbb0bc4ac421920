//go:build egress

package egress

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/event"
	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/watch"
)

// matchesAll is a rule that any refusal sets off: who feeds it shows.
const matchesAll = `
[[default.rule]]
name = "any"
match = '''^[45]'''
action = "suspend"
for = "1h"
matches = ["421 4.7.0 x"]
not = ["250 2.0.0 x"]
`

// TestHAProxy: a stock HAProxy, configured by us, sends from the sources that were chosen, within limits
// that nodes own. A mail exchanger that is dead behind it is no reply, so no rule hears of it. Killed and
// started again it goes on.
func TestHAProxy(t *testing.T) {
	program, err := exec.LookPath("haproxy")
	if err != nil {
		unable(t, err)
	}
	w := newWorld(t, layout{
		nodes:   2,
		proxies: []proxySpec{{Name: "h1", Kind: "haproxy", Zone: "a"}},
		sources: []sourceSpec{{Name: "s1", Proxy: "h1"}, {Name: "s2", Proxy: "h1"}, {Name: "other", Proxy: "h1"}},
		pools: `pools = [
  { name = "default", sources = [{ name = "s1" }, { name = "s2" }] },
  { name = "other", sources = [{ name = "other" }] },
]`,
		rules: `
[default]
connections = 4
message_rate = "40/s"` + matchesAll,
	}, sink.Provider{Name: "easy", Domains: []string{"e%d.test"}, Count: 3})
	w.writeRules(w.lay.rules)
	conf := filepath.Join(w.dir, "haproxy.cfg")
	text, errOut, code := command(t, "proxy", "haproxy-config", "-c", w.configure(0), "--proxy", "h1", "--network", w.network)
	if code != 0 {
		t.Fatalf("haproxy-config: %s", errOut)
	}
	w.must(os.WriteFile(conf, []byte(text), 0o600))
	kill := w.daemon(program, "-db", "-f", conf)
	w.start()
	w.inject([]flow{{name: "easy", domain: "e%d.test", rate: 90}})
	w.inject([]flow{{name: "dead", domain: "deadmx.sink.test", count: 2}})
	begin := time.Now()
	for i := range w.nodes {
		e := w.awaitEvent(i, "the attempt at a dead host", func(e *event.Event) bool { return e.Domain == "deadmx.sink.test" && e.Kind == event.Deferred })
		if e.Class != string(mail.ClassConnect) {
			t.Errorf("a dead host gave class %q, reply %q", e.Class, e.Reply)
		}
	}
	time.Sleep(time.Until(begin.Add(6 * time.Second)))
	killed := w.mark("haproxy killed")
	kill()
	gone := time.Now()
	time.Sleep(2 * time.Second)
	started := w.mark("haproxy started")
	w.daemon(program, "-db", "-f", conf)
	time.Sleep(6 * time.Second)
	end := time.Now()
	r := w.record()
	acks := w.endLoad()
	w.bounceAll("deadmx.sink.test")
	w.awaitEmpty()
	w.reconcile(acks, []time.Time{gone.Add(time.Second)}, "deadmx.sink.test")
	w.senders(map[string][]string{"easy": {"s1", "s2"}})

	limit := watch.Limit{Rate: 40, Connections: 4}
	w.overshoot(w.record(), bound{name: "s1", sources: []string{"s1"}, provider: "easy", limit: limit}, bound{name: "s2", sources: []string{"s2"}, provider: "easy", limit: limit})
	all := bound{name: "both", provider: "easy", limit: watch.Limit{Rate: 80}}
	if use := w.used(r, all, begin.Add(3*time.Second), killed); use < 0.3 {
		t.Errorf("%.0f %% of the limits were used", 100*use)
	}
	if quiet := w.silence(r, all, started, end); quiet > 5*time.Second {
		t.Errorf("no mail for %v after the start", quiet)
	}
	for i := range w.nodes {
		given, err := w.eventsOf(i, func(e *event.Event) bool { return e.Kind == event.Suspended || e.Kind == event.Throttled })
		if err != nil || len(given) > 0 {
			t.Errorf("no reply was bad, yet %s slowed down: %+v, %v", w.nodes[i].Name, head(given), err)
		}
	}
}

// bounceAll ends what waits for a domain, on all nodes.
func (w *world) bounceAll(domain string) {
	w.t.Helper()
	w.godwit(0, "queue", "bounce", "--domain", domain, "--reason", "the test is over")
}

// daemon runs a program until kill is called or the test ends.
func (w *world) daemon(path string, args ...string) (kill func()) {
	w.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.must(cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if w.t.Failed() {
			w.t.Logf("%s said:\n%s", path, tail(out.String(), 30))
		}
	})
	w.t.Cleanup(kill)
	return kill
}
