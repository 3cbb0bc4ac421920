package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

// awaitFile waits until a file is there, whole, and decodes it.
func awaitFile(t *testing.T, path string, v any, done <-chan int) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(path)
		if err == nil {
			if err := json.Unmarshal(b, v); err != nil {
				t.Fatal(err)
			}
			return
		}
		select {
		case code := <-done:
			t.Fatalf("ended with %d before it wrote %s", code, path)
		case <-deadline.C:
			t.Fatalf("no %s: %v", path, err)
		case <-tick.C:
		}
	}
}

// startServer runs a server that delivers to a simulator, until the test ends or stop is called.
func startServer(t *testing.T) (s *server, configFile string, providers *sink.Sink, stop func()) {
	t.Helper()
	o := sink.DefaultOptions()
	providers, err := sink.New(o, sink.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := providers.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(providers.Stop)
	dir, err := os.MkdirTemp("", "gw") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	configFile = filepath.Join(dir, "godwit.toml")
	text := fmt.Sprintf(`hostname = "mta.test"
[ops]
listen = ""
[admin]
listen = ["unix:%s/a.sock"]
[queue]
path = "%s/spool"
[queue.spool]
segment_size = "1MiB"
spare_segments = 0
min_free = "1MiB"
[[smtp.listeners]]
address = "127.0.0.1:0"
[[smtp.relay_from]]
network = "127.0.0.1"
tenant = "acme"
[http]
listen = []
[dns]
servers = [%q]
[route]
port = %d
`, dir, dir, providers.DNSAddr(), providers.Port())
	if err := os.WriteFile(configFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := config.Load(configFile)
	if err != nil {
		t.Fatal(err)
	}
	s = &server{path: configFile, grace: 5 * time.Second, level: new(slog.LevelVar), log: slog.New(slog.DiscardHandler)}
	if err := s.start(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return s, configFile, providers, stop
}

func decode[T any](t *testing.T, r result) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	return v
}

// TestQueue goes through the operator's commands on a running server.
func TestQueue(t *testing.T) {
	s, conf, providers, stop := startServer(t)
	at := func(args ...string) []string { return append(append([]string{"queue"}, args...), "-c", conf) }
	contains(t, want(t, exitOK, at("list")...).out, "no queues")
	contains(t, want(t, exitOK, at("suspensions")...).out, "nothing is suspended")
	contains(t, want(t, exitOK, at("suspend", "--domain", "d*.test", "--for", "1h", "--reason", "test")...).out, "suspended domain=d*.test until", "resume")
	suspended := decode[adminapi.SuspensionsResponse](t, want(t, exitOK, at("suspensions", "--json")...)).Suspensions
	if len(suspended) != 1 || suspended[0].Reason != "test" || time.Until(suspended[0].Until) < 50*time.Minute {
		t.Fatalf("suspensions %+v", suspended)
	}
	want(t, exitOK, "load", s.engine.SMTP().Addrs()[0].String(), "-n", "20", "--connections", "2", "--domain-count", "2", "--size", "2KiB", "--stream", "sale")

	list := decode[adminapi.QueuesResponse](t, want(t, exitOK, at("list", "--json")...))
	if list.Total != 2 || list.Messages != 20 || list.Queues[0].State != adminapi.QueueSuspended || list.Queues[0].Tenant != "acme" {
		t.Errorf("queues %+v", list)
	}
	text := want(t, exitOK, at("list", "--limit", "1")...).out
	contains(t, text, "domain", "d0.test", "sale", "suspended", "20 messages in 2 queues; 1 listed")
	messages := decode[adminapi.MessagesResponse](t, want(t, exitOK, at("messages", "--domain", "d0.test", "--limit", "0", "--json")...))
	if len(messages.Messages) != 10 {
		t.Fatalf("%d messages", len(messages.Messages))
	}
	contains(t, want(t, exitOK, at("messages", "--limit", "3")...).out, "queued", "there are more")
	id := messages.Messages[0].ID
	contains(t, want(t, exitOK, at("show", id, "--header")...).out, "message "+id, messages.Messages[0].Recipient, "injected", "Subject: Load test", "acme")
	body := want(t, exitOK, at("show", id, "--body")...).out
	if !strings.HasPrefix(body, "Received: ") && !strings.Contains(body, "\r\nSubject: Load test") {
		t.Errorf("body %.80q", body)
	}

	moveTest(t, at, conf)
	r := want(t, exitFailed, at("show", "01890a5d-ac96-774b-bcce-b302099a8057")...)
	contains(t, r.err, "no such message")
	contains(t, want(t, exitOK, at("bounce", "--message", id, "--reason", "gone")...).out, "bounced 1 message\n")
	contains(t, want(t, exitOK, at("show", id)...).out, "no longer in the queue: bounced", "gone")
	if n := decode[counted](t, want(t, exitOK, at("bounce", "--domain", "d1.test", "--json")...)).Count; n != 10 {
		t.Errorf("bounced %d", n)
	}
	contains(t, want(t, exitOK, at("drain")...).out, "accepting no more mail")
	refused := want(t, exitFailed, "load", s.engine.SMTP().Addrs()[0].String(), "-n", "1", "--give-up", "50ms")
	if refused.err == "" {
		t.Error("a draining server took mail")
	}
	contains(t, want(t, exitOK, at("undrain")...).out, "accepting mail again")
	stats := decode[statsOutput](t, want(t, exitOK, at("stats", "--json")...))
	if stats.Stats.Draining || stats.Info.Hostname != "mta.test" || stats.Info.ConfigFile != conf {
		t.Errorf("stats %+v %+v", stats.Stats, stats.Info)
	}
	contains(t, want(t, exitOK, at("stats")...).out, "accepting mail", "mta.test", conf)
	contains(t, want(t, exitOK, at("resume", suspended[0].ID)...).out, "ended 1 suspension")
	contains(t, want(t, exitOK, at("resume", "--all")...).out, "ended 0 suspensions")
	contains(t, want(t, exitFailed, at("resume", suspended[0].ID)...).err, "no such suspension")
	contains(t, want(t, exitOK, at("retry", "--all")...).out, "made due")
	await(t, "delivery", func() bool { return providers.Stats().Total.Accepted >= 9 })

	offlineTest(t, at, stop)
}

// moveTest exports and imports.
func moveTest(t *testing.T, at func(...string) []string, conf string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "out.ndjson")
	contains(t, want(t, exitOK, at("export", "--domain", "d0.test", "-o", file)...).out, "exported 10 messages")
	r := want(t, exitOK, at("export", "--domain", "d0.test")...)
	contains(t, r.err, "exported 10 messages")
	if b, err := os.ReadFile(file); err != nil || len(b) != len(r.out) {
		t.Errorf("%d bytes in the file, %d on standard output, %v", len(b), len(r.out), err)
	}
	contains(t, want(t, exitOK, "queue", "import", file, "-c", conf).out, "stored 0 messages; 10 were in the queue before")
	contains(t, want(t, exitFailed, "queue", "import", write(t, "bad", "{}\n"), "-c", conf).err, "not an export")
}

// offlineTest: repair and check refuse a volume in use and work on one that is not.
func offlineTest(t *testing.T, at func(...string) []string, stop func()) {
	t.Helper()
	for _, c := range []string{"check", "repair"} {
		contains(t, want(t, exitFailed, at(c)...).err, "in use", "stop the server first")
	}
	stop()
	contains(t, want(t, exitOK, at("check")...).out, "is fine")
	contains(t, want(t, exitOK, at("repair")...).out, "rebuilt the index")
	contains(t, want(t, exitOK, at("check", "--json")...).out, `"ok": true`)
	empty := write(t, "c.toml", fmt.Sprintf("[queue]\npath = %q\n", t.TempDir()))
	contains(t, want(t, exitFailed, "queue", "repair", "-c", empty).err, "there is no spool volume")
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("no %s", what)
		case <-tick.C:
		}
	}
}

