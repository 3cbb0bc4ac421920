package adminapi

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/godwit-mta/godwit/internal/mail"
	"github.com/godwit-mta/godwit/internal/units"
	"github.com/godwit-mta/godwit/internal/wire"
)

// CodeScope is the code of an order that is about nothing, or that cannot be.
const CodeScope = "scope"

// exact reads a query of exact names.
func (c *call) exact(known ...string) (map[string]string, *wire.Problem) {
	out := map[string]string{}
	for name, values := range c.r.URL.Query() {
		if len(values) != 1 || !slices.Contains(known, name) {
			return nil, badQuery(name, "is not a parameter here, or given twice; known: "+strings.Join(known, ", "))
		}
		if strings.ContainsFunc(values[0], control) {
			return nil, badQuery(name, "has control characters")
		}
		out[name] = values[0]
	}
	return out, nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

func (s *Server) getExplain(c *call) *wire.Problem {
	q, p := c.exact("address", "source", "pool", "tenant", "stream")
	if p != nil {
		return p
	}
	if q["address"] == "" {
		return badQuery("address", "is missing: a recipient or a domain")
	}
	x, err := s.deps.Explainer.Explain(c.r.Context(), ExplainQuery{Address: q["address"], Source: q["source"], Pool: q["pool"], Tenant: q["tenant"], Stream: q["stream"]})
	if errors.Is(err, ErrBadQuery) {
		return badQuery("", err.Error())
	}
	if err != nil {
		return s.failed(c, err)
	}
	x.derive(time.Now())
	x.fill()
	wire.Write(c.w, http.StatusOK, x)
	return nil
}

func (s *Server) getExplainMessage(c *call) *wire.Problem {
	if _, p := c.exact(); p != nil {
		return p
	}
	id, err := mail.ParseID(c.r.PathValue("id"))
	if err != nil {
		return noMessage()
	}
	m, err := s.deps.Explainer.ExplainMessage(c.r.Context(), id)
	switch {
	case errors.Is(err, mail.ErrNotFound):
		return noMessage()
	case err != nil:
		return s.failed(c, err)
	}
	m.derive(time.Now())
	if m.Path != nil {
		m.Path.fill()
	}
	m.Events = present(m.Events)
	if m.Queue != nil {
		m.Queue.State = m.Queue.state(time.Now())
	}
	wire.Write(c.w, http.StatusOK, m)
	return nil
}

// present makes an empty list of none: JSON has no null here.
func present[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// fill makes every list present and names the state of every queue.
func (x *Explanation) fill() {
	x.Paths, x.Orders, x.Suspensions, x.Queues = present(x.Paths), present(x.Orders), present(x.Suspensions), present(x.Queues)
	for i := range x.Paths {
		p := &x.Paths[i]
		p.Values, p.Throttles = present(p.Values), present(p.Throttles)
	}
	for i := range x.Queues {
		x.Queues[i].State = x.Queues[i].state(time.Now())
	}
}

func (s *Server) getPools(c *call) *wire.Problem {
	out, err := s.deps.Egress.Pools(c.r.Context())
	if err != nil {
		return s.failed(c, err)
	}
	out.Pools, out.Sources, out.Proxies = present(out.Pools), present(out.Sources), present(out.Proxies)
	for i := range out.Pools {
		out.Pools[i].Members = present(out.Pools[i].Members)
	}
	slices.SortFunc(out.Pools, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Sources, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Proxies, func(a, b Proxy) int { return strings.Compare(a.Name, b.Name) })
	wire.Write(c.w, http.StatusOK, out)
	return nil
}

func (s *Server) getThrottles(c *call) *wire.Problem {
	q, p := c.exact("source", "pool", "tenant", "provider", "site", "domain", "limit")
	if p != nil {
		return p
	}
	limit := params{limit: 100}
	if text, given := q["limit"]; given {
		if err := limit.set("limit", text); err != nil {
			return badQuery("limit", err.Error())
		}
	}
	scope := Scope{Source: q["source"], Pool: q["pool"], Tenant: q["tenant"], Provider: q["provider"], Site: q["site"], Domain: q["domain"]}
	all, err := s.deps.Egress.Throttles(c.r.Context(), scope)
	if err != nil {
		return s.failed(c, err)
	}
	slices.SortFunc(all, func(a, b Throttle) int {
		return cmp.Or(cmp.Compare(b.WaitConnect+b.WaitSend, a.WaitConnect+a.WaitSend), cmp.Compare(b.Connections, a.Connections),
			strings.Compare(a.Key.String(), b.Key.String()))
	})
	wire.Write(c.w, http.StatusOK, ThrottlesResponse{Throttles: present(all[:min(len(all), limit.limit)]), Total: len(all)})
	return nil
}

func (s *Server) getOrders(c *call) *wire.Problem {
	orders, err := s.deps.Orders.Orders(c.r.Context())
	if err != nil {
		return s.failed(c, err)
	}
	slices.SortFunc(orders, func(a, b Order) int { return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID)) })
	wire.Write(c.w, http.StatusOK, OrdersResponse{Orders: present(orders)})
	return nil
}

