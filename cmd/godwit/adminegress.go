package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/godwit-mta/godwit/internal/records"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/mta/egress"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/backoff"
	"github.com/godwit-mta/godwit/throttle/desk"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// adminEgress shows sources and limits to the admin API in the API's own words.
type adminEgress struct {
	gate    *egress.Gate
	records *records.Store
}

// scopeOf says a key in the API's words; this node's own address is the source without a name.
func (a adminEgress) scopeOf(k throttle.Key) adminapi.Scope {
	k = a.gate.Own(k)
	return adminapi.Scope{Source: k.Source, Pool: k.Pool, Tenant: k.Tenant, Provider: k.Provider, Site: k.Site, Domain: k.Domain}
}

// Throttles implements adminapi.Egress.
func (a adminEgress) Throttles(_ context.Context, s adminapi.Scope) ([]adminapi.Throttle, error) {
	var out []adminapi.Throttle
	for _, k := range a.gate.Keys() {
		if t := a.throttle(&k); t.Key.Within(s) {
			out = append(out, t)
		}
	}
	return out, nil
}

func (a adminEgress) throttle(k *egress.Key) adminapi.Throttle {
	t := adminapi.Throttle{Key: a.scopeOf(k.Key), MaxConnections: k.Limits.Connections, ConnectRate: k.Limits.ConnectRate.String(),
		MessageRate: k.Limits.MessageRate.String(), Daily: k.Limits.Daily, Today: k.Today, Connections: k.Connections,
		WaitConnect: k.WaitConnect, WaitSend: k.WaitSend, Next: k.Next, Hint: k.Reason, Authority: k.Authority, Mode: modeOf(k.Mode), Counted: "here"}
	if k.Owned {
		t.Counted = "everywhere"
	}
	if k.Factor < 1 {
		t.Factor, t.FactorReason = k.Factor, k.Why
	}
	if k.DayIsFull && t.Daily > 0 {
		t.Today = max(t.Today, t.Daily)
	}
	return t
}

func modeOf(m desk.Mode) string {
	switch m {
	case desk.Owner:
		return adminapi.ModeOwner
	case desk.Remote:
		return adminapi.ModeRemote
	case desk.Share:
		return adminapi.ModeShare
	}
	return adminapi.ModeDown
}

// Pools implements adminapi.Egress.
func (a adminEgress) Pools(context.Context) (adminapi.PoolsResponse, error) {
	var out adminapi.PoolsResponse
	pools := a.gate.Pools()
	for _, p := range pools.List() {
		if p.Name == "" {
			continue // the host's own address is no pool to show
		}
		x := adminapi.Pool{Name: p.Name, Fallback: p.Fallback, Default: p.Name == proxy.DefaultPool}
		for _, m := range pools.Members(p.Name) {
			x.Members = append(x.Members, adminapi.PoolMember{Source: m.Name, Weight: m.Weight, Sent: a.gate.Sent(p.Name, m.Name)})
		}
		out.Pools = append(out.Pools, x)
	}
	using := a.gate.Connections()
	proxies := map[string]*adminapi.Proxy{}
	for _, p := range a.gate.Egress().Proxies {
		x := &adminapi.Proxy{Name: p.Name, Kind: cmp.Or(p.Kind, proxy.KindGodwit), Address: p.Address, Zone: p.Zone, State: adminapi.StateUp}
		if c, linked := a.gate.Contact(p.Name); linked && x.Kind == proxy.KindGodwit {
			x.Since = c.Since
			if !c.Up {
				x.State, x.Reason = adminapi.StateDown, contactLost(c)
			}
		}
		proxies[p.Name] = x
	}
	for _, h := range pools.Health() {
		s, _ := pools.Source(h.Source)
		x := a.source(s, h, using[s.Name])
		x.Daily = a.daily(&s)
		out.Sources = append(out.Sources, x)
		if p := proxies[s.Proxy]; p != nil {
			p.Connections += x.Connections
			if p.Kind != proxy.KindGodwit { // what is known of it is the health of its sources
				p.State, p.Reason, p.Since = x.State, x.Reason, x.Since
			}
		}
	}
	for _, p := range proxies {
		out.Proxies = append(out.Proxies, *p)
	}
	return out, nil
}

// contactLost tells why a Godwit proxy is down.
func contactLost(c egress.Contact) string {
	if c.Dead {
		return "it refuses connections: its process is gone"
	}
	return "no contact with it"
}

func (a adminEgress) source(s proxy.Source, h proxy.SourceHealth, connections int) adminapi.Source {
	x := adminapi.Source{Name: s.Name, Bind: s.Bind, Bind6: s.Bind6, Public: s.Public, EHLO: s.EHLO, Proxy: s.Proxy, Zone: s.Zone,
		State: adminapi.StateUp, Since: h.Since, Reason: h.Reason, Connections: connections, Warmup: s.Warmup}
	if !h.Up {
		x.State = adminapi.StateDown
		if c, linked := a.gate.Contact(s.Proxy); linked && c.Dead {
			x.Reason = "proxy " + s.Proxy + " refuses connections: its process is gone"
		}
	}
	return x
}

