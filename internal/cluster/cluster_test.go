package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-mta/godwit/internal/records"
)

// trio is three nodes of which the later ones know the first.
func trio(t *testing.T) (w *world, a, b, c *node) {
	w = newWorld(t)
	a, b, c = w.trio()
	return w, a, b, c
}

func (w *world) trio() (a, b, c *node) {
	a = w.start("a", nil)
	b = w.start("b", nil, a)
	c = w.start("c", nil, a)
	for _, n := range []*node{a, b, c} {
		eventually(w.t, "members", "a:alive b:alive c:alive", n.sees)
	}
	return a, b, c
}

func TestMembersTellOfThemselves(t *testing.T) {
	_, a, b, c := trio(t)
	b.set(func() {
		b.state.Sources, b.state.Load, b.state.Draining = []string{"s2", "s1"}, Load{Queued: 7, Connections: 3}, true
	})
	b.Refresh()
	for _, n := range []*node{a, c} {
		eventually(t, "b as others see it", "mta z-b v1 admin-b d1 [s1 s2] {7 3} true", func() string {
			m := n.find("b")
			return fmt.Sprint(m.Role, " ", m.Zone, " ", m.Version, " ", m.Admin, " ", m.ConfigDigest, " ", m.Sources, " ", m.Load, " ", m.Draining)
		})
		if m := n.find("b"); m.Addr != b.Addr() || m.Seen.IsZero() {
			t.Errorf("%+v", m)
		}
	}
	// b has no sources any more: that is news too.
	b.set(func() { b.state.Sources = nil })
	b.Refresh()
	eventually(t, "sources", "[]", func() string { return fmt.Sprint(c.find("b").Sources) })
	// a is configured on b and c, not on itself, and is known by the configured link there.
	if m := c.find("a"); !m.Configured || m.Link != "127.0.0.1:1" {
		t.Errorf("%+v", m)
	}
}

func TestDrift(t *testing.T) {
	_, a, b, c := trio(t)
	drifting := func(n *node) func() string {
		return func() string {
			var names []string
			for _, m := range n.Members() {
				if m.Drift {
					names = append(names, m.Name)
				}
			}
			return strings.Join(names, " ")
		}
	}
	c.set(func() { c.digest = "d2" })
	for _, n := range []*node{a, b, c} {
		eventually(t, "who drifts", "c", drifting(n))
	}
	c.set(func() { c.digest = "d1" })
	for _, n := range []*node{a, b, c} {
		eventually(t, "who drifts", "", drifting(n))
	}
}

func TestComingAndGoing(t *testing.T) {
	w, a, b, c := trio(t)
	told := make(chan []Member, 1000)
	cancel := a.OnChange(func(all []Member) { told <- all })
	first := <-told
	if len(first) != 3 {
		t.Errorf("told of %d members", len(first))
	}
	b.Stop(t.Context())
	eventually(t, "members after b left", "a:alive b:left c:alive", a.sees)
	eventually(t, "members after b left", "a:alive b:left c:alive", c.sees)
	c.kill(a)
	eventually(t, "members after c died", "a:alive b:left c:dead", a.sees)
	heard := ""
	eventually(t, "what a listener heard last", "left dead", func() string {
		for {
			select {
			case all := <-told:
				heard = fmt.Sprint(all[1].Status, " ", all[2].Status)
			default:
				return heard
			}
		}
	})
	cancel()
	again := w.start("b", nil, a) // another port, the same name
	eventually(t, "members after b came back", "a:alive b:alive c:dead", a.sees)
	eventually(t, "members as b sees them", "alive alive", func() string { return string(again.find("a").Status + " " + again.find("b").Status) })
}

func TestMissing(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", func(o *Options) {
		o.Nodes = []Node{{Name: "a", Address: "127.0.0.1:1", Link: "127.0.0.1:2", Zone: "z1"}, {Name: "gone", Address: "127.0.0.1:3", Link: "127.0.0.1:4", Zone: "z2"}}
		o.Zone = ""
	})
	eventually(t, "members", "a:alive gone:missing", a.sees)
	if m := a.find("gone"); m.Link != "127.0.0.1:4" || m.Zone != "z2" || !m.Configured || m.Present() {
		t.Errorf("%+v", m)
	}
	if m := a.find("a"); !m.Self || !m.Configured || m.Link != "127.0.0.1:2" || m.Zone != "z1" {
		t.Errorf("%+v", m)
	}
}

func TestRecordsReachAll(t *testing.T) {
	_, a, b, c := trio(t)
	all := []*node{a, b, c}
	put(t, a, "one", "1")
	for _, n := range all {
		eventually(t, "one record", "one=1", func() string { return holds(n.store) })
	}
	if _, err := c.store.Delete("one"); err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		eventually(t, "after its deletion", "", func() string { return holds(n.store) })
	}
	put(t, b, "large", strings.Repeat("x", records.MaxValue))
	for i := range 300 {
		put(t, a, fmt.Sprint("many", i), strings.Repeat("y", 3000))
	}
	for _, n := range all {
		eventually(t, "many records", fmt.Sprint(301, a.store.Digest()[0]), func() string { return fmt.Sprint(len(n.store.List("")), n.store.Digest()[0]) })
	}
}