func (s *Server) postOrder(c *call) *wire.Problem {
	in, p := read(c, s.orders)
	if p != nil {
		return p
	}
	if p := in.check(time.Now()); p != nil {
		return p
	}
	made, err := s.deps.Orders.Set(c.r.Context(), *in, c.who)
	if errors.Is(err, ErrBadOrder) {
		return invalid("/scope", CodeScope, err.Error())
	}
	if err != nil {
		return s.failed(c, err)
	}
	wire.Write(c.w, http.StatusCreated, made)
	return nil
}

// check refuses an order that is about everything, or that does nothing.
func (r *OrderRequest) check(now time.Time) *wire.Problem {
	if r.Scope == (Scope{}) {
		return invalid("/scope", CodeScope, "is empty: name a source, pool, tenant, stream, provider, site or domain")
	}
	for _, f := range r.Scope.fields() {
		if strings.ContainsAny(f[1], "*?[ ") || strings.ContainsFunc(f[1], control) {
			return invalid("/scope/"+f[0], CodeScope, "must be an exact name, not a pattern")
		}
	}
	if r.Scope.Stream != "" && r.Scope.Tenant == "" {
		return invalid("/scope/tenant", CodeScope, "is missing: a stream belongs to a tenant")
	}
	var rate units.Rate
	switch err := rate.UnmarshalText([]byte(r.MessageRate)); {
	case r.Action != ActionSuspend && r.Action != ActionSlow && r.Action != ActionOneConnection:
		return invalid("/action", wire.CodeInvalidValue, "must be suspend, slow or one_connection")
	case err != nil:
		return invalid("/message_rate", wire.CodeInvalidValue, err.Error())
	case r.Connections < 0:
		return invalid("/connections", wire.CodeInvalidValue, "must not be negative")
	case r.Action == ActionSlow && rate.IsZero() && r.Connections == 0:
		return invalid("/message_rate", wire.CodeInvalidValue, "slow needs a message rate or a number of connections")
	case r.Action != ActionSlow && (!rate.IsZero() || r.Connections != 0):
		return invalid("/action", wire.CodeInvalidValue, "a message rate and connections go with slow only")
	case r.Until != nil && !r.Until.After(now):
		return invalid("/until", wire.CodeInvalidValue, "is over")
	}
	return checkReason(r.Reason)
}

func (s *Server) deleteOrder(c *call) *wire.Problem {
	err := s.deps.Orders.Lift(c.r.Context(), c.r.PathValue("id"), c.who)
	if errors.Is(err, mail.ErrNotFound) {
		return wire.NewProblem(http.StatusNotFound, wire.CodeNotFound, "no such order; it may have ended by itself").At("", "id")
	}
	return s.counted(c, 1, err)
}

func (s *Server) getCluster(c *call) *wire.Problem {
	out, err := s.deps.Cluster.Members(c.r.Context())
	if err != nil {
		return s.failed(c, err)
	}
	out.Members = present(out.Members)
	slices.SortFunc(out.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	wire.Write(c.w, http.StatusOK, out)
	return nil
}

func (s *Server) getHandoff(c *call) *wire.Problem {
	return s.handoff(c)(s.deps.Handoff.HandoffStatus(c.r.Context()))
}

func (s *Server) postHandoff(c *call) *wire.Problem {
	in, p := read(c, s.handoffs)
	if p != nil {
		return p
	}
	return s.handoff(c)(s.deps.Handoff.StartHandoff(c.r.Context(), *in))
}

func (s *Server) deleteHandoff(c *call) *wire.Problem {
	return s.handoff(c)(s.deps.Handoff.StopHandoff(c.r.Context()))
}

func (s *Server) handoff(c *call) func(HandoffStatus, error) *wire.Problem {
	return func(out HandoffStatus, err error) *wire.Problem {
		switch {
		case errors.Is(err, ErrHandoff):
			return wire.NewProblem(http.StatusConflict, wire.CodeConflict, err.Error())
		case err != nil:
			return s.failed(c, err)
		}
		out.Targets = present(out.Targets)
		wire.Write(c.w, http.StatusOK, out)
		return nil
	}
}