// TestReload: a good file is taken, a bad one is refused with its line.
func TestReload(t *testing.T) {
	_, conf, _, _ := startServer(t)
	contains(t, want(t, exitOK, "reload", "-c", conf).out, "taken")
	good, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	socket := strings.TrimSuffix(conf, "godwit.toml") + "a.sock"
	if err := os.WriteFile(conf, append([]byte("nonsense = 1\n"), good...), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, want(t, exitFailed, "reload", "--admin", socket).err, "godwit.toml:1:1", "nonsense")
}

// TestDemo runs the whole demonstration, small.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	r := want(t, exitOK, "demo", "--messages", "200")
	contains(t, r.out, "What happened", "gmail-like", "✓ 200 acknowledged", "✓ 0 missing", "0 altered", "no longer in the queue: delivered", "Where to look next")
}

// TestImportAfterRestart: messages that only the disk has are known too.
func TestImportAfterRestart(t *testing.T) {
	s, conf, _, stop := startServer(t)
	file := filepath.Join(t.TempDir(), "out.ndjson")
	want(t, exitOK, "queue", "suspend", "--all", "-c", conf)
	want(t, exitOK, "load", s.engine.SMTP().Addrs()[0].String(), "-n", "5", "--connections", "1", "--size", "2KiB")
	want(t, exitOK, "queue", "export", "--all", "-o", file, "-c", conf)
	stop()
	f, err := config.Load(conf)
	if err != nil {
		t.Fatal(err)
	}
	again := &server{path: conf, grace: 5 * time.Second, level: new(slog.LevelVar), log: slog.New(slog.DiscardHandler)}
	if err := again.start(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	contains(t, want(t, exitOK, "queue", "import", file, "-c", conf).out, "stored 0 messages; 5 were in the queue before")
	contains(t, want(t, exitOK, "queue", "list", "-c", conf).out, "5 messages in 5 queues", "suspended")
	messages := decode[adminapi.MessagesResponse](t, want(t, exitOK, "queue", "messages", "--json", "-c", conf))
	contains(t, want(t, exitOK, "queue", "show", messages.Messages[0].ID, "--header", "-c", conf).out, "Subject: Load test")
	want(t, exitOK, "queue", "bounce", "--all", "-c", conf)
	contains(t, want(t, exitOK, "queue", "import", file, "-c", conf).out, "stored 5 messages; 0 were in the queue before")
	if err := again.stop(); err != nil {
		t.Error(err)
	}
}
