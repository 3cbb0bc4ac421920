package mta

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/records"
	"github.com/godwit-mta/godwit/mta/egress"
	"github.com/godwit-mta/godwit/mta/route"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// outward is what ties this node to sources, limits and other nodes.
type outward struct {
	records *records.Store
	cluster *cluster.Cluster
	gate    *egress.Gate
	shared  *Shared

	links    net.Listener   // of other nodes' grant links; nil: alone
	serving  sync.WaitGroup // the listener
	contacts sync.WaitGroup
	cancel   context.CancelFunc
}

// buildOutward makes the parts. The queue must be open.
func (e *Engine) buildOutward() (err error) {
	x := &e.outward
	name := e.o.Cluster.Name
	if name == "" {
		name = e.o.Hostname
	}
	if x.records, err = records.Open(filepath.Join(e.o.Queue.Path, "records"), name, records.Deps{Logger: e.log, Registerer: e.deps.Registerer}); err != nil {
		return err
	}
	o := e.o.Cluster
	o.Name = name
	x.cluster, err = cluster.New(o, cluster.Deps{Records: x.records, Logger: e.log, Registerer: e.deps.Registerer,
		ConfigDigest: e.sharedDigest, Self: e.self})
	if err != nil {
		return fmt.Errorf("cluster.%w", err)
	}
	x.gate, err = egress.New(e.egressOptions(e.o), egress.Deps{Records: x.records, Events: e.queue.Tell, DialNode: e.dialNode,
		Logger: e.log, Registerer: e.deps.Registerer})
	if err != nil {
		return err
	}
	x.shared = newShared(x.records, e.queue, name, e.log)
	return nil
}

func (e *Engine) egressOptions(o Options) egress.Options {
	out := egress.Options{Egress: o.Egress, Throttle: o.Throttle, Node: e.outward.cluster.Name(), Token: e.outward.cluster.Token("link"),
		StateFile: filepath.Join(o.Queue.Path, "daily.json")}
	out.LocalIPv4, _ = netip.ParseAddr(o.Deliver.LocalIPv4) // checked by deliver
	out.LocalIPv6, _ = netip.ParseAddr(o.Deliver.LocalIPv6)
	for _, n := range o.Cluster.Nodes {
		out.Nodes = append(out.Nodes, egress.Node{Name: n.Name, Link: n.Link})
	}
	return out
}

// sharedDigest names what must be the same on all nodes: rules and sources.
func (e *Engine) sharedDigest() string {
	if e.outward.gate == nil {
		return ""
	}
	return e.outward.gate.Digest()
}

// self is what this node tells the others.
func (e *Engine) self() cluster.State {
	s := e.queue.Stats()
	return cluster.State{Role: "mta", Link: e.linkAddress(), Admin: e.deps.Admin(), Pipeline: e.deps.Pipeline(), Version: e.deps.Version,
		Load: cluster.Load{Queued: s.Messages, Connections: s.Connections}, Draining: s.Draining}
}

// linkAddress is where other nodes reach our limits, "" if there are none.
func (e *Engine) linkAddress() string {
	for _, n := range e.o.Cluster.Nodes {
		if n.Name == e.outward.cluster.Name() {
			return n.Link
		}
	}
	return ""
}

func (e *Engine) dialNode(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := e.outward.cluster.ClientTLS()
	if c == nil {
		return conn, nil
	}
	t := tls.Client(conn, c)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return t, nil
}

// start opens contact with the others. Nothing is delivered before.
func (x *outward) start(e *Engine) error {
	if err := x.cluster.Start(); err != nil {
		return fmt.Errorf("cluster.%w", err)
	}
	var ctx context.Context
	ctx, x.cancel = context.WithCancel(context.Background())
	if address := e.linkAddress(); address != "" {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("cluster.nodes: link of this node: %w", err)
		}
		x.links = ln
		x.serving.Go(func() { x.serve(ctx, ln) })
	}
	x.gate.Start()
	x.shared.start()
	return nil
}

// serve takes the grant links of other nodes.
func (x *outward) serve(ctx context.Context, ln net.Listener) {
	conf := x.cluster.ServerTLS()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		if conf != nil {
			conn = tls.Server(conn, conf)
		}
		x.contacts.Go(func() { _ = x.gate.Serve(ctx, conn) }) // it logs why it ended
	}
}

// stop ends contact. Contacts end before the listener does: "connection refused" means to others that
// this process is gone, and with it all it has granted.
func (x *outward) stop(ctx context.Context) error {
	var errs []error
	if x.shared != nil {
		x.shared.close()
	}
	if x.gate != nil {
		x.gate.Stop()
	}
	if x.cancel != nil {
		x.cancel()
		x.contacts.Wait()
	}
	if x.links != nil {
		errs = append(errs, x.links.Close())
	}
	x.serving.Wait()
	if x.cluster != nil {
		x.cluster.Stop(ctx)
	}
	if x.records != nil {
		errs = append(errs, x.records.Close())
	}
	return errors.Join(errs...)
}

// Gate is the engine's gate, for the admin API.
func (e *Engine) Gate() *egress.Gate { return e.outward.gate }

// Cluster is the engine's view of the cluster.
func (e *Engine) Cluster() *cluster.Cluster { return e.outward.cluster }

// Records are the shared records.
func (e *Engine) Records() *records.Store { return e.outward.records }

// Shared carries operators' actions to all nodes.
func (e *Engine) Shared() *Shared { return e.outward.shared }

// Router finds routes, for explanations.
func (e *Engine) Router() *route.Router { return e.router }

// routeOptions adds the providers of the rules behind the configured ones.
func routeOptions(o route.Options, set *rules.Set) route.Options {
	o.Providers = append([]route.Provider(nil), o.Providers...)
	for _, p := range set.Providers() {
		hosts := append(append([]string(nil), p.MXSuffix...), p.Hosts...)
		o.Providers = append(o.Providers, route.Provider{Name: p.Name, MXSuffix: hosts, TLS: set.Resolve(rules.Query{Provider: p.Name}).TLS})
	}
	return o
}

// apart reports whether a domain has limits of its own.
func (e *Engine) apart(domain string) bool { return e.outward.gate.Rules().HasDomain(domain) }
