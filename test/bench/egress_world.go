package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/godwit-mta/godwit/internal/sink"
)

// worldOptions say what a world is made of.
type worldOptions struct {
	name     string
	nodes    int
	proxies  int
	kind     string // of the proxies
	sources  int    // of each proxy
	rules    string
	tenants  []string
	provider sink.Options
}

// world is nodes, proxies and a provider on loopback addresses of their own.
// Sources are 127.N.1.x, proxies 127.N.2.x, nodes 127.N.3.x; N is random, so
// that two benchmarks can run at a time. Ports are fixed: whoever was
// killed comes back where it was.
type world struct {
	b   *bench
	o   worldOptions
	dir string
	net string // 127.N

	sink    *sinkProcess
	nodes   []*node
	proxies []*proxyUnit
	sources []worldSource
}

type worldSource struct{ name, ip, proxy string }

// node is one MTA. Its engine is nil while it is dead.
type node struct {
	name   string
	engine atomic.Pointer[engine]
}

const (
	proxyPort  = 2526
	gossipPort = 7946
	linkPort   = 2527
)

// newWorld starts everything.
func (b *bench) newWorld(ctx context.Context, o worldOptions) (w *world, err error) {
	w = &world{b: b, o: o, dir: filepath.Join(b.dir, o.name), net: fmt.Sprintf("127.%d", 16+rand.IntN(200))}
	if err := os.MkdirAll(w.dir, 0o755); err != nil { // HAProxy runs as nobody
		return nil, err
	}
	w.addSources()
	if w.sink, err = startSinkWith(ctx, o.provider); err != nil {
		return nil, err
	}
	if err := w.startAll(ctx); err != nil {
		return nil, errors.Join(err, w.kill())
	}
	return w, nil
}

func (w *world) addSources() {
	for p := range w.o.proxies {
		for range w.o.sources {
			n := len(w.sources) + 1
			w.sources = append(w.sources, worldSource{fmt.Sprintf("s%d", n), fmt.Sprintf("%s.1.%d", w.net, n), proxyName(p)})
		}
	}
}

func (w *world) startAll(ctx context.Context) error {
	for i := range w.o.proxies {
		p := w.newProxy(i)
		w.proxies = append(w.proxies, p)
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	for i := range w.o.nodes {
		n := &node{name: nodeName(i)}
		w.nodes = append(w.nodes, n)
		if err := w.startNode(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func nodeName(i int) string  { return fmt.Sprintf("n%d", i+1) }
func proxyName(i int) string { return fmt.Sprintf("p%d", i+1) }

// startNode starts a node, again if it was killed.
func (w *world) startNode(ctx context.Context, n *node) error {
	e, err := w.b.startEngine(ctx, filepath.Join(w.dir, n.name), w.sink, engineOptions{name: n.name, rules: w.o.rules,
		tenants: w.o.tenants, log: w.b.o.level, extra: w.nodeConfig(n)})
	if err != nil {
		return err
	}
	n.engine.Store(e)
	return nil
}

// nodeConfig is what a node's configuration has beyond a single engine's. A
// message is one MAIL: that is what the provider counts.
func (w *world) nodeConfig(n *node) string {
	return "queue.recipients_per_transaction = 1\n" + w.clusterConfig(n.name, "") + w.egressConfig()
}

// clusterConfig makes a member of the cluster; bind is its address if it is none of the nodes.
func (w *world) clusterConfig(name, bind string) string {
	if w.o.nodes < 2 {
		return ""
	}
	var list []string
	for i := range w.o.nodes {
		ip := fmt.Sprintf("%s.3.%d", w.net, i+1)
		if nodeName(i) == name {
			bind = ip
		}
		list = append(list, fmt.Sprintf("{ name = %q, address = \"%s:%d\", link = \"%s:%d\" }", nodeName(i), ip, gossipPort, ip, linkPort))
	}
	return fmt.Sprintf("cluster.name = %q\ncluster.bind = \"%s:%d\"\ncluster.nodes = [%s]\n", name, bind, gossipPort, strings.Join(list, ", "))
}

// egressConfig lists proxies and sources.
func (w *world) egressConfig() string {
	var proxies, sources []string
	for i := range w.o.proxies {
		proxies = append(proxies, fmt.Sprintf("{ name = %q, kind = %q, address = %q, zone = \"z%d\" }", proxyName(i), w.o.kind, w.proxyAddress(i), i+1))
	}
	for _, s := range w.sources {
		sources = append(sources, fmt.Sprintf("{ name = %q, bind = %q, proxy = %q }", s.name, s.ip, s.proxy))
	}
	return fmt.Sprintf("egress.proxies = [%s]\negress.sources = [%s]\n", strings.Join(proxies, ", "), strings.Join(sources, ", "))
}

func (w *world) proxyIP(i int) string      { return fmt.Sprintf("%s.2.%d", w.net, i+1) }
func (w *world) proxyAddress(i int) string { return fmt.Sprintf("%s:%d", w.proxyIP(i), proxyPort) }

// restartAfter is when what was killed starts again, as an init system does it.
const restartAfter = 2 * time.Second

// crashNode kills a node and starts it again a while later. It returns when it was killed.
func (w *world) crashNode(ctx context.Context, n *node) (time.Time, error) {
	e := n.engine.Swap(nil)
	return w.crash(ctx, n.name, e.process, func(ctx context.Context) error { return w.startNode(ctx, n) })
}

func (w *world) crashProxy(ctx context.Context, p *proxyUnit) (time.Time, error) {
	return w.crash(ctx, p.name, p.process, p.start)
}

func (w *world) crash(ctx context.Context, name string, p *process, again func(context.Context) error) (time.Time, error) {
	if err := p.alive(); err != nil {
		return time.Time{}, err
	}
	err := w.mark(ctx, "kill "+name)
	at := time.Now()
	if err = errors.Join(err, p.kill(), pause(ctx, time.Until(at.Add(restartAfter)))); err != nil {
		return at, err
	}
	if err := again(ctx); err != nil {
		return at, err
	}
	w.b.say("    killed %s, serving again after %.2f s", name, time.Since(at).Seconds())
	return at, w.mark(ctx, "again "+name)
}

// mark puts a note in the provider's record.
func (w *world) mark(ctx context.Context, text string) error {
	return call(ctx, http.MethodPost, w.sink.HTTP+"/watch/mark?text="+url.QueryEscape(text), "", nil, nil)
}

// stop ends everything politely: the nodes, then the proxies, the provider last.
func (w *world) stop() error {
	var errs []error
	for _, n := range w.nodes {
		if e := n.engine.Load(); e != nil {
			errs = append(errs, e.stop())
		}
	}
	for _, p := range w.proxies {
		errs = append(errs, p.end())
	}
	return errors.Join(append(errs, w.sink.stop())...)
}

// kill ends everything at once, after a failure.
func (w *world) kill() error {
	var errs []error
	for _, n := range w.nodes {
		if e := n.engine.Load(); e != nil {
			errs = append(errs, e.kill())
		}
	}
	for _, p := range w.proxies {
		if p.process != nil {
			errs = append(errs, p.kill())
		}
	}
	return errors.Join(append(errs, w.sink.stop())...)
}

// failed ends a world after an error, with what its programs say.
func (w *world) failed(err error) error {
	return errors.Join(err, w.complaints(), w.kill(), w.remove())
}

// finish ends a world after a good run.
func (w *world) finish() error { return errors.Join(w.stop(), w.remove()) }

// remove deletes the folder, unless it is to be kept.
func (w *world) remove() error {
	if w.b.o.keep {
		return nil
	}
	return os.RemoveAll(w.dir)
}
