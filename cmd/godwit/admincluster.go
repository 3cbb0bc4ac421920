package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"

	"github.com/godwit-mta/godwit/internal/cluster"
	"github.com/godwit-mta/godwit/internal/wire"
	"github.com/godwit-mta/godwit/mta"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/queue"
)

// adminCluster shows the members to the admin API.
type adminCluster struct{ engine *mta.Engine }

// Members implements adminapi.Cluster.
func (a adminCluster) Members(context.Context) (adminapi.ClusterResponse, error) {
	out := adminapi.ClusterResponse{Node: a.engine.Cluster().Name()}
	list := a.engine.Cluster().Members()
	self := slices.IndexFunc(list, func(m cluster.Member) bool { return m.Self })
	for _, m := range list {
		x := adminapi.Member{Name: m.Name, Role: m.Role, Zone: m.Zone, Self: m.Self, State: string(m.Status), Seen: m.Seen, Address: m.Addr, Link: m.Link,
			Version: m.Version, ConfigDigest: m.ConfigDigest, Draining: m.Draining, Messages: m.Load.Queued, Connections: m.Load.Connections, Sources: m.Sources}
		if x.Role == "" && m.Configured {
			x.Role = "mta" // of those that were not seen only nodes are configured
		}
		if c, linked := a.engine.Gate().Contact(m.Name); linked {
			x.Contact = c.Up
		}
		x.Drift = !m.Self && m.Present() && self >= 0 && m.Role == list[self].Role && m.ConfigDigest != "" && m.ConfigDigest != list[self].ConfigDigest
		out.Members = append(out.Members, x)
	}
	a.addProxies(&out)
	records := a.engine.Records()
	out.Records = len(records.List(""))
	digest := records.Digest()
	sum := sha256.Sum256(digest.Append(nil))
	out.Digest = hex.EncodeToString(sum[:8])
	return out, nil
}

// addProxies lists the Godwit proxies that do not gossip: contact tells whether they are there.
func (a adminCluster) addProxies(out *adminapi.ClusterResponse) {
	o := a.engine.Gate().Egress()
	for _, p := range o.Proxies {
		c, linked := a.engine.Gate().Contact(p.Name)
		known := slices.ContainsFunc(out.Members, func(m adminapi.Member) bool { return m.Name == p.Name })
		if !linked || known {
			continue
		}
		m := adminapi.Member{Name: p.Name, Role: "proxy", Zone: p.Zone, State: adminapi.MemberDead, Seen: c.Since, Link: p.Address, Contact: c.Up}
		if c.Up {
			m.State = adminapi.MemberAlive
		}
		for _, s := range o.Sources {
			if s.Proxy == p.Name {
				m.Sources = append(m.Sources, s.Name)
			}
		}
		out.Members = append(out.Members, m)
	}
}

// adminHandoff moves the queue to other members.
type adminHandoff struct{ h *mta.Handoff }

// StartHandoff implements adminapi.Handoff.
func (a adminHandoff) StartHandoff(_ context.Context, r adminapi.HandoffRequest) (adminapi.HandoffStatus, error) {
	s, err := a.h.Start(r.To)
	var cannot *mta.HandoffError
	if errors.As(err, &cannot) {
		err = fmt.Errorf("%w: %w", adminapi.ErrHandoff, cannot)
	}
	return handoffStatus(s), err
}

// StopHandoff implements adminapi.Handoff.
func (a adminHandoff) StopHandoff(ctx context.Context) (adminapi.HandoffStatus, error) {
	s, err := a.h.Stop(ctx)
	return handoffStatus(s), err
}

// HandoffStatus implements adminapi.Handoff.
func (a adminHandoff) HandoffStatus(context.Context) (adminapi.HandoffStatus, error) {
	return handoffStatus(a.h.Status()), nil
}

func handoffStatus(s mta.HandoffStatus) adminapi.HandoffStatus {
	out := adminapi.HandoffStatus{State: s.State, Started: s.Started, Ended: s.Ended, Total: s.Total, Moved: s.Moved, Delivered: s.Delivered,
		Left: s.Left, Delivering: s.Delivering, Rate: s.Rate, Error: s.Error}
	for _, t := range s.Targets {
		out.Targets = append(out.Targets, adminapi.HandoffTarget(t))
	}
	return out
}

// give is the mta.Giver: it sends messages to another node's admin API.
func give(ctx context.Context, address, token string, lines []byte) error {
	c, err := adminapi.NewClient(adminapi.ClientOptions{URL: "http://" + address, Key: token, Attempts: 1})
	if err != nil {
		return fmt.Errorf("%w: %w", mta.ErrNothingThere, err)
	}
	defer c.Close()
	_, err = c.Import(ctx, bytes.NewReader(lines))
	return givenError(err)
}

// givenError tells whether a call that failed can have stored messages.
func givenError(err error) error {
	var problem *wire.Problem
	var network *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &problem):
		switch {
		case slices.ContainsFunc(problem.Errors, func(e wire.Error) bool { return e.Code == adminapi.CodeNothingStored }):
			return fmt.Errorf("%w: %s", mta.ErrNothingThere, problem.Errors[0].Detail)
		case problem.Status == http.StatusUnauthorized, problem.Status == http.StatusTooManyRequests, problem.Status == http.StatusNotFound,
			problem.Status == http.StatusMethodNotAllowed, problem.Status == http.StatusUnsupportedMediaType:
			return fmt.Errorf("%w: %w", queue.ErrNotTaken, err)
		}
	case errors.As(err, &network) && network.Op == "dial":
		return fmt.Errorf("%w: %w", queue.ErrNotTaken, err)
	}
	return err
}
