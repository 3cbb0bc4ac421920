//go:build crash

package crash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

const apiKey = "crash-test-key"

// world is an engine between sources and a provider simulator, both in this
// process, which is never killed.
type world struct {
	t      *testing.T
	r      *rand.Rand
	dir    string
	spool  string
	sink   *sink.Sink
	engine *rig.Engine
	admin  *adminapi.Client
	params params

	stopLoad context.CancelFunc
	running  sync.WaitGroup
	loads    []*load.Load
	cuts     []time.Time
	dark     []span
}

// span is the time between a power cut and the death of the process. With the
// power gone nothing could have been answered in it, so an answer that was is
// no promise: a sync that overlaps the cut may even have succeeded.
type span struct{ from, to time.Time }

func (s span) has(at time.Time) bool { return !at.Before(s.from) && !at.After(s.to) }

// params fill in the configuration file.
type params struct {
	Hostname             string
	Spool, Events, Admin string
	SMTP, HTTP           int // ports, the same after each restart
	KeySum               string
	DNS                  string
	Port                 int
	MinFree              string
	Extra                string // configuration behind the rest
}

const configText = `
hostname = "{{.Hostname}}"
log.level = "info"
ops.listen = "127.0.0.1:0"
admin.listen = ["unix:{{.Admin}}"]

[smtp]
max_connections_per_ip = 1000
[[smtp.listeners]]
address = "127.0.0.1:{{.SMTP}}"
[[smtp.relay_from]]
network = "127.0.0.0/8"
tenant = "t"

[http]
listen = ["127.0.0.1:{{.HTTP}}"]
[[http.keys]]
name = "crash"
tenant = "t"
sha256 = "{{.KeySum}}"

# Small bounds, so that messages go to the index and back, and segments come and go.
[queue]
path = "{{.Spool}}"
max_ready = 40
max_in_memory = 200
index_every = "300ms"
hold_max = "500ms"
retry = { first = "300ms", factor = 1.5, max = "2s", jitter = 0.3 }
spool = { segment_size = "2MiB", spare_segments = 1, min_free = "{{.MinFree}}" }
events = { segment_size = "1MiB", max_size = "256MiB" }

[dns]
servers = ["{{.DNS}}"]
[route]
port = {{.Port}}
[throttle]
packs = []
[deliver]
messages_per_session = 30
[events_file]
path = "{{.Events}}"
{{.Extra}}
`

// newWorld starts the simulator and writes a configuration; the engine is not started.
func newWorld(t *testing.T, r *rand.Rand, spool string) *world {
	w := &world{t: t, r: r, dir: t.TempDir(), spool: spool}
	if spool == "" {
		w.spool = filepath.Join(w.dir, "spool")
	}
	s, err := sink.New(providers(), sink.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	w.sink = s
	socket, err := os.MkdirTemp("", "godwit") // t.TempDir is too long for the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(socket) })
	sum := sha256.Sum256([]byte(apiKey))
	w.params = params{Hostname: "mx.godwit.test", Spool: w.spool, Events: filepath.Join(w.dir, "events.jsonl"), Admin: filepath.Join(socket, "admin"),
		SMTP: w.freePort(), HTTP: w.freePort(), KeySum: hex.EncodeToString(sum[:]), DNS: s.DNSAddr(), Port: s.Port(), MinFree: "8MiB"}
	w.writeConfig()
	if w.admin, err = adminapi.NewClient(adminapi.ClientOptions{URL: "unix:" + w.params.Admin}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.admin.Close)
	return w
}

// providers make enough trouble to keep retries, the index and refills busy.
func providers() sink.Options {
	ms := func(n int) units.Duration { return units.Duration(time.Duration(n) * time.Millisecond) }
	o := sink.DefaultOptions()
	o.HTTP = ""
	o.Providers = []sink.Provider{
		{Name: "easy", Domains: []string{"e%d.test"}, Count: 6, Mode: sink.ModeFast, OwnMX: true},
		{Name: "grey", Domains: []string{"g%d.test"}, Count: 2, Mode: sink.ModeFast, Behaviour: sink.Behaviour{Greylist: ms(700)}},
		{Name: "moody", Domains: []string{"m%d.test"}, Count: 2, Mode: sink.ModeFast, OwnMX: true,
			Behaviour: sink.Behaviour{Defer: 0.3, Bounce: 0.03, AtData: true, DotDelay: ms(5)}},
		{Name: "library", Domains: []string{"l%d.test"}, Count: 2, Mode: sink.ModeFull,
			Behaviour: sink.Behaviour{MaxMessages: 20, LimitCode: 421, MaxConnections: 4}},
		{Name: "home", Domains: []string{"source.test"}, Mode: sink.ModeFast},
	}
	return o
}

// freePort finds a port below those that the system gives to outgoing
// connections: it must be free again after each restart.
func (w *world) freePort() int {
	for range 1000 {
		port := 20000 + w.r.IntN(12000)
		ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			_ = ln.Close()
			return port
		}
	}
	w.t.Fatal("no free port")
	return 0
}

func (w *world) config() string { return filepath.Join(w.dir, "godwit.toml") }

