//go:build egress

package egress

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/internal/load"
	"github.com/godwit-mta/godwit/internal/sink"
	"github.com/godwit-mta/godwit/internal/watch"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/test/e2e/rig"
)

// layout says what a world consists of.
type layout struct {
	nodes   int
	proxies []proxySpec
	sources []sourceSpec
	pools   string // lines of [egress]
	rules   string // the rule file, below its version
	packs   []string
	faults  bool // relays stand before proxies and grant links
	apart   bool // nodes run in network namespaces
	keyed   bool // the cluster has a key, and the admin API of nodes can be reached by others
	extra   string
}

type proxySpec struct{ Name, Kind, Zone, Address string }

type sourceSpec struct{ Name, Proxy, Warmup string }

// world is nodes and proxies between sources and the provider simulator, which is in this process.
type world struct {
	t     *testing.T
	dir   string
	net   string // first three numbers of all addresses, with a dot
	lay   layout
	sink  *sink.Sink
	nodes []*node
	procs []*rig.Engine // proxies, in the order of the layout; nil for those that are not ours
	sets  []proxySet

	dns     string // address of the name server, as nodes reach it
	space   string // begins the names of network namespaces; "" without them
	outer   string // as net, of the network between nodes in namespaces and proxies
	inner   string // as net, of the network between nodes in namespaces
	network string // that everything is in
	key     string // file with the cluster's key, if it needs one

	loadContext context.Context
	phases      []phase
	stopLoad    context.CancelFunc
	loads       []*load.Load
	running     chan struct{}
	ended       int // of loads
}

// proxySet is a proxy as the nodes see it.
type proxySet struct {
	proxySpec
	relays []*relay // one for each node, if there are faults
}

// node is one MTA.
type node struct {
	*rig.Engine
	Name   string
	dir    string
	events string
	socket string
	admin  *adminapi.Client
	links  []*relay // to the other nodes, by their number
}

// The ports that everything uses, on addresses of its own.
const (
	smtpPort   = 7104
	gossipPort = 7102
	linkPort   = 7101
	proxyPort  = 7103
)

