package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/mta/adminapi"
	"github.com/godwit-mta/godwit/mta/egress"
	"github.com/godwit-mta/godwit/mta/route"
	"github.com/godwit-mta/godwit/proxy"
	"github.com/godwit-mta/godwit/queue"
	"github.com/godwit-mta/godwit/throttle"
	"github.com/godwit-mta/godwit/throttle/rules"
)

// adminExplain gathers the facts of how mail goes.
type adminExplain struct {
	adminEgress
	q      adminQueue
	router *route.Router
}

// routePatience bounds how long name servers may take for an explanation.
const routePatience = 5 * time.Second

// asked is a question with what was found out about it.
type asked struct {
	adminapi.ExplainQuery
	origin string // of the pool
}

// Explain implements adminapi.Explainer.
func (a adminExplain) Explain(ctx context.Context, q adminapi.ExplainQuery) (adminapi.Explanation, error) {
	domain, err := domainOf(q.Address)
	if err != nil {
		return adminapi.Explanation{}, err
	}
	x := asked{ExplainQuery: q}
	if x.origin, x.Pool, err = a.pool(&q); err != nil {
		return adminapi.Explanation{}, err
	}
	return a.explain(ctx, &x, domain)
}

// domainOf takes the domain out of an address, or a domain alone.
func domainOf(address string) (string, error) {
	domain := mail.DomainOf(address)
	if !strings.Contains(address, "@") {
		domain = address
	}
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	if domain == "" || len(domain) > 255 || strings.ContainsAny(domain, " *?<>,;") {
		return "", fmt.Errorf("%w: %q is neither a recipient nor a domain", adminapi.ErrBadQuery, address)
	}
	return domain, nil
}

// pool chooses the pool for a question and tells what chose it.
func (a adminExplain) pool(q *adminapi.ExplainQuery) (origin, pool string, err error) {
	pools := a.gate.Pools()
	list := pools.List()
	if q.Pool != "" && !slices.ContainsFunc(list, func(p proxy.Pool) bool { return p.Name == q.Pool }) {
		return "", "", fmt.Errorf("%w: there is no pool %q; pools are %s", adminapi.ErrBadQuery, q.Pool, nameList(list, func(p proxy.Pool) string { return p.Name }))
	}
	if _, known := pools.Source(q.Source); q.Source != "" && !known {
		return "", "", fmt.Errorf("%w: there is no source %q; sources are %s", adminapi.ErrBadQuery, q.Source, nameList(pools.Sources(), func(s proxy.Source) string { return s.Name }))
	}
	has := func(pool string) bool {
		return q.Source == "" || slices.ContainsFunc(a.gate.Ways(pool, mail.Route{}), func(w egress.Way) bool { return w.Source.Name == q.Source })
	}
	if q.Pool != "" {
		if !has(q.Pool) {
			return "", "", fmt.Errorf("%w: source %s is not in pool %s, nor in its fallbacks", adminapi.ErrBadQuery, q.Source, q.Pool)
		}
		return "as asked for", q.Pool, nil
	}
	chosen := pools.For(&mail.Message{Tenant: q.Tenant, Stream: q.Stream})
	if !has(chosen) {
		for _, p := range list {
			if has(p.Name) {
				return "a pool of the source; mail without a choice takes " + chosen, p.Name, nil
			}
		}
		return "", "", fmt.Errorf("%w: source %s is in no pool", adminapi.ErrBadQuery, q.Source)
	}
	switch chosen {
	case "":
		return "", "", nil
	case proxy.DefaultPool:
		return "no rule of egress.choose says another", chosen, nil
	}
	return "by a rule of egress.choose", chosen, nil
}

