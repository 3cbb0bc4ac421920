package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/debugz"
	"github.com/godwit-mta/godwit/internal/records"
	"github.com/godwit-mta/godwit/proxy/haproxy"
	proxyserver "github.com/godwit-mta/godwit/proxy/server"
)

type proxyCmd struct {
	Run           proxyRunCmd   `cmd:"" default:"withargs" help:"Run a proxy: sending addresses of this host, for other nodes."`
	HAProxyConfig haproxyConfig `cmd:"" name:"haproxy-config" help:"Write the configuration with which a stock HAProxy is a proxy for our sources."`
}

type proxyRunCmd struct {
	Config string        `short:"c" required:"" type:"existingfile" help:"Configuration file; its sections proxy, cluster, ops and log are used." placeholder:"FILE"`
	Grace  time.Duration `default:"1m" help:"How long sessions may finish when the proxy is told to end."`
	Ports  string        `help:"Write the addresses that were bound to this file, as JSON, once everything listens." placeholder:"FILE" type:"path"`
}

// Help teaches by example.
func (proxyRunCmd) Help() string {
	return `A proxy owns sending addresses. Nodes connect through it, and it alone grants
permits for its sources, so their limits hold however many nodes there are.
SIGTERM and SIGINT drain: no new connections, sessions finish, permits go back.

Example of a file for it:
  [proxy]
  name = "p1"
  zone = "a"
  listeners = [{ address = "10.0.0.11:2525", networks = ["10.0.0.0/24"] }]
  sources = [{ name = "s1", bind = "192.0.2.11" }]
  state_file = "/var/lib/godwit/proxy.json"

Example:
  godwit proxy -c proxy.toml`
}

// Run runs the proxy until it is told to end.
func (c *proxyRunCmd) Run(e *env) error {
	f, err := config.Load(c.Config)
	if err != nil {
		return usageError{err}
	}
	if len(f.Proxy.Listeners) == 0 {
		return usageError{fmt.Errorf("%s: proxy.listeners: is empty, so there is nothing to run", c.Config)}
	}
	tuneGC()
	p, err := newProxyProcess(e, f)
	if err != nil {
		return err
	}
	if err := p.start(e.ctx); err != nil {
		return errors.Join(err, p.stop(e.ctx))
	}
	if c.Ports != "" {
		if err := writeJSONFile(c.Ports, map[string]any{"proxy": addressList(p.role.server.Addrs()), "ops": p.ops.Addr()}); err != nil {
			return errors.Join(err, p.stop(e.ctx))
		}
	}
	<-e.ctx.Done()
	p.log.Info("stopping", "grace", c.Grace)
	ctx, cancel := context.WithTimeout(context.Background(), c.Grace)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM) // a second one ends at once
	defer stop()
	return p.stop(ctx)
}

// proxyProcess is a proxy with what belongs to a process of its own.
type proxyProcess struct {
	log     *slog.Logger
	role    *proxyRole
	cluster *cluster.Cluster
	records *records.Store
	ops     *debugz.Server
}

func newProxyProcess(e *env, f *config.File) (*proxyProcess, error) {
	s := &server{level: new(slog.LevelVar)}
	p := &proxyProcess{log: s.logger(f, e.errOut)}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := p.join(f, registry); err != nil {
		return nil, err
	}
	var err error
	if p.role, err = newProxyRole(f.Proxy, p.cluster.Token("link"), p.log, registry); err != nil {
		return nil, usageError{fmt.Errorf("proxy.%w", err)}
	}
	p.ops = debugz.New(debugz.Options{Listen: f.Ops.Listen}, debugz.Deps{Gatherer: registry, Ready: func() error { return nil },
		Logger: p.log, Version: version()})
	return p, nil
}

// join prepares membership: a proxy tells its zone and its sources.
func (p *proxyProcess) join(f *config.File, registry prometheus.Registerer) error {
	o := f.Cluster
	if o.Name == "" {
		o.Name = f.Proxy.Name
	}
	if o.Zone == "" {
		o.Zone = f.Proxy.Zone
	}
	dir := filepath.Join(filepath.Dir(f.Proxy.StateFile), "records")
	if f.Proxy.StateFile == "" { // it only passes records on
		tmp, err := os.MkdirTemp("", "godwit-proxy-")
		if err != nil {
			return err
		}
		dir = tmp
	}
	var err error
	if p.records, err = records.Open(dir, o.Name, records.Deps{Logger: p.log}); err != nil {
		return err
	}
	p.cluster, err = cluster.New(o, cluster.Deps{Records: p.records, Logger: p.log, Registerer: registry, Self: func() cluster.State {
		return cluster.State{Role: "proxy", Link: f.Proxy.Listeners[0].Address, Version: version(), Sources: sourceNames(f.Proxy.Sources),
			Load: cluster.Load{Connections: p.role.server.Conns()}}
	}})
	if err != nil {
		return usageError{fmt.Errorf("cluster.%w", err)}
	}
	return nil
}

func sourceNames(list []proxyserver.Source) []string {
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names
}

func (p *proxyProcess) start(ctx context.Context) error {
	if err := p.role.start(ctx); err != nil {
		return err
	}
	if err := p.ops.Start(); err != nil {
		return err
	}
	if err := p.cluster.Start(); err != nil {
		return err
	}
	p.log.Info("proxy serving", "addresses", addressList(p.role.server.Addrs()), "version", version())
	return nil
}

func (p *proxyProcess) stop(ctx context.Context) error {
	err := p.role.drain(ctx)
	p.cluster.Stop(ctx)
	return errors.Join(err, p.ops.Stop(ctx), p.records.Close())
}

// haproxyConfig writes the configuration of a foreign proxy.
type haproxyConfig struct {
	Config   string   `short:"c" required:"" type:"existingfile" help:"Configuration file of a node; its section egress is used." placeholder:"FILE"`
	Proxy    string   `required:"" help:"Name of the proxy, of kind haproxy, in egress.proxies." placeholder:"NAME"`
	Networks []string `name:"network" required:"" help:"Network of the nodes that may use it; may be repeated." placeholder:"CIDR"`
}

// Help teaches by example.
func (haproxyConfig) Help() string {
	return `The configuration needs no privileges. HAProxy cannot tell why a connect failed: a refused
connect, a wrong source and a timeout all look like an end before the banner.

Example:
  godwit proxy haproxy-config -c godwit.toml --proxy edge1 --network 10.0.0.0/24 > haproxy.cfg`
}

// Run writes to standard output.
func (c *haproxyConfig) Run(e *env) error {
	f, err := config.Load(c.Config)
	if err != nil {
		return usageError{err}
	}
	o, err := haproxy.FromEgress(f.Egress, c.Proxy)
	if err != nil {
		return usageError{err}
	}
	o.Networks = c.Networks
	return haproxy.Write(e.out, o)
}

// addressList prints addresses.
func addressList(list []net.Addr) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.String()
	}
	return out
}
