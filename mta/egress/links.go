package egress

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/throttle/desk"
	"github.com/godwit-mta/godwit/throttle/grant"
)

// probeEvery is how often proxies that have no link are tried.
const probeEvery = time.Second

// links are the contacts with all authorities: Godwit proxies and other nodes.
type links struct {
	g        *Gate
	server   *grant.Server
	metrics  *grant.Metrics
	contacts contacts
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	proxies map[string]proxyLink
	started bool
	options proxy.Options // in force
}

type proxyLink struct {
	stop func()
	port *desk.Port
}

func newLinks(g *Gate) (*links, error) {
	l := &links{g: g, proxies: map[string]proxyLink{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	var err error
	if l.metrics, err = grant.NewMetrics(g.d.Registerer); err != nil {
		return nil, err
	}
	l.server, err = grant.NewServer(grant.ServerOptions{Name: g.o.Node, Token: g.o.Token}, grant.ServerDeps{
		Keeper: g.desk.Keeper(), Owns: g.desk.Owns, OnContact: g.desk.NodeContact, Logger: g.log, Metrics: l.metrics})
	return l, err
}

// recheck lets contacts ask anew whether we own their keys.
func (l *links) recheck() {
	if l != nil && l.server != nil {
		l.server.Recheck()
	}
}

// start opens links to proxies that are new and closes those to proxies that are gone.
func (l *links) start(o proxy.Options) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.options = o
	want := map[string]bool{}
	for _, p := range o.Proxies {
		if p.Kind == "" || p.Kind == proxy.KindGodwit {
			want[p.Name] = true
		}
	}
	for name, p := range l.proxies {
		if !want[name] {
			p.stop()
			p.port.Remove()
			delete(l.proxies, name)
		}
	}
	for name := range want {
		if _, there := l.proxies[name]; !there {
			l.g.setProxy(name, false, "no contact with the proxy yet")
			port := l.g.desk.AddLink(name, desk.Proxy, nil)
			l.proxies[name] = proxyLink{port: port, stop: l.run(name, port, func(ctx context.Context) (net.Conn, error) { return l.g.d.DialProxy(ctx, name) })}
		}
	}
	l.g.unwatched(o)
	if l.started {
		return
	}
	l.started = true
	for _, n := range l.g.o.Nodes {
		if n.Name == l.g.o.Node {
			continue
		}
		port := l.g.desk.AddLink(n.Name, desk.Node, nil)
		address := n.Link
		l.run(n.Name, port, func(ctx context.Context) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, desk.DialWithin)
			defer cancel()
			return l.g.d.DialNode(ctx, address)
		})
	}
	l.running.Go(func() { l.g.dialer.Watch(l.ctx, probeEvery, l.g.setProxy) })
}

// has reports whether there is a link to a proxy.
func (l *links) has(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, there := l.proxies[name]
	return there
}

// run keeps contact with one authority.
func (l *links) run(name string, port *desk.Port, dial func(context.Context) (net.Conn, error)) (stop func()) {
	ctx, cancel := context.WithCancel(l.ctx)
	c, err := grant.NewClient(grant.ClientOptions{Node: l.g.o.Node, Authority: name, Token: l.g.o.Token},
		grant.ClientDeps{Dial: dial, Events: &events{port, name, &l.contacts}, Logger: l.g.log, Metrics: l.metrics})
	if err != nil {
		l.g.log.Error("no link to authority", "authority", name, "error", err)
		return cancel
	}
	port.Use(c)
	l.running.Go(func() { c.Run(ctx) })
	return cancel
}

// events are what the desk hears from an authority; contact is remembered on the way.
type events struct {
	*desk.Port
	name     string
	contacts *contacts
}

// Contact implements grant.Events.
func (e *events) Contact(up, dead bool) {
	e.contacts.note(e.name, up, dead)
	e.Port.Contact(up, dead)
}

// Serve runs one connection of another node's link until it ends.
func (g *Gate) Serve(ctx context.Context, conn net.Conn) error {
	return g.links.server.Serve(ctx, conn)
}

func (l *links) stop() {
	l.cancel()
	l.running.Wait()
}
