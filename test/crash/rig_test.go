//go:build crash

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/ledger"
	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/units"
)

// rounds is how often the program dies: GODWIT_ROUNDS, 5 without it.
func rounds(t *testing.T) int {
	t.Helper()
	s := os.Getenv("GODWIT_ROUNDS")
	if s == "" {
		return 5
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("GODWIT_ROUNDS: %q is not a number of rounds", s)
	}
	return n
}

// random is seeded by GODWIT_SEED; the seed is printed so that a run can be repeated.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("GODWIT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("GODWIT_SEED: %v", err)
		}
	}
	t.Logf("GODWIT_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// rig is the program on a volume, with sources and providers around it.
type rig struct {
	t      *testing.T
	dir    string // configuration and logs, never on the volume
	spool  string
	sink   *sink.Sink
	smtp   string
	http   string
	ops    string
	key    string
	cmd    *exec.Cmd
	log    *os.File
	cuts   []time.Time
	starts []time.Duration
}

func newRig(t *testing.T, spool string) *rig {
	t.Helper()
	o := sink.DefaultOptions()
	o.Providers[0].Behaviour.Defer = 0.03
	o.Providers[0].OwnMX = true
	s, err := sink.New(o, sink.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	r := &rig{t: t, dir: t.TempDir(), spool: spool, sink: s, key: "crash-test-key-of-more-than-32-characters"}
	r.smtp, r.http, r.ops = freeAddress(t), freeAddress(t), freeAddress(t)
	if r.log, err = os.Create(filepath.Join(r.dir, "godwit.log")); err != nil {
		t.Fatal(err)
	}
	r.configure()
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			r.tailLog()
		}
	})
	return r
}

// freeAddress finds a port that a restarted program can bind again and again.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (r *rig) config() string { return filepath.Join(r.dir, "godwit.toml") }