// daily lists today's limits of a source in warm-up, those of the schedule and of what else it sent to.
func (a adminEgress) daily(s *proxy.Source) []adminapi.DailyLimit {
	if s.Warmup == "" {
		return nil
	}
	pools, now := a.gate.Pools(), time.Now()
	sent := a.gate.SentToday(s.Name)
	for _, k := range a.gate.Keys() { // an authority here knows what all nodes sent
		if k.Owned && k.Source == s.Name && k.Limits.Daily > 0 {
			at := cmp.Or(k.Provider, k.Site)
			sent[at] = max(sent[at], k.Today)
		}
	}
	var out []adminapi.DailyLimit
	named := map[string][]int64{}
	for _, w := range a.gate.Egress().Warmups {
		if w.Name == s.Warmup {
			named = w.Providers
		}
	}
	most := int64(0) // to one of the others
	for at, n := range sent {
		if _, own := named[at]; !own {
			most = max(most, n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if n := pools.Daily(s.Name, name, now); n > 0 {
			out = append(out, adminapi.DailyLimit{Provider: name, Limit: n, Sent: sent[name]})
		}
	}
	if n := pools.Daily(s.Name, "", now); n > 0 {
		out = append(out, adminapi.DailyLimit{Limit: n, Sent: most})
	}
	return out
}

// givenBy begins the keys of the shared records that tell who gave an order by hand.
const givenBy = "order_by/"

// Orders implements adminapi.Orders.
func (a adminEgress) Orders(context.Context) ([]adminapi.Order, error) {
	list := a.gate.Orders()
	out := make([]adminapi.Order, len(list))
	for i := range list {
		out[i] = a.order(&list[i])
	}
	return out, nil
}

func (a adminEgress) order(o *backoff.Order) adminapi.Order {
	out := adminapi.Order{ID: o.ID, Scope: a.scopeOf(o.Scope), Action: string(o.Action), Connections: o.Limits.Connections,
		MessageRate: o.Limits.MessageRate.String(), Created: o.Created, Until: o.Until, Rule: o.Rule, Reason: o.Reason, Node: o.Node}
	out.Scope.Stream = o.Stream
	if o.Action == rules.OneConnection {
		out.Connections = 0 // the action says it
	}
	if o.Rule == "" {
		if r, ok := a.records.Get(givenBy + o.ID); ok {
			_ = json.Unmarshal(r.Value, &out.By) // it only tells a name
		}
	}
	return out
}

// Set implements adminapi.Orders.
func (a adminEgress) Set(_ context.Context, r adminapi.OrderRequest, by string) (adminapi.Order, error) {
	action, err := actionOf(&r)
	if err != nil {
		return adminapi.Order{}, fmt.Errorf("%w: %w", adminapi.ErrBadOrder, err)
	}
	limits := throttle.Limits{Connections: r.Connections}
	if err := limits.MessageRate.UnmarshalText([]byte(r.MessageRate)); err != nil {
		return adminapi.Order{}, fmt.Errorf("%w: %w", adminapi.ErrBadOrder, err)
	}
	var until time.Time
	if r.Until != nil {
		until = *r.Until
	}
	key := throttle.Key{Source: r.Scope.Source, Tenant: r.Scope.Tenant, Provider: r.Scope.Provider, Site: r.Scope.Site}
	o, err := a.gate.Give(action, key, r.Scope.Stream, r.Reason, limits, until)
	if errors.Is(err, backoff.ErrBadOrder) {
		return adminapi.Order{}, fmt.Errorf("%w: %w", adminapi.ErrBadOrder, err)
	}
	if err != nil {
		return adminapi.Order{}, err
	}
	out := a.order(&o)
	out.By = by
	if b, err := json.Marshal(by); err == nil {
		var ttl time.Duration
		if !until.IsZero() {
			ttl = max(time.Until(until), time.Millisecond)
		}
		if _, err := a.records.Put(givenBy+o.ID, b, ttl); err != nil {
			return out, fmt.Errorf("the order is in force; who gave it is not stored: %w", err)
		}
	}
	return out, nil
}

// actionOf chooses the action: a stop of a tenant is one of its own.
func actionOf(r *adminapi.OrderRequest) (rules.Action, error) {
	s := &r.Scope
	switch {
	case s.Pool != "":
		return "", errors.New("orders are about sources, not pools: name each source of the pool")
	case s.Domain != "":
		return "", errors.New("orders are about providers and sites, not domains: to stop a domain's queues use godwit queue suspend")
	case s.Tenant != "" && s.Source != "":
		return "", errors.New("an order is about a source or about a tenant, not both")
	case s.Tenant != "" && r.Action != adminapi.ActionSuspend:
		return "", errors.New("a tenant can be suspended, not slowed by an order: set a limit for it in a rule file")
	case s.Stream != "":
		return rules.SuspendStream, nil
	case s.Tenant != "":
		return rules.SuspendTenant, nil
	}
	return rules.Action(r.Action), nil
}

// Lift implements adminapi.Orders.
func (a adminEgress) Lift(_ context.Context, id, _ string) error {
	if err := a.gate.Lift(id); err != nil {
		return err
	}
	_, err := a.records.Delete(givenBy + id)
	return err
}
