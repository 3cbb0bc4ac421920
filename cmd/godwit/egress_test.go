package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

// fakeNode is a server's egress and cluster, at the other end of the admin API.
type fakeNode struct {
	adminapi.Inspector
	adminapi.Suspender
	adminapi.Changer
	adminapi.Mover

	mu       sync.Mutex
	asked    adminapi.ExplainQuery
	explain  adminapi.Explanation
	message  adminapi.MessageExplanation
	orders   []adminapi.Order
	handoff  []adminapi.HandoffStatus // what the calls answer, one after another; the last stays
	request  adminapi.HandoffRequest
	draining bool
}

func (f *fakeNode) Explain(_ context.Context, q adminapi.ExplainQuery) (adminapi.Explanation, error) {
	f.asked = q
	if q.Source == "nope" {
		return adminapi.Explanation{}, fmt.Errorf("%w: there is no source %q; sources are s1, s2", adminapi.ErrBadQuery, q.Source)
	}
	return f.explain, nil
}

func (f *fakeNode) ExplainMessage(context.Context, mail.ID) (adminapi.MessageExplanation, error) {
	return f.message, nil
}

func (f *fakeNode) Pools(context.Context) (adminapi.PoolsResponse, error) {
	return adminapi.PoolsResponse{
		Pools: []adminapi.Pool{{Name: "bulk", Members: []adminapi.PoolMember{{Source: "s1", Weight: 3}, {Source: "s2", Weight: 1}}, Fallback: "spare"}, {Name: "spare", Default: true, Members: []adminapi.PoolMember{{Source: "s2", Weight: 1}}}},
		Sources: []adminapi.Source{{Name: "s1", Bind: "192.0.2.1", EHLO: "s1.example", Proxy: "p1", Zone: "a", State: "up", Connections: 1200, Daily: []adminapi.DailyLimit{{Provider: "google", Limit: 1000, Sent: 250}, {Limit: 50}}},
			{Name: "s2", Bind6: "2001:db8::2", State: "down", Reason: "proxy p2 is unreachable \x1b[31m", Since: time.Now().Add(-3 * time.Minute)}},
		Proxies: []adminapi.Proxy{{Name: "p1", Kind: "godwit", Address: "10.0.0.1:8029", State: "up"}, {Name: "p2", Kind: "haproxy", Address: "10.0.0.2:8029", State: "down", Reason: "connection refused"}},
	}, nil
}

func (f *fakeNode) Throttles(_ context.Context, s adminapi.Scope) ([]adminapi.Throttle, error) {
	var out []adminapi.Throttle
	for _, t := range f.explain.Paths[0].Throttles {
		if t.Key.Within(s) {
			out = append(out, t)
		}
	}
	return out, nil
}

func (f *fakeNode) Orders(context.Context) ([]adminapi.Order, error) {
	return slices.Clone(f.orders), nil
}

func (f *fakeNode) Set(_ context.Context, r adminapi.OrderRequest, by string) (adminapi.Order, error) {
	o := adminapi.Order{ID: fmt.Sprintf("o%d", len(f.orders)+1), Scope: r.Scope, Action: r.Action, Connections: r.Connections, MessageRate: r.MessageRate,
		Reason: r.Reason, By: by, Created: time.Now()}
	if r.Until != nil {
		o.Until = *r.Until
	}
	f.orders = append(f.orders, o)
	return o, nil
}

func (f *fakeNode) Lift(_ context.Context, id, _ string) error {
	n := len(f.orders)
	if f.orders = slices.DeleteFunc(f.orders, func(o adminapi.Order) bool { return o.ID == id }); n == len(f.orders) {
		return mail.ErrNotFound
	}
	return nil
}