func (r *rig) configure() {
	r.t.Helper()
	text := fmt.Sprintf(`hostname = "mta.test"
[ops]
listen = %q
[admin]
listen = ["unix:%s/admin.sock"]
[[smtp.listeners]]
address = %q
[[smtp.relay_from]]
network = "127.0.0.0/8"
[http]
listen = [%q]
[[http.keys]]
name = "crash"
tenant = "crash"
sha256 = %q
scopes = ["inject", "read"]
[queue]
path = %q
index_every = "300ms"
max_ready = 100
max_in_memory = 500
[queue.retry]
first = "500ms"
factor = 1.5
max = "2s"
[queue.spool]
segment_size = "8MiB"
min_free = "8MiB"
[queue.events]
segment_size = "4MiB"
max_size = "256MiB"
[dns]
servers = [%q]
[route]
port = %d
[events_file]
path = %q
`, r.ops, r.dir, r.smtp, r.http, keyHash(r.key), r.spool, r.sink.DNSAddr(), r.sink.Port(), filepath.Join(r.spool, "events.json"))
	if err := os.WriteFile(r.config(), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// binary is GODWIT_BIN or bin/godwit, which `make build` makes.
func binary(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("GODWIT_BIN"); b != "" {
		return b
	}
	b, err := filepath.Abs(filepath.Join("..", "..", "bin", "godwit"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b); err != nil {
		t.Fatalf("%v: run make build", err)
	}
	return b
}

// start runs the program until it serves. It returns what it printed if it ended instead.
func (r *rig) start() error {
	r.t.Helper()
	begin := time.Now()
	from, err := r.log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	r.cmd = exec.Command(binary(r.t), "serve", "-c", r.config())
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	cmd := r.cmd
	go func() { ended <- cmd.Wait() }()
	for time.Since(begin) < 30*time.Second {
		select {
		case err := <-ended:
			r.cmd = nil
			text, _ := os.ReadFile(r.log.Name())
			return fmt.Errorf("ended: %v\n%s", err, text[from:])
		default:
		}
		if resp, err := http.Get("http://" + r.ops + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if r.listening() {
				r.starts = append(r.starts, time.Since(begin))
				return nil
			}
		}
		time.Sleep(5 * time.Millisecond) // another process: there is nothing to wait on
	}
	return fmt.Errorf("not serving after 30 s")
}

func (r *rig) listening() bool {
	c, err := net.Dial("tcp", r.smtp)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (r *rig) mustStart() {
	r.t.Helper()
	if err := r.start(); err != nil {
		r.t.Fatalf("start: %v", err)
	}
}

// kill ends the program at once and notes the instant at which it was dead.
func (r *rig) kill() {
	if r.cmd == nil {
		return
	}
	pid := r.cmd.Process.Pid
	_ = r.cmd.Process.Kill()
	for { // until it is reaped
		if err := syscall.Kill(pid, 0); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.cuts = append(r.cuts, time.Now())
	r.cmd = nil
}

// terminate asks the program to end and waits for it.
func (r *rig) terminate() {
	r.t.Helper()
	pid := r.cmd.Process.Pid
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	deadline := time.Now().Add(40 * time.Second)
	for syscall.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			r.t.Fatal("did not end on SIGTERM")
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.cmd = nil
}

func (r *rig) tailLog() {
	text, err := os.ReadFile(r.log.Name())
	if err != nil {
		return
	}
	r.t.Logf("the end of its log:\n%s", text[max(0, len(text)-4000):])
}

// metric reads one number from /metrics.
func (r *rig) metric(name string) (float64, bool) {
	resp, err := http.Get("http://" + r.ops + "/metrics")
	if err != nil {
		return 0, false
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return n, err == nil
		}
	}
	return 0, false
}

// awaitEmpty waits until the queue owes nothing more.
func (r *rig) awaitEmpty() {
	r.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		if n, ok := r.metric("godwit_queue_messages"); ok && n == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	n, _ := r.metric("godwit_queue_messages")
	r.t.Fatalf("%.0f messages still in the queue", n)
}

// sources are two load generators that go on until they are stopped.
type sources struct {
	t      *testing.T
	loads  []*load.Load
	cancel context.CancelFunc
	done   chan error
}

func (r *rig) startSources(rate float64) *sources {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &sources{t: r.t, cancel: cancel, done: make(chan error, 2)}
	for _, o := range []load.Options{r.bySMTP(rate), r.byHTTP(rate / 4)} {
		l, err := load.New(o, load.Deps{})
		if err != nil {
			r.t.Fatal(err)
		}
		s.loads = append(s.loads, l)
		go func() {
			_, err := l.Run(ctx)
			s.done <- err
		}()
	}
	r.t.Cleanup(cancel)
	return s
}

func (r *rig) bySMTP(rate float64) load.Options {
	o := load.DefaultOptions()
	o.Target, o.Mode, o.Connections, o.Rate, o.Keep = r.smtp, load.ModeSMTP, 10, rate, true
	o.Recipients, o.Size, o.GiveUp = 2, 3<<10, units.Duration(2*time.Minute)
	o.Timeout, o.Run = units.Duration(10*time.Second), "smtp"
	return o
}

func (r *rig) byHTTP(rate float64) load.Options {
	o := r.bySMTP(rate)
	o.Target, o.Mode, o.Connections, o.Recipients, o.Run = "http://"+r.http, load.ModeHTTP, 2, 5, "http"
	o.HTTP.Key = r.key
	return o
}

// stop ends injection and returns everything that was acknowledged.
func (s *sources) stop() []ledger.Ack {
	s.t.Helper()
	s.cancel()
	var acks []ledger.Ack
	for range s.loads {
		<-s.done // ending by cancel is no error of the test's
	}
	for _, l := range s.loads {
		acks = append(acks, l.Acks()...)
	}
	return acks
}

// reconcile compares the books and fails on a loss, a change, or a duplicate that no death excuses.
func (r *rig) reconcile(acks []ledger.Ack) {
	r.t.Helper()
	const window = 2 * time.Second
	deliveries := r.sink.Deliveries()
	books := ledger.Reconcile(acks, deliveries)
	late := books.Late(r.cuts, window)
	r.t.Logf("%d deaths: %s; recovery took %v at most", len(r.cuts), books, slowest(r.starts))
	if !books.OK() {
		r.t.Errorf("%d missing, %d altered; first missing %+v", len(books.Missing), len(books.Altered), first(books.Missing))
	}
	if len(late) > 0 {
		r.t.Errorf("%d duplicates not delivered within %v before a death; first %+v; deaths %v", len(late), window, late[0], r.cuts)
	}
	// What was delivered last before each death bounds what can be repeated.
	inFlight := 0
	for _, cut := range r.cuts {
		for i := range deliveries {
			if d := cut.Sub(deliveries[i].At.Time()); d >= 0 && d < 200*time.Millisecond {
				inFlight++
			}
		}
	}
	r.t.Logf("%d duplicates; %d were delivered in the last 200 ms before a death", books.Surplus(), inFlight)
	if len(acks) < 100*len(r.cuts) {
		r.t.Errorf("only %d acknowledged: the test proves little", len(acks))
	}
}

func first[T any](list []T) any {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

func slowest(list []time.Duration) (d time.Duration) {
	for _, x := range list {
		d = max(d, x)
	}
	return d.Round(time.Millisecond)
}

// checkEvents reads the events file: each message that was injected has one
// end, however often it was written.
func (r *rig) checkEvents(acks []ledger.Ack) {
	r.t.Helper()
	ends := map[string]map[string]bool{}
	injected, repeated := 0, 0
	files, err := filepath.Glob(filepath.Join(r.spool, "events*.json*"))
	if err != nil {
		r.t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			r.t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var e struct{ ID, Kind, Message string }
			if err := json.Unmarshal(line, &e); err != nil {
				r.t.Fatalf("%s: %v in %q", path, err, line)
			}
			if ids[e.ID] {
				repeated++
			}
			ids[e.ID] = true
			switch e.Kind {
			case "injected":
				if ends[e.Message] == nil {
					ends[e.Message] = map[string]bool{}
					injected++
				}
			case "delivered", "bounced", "expired":
				if ends[e.Message] == nil {
					r.t.Fatalf("%s before injected: %s", e.Kind, line)
				}
				ends[e.Message][e.Kind] = true
			}
		}
	}
	bad := 0
	for _, kinds := range ends {
		if len(kinds) != 1 {
			bad++
		}
	}
	r.t.Logf("events: %d messages, %d events with an id that was written before", injected, repeated)
	if bad > 0 {
		r.t.Errorf("%d of %d messages do not have exactly one kind of end", bad, injected)
	}
	for _, a := range acks {
		if ends[a.ID] == nil {
			r.t.Errorf("no event about %s to %s, acknowledged at %v", a.ID, a.Recipient, a.At)
		}
	}
}
