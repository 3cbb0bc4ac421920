package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/watch"
)

func TestAccounts(t *testing.T) {
	take := true
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !take {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"messages":[{"recipient":"a"},{"recipient":"b"},{"recipient":"c"}]}`)
	}))
	defer srv.Close()
	e := &engine{http: srv.URL}
	a := newAccounts()
	if err := a.inject(context.Background(), e, "n1", 3); err != nil {
		t.Fatal(err)
	}
	if err := a.inject(context.Background(), e, "n1", 2); err == nil {
		t.Error("an answer with more messages than were sent is taken")
	}
	take = false
	if err := a.inject(context.Background(), e, "n2", 2); err != nil { // of unknown fate
		t.Error(err)
	}
	a.note("n1-0@d0.test", isSeen)
	a.note("n1-0@d0.test", isSeen)
	a.note("n1-1@d1.test", isQueued)
	a.note("n2-1@d1.test", isSeen)
	a.note("n3-1@d1.test", isSeen)
	a.note("postmaster@d1.test", isQueued)
	s := a.sums()
	if s.acked != 3 || s.seen != 2 || s.queued != 1 || s.unknown != 4 || s.lost != 1 || s.losses[0] != "n1-2" {
		t.Errorf("%+v", s)
	}
	if a.duplicates != 1 || len(a.strange) != 2 {
		t.Errorf("%d twice, strange %v", a.duplicates, a.strange)
	}
}

// TestWorldConfig: the program understands what we write for nodes and proxies.
func TestWorldConfig(t *testing.T) {
	for _, kind := range []string{kindGodwit, kindHAProxy} {
		w := &world{b: &bench{o: &options{egressOptions: egressOptions{level: "info"}}}, net: "127.99", o: worldOptions{nodes: 3, proxies: 2, kind: kind, sources: 1}}
		w.addSources()
		dir := t.TempDir()
		rules := filepath.Join(dir, "rules.toml")
		if err := os.WriteFile(rules, []byte("version = 1\n"+limitRules(100)), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &sinkProcess{Endpoints: sink.Endpoints{Port: 2525, DNS: "127.0.0.1:5353"}}
		node := loadConfig(t, configText(dir, s, engineOptions{name: "n2", extra: w.nodeConfig(&node{name: "n2"}), tenants: []string{"other"}}))
		if node.Cluster.Bind != "127.99.3.2:7946" || len(node.Cluster.Nodes) != 3 || len(node.Egress.Sources) != 2 || node.Egress.Sources[1].Proxy != "p2" ||
			node.Queue.MaxPerTransaction != 1 || len(node.HTTP.Keys) != 2 {
			t.Errorf("%+v", node.Cluster)
		}
		proxy := loadConfig(t, w.proxyConfig("p2", 1, dir))
		if proxy.Cluster.Bind != "127.99.2.2:7946" || len(proxy.Proxy.Sources) != 1 || proxy.Proxy.Sources[0].Name != "s2" {
			t.Errorf("%+v", proxy.Proxy)
		}
	}
}

func addrPort(ip string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(ip), 1) }

func loadConfig(t *testing.T, text string) *config.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "godwit.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := config.Load(path)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return f
}

// TestJudge: the worst source makes the figures.
func TestJudge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "watch")
	rec, err := watch.New(watch.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b := &bench{o: &options{}, out: &out, board: newBoard()}
	w := &world{b: b, net: "127.99", o: worldOptions{nodes: 3, proxies: 1, sources: 2}}
	w.addSources()
	from := time.Now()
	for i, s := range w.sources {
		for range 1 + 4*i { // one connection, and five of four
			conn := rec.Opened(addrPort(s.ip), "open", watch.Accepted)
			for range 5 {
				rec.Mail(conn, watch.Accepted)
			}
		}
	}
	if err := rec.Close(); err != nil {
		t.Fatal(err)
	}
	run := limitRun{from: from, to: from.Add(10 * time.Second)}
	if err := b.judge(w, run, path, kindHAProxy, 10); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"overshoot_1s": 25. / 12, "overshoot_10s": 25. / 102, "conns": 5. / 4, "use": 5. / 100} {
		if got := b.board.now["egress.haproxy.10."+name]; got < want-0.001 || got > want+0.001 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if !strings.Contains(out.String(), "FAULT 127.99.1.2 open: 25 MAILs") {
		t.Error(out.String())
	}
	w.sources = w.sources[1:]
	if err := b.judge(w, run, path, kindGodwit, 10); err == nil {
		t.Error("an address that is none of the sources is no error")
	}
}

func TestEgressFlags(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o, err := parse(suiteEgress, []string{"-godwit", exe, "-seconds", "30", "-only", "limit_10,sites"}, io.Discard)
	if err != nil || o.limitTime() != 30*time.Second || o.sites != 100_000 {
		t.Error(o, err)
	}
	if o, err = parse(suiteEgress, []string{"-godwit", exe, "-quick"}, io.Discard); err != nil || o.sites != 10_000 || o.rounds != 1 {
		t.Error(o, err)
	}
	for _, args := range [][]string{{"-only", "plain"}, {"-seconds", "10"}, {"-sites", "10"}, {"-postfix"}} {
		if o, err := parse(suiteEgress, append([]string{"-godwit", exe}, args...), io.Discard); err == nil {
			t.Errorf("%v was taken: %+v", args, o)
		}
	}
}