func (f *fakeNode) Members(context.Context) (adminapi.ClusterResponse, error) {
	return adminapi.ClusterResponse{Node: "mta1", Records: 4, Digest: "0123456789abcdef", Members: []adminapi.Member{
		{Name: "mta1", Role: "mta", Zone: "a", Self: true, State: "alive", Messages: 12345, ConfigDigest: "aaaaaaaaaaaaaaaa"},
		{Name: "mta2", Role: "mta", Zone: "b", State: "alive", Link: "10.0.0.9:8028", Contact: true, Draining: true, Drift: true, ConfigDigest: "bbbbbbbbbbbbbbbb"},
		{Name: "px1", Role: "proxy", State: "missing", Link: "10.0.0.8:8028", Sources: []string{"s1", "s2"}}}}, nil
}

func (f *fakeNode) HandoffStatus(context.Context) (adminapi.HandoffStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.handoff[0]
	if len(f.handoff) > 1 {
		f.handoff = f.handoff[1:]
	}
	return s, nil
}

func (f *fakeNode) StartHandoff(ctx context.Context, r adminapi.HandoffRequest) (adminapi.HandoffStatus, error) {
	f.request = r
	if slices.Contains(r.To, "nobody") {
		return adminapi.HandoffStatus{}, fmt.Errorf("%w: there is no member nobody", adminapi.ErrHandoff)
	}
	return f.HandoffStatus(ctx)
}

func (f *fakeNode) StopHandoff(ctx context.Context) (adminapi.HandoffStatus, error) {
	return f.HandoffStatus(ctx)
}

func (f *fakeNode) Stats(context.Context) (adminapi.Stats, error) {
	return adminapi.Stats{Messages: 3, Draining: f.draining}, nil
}

func (f *fakeNode) Info(context.Context) (adminapi.Info, error) { return adminapi.Info{}, nil }

func (f *fakeNode) Reload(context.Context) error { return nil }

func (f *fakeNode) Drain(_ context.Context, on bool) error {
	f.draining = on
	return nil
}