// newWorld starts the simulator and lays out the rest; nothing of it runs yet.
func newWorld(t *testing.T, lay layout, providers ...sink.Provider) *world {
	t.Helper()
	// Each world has a network of its own, so none takes another's ports.
	w := &world{t: t, dir: t.TempDir(), lay: lay, net: fmt.Sprintf("127.%d.%d.", 20+rand.IntN(200), 1+rand.IntN(250)), network: "127.0.0.0/8"}
	w.layNodes()
	if lay.keyed || lay.apart {
		w.key = filepath.Join(w.dir, "key")
		w.must(os.WriteFile(w.key, []byte(strings.Repeat("A", 43)+"="), 0o600))
	}
	if lay.apart {
		a, b := 100+rand.IntN(50), rand.IntN(250)
		w.outer, w.inner = fmt.Sprintf("10.%d.%d.", a, b), fmt.Sprintf("10.%d.%d.", a+100, b)
		w.network = "10.0.0.0/8"
		w.spaces()
	}
	o := sink.DefaultOptions()
	o.HTTP, o.WatchHere = "", true
	// Reports of what was ended go somewhere, too.
	o.Providers = append(providers, sink.Provider{Name: "home", Domains: []string{"source.test"}})
	o.Listen, o.DNS = w.address(1)+":0", w.address(1)+":0"
	for i := range o.Providers {
		o.Providers[i].Mode = sink.ModeFast
		o.Providers[i].Listen = w.address(2+i) + ":0" // an address, and so limits, of its own
	}
	s, err := sink.New(o, sink.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	w.sink = s
	w.dns = s.DNSAddr()
	if lay.apart {
		w.forwardDNS(w.outer + "1:0")
	}
	for _, p := range lay.proxies {
		set := proxySet{proxySpec: p}
		if set.Address == "" && p.Kind != "direct" {
			set.Address = fmt.Sprintf("%s:%d", w.proxyAddress(len(w.sets)), proxyPort)
		}
		w.sets = append(w.sets, set)
	}
	if lay.faults {
		w.layRelays()
	}
	w.openAdmin()
	return w
}

func (w *world) layNodes() {
	for i := range w.lay.nodes {
		n := &node{Name: fmt.Sprintf("n%d", i+1), dir: filepath.Join(w.dir, fmt.Sprintf("n%d", i+1))}
		n.events = filepath.Join(n.dir, "events.jsonl")
		w.must(os.Mkdir(n.dir, 0o755))
		w.nodes = append(w.nodes, n)
	}
}

// address is one of the world's addresses: 1 is the name server's, from 2 on the
// providers', from 30 on the nodes', from 50 on the proxies', from 101 on the sources'.
func (w *world) address(n int) string { return fmt.Sprint(w.net, n) }

func (w *world) nodeAddress(i int) string { return w.outward(30 + i) }

func (w *world) proxyAddress(k int) string { return w.outward(50 + k) }

// outward is an address at which nodes are reached, or reach proxies.
func (w *world) outward(n int) string {
	if w.lay.apart {
		return fmt.Sprint(w.outer, n)
	}
	return w.address(n)
}

// clusterAddress is where the other nodes reach one.
func (w *world) clusterAddress(i int) string {
	if !w.lay.apart {
		return w.nodeAddress(i)
	}
	return w.inner + strings.TrimPrefix(w.nodeAddress(i), w.outer)
}

// source is the address of a source.
func (w *world) source(name string) netip.Addr {
	for i, s := range w.lay.sources {
		if s.Name == name {
			return netip.MustParseAddr(w.address(101 + i))
		}
	}
	w.t.Fatalf("no source %s", name)
	return netip.Addr{}
}

// layRelays puts a relay before each proxy and each grant link, for each node.
func (w *world) layRelays() {
	for k := range w.sets {
		if w.sets[k].Address == "" {
			continue
		}
		for range w.nodes {
			w.sets[k].relays = append(w.sets[k].relays, newRelay(w.t, w.address(1), w.sets[k].Address))
		}
	}
	for _, n := range w.nodes {
		for j := range w.nodes {
			n.links = append(n.links, newRelay(w.t, w.address(1), fmt.Sprintf("%s:%d", w.nodeAddress(j), linkPort)))
		}
	}
}

func (w *world) openAdmin() {
	sockets, err := os.MkdirTemp("", "godwit") // t.TempDir is too long for the name of a socket
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	for _, n := range w.nodes {
		n.socket = filepath.Join(sockets, n.Name)
		if n.admin, err = adminapi.NewClient(adminapi.ClientOptions{URL: "unix:" + n.socket}); err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(n.admin.Close)
	}
}

// start runs all proxies of ours and all nodes.
func (w *world) start() {
	w.t.Helper()
	w.writeRules(w.lay.rules)
	for k := range w.sets {
		w.procs = append(w.procs, nil)
		if w.sets[k].Kind == "" || w.sets[k].Kind == "godwit" {
			w.startProxy(k)
		}
	}
	for i := range w.nodes {
		w.startNode(i)
	}
}

func (w *world) startProxy(k int) {
	w.t.Helper()
	if w.procs[k] != nil {
		w.must(w.procs[k].Restart())
		return
	}
	p := w.sets[k]
	dir := filepath.Join(w.dir, p.Name)
	w.must(os.Mkdir(dir, 0o755))
	path := filepath.Join(dir, "proxy.toml")
	w.fill(path, proxyText, map[string]any{"Name": p.Name, "Zone": p.Zone, "Dir": dir, "Address": p.Address, "Key": w.key, "Network": w.network, "Sources": w.sourcesOf(p.Name)})
	e, err := rig.StartRole(path, rig.Binary(w.t), "proxy")
	w.must(err)
	w.procs[k] = e
	w.watchOver(p.Name, e)
}

func (w *world) startNode(i int) {
	w.t.Helper()
	n := w.nodes[i]
	if n.Engine != nil {
		w.must(n.Restart())
		return
	}
	e, err := rig.StartRole(w.configure(i), append(w.before(i), rig.Binary(w.t), "serve")...)
	w.must(err)
	n.Engine = e
	w.watchOver(n.Name, e)
}

// watchOver ends a process with the test and shows its log if that failed.
func (w *world) watchOver(name string, e *rig.Engine) {
	w.t.Cleanup(func() {
		e.Kill()
		log := e.Log()
		for _, bad := range []string{"panic:", "DATA RACE"} {
			if strings.Contains(log, bad) {
				w.t.Errorf("the log of %s has %q", name, bad)
			}
		}
		if w.t.Failed() {
			w.t.Logf("log of %s:\n%s", name, tail(log, 40))
		}
	})
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// record is what the simulator saw so far.
func (w *world) record() *watch.Record {
	w.t.Helper()
	r, err := w.sink.Watched()
	w.must(err)
	return r
}

// openFrom is how many connections of a source the simulator has open.
func (w *world) openFrom(sources ...string) int {
	n := 0
	for _, s := range w.sink.Stats().Sources {
		for _, name := range sources {
			if s.Source == w.source(name).String() {
				n += int(s.Open)
			}
		}
	}
	return n
}

// eventually fails the test with the last error of f.
func (w *world) eventually(what string, f func() error) {
	w.t.Helper()
	if err := rig.Eventually(f); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// unable skips a test, or fails it where CI says that nothing may be skipped.
func unable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("GODWIT_INTEROP") == "require" {
		t.Fatalf("%v, and GODWIT_INTEROP=require", err)
	}
	t.Skip(err)
}

var errNotYet = errors.New("not yet")