// TestGossipAlone: small records and reports need no TCP.
func TestGossipAlone(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", nil)
	b := w.start("b", nil, a)
	for _, n := range []*node{a, b} {
		eventually(t, "members", "a:alive b:alive", n.sees)
	}
	for _, n := range []*node{a, b} {
		n.gate.closeAll()
	}
	put(t, a, "k", "1")
	eventually(t, "record", "k=1", func() string { return holds(b.store) })
	a.set(func() { a.state.Draining = true })
	eventually(t, "report", "true", func() string { return fmt.Sprint(b.find("a").Draining) })
}

// TestNoneWaitsForAComparison: what is large or many, and other sources, go out at once.
func TestNoneWaitsForAComparison(t *testing.T) {
	w := newWorld(t)
	w.rare = true
	a, b, c := w.trio()
	put(t, a, "large", strings.Repeat("x", 5000))
	for i := range 100 {
		put(t, a, fmt.Sprint("many", i), "y")
	}
	a.set(func() { a.state.Sources = []string{"s1"} })
	for _, n := range []*node{b, c} {
		eventually(t, "records", "101", func() string { return fmt.Sprint(len(n.store.List(""))) })
		eventually(t, "sources", "[s1]", func() string { return fmt.Sprint(n.find("a").Sources) })
	}
}

// TestRelay: what one node tells reaches another that it has no way to, through a third.
func TestRelay(t *testing.T) {
	w := newWorld(t)
	w.rare = true
	a, _, c := w.trio()
	w.split([]*node{a}, []*node{c})
	put(t, a, "k", "1")
	a.set(func() { a.state.Draining = true })
	eventually(t, "record", "k=1", func() string { return holds(c.store) })
	eventually(t, "report", "true", func() string { return fmt.Sprint(c.find("a").Draining) })
}

