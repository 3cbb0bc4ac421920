package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/godwit-mta/godwit/internal/faultfs"
	"github.com/godwit-mta/godwit/internal/records"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a cluster on loopback.
type world struct {
	t    *testing.T
	key  string // key file; "" for none
	root string
	rare bool // members compare what they know only when they join

	mu  sync.Mutex
	cut map[[2]string]bool // pairs of addresses that cannot talk
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, root: t.TempDir(), cut: map[[2]string]bool{}}
	w.key = w.keyFile("key", NewKey())
	return w
}

func (w *world) keyFile(name, content string) string {
	path := filepath.Join(w.root, name)
	if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// node is one member and what it tells of itself.
type node struct {
	*Cluster
	store *records.Store
	w     *world

	mu     sync.Mutex
	state  State
	digest string
}

func (n *node) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// start makes a node whose records are in a folder of its name. It joins the nodes given.
func (w *world) start(name string, change func(*Options), others ...*node) *node {
	w.t.Helper()
	o := Options{Name: name, Zone: "z-" + name, Bind: "127.0.0.1:0", KeyFile: w.key}
	for _, other := range others {
		o.Nodes = append(o.Nodes, Node{Name: other.name, Address: other.Addr(), Link: "127.0.0.1:1"})
	}
	if change != nil {
		change(&o)
	}
	dir := filepath.Join(w.root, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	sim, err := faultfs.NewSim(dir) // it does not wait for a disk
	if err != nil {
		w.t.Fatal(err)
	}
	store, err := records.Open(dir, name, records.Deps{FS: sim})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { store.Close() })
	n := &node{w: w, store: store, digest: "d1", state: State{Role: "mta", Version: "v1", Admin: "admin-" + name}}
	n.Cluster, err = New(o, Deps{Records: store, Self: func() State {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.state
	}, ConfigDigest: func() string {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.digest
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	n.pace = pace{
		report: 50 * time.Millisecond, suspect: 5 * time.Second, join: 100 * time.Millisecond,
		forget: time.Hour, leave: 3 * time.Second, tune: n.tune,
	}
	if err := n.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { n.Stop(w.t.Context()) })
	return n
}

// tune makes memberlist quick, and its network one that can be cut.
func (n *node) tune(conf *memberlist.Config) {
	conf.GossipInterval = 20 * time.Millisecond
	conf.PushPullInterval = 250 * time.Millisecond
	if n.w.rare {
		conf.PushPullInterval = time.Hour
	}
	conf.ProbeInterval = 200 * time.Millisecond
	conf.ProbeTimeout = 100 * time.Millisecond
	conf.SuspicionMult, conf.SuspicionMaxTimeoutMult = 3, 2
	conf.TCPTimeout = time.Second
	conf.GossipToTheDeadTime = time.Second
	conf.DeadNodeReclaimTime = 100 * time.Millisecond
	conf.Transport = &cuttable{NodeAwareTransport: n.gate, n: n}
}

// cuttable is a transport some of whose peers cannot be reached.
type cuttable struct {
	memberlist.NodeAwareTransport
	n *node
}

func (c *cuttable) reaches(a memberlist.Address) bool {
	c.n.w.mu.Lock()
	defer c.n.w.mu.Unlock()
	return !c.n.w.cut[[2]string{c.n.Addr(), a.Addr}]
}

func (c *cuttable) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if !c.reaches(a) {
		return time.Now(), nil // lost on the way
	}
	return c.NodeAwareTransport.WriteToAddress(b, a)
}

func (c *cuttable) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if !c.reaches(a) {
		return nil, os.ErrDeadlineExceeded
	}
	return c.NodeAwareTransport.DialAddressTimeout(a, timeout)
}

// split cuts every connection between the two sides; heal undoes it.
func (w *world) split(one, other []*node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range one {
		for _, b := range other {
			w.cut[[2]string{a.Addr(), b.Addr()}] = true
			w.cut[[2]string{b.Addr(), a.Addr()}] = true
		}
	}
}

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
}

// kill ends a node so that the others hear no goodbye.
func (n *node) kill(others ...*node) {
	n.w.split([]*node{n}, others)
	n.Stop(n.w.t.Context())
}

// sees is who is there in the eyes of n, as text: a:alive b:dead.
func (n *node) sees() string {
	var parts []string
	for _, m := range n.Members() {
		parts = append(parts, m.Name+":"+string(m.Status))
	}
	return strings.Join(parts, " ")
}

// find is a member in the eyes of n.
func (n *node) find(name string) Member {
	for _, m := range n.Members() {
		if m.Name == name {
			return m
		}
	}
	return Member{}
}

// eventually waits until got returns want.
func eventually(t *testing.T, what, want string, got func() string) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		have := got()
		if have == want {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: still %q, want %q", what, have, want)
		case <-look.C:
		}
	}
}

// holds is the content of a store: k=v k=v.
func holds(s *records.Store) string {
	var parts []string
	for _, r := range s.List("") {
		parts = append(parts, fmt.Sprintf("%s=%s", r.Key, r.Value))
	}
	sort.Strings(parts)
	return strings.Join(parts, " ")
}

func put(t *testing.T, n *node, key, value string) {
	t.Helper()
	if _, err := n.store.Put(key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}
