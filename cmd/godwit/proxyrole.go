package main

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	proxyserver "github.com/godwit-mta/godwit/proxy/server"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/grant"
)

// proxyRole is a running proxy: data connections, and the authority for the limits of its sources.
type proxyRole struct {
	keeper *throttle.Keeper
	server *proxyserver.Server
}

// newProxyRole builds it; token opens its grant link.
func newProxyRole(o proxyserver.Options, token string, log *slog.Logger, registry prometheus.Registerer) (*proxyRole, error) {
	limits := throttle.DefaultOptions()
	limits.Claims = true
	p := &proxyRole{keeper: throttle.NewKeeper(limits)}
	metrics, err := grant.NewMetrics(registry)
	if err == nil {
		err = registry.Register(p.keeper)
	}
	if err != nil {
		p.keeper.Close()
		return nil, err
	}
	links, err := grant.NewServer(grant.ServerOptions{Name: o.Name, Token: token}, grant.ServerDeps{Keeper: p.keeper, Logger: log, Metrics: metrics})
	if err != nil {
		return nil, err
	}
	p.server, err = proxyserver.New(o, proxyserver.Deps{Leases: p.keeper, Saver: p.keeper, Logger: log, Registerer: registry,
		Control: func(ctx context.Context, conn net.Conn) { _ = links.Serve(ctx, conn) }}) // it logs why it ended
	if err != nil {
		p.keeper.Close()
		return nil, err
	}
	return p, nil
}

func (p *proxyRole) start(ctx context.Context) error { return p.server.Start(ctx) }

// drain ends politely: sessions finish, permits are handed back.
func (p *proxyRole) drain(ctx context.Context) error {
	err := p.server.Drain(ctx)
	p.keeper.Close()
	return err
}