// fakeServer serves a fakeNode on a Unix socket; at puts its address behind a command line.
func fakeServer(t *testing.T, bare bool) (f *fakeNode, at func(args ...string) []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	key := adminapi.Scope{Source: "s1", Provider: "google"}
	f = &fakeNode{explain: adminapi.Explanation{
		Address: "jo@gmail.com", Domain: "gmail.com", Site: "gmail-mx", Provider: "google", Hosts: []string{"mx1.google.test", "mx2.google.test"},
		Pool: "bulk", PoolOrigin: "choose[1]", NextDue: time.Now().Add(13 * time.Minute),
		Queues: []adminapi.QueueInfo{{Domain: "gmail.com", Priority: "bulk", Messages: 1200}, {Domain: "gmail.com", Priority: "bulk", Messages: 34}},
		Paths: []adminapi.Path{{
			Source: adminapi.Source{Name: "s1", Bind: "192.0.2.1", EHLO: "s1.example", Proxy: "p1", Zone: "a", State: "up"}, Weight: 3,
			Values: []adminapi.Value{{Name: "message_rate", Value: "5/s", Key: key, Origin: "google.toml:7 (provider google)"},
				{Name: "message_rate", Value: "100/s", State: adminapi.ValueOverridden, Origin: "default.toml:4 (default)", By: "google.toml:7"}, {Name: "tls", Value: "required", Origin: "google.toml:9 (provider google)"}},
			Throttles: []adminapi.Throttle{{Key: key, MaxConnections: 4, Connections: 3, MessageRate: "5/s", Rate: 4.81, WaitSend: 12, Mode: "remote", Authority: "proxy p1", Counted: "everywhere"}}}},
		Orders: []adminapi.Order{{ID: "o7", Scope: key, Action: "slow", MessageRate: "10/min", Rule: "google/unusual-rate", Reason: "421 4.7.28 unusual rate\x1b[2J", Created: time.Now(), Until: time.Now().Add(30 * time.Minute)}},
	}}
	f.message = adminapi.MessageExplanation{Message: &adminapi.Message{Recipient: "jo@gmail.com", State: "queued", Priority: "bulk"}, Path: &f.explain,
		Wait:   &adminapi.Wait{For: adminapi.WaitSend, Source: "s1", Key: key, Next: time.Now().Add(12 * time.Second)},
		Events: []adminapi.MessageEvent{{Kind: "injected", Protocol: "smtp", Peer: "10.0.0.5", Time: time.Now()}}}
	o := adminapi.DefaultOptions()
	o.Listen = []string{"unix:" + filepath.Join(dir, "s")}
	d := adminapi.Deps{Inspector: f, Suspender: f, Changer: f, Mover: f, Node: f, Level: &slog.LevelVar{}}
	if !bare {
		d.Explainer, d.Egress, d.Orders, d.Cluster, d.Handoff = f, f, f, f, f
	}
	s, err := adminapi.New(o, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return f, func(args ...string) []string { return append(args, "--admin", filepath.Join(dir, "s")) }
}

func TestExplainCommand(t *testing.T) {
	f, at := fakeServer(t, false)
	out := want(t, exitOK, at("explain", "jo@gmail.com", "--tenant", "acme")...).out
	first, _, _ := strings.Cut(out, "\n")
	contains(t, first, "Mail goes to google by s1 of pool bulk; nothing stops it, but message_rate of s1 is 10/min by rule google/unusual-rate until")
	contains(t, out, "gmail-mx", "mx1.google.test, mx2.google.test", "bulk (choose[1])", "1,234 messages in 2 queues", "in 12m", "source s1", "usable", "p1 (zone a)",
		"5/s", "10/min", "google.toml:7 (provider google)", "order o7", "3 of 4", "4.81/s of 5/s", "12 messages", "proxy p1", "slow to 10/min", "godwit throttles lift ID")
	if f.asked.Tenant != "acme" || strings.Contains(out, "default.toml:4") || strings.ContainsAny(out, "\x1b") {
		t.Errorf("asked %+v\n%s", f.asked, out)
	}
	contains(t, want(t, exitOK, at("explain", "address", "gmail.com", "--all")...).out, "default.toml:4 (default); overridden in google.toml:7")
	if x := decode[adminapi.Explanation](t, want(t, exitOK, at("explain", "gmail.com", "--json")...)); x.Verdict == "" || len(x.Paths) != 1 {
		t.Errorf("%+v", x)
	}
	contains(t, want(t, exitFailed, at("explain", "gmail.com", "--source", "nope")...).err, "there is no source", "s1, s2")
}

func TestExplainMessageCommand(t *testing.T) {
	_, at := fakeServer(t, false)
	id := mail.ID{1}.String()
	out := want(t, exitOK, at("explain", "message", id)...).out
	first, rest, _ := strings.Cut(out, "\n")
	contains(t, first, "Waiting for a message slot of source s1 at google (10/min by rule google/unusual-rate until", "next in about 12 s.")
	contains(t, rest, "waits for", "a message slot", "message "+id, "injected", "by smtp from 10.0.0.5", "mail to jo@gmail.com", "source s1")
	if strings.Index(rest, "injected") > strings.Index(rest, "mail to jo@gmail.com") {
		t.Errorf("the path comes before the message:\n%s", out)
	}
	contains(t, want(t, exitUsage, "explain", "message", "17").err, "UUID")
}

func TestPoolsCommand(t *testing.T) {
	_, at := fakeServer(t, false)
	out := want(t, exitOK, at("pools")...).out
	contains(t, out, "s1×3, s2 (down)", "1 of 2", "0 of 1", "spare (default)", "google 250 of 1,000, others 0 of 50", "1,200", "down for 3m", "proxy p2 is unreachable", "haproxy", "connection refused")
	if strings.Contains(out, "\x1b") {
		t.Errorf("a control character got through: %q", out)
	}
	down := want(t, exitOK, at("pools", "--down")...).out
	contains(t, down, "s2", "p2")
	if strings.Contains(down, "192.0.2.1") || strings.Contains(down, "fallback") {
		t.Errorf("what is up is shown:\n%s", down)
	}
	if p := decode[adminapi.PoolsResponse](t, want(t, exitOK, at("pools", "--json")...)); len(p.Sources) != 2 {
		t.Errorf("%+v", p)
	}
}

func TestClusterCommand(t *testing.T) {
	_, at := fakeServer(t, false)
	contains(t, want(t, exitOK, at("cluster")...).out, "mta1 (this node)", "12,345", "alive, draining", "drift (bbbbbbbbbbbb)", "missing", "out of contact", "in contact", "s1, s2", "4 shared records, digest 0123456789ab")
}

func TestThrottlesCommands(t *testing.T) {
	f, at := fakeServer(t, false)
	contains(t, want(t, exitOK, at("throttles")...).out, "source=s1 provider=google", "3 of 4")
	contains(t, want(t, exitOK, at("throttles", "list", "--source", "s9")...).out, "no limits are in use")
	contains(t, want(t, exitOK, at("throttles", "suspend", "--source", "s1", "--provider", "google", "--for", "2h", "--reason", "blocked")...).out,
		"source=s1 provider=google: suspend until", "godwit throttles lift o1")
	contains(t, want(t, exitOK, at("throttles", "slow", "--provider", "yahoo", "--message-rate", "10/min", "--connections", "1")...).out,
		"provider=yahoo: slow to 10/min, 1 connection until lifted")
	contains(t, want(t, exitOK, at("queue", "suspend", "--source", "s2", "--tenant", "acme", "--stream", "x")...).out, "source=s2 tenant=acme stream=x: suspend until lifted")
	if o := f.orders[0]; o.Reason != "blocked" || o.Until.IsZero() || len(f.orders) != 3 {
		t.Errorf("%+v", f.orders)
	}
	out := want(t, exitOK, at("throttles", "--provider", "google")...).out
	contains(t, out, "o1", "o3", "blocked", "hand (unix)", "when lifted")
	if strings.Contains(out, "yahoo") {
		t.Errorf("another provider's order is listed:\n%s", out)
	}
	contains(t, want(t, exitOK, at("throttles", "lift", "--provider", "yahoo")...).out, "lifted 1 order")
	contains(t, want(t, exitOK, at("throttles", "lift", "o1", "o3")...).out, "lifted 2 orders")
	contains(t, want(t, exitFailed, at("throttles", "lift", "o1")...).err, "o1", "no such order")
	for _, args := range [][]string{{"suspend"}, {"suspend", "--source", "s1", "--for", "-1s"}, {"slow", "--source", "s1"}, {"slow", "--source", "s1", "--message-rate", "fast"},
		{"suspend", "--stream", "x", "--source", "s1"}, {"lift"}, {"lift", "x", "--all"}, {"lift", "--all", "--source", "s1"}} {
		want(t, exitUsage, at(append([]string{"throttles"}, args...)...)...)
	}
	if len(f.orders) != 0 {
		t.Errorf("orders left: %+v", f.orders)
	}
}

func TestHandoffCommand(t *testing.T) {
	f, at := fakeServer(t, false)
	running := adminapi.HandoffStatus{State: adminapi.HandoffRunning, Total: 1000, Moved: 400, Left: 600, Rate: 200, Targets: []adminapi.HandoffTarget{{Name: "mta2", Messages: 400}}}
	done := adminapi.HandoffStatus{State: adminapi.HandoffDone, Total: 1000, Moved: 990, Delivered: 10, Targets: []adminapi.HandoffTarget{{Name: "mta2", Messages: 990}}}
	f.handoff = []adminapi.HandoffStatus{running, running, done}
	contains(t, want(t, exitOK, at("queue", "drain", "--handoff", "--to", "mta2,mta3")...).out, "handed over: 990 moved, 10 ended here, 0 left", "mta2: 990 messages")
	if !f.draining || strings.Join(f.request.To, " ") != "mta2 mta3" {
		t.Errorf("draining %v, request %+v", f.draining, f.request)
	}
	f.handoff = []adminapi.HandoffStatus{running}
	contains(t, want(t, exitOK, at("queue", "drain", "--handoff", "--no-wait")...).out, "handing over: 400 moved, 600 left, 200/s, about 3s")
	if s := decode[adminapi.HandoffStatus](t, want(t, exitOK, at("queue", "drain", "--status", "--json")...)); s.Left != 600 {
		t.Errorf("%+v", s)
	}
	f.handoff = []adminapi.HandoffStatus{running, {State: adminapi.HandoffStopped, Left: 600}}
	contains(t, want(t, exitFailed, at("queue", "drain", "--handoff")...).err, "600 messages")
	contains(t, want(t, exitFailed, at("queue", "drain", "--handoff", "--to", "nobody")...).err, "no member nobody")
	want(t, exitUsage, at("queue", "drain", "--to", "mta2")...)
	want(t, exitUsage, at("queue", "drain", "--status", "--handoff")...)
	f.handoff = []adminapi.HandoffStatus{running, {State: adminapi.HandoffStopped}}
	contains(t, want(t, exitOK, at("queue", "undrain")...).out, "accepting mail again")
	if len(f.handoff) != 1 || f.draining {
		t.Error("undrain did not stop the handoff")
	}
}

// TestNotConfigured: a server without egress and cluster says what is missing, and drains all the same.
func TestNotConfigured(t *testing.T) {
	_, at := fakeServer(t, true)
	contains(t, want(t, exitFailed, at("explain", "x.example")...).err, "egress")
	contains(t, want(t, exitFailed, at("cluster")...).err, "[cluster]")
	contains(t, want(t, exitFailed, at("queue", "drain", "--handoff")...).err, "[cluster]")
	contains(t, want(t, exitOK, at("queue", "drain")...).out, "accepting no more mail")
	contains(t, want(t, exitOK, at("queue", "undrain")...).out, "accepting mail again")
}

func TestBar(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		want        string
	}{{0, 10, "[----]"}, {5, 10, "[##--]"}, {10, 10, "[####]"}, {0, 0, "[####]"}, {20, 10, "[####]"}, {-1, 10, "[----]"}} {
		if got := bar(c.done, c.total, 4); got != c.want {
			t.Errorf("%d of %d: %s, want %s", c.done, c.total, got, c.want)
		}
	}
}