func nameList[T any](list []T, name func(T) string) string {
	out := make([]string, 0, len(list))
	for _, x := range list {
		if n := name(x); n != "" {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return "none"
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// explain gathers everything about mail of a pool to a domain.
func (a adminExplain) explain(ctx context.Context, q *asked, domain string) (adminapi.Explanation, error) {
	x := adminapi.Explanation{Address: q.Address, Domain: domain, Tenant: q.Tenant, Stream: q.Stream, Pool: q.Pool, PoolOrigin: q.origin}
	rctx, cancel := context.WithTimeout(ctx, routePatience)
	defer cancel()
	r, err := a.router.Route(rctx, &mail.Message{Recipient: "x@" + domain, Pool: q.Pool})
	if err != nil {
		x.RouteError = routeError(err)
	} else {
		a.fillRoute(&x, &r)
	}
	for _, w := range a.gate.Ways(q.Pool, r) {
		if x.RouteError != "" {
			w.Values, w.Keys = nil, nil // they depend on where it goes
		}
		if q.Source == "" || w.Source.Name == q.Source {
			x.Paths = append(x.Paths, a.way(&w, q.Pool))
		}
	}
	if q.Tenant != "" {
		values, keys := a.gate.TenantKeys(q.Tenant, r.Provider)
		for _, v := range values {
			x.Limits = append(x.Limits, adminapi.Value{Name: v.Name, Value: v.Value, Key: a.scopeOf(v.Key), Origin: v.Origin.String()})
		}
		x.Throttles = a.throttles(keys)
	}
	if err := a.touching(ctx, &x); err != nil {
		return x, err
	}
	return x, a.queues(ctx, &x)
}

// routeError is why there is no route, in words for operators.
func routeError(err error) string {
	var oe *mail.OutcomeError
	if !errors.As(err, &oe) {
		return err.Error()
	}
	s := oe.Outcome.Reply.String()
	if oe.Outcome.Error != "" {
		s += ": " + oe.Outcome.Error
	}
	return s
}

func (a adminExplain) fillRoute(x *adminapi.Explanation, r *mail.Route) {
	x.Provider = r.Provider
	x.Site, _ = egress.SplitSite(r.Site)
	if x.Site != r.Site {
		x.QueueSite = r.Site
	}
	for _, h := range r.Hosts {
		x.Hosts = append(x.Hosts, h.Name)
	}
	x.HeldUntil, x.HeldReason = a.q.q.Hold(r.Pool, r.Site)
}

// way says a source's way in the API's words.
func (a adminExplain) way(w *egress.Way, pool string) adminapi.Path {
	p := adminapi.Path{Source: a.source(w.Source, w.Health, w.Connections), Weight: w.Weight, Throttles: a.throttles(w.Keys), PausedUntil: w.Paused}
	if w.Pool != pool {
		p.Fallback = w.Pool
	}
	if w.Failure != nil {
		p.PausedReason = w.Failure.Error()
	}
	for _, v := range w.Values {
		value := adminapi.Value{Name: v.Name, Value: v.Value, Key: a.scopeOf(v.Key), Origin: v.Origin.String()}
		switch v.State {
		case rules.Beside:
			value.State = "beside"
		case rules.Overridden:
			value.State, value.By = adminapi.ValueOverridden, v.By.String()
		case rules.Idle:
			continue
		}
		p.Values = append(p.Values, value)
	}
	return p
}

func (a adminExplain) throttles(keys []egress.Key) []adminapi.Throttle {
	var out []adminapi.Throttle
	for i := range keys {
		out = append(out, a.throttle(&keys[i]))
	}
	return out
}

// touching adds the orders and suspensions that touch x.
func (a adminExplain) touching(ctx context.Context, x *adminapi.Explanation) error {
	orders, err := a.Orders(ctx)
	if err != nil {
		return err
	}
	for _, o := range orders {
		if slices.ContainsFunc(x.Paths, func(p adminapi.Path) bool {
			return adminapi.Scope{Source: p.Source.Name, Tenant: x.Tenant, Stream: x.Stream, Provider: x.Provider, Site: x.Site, Domain: x.Domain}.Within(o.Scope)
		}) {
			x.Orders = append(x.Orders, o)
		}
	}
	suspensions, err := a.q.Suspensions(ctx)
	if err != nil {
		return err
	}
	like := func(pattern, s string, open bool) bool {
		ok, err := path.Match(pattern, s)
		return pattern == "" || open && s == "" || ok && err == nil
	}
	site := x.QueueSite
	if site == "" {
		site = x.Site
	}
	for _, s := range suspensions {
		if f := &s.Filter; like(f.Tenant, x.Tenant, true) && like(f.Stream, x.Stream, x.Tenant == "") &&
			like(f.Domain, x.Domain, false) && like(f.Site, site, false) {
			x.Suspensions = append(x.Suspensions, s)
		}
	}
	return nil
}

// queues adds the scheduled queues of the domain, of the tenant and stream that were asked for.
func (a adminExplain) queues(ctx context.Context, x *adminapi.Explanation) error {
	list, err := a.q.Queues(ctx, adminapi.Filter{Domain: x.Domain})
	if err != nil {
		return err
	}
	for _, q := range list {
		if q.Domain != x.Domain || x.Tenant != "" && q.Tenant != x.Tenant || x.Stream != "" && q.Stream != x.Stream || q.Messages == 0 {
			continue
		}
		if !q.NextDue.IsZero() && (x.NextDue.IsZero() || q.NextDue.Before(x.NextDue)) {
			x.NextDue = q.NextDue
		}
		x.Queues = append(x.Queues, q)
	}
	return nil
}

// ExplainMessage implements adminapi.Explainer.
func (a adminExplain) ExplainMessage(ctx context.Context, id mail.ID) (adminapi.MessageExplanation, error) {
	d, err := a.q.Message(ctx, id)
	if err != nil {
		return adminapi.MessageExplanation{}, err
	}
	wired := adminapi.WireDetail(&d)
	out := adminapi.MessageExplanation{Message: wired.Message, Events: wired.Events}
	if d.Waiting == nil {
		return out, nil
	}
	m := d.Waiting.Message
	pool, origin := a.gate.Pools().For(&mail.Message{Pool: m.Pool}), "chosen when it was accepted"
	switch {
	case pool == "":
		origin = ""
	case pool != m.Pool:
		origin = fmt.Sprintf("in place of %q, which is not configured any more", m.Pool)
	}
	q := asked{adminapi.ExplainQuery{Address: m.Recipient, Pool: pool, Tenant: m.Tenant, Stream: m.Stream}, origin}
	x, err := a.explain(ctx, &q, m.Domain())
	if err != nil {
		return out, err
	}
	out.Path = &x
	for i := range x.Queues {
		if q := &x.Queues[i]; q.Tenant == m.Tenant && q.Stream == m.Stream && q.Priority == m.Priority.String() {
			out.Queue = q
		}
	}
	w, waits := a.q.q.Why(queue.Waiting(*d.Waiting))
	if d.Waiting.State == "delivering" {
		if by := a.gate.Senders(w.Ready); len(by) == 1 {
			out.Source = by[0]
		}
		return out, nil
	}
	if waits {
		out.Wait = a.wait(&w, m)
	}
	return out, nil
}

// wait says what a message waits for in the API's words, with what the gate knows of it.
func (a adminExplain) wait(w *queue.Wait, m *mail.Message) *adminapi.Wait {
	out := &adminapi.Wait{For: adminapi.WaitTurn, Since: w.Since, Ahead: w.Ahead}
	switch w.For {
	case queue.WaitRoute:
		out.For = adminapi.WaitRoute
	case queue.WaitOwn:
		a.ownLimit(out, m, w)
	case queue.WaitRoom:
		out.For = adminapi.WaitConnect
		out.Hint = "all connections that this node may have (queue.max_sessions) are in use"
	case queue.WaitOpening:
		out.For, out.Hint = adminapi.WaitConnect, "it is being made"
		if by := a.gate.Senders(w.Ready); len(by) == 1 {
			out.Source = by[0]
		}
	case queue.WaitConnect, queue.WaitSend:
		a.atGate(out, w)
	}
	return out
}

// atGate finds the permit that is waited for.
func (a adminExplain) atGate(out *adminapi.Wait, w *queue.Wait) {
	out.For = adminapi.WaitConnect
	kind := throttle.Connect
	if w.For == queue.WaitSend {
		out.For, kind = adminapi.WaitSend, throttle.Send
	}
	stops := a.gate.Stops(w.Ready)
	at := slices.IndexFunc(stops, func(s egress.Stop) bool { return s.Kind == kind })
	if at < 0 { // no connection is made while the permit of its first message is far off
		at = slices.IndexFunc(stops, func(s egress.Stop) bool { return s.Kind == throttle.Send })
	}
	if at < 0 {
		return
	}
	s := &stops[at]
	if s.Kind == throttle.Send {
		out.For = adminapi.WaitSend
	}
	out.Source, out.Key, out.Next, out.Hint = s.Source, a.scopeOf(s.Key), s.Next, s.Reason
	if s.Since.After(out.Since) {
		out.Since = s.Since
	}
}

// ownLimit finds the limit of the tenant that is waited for. A stop of the tenant is among the orders.
func (a adminExplain) ownLimit(out *adminapi.Wait, m *mail.Message, w *queue.Wait) {
	out.For = adminapi.WaitTenant
	out.Key = adminapi.Scope{Tenant: m.Tenant}
	_, keys := a.gate.TenantKeys(m.Tenant, w.Provider)
	slowest := -1.0
	for i := range keys {
		k := &keys[i]
		if k.WaitSend == 0 && len(keys) > 1 {
			continue
		}
		if r := k.Limits.MessageRate.PerSecond(); slowest < 0 || r < slowest {
			slowest = r
			out.Key, out.Next, out.Hint = a.scopeOf(k.Key), k.Next, k.Reason
		}
	}
}

// loopback reports whether an address of the configuration is one.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}