// TestSilenceIsSuspect: a member that is there but tells nothing new is shown as suspect.
func TestSilenceIsSuspect(t *testing.T) {
	c, err := New(Options{Name: "a"}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	c.note(&memberlist.Node{Name: "b", Addr: net.IPv4(127, 0, 0, 1), Port: 1}, true)
	n := &node{Cluster: c}
	if got := n.sees(); got != "a:alive b:alive" {
		t.Error(got)
	}
	c.peers["b"].seen = time.Now().Add(-c.pace.suspect - time.Second)
	if got := n.sees(); got != "a:alive b:suspect" {
		t.Error(got)
	}
	c.absorb(report{Name: "b", Epoch: 1, Seq: 1})
	if got := n.sees(); got != "a:alive b:alive" {
		t.Error(got)
	}
	c.note(&memberlist.Node{Name: "b", Addr: net.IPv4(127, 0, 0, 1), Port: 1}, false)
	c.forget(time.Now().Add(c.pace.forget - time.Minute))
	if got := n.sees(); got != "a:alive b:dead" {
		t.Error(got)
	}
	c.forget(time.Now().Add(c.pace.forget + time.Minute))
	if got := n.sees(); got != "a:alive" {
		t.Error(got)
	}
}

// TestDownNodeLearns: a node that was away learns what was ordered and lifted meanwhile, and the
// others learn what it ordered alone.
func TestDownNodeLearns(t *testing.T) {
	w, a, b, c := trio(t)
	put(t, a, "lifted", "1")
	eventually(t, "before", "lifted=1", func() string { return holds(c.store) })
	c.Stop(t.Context())
	put(t, c, "alone", "2") // the admin API of a node that left still works
	c.store.Close()
	for i := range 100 {
		put(t, a, fmt.Sprintf("order%02d", i), "x")
	}
	if _, err := b.store.Delete("lifted"); err != nil {
		t.Fatal(err)
	}
	c = w.start("c", nil, a)
	want := "alone=2"
	for i := range 100 {
		want += fmt.Sprintf(" order%02d=x", i)
	}
	for _, n := range []*node{c, a, b} {
		eventually(t, "after", want, func() string { return holds(n.store) })
	}
}

// TestSplit: two halves lose each other, order different things, and find each other again.
func TestSplit(t *testing.T) {
	w, a, b, c := trio(t)
	w.split([]*node{a, b}, []*node{c})
	eventually(t, "one half", "a:alive b:alive c:dead", a.sees)
	eventually(t, "the other half", "a:dead b:dead c:alive", c.sees)
	put(t, a, "k", "first")
	put(t, c, "k", "second")
	put(t, c, "l", "alone")
	eventually(t, "one half", "k=first", func() string { return holds(b.store) })
	w.heal()
	for _, n := range []*node{a, b, c} {
		eventually(t, "members", "a:alive b:alive c:alive", n.sees)
		eventually(t, "records", "k=second l=alone", func() string { return holds(n.store) })
	}
}

func TestWrongKey(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", nil)
	put(t, a, "secret", "1")
	for name, key := range map[string]string{"other-key": w.keyFile("other", NewKey()), "no-key": ""} {
		n := w.start(name, func(o *Options) { o.KeyFile = key })
		put(t, n, "forged", "1")
		if _, err := n.list.Join([]string{a.Addr()}); err == nil {
			t.Errorf("%s joined", name)
		}
		if _, err := a.list.Join([]string{n.Addr()}); err == nil {
			t.Errorf("joined %s", name)
		}
		if got := a.sees(); got != "a:alive" {
			t.Errorf("a sees %s", got)
		}
		if got := n.sees(); got != name+":alive" {
			t.Errorf("%s sees %s", name, got)
		}
		if a, b := holds(a.store), holds(n.store); a != "secret=1" || b != "forged=1" {
			t.Errorf("records went over: %s / %s", a, b)
		}
		n.Stop(t.Context())
	}
}

func TestJoinByFileAndDNS(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", nil)
	list := filepath.Join(w.root, "members")
	b := w.start("b", func(o *Options) { o.Join.File = list })
	if err := os.WriteFile(list, []byte("# members\n\n127.0.0.1:1 # nobody\nnonsense\n "+a.Addr()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "by a file that came later", "a:alive b:alive", b.sees)
	_, port, err := splitHost(a.Addr(), 0)
	if err != nil {
		t.Fatal(err)
	}
	c := w.start("c", func(o *Options) { o.Join.DNS = fmt.Sprint("localhost:", port) })
	eventually(t, "by name", "a:alive b:alive c:alive", c.sees)
}

func TestNameConflict(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", nil)
	b := w.start("b", nil, a)
	eventually(t, "members", "a:alive b:alive", a.sees)
	other := w.start("b", func(o *Options) { o.Name = "b" }, a)
	eventually(t, "conflict noticed", "true", func() string { return fmt.Sprint(counted(a.metrics.conflicts) > 0) })
	if m := a.find("b"); m.Addr != b.Addr() {
		t.Errorf("the second %s took the place of the first", other.name)
	}
}

func TestOff(t *testing.T) {
	c, err := New(Options{Name: "only"}, Deps{Self: func() State { return State{Role: "mta", Sources: []string{"s"}} }, ConfigDigest: func() string { return "d" }})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	all := c.Members()
	if len(all) != 1 || all[0].Name != "only" || !all[0].Self || all[0].Status != Alive || all[0].Role != "mta" || all[0].ConfigDigest != "d" || all[0].Drift {
		t.Errorf("%+v", all)
	}
	if c.Token("x") != "" {
		t.Error("a token without a key")
	}
	c.OnChange(func([]Member) { t.Error("told of a change") })
	c.Refresh()
	c.Stop(t.Context())
	c.Stop(t.Context())
}

// TestStartStop: a cluster can be stopped at any time and leaves nothing behind, its metrics included.
func TestStartStop(t *testing.T) {
	reg := prometheus.NewRegistry()
	for range 3 {
		store, err := records.Open(t.TempDir(), "a", records.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := New(Options{Name: "a", Bind: "127.0.0.1:0", Join: Join{DNS: "localhost:1"}}, Deps{Records: store, Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if c.Start() == nil {
			t.Error("started twice")
		}
		if _, err := reg.Gather(); err != nil {
			t.Error(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { c.Stop(t.Context()) })
		}
		wg.Wait()
		if _, err := store.Put("k", nil, 0); err != nil {
			t.Error(err)
		}
		store.Close()
	}
	if left, _ := reg.Gather(); len(left) != 0 {
		t.Errorf("%d metrics are left", len(left))
	}
}

func TestStartFails(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", nil)
	store := a.store
	c, err := New(Options{Name: "b", Bind: a.Addr()}, Deps{Records: store})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err == nil || !strings.HasPrefix(err.Error(), "bind: ") {
		t.Errorf("a port in use: %v", err)
	}
	c.Stop(t.Context())
	c, err = New(Options{Name: "b", Bind: "127.0.0.1:0"}, Deps{Records: store, Self: func() State { return State{Role: "not a name"} }})
	if err != nil {
		t.Fatal(err)
	}
	if c.Start() == nil {
		t.Error("a role that is no name was taken")
	}
}

// TestClockBehind: a node whose clock went back across a restart is heard nevertheless.
func TestClockBehind(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", nil)
	b := w.start("b", nil, a)
	eventually(t, "members", "a:alive b:alive", a.sees)
	a.hear(report{Name: "b", Epoch: time.Now().Add(time.Hour).UnixNano(), Seq: 1, Version: "from the future"}, false)
	eventually(t, "version", "v1", func() string { return a.find("b").Version })
	_ = b
}