func (w *world) writeConfig() {
	w.t.Helper()
	var b strings.Builder
	err := template.Must(template.New("config").Parse(configText)).Execute(&b, w.params)
	if err == nil {
		err = os.WriteFile(w.config(), []byte(b.String()), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// start runs the engine, or runs it again, and returns how long that took.
func (w *world) start() time.Duration {
	w.t.Helper()
	begin := time.Now()
	var err error
	if w.engine == nil {
		w.engine, err = rig.Start(rig.Binary(w.t), w.config())
		w.t.Cleanup(func() {
			w.engine.Kill()
			if w.t.Failed() {
				w.t.Logf("the engine's log:\n%s", tail(w.engine.Log(), 60))
			}
		})
	} else {
		err = w.engine.Restart()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return time.Since(begin)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// startLoad begins to inject: by SMTP to one and to several recipients, by
// HTTP with content of its own and with stored content. The sources go on
// over all restarts. rate is in copies a second.
func (w *world) startLoad(rate float64) {
	base := load.DefaultOptions()
	base.Keep, base.Size = true, 6<<10
	base.Domains = []string{"e%d.test=5", "g%d.test=2", "m%d.test=2", "l%d.test=1"}
	base.DomainCount, base.GiveUp = 2, units.Duration(rig.Patience)
	base.Timeout = units.Duration(rig.Patience)
	base.HTTP.Key = apiKey
	base.Target = fmt.Sprintf("127.0.0.1:%d", w.params.SMTP)
	web := base
	web.Mode, web.Target = load.ModeHTTP, fmt.Sprintf("http://127.0.0.1:%d", w.params.HTTP)

	single, several, raw, stored := base, base, web, web
	single.Locals, single.Connections, single.Rate = []string{"single"}, 8, rate*0.4
	several.Locals, several.Connections, several.Rate, several.Recipients = []string{"several"}, 2, rate*0.15, 3
	raw.Locals, raw.Connections, raw.Rate, raw.Recipients = []string{"raw"}, 2, rate*0.2, 20
	stored.Locals, stored.Connections, stored.Rate, stored.Recipients = []string{"stored"}, 1, rate*0.25, 40
	stored.HTTP.Content, stored.HTTP.Substitute = load.ContentStored, true

	ctx, stop := context.WithCancel(context.Background())
	w.stopLoad = stop
	w.t.Cleanup(func() { stop(); w.running.Wait() })
	for i, o := range []load.Options{single, several, raw, stored} {
		o.Seed, o.Run = w.r.Uint64(), fmt.Sprintf("run%d.%d", i, w.r.Uint32())
		o.Locals[0] += fmt.Sprint(len(w.loads), ".") // recipients are distinct
		l, err := load.New(o, load.Deps{})
		if err != nil {
			w.t.Fatal(err)
		}
		w.loads = append(w.loads, l)
		w.running.Go(func() {
			if _, err := l.Run(ctx); err != nil && ctx.Err() == nil {
				w.t.Errorf("source %s: %v", o.Locals[0], err)
			}
		})
	}
}

// endLoad stops the sources and returns every copy that was acknowledged, but not in the dark.
func (w *world) endLoad() (acks []ledger.Ack) {
	w.stopLoad()
	w.running.Wait()
	for _, l := range w.loads {
		acks = append(acks, l.Acks()...)
	}
	all := len(acks)
	acks = slices.DeleteFunc(acks, func(a ledger.Ack) bool {
		return slices.ContainsFunc(w.dark, func(s span) bool { return s.has(a.At.Time()) })
	})
	if len(w.dark) > 0 {
		w.t.Logf("%d of %d acknowledgements were given with the power gone and do not count", all-len(acks), all)
	}
	return acks
}

// counts adds up what the sources have got.
func (w *world) counts() (acked, refused, unknown int64) {
	for _, l := range w.loads {
		a, r, u := l.Counts()
		acked, refused, unknown = acked+a, refused+r, unknown+u
	}
	return acked, refused, unknown
}

// stats asks the engine for its totals.
func (w *world) stats() (*adminapi.Stats, error) {
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	return w.admin.Stats(ctx)
}

// awaitEmpty waits until the engine owes nothing any more.
func (w *world) awaitEmpty() {
	w.t.Helper()
	begin := time.Now()
	var last int64 = -1
	for changed := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		st, err := w.stats()
		switch {
		case err != nil:
			w.t.Fatal(err)
		case st.Messages == 0:
			w.t.Logf("the queue was empty %v after the load", time.Since(begin).Round(time.Millisecond))
			return
		case st.Messages != last:
			last, changed = st.Messages, time.Now()
		case time.Since(changed) > rig.Patience:
			w.t.Fatalf("%d messages stay in the queue", last)
		}
	}
}

// stop ends the engine in order.
func (w *world) stop() {
	w.t.Helper()
	code, err := w.engine.Stop()
	if err != nil || code != 0 {
		w.t.Fatalf("the engine ended with code %d, %v", code, err)
	}
}

// kill ends the process and notes the moment at which it was dead: what it had
// handed to the kernel before may still arrive at the simulator, so that is
// when the simulator has seen all its connections end.
func (w *world) kill() {
	w.t.Helper()
	w.engine.Kill()
	err := rig.Eventually(func() error {
		if n := w.sink.Stats().Total.Open; n > 0 {
			return fmt.Errorf("%d connections of a dead process are open", n)
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
	w.cuts = append(w.cuts, time.Now())
}

// unable skips a test, or fails it where CI says that nothing may be skipped.
func unable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("GODWIT_INTEROP") == "require" {
		t.Fatalf("%v, and GODWIT_INTEROP=require", err)
	}
	t.Skip(err)
}

// seeded makes the random source of a test and prints its seed.
func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("GODWIT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(fmt.Errorf("GODWIT_SEED: %w", err))
		}
	}
	t.Logf("GODWIT_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 7))
}

// rounds is how often to do it.
func rounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("GODWIT_ROUNDS"))
	if os.Getenv("GODWIT_ROUNDS") == "" {
		n, err = 20, nil
	}
	if err != nil || n < 1 {
		t.Fatal(errors.Join(errors.New("GODWIT_ROUNDS: must be a positive number"), err))
	}
	return n
}