func TestImportCommands(t *testing.T) {
	r := want(t, exitOK, "import", "kumomta-shaping", "../../throttle/convert/testdata/kumo/basic.toml")
	contains(t, r.out, "version = 1", "[[provider]]", `name = "bigmail"`)
	contains(t, r.err, "basic.toml:53", "looks around", "left out", "to look at")
	conf := write(t, "config", "<virtual-mta a>\nsmtp-source-host 192.0.2.1 a.example\n</virtual-mta>\n<domain *>\nmax-smtp-out 5\nlog-data yes\n</domain>\ninclude /etc/pmta/more\n")
	if err := os.WriteFile(filepath.Join(filepath.Dir(conf), "more"), []byte("<domain b.example>\nmax-smtp-out 2\n</domain>\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = want(t, exitOK, "import", "pmta", conf)
	contains(t, r.out, "version = 1", "connections = 5", `name = "b.example"`, "cut here", "[[egress.sources]]", `bind = "192.0.2.1"`)
	contains(t, r.err, "config:6", "log-data yes")
	rules := filepath.Join(t.TempDir(), "rules.toml")
	r = want(t, exitOK, "import", "pmta", conf, "-o", rules)
	if b, err := os.ReadFile(rules); err != nil || !strings.HasPrefix(string(b), "# Translated") || !strings.HasPrefix(r.out, "# Translated") || strings.Contains(r.out, "version = 1") {
		t.Errorf("%v %s %s", err, b, r.out)
	}
	var out imported
	if err := json.Unmarshal([]byte(want(t, exitOK, "import", "pmta", conf, "--json").out), &out); err != nil || out.Egress == "" || len(out.Notes) == 0 {
		t.Errorf("%v %+v", err, out)
	}
	contains(t, want(t, exitUsage, "import", "kumomta-shaping", write(t, "bad.toml", "a = 1\na = 2\n")).err, "bad.toml:2:")
	want(t, exitUsage, "import", "pmta", "/does/not/exist")
}
